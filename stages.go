package spt

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/sptune/spt/backbone"
	"github.com/sptune/spt/checkpoint"
	"github.com/sptune/spt/dataset"
	"github.com/sptune/spt/delta"
	"github.com/sptune/spt/method"
	"github.com/sptune/spt/peft"
	"github.com/sptune/spt/plan"
	"github.com/sptune/spt/progress"
	"github.com/sptune/spt/run"
	"github.com/sptune/spt/sensitivity"
	"github.com/sptune/spt/train"
)

// Score is stage 1: the sensitivity of every weight, from training images,
// unless the criterion looks at none. If the order of the training images is mixed already
// (dataset.Dataset.Mixed), they are read in that order, as the paper does; otherwise they are
// shuffled with the seed. report may be nil; its loss is the mean over the batches so far.
func (t *Task) Score(ctx context.Context, o run.ScoreOptions, report progress.Func) (*sensitivity.Scores, error) {
	o = o.WithDefaults()
	if err := o.Validate(); err != nil {
		return nil, &run.OptionError{Err: err}
	}
	go t.model.Fingerprint() // which the scores carry: made while a device computes them
	options := sensitivity.Options{Criterion: o.Criterion, Seed: o.Seed}
	if !o.Criterion.Images() {
		return sensitivity.Score(ctx, t.be, t.model, nil, nil, options, nil)
	}
	if err := t.trainable(); err != nil {
		return nil, err
	}
	samples := t.data.Train
	o.BatchSize = min(o.BatchSize, len(samples))
	n := len(samples)
	if o.Batches < n/o.BatchSize {
		n = o.Batches * o.BatchSize
	}
	order := make([]int, len(samples))
	for i := range order {
		order[i] = i
	}
	if !t.data.Mixed {
		order = dataset.Shuffle(len(samples), o.Seed, 0)
	}
	head, err := peft.New(t.model.Config, peft.Linear())
	if err != nil {
		return nil, err
	}
	batches := t.loader(samples, t.eval).Batches(ctx, order[:n], o.BatchSize, false, 0, 0)
	sum, seen := 0.0, 0.0
	each := func(done int, loss float64) {
		sum, seen = sum+loss, seen+1
		report.Report(progress.Event{Stage: progress.Score, Done: int64(done), Total: int64(n), Loss: sum / seen})
	}
	scores, err := sensitivity.Score(ctx, t.be, t.model, head.Init(o.Seed, t.model.Weights), batches, options, each)
	if err != nil {
		return nil, fmt.Errorf("scoring the backbone's weights: %w", err)
	}
	return scores, nil
}

// Plan is stage 2: what to tune under a budget, written "0.4M", "400000" or
// "0.5%" of the backbone c. In compat mode "release" the budget must be one of
// the reference release's seven targets.
func Plan(ctx context.Context, c backbone.Config, scores *sensitivity.Scores, budget string, o run.PlanOptions) (*plan.Plan, error) {
	o = o.WithDefaults()
	parameters, err := plan.ParseBudget(budget, c.Size())
	if err != nil {
		return nil, &run.OptionError{Err: err}
	}
	return planWith(ctx, scores, parameters, o)
}

// PlanScores is Plan without the backbone, for budgets that are a number of
// parameters.
func PlanScores(ctx context.Context, scores *sensitivity.Scores, budget string, o run.PlanOptions) (*plan.Plan, error) {
	o = o.WithDefaults()
	if strings.Contains(budget, "%") {
		return nil, &run.OptionError{Err: fmt.Errorf("budget %s is a share of the backbone, whose size the scores do not say; give the backbone, or a number of parameters", budget)}
	}
	size := 0
	for _, t := range scores.Tensors {
		size += len(t.Scores)
	}
	parameters, err := plan.ParseBudget(budget, size)
	if err != nil {
		return nil, &run.OptionError{Err: err}
	}
	return planWith(ctx, scores, parameters, o)
}

func planWith(ctx context.Context, scores *sensitivity.Scores, budget int, o run.PlanOptions) (*plan.Plan, error) {
	count, err := o.Count()
	if err != nil {
		return nil, &run.OptionError{Err: err}
	}
	maxRank := 0
	for _, t := range scores.Tensors {
		if len(t.Shape) == 2 && !t.EntriesOnly {
			maxRank = min(cmp.Or(maxRank, t.Shape[0]), t.Shape[0], t.Shape[1])
		}
	}
	if err := o.Validate(budget, scores.ClassToken, maxRank); err != nil {
		return nil, &run.OptionError{Err: err}
	}
	options := plan.Options{Budget: budget, Only: o.Only, Module: o.Module, ModuleParams: count, Rank: o.Rank, Alpha: o.Alpha, Beta: o.Beta, ClassToken: scores.ClassToken}
	scored := Scored(scores)
	if o.Compat == "" {
		return plan.Exact(ctx, scored, options)
	}
	plans, err := plan.Release(scored, plan.ReleaseOptions{Options: options})
	if err != nil {
		return nil, err
	}
	for _, p := range plans {
		if p.Budget == budget {
			return p, nil
		}
	}
	return nil, fmt.Errorf("budget of %d parameters: the release makes no plan for it", budget)
}

// Scored is the view of scores that package plan takes.
func Scored(s *sensitivity.Scores) []plan.Scored {
	var out []plan.Scored
	for _, t := range s.Tensors {
		out = append(out, plan.Scored{Name: t.Name, Shape: t.Shape, Scores: t.Scores, Norm: t.Norm, EntriesOnly: t.EntriesOnly})
	}
	return out
}

// Tensors is the view of a backbone's scored tensors, without scores, that
// plan.Plan's Validate and Explain take.
func Tensors(c backbone.Config) []plan.Scored {
	var out []plan.Scored
	for _, p := range c.Params() {
		if p.Role == backbone.Scored {
			out = append(out, plan.Scored{Name: p.Name, Shape: p.Shape, Norm: p.Norm, EntriesOnly: p.EntriesOnly})
		}
	}
	return out
}

// Select turns a plan for the backbone c into what is tuned: its matrices,
// vectors and entries, and the class token.
func Select(c backbone.Config, p *plan.Plan) peft.Selection {
	tokens, _ := c.ClassTokens()
	return peft.Selection{Module: p.Module, Rank: p.Rank, Structured: p.Matrices, Whole: append(tokens, p.Vectors...), Entries: p.Entries}
}

// TrainOptions are stage 3's.
type TrainOptions struct {
	train.Options
	// WithVal trains on train and val together; there is then no validation.
	WithVal bool
	// Checkpoint is a file from which an interrupted training goes on; empty: none.
	Checkpoint string
	// TestEveryEpoch evaluates the test set too after every epoch, as the paper's
	// protocol does. It changes nothing in the training.
	TestEveryEpoch bool
	Hooks          train.Hooks
}

// Trained is the result of stage 3.
type Trained struct {
	Tuning *peft.Tuning
	Tuned  checkpoint.StateDict
	Epochs []train.Epoch
}

// Train is stage 3: it tunes a selection.
func (t *Task) Train(ctx context.Context, s peft.Selection, o TrainOptions) (*Trained, error) {
	training, err := t.training(s)
	if err != nil {
		return nil, err
	}
	return t.do(ctx, training, o)
}

// training is a run that tunes a selection, for do.
func (t *Task) training(s peft.Selection) (*train.Run, error) {
	tuning, err := peft.New(t.model.Config, s)
	if err != nil {
		return nil, err
	}
	return &train.Run{Backend: t.be, Model: t.model, Tuning: tuning}, nil
}

// do does a training with options.
func (t *Task) do(ctx context.Context, r *train.Run, o TrainOptions) (*Trained, error) {
	if err := t.trainable(); err != nil { // broken images may have been left out since
		return nil, err
	}
	r.Options, r.Checkpoint, r.Hooks, r.Val, r.Test = o.Options, o.Checkpoint, o.Hooks, nil, nil
	// Training images and, to train on them in the end, validation images: a device keeps
	// them together.
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
	return &Trained{r.Tuning, result.Tuned, result.Epochs}, nil
}

// Evaluate measures tuned weights on samples. split names the samples in events of progress, such as
// "test".
func (t *Task) Evaluate(ctx context.Context, tuned *Trained, split string, samples []dataset.Sample, report progress.Func) (train.Evaluation, error) {
	if len(samples) == 0 {
		return train.Evaluation{}, fmt.Errorf("evaluating: %w", errNoImages)
	}
	p, err := train.NewPredictor(t.be, t.model, tuned.Tuning, tuned.Tuned)
	if err != nil {
		return train.Evaluation{}, err
	}
	defer p.Close()
	return p.Evaluate(ctx, t.images(t.eval, samples, nil), 64, func(done int) {
		report.Report(progress.Event{Stage: progress.Evaluate, Item: split, Done: int64(done), Total: int64(len(samples))})
	})
}

// Delta packs what was tuned for keeping. p is the plan, nil for baselines.
func (t *Task) Delta(m method.Method, tuned *Trained, p *plan.Plan, metrics map[string]float64) *delta.Delta {
	d := &delta.Delta{
		Method: string(m), Classes: t.data.Classes, Config: t.model.Config, Preprocessing: t.model.Preprocessing,
		Transform: delta.Transform{Resize: t.eval.Resize, ResizeTo: t.eval.ResizeTo},
		Selection: tuned.Tuning.Selection, Backbone: delta.BackboneOf(t.model), Tuned: tuned.Tuned, Metrics: metrics,
	}
	if p != nil {
		d.Plan = delta.Summarize(p)
	}
	return d
}
