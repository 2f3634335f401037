// Package spt tunes a pretrained vision transformer for an image task by
// tuning under one percent of its weights, where the task needs it:
// Sensitivity-aware visual Parameter-efficient Tuning (SPT, He et al., ICCV
// 2023, arXiv 2303.08566).
//
// A [Task] binds a backbone to a data set. Its methods are the stages:
// [Task.Score] gives every weight a sensitivity, [Plan] chooses under a budget
// what to tune, [Task.Train] tunes it, [Task.Evaluate] measures it.
// [Task.Tune] runs them all, chooses between budgets on validation data, tests
// once, and keeps everything in a run folder from which it can resume.
//
// The stages' own packages, in the order in which data flows, are checkpoint,
// backbone, dataset, sensitivity, plan, peft, train and delta.
package spt

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/sptune/spt/backbone"
	"github.com/sptune/spt/backend"
	"github.com/sptune/spt/checkpoint"
	"github.com/sptune/spt/dataset"
	"github.com/sptune/spt/delta"
	"github.com/sptune/spt/internal/version"
	"github.com/sptune/spt/method"
	"github.com/sptune/spt/objective"
	"github.com/sptune/spt/peft"
	"github.com/sptune/spt/plan"
	"github.com/sptune/spt/progress"
	"github.com/sptune/spt/run"
	"github.com/sptune/spt/sensitivity"
	"github.com/sptune/spt/train"
)

// Version of the library and the command.
const Version = version.Version

// Task is a backbone bound to a data set.
type Task struct {
	Backend backend.Backend
	Model   *backbone.Model // computes in its own precision
	Data    *dataset.Dataset
	Options run.ImageOptions

	eval, train dataset.Transform
	cache       *dataset.Cache
	checked     bool // CheckImages has succeeded
	read        map[reading]*train.Data
}

// reading is samples, one or two lists of them, read through a transform.
type reading struct {
	first     [2]*dataset.Sample
	n         [2]int
	transform dataset.Transform
}

// NewTask binds a backbone, loaded with the data set's number of classes, to
// the data set, on the processor. For another device, and another precision, set
// Backend and Model to what [run.ComputeConfig] gives before anything else is called.
func NewTask(m *backbone.Model, data *dataset.Dataset, o run.ImageOptions) (*Task, error) {
	be, err := backend.New()
	if err != nil {
		return nil, err
	}
	if m.Config.NumClasses != len(data.Classes) {
		return nil, fmt.Errorf("the backbone is loaded for %d classes, the data set %s has %d; load it with LoadOptions.NumClasses %d", m.Config.NumClasses, data.Name, len(data.Classes), len(data.Classes))
	}
	if o.Resize == "" {
		o.Resize = "direct"
	}
	t := &Task{Backend: be, Model: m, Data: data, Options: o, cache: dataset.NewCache(o.CacheBytes)}
	t.eval = dataset.Transform{Size: m.Config.ImageSize, Resize: o.Resize, ResizeTo: o.ResizeTo}
	t.train = t.eval
	t.train.RandomCrop, t.train.HorizontalFlip = o.RandomCrop, o.HorizontalFlip
	if err := t.train.Validate(); err != nil {
		return nil, &run.OptionError{Err: err}
	}
	return t, nil
}

// CheckImages decodes every image once, into the cache, so that a broken one is
// found before training. Where the data set was opened with SkipBadImages,
// broken ones are left out and listed in Data.Skipped; else they are an
// *[run.InputError]. Once it has succeeded it does nothing.
func (t *Task) CheckImages(ctx context.Context, progress func(done, total int)) error {
	if t.checked {
		return nil
	}
	err := t.Data.CheckImages(ctx, dataset.CheckOptions{Cache: t.cache, Transform: t.eval, Workers: t.Options.Workers, Progress: progress})
	if err != nil && ctx.Err() == nil {
		return &run.InputError{Err: err}
	}
	t.checked = err == nil
	return err
}

// loader reads samples through one of the task's transforms, eval or train.
func (t *Task) loader(samples []dataset.Sample, transform dataset.Transform) *dataset.Loader {
	return dataset.NewLoader(samples, transform, t.cache, dataset.LoaderOptions{Workers: t.Options.Workers, Root: t.Data.Root})
}

// images are samples and then more through one of the task's transforms, the same Data
// each time, so that what a device keeps of it is kept for all trainings.
func (t *Task) images(transform dataset.Transform, samples, more []dataset.Sample) *train.Data {
	key := reading{transform: transform}
	for i, list := range [][]dataset.Sample{samples, more} {
		if key.n[i] = len(list); len(list) > 0 {
			key.first[i] = &list[0]
		}
	}
	if t.read[key] == nil {
		if t.read == nil {
			t.read = map[reading]*train.Data{}
		}
		t.read[key] = train.Images(t.loader(slices.Concat(samples, more), transform), objective.SingleLabel, t.Model.Config)
	}
	return t.read[key]
}

// Score is stage 1: the sensitivity of every weight, from training images,
// unless the criterion looks at none. VTAB
// lists are read in their order, as the paper does; other layouts list class
// by class, so they are shuffled with the seed. report may be nil; its loss is the mean
// over the batches so far.
func (t *Task) Score(ctx context.Context, o sensitivity.Options, report func(done, total int, loss float64)) (*sensitivity.Scores, error) {
	o = o.WithDefaults()
	if err := o.Validate(); err != nil {
		return nil, &run.OptionError{Err: err}
	}
	go t.Model.Fingerprint() // which the scores carry: made while a device computes them
	in := sensitivity.Input{Backend: t.Backend, Model: t.Model, Objective: objective.SingleLabel}
	if !o.Criterion.Images() {
		return sensitivity.Score(ctx, in, o, nil)
	}
	if err := t.trainable(); err != nil {
		return nil, err
	}
	in.Images = t.loader(t.Data.Train, t.eval)
	if t.Data.Layout != "vtab" {
		in.Order = dataset.Shuffle(in.Images.Len(), o.Seed, 0)
	}
	head, err := peft.New(t.Model.Config, peft.Linear())
	if err != nil {
		return nil, err
	}
	in.Head = head.Init(o.Seed, t.Model.Weights)
	scores, err := sensitivity.Score(ctx, in, o, func(e progress.Event) {
		if report != nil {
			report(int(e.Done), int(e.Total), e.Loss)
		}
	})
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
	return Scored(&sensitivity.Scores{Tensors: sensitivity.Tensors(c)})
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
	// Progress and EpochDone are those of train.Run; nil: none.
	Progress  progress.Func
	EpochDone func(epochs []train.Epoch) error
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

// trainable refuses data that nothing can be learned from.
func (t *Task) trainable() error {
	if err := t.Data.Trainable(); err != nil {
		return &run.InputError{Err: err}
	}
	return nil
}

// training is a run that tunes a selection, for do.
func (t *Task) training(s peft.Selection) (*train.Run, error) {
	tuning, err := peft.New(t.Model.Config, s)
	if err != nil {
		return nil, err
	}
	return &train.Run{Backend: t.Backend, Model: t.Model, Tuning: tuning}, nil
}

// do does a training with options.
func (t *Task) do(ctx context.Context, r *train.Run, o TrainOptions) (*Trained, error) {
	if err := t.trainable(); err != nil { // broken images may have been left out since
		return nil, err
	}
	r.Options, r.Checkpoint, r.Progress, r.EpochDone, r.Val, r.Test = o.Options, o.Checkpoint, o.Progress, o.EpochDone, nil, nil
	// Training images and, to train on them in the end, validation images: a device keeps
	// them together.
	n, val := len(t.Data.Train), t.Data.Val
	r.Train = t.images(t.train, t.Data.Train, val)
	if !o.WithVal && len(val) > 0 {
		if t.eval == t.train {
			r.Val = r.Train.Part(n, len(val))
		} else {
			r.Val = t.images(t.eval, val, nil)
		}
		r.Train = r.Train.Part(0, n)
	}
	if o.TestEveryEpoch && len(t.Data.Test) > 0 {
		r.Test = t.images(t.eval, t.Data.Test, nil)
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

// Evaluate measures tuned weights on samples, such as Data.Test. report may
// be nil.
func (t *Task) Evaluate(ctx context.Context, tuned *Trained, samples []dataset.Sample, report func(images int)) (objective.Evaluation, error) {
	if len(samples) == 0 {
		return objective.Evaluation{}, errors.New("evaluating: there are no images")
	}
	p, err := train.NewPredictor(t.Backend, t.Model, objective.SingleLabel, tuned.Tuning, tuned.Tuned)
	if err != nil {
		return objective.Evaluation{}, err
	}
	defer p.Close()
	return p.Evaluate(ctx, t.images(t.eval, samples, nil), 64, func(e progress.Event) {
		if report != nil {
			report(int(e.Done))
		}
	})
}

// Delta packs what was tuned for keeping. p is the plan, nil for baselines.
func (t *Task) Delta(m method.Method, tuned *Trained, p *plan.Plan, metrics map[string]float64) *delta.Delta {
	d := &delta.Delta{
		Method: string(m), Classes: t.Data.Classes, Config: t.Model.Config, Preprocessing: t.Model.Preprocessing,
		Transform: delta.Transform{Resize: t.eval.Resize, ResizeTo: t.eval.ResizeTo},
		Selection: tuned.Tuning.Selection, Backbone: delta.BackboneOf(t.Model), Tuned: tuned.Tuned, Metrics: metrics,
	}
	if p != nil {
		d.Plan = delta.Summarize(p)
	}
	return d
}
