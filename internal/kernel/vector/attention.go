package vector

import (
	"math"

	"github.com/sptune/spt/internal/kernel/vector/internal/scalar"
)

// Addend is a matrix that is added to scores: row i starts at Data[i·Step]. With
// no Data nothing is added.
type Addend struct {
	Data []float32
	Step int
}

// check touches the last element of rows × cols.
func (a *Addend) check(rows, cols int) {
	if a.Data != nil {
		_ = a.Data[(rows-1)*a.Step+cols-1]
	}
}

// at is what is added to element (i,j).
func (a *Addend) at(i, j int) float32 {
	if a.Data == nil {
		return 0
	}
	return a.Data[i*a.Step+j]
}

// SoftmaxRows sets each row of x, [len(lse), cols], to softmax(scale·x + a + b)
// and lse to the logarithms of the sums of exponentials. What [SoftmaxRow] says
// of overflow, NaN and errors holds here. Column j is summed in lane j mod 16.
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

// from is a without its first rows.
func (a Addend) from(row int) Addend {
	if a.Data == nil {
		return a
	}
	return Addend{a.Data[row*a.Step:], a.Step}
}

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

// SoftmaxGradRows takes the rows of scores p, [len(lse), cols], to what
// [SoftmaxRows] made of them, and the gradient dp of that to the gradient of the
// scores with what is added to them, p∘(dp − d), where d is the sum of p∘dp over
// the row.
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
