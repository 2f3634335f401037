package spt

import (
	"context"
	"fmt"
	"os"

	"github.com/sptune/spt/peft"
	"github.com/sptune/spt/plan"
	"github.com/sptune/spt/train"
)

// SingleOptions are those of one training: of a plan, or of a method that
// needs none.
type SingleOptions struct {
	Method Method `json:"method"`
	Budget string `json:"budget,omitempty"` // lora and adapter: the rank is what it allows
	Rank   int    `json:"rank,omitempty"`   // lora and adapter; 0: what the budget allows, or 8
	Sizes
	WithVal bool          `json:"with_val"` // train on val too; nothing is then validated
	Train   train.Options `json:"train"`
}

// TrainRun trains once, chooses nothing and tests nothing, and keeps delta,
// plan, metrics and result in dir. p is the plan, nil for a method without
// one. A run that was stopped goes on where it was when TrainRun is called again
// with the same task, options, plan and dir; of one that is finished the result
// is read. progress may be nil.
func (t *Task) TrainRun(ctx context.Context, o SingleOptions, p *plan.Plan, dir string, progress func(Event)) (*Result, error) {
	s, err := t.single(o, p)
	if err != nil {
		return nil, err
	}
	if progress == nil {
		progress = func(Event) {}
	}
	r := &runner{Task: t, o: TuneOptions{Method: o.Method, Train: o.Train}, dir: dir, progress: progress}
	if err := os.MkdirAll(dir, 0o777); err != nil {
		return nil, err
	}
	result := new(Result)
	if found, err := readJSON(r.path(ResultFile), result, redo); found || err != nil {
		return result, err
	}
	if p != nil {
		if err := p.Save(r.path(PlanFile)); err != nil {
			return nil, err
		}
		progress(Event{Stage: "plan", Plan: p})
	}
	if err := r.CheckImages(ctx, func(done, total int) { progress(Event{Stage: "images", Done: done, Total: total}) }); err != nil {
		return nil, err
	}
	run, err := t.training(s)
	if err != nil {
		return nil, err
	}
	trained, err := r.train(ctx, run, "", dir, TrainOptions{Options: o.Train, WithVal: o.WithVal})
	if err != nil {
		return nil, err
	}
	result = &Result{Method: o.Method, Budget: o.Budget, Counts: trained.Tuning.Counts, TrainedOn: "train", Epochs: trained.Epochs,
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
	if err := writeJSON(r.path(ResultFile), result); err != nil {
		return nil, err
	}
	return result, removeIfThere(r.path(trainState))
}

// Single says what is wrong with the options and the plan of a [Task.TrainRun],
// if anything, before anything costly.
func (t *Task) Single(o SingleOptions, p *plan.Plan) error {
	_, err := t.single(o, p)
	return err
}

func (t *Task) single(o SingleOptions, p *plan.Plan) (s peft.Selection, err error) {
	if err := o.Train.Validate(); err != nil {
		return s, &OptionError{fmt.Errorf("training options: %w", err)}
	}
	if err := t.trainable(); err != nil {
		return s, err
	}
	if p == nil {
		s, err = Baseline(t.Model.Config, o.Method, BaselineOptions{Rank: o.Rank, Budget: o.Budget, Sizes: o.Sizes})
		if err == nil {
			_, err = peft.New(t.Model.Config, s)
		}
		if err != nil {
			err = &OptionError{err}
		}
		return s, err
	}
	count, err := peft.CountOf(p.Module)
	if err == nil {
		err = p.Validate(Tensors(t.Model.Config), count)
	}
	if err != nil {
		return s, &InputError{fmt.Errorf("the plan does not fit the backbone, and was made for another: %w", err)}
	}
	return Select(t.Model.Config, p), nil
}
