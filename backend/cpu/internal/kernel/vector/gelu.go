package vector

// GELU sets dst[i] to the exact Gaussian error linear unit of x[i], x·Φ(x)
// = x/2·(1+erf(x/√2)). Error: at most 4 ulp from 0 up and 7 ulp below
// (portable: 9), in the far tail too, where 1+erf would cancel; there,
// results below 2^-120 have the absolute error of that number. GELU(-Inf)
// is NaN, as the formula gives.
func GELU(dst, x []float32) {
	x = x[:len(dst)]
	switch level {
	case avx512:
		geluAVX512(dst, x)
	case avx2:
		geluAVX2(dst, x)
	default:
		for i, v := range x {
			dst[i] = gelu(v)
		}
	}
}

// GELUGrad sets dst[i] = dy[i]·(Φ(x) + x·φ(x)) with x = x[i], the gradient
// of [GELU]. Error of the factor of dy: at most 2e-7. It is NaN at ±Inf.
func GELUGrad(dst, x, dy []float32) {
	x, dy = x[:len(dst)], dy[:len(dst)]
	switch level {
	case avx512:
		geluGradAVX512(dst, x, dy)
	case avx2:
		geluGradAVX2(dst, x, dy)
	default:
		for i, v := range x {
			dst[i] = dy[i] * geluDerivative(v)
		}
	}
}

// GELUTanh sets dst[i] to the tanh form of GELU at x = x[i],
// x/2·(1+tanh(√(2/π)·(x+0.044715·x³))). Error: at most 4 ulp from -1 up and
// 1e-7 below. GELUTanh(-Inf) is NaN, as the formula gives.
func GELUTanh(dst, x []float32) {
	x = x[:len(dst)]
	switch level {
	case avx512:
		geluTanhAVX512(dst, x)
	case avx2:
		geluTanhAVX2(dst, x)
	default:
		for i, v := range x {
			dst[i] = geluTanh(v)
		}
	}
}

// GELUTanhGrad sets dst[i] to dy[i] times the derivative of [GELUTanh] at
// x[i]. Error of the factor of dy: at most 3e-7. The derivative is 0 at
// -Inf and 1 at +Inf.
func GELUTanhGrad(dst, x, dy []float32) {
	x, dy = x[:len(dst)], dy[:len(dst)]
	switch level {
	case avx512:
		geluTanhGradAVX512(dst, x, dy)
	case avx2:
		geluTanhGradAVX2(dst, x, dy)
	default:
		for i, v := range x {
			dst[i] = dy[i] * geluTanhDerivative(v)
		}
	}
}
