package gemm

import (
	"unsafe"

	"github.com/sptune/spt/internal/workers"
)

const (
	// bBlock is the size in float32s of a block of B. The block stays in the second-level cache
	// while it is multiplied by strips of A.
	bBlock = 160 << 10

	// fetchAhead is the distance in bytes at which a packed panel is prefetched.
	fetchAhead = 1 << 10

	cacheLine = 64 // bytes

	// thinRows is the largest number of rows of a thin product. A thin product reads B in place,
	// because only one strip needs each element of B.
	thinRows = 8
	// thinDepth is the depth of a block of K of a thin product. It is also the number of rows of B
	// that are read at the same time.
	thinDepth = 32
)

// thin reports whether reading B in place is faster than packing it.
func (c *Call) thin() bool {
	return c.M <= thinRows && c.Packed == nil && c.B.Col == 1 && c.N > narrowCols
}

// aliasing is a row stride in bytes. If the row stride of A is a multiple of it, the rows of a
// strip share so few sets of the first-level cache that they evict each other. With cache ways of 4
// KiB they share two sets.
const aliasing = 2 << 10

// inPlace reports whether the kernel reads the left-hand operand in place instead of from packed
// strips. Packing takes about as long as a multiplication by a dozen columns.
func (kn *kernel) inPlace(a View) bool {
	return kn.strided && (a.Row == 1 || a.Col == 1 && 4*a.Row%aliasing != 0)
}

// rect is a part of C: the rows i0 to i1-1 and the columns j0 to j1-1. j0 is a multiple of nr.
type rect struct{ i0, i1, j0, j1 int }

// strips returns the number of strips of r. The heights of the strips differ by one row at most. A
// last strip of one or two rows would be slow, because it would wait for the latency of the
// multiply-add.
func (r rect) strips(kn *kernel) int { return (r.i1 - r.i0 + kn.mr - 1) / kn.mr }

// row returns the first row of a strip. strips is the number of strips.
func (r rect) row(strip, strips int) int { return r.i0 + strip*(r.i1-r.i0)/strips }

// part computes one part of C with its epilogue, on one goroutine.
func (c *Call) part(kn *kernel, s *workers.Scratch, r rect) {
	mark := s.Mark()
	defer s.Release(mark)
	if c.narrow(kn) {
		c.dots(kn, s, r)
		return
	}
	depth, blocks := kBlocks(c.K, kMax)
	if c.thin() {
		depth, blocks = kBlocks(c.K, thinDepth)
	}
	var terms [MaxTerms]addend
	for i := range c.Terms {
		terms[i] = c.addend(kn, s, &c.Terms[i], r)
	}
	var a, b []float32
	if !kn.inPlace(c.A) {
		a = s.Float32s(r.strips(kn) * depth * kn.lanes)
	}
	switch {
	case c.Packed != nil:
	case c.thin():
		b = s.Float32s(depth * kn.nr)
	default:
		b = s.Float32s(depth * ((r.j1 - r.j0 + kn.nr - 1) / kn.nr * kn.nr))
	}
	for q := range blocks {
		var last []addend
		if q == blocks-1 {
			last = terms[:len(c.Terms)]
		}
		c.slab(kn, q*depth, min((q+1)*depth, c.K), r, a, b, last)
	}
}

// slab adds the product of one block of K to a part of C. The block has the rows k0 to k1-1 of B.
// It packs strips of A into a, unless A is read in place. It packs panels of B into b, unless B is
// packed or the product is thin. The tiles also add the products of terms.
func (c *Call) slab(kn *kernel, k0, k1 int, r rect, a, b []float32, terms []addend) {
	depth := k1 - k0
	strips := r.strips(kn)
	row := func(strip int) int { return r.row(strip, strips) }
	thin := c.thin()
	inPlace := kn.inPlace(c.A) && depth > 0
	if depth > 0 {
		if !inPlace {
			kn.packStrips(a, c.A.from(0, k0), depth, r)
		}
		switch {
		case c.Packed != nil:
			b = c.Packed.data[c.Packed.Index(k0, r.j0):]
		case thin:
			if edge := r.j1 % kn.nr; edge != 0 {
				kn.packPanels(b, c.B.from(k0, r.j1-edge), depth, edge)
			}
		default:
			kn.packPanels(b, c.B.from(k0, r.j0), depth, r.j1-r.j0)
		}
	}
	o := c.output(k0, k1)
	t := tile{k: depth, lda: 4, step: 4 * kn.lanes, ldb: 4 * kn.nr, ahead: fetchAhead, alpha: c.Alpha}
	if inPlace {
		t.lda, t.step = 4*c.A.Row, 4*c.A.Col
	}
	if thin {
		t.ahead = 4 * c.B.Row * depth
	}
	var more [MaxTerms]tile
	for i := range terms {
		more[i] = tile{k: terms[i].k, lda: terms[i].lda, step: terms[i].step, ldb: 4 * kn.nr}
		if i == 0 {
			t.next = &more[0]
		} else {
			more[i-1].next = &more[i]
		}
	}
	stripAt := func(strip int) unsafe.Pointer {
		if inPlace {
			return at(c.A.Data, row(strip)*c.A.Row+k0*c.A.Col)
		}
		return at(a, strip*depth*kn.lanes)
	}
	along := inPlace && c.A.Col == 1
	nc := max(1, bBlock/max(1, depth)/kn.nr) * kn.nr
	for j2 := r.j0; j2 < r.j1; j2 += nc {
		j3 := min(j2+nc, r.j1)
		for strip := range strips {
			i, i3 := row(strip), row(strip+1)
			t.mr = i3 - i
			t.a = stripAt(strip)
			for q := range terms {
				more[q].a = terms[q].strip(strip, i)
				more[q].fetch = uintptr(more[q].a)
			}
			for j := j2; j < j3; j += kn.nr {
				t.n = min(kn.nr, j3-j)
				t.fetch, t.fetchStep = uintptr(t.a), 0 // nothing to prefetch
				if strip+1 < strips {
					t.fetchStrip(stripAt(strip+1), (j-j2)/kn.nr, along)
				}
				switch {
				case !thin:
					t.b = at(b, (j-r.j0)*depth)
				case t.n == kn.nr && depth > 0:
					t.b, t.ldb = at(c.B.Data, k0*c.B.Row+j), 4*c.B.Row
				default:
					t.b, t.ldb = at(b, 0), 4*kn.nr
				}
				o.place(&t, i, j)
				for q := range terms {
					more[q].b = at(terms[q].panels, (j-r.j0)*more[q].k)
					more[q].dst, more[q].ldd, more[q].last = t.dst, t.ldd, t.last
				}
				kn.run(&t)
			}
			if o.finish {
				c.finish(i, i3, j2, j3)
			}
		}
	}
}

// fetchStrip sets the part of the next strip that this tile prefetches, one cache line per step.
// Without the prefetch, the first tile of the next strip would wait for every line. If along is
// set, the rows of the strip are contiguous, and the tiles of several panels share the prefetch.
// Such a strip is not prefetched if less than a quarter of its memory range belongs to it. In other
// strips, one line holds all elements of a step.
func (t *tile) fetchStrip(next unsafe.Pointer, panel int, along bool) {
	switch {
	case along && t.lda <= 4*4*t.k && panel*t.k*cacheLine < t.mr*t.lda:
		t.fetch, t.fetchStep = uintptr(next)+uintptr(panel*t.k*cacheLine), cacheLine
	case !along && panel == 0:
		t.fetch, t.fetchStep = uintptr(next), t.step
	}
}

// addend holds the operands of a term for one part of C.
type addend struct {
	k         int
	a         View      // the left-hand operand, if it is read in place
	strips    []float32 // packed strips of A; nil: A is read in place
	lda, step int       // strides of a or of the strips, in bytes
	panels    []float32 // packed panels of B, starting at the first column of the part
}

// addend packs the operands of a term that the kernel cannot read in place.
func (c *Call) addend(kn *kernel, s *workers.Scratch, t *Term, r rect) addend {
	d := addend{k: t.K, a: t.A, lda: 4 * t.A.Row, step: 4 * t.A.Col}
	if !kn.inPlace(t.A) {
		d.strips = s.Float32s(r.strips(kn) * t.K * kn.lanes)
		kn.packStrips(d.strips, t.A, t.K, r)
		d.lda, d.step = 4, 4*kn.lanes
	}
	if t.Packed != nil {
		d.panels = t.Packed.data[t.Packed.Index(0, r.j0):]
		return d
	}
	d.panels = s.Float32s(t.K * ((r.j1 - r.j0 + kn.nr - 1) / kn.nr * kn.nr))
	kn.packPanels(d.panels, t.B.from(0, r.j0), t.K, r.j1-r.j0)
	return d
}

// strip returns the address of a strip of A. row is its first row.
func (d *addend) strip(strip, row int) unsafe.Pointer {
	if d.strips != nil {
		return at(d.strips, strip*d.k*d.step/4)
	}
	return at(d.a.Data, row*d.a.Row)
}

// packStrips packs the rows of the part and the first depth columns of a into strips.
func (kn *kernel) packStrips(dst []float32, a View, depth int, r rect) {
	chunk := depth
	if a.Col != 1 {
		chunk = 8 // memory is read along the columns of a, as in packPanels
	}
	strips := r.strips(kn)
	for p := 0; p < depth; p += chunk {
		for strip := range strips {
			i := r.row(strip, strips)
			kn.pack(dst[(strip*depth+p)*kn.lanes:], kn.lanes, a.Data[i*a.Row+p*a.Col:],
				a.Row, a.Col, r.row(strip+1, strips)-i, min(chunk, depth-p))
		}
	}
}

// output says where the sums of one block of K go.
type output struct {
	dst, src       []float32 // gamma·src is added; nil: nothing is added
	ldd, lds       int
	gamma          float32
	bias, residual []float32
	ldr            int
	finish         bool // Call.finish applies the rest of the epilogue
}

// output returns the operands with which the block k0 to k1 is written. The first block adds
// Beta·C. Every later block adds the sum of the blocks before it. The last block also starts the
// epilogue.
func (c *Call) output(k0, k1 int) output {
	o := output{dst: c.C, ldd: c.LDC, gamma: 1}
	if c.PreAct != nil {
		o.dst, o.ldd = c.PreAct, c.LDP
	}
	o.src, o.lds = o.dst, o.ldd
	if k0 == 0 {
		o.src, o.lds, o.gamma = c.C, c.LDC, c.Beta
		if c.Beta == 0 {
			o.src = nil
		}
	}
	if k1 == c.K {
		o.bias = c.Bias
		o.finish = c.GELU || c.PreAct != nil
		if !o.finish {
			o.residual, o.ldr = c.Residual, c.LDR
		}
	}
	return o
}

// place sets the addresses of a tile that starts at element (i,j) of the output.
func (o *output) place(t *tile, i, j int) {
	t.gamma = o.gamma
	t.ldd, t.lds, t.ldr = 4*o.ldd, 4*o.lds, 4*o.ldr
	t.dst = at(o.dst, i*o.ldd+j)
	t.last = uintptr(t.dst) + uintptr(t.ldd*(t.mr-1))
	if o.src != nil {
		t.src = at(o.src, i*o.lds+j)
	}
	if o.bias != nil {
		t.bias = at(o.bias, j)
	}
	if o.residual != nil {
		t.residual = at(o.residual, i*o.ldr+j)
	}
}
