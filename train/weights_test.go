package train_test

import (
	"encoding/json"
	"fmt"
	"math"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/gomlx/gomlx/core/tensors"

	"github.com/sptune/spt/backend"
	"github.com/sptune/spt/checkpoint"
	"github.com/sptune/spt/dataset"
	"github.com/sptune/spt/internal/colours"
	"github.com/sptune/spt/internal/program"
	"github.com/sptune/spt/objective"
	"github.com/sptune/spt/peft"
	"github.com/sptune/spt/train"
)

// weighted holds the content of testdata/weighted.json, which testdata/make.py writes.
type weighted struct {
	Run struct {
		Smoothing, LR float64
		WeightDecay   float64 `json:"weight_decay"`
		Weights       []float32
		Batch         int
		Weight, Bias  []float32
		TrainedWeight []float64 `json:"trained_weight"`
		TrainedBias   []float64 `json:"trained_bias"`
		Steps         []struct {
			Features, Shares []float32
			Labels, Others   []int32
			Loss             float64
		}
	}
	Balanced []struct {
		Counts  []int
		Weights []float64
	}
}

func readWeighted(t *testing.T) (w weighted) {
	t.Helper()
	data, err := os.ReadFile("testdata/weighted.json")
	if err == nil {
		err = json.Unmarshal(data, &w)
	}
	if err != nil || len(w.Run.Steps) == 0 || len(w.Balanced) == 0 {
		t.Fatalf("reading the fixtures: %v", err)
	}
	return w
}

// TestWeightedTraining repeats a training of a head in PyTorch, with label smoothing, weights of
// classes and, in every second step, mixed images. It compares the losses and the trained head.
func TestWeightedTraining(t *testing.T) {
	want := readWeighted(t).Run
	r := newRun(t, peft.Selection{})
	initial := checkpoint.StateDict{"head.weight": {Shape: []int{3, 8}, Data: want.Weight}, "head.bias": {Shape: []int{3}, Data: want.Bias}}
	s, err := train.NewStepper(r.Backend, r.Model, objective.SingleLabel, r.Tuning, initial, train.StepOptions{WeightDecay: want.WeightDecay,
		Loss: objective.LossOptions{Smoothing: want.Smoothing, ClassWeights: want.Weights}})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	place := func(x *tensors.Tensor, err error) *tensors.Tensor {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return x
	}
	for i, step := range want.Steps {
		x := place(program.Tensor(r.Backend, step.Features, want.Batch, 8))
		y := place(program.Tensor(r.Backend, step.Labels, want.Batch))
		if step.Others == nil {
			err = s.Enqueue(t.Context(), x, y, want.LR, 0)
		} else {
			err = s.EnqueueMixed(t.Context(), x, y, place(program.Tensor(r.Backend, step.Others, want.Batch)), place(program.Tensor(r.Backend, step.Shares, want.Batch)), want.LR, 0)
		}
		if err != nil {
			t.Fatal(err)
		}
		m, err := s.Read()
		if err != nil {
			t.Fatal(err)
		}
		if math.Abs(m[0].Loss-step.Loss) > 1e-5*step.Loss {
			t.Errorf("step %d: loss %g, PyTorch has %g", i, m[0].Loss, step.Loss)
		}
	}
	tuned, err := s.Tuned()
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string][]float64{"head.weight": want.TrainedWeight, "head.bias": want.TrainedBias} {
		for i, v := range tuned[name].Data {
			if math.Abs(float64(v)-want[i]) > 1e-5 {
				t.Errorf("%s[%d] is %g, PyTorch has %g", name, i, v, want[i])
			}
		}
	}
}

// TestBalancedWeights compares class weights with compute_class_weight of scikit-learn.
func TestBalancedWeights(t *testing.T) {
	for _, f := range readWeighted(t).Balanced {
		got, mean, n := train.BalancedWeights(f.Counts), 0.0, 0
		for class, want := range f.Weights {
			if math.Abs(got[class]-want) > 1e-12*want {
				t.Errorf("counts %v: weight %g of class %d, scikit-learn has %g", f.Counts, got[class], class, want)
			}
			mean += got[class] * float64(f.Counts[class])
			n += f.Counts[class]
		}
		if mean /= float64(n); math.Abs(mean-1) > 1e-12 {
			t.Errorf("counts %v: the mean weight is %g", f.Counts, mean)
		}
	}
	if got := train.BalancedWeights([]int{4, 0, 1}); got[1] != got[2] || math.Abs(4*got[0]+got[2]-5) > 1e-12 {
		t.Errorf("a class without images: weights %v", got)
	}
}

// imbalanced returns n images of which most have the first class.
func imbalanced(n int) *train.Data {
	samples := colours.Samples(n, 8, 0)
	for i := range samples {
		samples[i].Target = dataset.Class(max(0, i-n+3))
	}
	return train.Images(dataset.NewLoader(samples, dataset.Transform{Size: 8, HorizontalFlip: true}, nil, dataset.LoaderOptions{}), objective.SingleLabel, config)
}

func balancing(r *train.Run) {
	r.Train, r.Options.BalancedSampling, r.Options.LabelSmoothing, r.Options.Select = imbalanced(24), true, 0.1, objective.ByBalanced
	r.Options.ClassWeights, r.Options.ClassWeightValues = train.AutoWeights, []float64{0.5, 1, 1.5}
}

// TestResumeBalanced checks that a stopped training with balanced sampling, class weights and label
// smoothing resumes with the same bits.
func TestResumeBalanced(t *testing.T) {
	testResume(t, 3, func() *train.Run {
		r := newRun(t, selection)
		balancing(r)
		return r
	})
}

// TestBalancing checks that the options change a training, also that of a head alone, which reads
// features, and that the metric of the choice is kept.
func TestBalancing(t *testing.T) {
	for name, s := range map[string]peft.Selection{"modules": selection, "head": {}} {
		losses := map[string]float64{}
		for option, set := range map[string]func(o *train.Options){
			"none":       func(o *train.Options) {},
			"sampling":   func(o *train.Options) { o.BalancedSampling = true },
			"smoothing":  func(o *train.Options) { o.LabelSmoothing = 0.2 },
			"weights":    func(o *train.Options) { o.ClassWeightValues = []float64{0.2, 1, 3} },
			"no weights": func(o *train.Options) { o.ClassWeights, o.ClassWeightValues = train.NoWeights, []float64{0.2, 1, 3} },
		} {
			r := newRun(t, s)
			r.Train, r.Options.Select = imbalanced(24), objective.ByBalanced
			set(&r.Options)
			result, err := r.Do(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			last := result.Epochs[len(result.Epochs)-1]
			losses[option] = last.TrainLoss
			// The validation images are three of each class, so balanced accuracy is accuracy.
			if math.Abs(last.ValMetric-last.ValAccuracy) > 1e-12 || last.Selected(objective.ByBalanced) != last.ValMetric || last.Selected(objective.ByLoss) != -last.ValLoss || last.Selected("") != last.ValAccuracy {
				t.Errorf("%s, %s: the epoch is %+v", name, option, last)
			}
		}
		if losses["no weights"] != losses["none"] {
			t.Errorf("%s: loss %g with weights that are turned off, %g without", name, losses["no weights"], losses["none"])
		}
		delete(losses, "no weights")
		seen := map[float64]bool{}
		for _, l := range losses {
			seen[l] = true
		}
		if len(seen) != len(losses) {
			t.Errorf("%s: an option has no effect: losses %v", name, losses)
		}
	}
}

// plain is an objective that does not give the losses of images.
type plain struct{ objective.Objective }

// TestBalancingErrors checks that options that cannot work are refused before any work.
func TestBalancingErrors(t *testing.T) {
	for want, set := range map[string]func(r *train.Run){
		"label smoothing 1: expected":     func(r *train.Run) { r.Options.LabelSmoothing = 1 },
		"label smoothing NaN: expected":   func(r *train.Run) { r.Options.LabelSmoothing = math.NaN() },
		"expected finite numbers above 0": func(r *train.Run) { r.Options.ClassWeightValues = []float64{1, 0, 1} },
		"class weights [1 1 1e+300]":      func(r *train.Run) { r.Options.ClassWeightValues = []float64{1, 1, 1e300} },
		"weights of 2 classes":            func(r *train.Run) { r.Options.ClassWeightValues = []float64{1, 2} },
		"ClassWeightValues is not set":    func(r *train.Run) { r.Options.ClassWeights = train.AutoWeights },
		`metric "f1" is unknown`:          func(r *train.Run) { r.Options.Select = "f1" },
		"label smoothing needs the loss of": func(r *train.Run) {
			r.Options.LabelSmoothing, r.Train, r.Val = 0.1, withObjective(plain{objective.SingleLabel}), nil
		},
		"weighting classes needs the loss of": func(r *train.Run) {
			r.Options.ClassWeightValues, r.Train, r.Val = []float64{1, 1, 1}, withObjective(plain{objective.SingleLabel}), nil
		},
	} {
		r := newRun(t, selection)
		set(r)
		steps := 0
		r.EpochDone = func([]train.Epoch) error { steps++; return nil }
		if _, err := r.Do(t.Context()); err == nil || !strings.Contains(err.Error(), want) || steps > 0 {
			t.Errorf("error %v after %d epochs, expected %q", err, steps, want)
		}
	}
	r := newRun(t, selection)
	tuned := r.Tuning.Init(0, peft.PaperScheme, r.Model.Weights)
	if _, err := train.NewStepper(r.Backend, r.Model, plain{objective.SingleLabel}, r.Tuning, tuned, train.StepOptions{Loss: objective.LossOptions{Smoothing: 0.1}}); err == nil || !strings.Contains(err.Error(), "loss of each image") {
		t.Errorf("a stepper with label smoothing: error %v", err)
	}
	s, err := train.NewStepper(r.Backend, r.Model, plain{objective.SingleLabel}, r.Tuning, tuned, train.StepOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	x, y, shares := noise(t, r.Backend, 4)
	if err := s.EnqueueMixed(t.Context(), x, y, y, shares, 1e-3, 0); err == nil || !strings.Contains(err.Error(), "mixing images needs the loss of each image") {
		t.Errorf("mixed images: error %v", err)
	}
}

func withObjective(o objective.Objective) *train.Data {
	return train.Images(dataset.NewLoader(colours.Samples(24, 8, 0), dataset.Transform{Size: 8}, nil, dataset.LoaderOptions{}), o, config)
}

// noise returns n random images, their labels, and shares from 0 to 1.
func noise(t *testing.T, be backend.Backend, n int) (images, labels, shares *tensors.Tensor) {
	t.Helper()
	pixels, classes := colours.Noise(n, 8)
	part := make([]float32, n)
	for i := range part {
		part[i] = float32(i) / float32(n-1)
	}
	var err error
	for _, make := range []func() error{
		func() error { images, err = program.Tensor(be, pixels, n, 8, 8, 3); return err },
		func() error { labels, err = program.Tensor(be, classes, n); return err },
		func() error { shares, err = program.Tensor(be, part, n); return err },
	} {
		if err := make(); err != nil {
			t.Fatal(err)
		}
	}
	return images, labels, shares
}

// TestMixedWithItself checks that images that are mixed with images of the same target train as
// images without mixing, and that the share of an image decides which target it has.
func TestMixedWithItself(t *testing.T) {
	r := newRun(t, selection)
	images, labels, _ := noise(t, r.Backend, 12)
	_, classes := colours.Noise(12, 8)
	moved := slices.Clone(classes)
	for i := range moved {
		moved[i] = (moved[i] + 1) % 3
	}
	others, err := program.Tensor(r.Backend, moved, 12)
	if err != nil {
		t.Fatal(err)
	}
	step := func(mix bool, targets, others *tensors.Tensor, share float32) (loss float64, correct float64) {
		t.Helper()
		s, err := train.NewStepper(r.Backend, r.Model, objective.SingleLabel, r.Tuning, r.Tuning.Init(0, peft.PaperScheme, r.Model.Weights), train.StepOptions{})
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		if mix {
			shares, err := program.Tensor(r.Backend, slices.Repeat([]float32{share}, 12), 12)
			if err != nil {
				t.Fatal(err)
			}
			err = s.EnqueueMixed(t.Context(), images, targets, others, shares, 1e-3, 0)
			if err != nil {
				t.Fatal(err)
			}
		} else if err := s.Enqueue(t.Context(), images, targets, 1e-3, 0); err != nil {
			t.Fatal(err)
		}
		m, err := s.Read()
		if err != nil {
			t.Fatal(err)
		}
		return m[0].Loss, m[0].Correct
	}
	one, hits := step(false, labels, nil, 0)
	two, _ := step(false, others, nil, 0)
	for _, c := range []struct {
		targets, others *tensors.Tensor
		share           float32
		want            float64
	}{{labels, labels, 0.3, one}, {labels, others, 1, one}, {labels, others, 0, two}, {labels, others, 0.25, 0.25*one + 0.75*two}} {
		got, correct := step(true, c.targets, c.others, c.share)
		if math.Abs(got-c.want) > 1e-6 {
			t.Errorf("share %g: loss %g, expected %g", c.share, got, c.want)
		}
		if correct != hits {
			t.Errorf("share %g: %g correct predictions, expected %g, those of the own targets", c.share, correct, hits)
		}
	}
	if fmt.Sprint(one) == fmt.Sprint(two) {
		t.Error("the targets make no difference")
	}
}
