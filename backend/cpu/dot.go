package cpu

import (
	"github.com/gomlx/compute"
	"github.com/gomlx/compute/dtypes"

	"github.com/sptune/spt/backend/cpu/internal/kernel/gemm"
	"github.com/sptune/spt/backend/cpu/internal/workers"
)

// dot is a batch of matrix products C = A·B [m,n] with what follows them.
// Operands are read through strides, so transposition is free.
type dot struct {
	batch, m, n, k int
	a, b           matrix
	terms          []*node // more products, added to this one in the same registers
	bias, residual edge    // edge.t nil: none
	gelu           bool    // exact GELU, after the bias
	pre            *tensor // where the value before the GELU is kept; nil: nowhere
	patch          *node   // B is this scatter onto a weight: its entries are patched into the packed weight
}

// epilogue lists what a product reads beside its operands.
func (d *dot) epilogue() []*edge {
	all := []*edge{&d.bias, &d.residual}
	for _, t := range d.terms {
		for i := range t.in {
			all = append(all, &t.in[i])
		}
	}
	return all
}

// matrix is how a product reads an operand: strides in elements, and the
// offset of each member of the batch.
type matrix struct {
	row, col int
	offsets  []int
}

// turned is the matrix transposed.
func (m matrix) turned() matrix { return matrix{m.col, m.row, m.offsets} }

// view is member i of the batch.
func (m *matrix) view(data []float32, i int) gemm.View {
	return gemm.View{Data: data[m.offsets[i]:], Row: m.row, Col: m.col}
}

// dotGeneral lowers a float32 product.
func (c *compiler) dotGeneral(o *op) bool {
	lhs, rhs := o.in[0], o.in[1]
	config := o.attrs[4].(compute.DotGeneralConfig)
	for _, t := range []dtypes.DType{lhs.shape.DType, rhs.shape.DType, o.out[0].shape.DType} {
		if t != dtypes.Float32 {
			return false
		}
	}
	if config.AccumulatorDType != dtypes.InvalidDType && config.AccumulatorDType != dtypes.Float32 {
		return false
	}
	d := &dot{}
	var in [2]edge
	for i, v := range []*value{lhs, rhs} {
		contracted, batched := o.attrs[2*i].([]int), o.attrs[2*i+1].([]int)
		e := c.edge(v)
		var free []int
		taken := map[int]bool{}
		for _, a := range contracted {
			taken[a] = true
		}
		for _, a := range batched {
			taken[a] = true
		}
		for a := range e.dims {
			if !taken[a] {
				free = append(free, a)
			}
		}
		nFree, sFree, ok := e.group(free)
		nContract, sContract, ok2 := e.group(contracted)
		if !ok || !ok2 {
			// No single strides: bring the axes together.
			perm := append(append(append([]int(nil), batched...), free...), contracted...)
			e = c.contiguous(edge{e.t, e.transposed(perm)})
			at := len(batched)
			batched, free = span(0, at), span(at, len(free))
			contracted = span(at+len(free), len(contracted))
			nFree, sFree, _ = e.group(free)
			nContract, sContract, _ = e.group(contracted)
		}
		offsets := e.offsets(batched)
		for j := range offsets {
			offsets[j] += e.offset
		}
		d.batch, d.k = len(offsets), nContract
		if i == 0 {
			d.m, d.a = nFree, matrix{sFree, sContract, offsets}
		} else {
			d.n, d.b = nFree, matrix{sContract, sFree, offsets}
		}
		in[i] = e
	}
	c.result(kindDot, o, in[:]...).dot = d
	return true
}

func span(from, n int) []int {
	out := make([]int, n)
	for i := range out {
		out[i] = from + i
	}
	return out
}

// dense lowers x·W + bias with no activation or GELU.
func (c *compiler) dense(o *op) bool {
	config := o.attrs[0].(compute.DenseConfig)
	x, w := c.edge(o.in[0]), c.edge(o.in[1])
	if x.t.dtype != dtypes.Float32 || w.t.dtype != dtypes.Float32 || config.Activation != compute.ActivationNone && config.Activation != compute.ActivationGelu {
		return false
	}
	rank := len(x.dims)
	m, sm, ok1 := x.group(span(0, rank-1))
	wIn, wOut := 0, span(1, len(w.dims)-1)
	if config.WeightLayout == compute.DenseLayoutOutputsInput {
		wIn, wOut = len(w.dims)-1, span(0, len(w.dims)-1)
	}
	n, sn, ok2 := w.group(wOut)
	if !ok1 || !ok2 {
		return false
	}
	d := &dot{batch: 1, m: m, n: n, k: x.dims[rank-1], gelu: config.Activation == compute.ActivationGelu,
		a: matrix{sm, x.strides[rank-1], []int{x.offset}}, b: matrix{w.strides[wIn], sn, []int{w.offset}}}
	if o.in[2] != nil {
		d.bias = c.contiguous(c.edge(o.in[2]))
	}
	c.result(kindDot, o, x, w).dot = d
	return true
}

// epilogues gives products the additions and the GELU that follow them.
func (c *compiler) epilogues() {
	users := c.users()
	for _, n := range c.nodes {
		for n.kind == kindDot && n.dot.batch == 1 && c.absorb(n, users) {
		}
	}
}

// absorb takes one node after the product n into its epilogue.
func (c *compiler) absorb(n *node, users map[*tensor][]*node) bool {
	d, t := n.dot, n.out[0]
	if t.output >= 0 {
		return false
	}
	// becomes makes the result of u the product's own.
	becomes := func(u *node) {
		r := u.out[0]
		r.node, r.index = n, 0
		n.out[0] = r
		n.dims = u.dims
		u.kind, u.out, u.in = kindCopy, nil, nil // unreachable from now on
	}
	for _, u := range users[t] {
		if u.kind == kindFused && u.op == compute.OpTypeFusedGelu && u.rec.attrs[0].(bool) && u.in[0].whole(t.n) && !d.gelu && d.residual.t == nil {
			d.gelu = true
			if len(users[t]) > 1 {
				d.pre = t
				t.index = 1
				n.out = []*tensor{nil, t}
			}
			becomes(u)
			return true
		}
	}
	if len(users[t]) != 1 {
		return false
	}
	u := users[t][0]
	if u.kind != kindFused || u.op != compute.OpTypeAdd {
		return false
	}
	mine, other := u.in[0], u.in[1]
	if mine.t != t {
		mine, other = other, mine
	}
	if !mine.whole(t.n) || other.t == t || other.t.dtype != dtypes.Float32 {
		return false
	}
	flat := other.collapsed()
	column := len(flat.dims) == 2 && flat.dims[0] == d.m && flat.strides[0] == 0 && flat.dims[1] == d.n && flat.strides[1] == 1
	switch {
	case n.addsTo(other):
		o := other.t.node
		d.terms = append(append(d.terms, o), o.dot.terms...)
		if o.dot.bias.t != nil {
			d.bias = o.dot.bias
		}
	case column && d.bias.t == nil && !d.gelu && d.residual.t == nil:
		d.bias = edge{other.t, layout{dims: []int{d.n}, strides: []int{1}, offset: other.offset}}
	case other.whole(t.n) && d.residual.t == nil && d.pre == nil && !other.t.node.source:
		// With the value before the GELU kept, what is added could be made of it.
		d.residual = other
	default:
		return false
	}
	n.id = max(n.id, other.t.node.id) // after the operand that it took on
	becomes(u)
	return true
}

// addsTo reports whether n's product can take the one that makes other, which it
// is added to, into its own sums: LoRA's beside the weight's, or those of q, k and
// v for the gradient of what they were made of.
func (n *node) addsTo(other edge) bool {
	o, d := other.t.node, n.dot
	if o.kind != kindDot || other.t.users != 1 || other.t.output >= 0 || !other.whole(d.m*d.n) {
		return false
	}
	p := o.dot
	return p.batch == 1 && p.m == d.m && p.n == d.n && p.k <= gemm.MaxTermDepth && min(d.m, d.n) >= gemm.MinTermSize &&
		len(d.terms)+len(p.terms) < gemm.MaxTerms &&
		!d.gelu && d.residual.t == nil && !p.gelu && p.residual.t == nil && (d.bias.t == nil || p.bias.t == nil)
}

// runDot computes the products.
func (x *execution) runDot(n *node) {
	d := n.dot
	a, b := x.float32s(n.in[0].t), x.float32s(n.in[1].t)
	out := x.float32s(n.out[0])
	fill := func(i int, g *gemm.Call) {
		g.M, g.N, g.K = d.m, d.n, d.k
		g.A, g.B = d.a.view(a, i), d.b.view(b, i)
		g.C, g.LDC, g.Alpha = out[i*d.m*d.n:(i+1)*d.m*d.n], d.n, 1
	}
	if d.batch > 1 {
		gemm.Batched(d.batch, fill)
		return
	}
	defer x.release()
	var g gemm.Call
	fill(0, &g)
	g.GELU = d.gelu
	if d.bias.t != nil {
		g.Bias = x.float32s(d.bias.t)[d.bias.offset:][:d.n]
	}
	if d.residual.t != nil {
		g.Residual, g.LDR = x.float32s(d.residual.t), d.n
	}
	if d.pre != nil {
		g.PreAct, g.LDP = x.float32s(d.pre), d.n
	}
	g.Packed = x.packed(n)
	var terms [gemm.MaxTerms]gemm.Term
	for i, t := range d.terms {
		p := t.dot
		terms[i] = gemm.Term{K: p.k, A: p.a.view(x.float32s(t.in[0].t), 0), B: p.b.view(x.float32s(t.in[1].t), 0), Packed: x.packed(t)}
	}
	g.Terms = terms[:len(d.terms)]
	g.Run()
}

// packed is B in the kernel's layout if B is a weight that other steps read
// too: it is packed once for all of them.
func (x *execution) packed(n *node) *gemm.Packed {
	d := n.dot
	l := packLayout{d.b.offsets[0], d.b.row, d.b.col, d.k, d.n}
	if d.patch != nil {
		return x.patched(n, l)
	}
	// Small products have kernels of their own, which sum in another order: a
	// product must not change when its weight is packed.
	if d.m <= 16 || d.n <= 16 {
		return nil
	}
	b := x.shared(n.in[1].t)
	if b == nil {
		return nil
	}
	return b.pack(l)
}

// pack brings the buffer to the kernel's layout, once.
func (b *buffer) pack(l packLayout) *gemm.Packed {
	b.mu.Lock()
	defer b.mu.Unlock()
	if p, ok := b.packs[l]; ok {
		return p
	}
	if b.packs == nil {
		b.packs = map[packLayout]*gemm.Packed{}
	}
	p := packNew(view[float32](b.data, 0, len(b.data)/4), l)
	b.packs[l] = p
	b.backend.packed.Add(4 * int64(len(p.Data())))
	return p
}

// packNew packs a k×n operand into new memory.
func packNew(data []float32, l packLayout) *gemm.Packed {
	return gemm.Pack(workers.Aligned(gemm.PackedLen(l.k, l.n)), gemm.View{Data: data[l.offset:], Row: l.row, Col: l.col}, l.k, l.n)
}
