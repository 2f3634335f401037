//go:build !linux

package vector

import (
	"testing"
	"time"
)

var started = time.Now()

// processorTime returns the time that has passed, because the processor time is not known.
func processorTime(*testing.B) time.Duration { return time.Since(started) }
