package peft

import (
	"fmt"
	"slices"
	"strings"

	. "github.com/gomlx/gomlx/core/graph"

	"github.com/sptune/spt/checkpoint"
	"github.com/sptune/spt/internal/graph"
)

// The names of γ [C] and β [C] of an operation follow the name of the operation.
const (
	ssfScale = ".ssf_scale"
	ssfShift = ".ssf_shift"
)

// declareSSF adds γ and β of each operation to t.Params.
func (t *Tuning) declareSSF(o *operations) {
	for _, op := range o.outputs {
		t.declare(Param{Name: op.name + ssfScale, Shape: []int{op.width}, Init: normal(1, 0.02)}, Param{Name: op.name + ssfShift, Shape: []int{op.width}, Init: truncNormal})
		t.scaled = append(t.scaled, op.name)
	}
}

// ssf returns γ⊙y + β, or y if the operation has no γ and β.
func (l *layers) ssf(name string, y *Node) *Node {
	scale, ok := l.tuned[name+ssfScale]
	if !ok {
		return y
	}
	return Add(Mul(y, graph.Everywhere(scale, y)), graph.Everywhere(l.tuned[name+ssfShift], y))
}

// ssfMergeable returns an error if γ and β of an operation cannot be merged. They can be merged if
// the operation has a bias and is linear in its weight and bias.
func (t *Tuning) ssfMergeable() error {
	for _, name := range t.scaled {
		if strings.HasSuffix(name, ".grn") {
			return fmt.Errorf("the scale and shift of SSF after %s cannot be merged: a response normalisation adds its input to its output, and no weight scales this input; keep the delta, which holds them", name)
		}
		if _, ok := t.shapes[name+".bias"]; !ok {
			return fmt.Errorf("the scale and shift of SSF after %s cannot be merged: the backbone has no tensor %s.bias; keep the delta, which holds them", name, name)
		}
	}
	return nil
}

// mergeSSF merges γ and β of each operation into its weight W and its bias b. It multiplies each
// row of W by γ, and b becomes γ⊙b + β. The weight of a norm has rows of one value.
func (t *Tuning) mergeSSF(weights, tuned checkpoint.StateDict) {
	for _, name := range t.scaled {
		scale, shift := tuned[name+ssfScale].Data, tuned[name+ssfShift].Data
		w, b := weights[name+".weight"], weights[name+".bias"]
		w.Data, b.Data = slices.Clone(w.Data), slices.Clone(b.Data)
		row := len(w.Data) / len(scale)
		for i := range w.Data {
			w.Data[i] *= scale[i/row]
		}
		for i := range b.Data {
			b.Data[i] = b.Data[i]*scale[i] + shift[i]
		}
		weights[name+".weight"], weights[name+".bias"] = w, b
	}
}
