package cli

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/sptune/spt"
	"github.com/sptune/spt/backbone"
	"github.com/sptune/spt/checkpoint"
	"github.com/sptune/spt/dataset"
	"github.com/sptune/spt/delta"
	"github.com/sptune/spt/internal/embedded"
	"github.com/sptune/spt/run"
)

// tuned holds a backbone that can classify: with a delta, or with the head of its checkpoint.
type tuned struct {
	model     *backbone.Model
	delta     *delta.Delta // nil: the head is that of the checkpoint
	run       *run.Config
	report    *checkpoint.Report
	trained   *spt.Trained
	classes   []string // nil: the checkpoint has no names of classes
	transform dataset.Transform
}

// openTuned loads a delta and its backbone, or a checkpoint with a head.
func (a *app) openTuned(ctx context.Context, cmd *cobra.Command, dir string, c run.ModelConfig, images run.ImageOptions) (*tuned, error) {
	var t *tuned
	var err error
	if dir == "" {
		t, err = a.openWhole(ctx, cmd, c, images)
	} else {
		t, err = a.openDelta(ctx, dir, c)
	}
	if err != nil {
		return nil, err
	}
	t.trained, err = spt.Restore(t.model, t.delta)
	return t, err
}

// openWhole loads a checkpoint with a head. Flags override its options of images.
func (a *app) openWhole(ctx context.Context, cmd *cobra.Command, c run.ModelConfig, images run.ImageOptions) (*tuned, error) {
	if c.Path == "" {
		return nil, &run.OptionError{Err: errors.New("no classifier given; give --delta DIR with the folder of a run, or --model FILE with a checkpoint that has a head")}
	}
	m, report, err := a.openModel(ctx, c, 0)
	if err != nil {
		return nil, err
	}
	t := &tuned{model: m, report: report}
	if c.Path != embedded.Name {
		f, err := checkpoint.Open(m.Path)
		if err != nil {
			return nil, &run.InputError{Err: err}
		}
		defer f.Close()
		if t.classes, err = delta.Classes(f); err != nil {
			return nil, &run.InputError{Err: err}
		}
		transform, err := delta.TransformOf(f)
		if err != nil {
			return nil, &run.InputError{Err: err}
		}
		if fs := cmd.Flags(); transform.Resize != "" && !fs.Changed("resize") && !fs.Changed("resize-to") {
			t.transform = dataset.Transform{Size: m.Config.ImageSize, Resize: transform.Resize, ResizeTo: transform.ResizeTo}
			if err := t.transform.Validate(); err != nil {
				return nil, &run.InputError{Err: fmt.Errorf("the metadata of %s: %w", m.Path, err)}
			}
			return t, nil
		}
	}
	t.transform = dataset.Transform{Size: m.Config.ImageSize, Resize: images.Resize, ResizeTo: images.ResizeTo}
	return t, nil
}

// openDelta loads a delta and its backbone.
func (a *app) openDelta(ctx context.Context, dir string, c run.ModelConfig) (*tuned, error) {
	d, err := delta.Load(dir)
	if err != nil {
		return nil, &run.InputError{Err: err}
	}
	t := &tuned{delta: d, classes: d.Classes, transform: d.ImageTransform()}
	if t.run, err = runOf(dir); err != nil {
		return nil, err
	}
	if c.Path == "" && t.run != nil {
		c.Path, c.Commit = t.run.Model.Path, t.run.Model.Commit
	}
	if c.Path == "" {
		return nil, refuse("no backbone given for the delta in %s, which was tuned on %s; give --model FILE", dir, d.Backbone)
	}
	p := a.reporter()
	defer p.close()
	t.model, err = c.OpenTuned(ctx, d, p.event)
	return t, err
}

// runOf returns the configuration of the run of a delta, or nil if the delta does not lie in the
// folder of its run.
func runOf(dir string) (*run.Config, error) {
	if stat, err := os.Stat(dir); err == nil && !stat.IsDir() {
		dir = filepath.Dir(dir)
	}
	if _, err := os.Stat(filepath.Join(dir, run.ConfigFile)); errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	_, c, err := run.Open(dir)
	if err != nil {
		return nil, err
	}
	return &c, nil
}
