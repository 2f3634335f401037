package peft

import (
	"fmt"

	. "github.com/gomlx/gomlx/core/graph"

	"github.com/sptune/spt/checkpoint"
	"github.com/sptune/spt/internal/graph"
)

// branchScale follows the name of a branch in the name of its factors γ [D].
const branchScale = ".difffit_gamma"

// declareBranchScales adds the factors of each branch to t.Params.
func (t *Tuning) declareBranchScales(o *operations) {
	for _, op := range o.branches {
		t.declare(Param{Name: op.name + branchScale, Shape: []int{op.width}, Init: one})
		t.scaledBranches = append(t.scaledBranches, op.name)
	}
}

// branchScale returns γ⊙y, or y if the branch has no factors.
func (l *layers) branchScale(name string, y *Node) *Node {
	scale, ok := l.tuned[name+branchScale]
	if !ok {
		return y
	}
	return Mul(y, graph.Everywhere(scale, y))
}

// lastLayer returns the name of the linear layer with which a branch ends, except for the factors
// of a layer scale. ok is false if the branch has no such layer.
func (t *Tuning) lastLayer(branch string) (name string, ok bool) {
	for _, last := range []string{".proj", ".fc2", ".mlp.fc2"} {
		if len(t.shapes[branch+last+".weight"]) == 2 {
			return branch + last, true
		}
	}
	return "", false
}

// branchScalesMergeable returns an error if the factors of a branch cannot be merged.
func (t *Tuning) branchScalesMergeable() error {
	for _, branch := range t.scaledBranches {
		if _, ok := t.lastLayer(branch); !ok {
			return fmt.Errorf("the factors of DiffFit for %s cannot be merged: the branch does not end with a linear layer proj or fc2; keep the delta, which holds them", branch)
		}
	}
	return nil
}

// mergeBranchScales multiplies the rows of the last weight of each branch, and its bias, by γ.
func (t *Tuning) mergeBranchScales(weights, tuned checkpoint.StateDict) {
	for _, branch := range t.scaledBranches {
		name, _ := t.lastLayer(branch)
		scale := tuned[branch+branchScale].Data
		for _, tensor := range []string{name + ".weight", name + ".bias"} {
			w, ok := weights[tensor]
			if !ok {
				continue // the layer has no bias
			}
			w = cloned(w)
			row := len(w.Data) / len(scale)
			for i := range w.Data {
				w.Data[i] *= scale[i/row]
			}
			weights[tensor] = w
		}
	}
}
