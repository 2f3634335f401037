//go:build !race

package cpu

import (
	"runtime"
	"testing"
)

// TestSteadyAllocation checks that a training step with donated state allocates almost no memory
// after warm-up.
func TestSteadyAllocation(t *testing.T) {
	n := stateful.steady(t, 10, func() int64 {
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return int64(m.TotalAlloc)
	})
	t.Logf("%d bytes for each run", n)
	// The limit allows several hundred bytes for each step. The tensors take about 10 MB.
	if n > 128<<10 {
		t.Errorf("each run allocates %d bytes on the Go heap, expected at most %d", n, 128<<10)
	}
}
