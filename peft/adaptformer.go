package peft

import (
	"fmt"
	"math"
	"strings"

	. "github.com/gomlx/gomlx/core/graph"

	"github.com/sptune/spt/backbone"
)

// adaptFormer is the bottleneck of AdaptFormer (Chen et al. 2022, arXiv 2205.13535) in parallel to
// one layer. It returns y + s·(U·ReLU(D·x + d) + u) with s = 0.1, the factor of the paper. D starts
// Kaiming-uniform and the other tensors at zero, so the output is unchanged at first. Dropout is
// applied after the ReLU. The module cannot be merged because of the ReLU. [Bottleneck] is the
// placement of the paper, in parallel to the MLP.
var adaptFormer = Module{
	Name:  "adaptformer",
	Count: func(in, out, rank int) int { return rank*(in+out) + rank + out },
	Graph: func(s *Site, x, y *Node) *Node {
		down, downBias := s.Param("adaptformer_down.weight", KaimingUniform, s.Rank, s.In), s.Param("adaptformer_down.bias", Zero, s.Rank)
		up, upBias := s.Param("adaptformer_up.weight", Zero, s.Out, s.Rank), s.Param("adaptformer_up.bias", Zero, s.Out)
		hidden := s.Dropout(relu(backbone.Linear(x, down, downBias)))
		return Add(y, MulScalar(backbone.Linear(hidden, up, upBias), adaptFormerScale))
	},
}

func init() { builtIn(adaptFormer) }

// adaptFormerScale is the factor s of the paper.
const adaptFormerScale = 0.1

// Bottleneck configures AdaptFormer (Chen et al. 2022, "AdaptFormer", arXiv 2205.13535), which adds
// a small network in parallel to the MLP branch of each block. The network adds s·U·ReLU(D·x + d) +
// s·u to the output of the branch, where x is the input of the branch before its norm.
//
// D starts Kaiming-uniform and the other tensors start at zero, so the output of the backbone is
// unchanged at first. Dropout is applied after the ReLU, at the rate Rates.Dropout. A bottleneck
// cannot be merged.
type Bottleneck struct {
	// Width is the number of hidden values, r̂ in the paper. It is at least 1.
	Width int `json:"width"`
	// Scale is the factor s. It is above 0. The paper uses 0.1.
	Scale float64 `json:"scale"`
}

// The names of the tensors follow the name of the branch. They are the names in the PyTorch code of
// the paper.
const (
	downProj = ".adaptmlp.down_proj"
	upProj   = ".adaptmlp.up_proj"
)

// declareAdaptFormer adds the tensors of the bottlenecks to t.Params.
func (t *Tuning) declareAdaptFormer(c backbone.Config, o *operations) error {
	b := t.Selection.AdaptFormer
	if b.Width < 1 || b.Width > maxExtra {
		return fmt.Errorf("AdaptFormer: a bottleneck of width %d, expected 1 to %d", b.Width, maxExtra)
	}
	if !(b.Scale > 0) || math.IsInf(b.Scale, 1) {
		return fmt.Errorf("AdaptFormer: a scale of %g, expected a positive number such as 0.1", b.Scale)
	}
	before := len(t.Params)
	for _, op := range o.branches {
		if !isMLP(op.name) {
			continue
		}
		t.declare(
			Param{Name: op.name + downProj + ".weight", Shape: []int{b.Width, op.width}, Init: KaimingUniform},
			Param{Name: op.name + downProj + ".bias", Shape: []int{b.Width}, Init: Zero},
			Param{Name: op.name + upProj + ".weight", Shape: []int{op.width, b.Width}, Init: Zero},
			Param{Name: op.name + upProj + ".bias", Shape: []int{op.width}, Init: Zero})
	}
	if len(t.Params) == before {
		return fmt.Errorf("AdaptFormer: the backbone %s has no blocks with MLP branches; choose another method", c)
	}
	return nil
}

// isMLP reports whether a branch is the MLP branch of a block.
func isMLP(branch string) bool { return strings.HasSuffix(branch, ".mlp") }

// adaptFormer returns y plus the output of the bottleneck for x. It returns y if the branch has no
// bottleneck.
func (l *layers) adaptFormer(name string, x, y *Node) *Node {
	b := l.Selection.AdaptFormer
	if b == nil || l.tuned[name+downProj+".weight"] == nil {
		return y
	}
	tuned := func(layer string, x *Node) *Node {
		return backbone.Linear(x, l.tuned[name+layer+".weight"], l.tuned[name+layer+".bias"])
	}
	h := relu(tuned(downProj, x))
	h = l.drop(h, l.rates.Dropout, h.Shape().Dimensions)
	return Add(y, MulScalar(tuned(upProj, h), b.Scale))
}
