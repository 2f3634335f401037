//go:build !amd64

package gemm

import (
	"errors"
	"runtime"
)

// SupportsBF16 returns nil if this processor can compute products with BF16, and otherwise an error
// that says what is missing.
func SupportsBF16() error {
	return errors.New("spt uses AVX512-BF16, which processors of the type " + runtime.GOARCH + " do not have")
}

// BF16Kernel returns the name of the kernel of calls with BF16: there is none.
func BF16Kernel() string { return "" }

// SupportsBF16 returns an error, so that no call comes to these functions.

func (*strip) compute()                              { panic(SupportsBF16()) }
func alongA(*float32, int, *float32, int, int, int)  { panic(SupportsBF16()) }
func alongB(*float32, int, *float32, int, int, int)  { panic(SupportsBF16()) }
func acrossA(*float32, int, *float32, int, int, int) { panic(SupportsBF16()) }
func acrossB(*float32, int, *float32, int, int, int) { panic(SupportsBF16()) }
func peakBF16() int                                  { panic(SupportsBF16()) }
