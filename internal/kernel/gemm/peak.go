package gemm

import (
	"sync"
	"time"
)

// PeakGFLOPS measures the peak speed of the multiply-add units in 10⁹ floating-point operations per
// second. The given number of threads runs multiply-adds on registers for about d. PeakGFLOPS
// returns the sum of their speeds. No product can be faster.
func PeakGFLOPS(threads int, d time.Duration) float64 {
	return peak(threads, d, func() int { return active.multiplyAdds(10000) })
}

// PeakBF16GFLOPS does the same as [PeakGFLOPS] for products of bfloat16 numbers. The processor must
// support them, see [SupportsBF16].
func PeakBF16GFLOPS(threads int, d time.Duration) float64 {
	if err := SupportsBF16(); err != nil {
		panic("gemm: measuring the peak of bfloat16: " + err.Error())
	}
	return peak(threads, d, peakBF16)
}

// peak runs f again and again for about d on a number of threads. f returns its number of
// operations.
func peak(threads int, d time.Duration, f func() int) float64 {
	var (
		sum  float64
		lock sync.Mutex
		done sync.WaitGroup
	)
	for range threads {
		done.Go(func() {
			ops, start := 0, time.Now()
			elapsed := time.Duration(0)
			for elapsed < d || ops == 0 {
				ops += f()
				elapsed = time.Since(start)
			}
			lock.Lock()
			sum += float64(ops) / float64(elapsed.Nanoseconds())
			lock.Unlock()
		})
	}
	done.Wait()
	return sum
}
