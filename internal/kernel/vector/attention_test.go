package vector

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"testing"
)

// at returns the number that is added to element (i,j).
func (a *Addend) at(i, j int) float32 {
	if a.Data == nil {
		return 0
	}
	return a.Data[i*a.Step+j]
}

// TestSoftmaxRows compares SoftmaxRows and SoftmaxGradRows with the formula in float64. It tests
// widths near multiples of the register width.
func TestSoftmaxRows(t *testing.T) {
	r := rand.New(rand.NewPCG(7, 8))
	matrix := func(n int) []float32 {
		x := make([]float32, n)
		for i := range x {
			x[i] = float32(2 * r.NormFloat64())
		}
		return x
	}
	edge := func(x []float32) []float32 { // a copy of x at the end of readable memory
		y := guarded(t, len(x))
		copy(y, x)
		return y
	}
	// spread returns the rows of x with stride elements from row to row, at the end of readable
	// memory. NaN is between the rows, so a result that depends on it is NaN too.
	spread := func(x []float32, cols, stride int) []float32 {
		y := guarded(t, (len(x)/cols-1)*stride+cols)
		for i := range y {
			y[i] = float32(math.NaN())
			if i%stride < cols {
				y[i] = x[i/stride*cols+i%stride]
			}
		}
		return y
	}
	// gather is the inverse of spread. It fails if something was written between the rows.
	gather := func(y []float32, cols, stride int) (x []float32) {
		t.Helper()
		for i, v := range y {
			switch {
			case i%stride < cols:
				x = append(x, v)
			case v == v:
				t.Fatalf("%g is between the rows, at position %d", v, i)
			}
		}
		return x
	}
	for _, cols := range []int{1, 3, 8, 15, 16, 17, 31, 32, 49, 64, 100, 197} {
		for _, rows := range []int{1, 7, 65} {
			for addends := range 4 {
				var add [2]Addend
				if addends > 0 {
					add[0] = Addend{edge(matrix((rows-1)*(cols+2) + cols)), cols + 2}
				}
				if addends > 1 {
					add[1] = Addend{edge(matrix(cols)), 0}
				}
				if addends == 3 {
					add[0], add[1] = Addend{}, add[0]
				}
				const scale = -0.7
				x, dy := matrix(rows*cols), matrix(rows*cols)
				want, grad := make([]float64, len(x)), make([]float64, len(x))
				wantLSE, d := make([]float64, rows), make([]float32, rows)
				for i := range rows {
					sum := 0.0
					z := func(j int) float64 {
						return scale*float64(x[i*cols+j]) + float64(add[0].at(i, j)) + float64(add[1].at(i, j))
					}
					for j := range cols {
						sum += math.Exp(z(j))
					}
					wantLSE[i] = math.Log(sum)
					dot := 0.0
					for j := range cols {
						want[i*cols+j] = math.Exp(z(j)) / sum
						dot += want[i*cols+j] * float64(dy[i*cols+j])
					}
					d[i] = float32(dot)
					for j := range cols {
						grad[i*cols+j] = want[i*cols+j] * (float64(dy[i*cols+j]) - float64(d[i]))
					}
				}
				var bits [][]float32 // results of the assembly versions
				eachLevel(func() {
					what := fmt.Sprintf("%s %d×%d, addends %d", levelName(), rows, cols, addends)
					check := func(name string, got []float32, want []float64) {
						t.Helper()
						for i, w := range want {
							if e := math.Abs(float64(got[i]) - w); !(e <= 2e-6*(1+math.Abs(w))) {
								t.Fatalf("%s: %s, element %d: %g, expected %g", what, name, i, got[i], w)
							}
						}
					}
					stride := cols + (rows+addends)%5
					y, lse := spread(x, cols, stride), guarded(t, rows)
					SoftmaxRows(y, lse, cols, stride, scale, add[0], add[1])
					y = gather(y, cols, stride)
					check("softmax", y, want)
					check("log-sum-exp", lse, wantLSE)
					p, dp := spread(x, cols, stride), spread(dy, cols, stride)
					SoftmaxGradRows(p, dp, lse, d, cols, stride, scale, add[0], add[1])
					p, dp = gather(p, cols, stride), gather(dp, cols, stride)
					check("softmax again", p, want)
					check("gradient", dp, grad)
					if level != portable {
						bits = append(bits, slices.Concat(y, lse, p, dp))
					}
				})
				if len(bits) == 2 && !slices.Equal(bits[0], bits[1]) {
					t.Errorf("%d×%d: AVX2 and AVX-512 give different bits", rows, cols)
				}
			}
		}
	}
}

// TestSoftmaxRowsSpecial checks rows with infinities and NaN. The results must be as in SoftmaxRow.
func TestSoftmaxRowsSpecial(t *testing.T) {
	inf, nan := float32(math.Inf(1)), float32(math.NaN())
	rows := [][]float32{{0, -inf, 0}, {-inf, -inf, -inf}, {inf, 0, 0}, {nan, 0, 1}, {1, 2, nan}, {300, 300, -300}}
	want := [][]float32{{0.5, 0, 0.5}, {nan, nan, nan}, {nan, nan, nan}, {nan, nan, nan}, {nan, nan, nan}, {0.5, 0.5, 0}}
	eachLevel(func() {
		x, lse := slices.Concat(rows...), make([]float32, len(rows))
		SoftmaxRows(x, lse, 3, 3, 1, Addend{}, Addend{})
		for i, w := range slices.Concat(want...) {
			if !(x[i] == w || x[i] != x[i] && w != w) {
				t.Errorf("%s: row %v: %v, expected %v", levelName(), rows[i/3], x[i/3*3:][:3], want[i/3])
			}
		}
		SoftmaxRows(nil, nil, 3, 3, 1, Addend{}, Addend{})
		SoftmaxGradRows(nil, nil, nil, nil, 3, 3, 1, Addend{}, Addend{})
	})
}
