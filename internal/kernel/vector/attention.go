package vector

import (
	"math"

	"github.com/sptune/spt/internal/kernel/vector/internal/scalar"
)

// Addend is a matrix that is added to the attention scores, such as a mask or a position bias. The
// zero value adds nothing.
type Addend struct {
	// Data holds the matrix. Row i starts at Data[i·Step]. Nil: nothing is added.
	Data []float32
	// Step is the number of elements from row to row. With 0, the same row is added to all rows of
	// scores.
	Step int
}

// check reads the last element of the matrix [rows, cols]. It panics if Data is shorter.
func (a *Addend) check(rows, cols int) {
	if a.Data != nil {
		_ = a.Data[(rows-1)*a.Step+cols-1]
	}
}

// SoftmaxRows replaces each row of x, [len(lse), cols], by softmax(scale·x + a + b). Row i starts
// at x[i·stride]; stride is at least cols. SoftmaxRows sets lse[i] to the logarithm of the sum of
// exponentials of row i. Overflow, NaN and rounding errors are as in [SoftmaxRow]. Column j is
// summed in lane j mod 16.
func SoftmaxRows(x, lse []float32, cols, stride int, scale float32, a, b Addend) {
	const block = 64
	for i := 0; i < len(lse); i += block {
		n := min(block, len(lse)-i)
		var sums [block]float32
		softmaxRows(x[i*stride:(i+n-1)*stride+cols], lse[i:i+n], sums[:n], cols, stride, scale, a.from(i), b.from(i))
		Log(sums[:n], sums[:n])
		Add(lse[i:i+n], lse[i:i+n], sums[:n])
	}
}

// from returns the rows of a from the given row on.
func (a Addend) from(row int) Addend {
	if a.Data == nil {
		return a
	}
	return Addend{a.Data[row*a.Step:], a.Step}
}

// softmaxRows computes the softmax of len(top) rows. It sets top to the maximum and sum to the sum
// of exponentials of each row.
func softmaxRows(x, top, sum []float32, cols, stride int, scale float32, a, b Addend) {
	a.check(len(top), cols)
	b.check(len(top), cols)
	switch {
	case amd64 && level == avx512:
		softmaxRowsAVX512(x, top, sum, a.Data, b.Data, a.Step, b.Step, cols, stride, scale)
		return
	case amd64 && level == avx2:
		softmaxRowsAVX2(x, top, sum, a.Data, b.Data, a.Step, b.Step, cols, stride, scale)
		return
	case arm64 && level == neon:
		softmaxRowsNEON(x, top, sum, a.Data, b.Data, a.Step, b.Step, cols, stride, scale)
		return
	}
	for i := range top {
		row := x[i*stride:][:cols]
		scores(row, scale, a, b, i)
		m := float32(math.Inf(-1))
		for _, v := range row {
			if v > m { // NaN reaches the results through the exponential
				m = v
			}
		}
		var acc [16]float32
		for j, v := range row {
			e := scalar.Exp(v - m)
			row[j] = e
			acc[j%16] += e
		}
		for half := 8; half > 0; half /= 2 {
			for j := range half {
				acc[j] += acc[j+half]
			}
		}
		top[i], sum[i] = m, acc[0]
		MulScalar(row, row, 1/acc[0])
	}
}

// scores replaces row i of the scores by scale·row + a + b, in this order.
func scores(row []float32, scale float32, a, b Addend, i int) {
	MulScalar(row, row, scale)
	if a.Data != nil {
		Add(row, row, a.Data[i*a.Step:])
	}
	if b.Data != nil {
		Add(row, row, b.Data[i*b.Step:])
	}
}

// SoftmaxGradRows computes the gradient of [SoftmaxRows]. p and dp are matrices [len(lse), cols],
// of which row i starts at position i·stride. On entry, p holds the scores, and dp holds the
// gradient with respect to the softmax. lse holds the results of SoftmaxRows. d[i] must be the sum
// of softmax·dp over row i. SoftmaxGradRows replaces p by softmax(scale·p + a + b). It replaces dp
// by softmax·(dp − d), the gradient with respect to scale·p + a + b.
func SoftmaxGradRows(p, dp, lse, d []float32, cols, stride int, scale float32, a, b Addend) {
	if len(lse) == 0 || cols == 0 {
		return
	}
	size := (len(lse)-1)*stride + cols
	p, dp, d = p[:size], dp[:size], d[:len(lse)]
	a.check(len(lse), cols)
	b.check(len(lse), cols)
	switch {
	case amd64 && level == avx512:
		softmaxGradRowsAVX512(p, dp, lse, d, a.Data, b.Data, a.Step, b.Step, cols, stride, scale)
		return
	case amd64 && level == avx2:
		softmaxGradRowsAVX2(p, dp, lse, d, a.Data, b.Data, a.Step, b.Step, cols, stride, scale)
		return
	case arm64 && level == neon:
		softmaxGradRowsNEON(p, dp, lse, d, a.Data, b.Data, a.Step, b.Step, cols, stride, scale)
		return
	}
	for i, shift := range lse {
		row, grad, by := p[i*stride:][:cols], dp[i*stride:][:cols], d[i]
		scores(row, scale, a, b, i)
		for j, v := range row {
			e := scalar.Exp(v - shift)
			row[j] = e
			grad[j] = e * (grad[j] - by)
		}
	}
}
