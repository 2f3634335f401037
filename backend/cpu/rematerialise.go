package cpu

import (
	"slices"

	"github.com/gomlx/compute"
)

// Rematerialisation saves memory. Some results of element-wise operations are read soon after they
// are computed, and again much later in the backward pass. If their operands are still in memory at
// that time, the compiler computes these results a second time for the late readers. Examples are
// the input of the LoRA matrix A after dropout, and the outputs of layer norms. To keep these
// results would need as much memory as the residual stream.

// rematerialise adds a second computation of such results for their late readers.
func (c *compiler) rematerialise() {
	r := &rematerialisation{users: c.users(), at: map[*node]int{}}
	// A node of a loop runs together with its first reader, see fuse.
	for _, n := range slices.Backward(c.nodes) {
		r.at[n] = n.id
		if n.kind == kindFused || n.kind == kindReduce {
			first := -1
			for _, u := range r.users[n.out[0]] {
				if first < 0 || r.at[u] < first {
					first = r.at[u]
				}
			}
			if first > n.id && n.out[0].output < 0 {
				r.at[n] = first
			}
		}
	}
	for _, n := range slices.Clone(c.nodes) {
		if n.out == nil || n.out[0].output >= 0 || n.out[0].n < c.rematerialiseSize {
			continue
		}
		switch {
		case n.kind == kindFused && !n.source:
			r.split(c, n, n)
		case n.kind == kindDot && n.dot.gelu && n.dot.pre != nil:
			// The copy of a GELU in the epilogue of a product is computed from the input of the
			// GELU.
			gelu := &node{kind: kindFused, op: compute.OpTypeFusedGelu, dims: n.dims, out: n.out[:1],
				in: []edge{full(n.dot.pre, n.dims)}, rec: &op{kind: compute.OpTypeFusedGelu, attrs: fusedGeluAttrs{exact: true}}}
			r.split(c, n, gelu)
		}
	}
	c.prune()
}

// rematerialisation is the state of rematerialise.
type rematerialisation struct {
	users map[*tensor][]*node
	at    map[*node]int // the time when a node runs, as the id of another node
}

// split changes the late readers of the result of n, so that they read a copy of how. The node how
// computes the same result as n.
func (r *rematerialisation) split(c *compiler, n, how *node) {
	readers := slices.Clone(r.users[n.out[0]])
	slices.SortStableFunc(readers, func(a, b *node) int { return r.at[a] - r.at[b] })
	for i := 1; i < len(readers); i++ {
		if r.at[readers[i]]-r.at[readers[i-1]] < c.rematerialiseGap {
			continue
		}
		late := readers[i:]
		// The copy must also precede the first late reader in the order of the nodes.
		before := slices.MinFunc(late, func(a, b *node) int { return a.id - b.id })
		copies := map[*node]*node{}
		if !r.makes(how, r.at[readers[i]], 0) {
			return
		}
		m := r.copy(c, how, before, r.at[readers[i]], copies)
		for _, u := range late {
			for j := range u.in {
				if u.in[j].t == n.out[0] {
					u.in[j].t = m.out[0]
				}
			}
			if d := u.dot; d != nil {
				for _, e := range d.epilogue() {
					if e.t == n.out[0] {
						e.t = m.out[0]
					}
				}
			}
		}
		r.users[n.out[0]] = readers[:i]
		r.users[m.out[0]] = late
		return
	}
}

// makes reports whether n can be computed at the time when, from tensors that are in memory at that
// time.
func (r *rematerialisation) makes(n *node, when, depth int) bool {
	for _, e := range n.in {
		if e.t != nil && !r.alive(e, n, when) && (e.t.node.kind != kindFused || depth > 3 || !r.makes(e.t.node, when, depth+1)) {
			return false
		}
	}
	return true
}

// alive reports whether the tensor that n reads through e is in memory at the time when, or needs
// little memory.
func (r *rematerialisation) alive(e edge, n *node, when int) bool {
	m := e.t.node
	if m.kind == kindInput || m.kind == kindConstant || m.kind == kindRandom && e.t.dtype.Size() == 4 || m.source || e.t.n*16 <= n.out[0].n {
		return true
	}
	for _, u := range r.users[e.t] {
		if r.at[u] >= when {
			return true
		}
	}
	return false
}

// copy inserts a copy of n before a node. It also copies the nodes whose results n needs and that
// are not in memory.
func (r *rematerialisation) copy(c *compiler, n, before *node, when int, copies map[*node]*node) *node {
	if m, ok := copies[n]; ok {
		return m
	}
	m := &node{id: before.id, kind: n.kind, op: n.op, dims: n.dims, in: slices.Clone(n.in), rec: n.rec, axes: n.axes}
	t := n.out[0]
	m.out = []*tensor{newTensor(m, 0, t.shape)}
	copies[n] = m
	r.at[m] = when
	for i, e := range m.in {
		if e.t == nil {
			continue
		}
		if !r.alive(e, n, when) {
			m.in[i].t = r.copy(c, e.t.node, before, when, copies).out[0]
		}
		r.users[m.in[i].t] = append(r.users[m.in[i].t], m)
	}
	c.nodes = append(c.nodes, m)
	return m
}
