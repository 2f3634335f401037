package cpu

import (
	"math/rand/v2"
	"testing"
)

// TestCopyStrided checks copies with every order of five axes, for elements of 4 and 8 bytes,
// against a copy of single elements.
func TestCopyStrided(t *testing.T) {
	r := rand.New(rand.NewPCG(8, 0))
	for range 500 {
		dims := []int{1 + r.IntN(3), 1 + r.IntN(9), 1 + r.IntN(2), 1 + r.IntN(4), 1 + r.IntN(40)}
		from := rowMajor(dims)
		perm := r.Perm(len(dims))
		from = from.transposed(perm)
		to := rowMajor(from.dims)
		size := 4 + 4*r.IntN(2)
		src, dst := make([]byte, to.size()*size), make([]byte, to.size()*size)
		for i := range src {
			src[i] = byte(r.Uint32())
		}
		copyStrided(dst, to, src, from, size)
		for i := range to.size() {
			if got, want := dst[i*size:][:size], src[from.at(i)*size:][:size]; string(got) != string(want) {
				t.Fatalf("%v by %v: element %d is %v, expected %v", dims, perm, i, got, want)
			}
		}
	}
}
