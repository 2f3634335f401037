//go:build !amd64

package gemm

import (
	"errors"
	"runtime"
)

// SupportsBF16 returns nil if this processor can compute products with BF16, and otherwise an error
// that says what is missing.
func SupportsBF16() error {
	return errors.New("spt uses AMX-BF16, which processors of the type " + runtime.GOARCH + " do not have")
}

// SupportsBF16 returns an error, so that no call comes to these functions.

func stripAMX(*strip)                                { panic(SupportsBF16()) }
func alongA(*float32, int, *float32, int, int, int)  { panic(SupportsBF16()) }
func alongB(*float32, int, *float32, int, int, int)  { panic(SupportsBF16()) }
func acrossA(*float32, int, *float32, int, int, int) { panic(SupportsBF16()) }
func acrossB(*float32, int, *float32, int, int, int) { panic(SupportsBF16()) }
func peakAMX(int)                                    { panic(SupportsBF16()) }
