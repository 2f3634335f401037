package gemm

import (
	"sync"
	"time"
)

// PeakGFLOPS measures what the multiply-add units of threads processors reach
// together, in 10^9 floating-point operations a second, over about d: the
// ceiling for every product. The multiply-adds stay in registers.
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
