// Package depthwise computes depthwise convolutions on the CPU. A depthwise convolution has one
// filter for each channel. A [Conv] describes the convolution. [Conv.Run] computes the output. With
// reversed filters, it also computes the gradient with respect to the input. [Conv.KernelGradient]
// computes the gradient with respect to the filters. Both use all workers.
//
// These terms are used: A tap is one position of a filter. A block is as many channels as a
// register has lanes. A band is some rows of one image. A tile is up to two rows of 14 pixels of
// one block, whose sums the micro-kernel holds in registers.
//
// The channels of a pixel are contiguous in memory. Each part of the work copies one band of some
// blocks into scratch memory that stays in the second-level cache (pack.go). It copies each block
// separately, with zeros for the padding. So the micro-kernel reads neighbouring pixels at
// neighbouring addresses and needs no checks at the borders. The micro-kernel (kernel.go and the
// assembly that asm/ generates) adds the products of one tap after the other to the sums of a tile.
// sum.go describes these taps. The gradient of the filters is the same sum with exchanged roles:
// the pixels are the taps, and the gradient of the output holds their weights.
//
// Padding zeros are multiplied like other pixels, so an infinite weight gives NaN where it meets
// padding.
//
// An output is summed over the taps in row-major order. A gradient of a filter is summed over the
// pixels in row-major order, image after image within a chunk of images. Then the sums of the
// chunks are added in order. The chunks depend on the batch size only. So results have the same
// bits for any GOMAXPROCS. They may differ in the last bits between the assembly and the portable
// version, because the compiler need not fuse multiplication and addition in the portable version.
package depthwise

import (
	"unsafe"

	"github.com/sptune/spt/internal/kernel/vector"
	"github.com/sptune/spt/internal/workers"
)

// Axis describes one spatial axis of a convolution. Output o is the sum over the taps k: the weight
// of k times the input at position o·Stride + k·Dilation − Pad. The elements of the input are
// InDilation positions apart. All other positions are zeros.
type Axis struct {
	// In, Kernel and Out are the sizes of the input, the filter and the output.
	In, Kernel, Out int
	// Pad is the number of padding positions before the first element. A negative number removes
	// positions.
	Pad int
	// Stride is the distance of neighbouring outputs, Dilation the distance of neighbouring taps,
	// and InDilation the distance of neighbouring input elements, all in positions. They are at
	// least 1.
	Stride, Dilation, InDilation int
}

// span returns the number of positions from the first to the last that n neighbouring outputs read.
func (a *Axis) span(n int) int { return (n-1)*a.Stride + (a.Kernel-1)*a.Dilation + 1 }

// Images is a batch of images. Channel c of pixel (y,x) of image n is
// Data[n·Image + y·Row + x·Col + c].
type Images struct {
	// Data starts with channel 0 of pixel (0,0) of image 0.
	Data []float32
	// Image, Row and Col are the strides: the numbers of float32s from image to image, from row to
	// row and from column to column.
	Image, Row, Col int
}

// Conv is a depthwise convolution. All sizes must be at least 1.
type Conv struct {
	// Batch is the number of images, and Channels the number of channels of the input and of the
	// output.
	Batch, Channels int
	// V is the vertical axis, and H the horizontal axis.
	V, H Axis
	// X is the input, [Batch, V.In, H.In, Channels]. It must not overlap a result.
	X Images
}

// taps returns the number of taps of a filter.
func (c *Conv) taps() int { return c.V.Kernel * c.H.Kernel }

// check reads the last element of the images i of the given height and width. It panics if their
// data is too short.
func (c *Conv) check(i Images, height, width int) {
	_ = i.Data[(c.Batch-1)*i.Image+(height-1)*i.Row+(width-1)*i.Col+c.Channels-1]
}

// Run convolves X with the filters kernel, [V.Kernel, H.Kernel, Channels]. It writes the output to
// out, [Batch, V.Out, H.Out, Channels], row-major. If flip is set, it reverses the filters along
// both axes. It panics if a slice is shorter than its shape.
func (c *Conv) Run(out, kernel []float32, flip bool) {
	c.check(c.X, c.V.In, c.H.In)
	kn, taps := active, c.taps()
	kernel = kernel[:taps*c.Channels]
	out = out[:c.Batch*c.V.Out*c.H.Out*c.Channels]
	workers.Run(1, func(_ int, s *workers.Scratch) {
		if flip {
			turned := s.Float32s(len(kernel))
			for tap := range taps {
				copy(turned[tap*c.Channels:(tap+1)*c.Channels], kernel[(taps-1-tap)*c.Channels:])
			}
			kernel = turned
		}
		p := c.packing(kn, c.H.Stride, 0)
		sum := p.sum(c.V.Kernel, c.H.Kernel, c.V.Dilation, c.H.Dilation)
		weights := s.Float32s(p.blocks * taps * kn.lanes)
		for b := range p.blocks {
			at := b * kn.lanes
			for i := range c.V.Kernel {
				sum.gather(weights[b*taps*kn.lanes:], c.V.Kernel, i, kernel[i*c.H.Kernel*c.Channels+at:], c.Channels, min(kn.lanes, c.Channels-at))
			}
		}
		// One part computes all bands of an image, because neighbouring bands read common rows. If
		// there are too few images and groups of blocks for all workers, several parts share the
		// bands of an image.
		units := c.Batch * p.groups
		split := min(p.bands, max(1, 4*workers.Count()/units))
		workers.Run(units*split, func(part int, s *workers.Scratch) {
			unit, share := part/split, part%split
			image, g := unit/p.groups, unit%p.groups
			for band := share * p.bands / split; band < (share+1)*p.bands/split; band++ {
				mark := s.Mark()
				c.band(p, s, image, g, band, out, weights, sum)
				s.Release(mark)
			}
		})
	})
}

// band computes one band of rows of one image for one group of blocks.
func (c *Conv) band(p *packing, s *workers.Scratch, image, group, band int, out, weights []float32, sum *sum) {
	kn, taps := p.kn, c.taps()
	r0, r1 := p.rows(band)
	b0, b1 := p.group(group)
	height := c.V.span(r1 - r0)
	size := height * p.row * kn.lanes
	x := s.Float32s((b1 - b0) * size)
	p.fill(x, size, image, r0*c.V.Stride, height, b0, b1)
	// spare receives the results of a block with fewer channels than lanes.
	spare := s.Float32s(2 * kn.cols[0] * kn.lanes)
	pixel := 4 * c.Channels
	t := tile{pitch: 4 * kn.lanes * c.V.Stride * p.row, dstCol: pixel, dstRow: pixel * c.H.Out}
	tiles := (c.H.Out + sum.most[0] - 1) / sum.most[0]
	for b := b0; b < b1; b++ {
		n := min(kn.lanes, c.Channels-b*kn.lanes)
		if n < kn.lanes {
			t.dstCol, t.dstRow = 4*kn.lanes, 4*kn.lanes*kn.cols[0]
		}
		for i := range tiles {
			j0, j1 := i*c.H.Out/tiles, (i+1)*c.H.Out/tiles
			t.cols = j1 - j0
			for r := r0; r < r1; r += t.rows {
				t.rows = sum.tileRows(r1-r, t.cols)
				t.src = unsafe.Pointer(&x[(b-b0)*size+((r-r0)*c.V.Stride*p.row+j0)*kn.lanes])
				dst := ((image*c.V.Out+r)*c.H.Out+j0)*c.Channels + b*kn.lanes
				t.dst = unsafe.Pointer(&spare[0])
				if n == kn.lanes {
					t.dst = unsafe.Pointer(&out[dst])
				}
				sum.add(&t, weights[b*taps*kn.lanes:], c.V.Kernel, 0, c.V.Kernel)
				if n == kn.lanes {
					continue
				}
				for q := range t.rows {
					for j := range t.cols {
						copy(out[dst+(q*c.H.Out+j)*c.Channels:][:n], spare[(q*kn.cols[0]+j)*kn.lanes:])
					}
				}
			}
		}
	}
}

// gradientChunks is the largest number of chunks into which a batch is divided for the gradient.
// Each chunk has a separate sum.
const gradientChunks = 8

// gradientPixels is the approximate number of pixels that a tile of the gradient sums before it
// writes its sums to memory. With a smaller number, reading and writing the sums takes too much of
// the time.
const gradientPixels = 128

// KernelGradient computes the gradient with respect to the filters and writes it to out,
// [V.Kernel, H.Kernel, Channels]. dy is the gradient with respect to the output,
// [Batch, V.Out, H.Out, Channels]. The gradient of a tap is the sum over all output pixels: dy
// times the input pixel that the tap reads. KernelGradient panics if a slice is shorter than its
// shape.
func (c *Conv) KernelGradient(out []float32, dy Images) {
	c.check(c.X, c.V.In, c.H.In)
	c.check(dy, c.V.Out, c.H.Out)
	kn, taps := active, c.taps()
	out = out[:taps*c.Channels]
	workers.Run(1, func(_ int, s *workers.Scratch) {
		p := c.packing(kn, c.H.Dilation, c.H.Out)
		// number of pixel rows that a tile sums
		rows := min(p.height, max(1, gradientPixels/c.H.Out))
		sum := p.sum(rows, c.H.Out, c.V.Stride, c.H.Stride)
		chunks := min(c.Batch, gradientChunks)
		size := taps * kn.lanes // number of sums of a block
		partial := s.Float32s(chunks * p.blocks * size)
		workers.Run(chunks*p.groups, func(part int, s *workers.Scratch) {
			chunk, g := part/p.groups, part%p.groups
			b0, b1 := p.group(g)
			acc := partial[(chunk*p.blocks+b0)*size : (chunk*p.blocks+b1)*size]
			clear(acc)
			for image := chunk * c.Batch / chunks; image < (chunk+1)*c.Batch/chunks; image++ {
				for band := range p.bands {
					mark := s.Mark()
					c.gradient(p, s, image, g, band, dy, acc, sum, rows)
					s.Release(mark)
				}
			}
		})
		workers.Run(p.blocks, func(b int, _ *workers.Scratch) {
			all := partial[b*size : (b+1)*size]
			for chunk := 1; chunk < chunks; chunk++ {
				vector.Add(all, all, partial[(chunk*p.blocks+b)*size:])
			}
			at := b * kn.lanes
			for tap := range taps {
				copy(out[tap*c.Channels+at:(tap+1)*c.Channels], all[tap*kn.lanes:(tap+1)*kn.lanes])
			}
		})
	})
}

// gradient adds one band of rows of one image for one group of blocks to acc,
// [blocks of the group, taps, lanes].
func (c *Conv) gradient(p *packing, s *workers.Scratch, image, group, band int, dy Images, acc []float32, sum *sum, rows int) {
	kn, taps := p.kn, c.taps()
	r0, r1 := p.rows(band)
	b0, b1 := p.group(group)
	height := c.V.span(r1 - r0)
	size := height * p.row * kn.lanes
	x := s.Float32s((b1 - b0) * size)
	p.fill(x, size, image, r0*c.V.Stride, height, b0, b1)
	pixels := (r1 - r0) * c.H.Out * kn.lanes
	weights := s.Float32s((b1 - b0) * pixels)
	for r := r0; r < r1; r++ {
		for b := b0; b < b1; b++ {
			sum.gather(weights[(b-b0)*pixels:], r1-r0, r-r0, dy.Data[image*dy.Image+r*dy.Row+b*kn.lanes:], dy.Col, min(kn.lanes, c.Channels-b*kn.lanes))
		}
	}
	t := tile{add: 1, pitch: 4 * kn.lanes * c.V.Dilation * p.row, dstCol: 4 * kn.lanes, dstRow: 4 * kn.lanes * c.H.Kernel}
	tiles := (c.H.Kernel + sum.most[0] - 1) / sum.most[0]
	for b := range b1 - b0 {
		for r := 0; r < r1-r0; r += rows {
			n := min(rows, r1-r0-r)
			for tile := range tiles {
				j0, j1 := tile*c.H.Kernel/tiles, (tile+1)*c.H.Kernel/tiles
				t.cols = j1 - j0
				for i := 0; i < c.V.Kernel; i += t.rows {
					t.rows = sum.tileRows(c.V.Kernel-i, t.cols)
					t.src = unsafe.Pointer(&x[b*size+((r*c.V.Stride+i*c.V.Dilation)*p.row+j0)*kn.lanes])
					t.dst = unsafe.Pointer(&acc[(b*taps+i*c.H.Kernel+j0)*kn.lanes])
					sum.add(&t, weights[b*pixels:], r1-r0, r, n)
				}
			}
		}
	}
}
