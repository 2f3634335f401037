package peft_test

import (
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/sptune/spt/backbone"
	"github.com/sptune/spt/backend"
	"github.com/sptune/spt/checkpoint"
	"github.com/sptune/spt/internal/fixtures"
	"github.com/sptune/spt/peft"
)

// TestEveryBackbone applies each method to each architecture. Each tuned tensor must have a
// gradient, and merged weights must give the same logits. An architecture that does not support a
// method gives an error.
func TestEveryBackbone(t *testing.T) {
	be, _, err := backend.Open("cpu", 1)
	if err != nil {
		t.Fatal(err)
	}
	loaded := 0
	for _, f := range fixtures.Backbones(t) {
		if !strings.HasSuffix(f.Name, "-timm") {
			continue // the same weights under other names
		}
		o := backbone.LoadOptions{NumClasses: 5, LayerNormEps: f.LayerNormEps}
		if len(f.NumHeads) == 1 {
			o.NumHeads = f.NumHeads[0]
		}
		m, _, err := backbone.Load(f.Path(), o)
		if err != nil {
			t.Logf("%s: %v", f.Name, err)
			continue // the tests of package backbone check loading
		}
		loaded++
		for method, c := range map[string]struct {
			s      peft.Selection
			refuse string // part of the error of New, where the method is not supported
			apart  string // part of the error of merging, where merging is not possible
		}{
			"full": {s: peft.Full(m.Config)}, "bitfit": {s: ofMethod(t, m.Config, "bitfit")}, "partial-2": {s: ofMethod(t, m.Config, "partial-2")}, "lora": {s: peft.Uniform(m.Config, "lora", 1)},
			"ssf": {s: peft.Selection{SSF: true}, apart: "of SSF after"}, "mlp-3": {s: peft.Selection{MLPHead: 3}, apart: "MLP head"}, "adapter": {s: peft.Uniform(m.Config, "adapter", 1), apart: "not linear"},
			"adapter-nobias": {s: peft.Uniform(m.Config, "adapter-nobias", 1), apart: "not linear"}, "adapter-scaled": {s: peft.Uniform(m.Config, "adapter-scaled", 1), apart: "not linear"},
			"adapter-plus on matrices": {s: peft.Uniform(m.Config, "adapter-plus", 1), apart: "not linear"}, "adaptformer on matrices": {s: peft.Uniform(m.Config, "adaptformer", m.Config.MaxRank()), apart: "not linear"},
			"adapter-plus": {s: peft.Selection{PostAdapter: &peft.PostAdapter{Width: 2}}, refuse: "MLP branches", apart: "adapters of Adapter+"}, "difffit": {s: ofMethod(t, m.Config, "difffit")},
			"convpass": {s: peft.Selection{Convpass: &peft.Convpass{Width: 2, Scale: 0.5}}, refuse: "needs a backbone of tokens", apart: "bypasses of Convpass"},
			"fact-tt":  {s: peft.Selection{FacT: &peft.FacT{Rank: 2, Scale: 0.5}}, refuse: "multiples of"},
			"dora":     {s: peft.Uniform(m.Config, "dora", 1)}, "repadapter": {s: peft.Uniform(m.Config, "repadapter", 1), apart: "has no bias"},
			"adaptformer": {s: peft.Selection{AdaptFormer: &peft.Bottleneck{Width: 32, Scale: 0.1}}, refuse: "MLP branches", apart: "bottlenecks"},
			"vpt-shallow": {s: peft.Selection{Prompts: &peft.Prompts{Tokens: 2, Deep: false}}, refuse: "need a backbone of tokens", apart: "prompts"}, "vpt-deep": {s: peft.Selection{Prompts: &peft.Prompts{Tokens: 2, Deep: true}}, refuse: "need a backbone of tokens", apart: "prompts"},
		} {
			tuning, err := peft.New(m.Config, c.s)
			if err != nil {
				if c.refuse == "" || f.Family == "vit" || !strings.Contains(err.Error(), c.refuse) {
					t.Errorf("%s on %s: %v", method, f.Name, err)
				}
				continue
			}
			tuned := tuning.Init(1, peft.PaperScheme, m.Weights)
			r := rand.New(rand.NewPCG(1, 2))
			for _, p := range tuning.Params {
				for i := range tuned[p.Name].Data {
					tuned[p.Name].Data[i] += float32(0.1 * r.NormFloat64())
				}
			}
			want, grads := forward(t, be, m, tuning, tuned, f.Pixels(t), []int32{1, 3})
			flat := 0
			for _, p := range tuning.Params {
				// A vector that is added to all keys changes no attention.
				if _, most := difference(t, grads[p.Name].Data, grads[p.Name].Data); most == 0 && !strings.HasSuffix(p.Name, "attn.k.repadapter_down.bias") {
					flat++
				}
			}
			if flat > 0 {
				t.Errorf("%s on %s: %d of %d tuned tensors have no gradient", method, f.Name, flat, len(tuning.Params))
			}
			if err := tuning.Mergeable(); err != nil {
				if c.apart == "" || !strings.Contains(err.Error(), c.apart) {
					t.Errorf("%s on %s: %v", method, f.Name, err)
				}
				continue
			}
			merged, err := tuning.Merge(m.Weights, tuned)
			if err != nil && c.apart != "" && strings.Contains(err.Error(), c.apart) {
				continue
			}
			if err != nil {
				t.Fatalf("%s on %s: %v", method, f.Name, err)
			}
			linear, err := peft.New(m.Config, peft.Selection{})
			if err != nil {
				t.Fatal(err)
			}
			head := checkpoint.StateDict{}
			for _, p := range linear.Params {
				head[p.Name] = merged[p.Name]
			}
			got, _ := forward(t, be, backbone.NewModel(m.Config, m.Preprocessing, merged), linear, head, f.Pixels(t), []int32{1, 3})
			if d, most := difference(t, got, want); !(d <= 1e-4*most) {
				t.Errorf("%s on %s: merging changes logits by up to %g, of at most %g", method, f.Name, d, most)
			}
		}
	}
	if loaded == 0 {
		t.Error("no backbone could be loaded")
	}
}
