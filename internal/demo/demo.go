// Package demo fine-tunes a backbone without any file. The backbone is a small ViT that is embedded
// in the binary, and the tasks are synthetic: a few images of each of 16 new classes, or a question
// that the pretraining did not ask. The command 'spt demo' uses this package.
//
// [Run] compares methods on a task. [Data] returns the images of a task. [Pretrain] is the program
// that made the weights of the embedded backbone, for the command 'spt pretrain'.
package demo

import (
	"context"
	"fmt"
	"time"

	"github.com/sptune/spt"
	"github.com/sptune/spt/dataset"
	"github.com/sptune/spt/evaluate"
	"github.com/sptune/spt/internal/embedded"
	"github.com/sptune/spt/internal/option"
	"github.com/sptune/spt/internal/synth"
	"github.com/sptune/spt/method"
	"github.com/sptune/spt/peft"
	"github.com/sptune/spt/plan"
	"github.com/sptune/spt/progress"
	"github.com/sptune/spt/report"
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

// Data returns the data set of a synthetic task. train, val and test are the numbers of images in
// the splits. The same arguments give the same images. An unknown task is an error.
func Data(task string, train, val, test int, seed uint64) (*dataset.Dataset, error) {
	t, err := lookup(task)
	if err != nil {
		return nil, err
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

// lookup returns the task with a name.
func lookup(name string) (synth.Task, error) {
	for _, t := range synth.Tasks() {
		if t.Name == name {
			return t, nil
		}
	}
	return synth.Task{}, option.Unknown("task", "demo task", name, Tasks())
}

// Options configures [Run].
type Options struct {
	// Task is the name of the task, one of [Tasks]. Default: DefaultTask.
	Task string

	// Methods lists the methods to compare. Default: the result of DefaultMethods.
	Methods []method.Method

	// Epochs is the number of epochs, that is of passes over the training images. Linear probing
	// takes ten times as many; see [Recipe]. Default: DefaultEpochs.
	Epochs int

	// Budget is the number of tuned parameters, or their share of the backbone. It applies to the
	// methods that take a budget: SPT, LoRA and Adapter. Default: DefaultBudget.
	Budget plan.Budget

	// Seed is the seed of the images, the initial weights and the training. Default: 0.
	Seed uint64

	// Compute selects the device and the precision. Default: the best device of the machine.
	Compute run.ComputeConfig
}

// rank is the rank of the SPT modules. It is half of the rank in the paper, for matrices a sixth as
// wide.
const rank = 4

// These are the defaults of Options.
const (
	DefaultTask   = "surfaces"
	DefaultEpochs = 10
)

// TrainPerClass is the number of training images of each class in [Run].
const TrainPerClass = 25

// valPerClass and testPerClass are the numbers of the other images of each class in Run.
const (
	valPerClass  = 10
	testPerClass = 25
)

// DefaultBudget is the default of Options.Budget.
var DefaultBudget = plan.MustParseBudget("5%")

// DefaultMethods returns the methods that [Run] compares by default. Together they take about one
// minute on two CPU cores.
func DefaultMethods() []method.Method {
	return []method.Method{method.Linear, method.LoRA, method.SPTLoRA, method.SPTAdapter, method.Full}
}

// Row holds the result of one method.
type Row struct {
	// Method is the method.
	Method method.Method `json:"method"`
	// Epochs is the number of epochs that the method trained; see [Recipe].
	Epochs int `json:"epochs"`
	// Counts holds the numbers of tuned parameters.
	Counts peft.Counts `json:"counts"`
	// ValAccuracy and TestAccuracy are the accuracies after the last epoch, from 0 to 1.
	ValAccuracy  float64 `json:"val_accuracy"`
	TestAccuracy float64 `json:"test_accuracy"`
	// Seconds is the time for scoring, planning, training, validation and test.
	Seconds float64 `json:"seconds"`
	// Run holds what a report shows. The first row also describes the data set.
	Run *report.Run `json:"-"`
}

// Run tunes the embedded backbone on a task with each method, and returns one row for each method.
// A method trains once on the training images. It is tested once, after the last epoch. Run makes
// no choice by results on the test images. It calls events with the progress events of each method;
// events may be nil. If a method fails, Run returns the rows of the methods before it and an error.
func Run(ctx context.Context, o Options, events func(m method.Method, e progress.Event)) ([]Row, error) {
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
	if events == nil {
		events = func(method.Method, progress.Event) {}
	}
	synthetic, err := lookup(o.Task)
	if err != nil {
		return nil, err
	}
	n := len(synthetic.Classes)
	data, err := Data(o.Task, n*TrainPerClass, n*valPerClass, n*testPerClass, o.Seed)
	if err != nil {
		return nil, err
	}
	m, err := embedded.Model(len(data.Classes))
	if err != nil {
		return nil, err
	}
	// The images are in memory and already have their final size, so a cache would only copy them.
	task, err := spt.New(m, data, spt.WithImages(run.ImageOptions{CacheBytes: -1}), spt.WithCompute(o.Compute))
	if err != nil {
		return nil, err
	}
	for _, m := range o.Methods { // check the options of all methods before the first one trains
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
		row, err := compare(ctx, task, m, o, func(e progress.Event) { events(m, e) })
		if err != nil {
			return rows, fmt.Errorf("%s: %w", m, err)
		}
		rows = append(rows, row)
	}
	if rows[0].Run.Data, err = report.NewData(ctx, data, 0); err != nil {
		return rows, err
	}
	return rows, nil
}

// compare tunes with one method and returns its row.
func compare(ctx context.Context, t *spt.Task, m method.Method, o Options, events progress.Func) (Row, error) {
	start := time.Now()
	row, err := method.Lookup(m)
	if err != nil {
		return Row{}, err
	}
	var s peft.Selection
	var p *plan.Plan
	if row.Scores {
		scores, err := t.Score(ctx, sensitivity.Options{Seed: o.Seed}, events)
		if err != nil {
			return Row{}, err
		}
		p, err = spt.Plan(ctx, t.Model().Config, scores, o.Budget, plan.Options{Module: row.Module, Only: row.Only, Rank: rank})
		if err != nil {
			return Row{}, err
		}
		events(progress.Event{Stage: progress.Plan, Detail: p})
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
	trained, err := t.Train(ctx, s, spt.TrainOptions{Options: recipe, Progress: events})
	if err != nil {
		return Row{}, err
	}
	e, predictions, err := t.Evaluate(ctx, trained, "test", t.Data().Test, events)
	if err != nil {
		return Row{}, err
	}
	last := trained.Epochs[len(trained.Epochs)-1]
	result := Row{m, recipe.Epochs, trained.Tuning.Counts, last.ValAccuracy, e.Accuracy, time.Since(start).Seconds(), nil}
	result.Run, err = describe(ctx, t.Data(), result, o, trained, p, predictions.Single)
	return result, err
}

// describe returns what a report shows of one method.
func describe(ctx context.Context, d *dataset.Dataset, r Row, o Options, trained *spt.Trained, p *plan.Plan, predictions *evaluate.Predictions) (*report.Run, error) {
	e, err := report.NewEvaluation("test", predictions, 0)
	if err != nil {
		return nil, err
	}
	if err := e.AddPictures(ctx, report.Sources{Data: d}); err != nil {
		return nil, err
	}
	config := run.Config{Tune: run.TuneOptions{Method: r.Method, Train: Recipe(r.Method, o.Epochs, o.Seed)}}
	result := &run.Result{Method: r.Method, LR: config.Tune.Train.LR, Rank: trained.Tuning.Selection.Rank, Counts: r.Counts, Val: &r.ValAccuracy,
		TrainedOn: "train", Epochs: trained.Epochs, Seconds: r.Seconds, Finished: time.Now().UTC(), Classes: d.Classes}
	if row, err := method.Lookup(r.Method); err == nil && row.Takes("budget") {
		result.Budget = o.Budget
	}
	return &report.Run{Name: string(r.Method), Config: config, Result: result, Trainings: []report.Training{{Epochs: trained.Epochs}},
		Tuning: trained.Tuning, Plan: p, Evaluation: e}, nil
}
