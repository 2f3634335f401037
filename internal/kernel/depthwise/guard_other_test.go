//go:build !linux

package depthwise

import "testing"

func guarded(_ *testing.T, x []float32) []float32 { return x }
