package gemm

import "unsafe"

// available lists the kernels. The fastest is the last. Every arm64 processor has NEON.
var available = []kernel{portableKernel, {neon, "neon 8x12", 8, 12, 8, 1, false}}

// sumsNEON computes sums[i*12+j] for 8 rows i and 12 columns j. It is the sum over k steps p of
// a[p*8+i]·b[p,j]. The rows b[p] are ldb bytes apart. With add, the sums start at their values.
//
//go:noescape
func sumsNEON(sums *[96]float32, a, b unsafe.Pointer, ldb, k int, add bool)

// writeNEON writes the first rows of a tile of 12 columns. The arguments are as in the type tile.
//
//go:noescape
func writeNEON(dst unsafe.Pointer, ldd int, sums *[96]float32, rows int, src unsafe.Pointer, lds int, residual unsafe.Pointer, ldr int, bias unsafe.Pointer, alpha, gamma float32)

// dotsNEON computes the inner products of a and of 8 columns of k elements, which are ldb bytes
// apart. k is a multiple of 4 and not 0.
//
//go:noescape
func dotsNEON(sums *[8]float32, a, b unsafe.Pointer, ldb, k int)

// copyNEON copies k rows of 8 or 12 elements. The rows of src are stride bytes apart, and dst is
// contiguous. k is not 0.
//
//go:noescape
func copyNEON(dst, src unsafe.Pointer, stride, k, width int)

// transposeNEON transposes four rows of k elements into k rows of four. The strides are in bytes. k
// is a multiple of 4 and not 0.
//
//go:noescape
func transposeNEON(dst unsafe.Pointer, ldd int, src unsafe.Pointer, lds, k int)

// peakNEON runs n rounds of 24 multiply-adds of 4 lanes.
func peakNEON(n int)

func (kn *kernel) run(t *tile) {
	if kn.isa != neon {
		tilePortable(t)
		return
	}
	var sums [96]float32
	for u := t; u != nil; u = u.next {
		sumsNEON(&sums, u.a, u.b, u.ldb, u.k, u != t)
	}
	if t.n == 12 {
		writeNEON(t.dst, t.ldd, &sums, t.mr, t.src, t.lds, t.residual, t.ldr, t.bias, t.alpha, t.gamma)
		return
	}
	for i := range t.mr {
		t.writeBack(i, sums[12*i:][:t.n])
	}
}

func (kn *kernel) dots(t *tile) {
	whole := t.k &^ 3
	if kn.isa != neon || whole == 0 {
		dotsPortable(t)
		return
	}
	var sums [8]float32
	dotsNEON(&sums, t.a, t.b, t.ldb, whole)
	for p := whole; p < t.k; p++ {
		x := *(*float32)(unsafe.Add(t.a, 4*p))
		for j := range t.n {
			sums[j] += x * *(*float32)(unsafe.Add(t.b, j*t.ldb+4*p))
		}
	}
	t.writeBack(0, sums[:t.n])
}

func (kn *kernel) pack(dst []float32, width int, src []float32, sl, sk, n, k int) {
	if kn.isa != neon || n <= 0 || k <= 0 {
		packPortable(dst, width, src, sl, sk, n, k)
		return
	}
	_, _ = dst[(k-1)*width+n-1], src[(n-1)*sl+(k-1)*sk]
	switch {
	case sl == 1 && n == width && (width == 8 || width == 12):
		copyNEON(at(dst, 0), at(src, 0), 4*sk, k, width)
	case sl == 1:
		for p := range k {
			copy(dst[p*width:][:n], src[p*sk:][:n])
		}
	case sk == 1 && n >= 4 && k >= 4:
		lanes, steps := n&^3, k&^3
		for l := 0; l < lanes; l += 4 {
			transposeNEON(at(dst, l), 4*width, at(src, l*sl), 4*sl, steps)
		}
		if steps < k {
			packPortable(dst[steps*width:], width, src[steps:], sl, sk, lanes, k-steps)
		}
		if lanes < n {
			packPortable(dst[lanes:], width, src[lanes*sl:], sl, sk, n-lanes, k)
		}
	default:
		packPortable(dst, width, src, sl, sk, n, k)
	}
}

func (kn *kernel) multiplyAdds(n int) int {
	if kn.isa != neon {
		return peakPortable(n)
	}
	peakNEON(n)
	return 2 * n * kn.mr * kn.nr
}
