package depthwise

// packing describes the layout of a band of the input in scratch memory,
// [blocks, rows, row, lanes]. Pixels that are neighbours in a tile are also neighbours in memory.
// If they are n columns apart in the input, the columns are sorted by their remainder mod n.
type packing struct {
	*Conv
	kn *kernel
	// steps is the distance in the input, in pixels, of pixels that are neighbours in a tile.
	steps int
	// row is the number of pixels of a packed row.
	row int
	// blocks is the number of blocks of channels. groups is the number of groups of blocks. A part
	// of the work has one group.
	blocks, groups int
	// height is the largest number of output rows of a band. bands is the number of bands of an
	// image.
	height, bands int
}

// bandBytes is the approximate size of the scratch memory that a part fills. It is half of a
// second-level cache of one megabyte. With smaller caches, the speed decreases only a little.
const bandBytes = 512 << 10

// packing chooses the groups and the bands. steps is the distance of pixels that are neighbours in
// a tile. extra is the number of additional pixels that a part keeps for each output row.
func (c *Conv) packing(kn *kernel, steps, extra int) *packing {
	p := &packing{Conv: c, kn: kn, steps: steps, blocks: (c.Channels + kn.lanes - 1) / kn.lanes}
	p.row = (c.H.span(c.H.Out) + steps - 1) / steps * steps
	// Use the largest groups of blocks with which a band has enough rows. Neighbouring bands read
	// common rows, so low bands read too many rows twice.
	for blocks := p.blocks; ; blocks-- {
		p.groups = (p.blocks + blocks - 1) / blocks
		blocks = (p.blocks + p.groups - 1) / p.groups
		budget := bandBytes / (4 * kn.lanes * blocks)
		p.height = (budget - c.V.span(1)*p.row) / (c.V.Stride*p.row + extra)
		if p.height >= min(c.V.Out, 2*c.V.span(1)) || blocks == 1 {
			break
		}
	}
	p.height = min(max(p.height, 1), c.V.Out)
	p.bands = (c.V.Out + p.height - 1) / p.height
	p.height = (c.V.Out + p.bands - 1) / p.bands
	return p
}

// rows returns the first output row of a band and the row after its last.
func (p *packing) rows(band int) (from, to int) {
	return band * p.V.Out / p.bands, (band + 1) * p.V.Out / p.bands
}

// group returns the first block of a group and the block after its last.
func (p *packing) group(g int) (from, to int) {
	return g * p.blocks / p.groups, (g + 1) * p.blocks / p.groups
}

// column returns the pixel of a packed row that holds position v of a row of the padded input.
func (p *packing) column(v int) int { return v%p.steps*(p.row/p.steps) + v/p.steps }

// fill packs the rows v0 to v0+rows-1 of the padded input for the blocks b0 to b1-1. The blocks are
// size elements apart in dst.
func (p *packing) fill(dst []float32, size, image, v0, rows, b0, b1 int) {
	lanes := p.kn.lanes
	width := p.row * lanes
	for r := range rows {
		y, inside := p.V.input(v0 + r)
		for b := b0; b < b1; b++ {
			line := dst[(b-b0)*size+r*width:][:width]
			if !inside {
				clear(line)
				continue
			}
			p.line(line, p.X.Data[image*p.X.Image+y*p.X.Row+b*lanes:], min(lanes, p.Channels-b*lanes))
		}
	}
}

// input returns the index of the input element at position v of the padded input. inside reports
// whether there is an element.
func (a *Axis) input(v int) (i int, inside bool) {
	v -= a.Pad
	return v / a.InDilation, v >= 0 && v%a.InDilation == 0 && v/a.InDilation < a.In
}

// line packs one row of one block.
func (p *packing) line(dst, src []float32, channels int) {
	lanes, h := p.kn.lanes, &p.H
	if h.InDilation > 1 {
		clear(dst)
		for v := range p.row {
			if x, inside := h.input(v); inside {
				p.kn.gather(&dst[p.column(v)*lanes], 0, &src[x*p.X.Col], 0, channels, 1)
			}
		}
		return
	}
	phase := p.row / p.steps
	for first := range p.steps {
		// The positions first + q·steps are inside the input for q0 <= q < q1.
		q0 := min(max(0, ceil(h.Pad-first, p.steps)), phase)
		q1 := min(max(q0, ceil(h.Pad+h.In-first, p.steps)), phase)
		d := dst[first*phase*lanes:][:phase*lanes]
		clear(d[:q0*lanes])
		clear(d[q1*lanes:])
		if q0 < q1 {
			p.kn.gather(&d[q0*lanes], 4*lanes, &src[(first+q0*p.steps-h.Pad)*p.X.Col], 4*p.steps*p.X.Col, channels, q1-q0)
		}
	}
}

// ceil returns a/b, rounded up. b must be greater than 0.
func ceil(a, b int) int {
	if a > 0 {
		return (a + b - 1) / b
	}
	return -(-a / b)
}
