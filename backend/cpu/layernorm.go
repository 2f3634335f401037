package cpu

import (
	"slices"

	"github.com/gomlx/compute"
)

// GoMLX differentiates the formula of layer norm, so a backend gets the gradient as about twenty
// operations on rows. Let n be the number of columns, xc = x − mean(x), σ = √(mean(xc²) + eps), and
// g the gradient of h = xc/σ. Then the gradient dx of x is
//
//	q  = Σ −g·(xc/σ²) · ½/σ · 1/n    (one number for each row)
//	d  = g/σ + q·xc + q·xc
//	dx = d − Σd/n
//
// GoMLX adds d to the other gradients of x before it adds the last term. The compiler recognises dx
// and h. Each becomes one instruction of a loop.

// layerNorm changes n to one operation if n is the last operation of the gradient of a layer norm,
// or of a layer norm without weight and bias.
func (c *compiler) layerNorm(n *node) {
	if n.kind != kindFused || len(n.dims) == 0 || n.dims[len(n.dims)-1] > c.maxRow {
		return
	}
	switch n.op {
	case compute.OpTypeDiv:
		if l, ok := normalised(n); ok {
			n.op, n.in = compute.OpTypeFusedLayerNorm, []edge{full(l.x, n.dims)}
			n.rec = &op{kind: n.op, attrs: fusedLayerNormAttrs{axes: []int{len(n.dims) - 1}, epsilon: l.eps}}
		}
	case compute.OpTypeAdd:
		for i := range 2 {
			d, ok := negativeMean(n.in[i], n)
			if !ok {
				continue
			}
			at, other := n, n.in[1-i]
			if other.t != d { // the other gradients of x are added to d
				if !other.whole(n.out[0].n) || !fused(other.t, compute.OpTypeAdd) || other.t.users != 1 {
					continue
				}
				at = other.t.node
			}
			g, l, ok := normGradient(d)
			if !ok {
				continue
			}
			if at != n {
				j := slices.IndexFunc(at.in, func(e edge) bool { return e.t == d })
				if j < 0 {
					continue
				}
				n.in = []edge{at.in[1-j], full(at.out[0], n.dims)}
			}
			at.op, at.in = opLayerNormGrad, []edge{full(g, n.dims), full(l.x, n.dims)}
			at.rec = &op{kind: opLayerNormGrad, attrs: layerNormGradAttrs{float32(l.eps)}}
			return
		}
	}
}

// norm holds the parts of a layer norm: the input, the centred input, σ of every row, and epsilon.
type norm struct {
	x, centred, sigma *tensor
	eps               float64
}

// normalised recognises h = xc/σ and returns its parts.
func normalised(n *node) (l norm, ok bool) {
	size, cols := n.out[0].n, n.dims[len(n.dims)-1]
	xc, sigma := n.in[0], n.in[1]
	if !xc.whole(size) || !perRow(sigma, size, cols) {
		return l, false
	}
	x, ok := centred(xc.t, cols)
	if !ok || !fused(sigma.t, compute.OpTypeSqrt) {
		return l, false
	}
	w := sigma.t.node.in[0]
	if !w.whole(size/cols) || !fused(w.t, compute.OpTypeAdd) {
		return l, false
	}
	for i, e := range w.t.node.in {
		eps, ok := scalar(e)
		square, ok2 := rowMean(w.t.node.in[1-i], size, cols)
		if ok && ok2 {
			f, ok := factorised(full(square, n.dims), size)
			return norm{x, xc.t, sigma.t, eps}, ok && nearly(f.scale, 1) && slices.Equal(f.tensors, []*tensor{xc.t, xc.t})
		}
	}
	return l, false
}

// perRow reports whether e holds one number for each row of cols elements and repeats it along the
// row.
func perRow(e edge, size, cols int) bool {
	return e.t.n*cols == size && fits(e, levelRow, levelFull, size, cols)
}

// centred recognises x − mean(x).
func centred(t *tensor, cols int) (x *tensor, ok bool) {
	if !fused(t, compute.OpTypeSub) || !t.node.in[0].whole(t.n) || !perRow(t.node.in[1], t.n, cols) {
		return nil, false
	}
	x = t.node.in[0].t
	m := t.node.in[1].t
	of, ok := rowMean(full(m, m.shape.Dimensions), t.n, cols)
	return x, ok && of == x
}

// rowMean recognises the mean of each row of a tensor: the sum of the row, divided by cols.
func rowMean(e edge, size, cols int) (of *tensor, ok bool) {
	f, ok := factorised(e, size/cols)
	if !ok || len(f.tensors) != 1 || !nearly(f.scale, 1/float64(cols)) {
		return nil, false
	}
	return rowSum(f.tensors[0], size, cols)
}

// rowSum recognises the sum of each row of a tensor.
func rowSum(t *tensor, size, cols int) (of *tensor, ok bool) {
	n := t.node
	if n.kind != kindReduce || n.op != compute.OpTypeReduceSum {
		return nil, false
	}
	e := n.in[0]
	last := len(e.dims) - 1
	return e.t, slices.Equal(n.axes, []int{last}) && e.dims[last] == cols && e.whole(size)
}

// negativeMean recognises −Σd/n of each row, as n reads it.
func negativeMean(e edge, n *node) (d *tensor, ok bool) {
	size, cols := n.out[0].n, n.dims[len(n.dims)-1]
	if e.t.n == size || !perRow(e, size, cols) {
		return nil, false
	}
	f, ok := factorised(full(e.t, e.t.shape.Dimensions), size/cols)
	if !ok || len(f.tensors) != 1 || !nearly(f.scale, 1/float64(cols)) || !fused(f.tensors[0], compute.OpTypeNeg) {
		return nil, false
	}
	sum := f.tensors[0].node.in[0]
	if !sum.whole(size / cols) {
		return nil, false
	}
	return rowSum(sum.t, size, cols)
}

// normGradient recognises d = g/σ + q·xc + q·xc.
func normGradient(d *tensor) (g *tensor, l norm, ok bool) {
	var terms []*tensor
	var sum func(t *tensor) bool
	sum = func(t *tensor) bool {
		if !fused(t, compute.OpTypeAdd) || len(terms) > 3 {
			terms = append(terms, t)
			return true
		}
		for _, e := range t.node.in {
			if !e.whole(d.n) || !sum(e.t) {
				return false
			}
		}
		return true
	}
	if !fused(d, compute.OpTypeAdd) || !sum(d) || len(terms) != 3 {
		return nil, l, false
	}
	i := slices.IndexFunc(terms, func(t *tensor) bool { return fused(t, compute.OpTypeDiv) })
	if i < 0 || terms[(i+1)%3] != terms[(i+2)%3] {
		return nil, l, false
	}
	direct, through := terms[i].node, terms[(i+1)%3]
	cols := direct.dims[len(direct.dims)-1]
	if !direct.in[0].whole(d.n) || !perRow(direct.in[1], d.n, cols) || !fused(through, compute.OpTypeMul) {
		return nil, l, false
	}
	g = direct.in[0].t
	for i, q := range through.node.in {
		if !perRow(q, d.n, cols) || !through.node.in[1-i].whole(d.n) {
			continue
		}
		// The compiler may have removed the node that computes h = xc/σ, but its operands still
		// exist.
		h := &node{out: []*tensor{d}, dims: direct.dims, in: []edge{through.node.in[1-i], direct.in[1]}}
		if l, ok := normalised(h); ok && varianceGradient(q.t, g, l, d.n, cols) {
			return g, l, true
		}
	}
	return nil, l, false
}

// varianceGradient recognises q = Σ −g·(xc/σ²) · ½/σ · 1/n.
func varianceGradient(q, g *tensor, l norm, size, cols int) bool {
	f, ok := factorised(full(q, q.shape.Dimensions), size/cols)
	if !ok || len(f.tensors) != 2 || !nearly(f.scale, 0.5/float64(cols)) {
		return false
	}
	for i, t := range f.tensors {
		if !fused(t, compute.OpTypeDiv) {
			continue
		}
		if one, ok := scalar(t.node.in[0]); !ok || one != 1 || t.node.in[1].t != l.sigma || !t.node.in[1].whole(size/cols) {
			continue
		}
		minus, ok := rowSum(f.tensors[1-i], size, cols)
		if !ok || !fused(minus, compute.OpTypeNeg) {
			continue
		}
		p := minus.node.in[0]
		if !p.whole(size) || !fused(p.t, compute.OpTypeMul) {
			continue
		}
		// Do not split g into factors, because g may be a product itself.
		j := slices.IndexFunc(p.t.node.in, func(e edge) bool { return e.t == g && e.whole(size) })
		if j < 0 || !p.t.node.in[1-j].whole(size) || !fused(p.t.node.in[1-j].t, compute.OpTypeDiv) {
			continue
		}
		ratio := p.t.node.in[1-j].t.node
		xc, square := ratio.in[0], ratio.in[1]
		if xc.t != l.centred || !xc.whole(size) || !square.whole(size) || !fused(square.t, compute.OpTypeMul) {
			continue
		}
		s := square.t.node.in
		return s[0].t == l.sigma && s[1].t == l.sigma && perRow(s[0], size, cols) && perRow(s[1], size, cols)
	}
	return false
}
