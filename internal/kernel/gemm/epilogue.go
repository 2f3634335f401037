package gemm

import "github.com/sptune/spt/internal/kernel/vector"

// finish applies the activation and the residual to C[i0:i1, j0:j1]. It reads the biased sums from
// PreAct, or from C if PreAct is nil.
func (c *Call) finish(i0, i1, j0, j1 int) {
	for i := i0; i < i1; i++ {
		y := c.C[i*c.LDC+j0 : i*c.LDC+j1]
		x := y
		if c.PreAct != nil {
			x = c.PreAct[i*c.LDP+j0 : i*c.LDP+j1]
		}
		if c.GELU {
			vector.GELU(y, x)
		} else {
			copy(y, x)
		}
		if c.Residual != nil {
			vector.Add(y, y, c.Residual[i*c.LDR+j0:i*c.LDR+j1])
		}
	}
}
