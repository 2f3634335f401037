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
	"math"
	"slices"
	"strings"

	"github.com/sptune/spt/backbone"
	"github.com/sptune/spt/backend"
	"github.com/sptune/spt/checkpoint"
	"github.com/sptune/spt/dataset"
	"github.com/sptune/spt/delta"
	"github.com/sptune/spt/peft"
	"github.com/sptune/spt/plan"
	"github.com/sptune/spt/sensitivity"
	"github.com/sptune/spt/train"
)

// Version of the library and the command.
const Version = "0.1.0"

// TaskOptions say how images are read. Zero values are the defaults.
type TaskOptions struct {
	Resize         string `json:"resize"`          // "direct" (default), "crop" or "direct-crop"; see dataset.Transform
	ResizeTo       int    `json:"resize_to"`       // shorter side, or with "direct-crop" both, before the crop, px; 0: round(size·256/224)
	RandomCrop     bool   `json:"random_crop"`     // while training, not with Resize "direct"
	HorizontalFlip bool   `json:"horizontal_flip"` // while training
	CacheBytes     int64  `json:"cache_bytes"`     // bound on decoded images kept in memory; 0: 1 GiB, negative: none
	Workers        int    `json:"workers"`         // images decoded at once; 0: GOMAXPROCS
}

// TaskImages is the paper's recipe for the images of a known set: VTAB-1k's go
// straight to the model's size without augmentation; FGVC's to 256/224 of it,
// then a crop, while training a random one, and a flip. That is build_transform
// in lib/datasets.py of the reference release. The rest of the recipe is
// train.VTAB for both: of FGVC the release has the images' part only.
//
// Normalisation is none of the recipe's: it belongs to the backbone, which
// expects what it was pretrained with. The reference release normalises with
// ImageNet's mean and standard deviation whatever the backbone; to do as it does,
// give [ModelConfig] these.
func TaskImages(k dataset.Known) TaskOptions {
	if k.FGVC() {
		return TaskOptions{Resize: "direct-crop", RandomCrop: true, HorizontalFlip: true}
	}
	return TaskOptions{Resize: "direct"}
}

// Task is a backbone bound to a data set.
type Task struct {
	Backend backend.Backend
	Model   *backbone.Model // computes in its own precision
	Data    *dataset.Dataset
	Options TaskOptions

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
// Backend and Model to what [ComputeConfig] gives before anything else is called.
func NewTask(m *backbone.Model, data *dataset.Dataset, o TaskOptions) (*Task, error) {
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
		return nil, &OptionError{err}
	}
	return t, nil
}

// CheckImages decodes every image once, into the cache, so that a broken one is
// found before training. Where the data set was opened with SkipBadImages,
// broken ones are left out and listed in Data.Skipped; else they are an
// *[InputError]. Once it has succeeded it does nothing.
func (t *Task) CheckImages(ctx context.Context, progress func(done, total int)) error {
	if t.checked {
		return nil
	}
	err := t.Data.CheckImages(ctx, dataset.CheckOptions{Cache: t.cache, Transform: t.eval, Workers: t.Options.Workers, Progress: progress})
	if err != nil && ctx.Err() == nil {
		return &InputError{err}
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
		t.read[key] = train.Images(t.loader(slices.Concat(samples, more), transform), transform.Size)
	}
	return t.read[key]
}

// ScoreOptions are stage 1's. The zero value is the paper's.
type ScoreOptions struct {
	Batches   int    `json:"batches"`    // 0: 16
	BatchSize int    `json:"batch_size"` // 0: 32
	Seed      uint64 `json:"seed"`       // of the fresh head, and of random scores
	// Criterion is by what weights are scored; empty: sensitivity.SquaredGradient.
	Criterion sensitivity.Criterion `json:"criterion,omitempty"`
	// PerSample stands for the criterion sensitivity.PerSample, in runs that were
	// begun before there were others.
	PerSample bool `json:"per_sample,omitempty"`
}

func (o ScoreOptions) withDefaults() ScoreOptions {
	if o.Batches == 0 {
		o.Batches = 16
	}
	if o.BatchSize == 0 {
		o.BatchSize = 32
	}
	if o.PerSample && o.Criterion == "" {
		o.Criterion = sensitivity.PerSample
	}
	o.PerSample = false
	o.Criterion = cmp.Or(o.Criterion, sensitivity.SquaredGradient)
	return o
}

func (o ScoreOptions) validate() error {
	if o.Batches < 1 || o.BatchSize < 1 {
		return fmt.Errorf("scoring %d batches of %d images: expected positive numbers", o.Batches, o.BatchSize)
	}
	return o.Criterion.Validate()
}

// Score is stage 1: the sensitivity of every weight, from training images,
// unless the criterion looks at none. VTAB
// lists are read in their order, as the paper does; other layouts list class
// by class, so they are shuffled with the seed. progress may be nil; its loss is the mean
// over the batches so far.
func (t *Task) Score(ctx context.Context, o ScoreOptions, progress func(done, total int, loss float64)) (*sensitivity.Scores, error) {
	o = o.withDefaults()
	if err := o.validate(); err != nil {
		return nil, &OptionError{err}
	}
	go t.Model.Fingerprint() // which the scores carry: made while a device computes them
	options := sensitivity.Options{Criterion: o.Criterion, Seed: o.Seed}
	if !o.Criterion.Images() {
		return sensitivity.Score(ctx, t.Backend, t.Model, nil, nil, options, nil)
	}
	if err := t.trainable(); err != nil {
		return nil, err
	}
	samples := t.Data.Train
	o.BatchSize = min(o.BatchSize, len(samples))
	n := len(samples)
	if o.Batches < n/o.BatchSize {
		n = o.Batches * o.BatchSize
	}
	order := make([]int, len(samples))
	for i := range order {
		order[i] = i
	}
	if t.Data.Layout != "vtab" {
		order = dataset.Shuffle(len(samples), o.Seed, 0)
	}
	head, err := peft.New(t.Model.Config, peft.Linear())
	if err != nil {
		return nil, err
	}
	batches := t.loader(samples, t.eval).Batches(ctx, order[:n], o.BatchSize, false, 0, 0)
	var report func(int, float64)
	if progress != nil {
		sum, batches := 0.0, 0.0
		report = func(done int, loss float64) {
			sum, batches = sum+loss, batches+1
			progress(done, n, sum/batches)
		}
	}
	scores, err := sensitivity.Score(ctx, t.Backend, t.Model, head.Init(o.Seed, t.Model.Weights), batches, options, report)
	if err != nil {
		return nil, fmt.Errorf("scoring the backbone's weights: %w", err)
	}
	return scores, nil
}

// PlanOptions are stage 2's. Zero values are the paper's, but for the rank.
type PlanOptions struct {
	Module string  `json:"module"`         // structured module
	Only   string  `json:"only,omitempty"` // plan.Unstructured, plan.Structured or, for both, empty
	Rank   int     `json:"rank"`           // 0: plan.DefaultRank for the backbone and budget; 8 in compat mode
	Alpha  float64 `json:"alpha"`          // 0: 10
	Beta   float64 `json:"beta"`           // 0: 5
	Compat string  `json:"compat"`         // "" (exact budget) or "release"
}

func (o PlanOptions) withDefaults() PlanOptions {
	if o.Only == plan.Unstructured {
		o.Module, o.Rank = "", 0
	} else if o.Compat != "" {
		o.Rank = cmp.Or(o.Rank, 8)
	}
	if o.Alpha == 0 {
		o.Alpha = 10
	}
	if o.Beta == 0 {
		o.Beta = 5
	}
	return o
}

// count is the parameter count of the structured module.
func (o PlanOptions) count() (func(in, out, rank int) int, error) {
	if o.Module == "" && o.Only != plan.Unstructured {
		_, err := peft.Lookup("")
		return nil, err
	}
	return peft.CountOf(o.Module)
}

// validate refuses what no plan can meet. classToken is its parameter count,
// maxRank the shortest side of the matrices.
func (o PlanOptions) validate(budget, classToken, maxRank int) error {
	positive := func(v float64) bool { return v > 0 && !math.IsInf(v, 1) }
	switch {
	case o.Only != plan.Unstructured && (o.Rank < 0 || o.Rank > maxRank):
		return fmt.Errorf("rank %d: expected 1 to %d, the shortest side of the backbone's matrices", o.Rank, maxRank)
	case !positive(o.Alpha) || !positive(o.Beta):
		return fmt.Errorf("alpha %g and beta %g: expected positive numbers", o.Alpha, o.Beta)
	}
	if o.Only != "" && o.Compat != "" {
		return fmt.Errorf("compat mode %q makes no plans of %s tuning only; leave one of them out", o.Compat, o.Only)
	}
	switch o.Compat {
	case "":
		if budget < classToken {
			return fmt.Errorf("a budget of %d parameters is below the least possible, %d, which the class token takes; raise the budget", budget, classToken)
		}
	case plan.CompatRelease:
		if targets := plan.ReleaseBudgets(); !slices.Contains(targets, budget) {
			return fmt.Errorf("budget of %d parameters: the release's targets are %v; give one of them, or leave compat mode", budget, targets)
		}
	default:
		return fmt.Errorf("compat mode %q is unknown; known: release", o.Compat)
	}
	return nil
}

// Plan is stage 2: what to tune under a budget, written "0.4M", "400000" or
// "0.5%" of the backbone c. In compat mode "release" the budget must be one of
// the reference release's seven targets.
func Plan(ctx context.Context, c backbone.Config, scores *sensitivity.Scores, budget string, o PlanOptions) (*plan.Plan, error) {
	o = o.withDefaults()
	parameters, err := plan.ParseBudget(budget, c.Size())
	if err != nil {
		return nil, &OptionError{err}
	}
	return planWith(ctx, scores, parameters, o)
}

// PlanScores is Plan without the backbone, for budgets that are a number of
// parameters.
func PlanScores(ctx context.Context, scores *sensitivity.Scores, budget string, o PlanOptions) (*plan.Plan, error) {
	o = o.withDefaults()
	if strings.Contains(budget, "%") {
		return nil, &OptionError{fmt.Errorf("budget %s is a share of the backbone, whose size the scores do not say; give the backbone, or a number of parameters", budget)}
	}
	size := 0
	for _, t := range scores.Tensors {
		size += len(t.Scores)
	}
	parameters, err := plan.ParseBudget(budget, size)
	if err != nil {
		return nil, &OptionError{err}
	}
	return planWith(ctx, scores, parameters, o)
}

func planWith(ctx context.Context, scores *sensitivity.Scores, budget int, o PlanOptions) (*plan.Plan, error) {
	count, err := o.count()
	if err != nil {
		return nil, &OptionError{err}
	}
	maxRank := 0
	for _, t := range scores.Tensors {
		if len(t.Shape) == 2 && !t.EntriesOnly {
			maxRank = min(cmp.Or(maxRank, t.Shape[0]), t.Shape[0], t.Shape[1])
		}
	}
	if err := o.validate(budget, scores.ClassToken, maxRank); err != nil {
		return nil, &OptionError{err}
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
	run, err := t.training(s)
	if err != nil {
		return nil, err
	}
	return t.do(ctx, run, o)
}

// trainable refuses data that nothing can be learned from.
func (t *Task) trainable() error {
	if err := t.Data.Trainable(); err != nil {
		return &InputError{err}
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
func (t *Task) do(ctx context.Context, run *train.Run, o TrainOptions) (*Trained, error) {
	if err := t.trainable(); err != nil { // broken images may have been left out since
		return nil, err
	}
	run.Options, run.Checkpoint, run.Hooks, run.Val, run.Test = o.Options, o.Checkpoint, o.Hooks, nil, nil
	// Training images and, to train on them in the end, validation images: a device keeps
	// them together.
	n, val := len(t.Data.Train), t.Data.Val
	run.Train = t.images(t.train, t.Data.Train, val)
	if !o.WithVal && len(val) > 0 {
		if t.eval == t.train {
			run.Val = run.Train.Part(n, len(val))
		} else {
			run.Val = t.images(t.eval, val, nil)
		}
		run.Train = run.Train.Part(0, n)
	}
	if o.TestEveryEpoch && len(t.Data.Test) > 0 {
		run.Test = t.images(t.eval, t.Data.Test, nil)
	}
	result, err := run.Do(ctx)
	if state := (*train.StateError)(nil); errors.As(err, &state) {
		err = &InputError{err}
	}
	if err != nil {
		return nil, err
	}
	return &Trained{run.Tuning, result.Tuned, result.Epochs}, nil
}

// Evaluate measures tuned weights on samples, such as Data.Test. progress may
// be nil.
func (t *Task) Evaluate(ctx context.Context, tuned *Trained, samples []dataset.Sample, progress func(images int)) (train.Evaluation, error) {
	if len(samples) == 0 {
		return train.Evaluation{}, errors.New("evaluating: there are no images")
	}
	p, err := train.NewPredictor(t.Backend, t.Model, tuned.Tuning, tuned.Tuned)
	if err != nil {
		return train.Evaluation{}, err
	}
	defer p.Close()
	return p.Evaluate(ctx, t.images(t.eval, samples, nil), 64, progress)
}

// Delta packs what was tuned for keeping. p is the plan, nil for baselines.
func (t *Task) Delta(m Method, tuned *Trained, p *plan.Plan, metrics map[string]float64) *delta.Delta {
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
