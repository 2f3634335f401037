package spt

import (
	"context"
	"errors"
	"fmt"

	"github.com/sptune/spt/backbone"
	"github.com/sptune/spt/checkpoint"
	"github.com/sptune/spt/dataset"
	"github.com/sptune/spt/delta"
	"github.com/sptune/spt/internal/option"
	"github.com/sptune/spt/method"
	"github.com/sptune/spt/objective"
	"github.com/sptune/spt/peft"
	"github.com/sptune/spt/plan"
	"github.com/sptune/spt/progress"
	"github.com/sptune/spt/run"
	"github.com/sptune/spt/sensitivity"
	"github.com/sptune/spt/train"
)

// Score is stage 1: it gives every weight a sensitivity, from training images unless the criterion
// reads none. Training images whose order is mixed already (dataset.Dataset.Mixed) are read in that
// order, as the paper does; others are shuffled with the seed. Options that cannot work are a
// [*run.OptionError], training images of one class a [*run.InputError].
func (t *Task) Score(ctx context.Context, o sensitivity.Options, report progress.Func) (*sensitivity.Scores, error) {
	o = o.WithDefaults()
	if err := o.Validate(); err != nil {
		return nil, optionError(err)
	}
	go t.model.Fingerprint() // the scores carry it; it is made while a device computes them
	in := sensitivity.Input{Backend: t.be, Model: t.model, Objective: t.objective}
	if o.Criterion.Images() {
		if err := t.trainable(); err != nil {
			return nil, err
		}
		in.Images = t.loader(t.data.Train, t.eval)
		if !t.data.Mixed {
			in.Order = dataset.Shuffle(in.Images.Len(), o.Seed, 0)
		}
		head, err := peft.New(t.model.Config, peft.Selection{})
		if err != nil {
			return nil, err
		}
		in.Head = head.Init(o.Seed, t.model.Weights)
	}
	scores, err := sensitivity.Score(ctx, in, o, report)
	if err != nil {
		return nil, fmt.Errorf("scoring the weights of the backbone: %w", err)
	}
	return scores, nil
}

// Plan is stage 2: it chooses what to tune on the backbone c under a budget. With o.Compat the
// budget must be one of plan.ReleaseBudgets.
func Plan(ctx context.Context, c backbone.Config, scores *sensitivity.Scores, budget plan.Budget, o plan.Options) (*plan.Plan, error) {
	return planFor(ctx, scores, budget, c.Size(), o)
}

// PlanScores is Plan without the backbone, for budgets that are a number of parameters.
func PlanScores(ctx context.Context, scores *sensitivity.Scores, budget plan.Budget, o plan.Options) (*plan.Plan, error) {
	if budget.IsShare() {
		return nil, &run.OptionError{Option: "budget", Err: fmt.Errorf("budget %s is a share of the backbone, whose size the scores do not say; give the backbone, or a number of parameters", budget)}
	}
	size := 0
	for _, t := range scores.Tensors {
		size += len(t.Scores)
	}
	return planFor(ctx, scores, budget, size, o)
}

func planFor(ctx context.Context, scores *sensitivity.Scores, budget plan.Budget, size int, o plan.Options) (*plan.Plan, error) {
	o = o.WithDefaults()
	parameters, err := budget.Parameters(size)
	if err == nil {
		err = o.Validate(scores.Tensors, scores.ClassToken, parameters)
	}
	var count plan.Count
	if err == nil {
		count, err = peft.CountOf(o.Module)
	}
	if err != nil {
		return nil, optionError(err)
	}
	return plan.New(ctx, scores, parameters, o, count)
}

// Select returns what a plan for the backbone c tunes: matrices, vectors and entries of the plan,
// and the class token.
func Select(c backbone.Config, p *plan.Plan) peft.Selection {
	tokens, _ := c.ClassTokens()
	return peft.Selection{Module: p.Module, Rank: p.Rank, Structured: p.Matrices, Whole: append(tokens, p.Vectors...), Entries: p.Entries}
}

// TrainOptions configures stage 3.
type TrainOptions struct {
	train.Options // the recipe
	// WithVal trains on train and val together. Nothing is validated then.
	WithVal bool
	// Checkpoint is the file from which an interrupted training continues. Empty: none.
	Checkpoint string
	// TestEveryEpoch evaluates the test split after every epoch too, as the protocol of the paper
	// does. It changes nothing in the training.
	TestEveryEpoch bool
	// Progress receives the events of train.Run. Nil: none.
	Progress progress.Func
	// EpochDone is called after each epoch with all epochs that are finished. Its error ends the
	// training. Nil: none.
	EpochDone func(epochs []train.Epoch) error
}

// Trained is the result of stage 3.
type Trained struct {
	Objective objective.Objective  // what was optimised
	Tuning    *peft.Tuning         // what was tuned
	Tuned     checkpoint.StateDict // the tuned values
	Epochs    []train.Epoch        // empty if the training was restored from a delta
}

// Train is stage 3: it tunes a selection.
func (t *Task) Train(ctx context.Context, s peft.Selection, o TrainOptions) (*Trained, error) {
	training, err := t.training(s)
	if err != nil {
		return nil, err
	}
	return t.do(ctx, training, o)
}

// training returns a run that tunes a selection, for do.
func (t *Task) training(s peft.Selection) (*train.Run, error) {
	tuning, err := peft.New(t.model.Config, s)
	if err != nil {
		return nil, err
	}
	return &train.Run{Backend: t.be, Model: t.model, Tuning: tuning}, nil
}

// do does one training.
func (t *Task) do(ctx context.Context, r *train.Run, o TrainOptions) (*Trained, error) {
	if err := t.trainable(); err != nil { // broken images may have been left out since
		return nil, err
	}
	r.Options, r.Checkpoint, r.Progress, r.EpochDone, r.Val, r.Test = o.Options, o.Checkpoint, o.Progress, o.EpochDone, nil, nil
	// The training images come with the validation images, on which the final training trains too,
	// so that a device keeps them together.
	n, val := len(t.data.Train), t.data.Val
	r.Train = t.images(t.train, t.data.Train, val)
	if !o.WithVal && len(val) > 0 {
		if t.eval == t.train {
			r.Val = r.Train.Part(n, len(val))
		} else {
			r.Val = t.images(t.eval, val, nil)
		}
		r.Train = r.Train.Part(0, n)
	}
	if o.TestEveryEpoch && len(t.data.Test) > 0 {
		r.Test = t.images(t.eval, t.data.Test, nil)
	}
	result, err := r.Do(ctx)
	if state := (*train.StateError)(nil); errors.As(err, &state) {
		err = &run.InputError{Err: err}
	}
	if err != nil {
		return nil, err
	}
	return &Trained{t.objective, r.Tuning, result.Tuned, result.Epochs}, nil
}

// Evaluate measures tuned weights on samples. split names the samples in events of progress, such
// as "test".
func (t *Task) Evaluate(ctx context.Context, tuned *Trained, split string, samples []dataset.Sample, report progress.Func) (objective.Evaluation, error) {
	if len(samples) == 0 {
		return objective.Evaluation{}, fmt.Errorf("evaluating the split %s: it has no images", split)
	}
	p, err := train.NewPredictor(t.be, t.model, t.objective, tuned.Tuning, tuned.Tuned)
	if err != nil {
		return objective.Evaluation{}, err
	}
	defer p.Close()
	return p.Evaluate(ctx, t.images(t.eval, samples, nil), 64, func(e progress.Event) {
		e.Item = split
		report.Report(e)
	})
}

// Delta returns the delta of a training. p is the plan, nil for a method that does not plan.
func (t *Task) Delta(m method.Method, tuned *Trained, p *plan.Plan, metrics map[string]float64) *delta.Delta {
	d := delta.New(t.model, p)
	d.Method, d.Objective, d.Classes, d.Metrics = string(m), t.objective.Name(), t.data.Classes, metrics
	d.Transform = delta.Transform{Resize: t.eval.Resize, ResizeTo: t.eval.ResizeTo}
	d.Selection, d.Tuned = tuned.Tuning.Selection, tuned.Tuned
	return d
}

// optionError returns err as an OptionError with the name of the option that it is about.
func optionError(err error) error { return &run.OptionError{Option: option.Of(err), Err: err} }
