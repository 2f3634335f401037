package gemm

import (
	"sync"
	"time"
)

// PeakGFLOPS measures the peak speed of the multiply-add units in 10⁹ floating-point operations per
// second. The given number of threads runs multiply-adds on registers for about d. PeakGFLOPS
// returns the sum of their speeds. No product can be faster.
func PeakGFLOPS(threads int, d time.Duration) float64 {
	kn := active
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
				ops += kn.multiplyAdds(10000)
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
