package cpu

import (
	"errors"
	"slices"

	"github.com/gomlx/compute"
	"github.com/gomlx/compute/dtypes"

	"github.com/sptune/spt/internal/kernel/vector"
)

// elementwise lowers o if a loop can run it. It reports whether this is the case.
func (c *compiler) elementwise(o *op) bool {
	out := o.out[0].shape
	if len(o.in) == 0 || !fusible(o) {
		return false
	}
	switch o.kind {
	case compute.OpTypeFusedSoftmax:
		axis := o.attrs.(fusedSoftmaxAttrs).axis
		if axis != out.Rank()-1 || out.Dim(axis) > c.maxRow {
			return false
		}
	case compute.OpTypeFusedLayerNorm:
		axes := o.attrs.(fusedLayerNormAttrs).axes
		if len(axes) != 1 || axes[0] != out.Rank()-1 && axes[0] != -1 || out.Dim(-1) > c.maxRow {
			return false
		}
	}
	var in []edge
	for _, v := range o.in {
		if v == nil {
			in = append(in, edge{})
			continue
		}
		e := c.edge(v)
		if len(e.dims) != 0 && len(e.dims) != len(out.Dimensions) {
			if o.kind != compute.OpTypeFusedLayerNorm {
				return false
			}
			// Weight and bias have only the normalised axis.
			e.layout = e.broadcast(out.Dimensions, []int{out.Rank() - 1})
		} else {
			e.layout = e.broadcastTo(out.Dimensions)
		}
		in = append(in, c.loopReadable(e))
	}
	n := c.result(kindFused, o, in...)
	n.source = sourced(n)
	return true
}

// loopReadable returns an edge that a loop can read fast: it has long rows with stride 0 or 1. If e
// has other strides, or if it repeats a short pattern (for example one value for each of three
// channels), loopReadable adds a copy.
func (c *compiler) loopReadable(e edge) edge {
	length, _, ok := e.run()
	if ok && (length >= 64 || e.size() <= length) {
		return e
	}
	if !ok {
		// Copy without the broadcast axes.
		inner := e.layout
		inner.dims = slices.Clone(e.dims)
		for i, s := range e.strides {
			if s == 0 {
				inner.dims[i] = 1
			}
		}
		m := c.contiguous(edge{e.t, inner})
		return edge{m.t, m.broadcastTo(e.dims)}
	}
	if e.size() < 256 {
		return e
	}
	// Copy the innermost axes.
	suffix, from := 1, len(e.dims)
	for from > 0 && suffix < 256 {
		from--
		suffix *= e.dims[from]
	}
	if suffix > 1<<16 || from == 0 {
		return e
	}
	inner := edge{e.t, layout{e.dims[from:], e.strides[from:], e.offset}}
	for _, s := range e.strides[:from] {
		if s != 0 {
			return e // e does not repeat a pattern
		}
	}
	m := c.contiguous(inner)
	axes := make([]int, len(e.dims)-from)
	for i := range axes {
		axes[i] = from + i
	}
	return edge{m.t, m.broadcast(e.dims, axes)}
}

// fusible reports whether loops have an instruction for o with operands of these types.
func fusible(o *op) bool {
	is := func(t dtypes.DType, vs ...*value) bool {
		for _, v := range vs {
			if v != nil && v.shape.DType != t {
				return false
			}
		}
		return true
	}
	switch {
	case o.kind == compute.OpTypeConvertDType:
		_, ok := conversions[o.in[0].shape.DType]
		return ok && is(dtypes.Float32, o.out...)
	case o.kind == compute.OpTypeWhere:
		return is(dtypes.Bool, o.in[0]) && is(dtypes.Float32, o.in[1:]...)
	case o.kind == compute.OpTypeFusedGelu, o.kind == compute.OpTypeFusedSoftmax, o.kind == compute.OpTypeFusedLayerNorm:
		return is(dtypes.Float32, o.in...)
	}
	_, unary := vector.Unaries[o.kind]
	_, binary := vector.Binaries[o.kind]
	_, compares := vector.Comparisons[o.kind]
	return (unary || binary || compares) && is(dtypes.Float32, o.in...)
}

// sourced reports whether n is computed only from random bits and scalars. To compute such values
// again is cheaper than to keep them in memory.
func sourced(n *node) bool {
	random := false
	for _, e := range n.in {
		switch {
		case e.t == nil:
			return false
		case e.constant() && e.t.n == 1:
		case !e.whole(e.t.n) || e.t.n != n.out[0].n:
			return false
		case e.t.node.kind == kindRandom && e.t.index == 1 && e.t.dtype == dtypes.Uint32, e.t.node.source:
			random = true
		default:
			return false
		}
	}
	return random
}

// cluster describes a loop during the compilation: nodes that run together over rows × cols
// elements.
type cluster struct {
	nodes []*node
	// Number of elements of the loop.
	total int
	// Number of elements of a row. Zero means any.
	cols int
	// Greatest id of the nodes.
	last int

	// The kernel; assemble sets it.
	loop *loop
	// Tensors that the kernel reads and writes in memory; assemble sets them.
	reads, writes []*tensor
}

// level describes the result of a node of a cluster for each row of the loop.
type level int

const (
	levelNone level = iota // the node cannot be part of the loop
	levelFull              // a row of elements
	levelRow               // one element: a reduced row
	levelSums              // none; the node adds up all rows, or the rows of each block
)

// rowwise reports whether an operation needs complete rows.
func rowwise(op compute.OpType) bool {
	return op == compute.OpTypeFusedSoftmax || op == compute.OpTypeFusedLayerNorm || op == opLayerNormGrad
}

// want returns the size of the loop for a cluster that begins with n. ok is false if n cannot be
// part of a loop.
func (o *options) want(n *node) (total, cols int, ok bool) {
	size := n.out[0].n
	switch n.kind {
	case kindFused:
		if rowwise(n.op) {
			return size, n.dims[len(n.dims)-1], true
		}
		return size, 0, true
	case kindReduce:
		e := n.in[0]
		if !e.whole(e.t.n) {
			return 0, 0, false
		}
		switch {
		case n.axes[len(n.axes)-1] == len(e.dims)-1 && e.t.n/size <= o.maxRow && e.t.n/size > 1:
			return e.t.n, e.t.n / size, true
		case n.op == compute.OpTypeReduceSum && n.axes[len(n.axes)-1] < len(e.dims)-1 && e.t.n > size:
			blocks := n.blocks()
			if cols := size / blocks; cols <= o.maxRow && cols > 1 && (blocks == 1 || e.t.n/blocks >= o.tileElements) {
				return e.t.n, cols, true
			}
		}
	}
	return 0, 0, false
}

// blocks returns the number of blocks of a sum over leading or middle axes. It is the product of
// the dimensions before the summed axes. The result of the sum has one row for each block.
func (n *node) blocks() int {
	blocks := 1
	for _, d := range n.in[0].dims[:n.axes[0]] {
		blocks *= d
	}
	return blocks
}

// levelIn returns the level of n in a loop of total elements with rows of cols elements.
func (o *options) levelIn(n *node, total, cols int) level {
	size := n.out[0].n
	switch n.kind {
	case kindFused:
		switch {
		case rowwise(n.op):
			if size == total && n.dims[len(n.dims)-1] == cols {
				return levelFull
			}
		case size == total:
			return levelFull
		case cols > 1 && size*cols == total:
			return levelRow
		}
	case kindReduce:
		t, w, ok := o.want(n)
		switch {
		case !ok || t != total || w != cols:
		case n.axes[len(n.axes)-1] != len(n.in[0].dims)-1:
			return levelSums
		default:
			return levelRow
		}
	}
	return levelNone
}

// fits reports whether a node with the level to can read a node with the level from through e. Both
// nodes are in the same loop of total elements with rows of cols elements.
func fits(e edge, from, to level, total, cols int) bool {
	switch {
	case from == levelFull && (to == levelFull || to == levelRow || to == levelSums):
		return e.whole(total)
	case from == levelRow && to == levelRow:
		return e.whole(total / cols)
	case from == levelRow && to == levelFull:
		c := e.collapsed()
		if c.offset != 0 || e.t.n*cols != total {
			return false
		}
		if total == cols {
			return len(c.dims) == 1 && c.strides[0] == 0
		}
		return len(c.dims) == 2 && c.dims[1] == cols && c.strides[1] == 0 && c.strides[0] == 1
	}
	return false
}

// fuse collects nodes into clusters, from the last node to the first. A node joins the cluster of
// one of its readers, unless a node outside the cluster would have to run between the two.
func (c *compiler) fuse() error {
	f := &fusion{options: &c.options, users: c.users(), of: map[*node]*cluster{}}
	var clusters []*cluster
	for _, n := range slices.Backward(c.nodes) {
		if n.kind != kindFused && n.kind != kindReduce || n.source && f.onlyLoops(n) {
			continue
		}
		if k := f.choose(n); k != nil {
			k.nodes = append(k.nodes, n)
			f.of[n] = k
			continue
		}
		if total, cols, ok := c.want(n); ok {
			k := &cluster{nodes: []*node{n}, total: total, cols: cols, last: n.id}
			f.of[n] = k
			clusters = append(clusters, k)
		}
	}
	clusters = f.mergeSums(clusters)
	for _, k := range clusters {
		slices.SortFunc(k.nodes, func(a, b *node) int { return a.id - b.id })
	}
	if err := c.order(f); err != nil {
		return err
	}
	c.inMemory = map[*tensor]bool{}
	for _, n := range c.nodes {
		if n.loop != nil {
			f.assemble(n.loop)
			for _, t := range n.loop.reads[:len(n.loop.loop.in)] {
				c.inMemory[t] = true
			}
			continue
		}
		for _, e := range n.edges() {
			c.inMemory[e.t] = true
		}
	}
	return nil
}

// fusion is the state of fuse.
type fusion struct {
	*options
	users map[*tensor][]*node
	of    map[*node]*cluster
}

// outside reports whether t must exist in memory, because it is an output or because a node outside
// its loop reads it.
func (f *fusion) outside(t *tensor) bool {
	k := f.of[t.node]
	if t.node.source && k == nil {
		return false
	}
	if t.output >= 0 || k == nil {
		return true
	}
	for _, u := range f.users[t] {
		if f.of[u] != k {
			return true
		}
	}
	return false
}

// onlyLoops reports whether all readers of n are fused nodes of the same size. Then the result of n
// need not exist in memory.
func (f *fusion) onlyLoops(n *node) bool {
	if n.out[0].output >= 0 {
		return false
	}
	for _, u := range f.users[n.out[0]] {
		if u.kind != kindFused || u.out[0].n != n.out[0].n {
			return false
		}
		for _, e := range u.in {
			if e.t == n.out[0] && !e.whole(e.t.n) {
				return false
			}
		}
	}
	return true
}

// choose returns the cluster that n joins: the first cluster to run among the clusters that read n.
// It returns nil if n can join none of these clusters.
func (f *fusion) choose(n *node) *cluster {
	var candidates []*cluster
	for _, u := range f.users[n.out[0]] {
		if k := f.of[u]; k != nil && !slices.Contains(candidates, k) {
			candidates = append(candidates, k)
		}
	}
	slices.SortFunc(candidates, func(a, b *cluster) int { return a.last - b.last })
	for _, k := range candidates {
		cols := k.cols
		if cols == 0 {
			if _, w, ok := f.want(n); ok && w > 0 {
				cols = w
			} else if size := n.out[0].n; size < k.total && size > 0 && k.total%size == 0 {
				cols = k.total / size
			}
			if cols > f.maxRow {
				continue
			}
		}
		if f.joins(n, k, cols) && !f.between([]*node{n}, k) {
			k.cols = cols
			return k
		}
	}
	return nil
}

// joins reports whether n has a level in k at which all readers of n in k can read it.
func (f *fusion) joins(n *node, k *cluster, cols int) bool {
	from := f.levelIn(n, k.total, cols)
	if from == levelNone || from == levelSums {
		return false
	}
	for _, e := range n.in { // loops draw random bits only for complete rows
		if from == levelRow && e.t != nil && (e.t.node.source || e.t.node.kind == kindRandom) {
			return false
		}
	}
	for _, u := range f.users[n.out[0]] {
		if f.of[u] != k {
			continue
		}
		to := f.levelIn(u, k.total, cols)
		for i, e := range u.in {
			if e.t != n.out[0] {
				continue
			}
			if u.op == compute.OpTypeFusedLayerNorm && i > 0 || !fits(e, from, to, k.total, cols) {
				return false
			}
		}
	}
	return true
}

// between reports whether a node that depends on the given nodes has to run before k.
func (f *fusion) between(nodes []*node, k *cluster) bool {
	seenNodes, seenLoops := map[*node]bool{}, map[*cluster]bool{}
	var reaches func(n *node) bool
	uses := func(n *node) bool {
		for _, t := range n.out {
			for _, u := range f.users[t] {
				if f.of[u] == k {
					return true
				}
				if reaches(u) {
					return true
				}
			}
		}
		return false
	}
	reaches = func(n *node) bool {
		l := f.of[n]
		if l == nil {
			if seenNodes[n] {
				return false
			}
			seenNodes[n] = true
			return uses(n)
		}
		if seenLoops[l] {
			return false
		}
		seenLoops[l] = true
		for _, m := range l.nodes {
			if uses(m) {
				return true
			}
		}
		return false
	}
	for _, n := range nodes {
		for _, t := range n.out {
			for _, u := range f.users[t] {
				if f.of[u] != k && !slices.Contains(nodes, u) && reaches(u) {
					return true
				}
			}
		}
	}
	return false
}

// mergeSums merges a loop that sums over rows with a loop that reads or computes the same tensors.
// Then the gradients of biases and norms need no separate pass over memory.
func (f *fusion) mergeSums(clusters []*cluster) []*cluster {
	reads := func(k *cluster) map[*tensor]bool {
		m := map[*tensor]bool{}
		for _, n := range k.nodes {
			for _, e := range n.in {
				if e.t != nil && e.t.n == k.total {
					m[e.t] = true
				}
			}
		}
		return m
	}
	var out []*cluster
	for i, k := range clusters {
		sums := slices.ContainsFunc(k.nodes, func(n *node) bool { return f.levelIn(n, k.total, k.cols) == levelSums })
		merged := false
		if sums {
			mine := reads(k)
			for _, j := range slices.Concat(clusters[i+1:], out) {
				if len(j.nodes) == 0 || j.total != k.total || j.cols != 0 && j.cols != k.cols {
					continue
				}
				shared := false
				for t := range reads(j) {
					shared = shared || mine[t]
				}
				direct := false
				for _, n := range j.nodes {
					direct = direct || mine[n.out[0]]
				}
				if !shared && !direct || !f.compatible(j, k) {
					continue
				}
				if f.between(k.nodes, j) || f.between(j.nodes, k) {
					continue
				}
				if f.feeds(k, j) { // j reads a result of k, which is complete only at the end of k
					continue
				}
				j.nodes, j.cols, j.last = append(j.nodes, k.nodes...), k.cols, max(j.last, k.last)
				for _, n := range k.nodes {
					f.of[n] = j
				}
				k.nodes = nil
				merged = true
				break
			}
		}
		if !merged {
			out = append(out, k)
		}
	}
	return slices.DeleteFunc(out, func(k *cluster) bool { return len(k.nodes) == 0 })
}

// feeds reports whether a node of j reads a node of k.
func (f *fusion) feeds(k, j *cluster) bool {
	for _, n := range j.nodes {
		for _, e := range n.in {
			if e.t != nil && f.of[e.t.node] == k {
				return true
			}
		}
	}
	return false
}

// compatible reports whether j and k can be one loop. k must be able to read the results of j
// within the loop. The sums of both must be over all rows or over the same blocks.
func (f *fusion) compatible(j, k *cluster) bool {
	blocks := 1
	for _, n := range slices.Concat(j.nodes, k.nodes) {
		if f.levelIn(n, k.total, k.cols) != levelSums || n.blocks() == 1 {
			continue
		}
		if blocks != 1 && blocks != n.blocks() {
			return false
		}
		blocks = n.blocks()
	}
	for _, n := range k.nodes {
		to := f.levelIn(n, k.total, k.cols)
		for i, e := range n.in {
			if e.t == nil || f.of[e.t.node] != j {
				continue
			}
			from := f.levelIn(e.t.node, k.total, k.cols)
			if from == levelSums || n.op == compute.OpTypeFusedLayerNorm && i > 0 || !fits(e, from, to, k.total, k.cols) {
				return false
			}
		}
	}
	for _, n := range j.nodes {
		if f.levelIn(n, j.total, k.cols) == levelNone {
			return false
		}
	}
	return true
}

// order replaces the nodes of each cluster by one node and sorts all nodes. A node runs after the
// nodes that it reads. Among the nodes that can run, the node with the smallest id runs first. The
// id of a cluster is the greatest id of its nodes.
func (c *compiler) order(f *fusion) error {
	type unit struct {
		node  *node
		at    int
		needs int
		next  []*unit
	}
	units := map[any]*unit{}
	var list []*unit
	unitOf := func(n *node) *unit {
		var key any = n
		if k := f.of[n]; k != nil {
			key = k
		}
		u, ok := units[key]
		if !ok {
			u = &unit{node: n, at: n.id}
			if k := f.of[n]; k != nil {
				u.at = k.last
				u.node = &node{kind: kindFused, loop: k, id: k.last}
			}
			units[key] = u
			list = append(list, u)
		}
		return u
	}
	var dependsOn func(n *node, u *unit)
	dependsOn = func(n *node, u *unit) {
		for _, e := range n.edges() {
			m := e.t.node
			if m.source && f.of[m] == nil {
				dependsOn(m, u) // u computes the result of m again
				continue
			}
			if d := unitOf(m); d != u {
				d.next = append(d.next, u)
				u.needs++
			}
		}
	}
	for _, n := range c.nodes {
		if n.source && f.of[n] == nil {
			continue
		}
		dependsOn(n, unitOf(n))
	}
	var ready []*unit
	for _, u := range list {
		if u.needs == 0 {
			ready = append(ready, u)
		}
	}
	c.nodes = c.nodes[:0:0]
	for len(ready) > 0 {
		best := 0
		for i, u := range ready {
			if u.at < ready[best].at {
				best = i
			}
		}
		u := ready[best]
		ready = slices.Delete(ready, best, best+1)
		c.nodes = append(c.nodes, u.node)
		for _, v := range u.next {
			if v.needs--; v.needs == 0 {
				ready = append(ready, v)
			}
		}
	}
	if len(c.nodes) != len(list) {
		return errors.New("the compiler fused operations into a cycle; please report this program")
	}
	return nil
}
