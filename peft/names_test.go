package peft_test

import (
	"strings"
	"testing"

	. "github.com/gomlx/gomlx/core/graph"

	"github.com/sptune/spt/backbone"
	"github.com/sptune/spt/peft"
)

// TestModuleTensorNames checks that a module can read the weight and the bias of its layer several
// times. It also checks the error for a module that declares a tensor with the name of another
// tensor.
func TestModuleTensorNames(t *testing.T) {
	c := backbone.Config{ImageSize: 8, NumClasses: 3, NumHeads: 2, LayerNormEps: 1e-6,
		Form: backbone.ViT{PatchSize: 4, EmbedDim: 8, Depth: 1, HiddenDim: 16}}
	module := func(name, tensor string) {
		err := peft.Register(peft.Module{
			Name:  name,
			Count: func(in, out, rank int) int { return out },
			Graph: func(s *peft.Site, x, y *Node) *Node {
				y = Mul(y, OnePlus(ExpandLeftToRank(s.Param(tensor, peft.Zero, s.Out), y.Rank())))
				if tensor == "gamma" {
					y = Add(y, Sub(ReduceAllSum(s.Weight()), ReduceAllSum(s.Weight())))
					y = Add(y, Sub(ReduceAllSum(s.Bias()), ReduceAllSum(s.Bias())))
				}
				return y
			},
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	module("readtwice", "gamma")
	module("takesbias", "bias")
	module("takespositions", "x.sparse_indices")
	selection := func(name string) peft.Selection {
		return peft.Selection{Module: name, Rank: 1, Structured: []string{"blocks.0.attn.q.weight"}}
	}
	if _, err := peft.New(c, selection("readtwice")); err != nil {
		t.Error(err)
	}
	for _, name := range []string{"takesbias", "takespositions"} {
		if _, err := peft.New(c, selection(name)); err == nil || !strings.Contains(err.Error(), "give it another name") {
			t.Errorf("%s: %v", name, err)
		}
	}
}
