package cpu

import (
	"slices"

	"github.com/gomlx/compute/dtypes"

	"github.com/sptune/spt/backend/cpu/internal/kernel/gemm"
	"github.com/sptune/spt/backend/cpu/internal/kernel/vector"
	"github.com/sptune/spt/backend/cpu/internal/workers"
)

// Single entries of a matrix are tuned by W + scatter(values) on the way
// forward, and on the way back by gathering those entries of dW. Neither needs
// a matrix of its own: the entries are patched into the packed weight, and each
// entry of dW is one dot product over the tokens.

// scatter lowers adding float32 values to single elements of a flat tensor.
func (c *compiler) scatter(o *op) bool {
	operand, indices, updates := o.in[0], o.in[1], o.in[2]
	if operand.shape.DType != dtypes.Float32 || indices.shape.DType != dtypes.Int32 || operand.shape.Rank() != 1 ||
		!slices.Equal(indices.shape.Dimensions, []int{updates.shape.Size(), 1}) || updates.shape.Rank() != 1 ||
		o.attrs[0].(int) != 1 || len(o.attrs[1].([]int)) != 0 {
		return false
	}
	in := []edge{c.contiguous(c.edge(operand)), c.contiguous(c.edge(indices)), c.contiguous(c.edge(updates))}
	if !in[0].whole(in[0].t.n) {
		return false
	}
	c.result(kindScatter, o, in...)
	return true
}

// gather lowers reading single float32 elements of a flat tensor.
func (c *compiler) gather(o *op) bool {
	operand, indices := o.in[0], o.in[1]
	if operand.shape.DType != dtypes.Float32 || indices.shape.DType != dtypes.Int32 || operand.shape.Rank() != 1 ||
		indices.shape.Rank() != 2 || indices.shape.Dim(1) != 1 || o.attrs[0].(int) != 1 || o.out[0].shape.Size() != indices.shape.Size() {
		return false
	}
	c.result(kindGather, o, c.contiguous(c.edge(operand)), c.contiguous(c.edge(indices)))
	return true
}

// denseFraction is the share of a matrix's entries from which on the whole
// product is faster than one dot product for each entry: BenchmarkEntries sees
// them cross at about 6 %.
var denseFraction = 1.0 / 20

// sparse turns gathers from a product that nothing else reads into dot
// products, and lets products read a scattered weight as patched pack.
func (c *compiler) sparse() {
	for _, n := range c.nodes {
		switch n.kind {
		case kindGather:
			p, turned := pickedFrom(n.in[0])
			if p == nil || p.dot.batch != 1 || p.dot.bias.t != nil || p.dot.gelu || p.dot.patch != nil ||
				float64(n.out[0].n) >= denseFraction*float64(p.dot.m*p.dot.n) {
				continue
			}
			d := &dot{batch: 1, m: p.dot.m, n: p.dot.n, k: p.dot.k, a: p.dot.a, b: p.dot.b}
			n.in = []edge{p.in[0], p.in[1], n.in[1]}
			if turned { // (A·B)ᵀ = Bᵀ·Aᵀ
				d.m, d.n, d.a, d.b = d.n, d.m, d.b.turned(), d.a.turned()
				n.in[0], n.in[1] = n.in[1], n.in[0]
			}
			n.kind, n.dot = kindSparseDot, d
		case kindDot:
			s := n.in[1].t.node
			if s.kind == kindScatter && s.in[0].t.node.kind == kindInput && n.dot.batch == 1 && n.dot.m > 1 && n.dot.b.offsets[0] == 0 && n.dot.k*n.dot.n == s.out[0].n &&
				(n.dot.b.row == 1 && n.dot.b.col == n.dot.k || n.dot.b.col == 1 && n.dot.b.row == n.dot.n) {
				n.dot.patch = s
				// The product reads the weight, the positions and the values.
				n.in = append(n.in[:2:2], s.in...)
				n.in[1] = edge{s.in[0].t, n.in[1].layout}
			}
		}
	}
}

// pickedFrom is the product whose result e is, if nothing else reads that: as it
// is, or turned round by a copy, as the gradient of a weight [in, out] is.
func pickedFrom(e edge) (p *node, turned bool) {
	n := e.t.node
	if e.t.users != 1 || !e.whole(e.t.n) {
		return nil, false
	}
	if n.kind == kindCopy && n.in[0].t.node.kind == kindDot && n.in[0].t.users == 1 {
		p, l := n.in[0].t.node, n.in[0].collapsed()
		if d := p.dot; l.offset == 0 && slices.Equal(l.dims, []int{d.n, d.m}) && slices.Equal(l.strides, []int{1, d.n}) {
			return p, true
		}
	}
	if n.kind == kindDot {
		return n, false
	}
	return nil, false
}

// patched is a program's own copy of a packed weight, with values added to some
// of its entries. Runs that add the same values share one.
type patched struct {
	weight  *buffer // whose packed form was copied
	p       *gemm.Packed
	indices []int32
	values  []float32 // added to the entries
	users   int       // products in progress
}

// bytes is the size of the copy.
func (p *patched) bytes() int64 { return 4 * int64(len(p.p.Data())) }

// patched returns B packed with the values added to its entries, until release.
func (x *execution) patched(n *node, l packLayout) *gemm.Packed {
	weight, indices, values := n.in[2].t, n.in[3], n.in[4]
	w := x.float32s(weight)
	idx := view[int32](x.mem(indices.t), indices.offset, indices.size())
	val := x.float32s(values.t)[values.offset:][:len(idx)]
	b := x.buffers[weight.node.rec.data.(*parameter).index]
	x.mu.Lock()
	defer x.mu.Unlock()
	var own, free *patched
	for _, p := range x.patches[n] {
		if p.weight == b && b != nil && slices.Equal(p.indices, idx) && slices.Equal(p.values, val) {
			own = p
		}
		if p.users == 0 {
			free = p
		}
	}
	switch {
	case own != nil:
	case free != nil && free.weight == b && b != nil:
		own = free
		own.undo(w, l)
		own.add(idx, val, len(w), l)
	default:
		own = &patched{weight: b, p: packNew(w, l)}
		own.add(idx, val, len(w), l)
		x.backend.packed.Add(own.bytes())
		if free != nil {
			x.backend.packed.Add(-free.bytes())
			x.patches[n] = slices.DeleteFunc(x.patches[n], func(p *patched) bool { return p == free })
		}
		x.patches[n] = append(x.patches[n], own)
	}
	own.users++
	x.patching = append(x.patching, own)
	return own.p
}

// release ends the use of patched weights.
func (x *execution) release() {
	if len(x.patching) == 0 {
		return
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	for _, p := range x.patching {
		p.users--
	}
	x.patching = x.patching[:0]
}

// add adds values to the entries at indices of a weight with n of them. XLA leaves out
// those beyond, too.
func (p *patched) add(indices []int32, values []float32, n int, l packLayout) {
	p.indices, p.values = append(p.indices[:0], indices...), append(p.values[:0], values...)
	data := p.p.Data()
	for i, e := range indices {
		if e >= 0 && int(e) < n {
			data[l.index(p.p, e)] += values[i]
		}
	}
}

// undo brings the entries back to the weight's own.
func (p *patched) undo(w []float32, l packLayout) {
	data := p.p.Data()
	for _, e := range p.indices {
		if e >= 0 && int(e) < len(w) {
			data[l.index(p.p, e)] = w[e]
		}
	}
}

// index is where element e of the weight lies in its packed form: B(i,j) = W[i·row + j].
func (l packLayout) index(p *gemm.Packed, e int32) int {
	if l.row == 1 {
		return p.Index(int(e)%l.col, int(e)/l.col)
	}
	return p.Index(int(e)/l.row, int(e)%l.row)
}

// runScatter adds the values in order; positions outside are left out, as XLA
// does.
func (x *execution) runScatter(n *node) {
	out := x.float32s(n.out[0])
	if in := x.float32s(n.in[0].t); &in[0] != &out[0] {
		copyParallel(x.mem(n.out[0]), x.mem(n.in[0].t))
	}
	idx := view[int32](x.mem(n.in[1].t), n.in[1].offset, n.in[1].size())
	val := x.float32s(n.in[2].t)[n.in[2].offset:]
	for i, e := range idx {
		if e >= 0 && int(e) < len(out) {
			out[e] += val[i]
		}
	}
}

// runGather reads elements; positions outside are clamped, as XLA does.
func (x *execution) runGather(n *node) {
	out := x.float32s(n.out[0])
	in := x.float32s(n.in[0].t)[n.in[0].offset:][:n.in[0].size()]
	idx := view[int32](x.mem(n.in[1].t), n.in[1].offset, n.in[1].size())
	for i, e := range idx {
		out[i] = in[min(max(int(e), 0), len(in)-1)]
	}
}

// sparseTokens is how many tokens one partial sum of a dot product covers: a
// block of both operands, transposed, stays in the second-level cache. It fixes
// the order of the sums.
const sparseTokens = 64

// runSparseDot computes single entries (i,j) of A·B [m,n]: the dot product of
// row i of A and column j of B. Both lie token by token, so a block of tokens
// is turned round first; then each entry is a product of two short vectors.
func (x *execution) runSparseDot(n *node) {
	d := n.dot
	idx := view[int32](x.mem(n.in[2].t), n.in[2].offset, n.in[2].size())
	out := x.float32s(n.out[0])
	rows, cols := make([]int32, len(idx)), make([]int32, len(idx))
	for e, at := range idx {
		at = min(max(at, 0), int32(d.m*d.n-1))
		rows[e], cols[e] = at/int32(d.n), at%int32(d.n)
	}
	a := newTokens(x.float32s(n.in[0].t)[d.a.offsets[0]:], d.a.col, d.a.row, d.m, rows)
	b := newTokens(x.float32s(n.in[1].t)[d.b.offsets[0]:], d.b.row, d.b.col, d.n, cols)
	blocks := (d.k + sparseTokens - 1) / sparseTokens
	partial := make([]float32, blocks*len(idx))
	workers.Run(blocks, func(block int, s *workers.Scratch) {
		from, count := block*sparseTokens, min(sparseTokens, d.k-block*sparseTokens)
		at, bt := a.turned(from, count, s), b.turned(from, count, s)
		sum := partial[block*len(idx):][:len(idx)]
		for e := range sum {
			sum[e] = vector.Dot(at[int(rows[e])*sparseTokens:][:count], bt[int(cols[e])*sparseTokens:][:count])
		}
	})
	for e := range out {
		s := float32(0)
		for block := range blocks {
			s += partial[block*len(idx)+e]
		}
		out[e] = s
	}
}

// tokens is an operand of single entries: feature f of token t is
// data[t·token + f·feature]. The entries' features are renumbered to places.
type tokens struct {
	data           []float32
	token, feature int
	count          int     // features to turn round
	only           []int32 // which ones; nil: all
}

// newTokens prepares an operand. If the entries touch few of its features, only
// those are turned round, and wanted is rewritten to their places.
func newTokens(data []float32, token, feature, features int, wanted []int32) *tokens {
	x := &tokens{data: data, token: token, feature: feature, count: features}
	place := make([]int32, features)
	for _, f := range wanted {
		if place[f] == 0 {
			x.only = append(x.only, f)
			place[f] = int32(len(x.only))
		}
	}
	if len(x.only)*8 > features {
		x.only = nil
		return x
	}
	for i, f := range wanted {
		wanted[i] = place[f] - 1
	}
	x.count = len(x.only)
	return x
}

// turned is a block of tokens by feature: feature f of token from+t is at
// [f·sparseTokens + t].
func (x *tokens) turned(from, count int, s *workers.Scratch) []float32 {
	out := s.Float32s(x.count * sparseTokens)
	data := x.data[from*x.token:]
	if x.only == nil && x.feature == 1 {
		vector.Transpose(out, sparseTokens, data, x.token, count, x.count)
		return out
	}
	for t := range count {
		for i := range x.count {
			f := i
			if x.only != nil {
				f = int(x.only[i])
			}
			out[i*sparseTokens+t] = data[t*x.token+f*x.feature]
		}
	}
	return out
}
