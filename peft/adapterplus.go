package peft

import (
	"fmt"

	. "github.com/gomlx/gomlx/core/graph"

	"github.com/sptune/spt/backbone"
	"github.com/sptune/spt/internal/graph"
)

// adapterPlus is the bottleneck of Adapter+ (Steitz and Roth 2024, "Adapters Strike Back", CVPR
// 2024) after a layer: y + s⊙(U·GELU(D·y + d) + u), where y is the output of the layer. D and U
// start normally distributed with σ 0.01, truncated at 2σ, d and u at zero and the factors s at
// one, as in the code of the paper. So the features change very little at first. Drop-path is
// applied to the output of the module, and there is no dropout. The module cannot be merged because
// of the GELU. [PostAdapter] is the placement of the paper, after each block.
var adapterPlus = Module{
	Name:  "adapter-plus",
	Count: func(_, out, rank int) int { return 2*rank*out + rank + 2*out },
	Graph: func(s *Site, _, y *Node) *Node {
		p := make([]*Node, 0, len(adapterPlusTensors))
		for _, t := range adapterPlusTensors {
			p = append(p, s.Param(t.name, t.init, t.shape(s.Rank, s.Out)...))
		}
		return Add(y, s.DropPath(adapterPlusOutput(y, p)))
	},
}

func init() { builtIn(adapterPlus) }

// adapterPlusTensors lists D, d, U, u and s of a bottleneck of the given width for tokens of width
// d.
var adapterPlusTensors = []struct {
	name  string
	init  Init
	shape func(width, d int) []int
}{
	{"adapterplus_down.weight", truncatedNormal(0.01), func(width, d int) []int { return []int{width, d} }},
	{"adapterplus_down.bias", Zero, func(width, _ int) []int { return []int{width} }},
	{"adapterplus_up.weight", truncatedNormal(0.01), func(width, d int) []int { return []int{d, width} }},
	{"adapterplus_up.bias", Zero, func(_, d int) []int { return []int{d} }},
	{"adapterplus_scale", one, func(_, d int) []int { return []int{d} }},
}

// adapterPlusOutput returns s⊙(U·GELU(D·z + d) + u). p holds the tensors of adapterPlusTensors.
func adapterPlusOutput(z *Node, p []*Node) *Node {
	h := backbone.Linear(backbone.GELU(backbone.Linear(z, p[0], p[1])), p[2], p[3])
	return Mul(h, graph.Everywhere(p[4], h))
}

// PostAdapter configures Adapter+ in the placement of its paper: after each block, on the residual
// stream. With z, the output of the block, the next block reads z + s⊙(U·GELU(D·z + d) + u). The
// initial values are those of the module adapter-plus. Drop-path is applied to the output of the
// adapter, at the rate Rates.ModuleDropPath. A post-adapter cannot be merged.
type PostAdapter struct {
	// Width is the number of hidden values. It is at least 1. The paper uses 1 to 32.
	Width int `json:"width"`
}

// declarePostAdapters adds the tensors of the adapters to t.Params. A block ends with its MLP
// branch. The names of the tensors follow the name of this branch.
func (t *Tuning) declarePostAdapters(c backbone.Config, o *operations) error {
	a := t.Selection.PostAdapter
	if a.Width < 1 || a.Width > maxExtra {
		return fmt.Errorf("adapter-plus: a bottleneck of width %d, expected 1 to %d", a.Width, maxExtra)
	}
	before := len(t.Params)
	for _, op := range o.branches {
		if !isMLP(op.name) {
			continue
		}
		for _, p := range adapterPlusTensors {
			t.declare(Param{Name: op.name + "." + p.name, Shape: p.shape(a.Width, op.width), Init: p.init})
		}
	}
	if len(t.Params) == before {
		return fmt.Errorf("adapter-plus: the backbone %s has no blocks with MLP branches; choose another method", c)
	}
	return nil
}

// postAdapter returns y plus the output of the adapter for x + y. It returns y if no adapter
// follows the branch.
func (l *layers) postAdapter(name string, x, y *Node) *Node {
	if l.Selection.PostAdapter == nil || l.tuned[name+"."+adapterPlusTensors[0].name] == nil {
		return y
	}
	var p []*Node
	for _, t := range adapterPlusTensors {
		p = append(p, l.tuned[name+"."+t.name])
	}
	return Add(y, l.dropPath(adapterPlusOutput(Add(x, y), p), l.rates.ModuleDropPath))
}
