// Package vector computes on slices of float32 numbers for the CPU backend: element-wise
// operations, reductions, rows of softmax and layer norm, conversions, random bits, dropout and
// transposition.
//
// Each function has a version for AVX-512, a version for AVX2 with FMA, and a portable version in
// Go. The features of the processor choose the version when the program starts.
//
// The element-wise functions come from one table, [scalar.Unaries] and its neighbours. The
// generator in folder asm writes their assembly (vector_amd64.s), the Go functions that choose the
// version, and the maps by operation ([Unaries], [Binaries], [Comparisons]; stubs.go). The
// constants of the elementary functions are in internal/coef.
//
// All functions process len(dst) elements. The other slices must be at least as long; a shorter
// slice panics, as a slice out of range does. dst may be the same slice as an input, but must not
// overlap an input partially. No function allocates. A length of 0 is allowed.
//
// Results never depend on alignment. Results of element-wise functions do not depend on how a long
// slice is cut into pieces: an element gets the same bits at every position. Both assembly versions
// give the same bits. The portable version may differ from them in the last bits, because Go lets
// the compiler decide whether a product is rounded before it is added. Random bits and dropout are
// the same in all versions.
//
// The order of the additions of a reduction depends on the length only: element i goes to lane i
// mod 64, and the lanes are added as a tree, see [Sum].
//
// Errors in ulp (units in the last place) are the largest errors against float64 arithmetic. An ulp
// is the distance between the float32 numbers next to the exact result.
package vector

import (
	"unsafe"

	"github.com/sptune/spt/internal/kernel/vector/internal/scalar"
)

// The instruction sets, in ascending order.
const (
	portable = iota
	avx2
	avx512
)

// levelName returns the name of the version in use: "avx512", "avx2" or "portable".
func levelName() string { return [...]string{"portable", "avx2", "avx512"}[level] }

// Unary holds the kernel of a function of one number, and its row of the table.
type Unary struct {
	Slice func(dst, x []float32)
	*scalar.Unary
}

// Number computes the function for one number. It is the float32 nearest to the function in float64
// arithmetic.
func (u Unary) Number(x float32) float32 { return float32(u.Exact(float64(x))) }

// Binary holds the kernels of a function of two numbers.
type Binary struct {
	Slices  func(dst, a, b []float32)
	Scalar  func(dst, a []float32, s float32) // a[i] OP s
	From    func(dst, a []float32, s float32) // s OP a[i]
	Numbers func(a, b float32) float32
}

// Comparison holds the kernels of a comparison.
type Comparison struct {
	Slices  func(dst []bool, a, b []float32)
	Scalar  func(dst []bool, a []float32, s float32) // a[i] OP s
	From    func(dst []bool, a []float32, s float32) // s OP a[i]
	Numbers func(a, b float32) bool
}

// FromBool converts false to 0 and true to 1.
func FromBool(dst []float32, src []bool) {
	FromUint8(dst, unsafe.Slice((*uint8)(unsafe.Pointer(unsafe.SliceData(src))), len(src)))
}
