package gemm

import "github.com/sptune/spt/internal/workers"

// Run computes the product with all workers. It does nothing if M or N is 0. It panics if an
// operand does not fit the sizes.
func (c *Call) Run() {
	if c.M <= 0 || c.N <= 0 {
		return
	}
	c.check()
	if c.BF16 {
		g := c.bf16Grid(workers.Count())
		workers.Run(g.rows*g.cols, func(part int, s *workers.Scratch) { c.bf16Part(s, c.bf16Rect(g, part)) })
		return
	}
	kn := active
	if c.flipped(kn) {
		workers.Run(1, func(_ int, s *workers.Scratch) {
			t := c.transposed(s.Float32s(c.N * c.M))
			t.Run()
			c.unflip(t.C)
		})
		return
	}
	g := c.grid(kn, workers.Count())
	workers.Run(g.rows*g.cols, func(part int, s *workers.Scratch) {
		c.part(kn, s, c.rect(kn, g, part))
	})
}

// Serial computes the product on the calling goroutine. It takes temporary memory from s. The
// result has the same bits as the result of [Call.Run].
func (c *Call) Serial(s *workers.Scratch) {
	if c.M <= 0 || c.N <= 0 {
		return
	}
	c.check()
	if c.BF16 {
		g := c.bf16Grid(1)
		for part := range g.rows * g.cols {
			c.bf16Part(s, c.bf16Rect(g, part))
		}
		return
	}
	kn := active
	if c.flipped(kn) {
		mark := s.Mark()
		defer s.Release(mark)
		t := c.transposed(s.Float32s(c.N * c.M))
		t.Serial(s)
		c.unflip(t.C)
		return
	}
	g := c.grid(kn, 1)
	for part := range g.rows * g.cols {
		c.part(kn, s, c.rect(kn, g, part))
	}
}

// Batched computes independent products with all workers. All products have the same shape (M, N
// and K). The argument call is a function that sets *c to product i, for 0 <= i < batch. *c is the
// zero value at first. Several goroutines may run call at the same time, and it may run more than
// once for the same i.
func Batched(batch int, call func(i int, c *Call)) {
	if batch <= 0 {
		return
	}
	n := workers.Count()
	if batch < 4*n {
		// There are too few products to balance the load. Split each product if it has at least
		// 2^24 multiply-adds, which is enough work for all workers, or if workers would be idle.
		c := new(Call)
		call(0, c)
		g := c.grid(active, n)
		if g.rows*g.cols > 1 && (batch < n || c.M*c.N*c.K >= 1<<24) {
			for i := range batch {
				*c = Call{}
				call(i, c)
				c.Run()
			}
			return
		}
	}
	parts := min(batch, 16*n)
	workers.Run(parts, func(part int, s *workers.Scratch) {
		c := new(Call)
		for i := part * batch / parts; i < (part+1)*batch/parts; i++ {
			*c = Call{}
			call(i, c)
			c.Serial(s)
		}
	})
}

// grid is a partition of C into rows·cols parts.
type grid struct{ rows, cols int }

// grid chooses the partition of C for n workers. It may depend on n, because every element of C
// lies in one part and is summed there in the same order.
func (c *Call) grid(kn *kernel, n int) grid {
	strips := (c.M + kn.mr - 1) / kn.mr
	panels := (c.N + kn.nr - 1) / kn.nr
	g := grid{(strips + maxStrips - 1) / maxStrips, (panels + maxPanels - 1) / maxPanels}
	if c.Packed != nil || c.thin() {
		g.cols = 1
	}
	if c.narrow(kn) {
		panels = 1 // every part of a narrow product has all columns
	}
	if n == 1 {
		return g
	}
	// Four parts per worker balance the load. Two parts per worker are better if B is not packed,
	// because several parts pack the same panels. A part should take at least 10 µs, which is 2^18
	// multiply-adds.
	want := 4 * n
	if c.Packed == nil {
		want = 2 * n
	}
	want = min(want, 1+c.M*c.N*max(c.K, 16)>>18)
	if c.thin() {
		g.cols = max(g.cols, min(want, n, panels)) // long rows of B are faster to read
		return g
	}
	for g.rows*g.cols < want {
		switch {
		case g.rows < strips/4 && (c.Packed != nil || c.M/g.rows >= c.N/g.cols):
			g.rows++
		case g.cols < panels:
			g.cols++
		case g.rows < strips:
			g.rows++
		default:
			return g
		}
	}
	if g.rows > n {
		g.rows = min((g.rows+n-1)/n*n, strips) // every worker gets the same number of parts
	}
	return g
}

// The packed data of a part stays in the last-level cache. It is about 2 MiB for each operand.
const (
	// maxStrips is the largest number of strips of a part.
	maxStrips = 32
	// maxPanels is the largest number of panels of a part that packs B.
	maxPanels = 24
)

// rect returns the part of C with the given number in the partition g.
func (c *Call) rect(kn *kernel, g grid, part int) rect {
	strips := (c.M + kn.mr - 1) / kn.mr
	panels := (c.N + kn.nr - 1) / kn.nr
	r, q := part/g.cols, part%g.cols
	return rect{
		r * strips / g.rows * c.M / strips, (r + 1) * strips / g.rows * c.M / strips,
		q * panels / g.cols * kn.nr, min((q+1)*panels/g.cols*kn.nr, c.N),
	}
}
