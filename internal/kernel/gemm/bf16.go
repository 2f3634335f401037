package gemm

import (
	"math"
	"unsafe"

	"github.com/sptune/spt/internal/workers"
)

// This file computes products whose operands are rounded to bfloat16, see [Call.BF16].

const (
	// stripRows is the number of rows of a strip, and panelCols the number of columns of a panel.
	stripRows, panelCols = 32, 32
	// tileDepth is the number of steps of K in a tile.
	tileDepth = 32
	// tileFloats is the size of a tile in float32s: 16 rows of 32 bfloat16s, or of 16 float32s.
	tileFloats = 256

	// bf16Depth is the largest depth of a block of K, a multiple of tileDepth.
	bf16Depth = 768
	// bf16StripBlock and bf16PanelBlock are the sizes in float32s of the packed strips of a part
	// and of a block of panels. Both stay in the second-level cache, which has 2 MiB on processors
	// with AMX. Each panel of a block is multiplied by all strips before the next block is read.
	bf16StripBlock = 512 << 10
	bf16PanelBlock = 128 << 10
)

// strip is the argument of stripAMX and stripDP. For mr rows and n columns the kernel computes dst
// = alpha·a·b + gamma·src + bias + residual, in this order. a·b is the sum of the products of this
// strip and of the strips that follow it in the list next. All strides are in bytes.
type strip struct {
	// a holds the tiles of the strip: for each step, one tile if mr is at most 16, and two tiles
	// otherwise. b holds two tiles for each step of each panel.
	a, b unsafe.Pointer
	// steps is the number of steps, at least 1. A step has the depth tileDepth.
	steps int
	// pairs is the number of pairs of steps of K, rounded up, for stripDP.
	pairs int
	// panel is the size of a panel of b.
	panel int
	// next is an additional product with the same rows and columns. The kernel reads its a, b,
	// steps, pairs and panel. Nil: there is none.
	next *strip

	mr, n int
	// rate is the number of rows of a panel that are written in each step of the next panel.
	rate int
	// fetchA and fetchB are the addresses of other memory that is prefetched. Each step prefetches
	// linesA and linesB cache lines.
	fetchA, fetchB uintptr
	linesA, linesB int
	// sums is memory for 32 × 32 sums.
	sums unsafe.Pointer
	// dst is the destination, and ldd its row stride.
	dst unsafe.Pointer
	ldd int
	// src is multiplied by gamma and added, and lds is its row stride. Nil: nothing is added.
	src unsafe.Pointer
	lds int
	// residual is added, and ldr is its row stride. Nil: nothing is added.
	residual unsafe.Pointer
	ldr      int
	// bias has n elements and is added to every row. Nil: nothing is added.
	bias         unsafe.Pointer
	alpha, gamma float32
}

// bf16Steps returns the number of steps of a product with depth k.
func bf16Steps(k int) int { return (k + tileDepth - 1) / tileDepth }

// bf16Panels returns the number of panels of n columns.
func bf16Panels(n int) int { return (n + panelCols - 1) / panelCols }

// bf16Grid chooses the partition of C for n workers.
func (c *Call) bf16Grid(n int) grid {
	strips, panels := (c.M+stripRows-1)/stripRows, bf16Panels(c.N)
	depth, _ := bf16Blocks(c.K)
	most := max(1, bf16StripBlock/(bf16Steps(depth)*2*tileFloats)) // strips of a part
	g := grid{(strips + most - 1) / most, 1}
	if c.Packed == nil {
		g.cols = (panels + maxPanels - 1) / maxPanels
	}
	if n == 1 {
		return g
	}
	want := min(4*n, 1+c.M*c.N*c.K>>21) // a part should take at least 10 µs
	for g.rows*g.cols < want {
		switch {
		case g.rows < strips && (c.Packed != nil || c.M/g.rows >= c.N/g.cols):
			g.rows++
		case g.cols < panels:
			g.cols++
		default:
			return g
		}
	}
	return g
}

// bf16Rect returns a part of C in the partition g.
func (c *Call) bf16Rect(g grid, part int) rect {
	strips, panels := (c.M+stripRows-1)/stripRows, bf16Panels(c.N)
	r, q := part/g.cols, part%g.cols
	return rect{
		r * strips / g.rows * stripRows, min((r+1)*strips/g.rows*stripRows, c.M),
		q * panels / g.cols * panelCols, min((q+1)*panels/g.cols*panelCols, c.N),
	}
}

// bf16Operand holds the operands of a product for one block of K of one part of C.
type bf16Operand struct {
	steps  int
	a      View      // the rows of the part
	k      int       // depth
	strips []float32 // memory for packed strips of A
	panels []float32 // packed panels of B, starting at the first column of the part
}

// newBF16Operand prepares the operands of a product with the depth k for the part r. It takes
// memory for kept strips, and packs B unless packed holds the panels of all columns.
func newBF16Operand(s *workers.Scratch, kept int, a, b View, packed []float32, k int, r rect) bf16Operand {
	steps := bf16Steps(k)
	o := bf16Operand{steps: steps, a: a.from(r.i0, 0), k: k, strips: s.Float32s(kept * steps * 2 * tileFloats)}
	if packed != nil {
		o.panels = packed[r.j0/panelCols*steps*2*tileFloats:]
		return o
	}
	o.panels = s.Float32s(bf16Panels(r.j1-r.j0) * steps * 2 * tileFloats)
	packBF16Panels(o.panels, b.from(0, r.j0), k, r.j1-r.j0)
	return o
}

// bf16Part computes one part of C with its epilogue, on one goroutine.
func (c *Call) bf16Part(s *workers.Scratch, r rect) {
	mark := s.Mark()
	defer s.Release(mark)
	sums := s.Float32s(stripRows * panelCols)
	depth, blocks := bf16Blocks(c.K)
	for q := range blocks {
		mark := s.Mark()
		k0, k1 := q*depth, min((q+1)*depth, c.K)
		nc := max(1, bf16PanelBlock/(bf16Steps(k1-k0)*2*tileFloats)) * panelCols
		kept := 1 // number of strips that stay packed
		if nc < r.j1-r.j0 {
			kept = (r.i1 - r.i0 + stripRows - 1) / stripRows
		}
		var all [1 + MaxTerms]bf16Operand
		operands := all[:1]
		var b View
		var packed []float32
		if c.Packed != nil {
			packed = c.Packed.data[k0/tileDepth*2*tileFloats*bf16Panels(c.N):]
		} else {
			b = c.B.from(k0, 0)
		}
		operands[0] = newBF16Operand(s, kept, c.A.from(0, k0), b, packed, k1-k0, r)
		if q == blocks-1 {
			for i := range c.Terms {
				t := &c.Terms[i]
				packed = nil
				if t.Packed != nil {
					packed = t.Packed.data
				}
				operands = append(operands, newBF16Operand(s, kept, t.A, t.B, packed, t.K, r))
			}
		}
		for j := r.j0; j < r.j1; j += nc {
			c.bf16Block(operands, rect{r.i0, r.i1, j, min(j+nc, r.j1)}, r.j0, r.j1, kept, c.output(k0, k1), sums)
		}
		s.Release(mark)
	}
}

// bf16Block computes the columns of r for one block of K. The panels of the operands hold the
// columns j0 to j1-1. If r starts at j0, bf16Block packs the strips of A. sums is memory for the
// sums of a strip and a panel.
func (c *Call) bf16Block(operands []bf16Operand, r rect, j0, j1, kept int, o output, sums []float32) {
	var list [1 + MaxTerms]strip
	t := &list[0]
	t.alpha, t.gamma = c.Alpha, o.gamma
	t.sums = at(sums, 0)
	t.ldd, t.lds, t.ldr = 4*o.ldd, 4*o.lds, 4*o.ldr
	t.n = r.j1 - r.j0
	total := 0
	for i := range operands {
		p := &operands[i]
		total += p.steps
		list[i].steps, list[i].pairs, list[i].panel = p.steps, (p.k+1)/2, 4*p.steps*2*tileFloats
		list[i].b = at(p.panels, (r.j0-j0)/panelCols*p.steps*2*tileFloats)
		if i > 0 {
			list[i-1].next = &list[i]
		}
	}
	// Each strip prefetches the next strip of A, if A is not packed and most of its memory range
	// belongs to it, and a part of the next block of panels.
	strips := (r.i1 - r.i0 + stripRows - 1) / stripRows
	ahead := min(r.j1-r.j0, j1-r.j1) / panelCols * t.panel / strips
	steps := bf16Panels(t.n) * total
	along := operands[0].a.Col == 1 && operands[0].a.Row < 2*operands[0].k
	for n := 0; r.i0+n*stripRows < r.i1; n++ {
		i := r.i0 + n*stripRows
		i1 := min(i+stripRows, r.i1)
		for q := range operands {
			p := &operands[q]
			tiles := p.strips[n%kept*p.steps*2*tileFloats:]
			if r.j0 == j0 {
				packBF16Strip(tiles, p.a.from(n*stripRows, 0), i1-i, p.k)
			}
			list[q].a = at(tiles, 0)
		}
		t.mr = i1 - i
		t.rate = (t.mr + total - 1) / total
		t.dst = at(o.dst, i*o.ldd+r.j0)
		if o.src != nil {
			t.src = at(o.src, i*o.lds+r.j0)
		}
		if o.bias != nil {
			t.bias = at(o.bias, r.j0)
		}
		if o.residual != nil {
			t.residual = at(o.residual, i*o.ldr+r.j0)
		}
		t.linesA, t.linesB = 0, 0
		if r.j0 == j0 && along {
			row := operands[0].a.Row
			t.fetchA = uintptr(at(operands[0].a.Data, 0)) + uintptr(4*(n+1)*stripRows*row)
			t.linesA = (4*min(stripRows, r.i1-i1)*row/cacheLine + steps - 1) / steps
		}
		if ahead > 0 {
			t.fetchB = uintptr(t.b) + uintptr(bf16Panels(t.n)*t.panel+n*ahead)
			t.linesB = (ahead/cacheLine + steps - 1) / steps
		}
		t.compute()
		if o.finish {
			c.finish(i, i1, r.j0, r.j1)
		}
	}
}

// bf16Blocks cuts K into blocks of equal depth, which is a multiple of tileDepth. The last block
// may be shorter. The blocks determine the order of summation.
func bf16Blocks(k int) (depth, blocks int) {
	steps, blocks := kBlocks(bf16Steps(k), bf16Depth/tileDepth)
	return steps * tileDepth, blocks
}

// packBF16Strip rounds rows of a, [n,k], to bfloat16 and packs them into the tiles of a strip. n is
// at most stripRows.
func packBF16Strip(dst []float32, a View, n, k int) {
	step := 4 * tileFloats
	if n > 16 {
		step = 8 * tileFloats
	}
	for i := 0; i < n; i += 16 {
		d := dst[i/16*tileFloats:]
		rows := min(16, n-i)
		src := a.Data[i*a.Row:]
		switch {
		case a.Col == 1:
			alongA(&d[0], step, &src[0], 4*a.Row, rows, k)
		case a.Row == 1:
			acrossA(&d[0], step, &src[0], 4*a.Col, rows, k)
		default:
			packStrided(d, step, true, src, a.Row, a.Col, rows, k)
		}
	}
}

// packBF16Panels rounds b, [k,n], to bfloat16 and packs it into panels.
func packBF16Panels(dst []float32, b View, k, n int) {
	steps := bf16Steps(k)
	for j := 0; j < n; j += 16 {
		d := dst[(j/panelCols*steps*2+j%panelCols/16)*tileFloats:]
		src := b.Data[j*b.Col:]
		cols := min(16, n-j)
		switch {
		case b.Row == 1:
			alongB(&d[0], 8*tileFloats, &src[0], 4*b.Col, cols, k)
		case b.Col == 1:
			acrossB(&d[0], 8*tileFloats, &src[0], 4*b.Row, cols, k)
		default:
			packStrided(d, 8*tileFloats, false, src, b.Col, b.Row, cols, k)
		}
	}
}

// PackedBF16Len returns the number of float32s that [PackBF16] needs for an operand [k,n].
func PackedBF16Len(k, n int) int { return bf16Steps(k) * bf16Panels(n) * 2 * tileFloats }

// PackBF16 does the same as [Pack] for a call with BF16. dst must have at least [PackedBF16Len](k,
// n) elements.
func PackBF16(dst []float32, b View, k, n int) *Packed {
	p := &Packed{data: dst[:PackedBF16Len(k, n)], k: k, n: n, bf16: true}
	if k == 0 || n == 0 {
		return p
	}
	last(b, k, n)
	depth, blocks := bf16Blocks(k)
	panels := bf16Panels(n)
	workers.Run(blocks*panels, func(part int, _ *workers.Scratch) {
		k0, j0 := part/panels*depth, part%panels*panelCols
		k1, j1 := min(k0+depth, k), min(j0+panelCols, n)
		packBF16Panels(p.data[p.tile(k0, j0):], b.from(k0, j0), k1-k0, j1-j0)
	})
	return p
}

// packStrided packs n lanes of k steps into tiles of A or B, step bytes apart. It does the same as
// the assembly for matrices without contiguous lanes and without contiguous steps. sl and sk are
// the strides of lanes and steps.
func packStrided(dst []float32, step int, ofA bool, src []float32, sl, sk, n, k int) {
	for t := 0; t < k; t += tileDepth {
		tile := dst[t/tileDepth*step/4:][:tileFloats]
		clear(tile)
		halves := unsafe.Slice((*uint16)(unsafe.Pointer(&tile[0])), 2*tileFloats)
		for p := range min(tileDepth, k-t) {
			for l := range n {
				at := l*tileDepth + p
				if !ofA {
					at = p/2*tileDepth + 2*l + p%2
				}
				halves[at] = toBF16(src[l*sl+(t+p)*sk])
			}
		}
	}
}

// toBF16 rounds x to the nearest bfloat16, and to even if two are equally near, as the processor
// does: a number below the smallest normal float32 becomes zero, and a NaN stays one.
func toBF16(x float32) uint16 {
	const exponent = 0x7f800000
	b := math.Float32bits(x)
	switch {
	case b&exponent == 0:
		return uint16(b>>16) & 0x8000
	case x != x:
		return uint16(b>>16) | 0x40
	}
	return uint16((b + 0x7fff + b>>16&1) >> 16)
}

// tile returns the position of the tile with element (i,j) of an operand from [PackBF16].
func (p *Packed) tile(i, j int) int {
	depth, _ := bf16Blocks(p.k)
	k0 := i / depth * depth
	steps := bf16Steps(min(depth, p.k-k0))
	return (k0/tileDepth*bf16Panels(p.n)+j/panelCols*steps+(i-k0)/tileDepth)*2*tileFloats + j%panelCols/16*tileFloats
}

// SetBF16 rounds v to bfloat16 and stores it as element (i,j) of an operand from [PackBF16].
func (p *Packed) SetBF16(i, j int, v float32) {
	tile := p.data[p.tile(i, j):][:tileFloats]
	halves := unsafe.Slice((*uint16)(unsafe.Pointer(&tile[0])), 2*tileFloats)
	halves[i%tileDepth/2*tileDepth+2*(j%16)+i%2] = toBF16(v)
}
