package cpu

import (
	"slices"
	"sync"

	"github.com/gomlx/compute/dtypes"

	"github.com/sptune/spt/internal/kernel/gemm"
	"github.com/sptune/spt/internal/kernel/vector"
	"github.com/sptune/spt/internal/workers"
)

// A layer with tuned single entries computes with W + scatter(values) in the forward pass, and
// gathers the same entries of dW in the backward pass. Neither operation needs another matrix. The
// values are added to the packed weight, and each entry of dW is one dot product over the tokens.

// scatter lowers a scatter that adds float32 values to single elements of a flat tensor. It reports
// whether o has this form.
func (c *compiler) scatter(o *op) bool {
	operand, indices, updates := o.in[0], o.in[1], o.in[2]
	attrs := o.attrs.(scatterSumAttrs)
	if operand.shape.DType != dtypes.Float32 || indices.shape.DType != dtypes.Int32 || operand.shape.Rank() != 1 ||
		!slices.Equal(indices.shape.Dimensions, []int{updates.shape.Size(), 1}) || updates.shape.Rank() != 1 ||
		attrs.indexVectorAxis != 1 || len(attrs.updateWindowAxes) != 0 {
		return false
	}
	in := []edge{c.contiguous(c.edge(operand)), c.contiguous(c.edge(indices)), c.contiguous(c.edge(updates))}
	if !in[0].whole(in[0].t.n) {
		return false
	}
	c.result(kindScatter, o, in...)
	return true
}

// gather lowers a gather of single float32 elements of a flat tensor. It reports whether o has this
// form.
func (c *compiler) gather(o *op) bool {
	operand, indices := o.in[0], o.in[1]
	if operand.shape.DType != dtypes.Float32 || indices.shape.DType != dtypes.Int32 || operand.shape.Rank() != 1 ||
		indices.shape.Rank() != 2 || indices.shape.Dim(1) != 1 || o.attrs.(gatherAttrs).indexVectorAxis != 1 || o.out[0].shape.Size() != indices.shape.Size() {
		return false
	}
	c.result(kindGather, o, c.contiguous(c.edge(operand)), c.contiguous(c.edge(indices)))
	return true
}

// sparse replaces a gather by dot products if it is the only reader of a matrix product. It also
// changes products that read a weight with scattered values, so that they read a patched packed
// weight.
func (c *compiler) sparse() {
	for _, n := range c.nodes {
		switch n.kind {
		case kindGather:
			p, transposed := pickedFrom(n.in[0])
			if p == nil || p.dot.batch != 1 || p.dot.bias.t != nil || p.dot.gelu || p.dot.patch != nil ||
				float64(n.out[0].n) >= c.denseFraction*float64(p.dot.m*p.dot.n) {
				continue
			}
			d := &dot{batch: 1, m: p.dot.m, n: p.dot.n, k: p.dot.k, a: p.dot.a, b: p.dot.b}
			n.in = []edge{p.in[0], p.in[1], n.in[1]}
			if transposed { // (A·B)ᵀ = Bᵀ·Aᵀ
				d.m, d.n, d.a, d.b = d.n, d.m, d.b.transposed(), d.a.transposed()
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

// pickedFrom returns the product whose result e reads, if e is the only reader. transposed reports
// whether e reads a transposed copy of the result, as in the gradient of a weight [in, out].
func pickedFrom(e edge) (p *node, transposed bool) {
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

// patch is a weight with values added to single entries. A product reads it as a packed matrix.
type patch struct {
	weight          *slot
	indices, values operand

	mu     sync.Mutex
	copies []*patched // kept from one run to the next
}

// drop releases the copies. The caller must make sure that no run is in progress.
func (p *patch) drop(b *backend) {
	for _, c := range p.copies {
		b.packed.Add(-c.bytes())
	}
	p.copies = nil
}

// patched is a copy of a packed weight with values added to some of its entries. Runs that add the
// same values share a copy.
type patched struct {
	of      *patch
	weight  *buffer // the buffer of the weight
	p       *gemm.Packed
	indices []int32
	values  []float32 // added to the entries
	users   int       // number of products that use the copy at present
}

// bytes returns the size of the copy.
func (p *patched) bytes() int64 { return 4 * int64(len(p.p.Data())) }

// patched returns the packed weight with the values added to its entries. The run uses the copy
// until it calls release.
func (x *execution) patched(of *patch, l packLayout) *gemm.Packed {
	w, idx := x.float32s(of.weight), x.int32s(&of.indices)
	val := x.float32s(of.values.slot)[of.values.offset:][:len(idx)]
	b := x.buffers[of.weight.index]
	of.mu.Lock()
	defer of.mu.Unlock()
	var own, free *patched
	for _, p := range of.copies {
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
		own.add(idx, val, w, l)
	default:
		own = &patched{of: of, weight: b, p: packNew(w, l)}
		own.add(idx, val, w, l)
		x.backend.packed.Add(own.bytes())
		if free != nil {
			x.backend.packed.Add(-free.bytes())
			of.copies = slices.DeleteFunc(of.copies, func(p *patched) bool { return p == free })
		}
		of.copies = append(of.copies, own)
	}
	own.users++
	x.patching = append(x.patching, own)
	return own.p
}

// release ends the use of all patched weights of the current step.
func (x *execution) release() {
	for _, p := range x.patching {
		p.of.mu.Lock()
		p.users--
		p.of.mu.Unlock()
	}
	x.patching = x.patching[:0]
}

// add adds values to the entries at indices. The copy holds the weight w. Like XLA, add ignores
// indices outside the weight.
func (p *patched) add(indices []int32, values []float32, w []float32, l packLayout) {
	p.indices, p.values = append(p.indices[:0], indices...), append(p.values[:0], values...)
	if l.bf16 {
		p.addRounded(w, l)
		return
	}
	data := p.p.Data()
	for i, e := range indices {
		if e >= 0 && int(e) < len(w) {
			data[l.index(p.p, e)] += values[i]
		}
	}
}

// addRounded does the same as add for a copy with bfloat16 elements. It adds to the float32 weight
// and rounds the sum, so that a value below the precision of a bfloat16 weight is not lost.
func (p *patched) addRounded(w []float32, l packLayout) {
	sums := make(map[int32]float32, len(p.indices)) // an index may occur several times
	for i, e := range p.indices {
		if e < 0 || int(e) >= len(w) {
			continue
		}
		sum, again := sums[e]
		if !again {
			sum = w[e]
		}
		sum += p.values[i]
		sums[e] = sum
		row, col := l.position(e)
		p.p.SetBF16(row, col, sum)
	}
}

// undo restores the changed entries from the weight w.
func (p *patched) undo(w []float32, l packLayout) {
	data := p.p.Data()
	for _, e := range p.indices {
		switch {
		case e < 0 || int(e) >= len(w):
		case l.bf16:
			row, col := l.position(e)
			p.p.SetBF16(row, col, w[e])
		default:
			data[l.index(p.p, e)] = w[e]
		}
	}
}

// position returns the row and the column in B of element e of the weight. If row is 1, element
// j·col+i of the weight is B(i,j). Otherwise element i·row+j is B(i,j).
func (l packLayout) position(e int32) (i, j int) {
	if l.row == 1 {
		return int(e) % l.col, int(e) / l.col
	}
	return int(e) / l.row, int(e) % l.row
}

// index returns the position of element e of the weight in its packed form.
func (l packLayout) index(p *gemm.Packed, e int32) int {
	i, j := l.position(e)
	return p.Index(i, j)
}

// scatterKernel adds values to single elements, in order. Like XLA, it ignores positions outside
// the tensor.
type scatterKernel struct {
	from            *slot
	indices, values operand
	to              *slot
}

func newScatterKernel(n *node) *scatterKernel {
	return &scatterKernel{n.in[0].t.slot, n.in[1].operand(), n.in[2].operand(), n.out[0].slot}
}

func (k *scatterKernel) run(x *execution) error {
	out := x.float32s(k.to)
	if in := x.float32s(k.from); &in[0] != &out[0] {
		copyParallel(x.mem(k.to), x.mem(k.from))
	}
	val := x.float32s(k.values.slot)[k.values.offset:]
	for i, e := range x.int32s(&k.indices) {
		if e >= 0 && int(e) < len(out) {
			out[e] += val[i]
		}
	}
	return nil
}

// gatherKernel reads single elements. Like XLA, it clamps positions outside the tensor.
type gatherKernel struct {
	from, indices operand
	to            *slot
}

func newGatherKernel(n *node) *gatherKernel {
	return &gatherKernel{n.in[0].operand(), n.in[1].operand(), n.out[0].slot}
}

func (k *gatherKernel) run(x *execution) error {
	out := x.float32s(k.to)
	in := x.float32s(k.from.slot)[k.from.offset:][:k.from.size()]
	for i, e := range x.int32s(&k.indices) {
		out[i] = in[min(max(int(e), 0), len(in)-1)]
	}
	return nil
}

// sparseTokens is the number of tokens in one partial sum of a dot product. With this size, a
// transposed block of both operands fits the second-level cache. The constant also defines the
// order of the sums, so another value changes the last bits of results.
const sparseTokens = 64

// sparseDotKernel computes single entries (i,j) of A·B [m,n]. Each entry is the dot product of row
// i of A and column j of B. In memory, both operands are stored token by token. The kernel first
// transposes a block of tokens of each operand, so that each entry is a dot product of two short
// contiguous vectors.
type sparseDotKernel struct {
	m, n, k  int
	a, b     *slot
	aAt, bAt matrix
	indices  operand
	to       *slot
}

func newSparseDotKernel(n *node) *sparseDotKernel {
	d := n.dot
	return &sparseDotKernel{d.m, d.n, d.k, n.in[0].t.slot, n.in[1].t.slot, d.a, d.b, n.in[2].operand(), n.out[0].slot}
}

func (d *sparseDotKernel) run(x *execution) error {
	idx, out := x.int32s(&d.indices), x.float32s(d.to)
	rows, cols := make([]int32, len(idx)), make([]int32, len(idx))
	for e, at := range idx {
		at = min(max(at, 0), int32(d.m*d.n-1))
		rows[e], cols[e] = at/int32(d.n), at%int32(d.n)
	}
	a := newTokens(x.float32s(d.a)[d.aAt.offsets[0]:], d.aAt.col, d.aAt.row, d.m, rows)
	b := newTokens(x.float32s(d.b)[d.bAt.offsets[0]:], d.bAt.row, d.bAt.col, d.n, cols)
	blocks := (d.k + sparseTokens - 1) / sparseTokens
	partial := make([]float32, blocks*len(idx))
	workers.Run(blocks, func(block int, s *workers.Scratch) {
		from, count := block*sparseTokens, min(sparseTokens, d.k-block*sparseTokens)
		at, bt := a.transposedBlock(from, count, s), b.transposedBlock(from, count, s)
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
	return nil
}

// tokens is an operand of a sparseDotKernel. Feature f of token t is data[t·token + f·feature].
type tokens struct {
	data           []float32
	token, feature int
	count          int     // number of features to transpose
	only           []int32 // the features to transpose; nil: all
}

// newTokens prepares an operand. wanted lists the feature of each entry. If the entries need only
// few features, newTokens selects these features for the transposition and replaces each element of
// wanted by its position among the selected features.
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

// transposedBlock returns a transposed block of count tokens, starting at token from. Feature f of
// token from+t is element f·sparseTokens + t of the result.
func (x *tokens) transposedBlock(from, count int, s *workers.Scratch) []float32 {
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
