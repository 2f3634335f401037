package cpu

import (
	"math"
	"slices"

	"github.com/gomlx/compute"
	"github.com/gomlx/compute/dtypes"
)

// GoMLX differentiates GELU as the formula that it stands for, so its gradient
// reaches a backend as a dozen operations with an erf and an exp. The compiler
// recognises them and runs one kernel instead.

// opGELUGrad is dy·d/dx GELU(x), of x and dy: no operation of the compute API.
const opGELUGrad = compute.OpTypeLast + 1

// patterns replaces recognised groups of nodes. What they leave behind is
// dropped by prune.
func (c *compiler) patterns() {
	for _, n := range c.nodes {
		if x, dy, ok := geluGradient(n); ok {
			n.op, n.in = opGELUGrad, []edge{x, dy}
			n.rec = &op{kind: opGELUGrad}
		}
	}
}

// factors is a product taken apart: a number times tensors of full size.
type factors struct {
	scale   float64
	tensors []*tensor
}

// remove takes one factor out.
func (f *factors) remove(t *tensor) bool {
	i := slices.Index(f.tensors, t)
	if i >= 0 {
		f.tensors = slices.Delete(f.tensors, i, i+1)
	}
	return i >= 0
}

// scalar is the value of a constant of one element.
func scalar(e edge) (float64, bool) {
	if n := e.t.node; n.kind == kindConstant && e.t.n == 1 && e.t.dtype == dtypes.Float32 {
		return float64(view[float32](n.rec.data.(*buffer).data, 0, 1)[0]), true
	}
	return 0, false
}

// factorise multiplies e's factors into f. size is that of the tensors.
func (f *factors) factorise(e edge, size int) bool {
	if v, ok := scalar(e); ok {
		f.scale *= v
		return true
	}
	if !e.whole(size) {
		return false
	}
	if n := e.t.node; n.kind == kindFused && n.op == compute.OpTypeMul {
		return f.factorise(n.in[0], size) && f.factorise(n.in[1], size)
	}
	f.tensors = append(f.tensors, e.t)
	return true
}

func product(e edge, size int) (f factors, ok bool) {
	f.scale = 1
	ok = f.factorise(e, size)
	return f, ok
}

func close(a, b float64) bool { return math.Abs(a-b) <= 1e-5*math.Abs(b) }

// fused reports whether t is made by an element-wise operation.
func fused(t *tensor, op compute.OpType) bool { return t.node.kind == kindFused && t.node.op == op }

// geluGradient recognises
//
//	½·dy·(1 + erf(x/√2)) + dy·x·exp(−x²/2)/√(2π)
//
// in any order of its factors.
func geluGradient(n *node) (x, dy edge, ok bool) {
	if n.kind != kindFused || n.op != compute.OpTypeAdd {
		return x, dy, false
	}
	size := n.out[0].n
	for i := range 2 {
		p, ok1 := product(n.in[i], size)
		q, ok2 := product(n.in[1-i], size)
		if !ok1 || !ok2 || !close(p.scale, 0.5) || !close(q.scale, 1/math.Sqrt(2*math.Pi)) || len(p.tensors) != 2 || len(q.tensors) != 3 {
			continue
		}
		for _, g := range p.tensors {
			in, ok := onePlusErf(g, size)
			if !ok {
				continue
			}
			p := factors{tensors: slices.Clone(p.tensors)}
			q := factors{tensors: slices.Clone(q.tensors)}
			p.remove(g)
			upstream := p.tensors[0]
			if !q.remove(upstream) || !q.remove(in) || !expMinusHalfSquare(q.tensors[0], in, size) {
				continue
			}
			return full(in, n.dims), full(upstream, n.dims), true
		}
	}
	return x, dy, false
}

// onePlusErf recognises 1 + erf(x/√2).
func onePlusErf(t *tensor, size int) (x *tensor, ok bool) {
	if !fused(t, compute.OpTypeAdd) {
		return nil, false
	}
	for i, e := range t.node.in {
		if v, ok := scalar(e); ok && v == 1 {
			if erf := t.node.in[1-i]; erf.whole(size) && fused(erf.t, compute.OpTypeErf) {
				if f, ok := product(erf.t.node.in[0], size); ok && len(f.tensors) == 1 && close(f.scale, math.Sqrt(0.5)) {
					return f.tensors[0], true
				}
			}
		}
	}
	return nil, false
}

// expMinusHalfSquare recognises exp(−x²/2).
func expMinusHalfSquare(t, x *tensor, size int) bool {
	if !fused(t, compute.OpTypeExp) || !t.node.in[0].whole(size) {
		return false
	}
	neg := t.node.in[0].t
	if !fused(neg, compute.OpTypeNeg) {
		return false
	}
	f, ok := product(neg.node.in[0], size)
	return ok && close(f.scale, 0.5) && slices.Equal(f.tensors, []*tensor{x, x})
}
