package vector

// Less sets dst[i] to whether a[i] is less than b[i]. It is false where
// either is NaN.
func Less(dst []bool, a, b []float32) {
	a, b = a[:len(dst)], b[:len(dst)]
	done := 0
	switch level {
	case avx512:
		lessAVX512(dst, a, b)
		return
	case avx2:
		done = len(dst) &^ 7 // whole vectors only
		lessAVX2(dst, a, b)
	}
	for i := done; i < len(dst); i++ {
		dst[i] = a[i] < b[i]
	}
}

// LessEqual sets dst[i] to whether a[i] is at most b[i]. It is false where
// either is NaN.
func LessEqual(dst []bool, a, b []float32) {
	a, b = a[:len(dst)], b[:len(dst)]
	done := 0
	switch level {
	case avx512:
		lessEqualAVX512(dst, a, b)
		return
	case avx2:
		done = len(dst) &^ 7 // whole vectors only
		lessEqualAVX2(dst, a, b)
	}
	for i := done; i < len(dst); i++ {
		dst[i] = a[i] <= b[i]
	}
}

// Greater sets dst[i] to whether a[i] is greater than b[i]. It is false
// where either is NaN.
func Greater(dst []bool, a, b []float32) {
	a, b = a[:len(dst)], b[:len(dst)]
	done := 0
	switch level {
	case avx512:
		greaterAVX512(dst, a, b)
		return
	case avx2:
		done = len(dst) &^ 7 // whole vectors only
		greaterAVX2(dst, a, b)
	}
	for i := done; i < len(dst); i++ {
		dst[i] = a[i] > b[i]
	}
}

// GreaterEqual sets dst[i] to whether a[i] is at least b[i]. It is false
// where either is NaN.
func GreaterEqual(dst []bool, a, b []float32) {
	a, b = a[:len(dst)], b[:len(dst)]
	done := 0
	switch level {
	case avx512:
		greaterEqualAVX512(dst, a, b)
		return
	case avx2:
		done = len(dst) &^ 7 // whole vectors only
		greaterEqualAVX2(dst, a, b)
	}
	for i := done; i < len(dst); i++ {
		dst[i] = a[i] >= b[i]
	}
}

// Equal sets dst[i] to whether a[i] equals b[i]. A NaN equals nothing.
func Equal(dst []bool, a, b []float32) {
	a, b = a[:len(dst)], b[:len(dst)]
	done := 0
	switch level {
	case avx512:
		equalAVX512(dst, a, b)
		return
	case avx2:
		done = len(dst) &^ 7 // whole vectors only
		equalAVX2(dst, a, b)
	}
	for i := done; i < len(dst); i++ {
		dst[i] = a[i] == b[i]
	}
}

// NotEqual sets dst[i] to whether a[i] differs from b[i]. A NaN differs
// from everything.
func NotEqual(dst []bool, a, b []float32) {
	a, b = a[:len(dst)], b[:len(dst)]
	done := 0
	switch level {
	case avx512:
		notEqualAVX512(dst, a, b)
		return
	case avx2:
		done = len(dst) &^ 7 // whole vectors only
		notEqualAVX2(dst, a, b)
	}
	for i := done; i < len(dst); i++ {
		dst[i] = a[i] != b[i]
	}
}

// LessScalar sets dst[i] to whether a[i] is less than s.
func LessScalar(dst []bool, a []float32, s float32) {
	a = a[:len(dst)]
	done := 0
	switch level {
	case avx512:
		lessScalarAVX512(dst, a, s)
		return
	case avx2:
		done = len(dst) &^ 7 // whole vectors only
		lessScalarAVX2(dst, a, s)
	}
	for i := done; i < len(dst); i++ {
		dst[i] = a[i] < s
	}
}

// LessEqualScalar sets dst[i] to whether a[i] is at most s.
func LessEqualScalar(dst []bool, a []float32, s float32) {
	a = a[:len(dst)]
	done := 0
	switch level {
	case avx512:
		lessEqualScalarAVX512(dst, a, s)
		return
	case avx2:
		done = len(dst) &^ 7 // whole vectors only
		lessEqualScalarAVX2(dst, a, s)
	}
	for i := done; i < len(dst); i++ {
		dst[i] = a[i] <= s
	}
}

// GreaterScalar sets dst[i] to whether a[i] is greater than s.
func GreaterScalar(dst []bool, a []float32, s float32) {
	a = a[:len(dst)]
	done := 0
	switch level {
	case avx512:
		greaterScalarAVX512(dst, a, s)
		return
	case avx2:
		done = len(dst) &^ 7 // whole vectors only
		greaterScalarAVX2(dst, a, s)
	}
	for i := done; i < len(dst); i++ {
		dst[i] = a[i] > s
	}
}

// GreaterEqualScalar sets dst[i] to whether a[i] is at least s.
func GreaterEqualScalar(dst []bool, a []float32, s float32) {
	a = a[:len(dst)]
	done := 0
	switch level {
	case avx512:
		greaterEqualScalarAVX512(dst, a, s)
		return
	case avx2:
		done = len(dst) &^ 7 // whole vectors only
		greaterEqualScalarAVX2(dst, a, s)
	}
	for i := done; i < len(dst); i++ {
		dst[i] = a[i] >= s
	}
}

// EqualScalar sets dst[i] to whether a[i] equals s.
func EqualScalar(dst []bool, a []float32, s float32) {
	a = a[:len(dst)]
	done := 0
	switch level {
	case avx512:
		equalScalarAVX512(dst, a, s)
		return
	case avx2:
		done = len(dst) &^ 7 // whole vectors only
		equalScalarAVX2(dst, a, s)
	}
	for i := done; i < len(dst); i++ {
		dst[i] = a[i] == s
	}
}

// NotEqualScalar sets dst[i] to whether a[i] differs from s.
func NotEqualScalar(dst []bool, a []float32, s float32) {
	a = a[:len(dst)]
	done := 0
	switch level {
	case avx512:
		notEqualScalarAVX512(dst, a, s)
		return
	case avx2:
		done = len(dst) &^ 7 // whole vectors only
		notEqualScalarAVX2(dst, a, s)
	}
	for i := done; i < len(dst); i++ {
		dst[i] = a[i] != s
	}
}

// Where sets dst[i] to a[i] where mask[i] holds and to b[i] elsewhere.
func Where(dst []float32, mask []bool, a, b []float32) {
	mask, a, b = mask[:len(dst)], a[:len(dst)], b[:len(dst)]
	done := 0
	switch level {
	case avx512:
		whereAVX512(dst, mask, a, b)
		return
	case avx2:
		done = len(dst) &^ 7 // whole vectors only
		whereAVX2(dst, mask, a, b)
	}
	for i := done; i < len(dst); i++ {
		if mask[i] {
			dst[i] = a[i]
		} else {
			dst[i] = b[i]
		}
	}
}

// WhereElseScalar sets dst[i] to a[i] where mask[i] holds and to s
// elsewhere.
func WhereElseScalar(dst []float32, mask []bool, a []float32, s float32) {
	mask, a = mask[:len(dst)], a[:len(dst)]
	done := 0
	switch level {
	case avx512:
		whereElseScalarAVX512(dst, mask, a, s)
		return
	case avx2:
		done = len(dst) &^ 7 // whole vectors only
		whereElseScalarAVX2(dst, mask, a, s)
	}
	for i := done; i < len(dst); i++ {
		if mask[i] {
			dst[i] = a[i]
		} else {
			dst[i] = s
		}
	}
}

// WhereThenScalar sets dst[i] to s where mask[i] holds and to b[i]
// elsewhere.
func WhereThenScalar(dst []float32, mask []bool, s float32, b []float32) {
	mask, b = mask[:len(dst)], b[:len(dst)]
	done := 0
	switch level {
	case avx512:
		whereThenScalarAVX512(dst, mask, b, s)
		return
	case avx2:
		done = len(dst) &^ 7 // whole vectors only
		whereThenScalarAVX2(dst, mask, b, s)
	}
	for i := done; i < len(dst); i++ {
		if mask[i] {
			dst[i] = s
		} else {
			dst[i] = b[i]
		}
	}
}

// WhereScalars sets dst[i] to s where mask[i] holds and to t elsewhere.
func WhereScalars(dst []float32, mask []bool, s, t float32) {
	mask = mask[:len(dst)]
	done := 0
	switch level {
	case avx512:
		whereScalarsAVX512(dst, mask, s, t)
		return
	case avx2:
		done = len(dst) &^ 7 // whole vectors only
		whereScalarsAVX2(dst, mask, s, t)
	}
	for i := done; i < len(dst); i++ {
		if mask[i] {
			dst[i] = s
		} else {
			dst[i] = t
		}
	}
}
