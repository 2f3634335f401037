package spt

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"

	"github.com/sptune/spt/checkpoint"
	"github.com/sptune/spt/dataset"
	"github.com/sptune/spt/delta"
	"github.com/sptune/spt/internal/option"
	"github.com/sptune/spt/peft"
	"github.com/sptune/spt/run"
)

// A run with TuneOptions.FromDelta continues from a delta: it tunes the parameters that the delta
// tuned, from their tuned values. The run folder keeps a copy of the delta, so that the run can be
// resumed after the delta has changed or moved.

// continued is the start of a run that continues from a delta.
type continued struct {
	selection peft.Selection
	initial   checkpoint.StateDict
}

// checkFromDelta returns an error if an option contradicts the delta that o.FromDelta names.
func checkFromDelta(o run.TuneOptions) error {
	if o.FromDelta == "" {
		return nil
	}
	for _, set := range []struct {
		option string
		given  bool
	}{{"budget", len(o.Budgets) > 0}, {"rank", o.Rank != 0}, {"prompts", o.Prompts != 0}, {"bottleneck", o.Bottleneck != 0}, {"scale", o.Scale != 0}, {"target-modules", len(o.TargetModules) > 0}, {"from-block", o.FromBlock != 0},
		{"scores-file", o.ScoresFile != ""}, {"keep-scores", o.KeepScores}, {"probe-head", o.Probe}} {
		if set.given {
			return option.Errorf(set.option, "a run from a delta tunes what the delta tuned, from its values, so this option has no effect; leave it out")
		}
	}
	return nil
}

// loadStart reads the delta at dir, from which a run with the options o starts, and checks that it
// fits the run.
func (t *Task) loadStart(dir string, o run.TuneOptions) (*delta.Delta, error) {
	d, err := delta.Load(dir)
	if err == nil {
		own := *d
		own.Config.NumClasses = t.model.Config.NumClasses // the head gets other rows
		err = own.Check(t.model)
	}
	switch {
	case err != nil:
	case d.Objective != t.objective.Name():
		err = fmt.Errorf("its objective is %s, that of the run is %s; give the same objective", d.Objective, t.objective.Name())
	case d.Method != string(o.Method):
		err = fmt.Errorf("it was tuned with the method %s, but the method of the run is %s; give the same method", d.Method, o.Method)
	case d.Selection.MLPHead > 0 && !slices.Equal(d.Classes, t.data.Classes):
		err = errors.New("it has an MLP head, which cannot get other classes; give data with the classes of the delta")
	}
	if err != nil {
		return nil, &run.OptionError{Option: "from-delta", Err: fmt.Errorf("starting from the delta %s: %w", dir, err)}
	}
	return d, nil
}

// Start compares the delta from which a run starts with the data of the run.
type Start struct {
	// Known holds the classes of the data that the delta has, whose rows of the head the run keeps.
	// New holds the other classes of the data, and Gone those of the delta that the data lack.
	Known []string `json:"known_classes"`
	New   []string `json:"new_classes"`
	Gone  []string `json:"gone_classes"`
	// SeenVal and SeenTest count the validation and test images of the run whose names are those of
	// images that the delta was trained on. They are nil if this is unknown: if the folder of the
	// delta holds no run, if the data of this run cannot be opened or are on the Hub, and if images
	// are rows of parquet files, which have no names.
	SeenVal  *int `json:"seen_val,omitempty"`
	SeenTest *int `json:"seen_test,omitempty"`
}

// Start returns how the delta that o.FromDelta names compares with the data of the task. A delta
// from which the run cannot start is a [*run.OptionError].
func (t *Task) Start(ctx context.Context, o run.TuneOptions) (*Start, error) {
	d, err := t.loadStart(o.FromDelta, o)
	if err != nil {
		return nil, err
	}
	s := &Start{}
	for _, class := range t.data.Classes {
		if slices.Contains(d.Classes, class) {
			s.Known = append(s.Known, class)
		} else {
			s.New = append(s.New, class)
		}
	}
	for _, class := range d.Classes {
		if !slices.Contains(t.data.Classes, class) {
			s.Gone = append(s.Gone, class)
		}
	}
	folder, c, err := run.Open(o.FromDelta)
	if err != nil || !run.IsDataPath(c.Data.Path) || c.Data.Layout == dataset.LayoutParquet || t.data.Layout == dataset.LayoutParquet {
		return s, ctx.Err()
	}
	before, err := c.Data.Open(ctx, nil)
	if err != nil {
		return s, ctx.Err()
	}
	trained := before.Train
	if r, err := run.LoadResult[run.Result](folder); err == nil && r != nil && r.TrainedOn != "train" {
		trained = slices.Concat(before.Train, before.Val)
	}
	seen := make(map[string]bool, len(trained))
	for _, image := range trained {
		seen[before.NameOf(image)] = true
	}
	count := func(samples []dataset.Sample) *int {
		n := 0
		for _, image := range samples {
			if seen[t.data.NameOf(image)] {
				n++
			}
		}
		return &n
	}
	s.SeenVal, s.SeenTest = count(t.data.Val), count(t.data.Test)
	return s, nil
}

// startDelta reads the delta from which the run starts: the copy in the run folder, or the delta
// that the options name, of which it then makes this copy.
func (r *runner) startDelta() (*continued, error) {
	kept := string(r.folder.Start())
	if exists(filepath.Join(kept, delta.FileName)) {
		d, err := r.loadStart(kept, r.o)
		if err != nil {
			return nil, err
		}
		return r.continueFrom(d)
	}
	d, err := r.loadStart(r.o.FromDelta, r.o)
	if err == nil {
		err = d.Save(kept)
	}
	if err != nil {
		return nil, err
	}
	return r.continueFrom(d)
}

// continueFrom returns the start of a run from d. Rows of the head belong to classes by their
// names. A class that d does not know starts with the drawn values of its row.
func (r *runner) continueFrom(d *delta.Delta) (*continued, error) {
	tuning, err := peft.New(r.model.Config, d.Selection)
	if err != nil {
		return nil, err
	}
	drawn := tuning.Init(r.o.Train.Seed, peft.PaperScheme, r.model.Weights)
	c := &continued{d.Selection, checkpoint.StateDict{}}
	for _, p := range tuning.Params {
		v := d.Tuned[p.Name]
		if p.Head && d.Selection.MLPHead == 0 { // [classes, …]
			v = headRows(drawn[p.Name], v, r.data.Classes, d.Classes)
		}
		c.initial[p.Name] = v
	}
	return c, nil
}

// headRows returns a tensor of a head whose rows belong to classes. A row is that of v, whose rows
// belong to known, or else that of drawn.
func headRows(drawn, v checkpoint.Tensor, classes, known []string) checkpoint.Tensor {
	width := len(v.Data) / len(known)
	out := checkpoint.Tensor{Shape: drawn.Shape, Data: slices.Clone(drawn.Data)}
	for to, name := range classes {
		if from := slices.Index(known, name); from >= 0 {
			copy(out.Data[to*width:(to+1)*width], v.Data[from*width:(from+1)*width])
		}
	}
	return out
}
