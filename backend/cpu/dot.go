package cpu

import (
	"github.com/gomlx/compute"
	"github.com/gomlx/compute/dtypes"

	"github.com/sptune/spt/internal/kernel/gemm"
	"github.com/sptune/spt/internal/workers"
)

// dot describes a batch of matrix products C = A·B [m,n] with their epilogue during the
// compilation. The epilogue is the operations that follow a product. Operands are read through
// strides, so a transposition needs no copy.
type dot struct {
	batch, m, n, k int
	a, b           matrix
	terms          []*node // other products that are added to this product in the same registers
	bias, residual edge    // a nil edge.t means none
	gelu           bool    // apply the exact GELU after the bias
	pre            *tensor // the stored input of the GELU; nil: it is not stored
	patch          *node   // the scatter that adds values to the weight B; nil: none
	rounds         bool    // the operands are rounded to bfloat16
}

// epilogue returns the edges of the epilogue: bias, residual and the operands of the other terms.
func (d *dot) epilogue() []*edge {
	all := []*edge{&d.bias, &d.residual}
	for _, t := range d.terms {
		for i := range t.in {
			all = append(all, &t.in[i])
		}
	}
	return all
}

// matrix describes how a product reads an operand: the strides of rows and columns, and the offset
// of each matrix of the batch. All are in elements.
type matrix struct {
	row, col int
	offsets  []int
}

// transposed returns the transposed matrix.
func (m matrix) transposed() matrix { return matrix{m.col, m.row, m.offsets} }

// view returns matrix i of the batch.
func (m *matrix) view(data []float32, i int) gemm.View {
	return gemm.View{Data: data[m.offsets[i]:], Row: m.row, Col: m.col}
}

// dotGeneral lowers a float32 product. It returns false for other types.
func (c *compiler) dotGeneral(o *op) bool {
	lhs, rhs := o.in[0], o.in[1]
	attrs := o.attrs.(dotGeneralAttrs)
	accumulator := attrs.config.AccumulatorDType
	for _, t := range []dtypes.DType{lhs.shape.DType, rhs.shape.DType, o.out[0].shape.DType} {
		if t != dtypes.Float32 {
			return false
		}
	}
	if accumulator != dtypes.InvalidDType && accumulator != dtypes.Float32 {
		return false
	}
	d := &dot{}
	var in [2]edge
	for i, v := range []*value{lhs, rhs} {
		contracted, batched := attrs.lhsContractingAxes, attrs.lhsBatchAxes
		if i == 1 {
			contracted, batched = attrs.rhsContractingAxes, attrs.rhsBatchAxes
		}
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
			// The axes need more than one stride. Copy the operand, so that the axes are neighbours
			// in memory.
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
	d.rounds = c.rounds(max(lhs.shape.Rank(), rhs.shape.Rank()), d.m, d.n, d.k)
	c.result(kindDot, o, in[:]...).dot = d
	return true
}

// rounds reports whether a product [m,k]·[k,n] rounds its operands to bfloat16. rank is the number
// of axes of the operand with more axes. The activations of a network have at least three axes, and
// those of a head have two. Small products stay float32: rounding would gain little time.
func (c *compiler) rounds(rank, m, n, k int) bool {
	return c.backend.bf16 && rank >= 3 && m >= 32 && n > 16 && k >= 32
}

// span returns the numbers from, from+1, …, from+n−1.
func span(from, n int) []int {
	out := make([]int, n)
	for i := range out {
		out[i] = from + i
	}
	return out
}

// dense lowers x·W + bias without activation or with GELU. It returns false for other forms.
func (c *compiler) dense(o *op) bool {
	config := o.attrs.(fusedDenseAttrs).options
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
	d.rounds = c.rounds(rank, d.m, d.n, d.k)
	if o.in[2] != nil {
		d.bias = c.contiguous(c.edge(o.in[2]))
	}
	c.result(kindDot, o, x, w).dot = d
	return true
}

// epilogues moves the additions and the GELU that follow a product into the epilogue of the
// product.
func (c *compiler) epilogues() {
	users := c.users()
	for _, n := range c.nodes {
		for n.kind == kindDot && n.dot.batch == 1 && c.absorb(n, users) {
		}
	}
}

// absorb moves one node that follows the product n into the epilogue of n. It reports whether it
// moved a node.
func (c *compiler) absorb(n *node, users map[*tensor][]*node) bool {
	d, t := n.dot, n.out[0]
	if t.output >= 0 {
		return false
	}
	// becomes replaces u: the product now computes the result of u.
	becomes := func(u *node) {
		r := u.out[0]
		r.node, r.index = n, 0
		n.out[0] = r
		n.dims = u.dims
		u.kind, u.out, u.in = kindCopy, nil, nil // no node reads u any more; prune removes it
	}
	for _, u := range users[t] {
		if u.kind == kindFused && u.op == compute.OpTypeFusedGelu && u.rec.attrs.(fusedGeluAttrs).exact && u.in[0].whole(t.n) && !d.gelu && d.residual.t == nil {
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
		// If the input of the GELU is stored, other could depend on it, and this would be a cycle.
		d.residual = other
	default:
		return false
	}
	n.id = max(n.id, other.t.node.id) // the product must run after its new operand
	becomes(u)
	return true
}

// addsTo reports whether the product n can also compute other, a product that is added to n, in the
// same registers. Examples are the product of a weight and the product of LoRA, or the products of
// q, k and v in the gradient of their common input.
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

// product is the kernel that computes a batch of matrix products with their epilogue.
type product struct {
	batch, m, n int
	terms       []productTerm // products to add up; several terms need batch 1
	bias        operand       // a nil slot means none
	residual    *slot         // nil: none
	gelu        bool          // apply the exact GELU after the bias
	bf16        bool          // round the operands of all terms to bfloat16
	pre         *slot         // memory for the input of the GELU; nil: it is not stored
	out         *slot
}

// productTerm is one matrix product A·B. A has k columns.
type productTerm struct {
	k       int
	a, b    *slot
	aAt     matrix
	bAt     matrix
	packing packLayout // how B is packed
	packs   bool       // the product is large enough to pack B, see packed
	patch   *patch     // the weight B with values added to single entries; nil: no values are added
}

// newProduct returns the kernel of a product.
func (c *compiler) newProduct(n *node) *product {
	d := n.dot
	p := &product{batch: d.batch, m: d.m, n: d.n, gelu: d.gelu, out: n.out[0].slot, terms: []productTerm{c.productTerm(n)}}
	p.bf16 = d.rounds
	for _, t := range d.terms {
		p.terms = append(p.terms, c.productTerm(t))
		p.bf16 = p.bf16 || t.dot.rounds
	}
	for i := range p.terms {
		p.terms[i].packing.bf16 = p.bf16
	}
	if d.bias.t != nil {
		p.bias = d.bias.operand()
	}
	if d.residual.t != nil {
		p.residual = d.residual.t.slot
	}
	if d.pre != nil {
		p.pre = d.pre.slot
	}
	return p
}

// productTerm returns the product of n without its epilogue.
func (c *compiler) productTerm(n *node) productTerm {
	d := n.dot
	// Small products use other kernels, which add in another order. Do not pack the weight of a
	// small product: its result must not depend on packing.
	t := productTerm{k: d.k, a: n.in[0].t.slot, b: n.in[1].t.slot, aAt: d.a, bAt: d.b, packs: d.m > 16 && d.n > 16,
		packing: packLayout{offset: d.b.offsets[0], row: d.b.row, col: d.b.col, k: d.k, n: d.n}}
	if d.patch != nil {
		t.patch = &patch{weight: n.in[1].t.slot, indices: n.in[3].operand(), values: n.in[4].operand()}
		c.patches = append(c.patches, t.patch)
	}
	return t
}

func (p *product) run(x *execution) error {
	first := &p.terms[0]
	a, b, out := x.float32s(first.a), x.float32s(first.b), x.float32s(p.out)
	fill := func(i int, g *gemm.Call) {
		g.M, g.N, g.K = p.m, p.n, first.k
		g.A, g.B = first.aAt.view(a, i), first.bAt.view(b, i)
		g.C, g.LDC, g.Alpha, g.BF16 = out[i*p.m*p.n:(i+1)*p.m*p.n], p.n, 1, p.bf16
	}
	if p.batch > 1 {
		gemm.Batched(p.batch, fill)
		return nil
	}
	defer x.release()
	var g gemm.Call
	fill(0, &g)
	g.GELU = p.gelu
	if p.bias.slot != nil {
		g.Bias = x.float32s(p.bias.slot)[p.bias.offset:][:p.n]
	}
	if p.residual != nil {
		g.Residual, g.LDR = x.float32s(p.residual), p.n
	}
	if p.pre != nil {
		g.PreAct, g.LDP = x.float32s(p.pre), p.n
	}
	g.Packed = x.packed(first)
	var terms [gemm.MaxTerms]gemm.Term
	for i := range p.terms[1:] {
		t := &p.terms[1+i]
		terms[i] = gemm.Term{K: t.k, A: t.aAt.view(x.float32s(t.a), 0), B: t.bAt.view(x.float32s(t.b), 0), Packed: x.packed(t)}
	}
	g.Terms = terms[:len(p.terms)-1]
	g.Run()
	return nil
}

// packed returns B in the layout of the matrix kernel. It packs B only if B outlives the run and
// was used before, see shared. All runs then use the same packed form. Otherwise packed returns
// nil.
func (x *execution) packed(t *productTerm) *gemm.Packed {
	if t.patch != nil {
		return x.patched(t.patch, t.packing)
	}
	if !t.packs {
		return nil
	}
	b := x.shared(t.b)
	if b == nil {
		return nil
	}
	return b.pack(t.packing)
}

// pack returns the content of the buffer in the layout of the matrix kernel. The first call for a
// layout packs the buffer. Later calls return the same packed form.
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

// packNew packs an operand [k,n] into new memory.
func packNew(data []float32, l packLayout) *gemm.Packed {
	view := gemm.View{Data: data[l.offset:], Row: l.row, Col: l.col}
	if l.bf16 {
		return gemm.PackBF16(workers.Aligned(gemm.PackedBF16Len(l.k, l.n)), view, l.k, l.n)
	}
	return gemm.Pack(workers.Aligned(gemm.PackedLen(l.k, l.n)), view, l.k, l.n)
}
