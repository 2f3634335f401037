package spt_test

import (
	"bytes"
	"context"
	"errors"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/sptune/spt"
	"github.com/sptune/spt/backbone"
	"github.com/sptune/spt/dataset"
	"github.com/sptune/spt/delta"
	"github.com/sptune/spt/internal/colours"
	"github.com/sptune/spt/method"
	"github.com/sptune/spt/objective"
	"github.com/sptune/spt/progress"
	"github.com/sptune/spt/run"
	"github.com/sptune/spt/sensitivity"
	"github.com/sptune/spt/train"
)

// newImbalancedTask returns a task with 24 red, 4 green and 2 blue training images.
func newImbalancedTask(t *testing.T) *spt.Task {
	t.Helper()
	keep := []int{24, 4, 2}
	samples := slices.DeleteFunc(colours.Samples(72, 16, 0), func(s dataset.Sample) bool {
		keep[s.Target.Stratum()]--
		return keep[s.Target.Stratum()] < 0
	})
	data, err := dataset.New("colours", []string{"red", "green", "blue"}, samples, colours.Samples(9, 16, 77), colours.Samples(12, 16, 93))
	if err != nil {
		t.Fatal(err)
	}
	task, err := spt.New(colours.Model(config), data)
	if err != nil {
		t.Fatal(err)
	}
	return task
}

// TestClassWeights checks the weights that a run records.
func TestClassWeights(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "weights.json")
	if err := os.WriteFile(file, []byte(`{"red": 1, "green": 1, "blue": 4}`), 0o666); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		from     string
		sampling bool
		want     []float64 // nil: no weights
	}{
		{"", false, nil}, {train.NoWeights, false, nil},
		{train.AutoWeights, false, []float64{30.0 / 72, 30.0 / 12, 30.0 / 6}},
		{train.AutoWeights, true, []float64{1, 1, 1}},
		{file, false, []float64{30.0 / 36, 30.0 / 36, 120.0 / 36}},
		{file, true, []float64{0.5, 0.5, 2}},
	} {
		o := options(method.Linear)
		o.Train.ClassWeights, o.Train.BalancedSampling = c.from, c.sampling
		task := newImbalancedTask(t)
		tune, err := task.Effective(o)
		if err != nil {
			t.Fatal(err)
		}
		single, err := task.EffectiveTrain(run.TrainOptions{Method: method.Linear, Train: o.Train}, nil)
		if err != nil {
			t.Fatal(err)
		}
		for _, got := range [][]float64{tune.Train.ClassWeightValues, single.Train.ClassWeightValues} {
			if !slices.EqualFunc(got, c.want, func(a, b float64) bool { return math.Abs(a-b) < 1e-12 }) {
				t.Errorf("weights from %q, balanced sampling %t: %v, expected %v", c.from, c.sampling, got, c.want)
			}
		}
		// The recorded options of a run keep their weights, without the file.
		again := tune
		if c.want != nil {
			again.Train.ClassWeights = filepath.Join(dir, "moved.json")
		}
		if again, err = task.Effective(again); err != nil || !slices.Equal(again.Train.ClassWeightValues, tune.Train.ClassWeightValues) {
			t.Errorf("weights from %q: recorded %v, used %v, %v", c.from, tune.Train.ClassWeightValues, again.Train.ClassWeightValues, err)
		}
	}
	o := options(method.Linear)
	o.Train.ClassWeights = filepath.Join(dir, "missing.json")
	var input *run.InputError
	if _, err := newImbalancedTask(t).Effective(o); !errors.As(err, &input) {
		t.Errorf("a missing file: error %v", err)
	}
}

// wrapped is an objective that gives neither losses of images nor counts of classes.
type wrapped struct{ objective.Objective }

func (wrapped) NewMetrics(backbone.Config) objective.Metrics { return noMetrics{} }

type noMetrics struct{}

func (noMetrics) Add([]float32, []int32) error     { return nil }
func (noMetrics) Evaluation() objective.Evaluation { return objective.Evaluation{} }

// TestBalanceRefuses checks that options that the objective does not support are refused.
func TestBalanceRefuses(t *testing.T) {
	task, err := spt.New(colours.Model(config), newImbalancedTask(t).Data(), spt.WithObjective(wrapped{objective.SingleLabel}))
	if err != nil {
		t.Fatal(err)
	}
	for name, set := range map[string]func(o *train.Options){
		"label-smoothing": func(o *train.Options) { o.LabelSmoothing = 0.1 },
		"class-weights":   func(o *train.Options) { o.ClassWeights = train.AutoWeights },
		"select":          func(o *train.Options) { o.Select = objective.ByBalanced },
	} {
		o := options(method.Linear)
		set(&o.Train)
		_, tune := task.Effective(o)
		_, single := task.EffectiveTrain(run.TrainOptions{Method: method.Linear, Train: o.Train}, nil)
		for _, err := range []error{tune, single} {
			if option := (*run.OptionError)(nil); !errors.As(err, &option) || option.Option != name || !strings.Contains(err.Error(), "which the objective single-label does not give") {
				t.Errorf("%s: error %v", name, err)
			}
		}
	}
}

// TestTuneBalanced stops a run with all options for imbalanced classes, and resumes it without the
// file of its class weights. The delta has the same bytes as that of a run without a stop.
func TestTuneBalanced(t *testing.T) {
	file := filepath.Join(t.TempDir(), "weights.csv")
	if err := os.WriteFile(file, []byte("red,1\ngreen,2\nblue,3\n"), 0o666); err != nil {
		t.Fatal(err)
	}
	o := options(method.SPTLoRA, "400", "12%")
	o.Train.LabelSmoothing, o.Train.ClassWeights, o.Train.BalancedSampling, o.Train.Select, o.Score.Stratified = 0.1, file, true, objective.ByMacroF1, true
	whole, dir := t.TempDir(), t.TempDir()
	want, err := newImbalancedTask(t).Tune(t.Context(), o, whole, nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range want.Candidates {
		if c.ValMetric == 0 {
			t.Errorf("candidate %+v has no metric", c)
		}
	}
	for _, epoch := range []int{0, 2} {
		ctx, cancel := context.WithCancel(t.Context())
		_, err := newImbalancedTask(t).Tune(ctx, o, dir, func(e progress.Event) {
			if e.Stage == progress.Train && e.Candidate == "" && e.Epoch == epoch && e.Done == 1 {
				cancel()
			}
		})
		cancel()
		if !errors.Is(err, context.Canceled) {
			t.Fatalf("the run was not stopped: %v", err)
		}
		if err := os.RemoveAll(file); err != nil {
			t.Fatal(err)
		}
		_, recorded, err := run.Open(dir)
		if err != nil {
			t.Fatal(err)
		}
		o = recorded.Tune
	}
	if _, err := newImbalancedTask(t).Tune(t.Context(), o, dir, nil); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{delta.TensorsName, run.PlanFile} {
		a, err := os.ReadFile(filepath.Join(whole, name))
		if err != nil {
			t.Fatal(err)
		}
		if b, err := os.ReadFile(filepath.Join(dir, name)); err != nil || !bytes.Equal(a, b) {
			t.Errorf("%s differs after a stop: %v", name, err)
		}
	}
}

// TestSelect checks that a run chooses by its metric, and that the metric is that of package
// evaluate.
func TestSelect(t *testing.T) {
	for by, value := range map[objective.Selection]func(c run.Candidate) float64{
		"":                   func(c run.Candidate) float64 { return c.ValAccuracy },
		objective.ByLoss:     func(c run.Candidate) float64 { return -c.ValLoss },
		objective.ByBalanced: func(c run.Candidate) float64 { return c.ValMetric },
		objective.ByMacroF1:  func(c run.Candidate) float64 { return c.ValMetric },
	} {
		o := options(method.Linear)
		o.LRs, o.Train.Select, o.ValidationOnly = []float64{1e-4, 1e-2, 1e-1, 3}, by, true
		r, err := newImbalancedTask(t).Tune(t.Context(), o, t.TempDir(), nil)
		if err != nil {
			t.Fatal(err)
		}
		best := slices.MaxFunc(r.Candidates, func(a, b run.Candidate) int { return int(math.Copysign(1, value(a)-value(b))) })
		for _, c := range r.Candidates {
			if c.LR == r.LR && value(c) != value(best) || c.Selected(by) != value(c) {
				t.Errorf("by %q: chosen %+v, the best is %+v", by, c, best)
			}
		}
		want := map[objective.Selection]float64{objective.ByBalanced: r.Metrics.BalancedAccuracy, objective.ByMacroF1: r.Metrics.Macro.F1}
		for _, c := range r.Candidates {
			if c.LR == r.LR && math.Abs(c.ValMetric-want[by]) > 1e-12 {
				t.Errorf("by %q: the stored metric is %g, package evaluate has %g", by, c.ValMetric, want[by])
			}
		}
	}
}

// TestStratifiedScores checks that stratified images change the scores, and that a few of them are
// of all classes.
func TestStratifiedScores(t *testing.T) {
	task := newImbalancedTask(t)
	var losses [2]float64
	for i := range losses {
		s, err := task.Score(t.Context(), sensitivity.Options{Batches: 1, BatchSize: 6, Stratified: i == 1}, nil)
		if err != nil {
			t.Fatal(err)
		}
		losses[i] = s.Losses[0]
	}
	if losses[0] == losses[1] {
		t.Error("the option has no effect")
	}
}
