package gemm

import "github.com/sptune/spt/internal/workers"

// narrowCols is the largest number of columns of a narrow product. Examples are a product with the
// A matrix of LoRA and a head with few classes. Packing the left-hand operand would take longer
// than the multiplications, so it is read in place.
const narrowCols = 16

// narrow reports whether the product is computed as inner products of rows of A and columns of B.
// The rows of A are read in place.
func (c *Call) narrow(kn *kernel) bool {
	return c.N <= narrowCols && c.Packed == nil && c.A.Col == 1 && c.K >= 2*kn.lanes
}

// dots computes a part of a narrow product. An inner product is summed in as many lanes as a
// register has. The lanes are added at the end.
func (c *Call) dots(kn *kernel, s *workers.Scratch, r rect) {
	const group = 8 // columns
	ldb := (c.K + kn.lanes - 1) / kn.lanes * kn.lanes
	b := s.Float32s(ldb * ((c.N + group - 1) / group * group))
	kn.pack(b, ldb, c.B.Data, c.B.Row, c.B.Col, c.K, c.N)
	o := c.output(0, c.K)
	t := tile{k: c.K, lda: 4 * c.A.Row, ldb: 4 * ldb, alpha: c.Alpha}
	for i := r.i0; i < r.i1; i += t.mr {
		t.mr = 1
		if r.i1-i >= kn.dotRows {
			t.mr = kn.dotRows
		}
		t.a = at(c.A.Data, i*c.A.Row)
		for j := 0; j < c.N; j += group {
			t.n = min(group, c.N-j)
			t.b = at(b, j*ldb)
			o.place(&t, i, j)
			kn.dots(&t)
		}
		if o.finish {
			c.finish(i, i+t.mr, 0, c.N)
		}
	}
}

// flipped reports whether to compute the transposed product Cᵀ = Bᵀ·Aᵀ, because that product is
// narrow or thin.
func (c *Call) flipped(kn *kernel) bool {
	if c.Packed != nil || c.narrow(kn) {
		return false
	}
	t := c.transposed(nil)
	return t.narrow(kn) || t.thin()
}

// transposed returns the call that computes Alpha·Bᵀ·Aᵀ in dst, [N,M], without the epilogue.
func (c *Call) transposed(dst []float32) Call {
	return Call{M: c.N, N: c.M, K: c.K, A: c.B.T(), B: c.A.T(), C: dst, LDC: c.M, Alpha: c.Alpha}
}

// unflip transposes the result of [Call.transposed], [N,M], into C and runs the epilogue.
func (c *Call) unflip(product []float32) {
	dst, ldd := c.C, c.LDC
	if c.PreAct != nil {
		dst, ldd = c.PreAct, c.LDP
	}
	rows := c.GELU || c.PreAct != nil
	for i := range c.M {
		for j := range c.N {
			v := product[j*c.M+i]
			if c.Beta != 0 {
				v += c.Beta * c.C[i*c.LDC+j]
			}
			if c.Bias != nil {
				v += c.Bias[j]
			}
			if !rows && c.Residual != nil {
				v += c.Residual[i*c.LDR+j]
			}
			dst[i*ldd+j] = v
		}
	}
	if rows {
		c.finish(0, c.M, 0, c.N)
	}
}
