package vector

import (
	"encoding/binary"
	"hash/fnv"
	"math"
	"math/rand/v2"
	"slices"
	"testing"
)

// assemblyBits is the XOR of the hashes of the results in TestBits.
const assemblyBits = 0xf04108d78b411a1

// TestBits checks that all assembly versions give the same bits, also on another architecture. It
// compares hashes of the results with a hash in this file. The inputs are whole numbers divided by
// powers of 2, so they are the same on all machines.
func TestBits(t *testing.T) {
	const n = 1237
	r := rand.New(rand.NewPCG(9, 9))
	numbers := func(n int) []float32 {
		x := make([]float32, n)
		for i := range x {
			x[i] = float32(r.IntN(1<<20)-1<<19) * 0x1p-16
		}
		return x
	}
	x, y, m := numbers(n), numbers(n), mixedMask(n, r)
	const rows, cols = 7, 173
	mask := numbers(cols)
	eachLevel(func() {
		if level == portable {
			return
		}
		var all uint64
		add := func(name string, results ...float32) {
			h := fnv.New64()
			h.Write([]byte(name))
			var b [4]byte
			for _, v := range results {
				if v != v {
					v = nan
				}
				binary.LittleEndian.PutUint32(b[:], math.Float32bits(v))
				h.Write(b[:])
			}
			t.Logf("%s: %s %016x", levelName(), name, h.Sum64())
			all ^= h.Sum64()
		}
		dst := make([]float32, n)
		for _, op := range operations() {
			op.run(dst, x, y, m, 1.25, 2.5)
			add(op.name, dst...)
		}
		for _, n := range []int{192, 768, 3, 250, n} {
			add("Sum", Sum(x[:n]), Dot(x[:n], y), sumCentered2(x[:n], 0.25), centeredDot(x[:n], y, 0.25), MaxOf(x[:n]), MinOf(x[:n]))
			mean, rstd := LayerNormRow(dst[:n], x, y, x, 1e-6)
			add("LayerNormRow", append(dst[:n:n], mean, rstd)...)
			LayerNormGradRow(dst[:n], y, x, mean, rstd)
			add("LayerNormGradRow", dst[:n]...)
			add("SoftmaxRow", append(dst[:n:n], SoftmaxRow(dst[:n], x, 0.5))...)
		}
		AddRows(dst[:100], x, 12, 100, 103)
		add("AddRows", dst[:100]...)
		p, dp, lse := slices.Clone(x[:rows*cols]), slices.Clone(y[:rows*cols]), make([]float32, rows)
		SoftmaxRows(p, lse, cols, cols, 0.5, Addend{mask, 0}, Addend{})
		add("SoftmaxRows", append(p, lse...)...)
		p = slices.Clone(x[:rows*cols])
		SoftmaxGradRows(p, dp, lse, y, cols, cols, 0.5, Addend{mask, 0}, Addend{})
		add("SoftmaxGradRows", append(p, dp...)...)
		if all != assemblyBits {
			t.Errorf("%s: the results have the hash %#x, want %#x; run the test with -v on another machine and compare the hashes", levelName(), all, uint64(assemblyBits))
		}
	})
}
