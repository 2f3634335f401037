package vector

import (
	"math"

	"github.com/sptune/spt/backend/cpu/internal/kernel/vector/internal/coef"
)

// The elementary functions for one number, by the same steps as the assembly:
// the fallback on other processors and the oracle of the tests.

// horner evaluates the polynomial with ascending coefficients c at x.
func horner(c []float32, x float32) float32 {
	p := c[len(c)-1]
	for i := len(c) - 2; i >= 0; i-- {
		p = p*x + c[i]
	}
	return p
}

func abs(x float32) float32 { return math.Float32frombits(math.Float32bits(x) &^ (1 << 31)) }

// copysign is |x| with the sign of s.
func copysign(x, s float32) float32 {
	const sign = 1 << 31
	return math.Float32frombits(math.Float32bits(x)&^sign | math.Float32bits(s)&sign)
}

func sign(x float32) float32 {
	if x == 0 || x != x {
		return x
	}
	return copysign(1, x)
}

func exp(x float32) float32 {
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

// expReduced is e^r for |r| <= ln(2)/2.
func expReduced(r float32) float32 { return 1 + r*(1+r*horner(coef.Exp[:], r)) }

// expMinus1 is e^r - 1 for |r| <= ln(2)/2, more exact about 0.
func expMinus1(r float32) float32 { return r + r*r*horner(coef.Exp[:], r) }

// scale is x·2^n, in two factors, for 2^n may lie outside the normal numbers.
func scale(x, n float32) float32 {
	half := int32(n) >> 1
	return x * power2(half) * power2(int32(n)-half)
}

// power2 is 2^n for -126 <= n <= 127.
func power2(n int32) float32 { return math.Float32frombits(uint32(n+127) << 23) }

func log(x float32) float32 {
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
	// subtracting the bits of sqrt(1/2) leaves the exponent for which
	// sqrt(1/2) <= m < sqrt(2) above the mantissa
	bits := math.Float32bits(x) - math.Float32bits(math.Sqrt2/2)
	e += int32(bits) >> 23
	f := math.Float32frombits(bits&0x7fffff+math.Float32bits(math.Sqrt2/2)) - 1
	n := float32(e)
	p := f * f * (f*horner(coef.Log[:], f) - 0.5)
	return n*coef.Ln2Hi + (f + (p + n*coef.Ln2Lo))
}

// tanh is m/(m+2) with m = e^2|x| - 1.
func tanh(x float32) float32 {
	if x != x {
		return x
	}
	n, r := expReduce(2 * min(abs(x), coef.TanhMax))
	p := power2(int32(n))
	m := expMinus1(r)*p + (p - 1)
	return copysign(m/(m+2), x)
}

func erf(x float32) float32 {
	if x != x {
		return x
	}
	a := min(abs(x), coef.ErfMax)
	n, r := expReduce(-coef.ErfSlope*a - a*horner(coef.Erf[:], a))
	p := power2(int32(n))
	return copysign((1-p)-expMinus1(r)*p, x)
}

func logistic(x float32) float32 {
	s, _, _ := logisticParts(x)
	return s
}

// logisticParts returns the sigmoid s of x and, with e = e^-|x| which cannot
// overflow, p = 1/(1+e) and q = e/(1+e): s is the one and 1-s the other.
func logisticParts(x float32) (s, p, q float32) {
	e := exp(-abs(x))
	p = 1 / (1 + e)
	q = e * p
	if x < 0 {
		return q, p, q
	}
	return p, p, q
}

// gaussian returns e^(-x²/2) and Φ(x).
func gaussian(x float32) (e, cdf float32) {
	if x != x {
		return x, x
	}
	a := min(abs(x), coef.TailMax)
	// in the tail the rounding error of a² would count, so r is made from a;
	// n·Ln2Hi is exact
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

func gelu(x float32) float32 {
	_, cdf := gaussian(x)
	return x * cdf
}

func geluDerivative(x float32) float32 {
	e, cdf := gaussian(x)
	return cdf + x*e*coef.InvSqrt2Pi
}

func geluTanh(x float32) float32 { return x * logistic(x*geluTanhSlope(x, coef.GELUCubic)) }

func geluTanhDerivative(x float32) float32 {
	x = min(max(x, -coef.GELUTanhMax), coef.GELUTanhMax)
	s, p, q := logisticParts(x * geluTanhSlope(x, coef.GELUCubic))
	return s + x*(p*q)*geluTanhSlope(x, 3*coef.GELUCubic)
}

// geluTanhSlope is 2·√(2/π)·(1 + cubic·x²).
func geluTanhSlope(x, cubic float32) float32 {
	return coef.TwoSqrtTwoByPi + coef.TwoSqrtTwoByPi*cubic*(x*x)
}
