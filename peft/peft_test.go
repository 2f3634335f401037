package peft_test

import (
	"math"
	"strings"
	"testing"

	. "github.com/gomlx/gomlx/core/graph"

	"github.com/sptune/spt/backbone"
	"github.com/sptune/spt/backend"
	"github.com/sptune/spt/checkpoint"
	"github.com/sptune/spt/dataset"
	"github.com/sptune/spt/internal/colours"
	"github.com/sptune/spt/objective"
	"github.com/sptune/spt/peft"
	"github.com/sptune/spt/train"
)

// scale is a third structured module, in the form that a user would write: a graph function and a
// parameter count. It returns y·(1+γ) + β, as in SSF (Lian et al. 2022).
var scale = peft.Module{
	Name:  "scale",
	Count: func(in, out, rank int) int { return 2 * out },
	Graph: func(s *peft.Site, x, y *Node) *Node {
		gamma := s.Param("gamma", peft.Zero, s.Out)
		beta := s.Param("beta", peft.Zero, s.Out)
		return Add(Mul(y, OnePlus(ExpandLeftToRank(gamma, y.Rank()))), ExpandLeftToRank(beta, y.Rank()))
	},
}

var config = backbone.Config{ImageSize: 8, NumClasses: 3, NumHeads: 2, LayerNormEps: 1e-6,
	Form: backbone.ViT{PatchSize: 4, EmbedDim: 8, Depth: 2, HiddenDim: 16}}

// TestThirdModule registers a module and trains it together with single entries.
func TestThirdModule(t *testing.T) {
	if err := peft.Register(scale); err != nil {
		t.Fatal(err)
	}
	if err := peft.Register(scale); err == nil || !strings.Contains(err.Error(), "taken") {
		t.Errorf("registering the same name twice: error %v", err)
	}
	tuning, err := peft.New(config, peft.Selection{Module: "scale", Rank: 1, Structured: []string{"blocks.0.attn.q.weight", "blocks.1.mlp.fc2.weight"},
		Whole: []string{"cls_token"}, Entries: map[string][]int32{"blocks.1.attn.v.weight": {0, 9, 63}}})
	if err != nil {
		t.Fatal(err)
	}
	if want := (peft.Counts{Structured: 32, Whole: 8, Entries: 3, Head: 27}); tuning.Counts != want {
		t.Errorf("counts %+v, expected %+v", tuning.Counts, want)
	}
	be, _, err := backend.Open("cpu", 1)
	if err != nil {
		t.Fatal(err)
	}
	run := train.Run{Backend: be, Model: colours.Model(config), Tuning: tuning,
		Train: train.Images(dataset.NewLoader(colours.Samples(24, 8, 0), dataset.Transform{Size: 8}, nil, dataset.LoaderOptions{}), objective.SingleLabel, config), Options: train.Options{Epochs: 30, BatchSize: 8, LR: 2e-2}}
	result, err := run.Do(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	first, last := result.Epochs[0].TrainLoss, result.Epochs[29].TrainLoss
	if !(last < first/2) {
		t.Errorf("the loss changed from %.3f to %.3f, expected less than half", first, last)
	}
	for _, name := range []string{"blocks.0.attn.q.gamma", "blocks.1.mlp.fc2.beta", "blocks.1.attn.v.weight.sparse_values"} {
		moved := false
		for _, v := range result.Tuned[name].Data {
			moved = moved || v != 0
		}
		if !moved {
			t.Errorf("training did not change %s", name)
		}
	}
}

// TestWrongCount checks the error for a module whose Count differs from the tensors of its graph
// function.
func TestWrongCount(t *testing.T) {
	wrong := scale
	wrong.Name, wrong.Count = "wrong", func(in, out, rank int) int { return out }
	if err := peft.Register(wrong); err != nil {
		t.Fatal(err)
	}
	_, err := peft.New(config, peft.Uniform(config, "wrong", 1))
	if err == nil || !strings.Contains(err.Error(), "declares 16 parameters, its count says 8") {
		t.Errorf("error %v", err)
	}
}

// TestSelectionErrors checks the errors of New.
func TestSelectionErrors(t *testing.T) {
	for want, s := range map[string]peft.Selection{
		"module \"nope\" is unknown": {Module: "nope", Rank: 1, Structured: []string{"blocks.0.attn.q.weight"}},
		"of rank 0":                  {Module: "lora", Structured: []string{"blocks.0.attn.q.weight"}},
		"of rank 1099511627776":      {Module: "lora", Rank: 1 << 40, Structured: []string{"blocks.0.attn.q.weight"}},
		"is no matrix":               {Module: "lora", Rank: 1, Structured: []string{"norm.weight"}},
		"no tensor blocks.7":         {Whole: []string{"blocks.7.norm1.bias"}},
		"whole and in part":          {Whole: []string{"norm.bias"}, Entries: map[string][]int32{"norm.bias": {1}}},
		"has a lora and single":      {Module: "lora", Rank: 1, Structured: []string{"blocks.0.attn.q.weight"}, Entries: map[string][]int32{"blocks.0.attn.q.weight": {1}}},
		"is 64; expected ascending":  {Entries: map[string][]int32{"blocks.0.attn.q.weight": {3, 64}}},
		"is 3; expected ascending":   {Entries: map[string][]int32{"blocks.0.attn.q.weight": {3, 3}}},
		"always tuned":               {Whole: []string{"head.bias"}},
		"with no entries":            {Entries: map[string][]int32{"norm.bias": {}}},
		"no tensor head.nonexistent": {Entries: map[string][]int32{"head.nonexistent": {0}}},
	} {
		if _, err := peft.New(config, s); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("expected an error with %q, got %v", want, err)
		}
	}
}

// TestAdapterCount checks the number of parameters of Adapter-8 on a ViT-B.
func TestAdapterCount(t *testing.T) {
	tiny := backbone.Config{ImageSize: 224, NumClasses: 10, NumHeads: 3, LayerNormEps: 1e-6,
		Form: backbone.ViT{PatchSize: 16, EmbedDim: 192, Depth: 12, HiddenDim: 768}}
	base := tiny
	base.Form = backbone.ViT{PatchSize: 16, EmbedDim: 768, Depth: 12, HiddenDim: 3072}
	tuning, err := peft.New(base, peft.Uniform(base, "adapter", 8))
	if err != nil {
		t.Fatal(err)
	}
	if want := 12 * (5*(2*8*768+8+768) + (2*8*3072 + 8 + 3072)); tuning.Counts.Structured != want {
		t.Errorf("Adapter-8 on ViT-B: %d parameters, expected %d", tuning.Counts.Structured, want)
	}
}

// TestInitIsLocal checks that the initial values of a tensor do not depend on the other tuned
// tensors.
func TestInitIsLocal(t *testing.T) {
	m := colours.Model(config)
	init := func(s peft.Selection) checkpoint.StateDict {
		tuning, err := peft.New(config, s)
		if err != nil {
			t.Fatal(err)
		}
		return tuning.Init(3, peft.PaperScheme, m.Weights)
	}
	one := init(peft.Selection{Module: "lora", Rank: 2, Structured: []string{"blocks.1.mlp.fc1.weight"}})
	all := init(peft.Uniform(config, "lora", 2))
	bound := 1 / math.Sqrt(8)
	varied := false
	for i, v := range one["blocks.1.mlp.fc1.lora_A"].Data {
		if v != all["blocks.1.mlp.fc1.lora_A"].Data[i] {
			t.Fatal("lora_A depends on the other tuned tensors")
		}
		if math.Abs(float64(v)) > bound {
			t.Errorf("lora_A starts at %g, expected within ±%g", v, bound)
		}
		varied = varied || v != one["blocks.1.mlp.fc1.lora_A"].Data[0]
	}
	if !varied {
		t.Error("all initial values of lora_A are equal")
	}
}
