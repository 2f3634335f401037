//go:build !race

package cpu

import (
	"runtime"
	"testing"
)

// TestSteadyAllocation: a training step whose state is donated allocates next to nothing once it
// has warmed up.
func TestSteadyAllocation(t *testing.T) {
	n := stateful.steady(t, 10, func() int64 {
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return int64(m.TotalAlloc)
	})
	t.Logf("%d bytes for each run", n)
	// Some hundred bytes for each of its steps, against some 10 MB of tensors.
	if n > 128<<10 {
		t.Errorf("each run allocates %d bytes on the Go heap, expected at most %d", n, 128<<10)
	}
}
