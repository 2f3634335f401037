//go:build !race

package cpu

import (
	"syscall"
	"testing"
)

// TestSteadyFaults checks that a training step after warm-up causes almost no page faults, because
// it uses no new memory.
func TestSteadyFaults(t *testing.T) {
	n := stateful.steady(t, 10, func() int64 {
		var u syscall.Rusage
		if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
			t.Fatal(err)
		}
		return u.Minflt
	})
	t.Logf("%d page faults for each run", n)
	if n > 32 { // 128 KiB of some 10 MB
		t.Errorf("each run takes %d page faults, expected at most 32", n)
	}
}
