// Package demo fine-tunes a backbone without any file: a small ViT that is embedded in the binary,
// on synthetic tasks like those of VTAB's structured group.
//
// [Data] returns a task, and [Run] compares methods on a task. [Pretrain] pretrains the embedded
// backbone.
package demo

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/sptune/spt"
	"github.com/sptune/spt/dataset"
	"github.com/sptune/spt/internal/embedded"
	"github.com/sptune/spt/internal/synth"
	"github.com/sptune/spt/method"
	"github.com/sptune/spt/peft"
	"github.com/sptune/spt/plan"
	"github.com/sptune/spt/progress"
	"github.com/sptune/spt/run"
	"github.com/sptune/spt/sensitivity"
)

// Tasks returns the names of the synthetic tasks.
func Tasks() []string {
	var out []string
	for _, t := range synth.Tasks() {
		out = append(out, t.Name)
	}
	return out
}

// Data draws the images of a synthetic task, that many for each split.
func Data(task string, train, val, test int, seed uint64) (*dataset.Dataset, error) {
	for _, t := range synth.Tasks() {
		if t.Name != task {
			continue
		}
		draw := func(split string, n int) []dataset.Sample {
			var out []dataset.Sample
			for i := range n {
				pix, label := t.Image(seed, split, i, synth.DefaultSize)
				out = append(out, dataset.Sample{Image: &dataset.RGB{Width: synth.DefaultSize, Height: synth.DefaultSize, Pix: pix}, Target: dataset.Class(label)})
			}
			return out
		}
		return dataset.New(task, t.Classes, draw("train", train), draw("val", val), draw("test", test))
	}
	return nil, fmt.Errorf("demo task %q is unknown; known: %s", task, strings.Join(Tasks(), ", "))
}

// Options configures [Run].
type Options struct {
	// Task is the name of the task, one of [Tasks]. Default "": DefaultTask.
	Task string

	// Methods are the methods to compare. Default nil: DefaultMethods.
	Methods []method.Method

	// Epochs is the number of passes over the training images; Recipe changes it for some methods.
	// Default 0: DefaultEpochs.
	Epochs int

	// Budget is the number of tuned parameters, or their share of the backbone, for SPT, LoRA and
	// Adapter. Default zero: DefaultBudget.
	Budget plan.Budget

	// Seed is the seed of the images and of everything that is drawn at random.
	Seed uint64

	// Compute is the device and the precision. Default zero: the best device of the machine.
	Compute run.ComputeConfig
}

// The defaults of Options, and the sizes of a task. The sizes of train and val are those of
// VTAB-1k.
const (
	DefaultTask   = "location"
	DefaultEpochs = 10
	trainImages   = 800
	valImages     = 200
	testImages    = 400
	rank          = 4 // rank of SPT's modules: half of the paper's, on matrices a twelfth as wide
)

// DefaultBudget is the default of Options.Budget.
var DefaultBudget = plan.MustParseBudget("5%")

// DefaultMethods returns the methods that are compared by default. Together they take about a
// minute on two cores.
func DefaultMethods() []method.Method {
	return []method.Method{method.Linear, method.LoRA, method.SPTLoRA, method.SPTAdapter, method.Full}
}

// Row is the result of one method.
type Row struct {
	Method       method.Method `json:"method"`
	Epochs       int           `json:"epochs"` // epochs of Recipe
	Counts       peft.Counts   `json:"counts"` // tuned parameters
	ValAccuracy  float64       `json:"val_accuracy"`
	TestAccuracy float64       `json:"test_accuracy"`
	// time of scoring, planning, training, validation and test
	Seconds float64 `json:"seconds"`
}

// Run tunes the embedded backbone on a task with each method. Each method trains once, on the
// training images, and is tested once, after the last epoch; nothing is selected on test images.
// report receives the events of each method; it may be nil.
func Run(ctx context.Context, o Options, report func(m method.Method, e progress.Event)) ([]Row, error) {
	if o.Task == "" {
		o.Task = DefaultTask
	}
	if o.Epochs == 0 {
		o.Epochs = DefaultEpochs
	}
	if o.Budget.IsZero() {
		o.Budget = DefaultBudget
	}
	if len(o.Methods) == 0 {
		o.Methods = DefaultMethods()
	}
	if report == nil {
		report = func(method.Method, progress.Event) {}
	}
	data, err := Data(o.Task, trainImages, valImages, testImages, o.Seed)
	if err != nil {
		return nil, err
	}
	m, err := embedded.Model(len(data.Classes))
	if err != nil {
		return nil, err
	}
	// The images are in memory and have their final size already, so a cache would only copy them.
	task, err := spt.New(m, data, spt.WithImages(run.ImageOptions{CacheBytes: -1}), spt.WithCompute(o.Compute))
	if err != nil {
		return nil, err
	}
	for _, m := range o.Methods { // checks all methods before the first one trains
		if row, err := method.Lookup(m); err == nil && !row.Takes("budget") {
			continue
		}
		options := run.TuneOptions{Method: m, Budgets: []plan.Budget{o.Budget}, Train: Recipe(m, o.Epochs, o.Seed)}
		if _, err := task.Effective(options); err != nil {
			return nil, fmt.Errorf("%s: %w", m, err)
		}
	}
	var rows []Row
	for _, m := range o.Methods {
		row, err := compare(ctx, task, m, o, func(e progress.Event) { report(m, e) })
		if err != nil {
			return rows, fmt.Errorf("%s: %w", m, err)
		}
		rows = append(rows, row)
	}
	return rows, nil
}

// compare returns the row of one method.
func compare(ctx context.Context, t *spt.Task, m method.Method, o Options, report progress.Func) (Row, error) {
	start := time.Now()
	row, err := method.Lookup(m)
	if err != nil {
		return Row{}, err
	}
	var s peft.Selection
	if row.Scores {
		scores, err := t.Score(ctx, sensitivity.Options{Seed: o.Seed}, report)
		if err != nil {
			return Row{}, err
		}
		p, err := spt.Plan(ctx, t.Model().Config, scores, o.Budget, plan.Options{Module: row.Module, Only: row.Only, Rank: rank})
		if err != nil {
			return Row{}, err
		}
		report(progress.Event{Stage: progress.Plan, Detail: p})
		s = spt.Select(t.Model().Config, p)
	} else {
		var tuned method.Options
		if row.Takes("budget") {
			tuned.Budget = o.Budget
		}
		if s, err = row.Select(t.Model().Config, tuned); err != nil {
			return Row{}, err
		}
	}
	recipe := Recipe(m, o.Epochs, o.Seed)
	trained, err := t.Train(ctx, s, spt.TrainOptions{Options: recipe, Progress: report})
	if err != nil {
		return Row{}, err
	}
	e, err := t.Evaluate(ctx, trained, "test", t.Data().Test, report)
	if err != nil {
		return Row{}, err
	}
	last := trained.Epochs[len(trained.Epochs)-1]
	return Row{m, recipe.Epochs, trained.Tuning.Counts, last.ValAccuracy, e.Accuracy, time.Since(start).Seconds()}, nil
}
