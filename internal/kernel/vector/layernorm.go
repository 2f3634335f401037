package vector

import "math"

// LayerNormRow sets dst = (x-mean)·rstd·gamma + beta for one row. It returns mean and rstd as
// [Moments] does. A nil gamma stands for ones, and a nil beta for zeros.
func LayerNormRow(dst, x, gamma, beta []float32, eps float32) (mean, rstd float32) {
	x = x[:len(dst)]
	mean, rstd = Moments(x, eps)
	if gamma != nil && beta != nil {
		normalizeAffine(dst, x, gamma, beta, mean, rstd)
		return mean, rstd
	}
	normalize(dst, x, mean, rstd)
	if gamma != nil {
		Mul(dst, dst, gamma)
	}
	if beta != nil {
		Add(dst, dst, beta)
	}
	return mean, rstd
}

// Moments returns the mean of x and rstd = 1/sqrt(var+eps). var is the mean of (x-mean)². Both
// results are NaN if x is empty.
func Moments(x []float32, eps float32) (mean, rstd float32) {
	n := float32(len(x))
	mean = Sum(x) / n
	variance := sumCentered2(x, mean) / n
	return mean, float32(1 / math.Sqrt(float64(variance)+float64(eps)))
}

// LayerNormGradRow computes the gradient of [LayerNormRow] without gamma and beta. It sets dx to
// the gradient with respect to the input x. dy is the gradient with respect to the output. mean and
// rstd are the results of [Moments] for x. With h = (x-mean)·rstd, the gradient is dx = rstd·(dy -
// mean(dy) - h·mean(dy·h)).
func LayerNormGradRow(dx, dy, x []float32, mean, rstd float32) {
	dy, x = dy[:len(dx)], x[:len(dx)]
	n := float32(len(dx))
	sum, dot := Sum(dy), centeredDot(dy, x, mean)*rstd
	normGrad(dx, dy, x, mean, rstd, sum/n, dot/n)
}

// centeredDot returns the sum of dy[i]·(x[i]-mean), in the order of [Dot].
func centeredDot(dy, x []float32, mean float32) float32 {
	switch {
	case amd64 && level == avx512:
		return centeredDotAVX512(dy, x, mean)
	case amd64 && level == avx2:
		return centeredDotAVX2(dy, x, mean)
	case arm64 && level == neon:
		var lane [lanes]float32
		centeredDotNEON(dy[:len(dy)&^3], x, &lane, mean)
		for i := len(dy) &^ 3; i < len(dy); i++ {
			lane[i%lanes] += dy[i] * (x[i] - mean)
		}
		return addLanesNEON(&lane)
	}
	return centeredDotGo(dy, x, mean)
}

// sumCentered2 returns the sum of (x[i]-mean)², in the order of [Dot].
func sumCentered2(x []float32, mean float32) float32 {
	switch {
	case amd64 && level == avx512:
		return sumCentered2AVX512(x, mean)
	case amd64 && level == avx2:
		return sumCentered2AVX2(x, mean)
	case arm64 && level == neon:
		var lane [lanes]float32
		sumCentered2NEON(x[:len(x)&^3], &lane, mean)
		for i := len(x) &^ 3; i < len(x); i++ {
			lane[i%lanes] += (x[i] - mean) * (x[i] - mean)
		}
		return addLanesNEON(&lane)
	}
	return sumCentered2Go(x, mean)
}
