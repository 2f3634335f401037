// Package cputime tells benchmarks the processor time of their process.
package cputime

import (
	"testing"
	"time"
)

// Used returns the processor time that the process has used. Unlike the time that has passed, it
// hardly depends on other programs. Systems other than Linux do not tell it, so there Used returns
// the time that has passed.
func Used(b *testing.B) time.Duration {
	b.Helper()
	return used(b)
}
