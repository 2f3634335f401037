package vector

import "math"

// lanes is the number of partial sums of a reduction.
const lanes = 64

// addLanes adds the lanes as a tree: first the four groups of 16 as (0+1)+(2+3), then halves until
// one number is left.
func addLanes(lane *[lanes]float32) float32 {
	for i := range 16 {
		lane[i] = (lane[i] + lane[i+16]) + (lane[i+32] + lane[i+48])
	}
	for half := 8; half > 0; half /= 2 {
		for i := range half {
			lane[i] += lane[i+half]
		}
	}
	return lane[0]
}

// Sum returns the sum of a. Element i is added to lane i mod 64 in the order of i. Then the lanes
// are added as a tree. All versions give the same bits.
func Sum(a []float32) float32 {
	switch level {
	case avx512:
		return sumAVX512(a)
	case avx2:
		return sumAVX2(a)
	}
	var lane [lanes]float32
	for i, v := range a {
		lane[i%lanes] += v
	}
	return addLanes(&lane)
}

// Dot returns the sum of a[i]·b[i] over the elements of a, in the order of [Sum]. b must be at
// least as long as a. The assembly rounds a[i]·b[i] + sum once. The portable version rounds once or
// twice.
func Dot(a, b []float32) float32 {
	b = b[:len(a)]
	switch level {
	case avx512:
		return dotAVX512(a, b)
	case avx2:
		return dotAVX2(a, b)
	}
	var lane [lanes]float32
	for i, v := range a {
		lane[i%lanes] += v * b[i]
	}
	return addLanes(&lane)
}

// MaxOf returns the greatest element of a. It returns -Inf if a is empty, and NaN if an element is
// NaN. If the result is zero and a holds zeros of both signs, the sign is not specified.
func MaxOf(a []float32) float32 {
	switch level {
	case avx512:
		return maxOfAVX512(a)
	case avx2:
		return maxOfAVX2(a)
	}
	m := float32(math.Inf(-1))
	for _, v := range a {
		m = max(m, v)
	}
	return m
}

// MinOf returns the least element of a. It returns +Inf if a is empty, and NaN if an element is
// NaN. If the result is zero and a holds zeros of both signs, the sign is not specified.
func MinOf(a []float32) float32 {
	switch level {
	case avx512:
		return minOfAVX512(a)
	case avx2:
		return minOfAVX2(a)
	}
	m := float32(math.Inf(1))
	for _, v := range a {
		m = min(m, v)
	}
	return m
}

// AddRows adds the rows of a matrix [rows, cols] to dst. For each row i in order, it adds
// x[i*stride+j] to dst[j] for j < cols.
func AddRows(dst, x []float32, rows, cols, stride int) {
	dst = dst[:cols]
	i := 0
	for ; i+4 <= rows; i += 4 {
		at := i * stride
		addRows4(dst, x[at:], x[at+stride:], x[at+2*stride:], x[at+3*stride:])
	}
	for ; i < rows; i++ {
		Add(dst, dst, x[i*stride:])
	}
}
