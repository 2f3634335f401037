package spt

import (
	"context"
	"fmt"
	"os"

	"github.com/sptune/spt/method"
	"github.com/sptune/spt/peft"
	"github.com/sptune/spt/plan"
	"github.com/sptune/spt/run"
)

// TrainRun trains once, chooses nothing and tests nothing, and keeps delta,
// plan, metrics and result in dir. p is the plan, nil for a method without
// one. A run that was stopped goes on where it was when TrainRun is called again
// with the same task, options, plan and dir; of one that is finished the result
// is read. progress may be nil.
func (t *Task) TrainRun(ctx context.Context, o run.TrainOptions, p *plan.Plan, dir string, progress func(Event)) (*run.Result, error) {
	s, err := t.single(o, p)
	if err != nil {
		return nil, err
	}
	if progress == nil {
		progress = func(Event) {}
	}
	r := &runner{Task: t, o: run.TuneOptions{Method: o.Method, Train: o.Train}, dir: dir, progress: progress}
	if err := os.MkdirAll(dir, 0o777); err != nil {
		return nil, err
	}
	result := new(run.Result)
	if found, err := run.ReadJSON(r.path(run.ResultFile), result, run.Redo); found || err != nil {
		return result, err
	}
	if p != nil {
		if err := p.Save(r.path(run.PlanFile)); err != nil {
			return nil, err
		}
		progress(Event{Stage: "plan", Plan: p})
	}
	if err := r.CheckImages(ctx, func(done, total int) { progress(Event{Stage: "images", Done: done, Total: total}) }); err != nil {
		return nil, err
	}
	training, err := t.training(s)
	if err != nil {
		return nil, err
	}
	trained, err := r.train(ctx, training, "", dir, TrainOptions{Options: o.Train, WithVal: o.WithVal})
	if err != nil {
		return nil, err
	}
	result = &run.Result{Method: o.Method, Budget: o.Budget, Counts: trained.Tuning.Counts, TrainedOn: "train", Epochs: trained.Epochs,
		Seconds: seconds(trained.Epochs), Skipped: len(t.Data.Skipped)}
	metrics := map[string]float64{}
	switch {
	case len(t.Data.Val) == 0:
	case o.WithVal:
		result.TrainedOn = "train+val"
	default:
		result.Val = &trained.Epochs[len(trained.Epochs)-1].ValAccuracy
		metrics["val_accuracy"] = *result.Val
	}
	if err := t.Delta(o.Method, trained, p, metrics).Save(dir); err != nil {
		return nil, err
	}
	if err := run.WriteJSON(r.path(run.ResultFile), result); err != nil {
		return nil, err
	}
	return result, run.Remove(r.path(run.TrainStateFile))
}

// Single says what is wrong with the options and the plan of a [Task.TrainRun],
// if anything, before anything costly.
func (t *Task) Single(o run.TrainOptions, p *plan.Plan) error {
	_, err := t.single(o, p)
	return err
}

func (t *Task) single(o run.TrainOptions, p *plan.Plan) (s peft.Selection, err error) {
	if err := o.Train.Validate(); err != nil {
		return s, &run.OptionError{Err: fmt.Errorf("training options: %w", err)}
	}
	if err := t.trainable(); err != nil {
		return s, err
	}
	if p == nil {
		s, err = method.Baseline(t.Model.Config, o.Method, method.BaselineOptions{Rank: o.Rank, Budget: o.Budget, Sizes: o.Sizes})
		if err == nil {
			_, err = peft.New(t.Model.Config, s)
		}
		if err != nil {
			err = &run.OptionError{Err: err}
		}
		return s, err
	}
	count, err := peft.CountOf(p.Module)
	if err == nil {
		err = p.Validate(Tensors(t.Model.Config), count)
	}
	if err != nil {
		return s, &run.InputError{Err: fmt.Errorf("the plan does not fit the backbone, and was made for another: %w", err)}
	}
	return Select(t.Model.Config, p), nil
}
