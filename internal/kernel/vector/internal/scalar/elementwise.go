// Package scalar defines the element-wise operations of the CPU backend for single numbers.
//
// It holds tables with one row for each operation ([Unaries], [Binaries], [Comparisons]) and one Go
// function for each kernel. The Go functions run on processors without assembly, and tests compare
// the assembly with them. They do not take the same steps: a loop in Go is fastest with tables
// (tables.go) and with float64 (exp.go).
//
// The generator in vector/asm reads the tables. For every row it writes the assembly and the Go
// functions that choose the instruction set. It also writes the maps in which package cpu looks up
// the kernel of an operation.
package scalar

import (
	"math"

	"github.com/gomlx/compute"
	"github.com/gomlx/compute/dtypes/float16"

	"github.com/sptune/spt/internal/kernel/vector/internal/coef"
)

// Unary is one row of the table: a function of one number.
type Unary struct {
	// Op is the operation of the GoMLX graph.
	Op compute.OpType
	// Name is the name of the kernel in vector/asm. The functions in this package and in package
	// vector have the same name with a capital letter.
	Name string
	// Exact computes the operation in float64. The backend uses it for single numbers. Tests use it
	// as the oracle.
	Exact func(x float64) float64
	// ULP is the largest error of the assembly, and PortableULP the largest error of the Go
	// function, in units in the last place. 0: the result is the float32 nearest to Exact.
	ULP, PortableULP float64
}

// Unaries is the table of functions of one number.
var Unaries = []Unary{
	{compute.OpTypeAbs, "abs", math.Abs, 0, 0},
	{compute.OpTypeErf, "erf", math.Erf, 2, 2.5},
	{compute.OpTypeExp, "exp", math.Exp, 1, 0.6},
	{compute.OpTypeLog, "log", math.Log, 1, 1},
	{compute.OpTypeLogistic, "logistic", func(x float64) float64 { return 1 / (1 + math.Exp(-x)) }, 2.75, 0.6},
	{compute.OpTypeNeg, "neg", func(x float64) float64 { return -x }, 0, 0},
	{compute.OpTypeRsqrt, "rsqrt", func(x float64) float64 { return 1 / math.Sqrt(x) }, 1.5, 1.5},
	{compute.OpTypeSqrt, "sqrt", math.Sqrt, 0, 0},
	{compute.OpTypeTanh, "tanh", math.Tanh, 2.75, 2.75},
}

// Binary is one row of the table: a function of two numbers. The kernel "name" takes two slices,
// the kernel "nameScalar" a slice and a number, and the kernel "nameFrom" a number and a slice.
type Binary struct {
	// Op is the operation of the GoMLX graph.
	Op compute.OpType
	// Name is the name of the kernel, as in [Unary].
	Name string
	// Func computes the operation.
	Func func(a, b float32) float32
	// Commutative says that the order of the operands does not matter. Then there is no kernel
	// "nameFrom".
	Commutative bool
	// Negated names an operation that gives the same result with -b in place of b. Then there is no
	// kernel "nameScalar". Empty: there is no such operation.
	Negated string
}

// Binaries is the table of functions of two numbers.
var Binaries = []Binary{
	{compute.OpTypeAdd, "add", Add, true, ""},
	{compute.OpTypeDiv, "div", Div, false, ""},
	{compute.OpTypeMax, "max", Max, true, ""},
	{compute.OpTypeMin, "min", Min, true, ""},
	{compute.OpTypeMul, "mul", Mul, true, ""},
	{compute.OpTypeSub, "sub", Sub, false, "add"},
}

// Comparison is one row of the table: a comparison of two numbers. It has the kernels "name" and
// "nameScalar", as in [Binary].
type Comparison struct {
	Op   compute.OpType          // operation of the GoMLX graph
	Name string                  // name of the kernel, as in Unary
	Func func(a, b float32) bool // computes the comparison
	// name of the comparison that gives the same result with a and b swapped
	Swapped string
}

// Comparisons is the table of comparisons. A comparison with NaN is false, except notEqual.
var Comparisons = []Comparison{
	{compute.OpTypeEqual, "equal", Equal, "equal"},
	{compute.OpTypeGreaterThan, "greater", Greater, "less"},
	{compute.OpTypeGreaterOrEqual, "greaterEqual", GreaterEqual, "lessEqual"},
	{compute.OpTypeLessThan, "less", Less, "greater"},
	{compute.OpTypeLessOrEqual, "lessEqual", LessEqual, "greaterEqual"},
	{compute.OpTypeNotEqual, "notEqual", NotEqual, "notEqual"},
}

// Add returns a + b.
func Add(a, b float32) float32 { return a + b }

// Sub returns a - b.
func Sub(a, b float32) float32 { return a - b }

// Mul returns a · b.
func Mul(a, b float32) float32 { return a * b }

// Div returns a / b.
func Div(a, b float32) float32 { return a / b }

// Max returns the greater number. A NaN in either operand gives NaN, and +0 is greater than -0.
func Max(a, b float32) float32 { return max(a, b) }

// Min returns the lesser number. A NaN in either operand gives NaN, and +0 is greater than -0.
func Min(a, b float32) float32 { return min(a, b) }

// Equal reports whether a equals b.
func Equal(a, b float32) bool { return a == b }

// Greater reports whether a is greater than b.
func Greater(a, b float32) bool { return a > b }

// GreaterEqual reports whether a is at least b.
func GreaterEqual(a, b float32) bool { return a >= b }

// Less reports whether a is less than b.
func Less(a, b float32) bool { return a < b }

// LessEqual reports whether a is at most b.
func LessEqual(a, b float32) bool { return a <= b }

// NotEqual reports whether a differs from b.
func NotEqual(a, b float32) bool { return a != b }

// Choose returns yes if mask is true, otherwise no.
func Choose(mask bool, yes, no float32) float32 {
	if mask {
		return yes
	}
	return no
}

// FromFloat16 converts the bits of an IEEE 754 half-precision number. The result is exact. A
// signalling NaN becomes a quiet NaN, as in the processor's instruction.
func FromFloat16(bits uint16) float32 {
	x := float16.FromBits(bits).Float32()
	if x != x {
		return math.Float32frombits(math.Float32bits(x) | 0x400000)
	}
	return x
}

// Neg returns -x. It flips the sign bit, also of a NaN or a zero.
func Neg(x float32) float32 { return -x }

// Abs returns |x|. It clears the sign bit, also of a NaN.
func Abs(x float32) float32 { return math.Float32frombits(math.Float32bits(x) &^ (1 << 31)) }

// Sqrt returns the square root of x. It returns NaN if x is less than zero.
func Sqrt(x float32) float32 { return float32(math.Sqrt(float64(x))) }

// Rsqrt returns 1/√x. It computes a square root and a division.
func Rsqrt(x float32) float32 { return 1 / float32(math.Sqrt(float64(x))) }

// copysign returns |x| with the sign of s.
func copysign(x, s float32) float32 {
	const sign = 1 << 31
	return math.Float32frombits(math.Float32bits(x)&^sign | math.Float32bits(s)&sign)
}

// Exp returns e^x. Results below the smallest normal number are rounded to subnormal numbers.
// Exp(89) is +Inf, and Exp(-104) is 0. If the compiler inlined it into a loop, the conversion to
// float64 could wait for the element before: on amd64 it keeps the upper half of its register.
//
//go:noinline
func Exp(x float32) float32 {
	if x > coef.ExpMax {
		x = coef.ExpMax
	}
	if x < coef.ExpMin {
		x = coef.ExpMin
	}
	return float32(exp(float64(x)))
}

// Log returns the natural logarithm of x, also of a subnormal number. It returns -Inf if x is +0 or
// -0, and NaN if x is less than zero.
func Log(x float32) float32 {
	switch {
	case x != x || x == float32(math.Inf(1)):
		return x
	case x < 0:
		return float32(math.NaN())
	case x == 0:
		return float32(math.Inf(-1))
	}
	e := int32(0)
	if x < 0x1p-126 {
		x, e = x*0x1p23, -23
	}
	// After the bits of sqrt(1/2) are subtracted, the bits above the mantissa are the exponent for
	// which sqrt(1/2) <= m < sqrt(2).
	bits := math.Float32bits(x) - math.Float32bits(math.Sqrt2/2)
	e += int32(bits) >> 23
	f := math.Float32frombits(bits&0x7fffff+math.Float32bits(math.Sqrt2/2)) - 1
	n := float32(e)
	c := &coef.Log
	p := c[4] + f*(c[5]+f*(c[6]+f*(c[7]+f*c[8])))
	p = f*(c[0]+f*(c[1]+f*(c[2]+f*(c[3]+f*p)))) - 0.5
	p *= f * f
	return n*coef.Ln2Hi + (f + (p + n*coef.Ln2Lo))
}

// Tanh returns the hyperbolic tangent of x. The function is odd, and its results are in [-1, 1].
func Tanh(x float32) float32 { return copysign(tanhTable().At(Abs(x)), x) }

// Erf returns the error function of x. The function is odd, and its results are in [-1, 1].
func Erf(x float32) float32 { return copysign(erfTable().At(Abs(x)), x) }

// Logistic returns the sigmoid 1/(1+e^-x).
func Logistic(x float32) float32 {
	if x > -coef.ExpMin {
		x = -coef.ExpMin
	}
	if x < coef.ExpMin {
		x = coef.ExpMin
	}
	return float32(1 / (1 + exp(-float64(x))))
}

// GELU returns the exact Gaussian error linear unit x·Φ(x) = x/2·(1+erf(x/√2)). The largest error
// is 4 ulp for x >= 0. For x < 0 it is 7 ulp in the assembly and 5 ulp in Go, also far in the tail,
// where 1+erf would lose all digits. A result below 2^-120 has the absolute error of a result of
// 2^-120. GELU(-Inf) is NaN, as in the formula.
func GELU(x float32) float32 { return x * NormalCDF().At(x) }

// GELUDerivative returns Φ(x) + x·φ(x), the derivative of [GELU]. The largest absolute error is
// 2e-7. The derivative at ±Inf is NaN.
func GELUDerivative(x float32) float32 { return GELUSlope().At(x) }

// GELUTanh returns the tanh approximation of GELU, x/2·(1+tanh(√(2/π)·(x+0.044715·x³))). The
// largest error is 4 ulp for x >= -1, and an absolute error of 1e-7 for x < -1. GELUTanh(-Inf) is
// NaN, as in the formula.
func GELUTanh(x float32) float32 {
	if x > tableEnd {
		return x
	}
	if x < -tableEnd {
		return x * 0
	}
	v := float64(x)
	return float32(v / (1 + exp(-v*(coef.TwoSqrtTwoByPi+coef.TwoSqrtTwoByPi*coef.GELUCubic*(v*v)))))
}
