package cli

import (
	"context"
	"fmt"
	"time"

	"github.com/sptune/spt"
	"github.com/sptune/spt/internal/wording"
	"github.com/sptune/spt/memory"
	"github.com/sptune/spt/run"
)

// prepare chooses the options that the recipe auto leaves open.
func (a *app) prepare(ctx context.Context, task *spt.Task, c *run.Config) (*spt.Task, *spt.Choices, error) {
	p := a.reporter()
	defer p.close()
	return task.Prepare(ctx, c, p.event)
}

// addChoices adds what the recipe auto found and chose.
func (f *facts) addChoices(c *spt.Choices, o run.TuneOptions) {
	if len(c.Sizes) > 0 {
		text := fmt.Sprintf("%d px; the images have %d px on their shorter side. A linear probe reaches", c.ImageSize, c.Side)
		for i, s := range c.Sizes {
			if i > 0 {
				text += ","
			}
			text += fmt.Sprintf(" %s at %d px", wording.Percent(s.Accuracy), s.Pixels)
		}
		f.add("image size", "%s", text)
	}
	if len(c.Augment) > 0 {
		text := c.Augment[0].Preset + ";"
		for i, try := range c.Augment {
			if i > 0 {
				text += ","
			}
			text += fmt.Sprintf(" validation loss %.4f with %s", try.ValLoss, try.Preset)
		}
		f.add("augmentation", "%s after %d steps", text, c.Augment[0].Steps)
	}
	if c.MaxImages > 0 {
		f.add("note", "the time allows only %d images of each split; all others are not read", c.MaxImages)
	}
	if c.Tuning != "" {
		f.add("note", "the time is too short for %s, so the result will be a linear probe", c.Tuning)
	}
	e := c.Expected
	text := about(e.Total()) + " in all"
	if e.Train > 0 {
		text += fmt.Sprintf(": %s of training", about(time.Duration(e.Train*float64(time.Second))))
	}
	if o.TimeLimit > 0 {
		text += fmt.Sprintf(", within the limit of %s", wording.Time(o.TimeLimit))
	}
	f.add("expected time", "%s", text)
}

// about returns a duration in words, without false precision.
func about(d time.Duration) string { return "about " + wording.Time(d.Seconds()) }

// expectedMemory is the expected memory of a run, and the memory that it may have, in bytes.
type expectedMemory struct {
	memory.Footprint
	Available int64 `json:"available,omitempty"`
}

// addMemory adds a line with the expected memory, unless it is not known.
func (f *facts) addMemory(m expectedMemory) {
	if m.Footprint == (memory.Footprint{}) {
		return
	}
	text := "about " + wording.Bytes(m.Total())
	if m.Available > 0 {
		text += fmt.Sprintf(" of %s that are available", wording.Bytes(m.Available))
	}
	f.add("memory", "%s", text)
}

// writeDryRun writes what a run would do, as JSON. The lines that a run prints before it starts say
// it to people.
func (a *app) writeDryRun(c run.Config, choices *spt.Choices, m expectedMemory) error {
	if !a.json {
		return nil
	}
	return a.writeJSON(struct {
		Config  run.Config     `json:"config"`
		Choices *spt.Choices   `json:"choices,omitempty"` // with the recipe auto
		Memory  expectedMemory `json:"memory"`
	}{c, choices, m})
}
