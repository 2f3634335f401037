package vector

import "math"

// SoftmaxRow sets dst = softmax(scale·x) for one row. It returns lse, the logarithm of the sum of
// exp(scale·x[i]). It subtracts the greatest exponent first, so nothing overflows. An exponent of
// -Inf gives 0. A row becomes NaN if an exponent is NaN or +Inf, or if all exponents are -Inf, as
// in the formula. For an empty row it returns -Inf. The error is a few ulp in addition to the
// rounding of scale·x[i].
func SoftmaxRow(dst, x []float32, scale float32) (lse float32) {
	x = x[:len(dst)]
	top := MaxOf(x)
	if scale < 0 {
		top = MinOf(x)
	}
	top *= scale
	expSubScalar(dst, x, scale, top)
	sum := Sum(dst)
	MulScalar(dst, dst, 1/sum)
	return top + float32(math.Log(float64(sum)))
}
