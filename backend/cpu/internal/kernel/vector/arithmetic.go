package vector

// Add sets dst[i] = a[i] + b[i].
func Add(dst, a, b []float32) {
	a, b = a[:len(dst)], b[:len(dst)]
	switch level {
	case avx512:
		addAVX512(dst, a, b)
	case avx2:
		addAVX2(dst, a, b)
	default:
		for i := range dst {
			dst[i] = a[i] + b[i]
		}
	}
}

// Sub sets dst[i] = a[i] - b[i].
func Sub(dst, a, b []float32) {
	a, b = a[:len(dst)], b[:len(dst)]
	switch level {
	case avx512:
		subAVX512(dst, a, b)
	case avx2:
		subAVX2(dst, a, b)
	default:
		for i := range dst {
			dst[i] = a[i] - b[i]
		}
	}
}

// Mul sets dst[i] = a[i] * b[i].
func Mul(dst, a, b []float32) {
	a, b = a[:len(dst)], b[:len(dst)]
	switch level {
	case avx512:
		mulAVX512(dst, a, b)
	case avx2:
		mulAVX2(dst, a, b)
	default:
		for i := range dst {
			dst[i] = a[i] * b[i]
		}
	}
}

// Div sets dst[i] = a[i] / b[i].
func Div(dst, a, b []float32) {
	a, b = a[:len(dst)], b[:len(dst)]
	switch level {
	case avx512:
		divAVX512(dst, a, b)
	case avx2:
		divAVX2(dst, a, b)
	default:
		for i := range dst {
			dst[i] = a[i] / b[i]
		}
	}
}

// Max sets dst[i] to the greater of a[i] and b[i]. A NaN in either operand
// gives NaN and +0 is greater than -0, as with the builtin max.
func Max(dst, a, b []float32) {
	a, b = a[:len(dst)], b[:len(dst)]
	switch level {
	case avx512:
		maxAVX512(dst, a, b)
	case avx2:
		maxAVX2(dst, a, b)
	default:
		for i := range dst {
			dst[i] = max(a[i], b[i])
		}
	}
}

// Min sets dst[i] to the lesser of a[i] and b[i]. A NaN in either operand
// gives NaN and +0 is greater than -0, as with the builtin min.
func Min(dst, a, b []float32) {
	a, b = a[:len(dst)], b[:len(dst)]
	switch level {
	case avx512:
		minAVX512(dst, a, b)
	case avx2:
		minAVX2(dst, a, b)
	default:
		for i := range dst {
			dst[i] = min(a[i], b[i])
		}
	}
}

// AddScalar sets dst[i] = a[i] + s.
func AddScalar(dst, a []float32, s float32) {
	a = a[:len(dst)]
	switch level {
	case avx512:
		addScalarAVX512(dst, a, s)
	case avx2:
		addScalarAVX2(dst, a, s)
	default:
		for i, v := range a {
			dst[i] = v + s
		}
	}
}

// MulScalar sets dst[i] = a[i] * s.
func MulScalar(dst, a []float32, s float32) {
	a = a[:len(dst)]
	switch level {
	case avx512:
		mulScalarAVX512(dst, a, s)
	case avx2:
		mulScalarAVX2(dst, a, s)
	default:
		for i, v := range a {
			dst[i] = v * s
		}
	}
}

// DivScalar sets dst[i] = a[i] / s, correctly rounded.
func DivScalar(dst, a []float32, s float32) {
	a = a[:len(dst)]
	switch level {
	case avx512:
		divScalarAVX512(dst, a, s)
	case avx2:
		divScalarAVX2(dst, a, s)
	default:
		for i, v := range a {
			dst[i] = v / s
		}
	}
}

// MaxScalar sets dst[i] to the greater of a[i] and s, with NaN and zeros as
// in [Max].
func MaxScalar(dst, a []float32, s float32) {
	a = a[:len(dst)]
	switch level {
	case avx512:
		maxScalarAVX512(dst, a, s)
	case avx2:
		maxScalarAVX2(dst, a, s)
	default:
		for i, v := range a {
			dst[i] = max(v, s)
		}
	}
}

// MinScalar sets dst[i] to the lesser of a[i] and s, with NaN and zeros as
// in [Min].
func MinScalar(dst, a []float32, s float32) {
	a = a[:len(dst)]
	switch level {
	case avx512:
		minScalarAVX512(dst, a, s)
	case avx2:
		minScalarAVX2(dst, a, s)
	default:
		for i, v := range a {
			dst[i] = min(v, s)
		}
	}
}

// SubFrom sets dst[i] = s - a[i].
func SubFrom(dst []float32, s float32, a []float32) {
	a = a[:len(dst)]
	switch level {
	case avx512:
		subFromAVX512(dst, a, s)
	case avx2:
		subFromAVX2(dst, a, s)
	default:
		for i, v := range a {
			dst[i] = s - v
		}
	}
}

// DivFrom sets dst[i] = s / a[i].
func DivFrom(dst []float32, s float32, a []float32) {
	a = a[:len(dst)]
	switch level {
	case avx512:
		divFromAVX512(dst, a, s)
	case avx2:
		divFromAVX2(dst, a, s)
	default:
		for i, v := range a {
			dst[i] = s / v
		}
	}
}

// MulAdd sets dst[i] = a[i]*b[i] + c[i], rounded once (in the portable version
// once or twice).
func MulAdd(dst, a, b, c []float32) {
	a, b, c = a[:len(dst)], b[:len(dst)], c[:len(dst)]
	switch level {
	case avx512:
		mulAddAVX512(dst, a, b, c)
	case avx2:
		mulAddAVX2(dst, a, b, c)
	default:
		for i := range dst {
			dst[i] = a[i]*b[i] + c[i]
		}
	}
}

// Axpy adds s*a[i] to dst[i]; rounding as in [MulAdd].
func Axpy(dst []float32, s float32, a []float32) {
	a = a[:len(dst)]
	switch level {
	case avx512:
		axpyAVX512(dst, a, s)
	case avx2:
		axpyAVX2(dst, a, s)
	default:
		for i, v := range a {
			dst[i] += s * v
		}
	}
}

// Fill sets every element of dst to v.
func Fill(dst []float32, v float32) {
	switch level {
	case avx512:
		fillAVX512(dst, v)
	case avx2:
		fillAVX2(dst, v)
	default:
		for i := range dst {
			dst[i] = v
		}
	}
}
