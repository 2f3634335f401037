package cli

import (
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/schollz/progressbar/v3"

	"github.com/sptune/spt"
	"github.com/sptune/spt/plan"
)

// progress shows events: as bars on a terminal, elsewhere as one plain line
// for each stage and epoch, so that logs stay readable.
type progress struct {
	w     io.Writer // nil: nothing is shown
	bars  bool
	label string // what is being worked on where one call does several things

	bar   *progressbar.ProgressBar
	stage string // of the bar
	note  string // the last epoch's figures, in short
}

func (a *app) progress() *progress {
	if a.quiet {
		return &progress{}
	}
	return &progress{w: a.stderr, bars: a.terminal}
}

// event shows a sign of progress.
func (p *progress) event(e spt.Event) {
	switch {
	case p.w == nil:
	case p.bars:
		p.draw(e)
	default:
		if line := describe(e); line != "" {
			fmt.Fprintf(p.w, "%s%s\n", p.prefix(), line)
		}
	}
}

// close ends the bar, so that what follows starts on its own line.
func (p *progress) close() {
	if p.bar != nil {
		_ = p.bar.Exit() // the terminal is gone if it fails
		fmt.Fprintln(p.w)
		p.bar = nil
	}
}

func (p *progress) prefix() string {
	if p.label == "" {
		return ""
	}
	return p.label + ": "
}

// evaluating and a split's name is the stage of spt eval.
const evaluating = "evaluating "

// fetching and a file's name is the stage of a download, counted in bytes.
const fetching = "fetching "

// describe is the line for an event; empty for those between the lines.
func describe(e spt.Event) string {
	switch {
	case e.Plan != nil:
		c, modules := e.Plan.Cost, ""
		if e.Plan.Only != plan.Unstructured {
			modules = fmt.Sprintf("%d in modules of rank %d on %d matrices, ", c.Structured, e.Plan.Rank, len(e.Plan.Matrices))
		}
		return fmt.Sprintf("plan%s: %d parameters of %d: %s%d in %d vectors, %d entries, class token %d", candidate(e), c.Total, e.Plan.Budget,
			modules, c.Vectors, len(e.Plan.Vectors), c.Unstructured, c.ClassToken)
	case e.Finished != nil:
		return fmt.Sprintf("train%s: epoch %d/%d: %s", candidate(e), e.Finished.Epoch, e.Epochs, figures(e))
	case e.Stage == "train" || e.Done != e.Total:
		return ""
	case e.Stage == "images":
		return fmt.Sprintf("checked %s", plural(e.Total, "image"))
	case e.Stage == "score":
		return fmt.Sprintf("scored the backbone on %s, loss %.4f", plural(e.Total, "image"), e.Loss)
	case e.Stage == "test":
		return fmt.Sprintf("tested on %s", plural(e.Total, "image"))
	}
	if split, ok := strings.CutPrefix(e.Stage, evaluating); ok {
		return fmt.Sprintf("evaluated %s", plural(e.Total, split+" image"))
	}
	if file, ok := strings.CutPrefix(e.Stage, fetching); ok {
		return fmt.Sprintf("fetched %s, %s", printable(file), size(int64(e.Total)))
	}
	return fmt.Sprintf("%s: %d", e.Stage, e.Total)
}

func candidate(e spt.Event) string {
	if e.Candidate == "" {
		return ""
	}
	return " " + e.Candidate
}

// figures are an epoch's.
func figures(e spt.Event) string {
	f := e.Finished
	text := fmt.Sprintf("loss %.4f, train accuracy %s", f.TrainLoss, percent(f.TrainAccuracy))
	if f.ValLoss != 0 || f.ValAccuracy != 0 {
		text += fmt.Sprintf(", val loss %.4f, val accuracy %s", f.ValLoss, percent(f.ValAccuracy))
	}
	if f.TestAccuracy != 0 {
		text += fmt.Sprintf(", test accuracy %s", percent(f.TestAccuracy))
	}
	return text + fmt.Sprintf(", %.1f images/s", f.ImagesPerSecond)
}

// draw moves the bar of the event's stage.
func (p *progress) draw(e spt.Event) {
	if e.Plan != nil {
		p.close()
		fmt.Fprintf(p.w, "%s%s\n", p.prefix(), describe(e))
		return
	}
	if stage := p.prefix() + e.Stage + candidate(e); p.bar == nil || stage != p.stage {
		p.close()
		p.stage, p.note = stage, ""
		if file, ok := strings.CutPrefix(e.Stage, fetching); ok {
			p.bar = newBar(p.w, fetching+tail(file, 24), progressbar.OptionShowBytes(true), progressbar.OptionShowCount())
		} else {
			p.bar = newBar(p.w, stage)
		}
	}
	if e.Stage != "train" {
		p.bar.ChangeMax(e.Total)
		_ = p.bar.Set(e.Done) // a terminal that is gone is no reason to stop
		return
	}
	if f := e.Finished; f != nil {
		p.note = fmt.Sprintf(" loss %.3f", f.TrainLoss)
		if f.ValLoss != 0 || f.ValAccuracy != 0 {
			p.note += " val " + percent(f.ValAccuracy)
		}
		p.bar.Describe(fmt.Sprintf("%s %d/%d%s", p.stage, f.Epoch, e.Epochs, p.note))
		return
	}
	p.bar.ChangeMax(e.Total * e.Epochs)
	p.bar.Describe(fmt.Sprintf("%s %d/%d%s", p.stage, e.Epoch+1, e.Epochs, p.note))
	_ = p.bar.Set(e.Epoch*e.Total + e.Done)
}

// tail is the end of a text that is too long.
func tail(s string, most int) string {
	if r := []rune(s); len(r) > most {
		return "…" + string(r[len(r)-most+1:])
	}
	return s
}

// newBar makes a bar that fits 80 columns with a description of 45: where it
// wraps, a terminal cannot draw over it.
func newBar(w io.Writer, description string, more ...progressbar.Option) *progressbar.ProgressBar {
	return progressbar.NewOptions(1, append(more, progressbar.OptionSetWriter(w), progressbar.OptionSetDescription(description), progressbar.OptionSetWidth(10),
		progressbar.OptionThrottle(100*time.Millisecond), progressbar.OptionSetPredictTime(true))...)
}
