package main

import (
	"math"

	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"

	"github.com/sptune/spt/internal/kernel/vector/internal/coef"
)

const signBit = 1 << 31

// unaries maps the name of every row of [scalar.Unaries] to its kernel.
var unaries = map[string]func(k *kernel, x vec) vec{
	"abs":      func(k *kernel, x vec) vec { return k.and(x, bits(signBit-1)) },
	"erf":      (*kernel).erf,
	"exp":      func(k *kernel, x vec) vec { return k.exp(x, true) },
	"log":      (*kernel).log,
	"logistic": (*kernel).logistic,
	"neg":      func(k *kernel, x vec) vec { return k.xor(x, bits(signBit)) },
	"rsqrt":    func(k *kernel, x vec) vec { return k.div(k.broadcast(float(1)), k.unary(sqrtPS, x)) },
	"sqrt":     func(k *kernel, x vec) vec { return k.unary(sqrtPS, x) },
	"tanh":     (*kernel).tanh,
}

// binaries maps the name of every row of [scalar.Binaries] to its kernel.
var binaries = map[string]func(k *kernel, a, b vec) vec{
	"add": func(k *kernel, a, b vec) vec { return k.add(a, b) },
	"div": func(k *kernel, a, b vec) vec { return k.div(a, b) },
	"max": (*kernel).max,
	"min": (*kernel).min,
	"mul": func(k *kernel, a, b vec) vec { return k.mul(a, b) },
	"sub": func(k *kernel, a, b vec) vec { return k.sub(a, b) },
}

// comparisons maps the name of every row of [scalar.Comparisons] to its predicate.
var comparisons = map[string]uint64{
	"equal": equal, "greater": greater, "greaterEqual": greaterEqual, "less": less, "lessEqual": lessEqual, "notEqual": notEqual,
}

// exp computes e^x. If clip is not set, x must not be greater than coef.ExpMax.
func (k *kernel) exp(x vec, clip bool) vec {
	if clip {
		x = k.atMost(x, float(coef.ExpMax))
	}
	n, r := k.expReduce(k.atLeast(x, float(coef.ExpMin)))
	return k.scale(k.expReduced(r), n)
}

// expReduce returns n and r with x = n·ln 2 + r.
func (k *kernel) expReduce(x vec) (n, r vec) {
	n = k.round(k.mul(x, float(coef.Log2E)))
	r = k.copy(x)
	k.subMul(r, n, float(coef.Ln2Hi))
	k.subMul(r, n, float(coef.Ln2Lo))
	return n, r
}

// expReduced computes e^r for |r| <= ln(2)/2.
func (k *kernel) expReduced(r vec) vec {
	p := k.horner(coef.Exp[:], r)
	k.mulAdd(p, r, float(1))
	k.mulAdd(p, r, float(1))
	return p
}

// expMinus1 computes e^r - 1 for |r| <= ln(2)/2. It is more exact near 0.
func (k *kernel) expMinus1(r vec) vec {
	p := k.horner(coef.Exp[:], r)
	k.mulAdd(p, k.mul(r, r), r)
	return p
}

// scale computes x·2^n. With AVX2 and NEON it multiplies by two powers of 2, because 2^n itself may
// not be a normal number.
func (k *kernel) scale(x, n vec) vec {
	if k.wide {
		r := k.reg()
		VSCALEFPS(n, x, r)
		return r
	}
	all := k.unary(toInt, n)
	half := k.right(1, all)
	return k.mul(k.mul(x, k.bitsOfPower2(half)), k.bitsOfPower2(k.subInt(all, half)))
}

// round rounds to the nearest integer, and ties to even. It raises no floating-point exception.
func (k *kernel) round(x vec) vec {
	if k.neon != nil {
		return k.neon.op(frintn, x)
	}
	if k.wide {
		return k.shift(VRNDSCALEPS, 8, x)
	}
	r := YMM()
	VROUNDPS(Imm(8), x, r)
	return r
}

// bitsOfPower2 computes 2^n for integers -126 <= n <= 127.
func (k *kernel) bitsOfPower2(n vec) vec {
	return k.left(23, k.addInt(n, bits(127)))
}

// power2 computes 2^n for floats n that are whole numbers, -126 <= n <= 127.
func (k *kernel) power2(n vec) vec {
	if k.wide {
		return k.scale(k.broadcast(float(1)), n)
	}
	return k.bitsOfPower2(k.unary(toInt, n))
}

// log computes the natural logarithm of x.
func (k *kernel) log(x vec) vec {
	const sqrtHalf = math.Sqrt2 / 2
	subnormal := k.compare(less, x, float(0x1p-126))
	scaled := k.choose(subnormal, k.mul(x, float(0x1p23)), x)
	shift := k.choose(subnormal, k.broadcast(float(-23)), k.zero())
	// After the bits of sqrt(1/2) are subtracted, the bits above the mantissa are the exponent for
	// which sqrt(1/2) <= m < sqrt(2).
	above := k.subInt(scaled, float(sqrtHalf))
	n := k.add(k.unary(toFloat, k.right(23, above)), shift)
	f := k.addInt(k.and(above, bits(0x7fffff)), float(sqrtHalf))
	f = k.sub(f, float(1))

	p := k.horner(coef.Log[:], f)
	k.mulAdd(p, f, float(-0.5))
	p = k.mul(p, k.mul(f, f))
	k.addMul(p, n, float(coef.Ln2Lo))
	p = k.add(p, f)
	k.addMul(p, n, float(coef.Ln2Hi))

	p = k.choose(k.compare(notLess, x, float(float32(math.Inf(1)))), x, p)
	p = k.choose(k.compare(less, x, float(0)), k.broadcast(float(float32(math.NaN()))), p)
	return k.choose(k.compare(equal, x, float(0)), k.broadcast(float(float32(math.Inf(-1)))), p)
}

// abs computes the smaller of |x| and limit.
func (k *kernel) abs(x vec, limit float32) vec {
	return k.atMost(k.and(x, bits(signBit-1)), float(limit))
}

// copysign computes x with the sign of s. x must not be negative.
func (k *kernel) copysign(x, s vec) vec { return k.or(x, k.and(s, bits(signBit))) }

// tanh computes the hyperbolic tangent m/(m+2) with m = e^(2|x|) - 1.
func (k *kernel) tanh(x vec) vec {
	a := k.abs(x, coef.TanhMax)
	n, r := k.expReduce(k.add(a, a))
	m, p := k.expMinus1(r), k.power2(n)
	k.mulAdd(m, p, k.sub(p, float(1)))
	return k.copysign(k.div(m, k.add(m, float(2))), x)
}

// erf computes the error function of x; see coef.Erf.
func (k *kernel) erf(x vec) vec {
	a := k.abs(x, coef.ErfMax)
	z := k.mul(a, k.horner(coef.Erf[:], a))
	k.addMul(z, a, float(coef.ErfSlope))
	n, r := k.expReduce(k.xor(z, bits(signBit)))
	p := k.power2(n)
	e := k.sub(k.broadcast(float(1)), p)
	k.subMul(e, k.expMinus1(r), p)
	return k.copysign(e, x)
}

// logistic computes the sigmoid 1/(1+e^-x). It uses e^-|x|, which cannot overflow.
func (k *kernel) logistic(x vec) vec {
	e := k.exp(k.or(x, bits(signBit)), false)
	p := k.div(k.broadcast(float(1)), k.add(e, float(1)))
	q := k.mul(e, p)
	return k.choose(k.negative(x), q, p)
}

// gaussian returns e^(-x²/2) and Φ(x).
func (k *kernel) gaussian(x vec) (e, cdf vec) {
	a := k.abs(x, coef.TailMax)
	ratio := k.div(k.horner(coef.TailNum[:], a), k.horner(coef.TailDen[:], a))
	// In the tail, the rounding error of a² would be too large. So r is computed from a itself.
	// n·Ln2Hi is exact.
	half := k.mul(a, float(-0.5))
	n := k.round(k.mul(k.mul(half, a), float(coef.Log2E)))
	r := k.mul(n, float(-coef.Ln2Hi))
	k.addMul(r, a, half)
	k.subMul(r, n, float(coef.Ln2Lo))
	e = k.scale(k.expReduced(r), n)
	tail := k.mul(e, ratio)
	return e, k.choose(k.negative(x), tail, k.sub(k.broadcast(float(1)), tail))
}

func (k *kernel) gelu(x vec) vec {
	_, cdf := k.gaussian(x)
	return k.mul(x, cdf)
}

func (k *kernel) geluDerivative(x vec) vec {
	e, cdf := k.gaussian(x)
	k.addMul(cdf, k.mul(x, e), float(coef.InvSqrt2Pi))
	return cdf
}

func (k *kernel) geluTanh(x vec) vec {
	return k.mul(x, k.logistic(k.mul(x, k.geluTanhSlope(k.mul(x, x), coef.GELUCubic))))
}

// geluTanhSlope computes 2·√(2/π)·(1 + cubic·x²).
func (k *kernel) geluTanhSlope(square vec, cubic float32) vec {
	p := k.broadcast(float(coef.TwoSqrtTwoByPi * cubic))
	k.mulAdd(p, square, float(coef.TwoSqrtTwoByPi))
	return p
}

// extreme computes the maximum or the minimum. It treats zeros and NaN as the built-in functions of
// Go do. The instruction op returns its second source if the numbers are equal or one is NaN. So
// extreme runs op in both orders of the operands. combine merges the sign bits of zeros, and an
// addition propagates NaN.
func (k *kernel) extreme(a, b vec, op func(...Op), combine func(a vec, b Op) vec) vec {
	forth, back := k.reg(), k.reg()
	op(b, a, forth)
	op(a, b, back)
	return k.choose(k.compare(unordered, a, b), k.add(a, b), combine(forth, back))
}

func (k *kernel) max(a, b vec) vec {
	if k.neon != nil {
		return k.neon.op(fmax, a, b) // as the built-in function
	}
	return k.extreme(a, b, VMAXPS, k.and)
}

func (k *kernel) min(a, b vec) vec {
	if k.neon != nil {
		return k.neon.op(fmin, a, b)
	}
	return k.extreme(a, b, VMINPS, k.or)
}

// bools converts the lanes of m to bytes that are 0 or 1.
func (k *kernel) bools(m mask) vec {
	r := k.reg()
	one := bits(0x01010101)
	if k.wide {
		VMOVDQU8_Z(one.Mem, m, r.AsX())
		return r
	}
	high := XMM()
	low := m.(vec).AsX()
	VEXTRACTI128(Imm(1), m, high)
	VPACKSSDW(high, low, high)
	VPACKSSWB(high, high, high)
	VPAND(one.Mem, high, r.AsX())
	return r
}

// lanesOf computes the mask of the bytes of b that are 1.
func (k *kernel) lanesOf(b vec) mask {
	if k.wide {
		m := K()
		VPTESTMB(b.AsX(), b.AsX(), m)
		return m
	}
	y := YMM()
	VPMOVZXBD(b.AsX(), y)
	return k.left(31, y) // VBLENDVPS reads the sign bits
}
