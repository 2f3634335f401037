package cputime

import (
	"fmt"
	"time"

	"golang.org/x/sys/unix"
)

func process() (time.Duration, error) {
	var t unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_PROCESS_CPUTIME_ID, &t); err != nil {
		return 0, fmt.Errorf("reading the processor time of the process: %w", err)
	}
	return time.Duration(t.Nano()), nil
}
