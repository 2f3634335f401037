package gemm

import "github.com/sptune/spt/backend/cpu/internal/workers"

// Run computes the product with all workers.
func (c *Call) Run() {
	if c.M <= 0 || c.N <= 0 {
		return
	}
	c.check()
	kn := active
	g := c.grid(kn, workers.Count())
	workers.Run(g.rows*g.cols, func(part int, s *workers.Scratch) {
		c.part(kn, s, g, part)
	})
}

// Serial computes the product on the calling goroutine, with memory of s. The
// result has the bits of Run's.
func (c *Call) Serial(s *workers.Scratch) {
	if c.M <= 0 || c.N <= 0 {
		return
	}
	c.check()
	c.block(active, s, 0, c.M, 0, c.N)
}

// Batched computes independent products of one shape (M, N and K) with all
// workers. call fills in product i; c is zero when it is called, and call may
// be called several times for one i, from several goroutines.
func Batched(batch int, call func(i int, c *Call)) {
	if batch <= 0 {
		return
	}
	kn := active
	first := new(Call)
	call(0, first)
	if first.M <= 0 || first.N <= 0 {
		return
	}
	// With some products for each worker, whole products balance the load.
	n := workers.Count()
	g := grid{1, 1}
	if batch < 4*n {
		g = first.grid(kn, n)
	}
	split := g.rows * g.cols
	total := batch * split
	parts := min(total, 16*n)
	workers.Run(parts, func(part int, s *workers.Scratch) {
		c := new(Call)
		for q := part * total / parts; q < (part+1)*total/parts; q++ {
			*c = Call{}
			call(q/split, c)
			c.check()
			c.part(kn, s, g, q%split)
		}
	})
}

// grid is a partition of C into rows × cols parts.
type grid struct{ rows, cols int }

// grid chooses the partition of C for n workers. It may depend on n since no
// element of C is split.
func (c *Call) grid(kn *kernel, n int) grid {
	if n == 1 {
		return grid{1, 1}
	}
	// A part should be worth 10 µs: 2^18 multiply-adds.
	want := min(4*n, 1+c.M*c.N*max(c.K, 16)>>18)
	strips := (c.M + kn.mr - 1) / kn.mr
	panels := (c.N + kn.nr - 1) / kn.nr
	rows := min(want, (strips+3)/4)
	cols := min((want+rows-1)/rows, panels)
	return grid{rows, cols}
}

// part computes one part of the partition.
func (c *Call) part(kn *kernel, s *workers.Scratch, g grid, part int) {
	strips := (c.M + kn.mr - 1) / kn.mr
	panels := (c.N + kn.nr - 1) / kn.nr
	r, q := part/g.cols, part%g.cols
	c.block(kn, s,
		r*strips/g.rows*c.M/strips, (r+1)*strips/g.rows*c.M/strips,
		q*panels/g.cols*kn.nr, min((q+1)*panels/g.cols*kn.nr, c.N))
}
