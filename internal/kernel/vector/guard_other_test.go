//go:build !linux

package vector

import "testing"

// guarded returns n numbers. Only the Linux version places them at the end of readable memory.
func guarded(_ testing.TB, n int) []float32 { return make([]float32, n) }
