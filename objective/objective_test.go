package objective_test

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"

	. "github.com/gomlx/gomlx/core/graph"

	"github.com/gomlx/compute/dtypes"

	"github.com/sptune/spt/backbone"
	"github.com/sptune/spt/backend"
	"github.com/sptune/spt/dataset"
	"github.com/sptune/spt/internal/colours"
	"github.com/sptune/spt/internal/program"
	"github.com/sptune/spt/objective"
	"github.com/sptune/spt/peft"
	"github.com/sptune/spt/sensitivity"
	"github.com/sptune/spt/train"
)

// config has 65 tokens per image, so that the CPU splits a mini-batch of 24 images into two
// micro-batches.
var config = backbone.Config{ImageSize: 8, NumClasses: 3, NumHeads: 2, LayerNormEps: 1e-6,
	Form: backbone.ViT{PatchSize: 1, EmbedDim: 8, Depth: 2, HiddenDim: 16}}

// selection has tuned parameters of each kind.
var selection = peft.Selection{Module: "lora", Rank: 2, Structured: []string{"blocks.0.attn.q.weight", "blocks.1.mlp.fc1.weight"},
	Whole: []string{"cls_token", "blocks.1.norm1.bias"}, Entries: map[string][]int32{"blocks.1.attn.v.weight": {0, 9, 63}}}

// samples returns n images. target returns the target for the colour of an image, from 0 to 2.
func samples(n int, target func(colour int) dataset.Target) []dataset.Sample {
	out := colours.Samples(n, config.ImageSize, 0)
	for i := range out {
		out[i].Target = target(i % 3)
	}
	return out
}

// severalLabels gives no, one or two labels to a colour.
func severalLabels(colour int) dataset.Target { return []dataset.Labels{{}, {1}, {0, 2}}[colour] }

func loader(s []dataset.Sample, t dataset.Transform) *dataset.Loader {
	t.Size = config.ImageSize
	return dataset.NewLoader(s, t, nil, dataset.LoaderOptions{})
}

func newBackend(t *testing.T) backend.Backend {
	t.Helper()
	be, _, err := backend.Open("cpu", 1)
	if err != nil {
		t.Fatal(err)
	}
	return be
}

// trained trains the selection s on samples with an objective, and returns the result.
func trained(t *testing.T, o objective.Objective, s peft.Selection, all []dataset.Sample) *train.Result {
	t.Helper()
	tuning, err := peft.New(config, s)
	if err != nil {
		t.Fatal(err)
	}
	data := train.Images(loader(all, dataset.Transform{}), o, config)
	run := train.Run{Backend: newBackend(t), Model: colours.Model(config), Tuning: tuning, Train: data, Val: data,
		Options: train.Options{Epochs: 40, BatchSize: 24, LR: 2e-2, Seed: 1}}
	result, err := run.Do(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return result
}

// TestMultiLabelGradient compares the gradient of the loss with (σ(x) − t)/(B·C).
func TestMultiLabelGradient(t *testing.T) {
	be := newBackend(t)
	compiled, err := program.New(be, "gradient", func(_ *Graph, in []*Node) []*Node {
		return Gradient(objective.MultiLabel.Loss(in[0], in[1]), in[0])
	})
	if err != nil {
		t.Fatal(err)
	}
	defer compiled.Close()
	x, present := []float32{-3, -0.5, 0.25, 1, 2, 30}, []int32{1, 0, 0, 1, 0, 1}
	logits, err := program.Tensor(be, x, 2, 3)
	if err != nil {
		t.Fatal(err)
	}
	targets, err := program.Tensor(be, present, 2, 3)
	if err != nil {
		t.Fatal(err)
	}
	out, err := compiled.Run(t.Context(), logits, targets)
	if err != nil {
		t.Fatal(err)
	}
	got, err := program.Float32s(out[0])
	if err != nil {
		t.Fatal(err)
	}
	for i, v := range got {
		want := (1/(1+math.Exp(-float64(x[i]))) - float64(present[i])) / 6
		if math.Abs(float64(v)-want) > 1e-7 {
			t.Errorf("gradient at x = %g, target %d: %g, expected %g", x[i], present[i], v, want)
		}
	}
}

// TestMultiLabelScores compares the scores of the bias of the final norm with a formula. The
// gradient is the sum over images and classes of (σ(logit) − target)·W/(B·C), where W is the weight
// of the head.
func TestMultiLabelScores(t *testing.T) {
	be, m, all := newBackend(t), colours.Model(config), samples(45, severalLabels)
	in := sensitivity.Input{Backend: be, Model: m, Objective: objective.MultiLabel, Head: m.Weights, Images: loader(all, dataset.Transform{})}
	scores, err := sensitivity.Score(t.Context(), in, sensitivity.Options{BatchSize: len(all)}, nil)
	if err != nil {
		t.Fatal(err)
	}
	linear, err := peft.New(config, peft.Selection{})
	if err != nil {
		t.Fatal(err)
	}
	p, err := train.NewPredictor(be, m, objective.MultiLabel, linear, m.Weights)
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	want, loss := make([]float64, config.NumFeatures()), 0.0
	for i, s := range all {
		images, err := program.Tensor(be, s.Image.Pix, 1, 8, 8, 3)
		if err != nil {
			t.Fatal(err)
		}
		logits, err := p.Logits(t.Context(), images)
		if err != nil {
			t.Fatal(err)
		}
		n := float64(len(all) * config.NumClasses)
		for class, v := range logits {
			x, present := float64(v), 0.0
			if slices.Contains(severalLabels(i%3).(dataset.Labels), class) {
				present = 1
			}
			loss += (math.Log(1+math.Exp(x)) - x*present) / n
			for k := range want {
				want[k] += (1/(1+math.Exp(-x)) - present) * float64(m.Weights["head.weight"].Data[class*config.NumFeatures()+k]) / n
			}
		}
	}
	if math.Abs(scores.Losses[0]-loss) > 1e-5 {
		t.Errorf("loss %g, expected %g", scores.Losses[0], loss)
	}
	i := slices.IndexFunc(scores.Tensors, func(s sensitivity.Tensor) bool { return s.Name == "norm.bias" })
	for k, g := range want {
		if got := math.Sqrt(float64(scores.Tensors[i].Scores[k])); math.Abs(got-math.Abs(g)) > 1e-5 {
			t.Errorf("gradient of norm.bias[%d]: size %g, expected %g", k, got, math.Abs(g))
		}
	}
}

// TestMultiLabelTraining trains with several labels per image. The loss must fall, and the mean
// average precision must reach 1. A training of the head alone reads cached features.
func TestMultiLabelTraining(t *testing.T) {
	for name, s := range map[string]peft.Selection{"modules": selection, "head": peft.Selection{}} {
		epochs := trained(t, objective.MultiLabel, s, samples(48, severalLabels)).Epochs
		first, last := epochs[0], epochs[len(epochs)-1]
		if !(last.TrainLoss < 0.9*first.TrainLoss) || !(last.TrainAccuracy > first.TrainAccuracy) {
			t.Errorf("%s: loss %g in the first epoch, %g in the last; accuracy %g in the first, %g in the last; expected progress", name, first.TrainLoss, last.TrainLoss, first.TrainAccuracy, last.TrainAccuracy)
		}
		if name == "modules" && last.ValAccuracy < 0.99 {
			t.Errorf("%s: mean average precision %g, expected at least 0.99", name, last.ValAccuracy)
		}
	}
}

// regions is the target of an image with a class id for each cell of a grid, row-major.
type regions []int

func (r regions) Check(classes int) error {
	for _, id := range r {
		if err := dataset.Class(id).Check(classes); err != nil {
			return err
		}
	}
	return nil
}

func (r regions) Stratum() int   { return r[0] }
func (r regions) String() string { return fmt.Sprint([]int(r)) }

// perCell is an objective with a label for each cell of a grid of 2×4 cells. It reads features of
// rank 4. Every cell has the pooled features of the image, so that a test can compare it with
// SingleLabel.
type perCell struct{}

func (perCell) Name() string                      { return "per-cell" }
func (perCell) TargetShape(backbone.Config) []int { return []int{2, 4} }

func (perCell) Encode(target dataset.Target, dst []int32) error {
	for i, id := range target.(regions) {
		dst[i] = int32(id)
	}
	return nil
}

func (perCell) Features(m *backbone.Model, l backbone.Layers, images *Node) *Node {
	pooled := m.Features(l, images)
	b, width := pooled.Shape().Dim(0), pooled.Shape().Dim(1)
	return BroadcastToDims(Reshape(pooled, b, 1, 1, width), b, 2, 4, width)
}

func (perCell) Logits(c backbone.Config, l backbone.Layers, features *Node) *Node {
	return c.Classify(l, features)
}

func (perCell) Loss(logits, targets *Node) *Node {
	oneHot := OneHot(targets, logits.Shape().Dim(3), dtypes.Float32)
	return Neg(ReduceAllMean(ReduceSum(Mul(oneHot, LogSoftmax(logits)), 3)))
}

func (perCell) Correct(logits, targets *Node) *Node {
	return ReduceMean(ConvertDType(Equal(ArgMax(logits, 3, dtypes.Int32), targets), dtypes.Float32), 1, 2)
}

func (perCell) NewMetrics(c backbone.Config) objective.Metrics {
	return &intersectionOverUnion{cells: 8, both: make([]float64, c.NumClasses), either: make([]float64, c.NumClasses)}
}

// intersectionOverUnion computes the mean intersection over union of the classes, over the cells of
// a split.
type intersectionOverUnion struct {
	images, cells int // cells of an image
	both, either  []float64
}

func (m *intersectionOverUnion) Add(logits []float32, targets []int32) error {
	m.images += len(targets) / m.cells
	classes := len(m.both)
	for i, want := range targets {
		row := logits[i*classes : (i+1)*classes]
		got := slices.Index(row, slices.Max(row))
		m.either[got]++
		if got == int(want) {
			m.both[got]++
		} else {
			m.either[want]++
		}
	}
	return nil
}

func (m *intersectionOverUnion) Evaluation() objective.Evaluation {
	e := objective.Evaluation{Images: m.images}
	for class, both := range m.both {
		e.Accuracy += both / max(m.either[class], 1) / float64(len(m.both))
	}
	return e
}

// sameRegions returns a target in which every cell has the colour of the image.
func sameRegions(colour int) dataset.Target { return slices.Repeat(regions{colour}, 8) }

// TestDenseTargets trains with a map of targets for each image. All cells of an image have the same
// class here, so losses, tuned values and scores must equal those of SingleLabel, apart from
// rounding.
func TestDenseTargets(t *testing.T) {
	class := func(colour int) dataset.Target { return dataset.Class(colour) }
	for name, s := range map[string]peft.Selection{"modules": selection, "head": peft.Selection{}} {
		want, got := trained(t, objective.SingleLabel, s, samples(48, class)), trained(t, perCell{}, s, samples(48, sameRegions))
		for i, w := range want.Epochs {
			if g := got.Epochs[i]; math.Abs(g.TrainLoss-w.TrainLoss) > 1e-3 || math.Abs(g.TrainAccuracy-w.TrainAccuracy) > 0.05 {
				t.Fatalf("%s: epoch %+v, expected %+v", name, g, w)
			}
		}
		if last := got.Epochs[len(got.Epochs)-1]; !(last.TrainLoss < 0.8*got.Epochs[0].TrainLoss) || name == "modules" && last.ValAccuracy != 1 {
			t.Errorf("%s: %+v after %+v", name, last, got.Epochs[0])
		}
	}
	be, m := newBackend(t), colours.Model(config)
	var scores [2]*sensitivity.Scores
	for i, in := range []sensitivity.Input{
		{Objective: objective.SingleLabel, Images: loader(samples(80, class), dataset.Transform{})},
		{Objective: perCell{}, Images: loader(samples(80, sameRegions), dataset.Transform{})},
	} {
		in.Backend, in.Model, in.Head = be, m, m.Weights
		var err error
		if scores[i], err = sensitivity.Score(t.Context(), in, sensitivity.Options{BatchSize: 40}, nil); err != nil {
			t.Fatal(err)
		}
	}
	for i, w := range scores[0].Tensors {
		largest := float64(slices.Max(w.Scores))
		for k, v := range w.Scores {
			if g := scores[1].Tensors[i].Scores[k]; math.Abs(float64(g-v)) > 1e-3*largest && !strings.HasSuffix(w.Name, "attn.k.bias") {
				t.Fatalf("%s[%d] has score %g, expected %g", w.Name, k, g, v)
			}
		}
	}
}

// perPixel is an objective with a label for each pixel. It reads the map of features of the
// backbone. Each pixel gets the logits of the position of the map that covers it.
type perPixel struct{ perCell }

func (perPixel) Name() string                        { return "per-pixel" }
func (perPixel) TargetShape(c backbone.Config) []int { return []int{c.ImageSize, c.ImageSize} }

func (perPixel) Features(m *backbone.Model, l backbone.Layers, images *Node) *Node {
	return m.FeatureMap(l, images)
}

func (perPixel) Logits(c backbone.Config, l backbone.Layers, features *Node) *Node {
	x := c.Classify(l, features) // [B, rows, columns, classes]
	d := x.Shape().Dimensions
	r := c.ImageSize / d[1]
	x = BroadcastToDims(Reshape(x, d[0], d[1], 1, d[2], 1, d[3]), d[0], d[1], r, d[2], r, d[3])
	return Reshape(x, d[0], c.ImageSize, c.ImageSize, d[3])
}

func (perPixel) NewMetrics(c backbone.Config) objective.Metrics {
	return &intersectionOverUnion{cells: c.ImageSize * c.ImageSize, both: make([]float64, c.NumClasses), either: make([]float64, c.NumClasses)}
}

// TestFeatureMap trains on the map of features with a label for each pixel. The two halves of an
// image have different colours, and the trained model must distinguish them.
func TestFeatureMap(t *testing.T) {
	c := config
	c.ImageSize, c.Form = 16, backbone.ViT{PatchSize: 4, EmbedDim: 16, Depth: 2, HiddenDim: 32}
	var all []dataset.Sample
	for i := range 36 {
		colour := [2]int{i % 3, i / 3 % 3}
		left, right := colours.Pixels(colour[0], 16, i), colours.Pixels(colour[1], 16, i)
		target := make(regions, 16*16)
		for k := range target {
			half := k % 16 / 8
			target[k] = colour[half]
			if half == 1 {
				copy(left[3*k:3*k+3], right[3*k:3*k+3])
			}
		}
		all = append(all, dataset.Sample{Image: &dataset.RGB{Width: 16, Height: 16, Pix: left}, Target: target})
	}
	tuning, err := peft.New(c, peft.Uniform(c, "lora", 4))
	if err != nil {
		t.Fatal(err)
	}
	data := train.Images(dataset.NewLoader(all, dataset.Transform{Size: 16}, nil, dataset.LoaderOptions{}), perPixel{}, c)
	run := train.Run{Backend: newBackend(t), Model: colours.Model(c), Tuning: tuning, Train: data, Val: data,
		Options: train.Options{Epochs: 60, BatchSize: 12, LR: 1e-2, Seed: 1}}
	result, err := run.Do(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	first, last := result.Epochs[0], result.Epochs[len(result.Epochs)-1]
	if !(last.TrainLoss < 0.5*first.TrainLoss) || last.ValAccuracy < 0.9 {
		t.Errorf("loss %g in the first epoch, %g in the last; mean intersection over union %g", first.TrainLoss, last.TrainLoss, last.ValAccuracy)
	}
	// Stage 1 reads the map of features too.
	in := sensitivity.Input{Backend: run.Backend, Model: run.Model, Objective: perPixel{}, Head: run.Model.Weights,
		Images: dataset.NewLoader(all, dataset.Transform{Size: 16}, nil, dataset.LoaderOptions{})}
	scores, err := sensitivity.Score(t.Context(), in, sensitivity.Options{Batches: 2, BatchSize: 12}, nil)
	if err != nil || !(scores.MeanLoss() > 0.5) || scores.Images != 24 {
		t.Errorf("scores on %d images, mean loss %g, %v", scores.Images, scores.MeanLoss(), err)
	}
}

// TestRefusals checks that data which an objective cannot read are an error.
func TestRefusals(t *testing.T) {
	tuning, err := peft.New(config, peft.Selection{})
	if err != nil {
		t.Fatal(err)
	}
	m := colours.Model(config)
	several := loader(samples(6, severalLabels), dataset.Transform{})
	for want, run := range map[string]train.Run{
		"reads one label per image":                          {Train: train.Images(several, objective.SingleLabel, config)},
		"the validation data has the objective single-label": {Train: train.Images(several, objective.MultiLabel, config), Val: train.Images(several, objective.SingleLabel, config)},
		"turn augmentation off":                              {Train: train.Images(loader(samples(6, sameRegions), dataset.Transform{HorizontalFlip: true}), perCell{}, config)},
		"augmentation changes only the images":               {Train: train.Images(loader(samples(6, sameRegions), dataset.Transform{Augment: dataset.Augment{Hue: 0.1}}), perCell{}, config)},
	} {
		run.Backend, run.Model, run.Tuning, run.Options = newBackend(t), m, tuning, train.Options{Epochs: 1, BatchSize: 3, LR: 1e-3}
		if _, err := run.Do(t.Context()); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("expected an error with %q, got %v", want, err)
		}
	}
	in := sensitivity.Input{Backend: newBackend(t), Model: m, Objective: objective.SingleLabel, Head: m.Weights, Images: several}
	if _, err := sensitivity.Score(t.Context(), in, sensitivity.Options{}, nil); err == nil || !strings.Contains(err.Error(), "image 1 of the batch") {
		t.Errorf("scoring by another objective: %v", err)
	}
}

// TestRegister checks that an objective is found by its name.
func TestRegister(t *testing.T) {
	// With -count, tests run more than once in a process.
	if _, err := objective.Get("per-cell"); err != nil {
		if err := objective.Register(perCell{}); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range objective.Names() {
		if o, err := objective.Get(name); err != nil || o.Name() != name {
			t.Errorf("%s: %v, %v", name, o, err)
		}
	}
	if names := objective.Names(); !slices.Equal(names, []string{"multi-label", "per-cell", "single-label"}) {
		t.Errorf("names %v", names)
	}
	if err := objective.Register(perCell{}); err == nil {
		t.Error("a name was registered twice")
	}
	if _, err := objective.Get("segmentation"); err == nil || !strings.Contains(err.Error(), "known: multi-label, per-cell, single-label") {
		t.Errorf("an unknown name: %v", err)
	}
}
