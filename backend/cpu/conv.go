package cpu

import (
	"fmt"
	"slices"

	"github.com/gomlx/compute"
	"github.com/gomlx/compute/dtypes"
	"github.com/gomlx/compute/shapes"

	"github.com/sptune/spt/internal/kernel/depthwise"
	"github.com/sptune/spt/internal/kernel/gemm"
	"github.com/sptune/spt/internal/workers"
)

// The compiler distinguishes three forms of convolutions. The first form is the depth-wise
// convolution, with one filter per channel. It has its own kernel. The second form is the gradient
// of depth-wise filters, which has its own kernel too. GoMLX builds it as a convolution whose batch
// axis holds the channels, where each channel is a group. All other convolutions become matrix
// products. For each tile of the output, the kernel copies the input elements that the tile needs
// to a matrix and multiplies this matrix by the filters.

// convolution describes a convolution during the compilation.
type convolution struct {
	depthwise.Conv              // for the first two forms; its field X is not set
	flip           bool         // the filters are reversed
	product        *convProduct // for the third form
}

// convSpec holds the sizes of a recorded convolution.
type convSpec struct {
	axes            compute.ConvolveAxesConfig
	spatial         []depthwise.Axis
	channels, batch int // numbers of channel groups and of batch groups
}

// convSpec reads the attributes of o.
func (c *compiler) convSpec(o *op) convSpec {
	attrs := o.attrs.(convGeneralAttrs)
	s := convSpec{axes: attrs.axes, channels: max(1, attrs.channelGroupCount), batch: max(1, attrs.batchGroupCount)}
	or1 := func(list []int, i int) int {
		if i < len(list) {
			return max(1, list[i])
		}
		return 1
	}
	for i := range s.axes.InputSpatial {
		a := depthwise.Axis{
			In: o.in[0].shape.Dim(s.axes.InputSpatial[i]), Kernel: o.in[1].shape.Dim(s.axes.KernelSpatial[i]), Out: o.out[0].shape.Dim(s.axes.OutputSpatial[i]),
			Stride: or1(attrs.strides, i), Dilation: or1(attrs.kernelDilations, i), InDilation: or1(attrs.inputDilations, i),
		}
		if i < len(attrs.paddings) {
			a.Pad = attrs.paddings[i][0]
		}
		s.spatial = append(s.spatial, a)
	}
	return s
}

// conv lowers a float32 convolution. It returns false for other types.
func (c *compiler) conv(o *op) bool {
	in, kernel := o.in[0].shape, o.in[1].shape
	for _, v := range []*value{o.in[0], o.in[1], o.out[0]} {
		if v.shape.DType != dtypes.Float32 {
			return false
		}
	}
	if in.Size() == 0 || kernel.Size() == 0 {
		// every element of the output is an empty sum
		c.convResult(kindConv, o, &convolution{product: &convProduct{}}, nil, span(0, in.Rank()))
		return true
	}
	s := c.convSpec(o)
	out := kernel.Dim(s.axes.KernelOutputChannels)
	small := len(s.spatial) <= 2
	switch {
	case small && s.channels > 1 && s.channels == out && kernel.Dim(s.axes.KernelInputChannels) == 1:
		c.depthwise(o, s)
	case small && s.batch > 1 && s.batch == out && in.Dim(s.axes.InputBatch) == out:
		c.depthwiseGradient(o, s)
	default:
		c.convProduct(o, s)
	}
	return true
}

// ordered returns e with its axes in another order: first, the spatial axes, last.
func ordered(e edge, first int, spatial []int, last ...int) edge {
	return edge{e.t, e.transposed(slices.Concat([]int{first}, spatial, last))}
}

// lastContiguous returns e if its last axis is contiguous in memory. Otherwise it returns an edge
// to a contiguous copy.
func (c *compiler) lastContiguous(e edge) edge {
	if readable(e) {
		return e
	}
	return c.contiguous(e)
}

// reversed recognises filters whose spatial axes are all reversed, as in the gradient of the input
// of a convolution. It then returns the filters before the reversal and sets flip. For other
// filters it returns the edge of v.
func (c *compiler) reversed(v *value, spatial []int) (e edge, flip bool) {
	if v.op.kind != compute.OpTypeReverse {
		return c.edge(v), false
	}
	axes := v.op.attrs.(reverseAttrs).axes
	for a, d := range v.shape.Dimensions {
		if d > 1 && slices.Contains(axes, a) != slices.Contains(spatial, a) {
			return c.edge(v), false
		}
	}
	return c.edge(v.op.in[0]), true
}

// plane returns the vertical and the horizontal axis. If there is only one spatial axis, the
// vertical axis has size 1.
func plane(spatial []depthwise.Axis) (v, h depthwise.Axis) {
	if len(spatial) == 1 {
		return depthwise.Axis{In: 1, Kernel: 1, Out: 1, Stride: 1, Dilation: 1, InDilation: 1}, spatial[0]
	}
	return spatial[0], spatial[1]
}

// convResult appends the node that computes o. The result of the node has the axes of o in the
// order perm.
func (c *compiler) convResult(k kind, o *op, conv *convolution, in []edge, perm []int) {
	shape := o.out[0].shape
	dims, back := make([]int, len(perm)), make([]int, len(perm))
	for i, a := range perm {
		dims[i], back[a] = shape.Dim(a), i
	}
	n := c.node(k, o, in, shapes.Make(dtypes.Float32, dims...))
	n.conv = conv
	e := full(n.out[0], dims)
	e.layout = e.transposed(back)
	c.set(o.out[0], e)
}

// depthwise lowers a convolution with one filter per channel.
func (c *compiler) depthwise(o *op, s convSpec) {
	a := s.axes
	x := c.lastContiguous(ordered(c.edge(o.in[0]), a.InputBatch, a.InputSpatial, a.InputChannels))
	k, flip := c.reversed(o.in[1], a.KernelSpatial)
	k = c.contiguous(ordered(k, a.KernelInputChannels, a.KernelSpatial, a.KernelOutputChannels))
	conv := &convolution{flip: flip}
	conv.Batch, conv.Channels = x.dims[0], x.dims[len(x.dims)-1]
	conv.V, conv.H = plane(s.spatial)
	c.convResult(kindDepthwise, o, conv, []edge{x, k}, slices.Concat([]int{a.OutputBatch}, a.OutputSpatial, []int{a.OutputChannels}))
}

// depthwiseGradient lowers the gradient of depth-wise filters. The batch axis of o holds the
// channels of x, the channel axis of o holds the images, and the filters of o are the gradient of
// the output.
func (c *compiler) depthwiseGradient(o *op, s convSpec) {
	a := s.axes
	x := c.lastContiguous(ordered(c.edge(o.in[0]), a.InputChannels, a.InputSpatial, a.InputBatch))
	dy := c.lastContiguous(ordered(c.edge(o.in[1]), a.KernelInputChannels, a.KernelSpatial, a.KernelOutputChannels))
	conv := &convolution{}
	conv.Batch, conv.Channels = x.dims[0], x.dims[len(x.dims)-1]
	conv.V, conv.H = plane(s.spatial)
	for _, axis := range []*depthwise.Axis{&conv.V, &conv.H} {
		axis.Kernel, axis.Out = axis.Out, axis.Kernel
		axis.Stride, axis.Dilation = axis.Dilation, axis.Stride
	}
	c.convResult(kindDepthwiseGradient, o, conv, []edge{x, dy}, slices.Concat([]int{a.OutputBatch}, a.OutputSpatial, []int{a.OutputChannels}))
}

// describe returns the convolution of n as text, see Timing.
func (c *convolution) describe(n *node) string {
	switch n.kind {
	case kindDepthwise:
		return fmt.Sprintf("depth-wise %d×%d to %v", c.V.Kernel, c.H.Kernel, n.dims)
	case kindDepthwiseGradient:
		return fmt.Sprintf("gradient of depth-wise filters %v from %d × %d×%d", n.dims, c.Batch, c.V.Out, c.H.Out)
	}
	p := c.product
	return fmt.Sprintf("%d × [%d,%d]·[%d,%d]", p.groups, p.batch*p.positions, p.taps*p.channels, p.taps*p.channels, p.n)
}

// images returns the images of o, which has the axes [batch, height, width, channels] or
// [batch, width, channels].
func (x *execution) images(o *operand) depthwise.Images {
	n := len(o.dims)
	i := depthwise.Images{Data: x.float32s(o.slot)[o.offset:], Image: o.strides[0], Col: o.strides[n-2]}
	if n == 4 {
		i.Row = o.strides[1]
	}
	return i
}

// depthwiseKernel computes a convolution with one filter per channel.
type depthwiseKernel struct {
	conv        depthwise.Conv
	in, filters operand
	out         *slot
	flip        bool // the filters are reversed
}

func newDepthwiseKernel(n *node) *depthwiseKernel {
	return &depthwiseKernel{n.conv.Conv, n.in[0].operand(), n.in[1].operand(), n.out[0].slot, n.conv.flip}
}

func (k *depthwiseKernel) run(x *execution) error {
	c := k.conv
	c.X = x.images(&k.in)
	c.Run(x.float32s(k.out), x.float32s(k.filters.slot)[k.filters.offset:], k.flip)
	return nil
}

// depthwiseGradientKernel computes the gradient of one filter per channel.
type depthwiseGradientKernel struct {
	conv   depthwise.Conv
	in, dy operand // dy is the gradient of the output
	out    *slot
}

func newDepthwiseGradientKernel(n *node) *depthwiseGradientKernel {
	return &depthwiseGradientKernel{n.conv.Conv, n.in[0].operand(), n.in[1].operand(), n.out[0].slot}
}

func (k *depthwiseGradientKernel) run(x *execution) error {
	c := k.conv
	c.X = x.images(&k.in)
	c.KernelGradient(x.float32s(k.out), x.images(&k.dy))
	return nil
}

// convProduct describes a convolution as matrix products. The product of each group and each tile
// of rows is C[rows, n] = A[rows, k]·B[k, n]. A row belongs to one image and one position of the
// output. k is the number of taps times the number of input channels. n is the number of output
// channels. A tap is one spatial position of a filter.
type convProduct struct {
	spatial []depthwise.Axis
	groups  int
	// Number of input elements from one group to the next.
	inGroup int
	// Number of images of a group.
	batch int
	// Number of output positions of an image.
	positions int
	// Number of spatial positions of a filter.
	taps int
	// Number of input channels of a group.
	channels int
	// Number of output channels of a group.
	n int
	// Layout of the input: [batch, spatial…, channels].
	in layout
	// Layout of the filters. Its offset is the offset of the first group. The next group begins n
	// columns later.
	b matrix
	// Reports whether the filters are reversed.
	flip bool
	// Reports whether neighbours in memory belong to neighbouring images. This is so in the
	// gradient of filters, where the channels take the role of images. Then the rows of the result
	// are ordered [position, image], otherwise [image, position].
	images bool
}

// convProduct lowers a convolution of any form to matrix products.
func (c *compiler) convProduct(o *op, s convSpec) {
	a := s.axes
	in := ordered(c.edge(o.in[0]), a.InputBatch, a.InputSpatial, a.InputChannels)
	last := len(in.dims) - 1
	p := &convProduct{spatial: s.spatial, groups: s.channels * s.batch, positions: 1, taps: 1}
	p.images = in.dims[0] > 1 && in.strides[0] == 1 && (in.dims[last] == 1 || in.strides[last] != 1)
	if !p.images {
		in = c.lastContiguous(in)
	}
	p.in = in.layout
	p.batch, p.channels = in.dims[0]/s.batch, in.dims[last]/s.channels
	p.inGroup = p.channels * in.strides[last]
	if s.batch > 1 {
		p.inGroup = p.batch * in.strides[0]
	}
	for _, axis := range s.spatial {
		p.positions *= axis.Out
		p.taps *= axis.Kernel
	}
	k, flip := c.reversed(o.in[1], a.KernelSpatial)
	k.layout = k.transposed(slices.Concat(a.KernelSpatial, []int{a.KernelInputChannels, a.KernelOutputChannels}))
	if _, _, ok := k.group(span(0, last)); !ok {
		k = c.contiguous(k)
	}
	_, row, _ := k.group(span(0, last))
	p.flip, p.n = flip, k.dims[last]/p.groups
	p.b = matrix{row, k.strides[last], []int{k.offset}}
	perm := slices.Concat([]int{a.OutputBatch}, a.OutputSpatial, []int{a.OutputChannels})
	if p.images {
		perm = slices.Concat(a.OutputSpatial, []int{a.OutputBatch, a.OutputChannels})
	}
	c.convResult(kindConv, o, &convolution{product: p}, []edge{in, k}, perm)
}

// A tile of A has about convTile elements and at most convDepth columns. It takes a quarter of a
// second-level cache of one megabyte.
const (
	convTile  = 1 << 16
	convDepth = 1 << 10
)

// convKernel computes a convolution as matrix products.
type convKernel struct {
	*convProduct
	input, filters *slot // nil if every element of the output is an empty sum
	out            *slot
	bf16           bool // round the operands of products to bfloat16
}

func (c *compiler) newConvKernel(n *node) *convKernel {
	p := n.conv.product
	k := &convKernel{convProduct: p, out: n.out[0].slot, bf16: c.rounds(len(n.dims), p.batch*p.positions, p.n, p.taps*p.channels)}
	if len(n.in) > 0 {
		k.input, k.filters = n.in[0].t.slot, n.in[1].t.slot
	}
	return k
}

func (p *convKernel) run(x *execution) error {
	if p.taps == 0 {
		clear(x.float32s(p.out))
		return nil
	}
	in, kernel, out := x.float32s(p.input)[p.in.offset:], x.float32s(p.filters)[p.b.offsets[0]:], x.float32s(p.out)
	rows, k := p.batch*p.positions, p.taps*p.channels
	chunks := (k + convDepth - 1) / convDepth
	depth := (k + chunks - 1) / chunks
	tiles := (rows*depth + convTile - 1) / convTile
	tiles = min(tiles, (rows+31)/32)
	width := p.groups * p.n
	workers.Run(p.groups*tiles, func(part int, s *workers.Scratch) {
		g, tile := part/tiles, part%tiles
		r0, r1 := tile*rows/tiles, (tile+1)*rows/tiles
		a := s.Float32s((r1 - r0) * depth)
		for k0 := 0; k0 < k; k0 += depth {
			k1 := min(k0+depth, k)
			call := gemm.Call{M: r1 - r0, N: p.n, K: k1 - k0, C: out[r0*width+g*p.n:], LDC: width, Alpha: 1, BF16: p.bf16,
				A: gemm.View{Data: a, Row: k1 - k0, Col: 1},
				B: gemm.View{Data: kernel[k0*p.b.row+g*p.n*p.b.col:], Row: p.b.row, Col: p.b.col}}
			if k0 > 0 {
				call.Beta = 1
			}
			if p.images {
				p.columns(a, in[g*p.inGroup:], r0, r1, k0, k1)
				call.A.Row, call.A.Col = 1, r1-r0
			} else {
				p.rows(a, in[g*p.inGroup:], r0, r1, k0, k1)
			}
			call.Serial(s)
		}
	})
	return nil
}

// at returns the offset of the input pixel that an output position reads for a tap. inside reports
// whether the pixel lies inside the image.
func (p *convProduct) at(position, tap int) (offset int, inside bool) {
	for i := len(p.spatial) - 1; i >= 0; i-- {
		a := &p.spatial[i]
		t := tap % a.Kernel
		if p.flip {
			t = a.Kernel - 1 - t
		}
		v := position%a.Out*a.Stride + t*a.Dilation - a.Pad
		if v < 0 || v%a.InDilation != 0 || v/a.InDilation >= a.In {
			return 0, false
		}
		offset += v / a.InDilation * p.in.strides[1+i]
		position, tap = position/a.Out, tap/a.Kernel
	}
	return offset, true
}

// rows fills A[r0:r1, k0:k1] in row-major order. The channels of the input are contiguous.
func (p *convProduct) rows(a, in []float32, r0, r1, k0, k1 int) {
	for r := r0; r < r1; r++ {
		image, position := r/p.positions, r%p.positions
		for k := k0; k < k1; {
			tap, c := k/p.channels, k%p.channels
			n := min(p.channels-c, k1-k)
			if at, inside := p.at(position, tap); inside {
				copy(a[:n], in[image*p.in.strides[0]+at+c:])
			} else {
				clear(a[:n])
			}
			a, k = a[n:], k+n
		}
	}
}

// columns fills A[r0:r1, k0:k1] in column-major order. The images of the input are contiguous.
func (p *convProduct) columns(a, in []float32, r0, r1, k0, k1 int) {
	for k := k0; k < k1; k++ {
		tap, c := k/p.channels, k%p.channels
		for r := r0; r < r1; {
			position, image := r/p.batch, r%p.batch
			n := min(p.batch-image, r1-r)
			if at, inside := p.at(position, tap); inside {
				copy(a[:n], in[at+c*p.in.strides[len(p.in.strides)-1]+image:])
			} else {
				clear(a[:n])
			}
			a, r = a[n:], r+n
		}
	}
}
