package vector

import (
	"math/rand/v2"
	"testing"
)

// TestTranspose compares with the definition. The matrices have gaps between their rows, and the
// gaps must not change.
func TestTranspose(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 1))
	eachLevel(func() {
		for range 300 {
			rows, cols := r.IntN(80), r.IntN(80)
			lds, ldd := cols+r.IntN(5), rows+r.IntN(5)
			src, dst := guarded(t, max(0, (rows-1)*lds+cols)), guarded(t, max(0, (cols-1)*ldd+rows))
			for i := range src {
				src[i] = float32(i)
			}
			for i := range dst {
				dst[i] = -1
			}
			Transpose(dst, ldd, src, lds, rows, cols)
			for at, got := range dst {
				want := float32(-1)
				if i, j := at%ldd, at/ldd; i < rows {
					want = src[i*lds+j]
				}
				if got != want {
					t.Fatalf("%s: %dx%d, strides %d and %d: element %d is %g, want %g", levelName(), rows, cols, lds, ldd, at, got, want)
				}
			}
		}
	})
}
