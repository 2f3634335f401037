package peft

import (
	"fmt"
	"math"
	"strings"

	. "github.com/gomlx/gomlx/core/graph"

	"github.com/sptune/spt/backbone"
	"github.com/sptune/spt/checkpoint"
)

// FacT configures FacT-TT (Jie and Deng 2023, "FacT: Factor-Tuning for Lightweight Adaptation on
// Vision Transformer", arXiv 2212.03145). It adds s·V·S·U·x to the output of each matrix of each
// block. All matrices share U [r, D] and V [D, r], where D is the shortest side of the matrices;
// each has its own S. An input of a·D values is cut into a parts, to each of which U is applied,
// and an output of b·D values comes from b parts, so S is [b·r, a·r].
//
// U and S start Kaiming-uniform and V at zero, so the output of the backbone is unchanged at first.
// Dropout is applied to S·U·x. FacT merges into the weights. It is no [Module], because the tensors
// of a Module belong to one layer and its parameter count does not depend on other layers.
type FacT struct {
	// Rank is r. It is at least 1. The paper uses up to 16.
	Rank int `json:"rank"`
	// Scale is the factor s. It is above 0. The paper chooses it for each task from 0.01 to 100.
	Scale float64 `json:"scale"`
}

// The names of U and V, and of S after the name of its layer.
const (
	factU = "fact.u"
	factV = "fact.v"
	factS = ".fact_s"
)

// declareFacT adds U, V and each S to t.Params.
func (t *Tuning) declareFacT(c backbone.Config) error {
	f := t.Selection.FacT
	if f.Rank < 1 || f.Rank > c.MaxRank() {
		return fmt.Errorf("FacT: rank %d, expected 1 to %d, the shortest side of the backbone's matrices", f.Rank, c.MaxRank())
	}
	if !(f.Scale > 0) || math.IsInf(f.Scale, 1) {
		return fmt.Errorf("FacT: a scale of %g, expected a positive number such as 1", f.Scale)
	}
	width := c.MaxRank()
	t.declare(Param{Name: factU, Shape: []int{f.Rank, width}, Init: KaimingUniform}, Param{Name: factV, Shape: []int{width, f.Rank}, Init: Zero})
	for _, p := range c.ParamsFrom(t.Selection.FromBlock) {
		if !p.Matrix() {
			continue
		}
		out, in := p.Shape[0], p.Shape[1]
		if out%width != 0 || in%width != 0 {
			return fmt.Errorf("FacT: %s has the shape %v, but the factors that all matrices share need sides that are multiples of %d; choose another method", p.Name, p.Shape, width)
		}
		t.declare(Param{Name: strings.TrimSuffix(p.Name, ".weight") + factS, Shape: []int{out / width * f.Rank, in / width * f.Rank}, Init: KaimingUniform})
	}
	return nil
}

// fact returns y plus what FacT adds to the output y [..., out] of a layer with the input x
// [..., in]. It returns y if the layer has no S.
func (l *layers) fact(name string, x, y *Node) *Node {
	s := l.tuned[name+factS]
	if s == nil {
		return y
	}
	u, v := l.tuned[factU], l.tuned[factV]
	rank, width := u.Shape().Dim(0), u.Shape().Dim(1)
	tokens := x.Shape().Dimensions[:x.Rank()-1]
	parts := func(x *Node, size int) *Node { // [..., parts, size]
		return Reshape(x, append(append([]int{}, tokens...), x.Shape().Dim(-1)/size, size)...)
	}
	joined := func(x *Node) *Node {
		return Reshape(x, append(append([]int{}, tokens...), x.Shape().Dim(-2)*x.Shape().Dim(-1))...)
	}
	h := backbone.Linear(joined(backbone.Linear(parts(x, width), u, nil)), s, nil)
	h = l.drop(h, l.rates.Dropout, h.Shape().Dimensions)
	return Add(y, MulScalar(joined(backbone.Linear(parts(h, rank), v, nil)), l.Selection.FacT.Scale))
}

// mergeFacT adds s·V·S·U to each weight.
func (t *Tuning) mergeFacT(weights, tuned checkpoint.StateDict) {
	if t.Selection.FacT == nil {
		return
	}
	u, v := tuned[factU].Data, tuned[factV].Data
	rank, width := tuned[factU].Shape[0], tuned[factU].Shape[1]
	for name, shape := range t.shapes {
		layer, _ := strings.CutSuffix(name, ".weight")
		s, ok := tuned[layer+factS]
		if !ok {
			continue
		}
		w := cloned(weights[name])
		wide := make([]float64, shape[1]) // a row of S·U
		for part := range shape[0] / width {
			for r := range rank {
				row := s.Data[(part*rank+r)*s.Shape[1]:]
				for i := range wide {
					wide[i] = 0
					for q := range rank {
						wide[i] += float64(row[i/width*rank+q]) * float64(u[q*width+i%width])
					}
				}
				for o := range width {
					factor := t.Selection.FacT.Scale * float64(v[o*rank+r])
					to := w.Data[(part*width+o)*shape[1]:]
					for i, x := range wide {
						to[i] = float32(float64(to[i]) + factor*x)
					}
				}
			}
		}
		weights[name] = w
	}
}
