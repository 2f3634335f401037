// Package measure measures the speed of the CPU and of the memory of this machine. Benchmarks
// compare their results with these limits: [PeakGFLOPS] for computation, [GEMM] for a matrix
// product, and [Bandwidth] for memory.
package measure

import (
	"slices"
	"time"

	"github.com/sptune/spt/internal/kernel/gemm"
	"github.com/sptune/spt/internal/kernel/vector"
	"github.com/sptune/spt/internal/workers"
)

// Kernel returns the name of the matrix kernel in use, for example "avx512 14x32"; see
// [gemm.Kernel]. If bf16 is set, it is the kernel for products of bfloat16 numbers.
func Kernel(bf16 bool) string {
	if bf16 {
		return gemm.BF16Kernel()
	}
	return gemm.Kernel()
}

// PeakGFLOPS measures the peak speed of float32 computation on the given number of threads, or of
// products of bfloat16 numbers if bf16 is set. It runs independent multiply-adds in registers for
// about d. The result is in 10⁹ floating-point operations per second.
func PeakGFLOPS(threads int, bf16 bool, d time.Duration) float64 {
	if bf16 {
		return gemm.PeakBF16GFLOPS(threads, d)
	}
	return gemm.PeakGFLOPS(threads, d)
}

// GEMM measures the speed of the float32 matrix product [m,k]·[k,n] on all threads. If bf16 is set,
// the operands are rounded to bfloat16. GEMM packs the right-hand operand once and then repeats the
// product for about d. It returns the median speed in 10⁹ floating-point operations per second.
func GEMM(m, k, n int, bf16 bool, d time.Duration) float64 {
	a, b, c := workers.Aligned(m*k), workers.Aligned(k*n), workers.Aligned(m*n)
	vector.Fill(a, 0.5)
	vector.Fill(b, 0.25)
	call := gemm.Call{M: m, N: n, K: k, A: gemm.View{Data: a, Row: k, Col: 1}, BF16: bf16, C: c, LDC: n, Alpha: 1}
	if view := (gemm.View{Data: b, Row: n, Col: 1}); bf16 {
		call.Packed = gemm.PackBF16(workers.Aligned(gemm.PackedBF16Len(k, n)), view, k, n)
	} else {
		call.Packed = gemm.Pack(workers.Aligned(gemm.PackedLen(k, n)), view, k, n)
	}
	seconds := repeat(d, call.Run)
	return 2 * float64(m) * float64(k) * float64(n) / seconds / 1e9
}

// Bandwidth measures the speed of memory on all threads. It repeats c = a + s·b on arrays of 64 MiB
// for about d. It returns the number of bytes read and written per second, in GB/s (10⁹ bytes per
// second).
func Bandwidth(d time.Duration) float64 {
	const n, parts = 1 << 24, 64
	a, b, c := workers.Aligned(n), workers.Aligned(n), workers.Aligned(n)
	vector.Fill(a, 1)
	vector.Fill(b, 2)
	seconds := repeat(d, func() {
		workers.Run(parts, func(part int, _ *workers.Scratch) {
			lo, hi := part*n/parts, (part+1)*n/parts
			for ; lo < hi; lo += 4096 {
				copy(c[lo:lo+4096], a[lo:lo+4096])
				vector.Axpy(c[lo:lo+4096], b[lo:lo+4096], 3)
			}
		})
	})
	return 3 * 4 * n / seconds / 1e9
}

// repeat calls f once as a warm-up. Then it calls f repeatedly for about d, but at least once. It
// returns the median time of these calls in seconds.
func repeat(d time.Duration, f func()) float64 {
	f()
	var all []float64
	for start := time.Now(); len(all) == 0 || time.Since(start) < d; {
		t := time.Now()
		f()
		all = append(all, time.Since(t).Seconds())
	}
	return Median(all)
}

// Median sorts v in place and returns its median. For an even number of values, the median is the
// mean of the two middle values. v must not be empty.
func Median(v []float64) float64 {
	slices.Sort(v)
	return (v[(len(v)-1)/2] + v[len(v)/2]) / 2
}
