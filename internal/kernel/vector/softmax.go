package vector

import "math"

// SoftmaxRow sets dst = softmax(scale·x) for one row. It returns the logarithm of the sum of
// exp(scale·x[i]). It subtracts the greatest exponent first, so nothing overflows. -Inf entries
// become 0. A row with a NaN, with a +Inf, or with nothing but -Inf becomes NaN, as the formula
// gives. The result for an empty row is -Inf. Error: a few ulp beside the rounding of scale·x[i].
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
