package spt

import (
	"cmp"
	"fmt"

	"github.com/sptune/spt/backend"
	"github.com/sptune/spt/dataset"
	"github.com/sptune/spt/delta"
	"github.com/sptune/spt/internal/measure"
	"github.com/sptune/spt/memory"
	"github.com/sptune/spt/method"
	"github.com/sptune/spt/peft"
	"github.com/sptune/spt/run"
)

// Foresee returns the expected resident memory of [Task.Tune] with the options o. If it is more
// than this process may have, the error is a [*run.InputError]. available is 0 if the system does
// not tell how much that is. On a device such as a GPU, Foresee foresees nothing and returns zeros.
func (t *Task) Foresee(o run.TuneOptions) (f memory.Footprint, available int64, err error) {
	if backend.OnDevice(t.be) {
		return f, 0, nil
	}
	if o, err = t.Effective(o); err != nil {
		return f, 0, err
	}
	r := memory.Run{Backend: t.be, Model: t.model, Objective: t.objective, Train: o.Train, Transform: t.train, CacheBytes: t.config.Data.Images.CacheBytes, TokenImages: t.tokenImages(o),
		TrainImages: t.data.Train, OtherImages: append(append([]dataset.Sample{}, t.data.Val...), t.data.Test...)}
	s, err := t.largest(o)
	if err != nil {
		return f, 0, err
	}
	if r.Tuning, err = peft.New(t.model.Config, s); err != nil {
		return f, 0, err
	}
	row, err := method.Lookup(o.Method)
	if err == nil && row.Scores && !o.SkipsScoring() {
		r.Score = &o.Score
	}
	if f, err = memory.Foresee(r); err != nil {
		return f, 0, err
	}
	available, known := measure.Available()
	if known && f.Total() > available {
		err = &run.InputError{Err: fmt.Errorf("the run needs about %.1f GB of memory, but %.1f GB are available; end other programs, or give a smaller backbone, smaller images, smaller mini-batches, or a smaller cache of images", float64(f.Total())/1e9, float64(available)/1e9)}
	}
	return f, available, err
}

// usualRank stands for the rank that a plan chooses by its budget.
const usualRank = 8

// largest returns a selection that needs about as much memory as the largest of the run.
func (t *Task) largest(o run.TuneOptions) (peft.Selection, error) {
	row, err := method.Lookup(o.Method)
	switch {
	case err != nil:
		return peft.Selection{}, err
	case o.FromDelta != "":
		d, err := delta.Load(o.FromDelta)
		if err != nil {
			return peft.Selection{}, err
		}
		return d.Selection, nil
	case row.Scores:
		s := memory.Scored(t.model.Config, row.Module, cmp.Or(o.Rank, min(usualRank, t.model.Config.MaxRank())))
		if o.FromBlock > 0 {
			s = s.From(t.model.Config, o.FromBlock)
		}
		return s, nil
	}
	options := o.Options
	if n := len(o.Budgets); n > 0 {
		options.Budget = o.Budgets[n-1]
	}
	return row.Select(t.model.Config, options)
}
