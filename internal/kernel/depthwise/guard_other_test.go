//go:build !linux

package depthwise

import "testing"

// guarded returns x. Only the Linux version places x at the end of readable memory.
func guarded(_ *testing.T, x []float32) []float32 { return x }
