package vector

import (
	"math"

	"github.com/sptune/spt/internal/kernel/vector/internal/scalar"
)

// Addend is a matrix that is added to scores.
type Addend struct {
	Data []float32 // row i starts at Data[i·Step]; nil: nothing is added
	Step int       // number of elements from row to row
}

// check touches the last element of rows × cols.
func (a *Addend) check(rows, cols int) {
	if a.Data != nil {
		_ = a.Data[(rows-1)*a.Step+cols-1]
	}
}

// at returns the number that is added to element (i,j).
func (a *Addend) at(i, j int) float32 {
	if a.Data == nil {
		return 0
	}
	return a.Data[i*a.Step+j]
}

// SoftmaxRows sets each row of x, [len(lse), cols], to softmax(scale·x + a + b) and lse to the
// logarithms of the sums of exponentials. Overflow, NaN and errors are as in [SoftmaxRow]. Column j
// is summed in lane j mod 16.
func SoftmaxRows(x, lse []float32, cols int, scale float32, a, b Addend) {
	const block = 64
	for i := 0; i < len(lse); i += block {
		n := min(block, len(lse)-i)
		var sums [block]float32
		softmaxRows(x[i*cols:(i+n)*cols], lse[i:i+n], sums[:n], cols, scale, a.from(i), b.from(i))
		Log(sums[:n], sums[:n])
		Add(lse[i:i+n], lse[i:i+n], sums[:n])
	}
}

// from returns a without the first row rows.
func (a Addend) from(row int) Addend {
	if a.Data == nil {
		return a
	}
	return Addend{a.Data[row*a.Step:], a.Step}
}

// softmaxRows is SoftmaxRows for some rows. It sets top to the maxima and sum to the sums of
// exponentials.
func softmaxRows(x, top, sum []float32, cols int, scale float32, a, b Addend) {
	a.check(len(top), cols)
	b.check(len(top), cols)
	switch level {
	case avx512:
		softmaxRowsAVX512(x, top, sum, a.Data, b.Data, a.Step, b.Step, cols, scale)
		return
	case avx2:
		softmaxRowsAVX2(x, top, sum, a.Data, b.Data, a.Step, b.Step, cols, scale)
		return
	}
	for i := range top {
		row := x[i*cols : (i+1)*cols]
		top[i], sum[i] = float32(math.Inf(-1)), 0
		for j, v := range row {
			row[j] = scale*v + a.at(i, j) + b.at(i, j)
			top[i] = max(top[i], row[j])
		}
		for j, v := range row {
			row[j] = scalar.Exp(v - top[i])
			sum[i] += row[j]
		}
		for j := range row {
			row[j] *= 1 / sum[i]
		}
	}
}

// SoftmaxGradRows computes the gradient of [SoftmaxRows]. p, [len(lse), cols], holds the scores;
// the function replaces them by softmax(scale·p + a + b). dp holds the gradient of the softmax; the
// function replaces it by the gradient of scale·p + a + b, which is p∘(dp − d). d is the sum of
// p∘dp over each row.
func SoftmaxGradRows(p, dp, lse, d []float32, cols int, scale float32, a, b Addend) {
	p, dp, d = p[:len(lse)*cols], dp[:len(lse)*cols], d[:len(lse)]
	if len(p) == 0 {
		return
	}
	a.check(len(lse), cols)
	b.check(len(lse), cols)
	switch level {
	case avx512:
		softmaxGradRowsAVX512(p, dp, lse, d, a.Data, b.Data, a.Step, b.Step, cols, scale)
		return
	case avx2:
		softmaxGradRowsAVX2(p, dp, lse, d, a.Data, b.Data, a.Step, b.Step, cols, scale)
		return
	}
	for i := range lse {
		for j := range cols {
			at := i*cols + j
			p[at] = scalar.Exp(scale*p[at] + a.at(i, j) + b.at(i, j) - lse[i])
			dp[at] = p[at] * (dp[at] - d[i])
		}
	}
}
