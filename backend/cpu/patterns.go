package cpu

import (
	"math"
	"slices"
	"sort"

	"github.com/gomlx/compute"
	"github.com/gomlx/compute/dtypes"
)

// GoMLX draws uniform random numbers by a conversion of random bits. Dropout compares the numbers
// with the rate, converts the result and multiplies. Together these are eight operations on every
// element.
//
// GoMLX differentiates the formula of GELU, so a backend gets the gradient as about twelve
// operations, including erf and exp.
//
// The compiler recognises both groups of operations and replaces each by one operation. The file
// layernorm.go does the same for layer norms.

// Operations that the compute API does not have.
const (
	// The gradient dy·d/dx GELU(x). The operands are x and dy.
	opGELUGrad = compute.OpTypeLast + 1 + iota
	// x times a mask of random bits. The operands are x and the bits, the attributes are a dropout.
	opDropout
	// The gradient of x in h = (x−mean)/σ. The operands are the gradient of h and x.
	opLayerNormGrad
)

// layerNormGradAttrs holds the attributes of opLayerNormGrad.
type layerNormGradAttrs struct{ epsilon float32 }

// dropout holds the attributes of opDropout. The mask is scale where the 32 random bits are at
// least threshold, and zero elsewhere.
type dropout struct {
	scale     float32
	threshold uint32
}

// patterns replaces each recognised group of nodes by one node. A later call of prune removes the
// other nodes of the group.
func (c *compiler) patterns() {
	for _, n := range c.nodes {
		if x, dy, ok := geluGradient(n); ok {
			n.op, n.in = opGELUGrad, []edge{x, dy}
			n.rec = &op{kind: opGELUGrad}
		} else if x, bits, d, ok := dropped(n); ok {
			n.op, n.in = opDropout, []edge{x, bits}
			n.rec = &op{kind: opDropout, attrs: d}
		} else {
			c.layerNorm(n)
		}
	}
}

// factors holds the factors of an element-wise product: a number and tensors of full size.
type factors struct {
	scale   float64
	tensors []*tensor
}

// remove removes the factor t once. It reports whether t was a factor.
func (f *factors) remove(t *tensor) bool {
	i := slices.Index(f.tensors, t)
	if i >= 0 {
		f.tensors = slices.Delete(f.tensors, i, i+1)
	}
	return i >= 0
}

// scalar returns the value of a float32 constant with one element. It returns false for other
// edges.
func scalar(e edge) (float64, bool) {
	if n := e.t.node; n.kind == kindConstant && e.t.n == 1 && e.t.dtype == dtypes.Float32 {
		return float64(view[float32](n.rec.attrs.(*buffer).data, 0, 1)[0]), true
	}
	return 0, false
}

// factorise adds the factors of e to f. size is the number of elements of the tensors. It returns
// false if e does not read a complete tensor of this size.
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

// factorised returns the factors of e, see factorise.
func factorised(e edge, size int) (f factors, ok bool) {
	f.scale = 1
	ok = f.factorise(e, size)
	return f, ok
}

// nearly reports whether a and b are equal up to a relative difference of 1e-5.
func nearly(a, b float64) bool { return math.Abs(a-b) <= 1e-5*math.Abs(b) }

// fused reports whether t is the result of the element-wise operation op.
func fused(t *tensor, op compute.OpType) bool { return t.node.kind == kindFused && t.node.op == op }

// geluGradient recognises
//
//	½·dy·(1 + erf(x/√2)) + dy·x·exp(−x²/2)/√(2π)
//
// with the factors in any order.
func geluGradient(n *node) (x, dy edge, ok bool) {
	if n.kind != kindFused || n.op != compute.OpTypeAdd {
		return x, dy, false
	}
	size := n.out[0].n
	for i := range 2 {
		p, ok1 := factorised(n.in[i], size)
		q, ok2 := factorised(n.in[1-i], size)
		if !ok1 || !ok2 || !nearly(p.scale, 0.5) || !nearly(q.scale, 1/math.Sqrt(2*math.Pi)) || len(p.tensors) != 2 || len(q.tensors) != 3 {
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
				if f, ok := factorised(erf.t.node.in[0], size); ok && len(f.tensors) == 1 && nearly(f.scale, math.Sqrt(0.5)) {
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
	f, ok := factorised(neg.node.in[0], size)
	return ok && nearly(f.scale, 0.5) && slices.Equal(f.tensors, []*tensor{x, x})
}

// dropped recognises dropout: x·(scale·(u ≥ rate)), where u is a uniform random number of the GoMLX
// function RandomUniform. Its formula is min(|bits/2³²|, the largest number below 1).
func dropped(n *node) (x, bits edge, d dropout, ok bool) {
	if n.kind != kindFused || n.op != compute.OpTypeMul {
		return x, bits, d, false
	}
	size := n.out[0].n
	for i := range 2 {
		f, ok := factorised(n.in[i], size)
		if !ok || len(f.tensors) != 1 || !fused(f.tensors[0], compute.OpTypeConvertDType) || !n.in[1-i].whole(size) {
			continue
		}
		keep := f.tensors[0].node.in[0]
		if !keep.whole(size) || !fused(keep.t, compute.OpTypeGreaterOrEqual) {
			continue
		}
		rate, ok1 := scalar(keep.t.node.in[1])
		b, uniform, ok2 := uniform(keep.t.node.in[0], size)
		if !ok1 || !ok2 || uniform(1<<32-1) < float32(rate) {
			continue
		}
		d.scale = float32(f.scale)
		d.threshold = uint32(sort.Search(1<<32-1, func(bits int) bool { return uniform(uint32(bits)) >= float32(rate) }))
		return n.in[1-i], b, d, true
	}
	return x, bits, d, false
}

// uniform recognises RandomUniform. It returns the random bits and the function that converts them
// to a uniform number.
func uniform(e edge, size int) (bits edge, f func(bits uint32) float32, ok bool) {
	if !e.whole(size) || !fused(e.t, compute.OpTypeMin) {
		return bits, nil, false
	}
	most, ok1 := scalar(e.t.node.in[1])
	abs := e.t.node.in[0]
	if !ok1 || !abs.whole(size) || !fused(abs.t, compute.OpTypeAbs) || !abs.t.node.in[0].whole(size) {
		return bits, nil, false
	}
	scaled := abs.t.node.in[0]
	p, ok2 := factorised(scaled, size)
	if !ok2 || p.scale <= 0 || len(p.tensors) != 1 || !fused(p.tensors[0], compute.OpTypeConvertDType) {
		return bits, nil, false
	}
	bits = p.tensors[0].node.in[0]
	if bits.t.node.kind != kindRandom || bits.t.index != 1 || bits.t.dtype != dtypes.Uint32 || !bits.whole(size) {
		return bits, nil, false
	}
	return bits, func(b uint32) float32 { return min(float32(b)*float32(p.scale), float32(most)) }, true
}
