package cli

import (
	"cmp"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/schollz/progressbar/v3"

	"github.com/sptune/spt/internal/wording"
	"github.com/sptune/spt/objective"
	"github.com/sptune/spt/plan"
	"github.com/sptune/spt/progress"
	"github.com/sptune/spt/run"
	"github.com/sptune/spt/train"
)

// reporter shows events: as bars on a terminal, elsewhere as one line for each stage and epoch, so
// that logs are readable.
type reporter struct {
	w     io.Writer // nil if nothing is shown
	bars  bool      // show bars, not lines
	label string    // the current method of a command that trains several
	score string    // the name of the metric of validation and test images
	times *stageTimes

	bar   *progressbar.ProgressBar
	stage string // the stage of the bar, as the bar shows it
	note  string // the results of the last epoch, as the bar shows them
}

func (a *app) reporter() *reporter {
	if a.quiet {
		return &reporter{times: &a.times}
	}
	return &reporter{times: &a.times, w: a.stderr, bars: a.terminal, score: cmp.Or(a.score, objective.ScoreName(""))}
}

// event shows one event.
func (p *reporter) event(e progress.Event) {
	p.times.add(e.Stage)
	switch {
	case p.w == nil:
	case p.bars:
		p.draw(e)
	case e.Stage == progress.Epoch && !p.tenth(e):
	default:
		if line := describe(e, p.score); line != "" {
			fmt.Fprintf(p.w, "%s%s\n", p.prefix(), visible(line))
		}
	}
}

// epochLines is the number of epochs of a training with a line for each of them.
const epochLines = 10

// tenth reports whether an epoch gets a line: each epoch of a short training, the last epoch, and
// the first epoch of each tenth of a long training.
func (p *reporter) tenth(e progress.Event) bool {
	done := e.Epoch + 1
	return e.Epochs <= epochLines || done >= e.Epochs || done*epochLines/e.Epochs > e.Epoch*epochLines/e.Epochs
}

// close ends the bar. The next output starts on a new line.
func (p *reporter) close() {
	if p.bar != nil {
		_ = p.bar.Exit() // an error means that the terminal is gone
		fmt.Fprintln(p.w)
		p.bar = nil
	}
}

func (p *reporter) prefix() string {
	if p.label == "" {
		return ""
	}
	return p.label + ": "
}

// describe returns the line for an event, or "" for an event without a line.
func describe(e progress.Event, score string) string {
	switch {
	case e.Stage == progress.Note:
		return "spt: note: " + e.Item
	case e.Stage == progress.Plan:
		p := e.Detail.(*plan.Plan)
		c, modules := p.Cost, ""
		if p.Only != plan.Unstructured {
			modules = fmt.Sprintf("%d in modules of %s on %s, ", c.Structured, wording.Rank(p.Rank, p.Ranks), wording.Matrices(len(p.Matrices)))
		}
		return fmt.Sprintf("%s tunes %d of %d parameters: %s%d in %s, %d single entries, class token %d", ofCandidate("plan", e), c.Total, p.Budget,
			modules, c.Vectors, wording.Plural(len(p.Vectors), "whole vector"), c.Unstructured, c.ClassToken)
	case e.Stage == progress.Epoch:
		f := e.Detail.(train.Epoch)
		return fmt.Sprintf("%s, epoch %d of %d: %s", ofCandidate("training", e), f.Epoch, e.Epochs, figures(f, score))
	case e.Stage == progress.Probe:
		c := e.Detail.(*run.Candidate)
		return fmt.Sprintf("fitted a linear probe in %s: validation %s %s", wording.Seconds(c.Seconds), score, wording.Percent(c.ValAccuracy))
	case e.Stage == progress.Train || e.Done != e.Total:
		return ""
	case e.Stage == progress.Features:
		return strings.TrimSpace(fmt.Sprintf("computed the features of %s %s", count(e.Total, "image"), e.Item))
	case e.Stage == progress.Hashes:
		return fmt.Sprintf("hashed %s", count(e.Total, "image"))
	case e.Stage == progress.Compare:
		return fmt.Sprintf("compared %s", count(e.Total, "similar image"))
	case e.Stage == progress.Images:
		return fmt.Sprintf("checked %s", count(e.Total, "image"))
	case e.Stage == progress.Score:
		return fmt.Sprintf("scored the backbone on %s: mean loss %.4f", count(e.Total, "image"), e.Loss)
	case e.Stage == progress.Tokens:
		return fmt.Sprintf("computed the tokens of %s", count(e.Total, "image"))
	case e.Stage == progress.Test:
		return fmt.Sprintf("tested on %s", count(e.Total, "image"))
	case e.Stage == progress.Evaluate:
		return fmt.Sprintf("evaluated %s", count(e.Total, strings.TrimPrefix(e.Item+" image", "all ")))
	case e.Stage == progress.Explain:
		return fmt.Sprintf("explained %s", count(e.Total, "wrong prediction"))
	case e.Stage == progress.Predict:
		return fmt.Sprintf("predicted %s", count(e.Total, "image"))
	case e.Stage == progress.Download:
		return fmt.Sprintf("fetched %s, %s", printable(e.Item), wording.Bytes(e.Total))
	case e.Stage == progress.Upload:
		return fmt.Sprintf("uploaded %s, %s", printable(e.Item), wording.Bytes(e.Total))
	}
	return fmt.Sprintf("%s: %d", e.Stage, e.Total)
}

// count returns a number with its noun, as plural does.
func count(n int64, thing string) string { return wording.Plural(int(n), thing) }

// stageName returns the name of the stage of an event, as a bar shows it.
func stageName(e progress.Event) string {
	switch e.Stage {
	case opening:
		return "opening"
	case progress.Evaluate:
		return strings.TrimSpace("evaluating " + e.Item)
	case progress.Download:
		return "fetching " + tail(e.Item, 24)
	case progress.Upload:
		return "uploading " + tail(e.Item, 24)
	case progress.Hashes:
		return "hashing images"
	case progress.Compare:
		return "comparing images"
	case progress.Images:
		return "checking images"
	case progress.Features:
		return "computing features"
	case progress.Probe:
		return "fitting a probe"
	case progress.Score:
		return "scoring"
	case progress.Plan:
		return "planning"
	case progress.Tokens:
		return "computing tokens"
	case progress.Test:
		return "testing"
	case progress.Explain:
		return "explaining"
	case progress.Predict:
		return "predicting"
	case progress.Train, progress.Epoch:
		if e.Candidate != "" {
			return candidate(e)
		}
		return "training"
	}
	return string(e.Stage)
}

// ofCandidate returns work and, if the event belongs to a candidate, the candidate: "training for
// budget 0.4M".
func ofCandidate(work string, e progress.Event) string {
	if e.Candidate == "" {
		return work
	}
	return work + " for " + candidate(e)
}

// candidate returns the candidate of an event in words: a budget, or the name of a method.
func candidate(e progress.Event) string {
	if _, err := plan.ParseBudget(e.Candidate); err == nil {
		return "budget " + e.Candidate
	}
	return e.Candidate
}

// figures returns the results of an epoch. score is the name of the metric of validation and test
// images.
func figures(f train.Epoch, score string) string {
	text := fmt.Sprintf("loss %.4f, accuracy %s", f.TrainLoss, wording.Percent(f.TrainAccuracy))
	if f.ValLoss != 0 || f.ValAccuracy != 0 {
		text += fmt.Sprintf(", validation loss %.4f, validation %s %s", f.ValLoss, score, wording.Percent(f.ValAccuracy))
	}
	if f.TestAccuracy != 0 {
		text += fmt.Sprintf(", test %s %s", score, wording.Percent(f.TestAccuracy))
	}
	if f.ImagesPerSecond != 0 {
		text += fmt.Sprintf(", %.1f images/s", f.ImagesPerSecond)
	}
	return text
}

// draw shows an event on a terminal. It moves the bar of the stage, or prints a line for a plan or
// a note.
func (p *reporter) draw(e progress.Event) {
	if e.Stage == progress.Plan || e.Stage == progress.Probe || e.Stage == progress.Note {
		p.close()
		fmt.Fprintf(p.w, "%s%s\n", p.prefix(), visible(describe(e, p.score)))
		return
	}
	if stage := p.prefix() + visible(stageName(e)); p.bar == nil || stage != p.stage {
		p.close()
		p.stage, p.note = stage, ""
		if e.Stage == progress.Download || e.Stage == progress.Upload {
			p.bar = newBar(p.w, stage, progressbar.OptionShowBytes(true), progressbar.OptionShowCount())
		} else {
			p.bar = newBar(p.w, stage)
		}
	}
	if e.Stage != progress.Train && e.Stage != progress.Epoch {
		p.bar.ChangeMax64(e.Total)
		_ = p.bar.Set64(e.Done) // a missing terminal does not stop the work
		return
	}
	if f, ok := e.Detail.(train.Epoch); ok {
		p.note = fmt.Sprintf(", loss %.3f", f.TrainLoss)
		if f.ValLoss != 0 || f.ValAccuracy != 0 {
			p.note = ", val " + p.score + " " + wording.Percent(f.ValAccuracy)
		}
		p.bar.Describe(fmt.Sprintf("%s: epoch %d/%d%s", p.stage, f.Epoch, e.Epochs, p.note))
		return
	}
	p.bar.ChangeMax64(e.Total * int64(e.Epochs))
	left := ""
	if e.Left > 0 {
		left = ", " + wording.Time(e.Left.Seconds()) + " left"
	}
	p.bar.Describe(fmt.Sprintf("%s: epoch %d/%d%s%s", p.stage, e.Epoch+1, e.Epochs, p.note, left))
	_ = p.bar.Set64(int64(e.Epoch)*e.Total + e.Done)
}

// tail returns at most the given number of characters from the end of a text. A longer text begins
// with "…".
func tail(s string, most int) string {
	if r := []rune(s); len(r) > most {
		return "…" + string(r[len(r)-most+1:])
	}
	return s
}

// newBar returns a bar that fits into 80 columns with a description of 45: a terminal cannot draw
// over a line that wraps.
func newBar(w io.Writer, description string, more ...progressbar.Option) *progressbar.ProgressBar {
	return progressbar.NewOptions(1, append(more, progressbar.OptionSetWriter(w), progressbar.OptionSetDescription(description), progressbar.OptionSetWidth(10),
		progressbar.OptionThrottle(100*time.Millisecond), progressbar.OptionSetPredictTime(true))...)
}
