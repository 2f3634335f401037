package sensitivity

import (
	"math"
	"slices"
	"strings"
	"testing"

	"github.com/sptune/spt/backbone"
	"github.com/sptune/spt/backend"
	"github.com/sptune/spt/checkpoint"
	"github.com/sptune/spt/internal/fixtures"
	"github.com/sptune/spt/internal/program"
	"github.com/sptune/spt/objective"
)

// TestCriteriaAgainstPyTorch compares the scores of every criterion that reads images with those of
// PyTorch, for two mini-batches of one image.
func TestCriteriaAgainstPyTorch(t *testing.T) {
	be, _, err := backend.Open("cpu", 1)
	if err != nil {
		t.Fatal(err)
	}
	f := fixtures.Backbone(t, "vit-dinov2-timm")
	m, _, err := backbone.Load(f.Path(), backbone.LoadOptions{NumHeads: f.NumHeads[0], NumClasses: 12})
	if err != nil {
		t.Fatal(err)
	}
	// The logits are the features.
	head := checkpoint.StateDict{"head.weight": checkpoint.NewTensor(12, 12), "head.bias": checkpoint.NewTensor(12)}
	for i := range 12 {
		head["head.weight"].Data[13*i] = 1
	}
	file := fixtures.File(t, "criteria.safetensors")
	pixels := f.Pixels(t)
	size := m.Config.ImageSize
	for _, formula := range formulas {
		if formula.add == nil || formula.criterion == PerSample { // equal to SquaredGradient here
			continue
		}
		s, err := newScorer(be, m, objective.SingleLabel, head, Options{Criterion: formula.criterion})
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		for i, label := range []int32{1, 3} {
			images, err := program.Tensor(be, pixels[i*size*size*3:(i+1)*size*size*3], 1, size, size, 3)
			if err != nil {
				t.Fatal(err)
			}
			labels, err := program.Tensor(be, []int32{label}, 1)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := s.Add(t.Context(), images, labels); err != nil {
				t.Fatal(err)
			}
		}
		got, err := s.Scores()
		if err != nil {
			t.Fatal(err)
		}
		worst := 0.0
		for _, tensor := range got.Tensors {
			want, err := file.Float32(string(formula.criterion) + "." + tensor.Name)
			if err != nil {
				t.Fatal(err)
			}
			largest, d := 0.0, 0.0
			for i, v := range want.Data {
				largest, d = max(largest, math.Abs(float64(v))), max(d, math.Abs(float64(v-tensor.Scores[i])))
			}
			// The gradient of the bias of a key is rounding, which SignalToNoise does not scale.
			if tensor.Name == "blocks.0.attn.k.bias" || tensor.Name == "blocks.1.attn.k.bias" {
				continue
			}
			worst = max(worst, d/max(largest, 1e-30))
		}
		if !(worst <= 1e-3) {
			t.Errorf("%s: scores differ by up to %g of the largest score of their tensor", formula.criterion, worst)
		}
		t.Logf("%s: %.2g", formula.criterion, worst)
	}
}

// TestInputsOfEveryBackbone checks that the criterion fps scores the weights of linear layers and
// norms on every backbone, and that kernels of convolutions score zero.
func TestInputsOfEveryBackbone(t *testing.T) {
	be, _, err := backend.Open("cpu", 1)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"swin-padded-timm", "convnext-v1-timm", "convnext-v2-timm", "vit-dinov2swiglu-timm"} {
		f := fixtures.Backbone(t, name)
		o := backbone.LoadOptions{NumClasses: 5, LayerNormEps: f.LayerNormEps}
		if len(f.NumHeads) == 1 {
			o.NumHeads = f.NumHeads[0]
		}
		m, _, err := backbone.Load(f.Path(), o)
		if err != nil {
			t.Fatal(err)
		}
		head := checkpoint.StateDict{}
		for _, p := range m.Config.Params() {
			if p.Role == backbone.Head {
				head[p.Name] = checkpoint.NewTensor(p.Shape...)
			}
		}
		s, err := newScorer(be, m, objective.SingleLabel, head, Options{Criterion: Activation})
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		images, err := program.Tensor(be, f.Pixels(t), 2, f.ImageSize, f.ImageSize, 3)
		if err != nil {
			t.Fatal(err)
		}
		labels, err := program.Tensor(be, []int32{1, 3}, 2)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := s.Add(t.Context(), images, labels); err != nil {
			t.Fatal(err)
		}
		scores, err := s.Scores()
		if err != nil {
			t.Fatal(err)
		}
		for _, tensor := range scores.Tensors {
			zero := len(tensor.Shape) == 4 || strings.Contains(tensor.Name, ".grn.")
			if (slices.Max(tensor.Scores) == 0) != zero {
				t.Errorf("%s: the largest score of %s is %g", name, tensor.Name, slices.Max(tensor.Scores))
			}
		}
	}
}
