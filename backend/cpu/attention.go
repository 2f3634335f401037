package cpu

import (
	"slices"

	"github.com/gomlx/compute"

	"github.com/sptune/spt/internal/kernel/gemm"
	"github.com/sptune/spt/internal/kernel/vector"
	"github.com/sptune/spt/internal/workers"
)

// attention lowers scaled dot-product attention or its gradient. It returns false if another
// backend must run o. The kernels keep the scores of only one head of one image at a time, in
// scratch memory.
func (c *compiler) attention(o *op) bool {
	a, ok := o.attrs.(attention)
	if !ok {
		return false
	}
	k := kindAttention
	if o.kind == compute.OpTypeFusedScaledDotProductAttentionVJP {
		k = kindAttentionVJP
	}
	var in []edge
	for i, v := range o.in {
		if i >= len(o.in)-len(a.added) {
			in = append(in, c.addend(v, &a))
			continue
		}
		e := c.edge(v)
		if i == 4 && k == kindAttentionVJP || !readable(e) {
			e = c.contiguous(e)
		}
		in = append(in, e)
	}
	c.result(k, o, in...)
	return true
}

// addend returns the edge by which a kernel reads a tensor that is added to the scores. The edge
// has the axes [outer, inner, heads, seq, kv], and image i has the index (i/inner, i%inner). If v
// repeats a mask of windows for each image through a broadcast and a reshape, the edge reads the
// mask without repetition.
func (c *compiler) addend(v *value, a *attention) edge {
	e := c.edge(v)
	if v.op.kind == compute.OpTypeReshape {
		if from := c.edge(v.op.in[0]); len(from.dims) == 5 && len(e.dims) == 4 && slices.Equal(from.dims[2:], e.dims[1:]) && from.strides[4] == 1 {
			e = from
		}
	}
	if e.strides[len(e.dims)-1] != 1 && a.kv > 1 {
		e = c.contiguous(e)
	}
	l := layout{dims: []int{1, 1, a.heads, a.seq, a.kv}, strides: make([]int, 5), offset: e.offset}
	for i, d := range e.dims {
		at := 5 - len(e.dims) + i
		if d > 1 {
			l.dims[at], l.strides[at] = d, e.strides[i]
		}
	}
	return edge{e.t, l}
}

// readable reports whether a kernel can read an operand [.., .., .., width] without a copy. The
// last axis must be contiguous in memory.
func readable(e edge) bool { return e.dims[len(e.dims)-1] == 1 || e.strides[len(e.dims)-1] == 1 }

// heads describes an operand [.., .., .., width] of attention. Each head of each image is a matrix
// [seq, width].
type heads struct {
	slot                       *slot
	offset, image, head, token int // offset of the first element and strides, in elements
}

// newHeads returns the heads of the slot s with the layout l. The first axis of l is the image, the
// last axis has size width.
func (a *attention) newHeads(s *slot, l layout) heads {
	return heads{s, l.offset, l.strides[0], l.strides[a.layout.HeadsAxis()], l.strides[a.layout.SeqAxis()]}
}

// view returns the matrix of one head of one image.
func (h *heads) view(data []float32, image, head int) gemm.View {
	return gemm.View{Data: data[h.offset+image*h.image+head*h.head:], Row: h.token, Col: 1}
}

// stride returns the distance from row to row of the scores [seq, kv] in scratch memory, in
// elements. Rows begin at cache lines: a register across two lines costs twice the accesses.
func (a *attention) stride() int { return workers.Padded(a.kv) }

// roundsAttention reports whether the products of attention round their operands to bfloat16.
func (c *compiler) roundsAttention(a *attention) bool {
	return c.rounds(4, a.seq, a.kv, a.width) && c.rounds(4, a.seq, a.width, a.kv) && c.rounds(4, a.kv, a.width, a.seq)
}

// attentionKernel computes softmax(scale·Q·Kᵀ + addends)·V and the log-sum-exp of each row of
// scores. One part computes one head of one image.
type attentionKernel struct {
	attention
	bf16         bool // round the operands of products to bfloat16
	q, k, v, out heads
	lse          *slot
	addends      addends
}

func (c *compiler) newAttentionKernel(n *node) *attentionKernel {
	a := n.rec.attrs.(attention)
	return &attentionKernel{attention: a, bf16: c.roundsAttention(&a), q: a.newHeads(n.in[0].t.slot, n.in[0].layout), k: a.newHeads(n.in[1].t.slot, n.in[1].layout), v: a.newHeads(n.in[2].t.slot, n.in[2].layout),
		out: a.newHeads(n.out[0].slot, rowMajor(n.dims)), lse: n.out[1].slot, addends: newAddends(n.in[3:])}
}

func (a *attentionKernel) run(x *execution) error {
	q, k, v := x.float32s(a.q.slot), x.float32s(a.k.slot), x.float32s(a.v.slot)
	out, lse := x.float32s(a.out.slot), x.float32s(a.lse)
	workers.Run(a.batch*a.heads, func(part int, s *workers.Scratch) {
		image, h := part/a.heads, part%a.heads
		g := h / (a.heads / a.groups)
		stride := a.stride()
		p := s.Float32s(a.seq * stride)
		dot := gemm.Call{M: a.seq, N: a.kv, K: a.width, A: a.q.view(q, image, h), B: a.k.view(k, image, g).T(), C: p, LDC: stride, Alpha: 1, BF16: a.bf16}
		dot.Serial(s)
		add := a.addends.of(x, image, h)
		vector.SoftmaxRows(p, lse[part*a.seq:(part+1)*a.seq], a.kv, stride, a.scale, add[0], add[1])
		o := a.out.view(out, image, h)
		dot = gemm.Call{M: a.seq, N: a.width, K: a.kv, A: gemm.View{Data: p, Row: stride, Col: 1}, B: a.v.view(v, image, g), C: o.Data, LDC: o.Row, Alpha: 1, BF16: a.bf16}
		dot.Serial(s)
	})
	return nil
}

// attentionVJPKernel computes the gradients of query, key and value from the gradient dO of the
// output (Dao et al. 2022, arXiv 2205.14135, appendix B). It uses the log-sum-exp to compute the
// softmax P of the scores again:
//
//	dV = Pᵀ·dO, dP = dO·Vᵀ, D = rowsum(dO∘O), dS = P∘(dP − D), dQ = scale·dS·K, dK = scale·dSᵀ·Q.
//
// One part computes a group of heads that share a key and a value.
type attentionVJPKernel struct {
	attention
	bf16                       bool // round the operands of products to bfloat16
	q, k, v, o, do, dq, dk, dv heads
	lse                        operand
	addends                    addends
}

func (c *compiler) newAttentionVJPKernel(n *node) *attentionVJPKernel {
	a := n.rec.attrs.(attention)
	in := func(i int) heads { return a.newHeads(n.in[i].t.slot, n.in[i].layout) }
	out := func(i int) heads { return a.newHeads(n.out[i].slot, rowMajor(n.out[i].shape.Dimensions)) }
	return &attentionVJPKernel{attention: a, bf16: c.roundsAttention(&a), q: in(0), k: in(1), v: in(2), o: in(3), do: in(5), dq: out(0), dk: out(1), dv: out(2), lse: n.in[4].operand(), addends: newAddends(n.in[6:])}
}

func (a *attentionVJPKernel) run(x *execution) error {
	q, k, v := x.float32s(a.q.slot), x.float32s(a.k.slot), x.float32s(a.v.slot)
	o, lse, do := x.float32s(a.o.slot), x.float32s(a.lse.slot)[a.lse.offset:], x.float32s(a.do.slot)
	dq, dk, dv := x.float32s(a.dq.slot), x.float32s(a.dk.slot), x.float32s(a.dv.slot)
	shared := a.heads / a.groups
	workers.Run(a.batch*a.groups, func(part int, s *workers.Scratch) {
		image, g := part/a.groups, part%a.groups
		kh, vh := a.k.view(k, image, g), a.v.view(v, image, g)
		dkh, dvh := a.dk.view(dk, image, g), a.dv.view(dv, image, g)
		stride := a.stride()
		p, dp, d := s.Float32s(a.seq*stride), s.Float32s(a.seq*stride), s.Float32s(a.seq)
		pv, dpv := gemm.View{Data: p, Row: stride, Col: 1}, gemm.View{Data: dp, Row: stride, Col: 1}
		for i := range shared {
			h := g*shared + i
			beta := float32(0)
			if i > 0 {
				beta = 1
			}
			qh, oh, doh := a.q.view(q, image, h), a.o.view(o, image, h), a.do.view(do, image, h)
			dqh := a.dq.view(dq, image, h)
			product := func(m, nn, kk int, l, r gemm.View, c []float32, ldc int, alpha, beta float32) {
				call := gemm.Call{M: m, N: nn, K: kk, A: l, B: r, C: c, LDC: ldc, Alpha: alpha, Beta: beta, BF16: a.bf16}
				call.Serial(s)
			}
			product(a.seq, a.kv, a.width, qh, kh.T(), p, stride, 1, 0)
			product(a.seq, a.kv, a.width, doh, vh.T(), dp, stride, 1, 0)
			for r := range a.seq {
				d[r] = vector.Dot(doh.Data[r*doh.Row:][:a.width], oh.Data[r*oh.Row:][:a.width])
			}
			add := a.addends.of(x, image, h)
			vector.SoftmaxGradRows(p, dp, lse[(image*a.heads+h)*a.seq:][:a.seq], d, a.kv, stride, a.scale, add[0], add[1])
			product(a.kv, a.width, a.seq, pv.T(), doh, dvh.Data, dvh.Row, 1, beta)
			product(a.seq, a.width, a.kv, dpv, kh, dqh.Data, dqh.Row, a.scale, 0)
			product(a.kv, a.width, a.seq, dpv.T(), qh, dkh.Data, dkh.Row, a.scale, beta)
		}
	})
	return nil
}

// addends holds the tensors that are added to the scores, at most two. Their layouts come from
// [compiler.addend].
type addends []operand

func newAddends(in []edge) (a addends) {
	for _, e := range in {
		a = append(a, e.operand())
	}
	return a
}

// of returns the matrices [seq, kv] that are added to the scores of one head of one image.
func (a addends) of(x *execution, image, head int) (add [2]vector.Addend) {
	for i := range a {
		l := &a[i]
		inner := l.dims[1]
		at := l.offset + image/inner%l.dims[0]*l.strides[0] + image%inner*l.strides[1] + head*l.strides[2]
		add[i] = vector.Addend{Data: x.float32s(l.slot)[at:], Step: l.strides[3]}
	}
	return add
}
