package objective_test

import (
	"encoding/json"
	"math"
	"os"
	"slices"
	"strings"
	"testing"

	. "github.com/gomlx/gomlx/core/graph"

	"github.com/sptune/spt/backbone"
	"github.com/sptune/spt/dataset"
	"github.com/sptune/spt/evaluate"
	"github.com/sptune/spt/objective"
)

// TestMultiLabelLosses compares the losses of the images and the gradient of their mean with
// BCEWithLogitsLoss of PyTorch, with and without pos_weight, label smoothing and mixed images.
func TestMultiLabelLosses(t *testing.T) {
	var cases []struct {
		Smoothing        float64
		Weights          []float32
		Logits           []float32
		Labels, Others   []int32
		Shares           []float32
		Losses, Gradient []float64
	}
	data, err := os.ReadFile("testdata/multilabel.json")
	if err == nil {
		err = json.Unmarshal(data, &cases)
	}
	if err != nil || len(cases) == 0 {
		t.Fatalf("reading the fixtures: %v", err)
	}
	each := objective.MultiLabel.(objective.PerImage)
	for i, c := range cases {
		images := len(c.Losses)
		labels := len(c.Logits) / images
		o := objective.LossOptions{Smoothing: c.Smoothing, ClassWeights: c.Weights}
		vectors := []any{c.Shares, c.Labels}
		if c.Others != nil {
			vectors = append(vectors, c.Others)
		} else {
			vectors[0] = make([]float32, images)
		}
		out := run(t, func(_ *Graph, in []*Node) []*Node {
			shape := []int{images, labels}
			l := each.Losses(in[0], Reshape(in[2], shape...), o)
			if c.Others != nil {
				l = Add(Mul(in[1], l), Mul(OneMinus(in[1]), each.Losses(in[0], Reshape(in[3], shape...), o)))
			}
			return []*Node{l, Gradient(ReduceAllMean(l), in[0])[0], each.Loss(in[0], Reshape(in[2], shape...))}
		}, c.Logits, vectors...)
		for k, want := range c.Losses {
			if math.Abs(float64(out[0][k])-want) > 2e-6*(1+want) {
				t.Errorf("case %d: loss of image %d is %g, PyTorch has %g", i, k, out[0][k], want)
			}
		}
		for k, want := range c.Gradient {
			if math.Abs(float64(out[1][k])-want) > 3e-7 {
				t.Errorf("case %d: gradient %d is %g, PyTorch has %g", i, k, out[1][k], want)
			}
		}
		if c.Others == nil && c.Weights == nil && c.Smoothing == 0 {
			mean := 0.0
			for _, l := range c.Losses {
				mean += l / float64(images)
			}
			m := objective.MultiLabel.NewMetrics(backbone.Config{NumClasses: labels})
			if err := m.Add(c.Logits, c.Labels); err != nil {
				t.Fatal(err)
			}
			if got := m.Evaluation().Loss; math.Abs(float64(out[2][0])-mean) > 2e-6*mean || math.Abs(got-mean) > 1e-9*mean {
				t.Errorf("case %d: the loss is %g and %g, PyTorch has %g", i, out[2][0], got, mean)
			}
		}
	}
}

// TestMultiLabelMetrics checks that the metrics of a training are those of package evaluate, also
// if the images come in several batches.
func TestMultiLabelMetrics(t *testing.T) {
	c := backbone.Config{NumClasses: 3}
	logits := []float32{2, -1, 0.5, -3, 1, 1, 0.25, 0.25, -2, 4, -4, 0}
	targets := []int32{1, 0, 0, 0, 1, 0, 1, 1, 0, 0, 0, 0}
	m := objective.MultiLabel.NewMetrics(c)
	for from := 0; from < len(logits); from += 6 {
		if err := m.Add(logits[from:from+6], targets[from:from+6]); err != nil {
			t.Fatal(err)
		}
	}
	p := evaluate.LabelPredictions{Classes: []string{"a", "b", "c"}}
	if err := p.Add([]string{"1", "2", "3", "4"}, targets, logits); err != nil {
		t.Fatal(err)
	}
	want, err := p.Metrics(nil)
	if err != nil {
		t.Fatal(err)
	}
	e := m.Evaluation()
	for name, pair := range map[string][2]float64{"accuracy": {e.Accuracy, want.MAP}, "map": {e.Metrics["map"], want.MAP}, "macro_f1": {e.Metrics["macro_f1"], want.Macro.F1}, "micro_f1": {e.Metrics["micro_f1"], want.Micro.F1},
		"subset_accuracy": {e.Metrics["subset_accuracy"], want.SubsetAccuracy}, "hamming_loss": {e.Metrics["hamming_loss"], want.HammingLoss}, "loss": {e.Loss, want.Loss}} {
		if math.Abs(pair[0]-pair[1]) > 1e-12 || pair[0] == 0 {
			t.Errorf("%s is %g, package evaluate has %g", name, pair[0], pair[1])
		}
	}
	if e.Images != 4 || objective.ByMAP.Value(e) != want.MAP || objective.ByMacroF1.Value(e) != want.Macro.F1 || objective.ByLoss.Value(e) != -want.Loss || objective.Selection("").Value(e) != want.MAP {
		t.Errorf("evaluation %+v", e)
	}
	if err := m.Add([]float32{1, 2, 3}, []int32{0, 2, 0}); err == nil || !strings.Contains(err.Error(), "image 5 has target 2 for label 1") {
		t.Errorf("error %v", err)
	}
	if empty := objective.MultiLabel.NewMetrics(c).Evaluation(); empty.Accuracy != 0 || empty.Loss != 0 {
		t.Errorf("evaluation without images: %+v", empty)
	}
}

// TestMultiLabelSelections checks which metrics the objective gives.
func TestMultiLabelSelections(t *testing.T) {
	for by, wrong := range map[objective.Selection]string{"": "", objective.ByMAP: "", objective.ByMacroF1: "", objective.ByLoss: "",
		objective.ByAccuracy: "one label for each image, and the objective is multi-label; choose by map", objective.ByBalanced: "choose by map"} {
		if err := by.Check(objective.MultiLabel, config); (err == nil) != (wrong == "") || err != nil && !strings.Contains(err.Error(), wrong) {
			t.Errorf("%q: error %v, want %q", by, err, wrong)
		}
	}
	if err := objective.ByMAP.Check(objective.SingleLabel, config); err == nil || !strings.Contains(err.Error(), "average precision of each label") {
		t.Errorf("map with one label: error %v", err)
	}
}

// TestFor checks that the objective follows from the targets of a data set.
func TestFor(t *testing.T) {
	several, one := samples(6, severalLabels), samples(6, func(colour int) dataset.Target { return dataset.Class(colour) })
	for _, c := range []struct {
		d    dataset.Dataset
		want objective.Objective
	}{{dataset.Dataset{Train: several}, objective.MultiLabel}, {dataset.Dataset{Train: one}, objective.SingleLabel}, {dataset.Dataset{Test: several}, objective.MultiLabel}, {dataset.Dataset{}, objective.SingleLabel}} {
		if got := objective.For(&c.d); got != c.want {
			t.Errorf("the objective is %s, want %s", got.Name(), c.want.Name())
		}
		if err := objective.Check(c.want, config, &c.d); err != nil {
			t.Error(err)
		}
	}
	if err := objective.Check(objective.SingleLabel, config, &dataset.Dataset{Name: "pets", Train: several}); err == nil || !strings.Contains(err.Error(), "data set pets") {
		t.Errorf("error %v", err)
	}
	encoded, err := objective.Encode(objective.MultiLabel, config, []dataset.Target{dataset.Labels{0, 2}, dataset.Labels{}, dataset.Class(1)})
	if want := []int32{1, 0, 1, 0, 0, 0, 0, 1, 0}; err != nil || !slices.Equal(encoded, want) {
		t.Errorf("encoded %v, error %v", encoded, err)
	}
	for _, target := range []dataset.Target{dataset.Labels{3}, regions{0}} {
		if _, err := objective.Encode(objective.MultiLabel, config, []dataset.Target{target}); err == nil {
			t.Errorf("the target %v was encoded", target)
		}
	}
}
