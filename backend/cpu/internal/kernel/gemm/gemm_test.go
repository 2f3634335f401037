package gemm

import (
	"math"
	"math/rand/v2"
	"testing"

	"github.com/sptune/spt/backend/cpu/internal/workers"
)

func random(r *rand.Rand, n int) []float32 {
	x := make([]float32, n)
	for i := range x {
		x[i] = float32(r.NormFloat64())
	}
	return x
}

func TestSmoke(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for _, kn := range available {
		active = &kn
		for _, d := range [][3]int{{1, 1, 1}, {13, 33, 7}, {197, 197, 64}, {197, 64, 197}, {100, 192, 800}, {8, 768, 1576}} {
			m, n, k := d[0], d[1], d[2]
			for tr := range 4 {
				a := View{random(r, m*k), k, 1}
				if tr&1 != 0 {
					a = View{a.Data, 1, m}
				}
				b := View{random(r, n*k), n, 1}
				if tr&2 != 0 {
					b = View{b.Data, 1, k}
				}
				c := Call{M: m, N: n, K: k, A: a, B: b, C: make([]float32, m*n), LDC: n, Alpha: 1}
				c.Run()
				c2 := c
				c2.Packed = Pack(workers.Aligned(PackedLen(k, n)), b, k, n)
				c2.C = make([]float32, m*n)
				c2.Serial(new(workers.Scratch))
				for i := range m {
					for j := range n {
						var want float64
						for p := range k {
							want += float64(a.Data[i*a.Row+p*a.Col]) * float64(b.Data[p*b.Row+j*b.Col])
						}
						if got := c.C[i*n+j]; math.Abs(float64(got)-want) > 1e-5*math.Sqrt(float64(k))*4 {
							t.Fatalf("%s %v tr %d (%d,%d): %g, want %g", kn.name, d, tr, i, j, got, want)
						}
						if c2.C[i*n+j] != c.C[i*n+j] {
							t.Fatalf("%s %v tr %d: packed differs", kn.name, d, tr)
						}
					}
				}
			}
		}
	}
}
