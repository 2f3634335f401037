// Package vector computes on slices of float32 numbers for the CPU backend. It has these groups of
// functions:
//
//   - element-wise functions, such as [Add], [Exp] and [GELU], and conversions, such as
//     [FromFloat16] (stubs.go)
//   - reductions, such as [Sum] and [Dot] (reduce.go)
//   - [SoftmaxRow], [SoftmaxRows] and [LayerNormRow], and the gradients [SoftmaxGradRows] and
//     [LayerNormGradRow] (softmax.go, attention.go, layernorm.go)
//   - random bits and dropout: [Philox] and [Dropout] (philox.go, dropout.go)
//   - [Transpose] (transpose.go)
//
// Each function has a version for AVX-512, a version for AVX2 with FMA, and a portable version in
// Go. Functions of float32 numbers also have a version for NEON, the vectors of arm64; comparisons,
// selections by a mask, and conversions from 8 and 16 bits do not. The program chooses
// the version when it starts, from the features of the processor.
//
// The element-wise functions are generated. Package scalar holds one table for each kind:
// [scalar.Unaries], [scalar.Binaries] and [scalar.Comparisons]. The generator in folder asm writes
// the assembly (vector_amd64.s and vector_arm64.s), the Go functions that choose the version, and
// the maps from operations to functions: [Unaries], [Binaries] and [Comparisons] (stubs.go). The
// constants of the elementary functions are in internal/coef.
//
// Functions with a dst process len(dst) elements. The other slices must be at least as long,
// otherwise the function panics with a slice bounds error. dst may be the same slice as an input,
// but must not overlap an input partially. A length of 0 is allowed. No function allocates.
//
// Results never depend on alignment. An element-wise function gives an element the same bits at
// every position, so a long slice may be processed in parts. All assembly versions give the same
// bits. The portable version may differ from them in the last bits. Its elementary functions use
// tables (package scalar), and Go lets the compiler decide whether a product is rounded before it
// is added. Random bits and dropout are the same in all versions.
//
// The order of additions in a reduction depends on the length only: element i is added to lane i
// mod 64, and the lanes are added as a tree. See [Sum].
//
// Comments give the largest error of a function against float64 arithmetic in ulp (units in the
// last place). An ulp is the distance between the two float32 numbers next to the exact result.
package vector

import (
	"unsafe"

	"github.com/sptune/spt/internal/kernel/vector/internal/scalar"
)

// The instruction sets, in ascending order for each architecture.
const (
	portable = iota
	neon
	avx2
	avx512
)

// levelName returns the name of the instruction set in use.
func levelName() string { return [...]string{"portable", "neon", "avx2", "avx512"}[level] }

// Unary holds the kernel of a function of one number.
type Unary struct {
	// Slice sets dst[i] to the function of x[i].
	Slice func(dst, x []float32)
	// Unary is the row of the table [scalar.Unaries].
	*scalar.Unary
}

// Number returns the function of x. It computes in float64 and rounds the result to float32.
func (u Unary) Number(x float32) float32 { return float32(u.Exact(float64(x))) }

// Binary holds the kernels of a function OP of two numbers.
type Binary struct {
	Slices  func(dst, a, b []float32)         // sets dst[i] = a[i] OP b[i]
	Scalar  func(dst, a []float32, s float32) // sets dst[i] = a[i] OP s
	From    func(dst, a []float32, s float32) // sets dst[i] = s OP a[i]
	Numbers func(a, b float32) float32        // returns a OP b
}

// Comparison holds the kernels of a comparison OP.
type Comparison struct {
	Slices  func(dst []bool, a, b []float32)         // sets dst[i] = a[i] OP b[i]
	Scalar  func(dst []bool, a []float32, s float32) // sets dst[i] = a[i] OP s
	From    func(dst []bool, a []float32, s float32) // sets dst[i] = s OP a[i]
	Numbers func(a, b float32) bool                  // reports whether a OP b
}

// FromBool sets dst[i] to 1 if src[i] is true, otherwise to 0.
func FromBool(dst []float32, src []bool) {
	FromUint8(dst, unsafe.Slice((*uint8)(unsafe.Pointer(unsafe.SliceData(src))), len(src)))
}
