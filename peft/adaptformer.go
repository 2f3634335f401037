package peft

import (
	"fmt"
	"math"
	"strings"

	. "github.com/gomlx/gomlx/core/graph"

	"github.com/sptune/spt/backbone"
)

// Bottleneck configures AdaptFormer (Chen et al. 2022, "AdaptFormer", arXiv 2205.13535): a small
// network beside the MLP of every block. It adds s·U·(ReLU(D·x + d)) + s·u to the output of the MLP
// branch, where x is the input of the branch before its norm. D starts Kaiming-uniform, the other
// tensors start at zero, so that the backbone computes the same at the start. The dropout of the
// run acts in the middle. A bottleneck cannot be merged.
type Bottleneck struct {
	Width int     `json:"width"` // r̂, the width of the middle; at least 1
	Scale float64 `json:"scale"` // s, the factor of what is added; above 0, such as 0.1
}

// The names of the tensors, after the name of the branch. They are PyTorch's in the code of the
// paper.
const (
	downProj = ".adaptmlp.down_proj"
	upProj   = ".adaptmlp.up_proj"
)

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
		return fmt.Errorf("AdaptFormer stands beside the MLP branches of a backbone's blocks; %s has none: choose another method", c)
	}
	return nil
}

// isMLP reports whether a branch is the branch of an MLP.
func isMLP(branch string) bool { return strings.HasSuffix(branch, ".mlp") }

// adaptFormer returns y plus the output of the bottleneck for x.
func (l *layers) adaptFormer(name string, x, y *Node) *Node {
	b := l.Selection.AdaptFormer
	if b == nil || !isMLP(name) {
		return y
	}
	tuned := func(layer string, x *Node) *Node {
		return backbone.Linear(x, l.tuned[name+layer+".weight"], l.tuned[name+layer+".bias"])
	}
	h := relu(tuned(downProj, x))
	h = l.drop(h, l.rates.Dropout, h.Shape().Dimensions)
	return Add(y, MulScalar(tuned(upProj, h), b.Scale))
}
