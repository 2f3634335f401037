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
	switch {
	case amd64 && level == avx512:
		return sumAVX512(a)
	case amd64 && level == avx2:
		return sumAVX2(a)
	case arm64 && level == neon:
		var lane [lanes]float32
		sumNEON(a[:len(a)&^3], &lane)
		for i := len(a) &^ 3; i < len(a); i++ {
			lane[i%lanes] += a[i]
		}
		return addLanesNEON(&lane)
	}
	var lane [lanes]float32
	for done := 0; done < len(a); {
		block := a[done:min(done+laneBlock, len(a))]
		whole := len(block) &^ 7
		for g := 0; g < lanes; g += 8 {
			l := (*[8]float32)(lane[g:])
			l0, l1, l2, l3, l4, l5, l6, l7 := l[0], l[1], l[2], l[3], l[4], l[5], l[6], l[7]
			for i := g; i < whole; i += lanes {
				x := (*[8]float32)(block[i:])
				l0 += x[0]
				l1 += x[1]
				l2 += x[2]
				l3 += x[3]
				l4 += x[4]
				l5 += x[5]
				l6 += x[6]
				l7 += x[7]
			}
			l[0], l[1], l[2], l[3], l[4], l[5], l[6], l[7] = l0, l1, l2, l3, l4, l5, l6, l7
		}
		for i := whole; i < len(block); i++ {
			lane[i%lanes] += block[i]
		}
		done += len(block)
	}
	return addLanes(&lane)
}

// laneBlock is the number of elements that portable reductions read several times, eight lanes each
// time. Eight sums fit the registers of every processor, and the elements stay in the first-level
// cache. It is a multiple of lanes.
const laneBlock = 2048

// Dot returns the sum of a[i]·b[i] over the elements of a, in the order of [Sum]. b must be at
// least as long as a. The assembly rounds a[i]·b[i] + sum once. The portable version rounds once or
// twice.
func Dot(a, b []float32) float32 {
	b = b[:len(a)]
	switch {
	case amd64 && level == avx512:
		return dotAVX512(a, b)
	case amd64 && level == avx2:
		return dotAVX2(a, b)
	case arm64 && level == neon:
		var lane [lanes]float32
		dotNEON(a[:len(a)&^3], b, &lane)
		for i := len(a) &^ 3; i < len(a); i++ {
			lane[i%lanes] += a[i] * b[i]
		}
		return addLanesNEON(&lane)
	}
	return centeredDotGo(a, b, 0)
}

// centeredDotGo returns the sum of a[i]·(b[i]-mean), in the order of [Dot].
func centeredDotGo(a, b []float32, mean float32) float32 {
	var lane [lanes]float32
	for done := 0; done < len(a); {
		end := min(done+laneBlock, len(a))
		a, b := a[done:end], b[done:end]
		whole := len(a) &^ 7
		for g := 0; g < lanes; g += 8 {
			l := (*[8]float32)(lane[g:])
			l0, l1, l2, l3, l4, l5, l6, l7 := l[0], l[1], l[2], l[3], l[4], l[5], l[6], l[7]
			for i := g; i < whole; i += lanes {
				x, y := (*[8]float32)(a[i:]), (*[8]float32)(b[i:])
				l0 += x[0] * (y[0] - mean)
				l1 += x[1] * (y[1] - mean)
				l2 += x[2] * (y[2] - mean)
				l3 += x[3] * (y[3] - mean)
				l4 += x[4] * (y[4] - mean)
				l5 += x[5] * (y[5] - mean)
				l6 += x[6] * (y[6] - mean)
				l7 += x[7] * (y[7] - mean)
			}
			l[0], l[1], l[2], l[3], l[4], l[5], l[6], l[7] = l0, l1, l2, l3, l4, l5, l6, l7
		}
		for i := whole; i < len(a); i++ {
			lane[i%lanes] += a[i] * (b[i] - mean)
		}
		done = end
	}
	return addLanes(&lane)
}

// sumCentered2Go returns the sum of (x[i]-mean)², in the order of [Dot].
func sumCentered2Go(x []float32, mean float32) float32 {
	var lane [lanes]float32
	for done := 0; done < len(x); {
		block := x[done:min(done+laneBlock, len(x))]
		whole := len(block) &^ 7
		for g := 0; g < lanes; g += 8 {
			l := (*[8]float32)(lane[g:])
			l0, l1, l2, l3, l4, l5, l6, l7 := l[0], l[1], l[2], l[3], l[4], l[5], l[6], l[7]
			for i := g; i < whole; i += lanes {
				x := (*[8]float32)(block[i:])
				d0, d1, d2, d3 := x[0]-mean, x[1]-mean, x[2]-mean, x[3]-mean
				l0 += d0 * d0
				l1 += d1 * d1
				l2 += d2 * d2
				l3 += d3 * d3
				d0, d1, d2, d3 = x[4]-mean, x[5]-mean, x[6]-mean, x[7]-mean
				l4 += d0 * d0
				l5 += d1 * d1
				l6 += d2 * d2
				l7 += d3 * d3
			}
			l[0], l[1], l[2], l[3], l[4], l[5], l[6], l[7] = l0, l1, l2, l3, l4, l5, l6, l7
		}
		for i := whole; i < len(block); i++ {
			d := block[i] - mean
			lane[i%lanes] += d * d
		}
		done += len(block)
	}
	return addLanes(&lane)
}

// MaxOf returns the greatest element of a. It returns -Inf if a is empty, and NaN if an element is
// NaN. If the result is zero and a holds zeros of both signs, the sign is not specified.
func MaxOf(a []float32) float32 {
	switch {
	case amd64 && level == avx512:
		return maxOfAVX512(a)
	case amd64 && level == avx2:
		return maxOfAVX2(a)
	case arm64 && level == neon:
		m := maxOfNEON(a[:len(a)&^3])
		for _, v := range a[len(a)&^3:] {
			m = max(m, v)
		}
		return m
	}
	// A comparison is faster than the built-in function max, which orders zeros.
	m := float32(math.Inf(-1))
	for _, v := range a {
		if v > m {
			m = v
		}
		if v != v {
			return v
		}
	}
	return m
}

// MinOf returns the least element of a. It returns +Inf if a is empty, and NaN if an element is
// NaN. If the result is zero and a holds zeros of both signs, the sign is not specified.
func MinOf(a []float32) float32 {
	switch {
	case amd64 && level == avx512:
		return minOfAVX512(a)
	case amd64 && level == avx2:
		return minOfAVX2(a)
	case arm64 && level == neon:
		m := minOfNEON(a[:len(a)&^3])
		for _, v := range a[len(a)&^3:] {
			m = min(m, v)
		}
		return m
	}
	m := float32(math.Inf(1))
	for _, v := range a {
		if v < m {
			m = v
		}
		if v != v {
			return v
		}
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
