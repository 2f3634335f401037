package gemm

import "golang.org/x/sys/cpu"

// available lists the kernels that this processor can run. The fastest is the last.
var available = detect()

func detect() []kernel {
	k := []kernel{portableKernel}
	x := &cpu.X86
	if x.HasAVX2 && x.HasFMA {
		k = append(k, kernel{avx2, "avx2 6x16", 6, 16, 8, 1, true})
	}
	if x.HasAVX512F && x.HasAVX512VL && x.HasBMI2 {
		k = append(k, kernel{avx512, "avx512 14x32", 14, 32, 16, 3, true})
	}
	return k
}

func (kn *kernel) run(t *tile) {
	switch kn.isa {
	case avx512:
		tileAVX512(t)
	case avx2:
		tileAVX2(t)
	default:
		tilePortable(t)
	}
}

// pack sets dst[p*width+l] = src[l*sl+p*sk] for n lanes l and k steps p. n is at most width, and k
// is at least 1. The assembly writes complete registers, with zeros after the n lanes.
func (kn *kernel) pack(dst []float32, width int, src []float32, sl, sk, n, k int) {
	if kn.isa == portable || sl != 1 && sk != 1 {
		packPortable(dst, width, src, sl, sk, n, k)
		return
	}
	_ = dst[(k-1)*width+n-1]
	for l := 0; l < n; l += kn.lanes {
		d, s, m := &dst[l], &src[l*sl], min(kn.lanes, n-l)
		switch {
		case kn.isa == avx512 && sl == 1:
			copyAVX512(d, 4*width, s, 4*sk, m, k)
		case kn.isa == avx512:
			transposeAVX512(d, 4*width, s, 4*sl, m, k)
		case sl == 1:
			copyAVX2(d, 4*width, s, 4*sk, m, k)
		default:
			transposeAVX2(d, 4*width, s, 4*sl, m, k)
		}
	}
}

// dots computes a tile of up to 8 columns and 1 or dotRows rows. It reads rows of A in place. t.b
// holds 8 columns of B, ldb bytes apart. The columns are padded with zeros to complete registers.
func (kn *kernel) dots(t *tile) {
	switch kn.isa {
	case avx512:
		dotsAVX512(t)
	case avx2:
		dotsAVX2(t)
	default:
		dotsPortable(t)
	}
}

// multiplyAdds runs n rounds of independent multiply-adds. It returns the number of floating-point
// operations.
func (kn *kernel) multiplyAdds(n int) int {
	switch kn.isa {
	case avx512:
		peakAVX512(n)
	case avx2:
		peakAVX2(n)
	default:
		return peakPortable(n)
	}
	return 2 * n * kn.mr * kn.nr
}
