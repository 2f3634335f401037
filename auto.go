package spt

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"sort"
	"time"

	"github.com/sptune/spt/backbone"
	"github.com/sptune/spt/dataset"
	"github.com/sptune/spt/internal/embedded"
	"github.com/sptune/spt/internal/option"
	"github.com/sptune/spt/internal/wording"
	"github.com/sptune/spt/method"
	"github.com/sptune/spt/plan"
	"github.com/sptune/spt/progress"
	"github.com/sptune/spt/recipe"
	"github.com/sptune/spt/run"
	"github.com/sptune/spt/sensitivity"
	"github.com/sptune/spt/train"
)

// Choices is what [Task.Prepare] found and chose.
type Choices struct {
	// Side is the median of the shorter sides of the training images, in pixels. It is 0 if no size
	// could be read.
	Side int `json:"side"`
	// MaxImages is the largest number of images of each split, if the time allows no more. It is 0
	// if the run uses all images, and if the user set the number.
	MaxImages int `json:"max_images,omitempty"`
	// Sizes holds the image sizes that were compared with a linear probe, in descending order. It
	// is empty if the images left no choice.
	Sizes []recipe.Size `json:"sizes,omitempty"`
	// ImageSize is the side of the input of the backbone, in pixels.
	ImageSize int `json:"image_size"`
	// Augment holds the results of short trainings with presets of augmentation. The first is the
	// chosen one. It is empty if they were not compared.
	Augment []AugmentTry `json:"augment,omitempty"`
	// Steps is the expected number of optimiser steps of one training, and Trainings the number of
	// trainings: the candidates, and the final one if there is one.
	Steps     int `json:"steps"`
	Trainings int `json:"trainings"`
	// Expected is the expected time of each part of the run.
	Expected Expected `json:"expected"`
	// Tuning is the method of a run whose time is too short for it: the run delivers a linear probe
	// instead. It is empty for other runs.
	Tuning method.Method `json:"tuning,omitempty"`
}

// AugmentTry is the result of a short training with a preset of augmentation.
type AugmentTry struct {
	Preset      string  `json:"preset"`
	Steps       int     `json:"steps"`
	ValLoss     float64 `json:"val_loss"`
	ValAccuracy float64 `json:"val_accuracy"`
}

// Expected holds expected times, in seconds.
type Expected struct {
	Probe float64 `json:"probe"` // features and linear probe
	Score float64 `json:"score"` // stage 1
	Train float64 `json:"train"` // all trainings, with their validations
	Test  float64 `json:"test"`
	// Augment is the time of the comparison of augmentations, which Prepare has spent already.
	Augment float64 `json:"augment,omitempty"`
}

// Total returns the expected time of all parts.
func (e Expected) Total() time.Duration { return inSeconds(e.Probe + e.Score + e.Train + e.Test) }

func inSeconds(s float64) time.Duration { return time.Duration(s * float64(time.Second)) }

// The time of work on an image, in forward passes. The gradients of a few parameters need no
// gradients of the weights, scores need those of all weights. Seen in runs of a ViT-Ti on a
// processor, at 96 to 224 px.
const (
	stepForwards  = 2.6
	scoreForwards = 3.8
)

// Prepare chooses the options that c leaves open, by the recipe run.RecipeAuto: zero fields of
// c.Tune, and c.Model.ImageSize. c is the configuration with which the task was opened. Prepare
// measures the speed of the backbone. If the images are smaller than the input of the backbone, it
// compares image sizes with linear probes. The returned Task has the chosen image size; it may be
// t.
//
// With c.Tune.TimeLimit, Prepare chooses for a run that ends in this time. A time that is too short
// is a [*run.OptionError]; Prepare returns it before the time is over.
func (t *Task) Prepare(ctx context.Context, c *run.Config, report progress.Func) (*Task, *Choices, error) {
	o := &c.Tune
	if o.Began.IsZero() {
		o.Began = time.Now()
	}
	if o.TimeLimit <= 0 {
		return t.prepare(ctx, c, report)
	}
	over := &run.OptionError{Option: "time", Err: fmt.Errorf("%.0f s are too short on this machine, which spent most of them on measuring its speed: give more time, a smaller backbone or fewer images, or end other programs", o.TimeLimit)}
	limited, cancel := context.WithDeadlineCause(ctx, o.Began.Add(inSeconds(o.TimeLimit*prepareShare)), over)
	defer cancel()
	next, choices, err := t.prepare(limited, c, report)
	if err != nil && context.Cause(limited) == over {
		err = over
	}
	return next, choices, err
}

// prepareShare is the share of a time limit after which Prepare gives up.
const prepareShare = 0.75

// prepare is Prepare without its own time limit.
func (t *Task) prepare(ctx context.Context, c *run.Config, report progress.Func) (*Task, *Choices, error) {
	o := &c.Tune
	row, err := method.Lookup(o.Method)
	if err != nil {
		return nil, nil, optionError(err)
	}
	if o.Probe && !t.probes() {
		report.Report(progress.Event{Stage: progress.Note, Item: fmt.Sprintf("the run has no linear probe, because the objective %s has none; the backbone keeps its image size, and the head starts from random values", t.objective.Name())})
	}
	o.Probe = o.Probe && t.probes() && o.FromDelta == ""
	// find options that cannot work before any costly work
	if o.FromBlock > 0 && o.AutoAugment {
		return nil, nil, optionError(option.Errorf("from-block", "training from block %d on computes the tokens that enter the block only once, so no augmentation can be compared; leave one of the two options out", o.FromBlock))
	}
	given := *o
	given.AutoAugment = false
	given.Train.Epochs, given.Train.LR = cmp.Or(o.Train.Epochs, 1), cmp.Or(o.Train.LR, 1)
	if _, err := t.Effective(given); err != nil {
		return nil, nil, err
	}
	choices := &Choices{Side: dataset.ShorterSide(t.data.Train)}
	whole, limits := t, o.TimeLimit > 0 && c.Data.MaxImages == 0
	if limits {
		if t, err = whole.limitImages(ctx, o, usualShare, usualImages); err != nil {
			return nil, nil, err
		}
	}
	native := t
	if c.Model.ImageSize == 0 && o.Probe {
		if t, err = t.chooseSize(ctx, o, choices, report); err != nil {
			return nil, nil, err
		}
	}
	if len(o.Budgets) == 0 && o.Rank == 0 && row.Takes("budget") && o.FromDelta == "" {
		o.Budgets = []plan.Budget{recipe.Budget(t.model.Config.Size())}
	}
	t, err = t.chooseWithin(ctx, native, c.Model.ImageSize == 0, o, choices, report)
	if limits && tooShort(err) {
		if t, err = whole.limitImages(ctx, o, lastShare, lastImages); err == nil {
			t, err = t.chooseWithin(ctx, t, c.Model.ImageSize == 0, o, choices, report)
		}
	}
	if err != nil {
		return nil, nil, err
	}
	if limits {
		choices.MaxImages = t.config.Data.MaxImages
		c.Data.MaxImages = choices.MaxImages
	}
	choices.ImageSize = t.model.Config.ImageSize
	if c.Model.Path != embedded.Name {
		c.Model.ImageSize = choices.ImageSize
	}
	if o.AutoAugment {
		o.AutoAugment = false
		if t, err = t.chooseAugment(ctx, o, choices, report); err != nil {
			return nil, nil, err
		}
		c.Data.Images = t.config.Data.Images
	}
	return t, choices, nil
}

// limitImages returns a task with fewer images of each split, but at least the given number, if one
// pass over all images would take more than a share of the time that is left. The linear probe
// needs a pass over the training and validation images, and the test one over the test images.
func (t *Task) limitImages(ctx context.Context, o *run.TuneOptions, share float64, least int) (*Task, error) {
	if err := t.measureForward(ctx); err != nil {
		return nil, err
	}
	left := o.TimeLimit - time.Since(o.Began).Seconds() - reserve(o.TimeLimit)
	sizes := []int{len(t.data.Train), len(t.data.Val), len(t.data.Test)}
	fits := func(n int) bool {
		images := 0
		for _, size := range sizes {
			images += min(size, n)
		}
		return t.forward.Seconds()*float64(images) <= left*share
	}
	most := slices.Max(sizes)
	n := max(least, len(t.data.Classes), sort.Search(most, func(n int) bool { return !fits(n + 1) }))
	if n >= most {
		return t, nil
	}
	data, err := t.data.Limit(n, t.config.Data.SplitSeed)
	if err != nil {
		return nil, err
	}
	next, err := t.with(t.model, data, t.config.Data.Images)
	if err != nil {
		return nil, err
	}
	next.forward, next.config.Data.MaxImages = t.forward, n
	return next, nil
}

// The arguments of limitImages. Usually a pass may take half of the time: a training within the
// other half cannot see more images. But a thousand images are worth a pass on smaller ones. If not
// even a probe fits then, the run reads as few images as fit.
const (
	usualShare, usualImages = 0.5, 1000
	lastShare, lastImages   = 0.75, 50
)

// chooseWithin chooses the options of the trainings, and returns a task with the image size for
// them. If a time limit leaves too few steps, it chooses smaller images, but none that lose detail.
// If the steps are still too few, the result of the run is the linear probe, on images as large as
// the time allows. native is the task with the image size of the backbone. open reports whether the
// image size may change.
func (t *Task) chooseWithin(ctx context.Context, native *Task, open bool, o *run.TuneOptions, choices *Choices, report progress.Func) (*Task, error) {
	side := t.model.Config.ImageSize
	at, err := t.firstThatFits(ctx, recipe.Sizes(side, choices.Side), open, recipe.LeastSteps, o, choices, report)
	switch {
	case at != nil || o.TimeLimit == 0 || !tooShort(err):
		return at, err
	case !o.Probe: // small images and a few steps are all that is left
		return t.firstThatFits(ctx, recipe.SmallerSizes(side), open, 1, o, choices, report)
	case o.Method == method.Linear:
	default:
		choices.Tuning = o.Method
		o.Method, o.Budgets, o.Options = method.Linear, nil, method.Options{}
		o.ScoresFile, o.KeepScores, o.Score, o.Plan = "", false, sensitivity.Options{}, plan.Options{}
		o.Train.HeadLR, o.Train.Init, o.Train.Compat = 0, "", ""
		o.NoRefit = false // the features are there, so a second fit takes no time
	}
	if open {
		t = native
	}
	return t.firstThatFits(ctx, recipe.SmallerSizes(t.model.Config.ImageSize), open, 0, o, choices, report)
}

// firstThatFits returns a task with the first of the image sizes at which at least the given number
// of steps fit into the time limit, and chooses the options of its trainings. The first size is
// that of t; only if open is set, others are tried. If no size fits, the error is that of the last.
func (t *Task) firstThatFits(ctx context.Context, sizes []int, open bool, least int, o *run.TuneOptions, choices *Choices, report progress.Func) (*Task, error) {
	if !open {
		sizes = sizes[:1]
	}
	var short error
	for _, size := range sizes {
		at := t
		if size != sizes[0] {
			next, err := t.atSize(ctx, size)
			if err != nil { // a patch size does not divide every size
				continue
			}
			at = next
		}
		if err := at.measureForward(ctx); err != nil {
			return nil, err
		}
		chosen := *o
		if short = at.chooseTraining(&chosen, choices, least); short != nil {
			continue
		}
		// The check may decode many images, so the time has gone on.
		if err := at.CheckImages(ctx, report); err != nil {
			return nil, err
		}
		chosen = *o
		if short = at.chooseTraining(&chosen, choices, least); short == nil {
			*o = chosen
			return at, nil
		}
	}
	return nil, short
}

// tooShort reports whether the error is that a time limit is too short.
func tooShort(err error) bool {
	var option *run.OptionError
	return errors.As(err, &option) && option.Option == "time"
}

// chooseTraining chooses the options of the trainings and estimates their time. measureForward has
// measured the speed. If fewer than least steps fit into the time limit, and the run would have
// more without it, the error is a [*run.OptionError] of the option time.
func (t *Task) chooseTraining(o *run.TuneOptions, choices *Choices, least int) error {
	row, err := method.Lookup(o.Method)
	if err != nil {
		return err
	}
	forward := t.forward.Seconds()
	n, val, training := len(t.data.Train), len(t.data.Val), &o.Train
	if training.BatchSize == 0 {
		training.BatchSize = recipe.Batch(n)
	}
	if training.Epochs == 0 {
		training.Epochs, training.WarmupEpochs = 100, 10 // WithDefaults scales both to the steps
		if training.Steps == 0 {
			training.Steps = recipe.Steps(n, training.BatchSize)
		}
	}
	if training.WarmupEpochs == 0 {
		training.WarmupEpochs = float64(training.Epochs) / 10
	}
	filled := training.WithDefaults(n)
	perEpoch := max(1, n/filled.BatchSize)
	choices.Steps = filled.Steps
	if choices.Steps == 0 {
		choices.Steps = filled.Epochs * perEpoch
	}
	choices.Trainings = len(o.Tries())
	if val > 0 && !o.NoValidation && !o.NoRefit && !o.ValidationOnly {
		choices.Trainings++
	}
	choices.Expected = Expected{}
	e := &choices.Expected
	e.Test = forward * float64(len(t.data.Test))
	if interpolates(*o) {
		e.Test += forward * float64(val*len(alphas)*choices.Trainings)
	}
	if o.Probe {
		e.Probe = forward * float64(n+val)
	}
	if o.Probe && o.Method == method.Linear { // the probe replaces the training
		choices.Steps = 0
	}
	step := forward * (stepForwards*float64(filled.BatchSize) + float64(val)/float64(perEpoch))
	left := o.TimeLimit - time.Since(o.Began).Seconds() - e.Probe - e.Test - reserve(o.TimeLimit)
	if row.Scores && !o.SkipsScoring() && o.Score.Criterion.Images() {
		score := o.Score.WithDefaults()
		batch := forward * scoreForwards * float64(min(n, score.BatchSize))
		if o.TimeLimit > 0 && o.Score.Batches == 0 {
			score.Batches = min(score.Batches, max(leastScoreBatches, int(left/scoreShare/batch)))
			o.Score.Batches = score.Batches
		}
		e.Score = batch * float64(min(score.Batches, (n+score.BatchSize-1)/score.BatchSize))
	}
	if left -= e.Score; o.TimeLimit > 0 {
		fit := int(math.Floor(left / step / float64(choices.Trainings)))
		if fit < min(least, choices.Steps) {
			what := fmt.Sprintf("a run with %s of training", wording.Plural(max(1, least), "step"))
			if choices.Steps == 0 {
				what = "a linear probe"
			}
			return &run.OptionError{Option: "time", Err: fmt.Errorf("%.0f s are too short for %d training and %d test images on this machine: %s takes %.0f s; give more time, a smaller backbone or fewer images",
				o.TimeLimit, n, len(t.data.Test), what, (o.TimeLimit-left+step*float64(least*choices.Trainings))*1.05)}
		}
		choices.Steps = min(choices.Steps, fit)
	}
	e.Train = step * float64(choices.Steps*choices.Trainings)
	if training.Patience == 0 && val > 0 {
		epochs := max(1, (choices.Steps+perEpoch-1)/perEpoch)
		if training.Patience = recipe.Patience(epochs); o.TimeLimit > 0 {
			training.Patience = max(5, epochs) // the user gave the time; the best epoch is kept
		}
	}
	if training.LR == 0 && len(o.LRs) == 0 {
		training.LR = recipe.LearningRate(row, max(1, choices.Steps), filled.BatchSize)
	}
	return nil
}

// scoreShare divides the time that is left for scoring and training: scoring takes at most one
// part, but reads leastScoreBatches batches.
const (
	scoreShare        = 8
	leastScoreBatches = 2
)

// reserve returns the time, in seconds, that a run with a time limit keeps for its end: saving the
// delta and writing the report.
func reserve(limit float64) float64 { return 1.2 + limit/50 }

// chooseAugment compares no augmentation with the preset light: it trains LoRA modules on all
// matrices for a tenth of the steps with each, and takes the one with the lower validation loss. It
// returns a task with the chosen augmentation. Without validation images, for a linear probe, or
// with too little time, that is none.
func (t *Task) chooseAugment(ctx context.Context, o *run.TuneOptions, choices *Choices, report progress.Func) (*Task, error) {
	presets := run.Presets()[:2] // from the weakest on
	tasks := map[string]*Task{}
	for _, preset := range presets {
		images, err := t.config.Data.Images.WithPreset(preset)
		if err != nil {
			return nil, err
		}
		at, err := t.with(t.model, t.data, images)
		if err != nil {
			return nil, err
		}
		at.forward, at.imageData = t.forward, t.imageData
		tasks[preset] = at
	}
	steps := max(choices.Steps/augmentShare, leastTrySteps)
	takes := t.forward.Seconds() * stepForwards * float64(o.Train.BatchSize*steps*len(presets))
	if len(t.data.Val) == 0 || choices.Steps == 0 || o.TimeLimit > 0 && takes > o.TimeLimit/augmentShare {
		return tasks[presets[0]], nil
	}
	lora, err := method.Lookup(method.LoRA)
	if err != nil {
		return nil, err
	}
	s, err := lora.Select(t.model.Config, method.Options{Rank: 2})
	if err != nil {
		return nil, err
	}
	training := o.Train
	training.Steps, training.Patience, training.LR = steps, 0, recipe.LearningRate(lora, steps, training.BatchSize)
	for _, preset := range presets {
		o := TrainOptions{Options: training.WithDefaults(len(t.data.Train)), Progress: func(e progress.Event) {
			e.Candidate = "augmentation " + preset
			report.Report(e)
		}}
		var trained *Trained
		err := t.skipping(ctx, report, o.reads(), func() (err error) {
			trained, err = tasks[preset].Train(ctx, s, o)
			return err
		})
		if err != nil {
			return nil, err
		}
		last := trained.Epochs[len(trained.Epochs)-1]
		choices.Augment = append(choices.Augment, AugmentTry{preset, steps, last.ValLoss, last.ValAccuracy})
	}
	slices.SortStableFunc(choices.Augment, func(a, b AugmentTry) int { return cmp.Compare(a.ValLoss, b.ValLoss) })
	choices.Expected.Augment = takes
	return tasks[choices.Augment[0].Preset], nil
}

// A short training for the choice of the augmentation has a tenth of the steps of the run, but not
// fewer than leastTrySteps.
const (
	augmentShare  = 10
	leastTrySteps = 60
)

// measureForward sets t.forward to the time of the forward pass of an image. It reads no image,
// because nobody has checked them yet.
func (t *Task) measureForward(ctx context.Context) error {
	if t.forward > 0 {
		return nil
	}
	p, err := t.frozen()
	if err != nil {
		return err
	}
	defer p.Close()
	side := t.model.Config.ImageSize
	image := &dataset.RGB{Width: side, Height: side, Pix: make([]uint8, 3*side*side)}
	samples := make([]dataset.Sample, featureBatch)
	for i := range samples {
		samples[i] = dataset.Sample{Image: image, Target: t.data.Train[0].Target}
	}
	images := train.Images(t.loader(samples, t.eval), t.objective, t.model.Config)
	for range 2 { // the first pass compiles
		began := time.Now()
		if _, err := p.Evaluate(ctx, images, featureBatch, nil, nil); err != nil {
			return err
		}
		took := time.Since(began)
		t.forward = took / time.Duration(images.Len())
		if took > measureEnough {
			break
		}
	}
	return nil
}

// measureEnough is the time of a pass in which the time to compile hardly counts.
const measureEnough = 2 * time.Second

// chooseSize compares image sizes with linear probes and returns a task with the chosen one. If a
// time limit leaves too little time for the comparison, it takes the smallest size that is worth
// it.
func (t *Task) chooseSize(ctx context.Context, o *run.TuneOptions, choices *Choices, report progress.Func) (*Task, error) {
	sizes, tasks := t.atSizes(ctx, recipe.Sizes(t.model.Config.ImageSize, choices.Side))
	if len(sizes) == 1 {
		return t, nil
	}
	if o.TimeLimit > 0 {
		if err := t.measureForward(ctx); err != nil {
			return nil, err
		}
		// all sizes together take about twice the time of the largest one
		if 2*t.forward.Seconds()*float64(len(t.data.Train)+len(t.data.Val)) > o.TimeLimit/compareShare {
			if o.Method == method.Linear {
				return t, nil
			}
			return tasks[sizes[len(sizes)-1]], nil
		}
	}
	if err := t.CheckImages(ctx, report); err != nil {
		return nil, err
	}
	for _, size := range sizes {
		at := tasks[size]
		at.checked, at.states = t.checked, t.states
		in, val, err := at.features(ctx, time.Time{}, func(e progress.Event) {
			e.Item = fmt.Sprintf("at %d px", size)
			report.Report(e)
		})
		if err != nil {
			return nil, err
		}
		_, e, err := at.fitProbe(ctx, in, val, o.Train)
		if err != nil {
			return nil, err
		}
		choices.Sizes = append(choices.Sizes, recipe.Size{Pixels: size, Accuracy: e.Accuracy, Loss: e.Loss, Forward: at.forward.Seconds()})
	}
	choose := recipe.Smallest
	if o.Method == method.Linear {
		choose = recipe.Best
	}
	return tasks[choose(choices.Sizes).Pixels], nil
}

// compareShare divides the time limit: the comparison of image sizes takes at most one part.
const compareShare = 10

// atSizes returns the sizes that the backbone takes, and a task for each. The first size is that of
// t.
func (t *Task) atSizes(ctx context.Context, sizes []int) (fit []int, tasks map[int]*Task) {
	fit, tasks = sizes[:1:1], map[int]*Task{sizes[0]: t}
	for _, size := range sizes[1:] {
		if next, err := t.atSize(ctx, size); err == nil { // a patch size does not divide every size
			fit, tasks[size] = append(fit, size), next
		}
	}
	return fit, tasks
}

// atSize returns a task with the same backbone at another image size. Calls with the same size
// return the same task, so a sweep computes the features for its probes once.
func (t *Task) atSize(ctx context.Context, size int) (*Task, error) {
	if at := t.sizes[size]; at != nil {
		return at, nil
	}
	c := t.config.Model
	c.ImageSize = size
	m, _, err := c.Open(ctx, len(t.data.Classes), nil)
	if err != nil {
		return nil, err
	}
	at, err := t.with(m, t.data, t.config.Data.Images)
	if err != nil {
		return nil, err
	}
	if t.sizes == nil {
		t.sizes = map[int]*Task{}
	}
	t.sizes[size] = at
	return at, nil
}

// with returns a task that differs from t in its backbone, its data set and its image options.
func (t *Task) with(m *backbone.Model, data *dataset.Dataset, images run.ImageOptions) (*Task, error) {
	next, err := New(m, data, WithImages(images), WithCompute(t.config.Compute), WithBackend(t.be), WithObjective(t.objective))
	if err != nil {
		return nil, err
	}
	next.cache, next.tensors = t.cache, t.tensors
	if data == t.data {
		next.checked, next.states = t.checked, t.states
	}
	images = next.config.Data.Images
	next.config.Model, next.config.Data = t.config.Model, t.config.Data
	next.config.Data.Images = images
	next.config.Model.ImageSize = m.Config.ImageSize
	return next, nil
}
