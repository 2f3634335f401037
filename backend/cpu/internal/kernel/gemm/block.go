package gemm

import "github.com/sptune/spt/backend/cpu/internal/workers"

// bBlock is the size in float32s of the block of B that stays in the second
// level cache while strips of A pass by.
const bBlock = 160 << 10

// block computes C[i0:i1, j0:j1] with its epilogue, on one goroutine. j0 is a
// multiple of nr.
func (c *Call) block(kn *kernel, s *workers.Scratch, i0, i1, j0, j1 int) {
	depth, blocks := kBlocks(c.K)
	for b := range blocks {
		c.slab(kn, s, b*depth, min((b+1)*depth, c.K), i0, i1, j0, j1)
	}
}

// slab does rows k0 to k1, one block of K, of block: the first adds Beta·C,
// later ones add to what is there, the last one runs the epilogue.
func (c *Call) slab(kn *kernel, s *workers.Scratch, k0, k1, i0, i1, j0, j1 int) {
	mark := s.Mark()
	defer s.Release(mark)

	depth := k1 - k0
	nc := max(1, bBlock/max(1, depth)/kn.nr) * kn.nr
	strip := s.Float32s(depth * kn.lanes)
	var panels []float32
	if c.Packed == nil {
		panels = s.Float32s(depth * (min(nc, j1-j0) + kn.nr - 1) / kn.nr * kn.nr)
	}
	strips := (i1 - i0 + kn.mr - 1) / kn.mr

	dst, ldd := c.C, c.LDC
	if c.PreAct != nil {
		dst, ldd = c.PreAct, c.LDP
	}
	t := tile{a: at(strip, 0), k: depth, ldb: 4 * kn.nr, ldd: 4 * ldd, alpha: c.Alpha}
	src, lds := dst, ldd
	t.gamma = 1
	if k0 == 0 {
		src, lds, t.gamma = c.C, c.LDC, c.Beta
		if c.Beta == 0 {
			src = nil
		}
	}
	t.lds, t.ldr = 4*lds, 4*c.LDR
	lastBlock := k1 == c.K
	rows := lastBlock && (c.GELU || c.PreAct != nil) // rows are finished after the tiles

	for j2 := j0; j2 < j1; j2 += nc {
		j3 := min(j2+nc, j1)
		if c.Packed != nil {
			panels = c.Packed.data[c.Packed.Index(k0, j2):]
		} else if depth > 0 {
			kn.packPanels(panels, c.B.from(k0, j2), depth, j3-j2)
		}
		for q := range strips {
			// Strips of equal height, or one row more: a last strip of a row
			// or two would run at the latency of the multiply-add.
			i2 := i0 + q*(i1-i0)/strips
			i3 := i0 + (q+1)*(i1-i0)/strips
			t.mr = i3 - i2
			if depth > 0 {
				kn.pack(strip, kn.lanes, c.A.Data[i2*c.A.Row+k0*c.A.Col:], c.A.Row, c.A.Col, t.mr, depth)
			}
			for j := j2; j < j3; j += kn.nr {
				t.n = min(kn.nr, j3-j)
				t.b = at(panels, (j-j2)*depth)
				t.dst = at(dst, i2*ldd+j)
				if src != nil {
					t.src = at(src, i2*lds+j)
				}
				if lastBlock && c.Bias != nil {
					t.bias = at(c.Bias, j)
				}
				if lastBlock && !rows && c.Residual != nil {
					t.residual = at(c.Residual, i2*c.LDR+j)
				}
				kn.run(&t)
			}
			if rows {
				c.finish(i2, i3, j2, j3)
			}
		}
	}
}
