package objective_test

import (
	"encoding/json"
	"math"
	"os"
	"strings"
	"testing"

	. "github.com/gomlx/gomlx/core/graph"
	"github.com/gomlx/gomlx/core/tensors"

	"github.com/sptune/spt/backbone"
	"github.com/sptune/spt/internal/program"
	"github.com/sptune/spt/objective"
)

// fixtures holds the content of testdata/losses.json, which testdata/make.py writes.
type fixtures struct {
	Losses []struct {
		Smoothing        float64
		Weights          []float32
		Logits           []float32
		Labels, Others   []int32
		Shares           []float32
		Losses, Gradient []float64
	}
	Metrics []struct {
		Classes  int
		Logits   []float32
		Labels   []int32
		Balanced float64
		MacroF1  float64 `json:"macro_f1"`
	}
}

func readFixtures(t *testing.T) (f fixtures) {
	t.Helper()
	data, err := os.ReadFile("testdata/losses.json")
	if err == nil {
		err = json.Unmarshal(data, &f)
	}
	if err != nil || len(f.Losses) == 0 || len(f.Metrics) == 0 {
		t.Fatalf("reading the fixtures: %v", err)
	}
	return f
}

// run runs a graph function on logits and int32 or float32 vectors of one value per image.
func run(t *testing.T, build program.Build, logits []float32, vectors ...any) (out [][]float32) {
	t.Helper()
	be := newBackend(t)
	p, err := program.New(be, "loss", build)
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	var in []any
	add := func(x *tensors.Tensor, err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		in = append(in, x)
	}
	n := 0
	for _, v := range vectors {
		switch v := v.(type) {
		case []int32:
			n = len(v)
		case []float32:
			n = len(v)
		}
	}
	add(program.Tensor(be, logits, n, len(logits)/n))
	for _, v := range vectors {
		switch v := v.(type) {
		case []int32:
			add(program.Tensor(be, v, n))
		case []float32:
			add(program.Tensor(be, v, n))
		}
	}
	results, err := p.Run(t.Context(), in...)
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range results {
		values, err := program.Float32s(r)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, values)
	}
	return out
}

// TestLosses compares the losses of the images and the gradient of their mean with PyTorch, with
// and without label smoothing, weights of classes and mixed images. The gradient is also compared
// with finite differences.
func TestLosses(t *testing.T) {
	each := objective.SingleLabel.(objective.PerImage)
	for i, f := range readFixtures(t).Losses {
		o := objective.LossOptions{Smoothing: f.Smoothing, ClassWeights: f.Weights}
		losses := func(in []*Node) *Node {
			l := each.Losses(in[0], in[1], o)
			if len(in) > 2 {
				l = Add(Mul(in[3], l), Mul(OneMinus(in[3]), each.Losses(in[0], in[2], o)))
			}
			return l
		}
		build := func(_ *Graph, in []*Node) []*Node {
			l := losses(in)
			return []*Node{l, Gradient(ReduceAllMean(l), in[0])[0]}
		}
		vectors := []any{f.Labels}
		if f.Others != nil {
			vectors = append(vectors, f.Others, f.Shares)
		}
		out := run(t, build, f.Logits, vectors...)
		for k, want := range f.Losses {
			if math.Abs(float64(out[0][k])-want) > 2e-6*(1+want) {
				t.Errorf("case %d: loss of image %d is %g, PyTorch has %g", i, k, out[0][k], want)
			}
		}
		for k, want := range f.Gradient {
			if math.Abs(float64(out[1][k])-want) > 2e-7 {
				t.Errorf("case %d: gradient %d is %g, PyTorch has %g", i, k, out[1][k], want)
			}
		}
		// The gradient along its own direction.
		const step = 1e-2
		square, moved := 0.0, [2]float64{}
		for side, sign := range []float32{-step, step} {
			x := append([]float32(nil), f.Logits...)
			square = 0
			for k, g := range out[1] {
				x[k] += sign * g
				square += float64(g) * float64(g)
			}
			for _, l := range run(t, build, x, vectors...)[0] {
				moved[side] += float64(l) / float64(len(f.Losses))
			}
		}
		if slope := (moved[1] - moved[0]) / (2 * step); math.Abs(slope-square) > 2e-4*(1+square) {
			t.Errorf("case %d: the slope of the loss along its gradient is %g by differences, %g by the gradient", i, slope, square)
		}
	}
}

// TestLossesAgree checks that the mean of the losses without options is the loss.
func TestLossesAgree(t *testing.T) {
	f := readFixtures(t).Losses[0]
	out := run(t, func(_ *Graph, in []*Node) []*Node {
		each := objective.SingleLabel.(objective.PerImage)
		return []*Node{ReduceAllMean(each.Losses(in[0], in[1], objective.LossOptions{})), each.Loss(in[0], in[1])}
	}, f.Logits, f.Labels)
	if d := out[0][0] - out[1][0]; math.Abs(float64(d)) > 2e-7 {
		t.Errorf("the mean of the losses is %g, the loss %g", out[0][0], out[1][0])
	}
}

// TestCheckPerImage checks that an objective without losses of images is refused.
func TestCheckPerImage(t *testing.T) {
	if err := objective.CheckPerImage(objective.SingleLabel, "label smoothing"); err != nil {
		t.Error(err)
	}
	if err := objective.CheckPerImage(multiLabel{}, "label smoothing"); err == nil || !strings.Contains(err.Error(), "label smoothing needs the loss of each image, which the objective multi-label") {
		t.Errorf("error %v", err)
	}
}

// TestSelection compares balanced accuracy and macro F1 with scikit-learn.
func TestSelection(t *testing.T) {
	for i, f := range readFixtures(t).Metrics {
		m := objective.SingleLabel.NewMetrics(backbone.Config{NumClasses: f.Classes})
		if err := m.Add(f.Logits, f.Labels); err != nil {
			t.Fatal(err)
		}
		e := m.Evaluation()
		want := map[objective.Selection]float64{"": e.Accuracy, objective.ByAccuracy: e.Accuracy, objective.ByLoss: -e.Loss, objective.ByBalanced: f.Balanced, objective.ByMacroF1: f.MacroF1}
		for by, want := range want {
			if got := by.Value(e); math.Abs(got-want) > 1e-12 {
				t.Errorf("case %d: %s is %g, expected %g", i, by, got, want)
			}
			if got := by.Restored(e.Accuracy, e.Loss, by.Stored(e)); got != by.Value(e) {
				t.Errorf("case %d: %s is %g after storing it, expected %g", i, by, got, by.Value(e))
			}
		}
	}
	for _, by := range objective.Selections() {
		if err := by.Check(objective.SingleLabel, config); err != nil || by.Validate() != nil {
			t.Errorf("%s: %v", by, err)
		}
	}
	if err := objective.ByMacroF1.Check(multiLabel{}, config); err == nil || !strings.Contains(err.Error(), "counts of each class") {
		t.Errorf("an objective without counts of classes: error %v", err)
	}
	if err := objective.ByLoss.Check(multiLabel{}, config); err != nil {
		t.Error(err)
	}
	if err := objective.Selection("acuracy").Validate(); err == nil || !strings.Contains(err.Error(), `did you mean "accuracy"`) {
		t.Errorf("a wrong name: error %v", err)
	}
	if v := objective.ByBalanced.Value(objective.Evaluation{}); v != 0 {
		t.Errorf("balanced accuracy without images is %g", v)
	}
}
