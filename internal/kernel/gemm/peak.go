package gemm

import (
	"sync"
	"time"
)

// PeakGFLOPS measures the multiply-add units of the given number of processors together for about
// d. It returns 10^9 floating-point operations per second, the limit for every product. The
// multiply-adds use registers only.
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
