// Package scalar defines the element-wise operations of the CPU backend for single numbers.
//
// It holds tables with one row for each operation ([Unaries], [Binaries], [Comparisons]) and one Go
// function for each kernel. The Go functions take the same steps as the assembly. They run on
// processors without AVX2, and tests compare the assembly with them.
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
	{compute.OpTypeExp, "exp", math.Exp, 1, 1.25},
	{compute.OpTypeLog, "log", math.Log, 1, 1},
	{compute.OpTypeLogistic, "logistic", func(x float64) float64 { return 1 / (1 + math.Exp(-x)) }, 2.75, 2.75},
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

// horner evaluates at x the polynomial with the coefficients c, in ascending order.
func horner(c []float32, x float32) float32 {
	p := c[len(c)-1]
	for i := len(c) - 2; i >= 0; i-- {
		p = p*x + c[i]
	}
	return p
}

// copysign returns |x| with the sign of s.
func copysign(x, s float32) float32 {
	const sign = 1 << 31
	return math.Float32frombits(math.Float32bits(x)&^sign | math.Float32bits(s)&sign)
}

// Exp returns e^x. Results below the smallest normal number are rounded to subnormal numbers.
// Exp(89) is +Inf, and Exp(-104) is 0.
func Exp(x float32) float32 {
	if x != x {
		return x
	}
	n, r := expReduce(min(max(x, coef.ExpMin), coef.ExpMax))
	return scale(expReduced(r), n)
}

// expReduce returns n and r with x = n·ln 2 + r.
func expReduce(x float32) (n, r float32) {
	n = float32(math.RoundToEven(float64(x * coef.Log2E)))
	return n, x - n*coef.Ln2Hi - n*coef.Ln2Lo
}

// expReduced returns e^r for |r| <= ln(2)/2, the range of r in expReduce.
func expReduced(r float32) float32 { return 1 + r*(1+r*horner(coef.Exp[:], r)) }

// expMinus1 returns e^r - 1 for |r| <= ln(2)/2. It is more exact near 0.
func expMinus1(r float32) float32 { return r + r*r*horner(coef.Exp[:], r) }

// scale returns x·2^n. It multiplies by two powers of 2, because 2^n itself may not be a normal
// number.
func scale(x, n float32) float32 {
	half := int32(n) >> 1
	return x * power2(half) * power2(int32(n)-half)
}

// power2 returns 2^n for -126 <= n <= 127.
func power2(n int32) float32 { return math.Float32frombits(uint32(n+127) << 23) }

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
	p := f * f * (f*horner(coef.Log[:], f) - 0.5)
	return n*coef.Ln2Hi + (f + (p + n*coef.Ln2Lo))
}

// Tanh returns the hyperbolic tangent of x. For |x| it computes m/(m+2) with m = e^(2|x|) - 1. The
// function is odd, and its results are in [-1, 1].
func Tanh(x float32) float32 {
	if x != x {
		return x
	}
	n, r := expReduce(2 * min(Abs(x), coef.TanhMax))
	p := power2(int32(n))
	m := expMinus1(r)*p + (p - 1)
	return copysign(m/(m+2), x)
}

// Erf returns the error function of x. The function is odd, and its results are in [-1, 1].
func Erf(x float32) float32 {
	if x != x {
		return x
	}
	a := min(Abs(x), coef.ErfMax)
	n, r := expReduce(-coef.ErfSlope*a - a*horner(coef.Erf[:], a))
	p := power2(int32(n))
	return copysign((1-p)-expMinus1(r)*p, x)
}

// Logistic returns the sigmoid 1/(1+e^-x). It uses e^-|x|, which cannot overflow.
func Logistic(x float32) float32 {
	e := Exp(-Abs(x))
	p := 1 / (1 + e)
	q := e * p
	if x < 0 {
		return q
	}
	return p
}

// gaussian returns e^(-x²/2) and Φ(x).
func gaussian(x float32) (e, cdf float32) {
	if x != x {
		return x, x
	}
	a := min(Abs(x), coef.TailMax)
	// In the tail, the rounding error of a² would be too large. So r is computed from a itself.
	// n·Ln2Hi is exact.
	half := -0.5 * a
	n := float32(math.RoundToEven(float64(half * a * coef.Log2E)))
	r := float32(float64(half)*float64(a)-float64(n*coef.Ln2Hi)) - n*coef.Ln2Lo
	e = scale(expReduced(r), n)
	tail := e * (horner(coef.TailNum[:], a) / horner(coef.TailDen[:], a))
	if x < 0 {
		return e, tail
	}
	return e, 1 - tail
}

// GELU returns the exact Gaussian error linear unit x·Φ(x) = x/2·(1+erf(x/√2)). The largest error
// is 4 ulp for x >= 0. For x < 0 it is 7 ulp in the assembly and 9 ulp in Go, also far in the tail,
// where 1+erf would lose all digits. A result below 2^-120 has the absolute error of a result of
// 2^-120. GELU(-Inf) is NaN, as in the formula.
func GELU(x float32) float32 {
	_, cdf := gaussian(x)
	return x * cdf
}

// GELUDerivative returns Φ(x) + x·φ(x), the derivative of [GELU]. The largest absolute error is
// 2e-7. The derivative at ±Inf is NaN.
func GELUDerivative(x float32) float32 {
	e, cdf := gaussian(x)
	return cdf + x*e*coef.InvSqrt2Pi
}

// GELUTanh returns the tanh approximation of GELU, x/2·(1+tanh(√(2/π)·(x+0.044715·x³))). The
// largest error is 4 ulp for x >= -1, and an absolute error of 1e-7 for x < -1. GELUTanh(-Inf) is
// NaN, as in the formula.
func GELUTanh(x float32) float32 { return x * Logistic(x*geluTanhSlope(x, coef.GELUCubic)) }

// geluTanhSlope returns 2·√(2/π)·(1 + cubic·x²).
func geluTanhSlope(x, cubic float32) float32 {
	return coef.TwoSqrtTwoByPi + coef.TwoSqrtTwoByPi*cubic*(x*x)
}
