package cpu

import (
	"fmt"
	"slices"
	"strings"

	"github.com/gomlx/compute"
	"github.com/gomlx/compute/dtypes"
	"github.com/gomlx/compute/shapes"
)

// This file contains the graph of the compiler: nodes, the tensors that nodes compute, and the
// edges by which nodes read tensors. The graph exists only during the compilation. A compiled
// program consists of kernels and slots (executable.go).

// kind selects how a node is computed.
type kind int

const (
	kindInput             kind = iota // a parameter of the program
	kindConstant                      // a constant of the program
	kindFused                         // an element-wise operation as part of a loop (fuse.go)
	kindCopy                          // a contiguous copy of a strided tensor (moves.go)
	kindPad                           // a tensor with padding
	kindConcat                        // a concatenation of tensors
	kindReduce                        // a reduction, as part of a loop or alone
	kindDot                           // matrix products with their epilogue (dot.go)
	kindAttention                     // scaled dot-product attention (attention.go)
	kindAttentionVJP                  // the gradient of attention
	kindDepthwise                     // a convolution with one filter per channel (conv.go)
	kindDepthwiseGradient             // the gradient of depth-wise filters
	kindConv                          // any other convolution
	kindRandom                        // random bits
	kindScatter                       // an addition of values to single elements (sparse.go)
	kindGather                        // a copy of single elements
	kindSparseDot                     // single elements of a matrix product
	kindDelegated                     // one operation on the Go backend of GoMLX (delegate.go)
)

// node is one computation of a program during the compilation. Its results are contiguous in
// memory, in row-major order. The edge of a reader defines how the reader reads a result.
type node struct {
	id   int
	kind kind
	op   compute.OpType
	// Dimensions of the first result. They are also the index space of the edges of fused nodes.
	dims []int
	in   []edge
	out  []*tensor
	// The recorded operation, for its attributes.
	rec *op

	// For kindReduce, the axes of the edge that are reduced. For kindConcat, the axis.
	axes []int
	// For kindDot and kindSparseDot.
	dot *dot
	// For the convolutions.
	conv *convolution
	// For the node that represents a cluster of fused nodes.
	loop *cluster
	// For kindFused, source reports that the node is computed only from random bits and scalars.
	// Every reader then computes it again.
	source bool
}

// tensor is one result of a node.
type tensor struct {
	node  *node
	index int // index in node.out
	dtype dtypes.DType
	n     int // number of elements
	shape shapes.Shape

	id     int
	users  int   // number of edges that read the tensor, plus 1 for a program output
	output int   // index of the program output; -1: not an output
	slot   *slot // memory when the program runs; the memory plan (memory.go) sets the offset

	used  bool    // the memory plan found a task that reads or writes the tensor
	alias *tensor // the tensor whose memory this tensor takes over; nil: none
}

// edge describes how a node reads a tensor: the tensor and a layout.
type edge struct {
	t *tensor // nil: an absent optional operand
	layout
}

// operand returns the memory and the layout of e for a kernel.
func (e edge) operand() operand { return operand{e.t.slot, e.layout} }

// bytes returns the size of t in memory.
func (t *tensor) bytes() int { return t.dtype.SizeForDimensions(t.n) }

// options holds the thresholds of the compiler. Tests set small values, so that the compiler treats
// tensors of a few elements like large tensors.
type options struct {
	// tileElements is the approximate number of elements in a tile of a loop. A few registers of
	// this size fit the first-level cache, and the cost of dispatching an instruction is small
	// compared with the cost of running it.
	tileElements int
	// partElements is the approximate number of elements in one part of a loop.
	partElements int
	// maxRow is the length of the longest row that a loop reduces or normalises, in elements. A few
	// rows of this length fit the second-level cache.
	maxRow int
	// rematerialiseGap is the smallest number of nodes between the early and the late readers of a
	// result that is computed a second time.
	rematerialiseGap int
	// rematerialiseSize is the size of the smallest result that is computed a second time, in
	// elements.
	rematerialiseSize int
	// denseFraction is the fraction of the entries of a matrix above which the complete product is
	// faster than one dot product per entry. BenchmarkEntries measures a break-even point of about
	// 6 %.
	denseFraction float64
}

// defaultOptions returns the options of a new backend.
func defaultOptions() options {
	return options{tileElements: 2048, partElements: 1 << 14, maxRow: 1 << 14, rematerialiseGap: 60, rematerialiseSize: 1 << 14, denseFraction: 1.0 / 20}
}

// compiler converts recorded operations to nodes.
type compiler struct {
	options
	backend *backend
	nodes   []*node
	// How readers read each recorded value.
	values map[*value]edge
	// Operations by a text that identifies their result, see deduplicated.
	same map[string]*op
	// The first value that is computed the same way.
	canon   map[*value]*value
	outputs []*tensor
	// Shapes of the outputs.
	results []shapes.Shape
	// The patched weights of the kernels.
	patches []*patch
	// Tensors that are read from memory. Random bits that every loop computes by itself are not in
	// the set.
	inMemory map[*tensor]bool
}

// compile compiles the operations of the main function that its outputs need.
func compile(b *builder) (*executable, error) {
	c, err := lower(b)
	if err != nil {
		return nil, fmt.Errorf("compiling %q: %w", b.name, err)
	}
	return c.executable(b, c.schedule(b))
}

// lower converts the recorded operations to nodes, in the order in which the nodes run.
func lower(b *builder) (*compiler, error) {
	c := &compiler{options: b.backend.options, backend: b.backend, values: map[*value]edge{}, same: map[string]*op{}, canon: map[*value]*value{}}
	needed := map[*op]bool{}
	stack := slices.Clone(b.main.outputs)
	for len(stack) > 0 {
		v := stack[len(stack)-1]
		stack = stack[:len(stack)-1]
		if v == nil || needed[v.op] {
			continue
		}
		needed[v.op] = true
		stack = append(stack, v.op.in...)
	}
	for _, o := range b.main.ops {
		if needed[o] || o.kind == compute.OpTypeParameter {
			c.lower(c.deduplicated(o))
		}
	}
	c.returns(b.main.outputs)
	c.prune()
	c.patterns()
	c.prune()
	c.sparse()
	c.epilogues()
	c.prune()
	c.rematerialise()
	return c, c.fuse()
}

// deduplicated returns the first recorded operation that computes the same results as o. The values
// of o become aliases of the values of that operation.
func (c *compiler) deduplicated(o *op) *op {
	in := make([]*value, len(o.in))
	for i, v := range o.in {
		if w, ok := c.canon[v]; ok {
			v = w
		}
		in[i] = v
	}
	o.in = in
	if o.emit == nil || o.bodies != nil {
		return o
	}
	var key strings.Builder
	fmt.Fprintf(&key, "%d", o.kind)
	for _, v := range in {
		fmt.Fprintf(&key, " %p", v)
	}
	switch a := o.attrs.(type) {
	case opaque:
		return o
	case *buffer:
		if len(a.data) > 1<<12 {
			return o
		}
		fmt.Fprintf(&key, " %s %x", a.shape, a.data)
	default:
		fmt.Fprintf(&key, " %v", a)
	}
	first, ok := c.same[key.String()]
	if !ok {
		c.same[key.String()] = o
		return o
	}
	for i, v := range o.out {
		c.canon[v] = first.out[i]
		c.values[v] = c.values[first.out[i]]
	}
	return first
}

// node appends a node with results of the given shapes.
func (c *compiler) node(k kind, o *op, in []edge, results ...shapes.Shape) *node {
	n := &node{id: len(c.nodes), kind: k, in: in, rec: o}
	if o != nil {
		n.op = o.kind
	}
	for i, s := range results {
		n.out = append(n.out, newTensor(n, i, s))
	}
	n.dims = results[0].Dimensions
	c.nodes = append(c.nodes, n)
	return n
}

// newTensor returns result number index of a node.
func newTensor(n *node, index int, s shapes.Shape) *tensor {
	t := &tensor{node: n, index: index, dtype: s.DType, n: s.Size(), shape: s, output: -1}
	t.slot = &slot{bytes: t.bytes()}
	return t
}

// result appends a node that computes o. The values of o are the results of the node.
func (c *compiler) result(k kind, o *op, in ...edge) *node {
	results := make([]shapes.Shape, len(o.out))
	for i, v := range o.out {
		results[i] = v.shape
	}
	n := c.node(k, o, in, results...)
	for i, v := range o.out {
		c.set(v, full(n.out[i], v.shape.Dimensions))
	}
	return n
}

// edge returns the edge by which nodes read a value.
func (c *compiler) edge(v *value) edge { return c.values[v] }

// set stores the edge by which nodes read a value.
func (c *compiler) set(v *value, e edge) { c.values[v] = e }

// full returns the edge that reads a complete tensor with the given dimensions.
func full(t *tensor, dims []int) edge { return edge{t, rowMajor(dims)} }

// contiguous returns e if its elements are contiguous in memory. Otherwise it returns an edge to a
// contiguous copy.
func (c *compiler) contiguous(e edge) edge {
	if e.contiguous() {
		return e
	}
	n := c.node(kindCopy, nil, []edge{e}, shapes.Make(e.t.dtype, e.dims...))
	return full(n.out[0], e.dims)
}

// lower adds the nodes that compute o. It does nothing if o was lowered before.
func (c *compiler) lower(o *op) {
	if _, done := c.values[o.out[0]]; done || c.moves(o) || c.computes(o) {
		return
	}
	c.delegates(o)
}

// moves lowers operations that only change the layout of a tensor, such as reshape and transpose.
// It reports whether o is such an operation.
func (c *compiler) moves(o *op) bool {
	var e edge
	if len(o.in) > 0 && o.in[0] != nil {
		e = c.edge(o.in[0])
		if e.t.dtype.IsPacked() {
			return false
		}
	}
	dims := o.out[0].shape.Dimensions
	switch o.kind {
	case compute.OpTypeIdentity, compute.OpTypeSchedulingBarrier:
	case compute.OpTypeOptimizationBarrier:
		for i, v := range o.in {
			c.set(o.out[i], c.edge(v))
		}
		return true
	case compute.OpTypeReshape:
		l, ok := e.reshaped(dims)
		if !ok {
			e = c.contiguous(e)
			l, _ = e.reshaped(dims)
		}
		e.layout = l
	case compute.OpTypeTranspose:
		e.layout = e.transposed(o.attrs.(transposeAttrs).permutation)
	case compute.OpTypeBroadcastInDim:
		e.layout = e.broadcast(dims, o.attrs.(broadcastInDimAttrs).broadcastAxes)
	case compute.OpTypeSlice:
		a := o.attrs.(sliceAttrs)
		starts, limits, steps := slices.Clone(a.starts), slices.Clone(a.limits), slices.Clone(a.strides)
		for i, d := range e.dims {
			starts[i], limits[i] = bounds(d, starts[i], limits[i])
			if len(steps) > 0 {
				steps[i] = max(1, steps[i])
			}
		}
		e.layout = e.sliced(starts, limits, steps)
	default:
		return false
	}
	c.set(o.out[0], e)
	return true
}

// computes lowers operations that this backend runs by itself. It reports whether o is such an
// operation.
func (c *compiler) computes(o *op) bool {
	switch o.kind {
	case compute.OpTypeParameter:
		c.result(kindInput, o)
		return true
	case compute.OpTypeConstant:
		c.result(kindConstant, o)
		return true
	}
	for _, v := range o.out {
		if v.shape.Size() == 0 {
			return false
		}
	}
	switch o.kind {
	case compute.OpTypeFusedScaledDotProductAttention, compute.OpTypeFusedScaledDotProductAttentionVJP:
		return c.attention(o)
	case compute.OpTypeConvGeneral:
		return c.conv(o)
	case compute.OpTypeDotGeneral:
		return c.dotGeneral(o)
	case compute.OpTypeFusedDense:
		return c.dense(o)
	case compute.OpTypeScatterSum:
		return c.scatter(o)
	case compute.OpTypeGather:
		return c.gather(o)
	case compute.OpTypeReduceSum, compute.OpTypeReduceMax, compute.OpTypeReduceMin:
		return c.reduce(o)
	case compute.OpTypeConcatenate:
		return c.concatenate(o)
	case compute.OpTypePad:
		return c.pad(o)
	case compute.OpTypeRNGBitGenerator:
		if o.out[1].shape.DType.Size() == 0 || o.out[1].shape.DType.IsPacked() {
			return false
		}
		e := c.edge(o.in[0])
		if !e.whole(e.t.n) { // loops read the state from the first element of a tensor
			e = full(c.node(kindCopy, nil, []edge{e}, o.in[0].shape).out[0], e.dims)
		}
		c.result(kindRandom, o, e)
		return true
	}
	return c.elementwise(o)
}

// concatenate lowers a concatenation of tensors. It reports whether this backend can run o.
func (c *compiler) concatenate(o *op) bool {
	if o.out[0].shape.DType.IsPacked() {
		return false
	}
	var in []edge
	for _, v := range o.in {
		in = append(in, c.edge(v))
	}
	c.result(kindConcat, o, in...).axes = []int{o.attrs.(concatenateAttrs).axis}
	return true
}

// pad lowers a padding operation. It reports whether this backend can run o.
func (c *compiler) pad(o *op) bool {
	if o.out[0].shape.DType.IsPacked() || o.in[0].shape.Size() == 0 {
		return false
	}
	e := c.edge(o.in[0])
	starts, limits := make([]int, len(e.dims)), slices.Clone(e.dims)
	for i, a := range o.attrs.(padAttrs).axesConfig {
		if a.Interior < 0 || a.Interior > 0 && (a.Start < 0 || a.End < 0) {
			return false
		}
		starts[i] = max(0, -a.Start) // negative padding removes elements
		limits[i] -= max(0, -a.End)
		if starts[i] >= limits[i] {
			return false
		}
	}
	e.layout = e.sliced(starts, limits, nil)
	c.result(kindPad, o, e, c.edge(o.in[1]))
	return true
}

// reduce lowers a float32 reduction over neighbouring axes. It returns false for other reductions.
func (c *compiler) reduce(o *op) bool {
	x := o.in[0].shape
	if x.DType != dtypes.Float32 || x.Size() == 0 {
		return false
	}
	var axes []int
	switch a := o.attrs.(type) {
	case reduceSumAttrs:
		axes = slices.Clone(a.axes)
	case reduceMaxAttrs:
		axes = slices.Clone(a.axes)
	case reduceMinAttrs:
		axes = slices.Clone(a.axes)
	}
	if len(axes) == 0 {
		for i := range x.Rank() {
			axes = append(axes, i)
		}
	}
	slices.Sort(axes)
	if len(axes) == 0 || axes[len(axes)-1]-axes[0] != len(axes)-1 {
		return false
	}
	c.result(kindReduce, o, c.contiguous(c.edge(o.in[0]))).axes = axes
	return true
}

// delegates lowers an operation that runs on the Go backend of GoMLX.
func (c *compiler) delegates(o *op) {
	var in []edge
	for _, v := range o.in {
		if v != nil {
			in = append(in, c.contiguous(c.edge(v)))
		}
	}
	c.result(kindDelegated, o, in...)
}

// returns marks the outputs of the program. It adds a copy for an output that is a view, an input,
// a constant, or the same tensor as another output.
func (c *compiler) returns(values []*value) {
	for i, v := range values {
		e := c.edge(v)
		t := e.t
		if k := t.node.kind; k == kindInput || k == kindConstant || t.output >= 0 || !e.whole(t.n) {
			t = c.node(kindCopy, nil, []edge{e}, v.shape).out[0]
		}
		t.output = i
		c.outputs = append(c.outputs, t)
		c.results = append(c.results, v.shape)
	}
}

// prune removes nodes that no output needs and counts the users of each tensor. It assigns new
// numbers to nodes and tensors, in an order in which the nodes can run.
func (c *compiler) prune() {
	needed := map[*node]bool{}
	var visit func(n *node)
	var order []*node
	visit = func(n *node) {
		if needed[n] {
			return
		}
		needed[n] = true
		for _, e := range n.edges() {
			visit(e.t.node)
		}
		order = append(order, n)
	}
	for _, n := range c.nodes {
		if n.kind == kindInput {
			visit(n)
		}
	}
	for _, t := range c.outputs {
		visit(t.node)
	}
	slices.SortStableFunc(order, func(a, b *node) int { return a.id - b.id })
	c.nodes = order
	id := 0
	for i, n := range order {
		n.id = i
		for _, t := range n.out {
			t.id, t.users = id, 0
			id++
		}
	}
	for _, n := range order {
		for _, e := range n.edges() {
			e.t.users++
		}
	}
	for _, t := range c.outputs {
		t.users++
	}
}

// edges returns the edges by which n reads tensors. They include the edges of the epilogue of a
// product, but not absent operands.
func (n *node) edges() []edge {
	all := slices.Clone(n.in)
	if d := n.dot; d != nil {
		for _, e := range d.epilogue() {
			all = append(all, *e)
		}
	}
	return slices.DeleteFunc(all, func(e edge) bool { return e.t == nil })
}

// users returns the nodes that read each tensor, in order. A node appears once for each edge.
func (c *compiler) users() map[*tensor][]*node {
	users := map[*tensor][]*node{}
	for _, n := range c.nodes {
		for _, e := range n.edges() {
			users[e.t] = append(users[e.t], n)
		}
	}
	return users
}
