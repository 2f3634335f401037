package gemm

import "unsafe"

// available lists the kernels. The fastest is the last. Every arm64 processor has NEON.
var available = []kernel{portableKernel, {neon, "neon 8x12", 8, 12, 8, 1, false}}

// sumsNEON computes sums[i*12+j] for 8 rows i and 12 columns j. It is the sum over k steps p of
// a[p*8+i]·b[p,j]. The rows b[p] are ldb bytes apart.
//
//go:noescape
func sumsNEON(sums *[96]float32, a, b unsafe.Pointer, ldb, k int)

// peakNEON runs n rounds of 24 multiply-adds of 4 lanes.
func peakNEON(n int)

func (kn *kernel) run(t *tile) {
	if kn.isa != neon {
		tilePortable(t)
		return
	}
	var sums, more [96]float32
	sumsNEON(&sums, t.a, t.b, t.ldb, t.k)
	for u := t.next; u != nil; u = u.next {
		sumsNEON(&more, u.a, u.b, u.ldb, u.k)
		for i, v := range more {
			sums[i] += v
		}
	}
	for i := range t.mr {
		t.writeBack(i, sums[12*i:][:t.n])
	}
}

func (*kernel) dots(t *tile) { dotsPortable(t) }

func (*kernel) pack(dst []float32, width int, src []float32, sl, sk, n, k int) {
	packPortable(dst, width, src, sl, sk, n, k)
}

func (kn *kernel) multiplyAdds(n int) int {
	if kn.isa != neon {
		return peakPortable(n)
	}
	peakNEON(n)
	return 2 * n * kn.mr * kn.nr
}
