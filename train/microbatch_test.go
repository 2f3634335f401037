package train

import (
	"fmt"
	"math"
	"math/rand/v2"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/gomlx/gomlx/core/tensors"

	"github.com/gomlx/compute/dtypes"
	"github.com/gomlx/compute/shapes"

	"github.com/sptune/spt/backbone"
	"github.com/sptune/spt/backend"
	"github.com/sptune/spt/internal/colours"
	"github.com/sptune/spt/internal/program"
	"github.com/sptune/spt/objective"
	"github.com/sptune/spt/peft"
)

// longConfig is a backbone with 65 tokens per image. The CPU trains it in micro-batches of 15
// images.
var longConfig = backbone.Config{ImageSize: 8, NumClasses: 3, NumHeads: 2, LayerNormEps: 1e-6,
	Form: backbone.ViT{PatchSize: 1, EmbedDim: 8, Depth: 2, HiddenDim: 16}}

// TestMicroBatches checks that a step with gradient accumulation gives the same result as a step on
// the whole mini-batch, up to rounding. It also checks that the bits do not depend on the number of
// micro-batches that are computed at the same time.
func TestMicroBatches(t *testing.T) {
	for _, mixed := range []bool{false, true} {
		t.Run(fmt.Sprintf("mixed=%t", mixed), func(t *testing.T) { testMicroBatches(t, mixed) })
	}
}

// testMicroBatches checks steps on images. If mixed is set, the images are mixed, and the loss has
// label smoothing and weights of classes.
func testMicroBatches(t *testing.T, mixed bool) {
	be, _, err := backend.Open("cpu", 1)
	if err != nil {
		t.Fatal(err)
	}
	m := colours.Model(longConfig)
	selection := peft.Uniform(longConfig, "lora", 2)
	selection.Whole = []string{"cls_token", "norm.weight"}
	selection.Structured = slices.DeleteFunc(selection.Structured, func(n string) bool { return strings.Contains(n, "attn.q") || strings.Contains(n, "fc2") })
	selection.Entries = map[string][]int32{"blocks.0.attn.q.weight": {0, 9, 63}, "blocks.1.mlp.fc2.weight": {1, 2, 3, 77}, "blocks.0.norm1.bias": {2}}
	tuning, err := peft.New(longConfig, selection)
	if err != nil {
		t.Fatal(err)
	}
	const n = 47
	pixels, classes := colours.Noise(n, 8)
	images, err := program.Tensor(be, pixels, n, 8, 8, 3)
	if err != nil {
		t.Fatal(err)
	}
	labels, err := program.Tensor(be, classes, n)
	if err != nil {
		t.Fatal(err)
	}
	b, o := batch{images: images, targets: labels}, StepOptions{WeightDecay: 1e-2}
	if mixed {
		o.Loss = objective.LossOptions{Smoothing: 0.1, ClassWeights: []float32{0.3, 1, 2}}
		shares := make([]float32, n)
		for i := range shares {
			shares[i] = float32(i) / n
		}
		if b.shares, err = program.Tensor(be, shares, n); err != nil {
			t.Fatal(err)
		}
		slices.Reverse(classes)
		if b.others, err = program.Tensor(be, classes, n); err != nil {
			t.Fatal(err)
		}
	}
	if got := microBatchSizes(be, longConfig, images.Shape()); !slices.Equal(got, []int{15, 15, 15, 2}) {
		t.Fatalf("micro-batches of %v images, expected 15, 15, 15 and 2", got)
	}
	var state [4][]float32
	var losses [4]float64
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(0))
	for i := range state {
		runtime.GOMAXPROCS([]int{2, 2, 1, 4}[i])
		s, err := NewStepper(be, m, objective.SingleLabel, tuning, tuning.Init(0, peft.PaperScheme, m.Weights), o)
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		for range 3 {
			step := s.inMicroBatches
			if i == 1 {
				step = s.wholeBatch
			}
			var scalars []*tensors.Tensor // learning rate and bias corrections
			for _, v := range []float32{1e-2, 0.1, 0.001} {
				x, err := program.Tensor(be, []float32{v})
				if err != nil {
					t.Fatal(err)
				}
				scalars = append(scalars, x)
			}
			next, metrics, err := step(t.Context(), b, rand.New(rand.NewPCG(3, 4)), scalars)
			if err != nil {
				t.Fatal(err)
			}
			s.state = next
			loss, hits, err := numbers(metrics[0], metrics[1])
			if err != nil {
				t.Fatal(err)
			}
			if losses[i] = loss; hits < 0 || hits > n {
				t.Errorf("%g correct predictions of %d images", hits, n)
			}
		}
		for _, x := range s.state {
			v, err := program.Float32s(x)
			if err != nil {
				t.Fatal(err)
			}
			state[i] = append(state[i], v...)
		}
	}
	for i := 2; i < len(state); i++ {
		if losses[i] != losses[0] || !slices.Equal(state[i], state[0]) {
			t.Errorf("run %d with another number of threads gives other bits", i)
		}
	}
	if d := math.Abs(losses[0] - losses[1]); d > 1e-5 {
		t.Errorf("loss %g with micro-batches, %g without", losses[0], losses[1])
	}
	moved := false
	for i, v := range state[0] {
		if d := math.Abs(float64(v - state[1][i])); d > 2e-4 {
			t.Fatalf("value %d is %g with micro-batches, %g without", i, v, state[1][i])
		}
		moved = moved || v != 0
	}
	if !moved {
		t.Error("all trained values are zero")
	}
}

// TestMicroBatchSizes checks that no micro-batch is too large, and that all have the same size if
// the number of images has a suitable divisor.
func TestMicroBatchSizes(t *testing.T) {
	be, _, err := backend.Open("cpu", 1)
	if err != nil {
		t.Fatal(err)
	}
	c := longConfig
	// 197 tokens per image, so a micro-batch has at most 5 images.
	c.ImageSize, c.Form = 224, backbone.ViT{PatchSize: 16, EmbedDim: 8, Depth: 2, HiddenDim: 16}
	for n, want := range map[int][]int{1: {1}, 5: {5}, 8: {4, 4}, 15: {5, 5, 5}, 23: {5, 5, 5, 5, 3}} {
		if got := microBatchSizes(be, c, shapes.Make(dtypes.Uint8, n, 224, 224, 3)); !slices.Equal(got, want) {
			t.Errorf("%d images: micro-batches of %v images, expected %v", n, got, want)
		}
	}
	if got := microBatchSizes(be, c, shapes.Make(dtypes.Float32, 2000, 192)); !slices.Equal(got, []int{2000}) {
		t.Errorf("2000 feature vectors: micro-batches of %v, expected one", got)
	}
}
