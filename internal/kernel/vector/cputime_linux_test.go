package vector

import (
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// processorTime returns the processor time that the process has used. Unlike the time that has
// passed, it hardly depends on other programs.
func processorTime(b *testing.B) time.Duration {
	b.Helper()
	var t unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_PROCESS_CPUTIME_ID, &t); err != nil {
		b.Fatal(err)
	}
	return time.Duration(t.Nano())
}
