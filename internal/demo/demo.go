// Package demo is a complete fine-tuning story without any file: a small ViT
// that this project pretrained itself, embedded in the binary, and generated
// tasks of the kind of VTAB's structured group.
//
// [Model] is the embedded backbone, [Data] a task, [Run] compares methods on a
// task. [Pretrain] made the backbone.
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

// Tasks lists the generated tasks' names.
func Tasks() []string {
	var out []string
	for _, t := range synth.Tasks() {
		out = append(out, t.Name)
	}
	return out
}

// Data draws a generated task of the given split sizes.
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

// Options of the demo. Zero values are the defaults.
type Options struct {
	Task    string          // "location"
	Methods []method.Method // linear, lora, spt-lora, spt-adapter, full
	Epochs  int             // 10
	Budget  plan.Budget     // DefaultBudget; for SPT, LoRA and Adapter alike
	Seed    uint64
	Compute run.ComputeConfig // the best device there is
}

// Defaults of Options, and the size of a task: that of VTAB-1k.
const (
	DefaultTask   = "location"
	DefaultEpochs = 10
	trainImages   = 800
	valImages     = 200
	testImages    = 400
	rank          = 4 // of SPT's modules: half the paper's, on matrices a twelfth as wide
)

// DefaultBudget is the default of Options.Budget.
var DefaultBudget = plan.MustParseBudget("5%")

// DefaultMethods are compared unless others are asked for: those that fit into
// a minute on two cores.
func DefaultMethods() []method.Method {
	return []method.Method{method.Linear, method.LoRA, method.SPTLoRA, method.SPTAdapter, method.Full}
}

// Row is what one method reached.
type Row struct {
	Method       method.Method `json:"method"`
	Epochs       int           `json:"epochs"` // as Recipe has them
	Counts       peft.Counts   `json:"counts"`
	ValAccuracy  float64       `json:"val_accuracy"`
	TestAccuracy float64       `json:"test_accuracy"`
	Seconds      float64       `json:"seconds"` // scoring, planning, training, validation and test
}

// Run tunes the embedded backbone on a task with each method, on the training
// images alone, once, and tests the last epoch once. Nothing is selected.
// report may be nil.
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
	// The images are in memory and have their size, so a cache would only copy them.
	task, err := spt.New(m, data, spt.WithImages(run.ImageOptions{CacheBytes: -1}), spt.WithCompute(o.Compute))
	if err != nil {
		return nil, err
	}
	for _, m := range o.Methods { // before any is trained
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
