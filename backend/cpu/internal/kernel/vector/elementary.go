package vector

import "math"

// Neg sets dst[i] = -x[i]: the sign bit flips, also of a NaN or a zero.
func Neg(dst, x []float32) {
	x = x[:len(dst)]
	switch level {
	case avx512:
		negAVX512(dst, x)
	case avx2:
		negAVX2(dst, x)
	default:
		for i, v := range x {
			dst[i] = -v
		}
	}
}

// Abs sets dst[i] = |x[i]|: the sign bit is cleared, also of a NaN.
func Abs(dst, x []float32) {
	x = x[:len(dst)]
	switch level {
	case avx512:
		absAVX512(dst, x)
	case avx2:
		absAVX2(dst, x)
	default:
		for i, v := range x {
			dst[i] = abs(v)
		}
	}
}

// Sign sets dst[i] to -1, 0 or 1 by the sign of x[i]; zeros keep their sign
// and NaN stays NaN.
func Sign(dst, x []float32) {
	x = x[:len(dst)]
	switch level {
	case avx512:
		signAVX512(dst, x)
	case avx2:
		signAVX2(dst, x)
	default:
		for i, v := range x {
			dst[i] = sign(v)
		}
	}
}

// Square sets dst[i] = x[i]*x[i].
func Square(dst, x []float32) {
	x = x[:len(dst)]
	switch level {
	case avx512:
		squareAVX512(dst, x)
	case avx2:
		squareAVX2(dst, x)
	default:
		for i, v := range x {
			dst[i] = v * v
		}
	}
}

// Reciprocal sets dst[i] = 1/x[i], correctly rounded.
func Reciprocal(dst, x []float32) {
	x = x[:len(dst)]
	switch level {
	case avx512:
		reciprocalAVX512(dst, x)
	case avx2:
		reciprocalAVX2(dst, x)
	default:
		for i, v := range x {
			dst[i] = 1 / v
		}
	}
}

// Sqrt sets dst[i] to the square root of x[i], correctly rounded; NaN below
// zero.
func Sqrt(dst, x []float32) {
	x = x[:len(dst)]
	switch level {
	case avx512:
		sqrtAVX512(dst, x)
	case avx2:
		sqrtAVX2(dst, x)
	default:
		for i, v := range x {
			dst[i] = float32(math.Sqrt(float64(v)))
		}
	}
}

// Rsqrt sets dst[i] = 1/sqrt(x[i]) by a square root and a division. Error:
// at most 1.5 ulp.
func Rsqrt(dst, x []float32) {
	x = x[:len(dst)]
	switch level {
	case avx512:
		rsqrtAVX512(dst, x)
	case avx2:
		rsqrtAVX2(dst, x)
	default:
		for i, v := range x {
			dst[i] = 1 / float32(math.Sqrt(float64(v)))
		}
	}
}

// Exp sets dst[i] = e^x[i]. Error: at most 1 ulp (portable: 1.25). Results
// below the smallest normal number are rounded to subnormal ones, not flushed;
// e^89 is +Inf, e^-104 is 0.
func Exp(dst, x []float32) {
	x = x[:len(dst)]
	switch level {
	case avx512:
		expAVX512(dst, x)
	case avx2:
		expAVX2(dst, x)
	default:
		for i, v := range x {
			dst[i] = exp(v)
		}
	}
}

// Log sets dst[i] to the natural logarithm of x[i], subnormal numbers
// included. Error: at most 1 ulp. It is -Inf at zeros of both signs and NaN
// below.
func Log(dst, x []float32) {
	x = x[:len(dst)]
	switch level {
	case avx512:
		logAVX512(dst, x)
	case avx2:
		logAVX2(dst, x)
	default:
		for i, v := range x {
			dst[i] = log(v)
		}
	}
}

// Tanh sets dst[i] to the hyperbolic tangent of x[i]. Error: at most 2.75
// ulp; the result is odd and never beyond ±1.
func Tanh(dst, x []float32) {
	x = x[:len(dst)]
	switch level {
	case avx512:
		tanhAVX512(dst, x)
	case avx2:
		tanhAVX2(dst, x)
	default:
		for i, v := range x {
			dst[i] = tanh(v)
		}
	}
}

// Erf sets dst[i] to the error function of x[i]. Error: at most 2 ulp
// (portable: 2.5); the result is odd and never beyond ±1.
func Erf(dst, x []float32) {
	x = x[:len(dst)]
	switch level {
	case avx512:
		erfAVX512(dst, x)
	case avx2:
		erfAVX2(dst, x)
	default:
		for i, v := range x {
			dst[i] = erf(v)
		}
	}
}

// Logistic sets dst[i] = 1/(1+e^-x[i]), the sigmoid. Error: at most 2.75
// ulp, subnormal results included.
func Logistic(dst, x []float32) {
	x = x[:len(dst)]
	switch level {
	case avx512:
		logisticAVX512(dst, x)
	case avx2:
		logisticAVX2(dst, x)
	default:
		for i, v := range x {
			dst[i] = logistic(v)
		}
	}
}

// ExpSubScalar sets dst[i] = e^(scale*x[i] - shift). The exponent is rounded as
// in [MulAdd]; then errors as in [Exp].
func ExpSubScalar(dst, x []float32, scale, shift float32) {
	x = x[:len(dst)]
	switch level {
	case avx512:
		expSubScalarAVX512(dst, x, scale, shift)
	case avx2:
		expSubScalarAVX2(dst, x, scale, shift)
	default:
		for i, v := range x {
			dst[i] = exp(scale*v - shift)
		}
	}
}
