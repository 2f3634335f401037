package vector

import (
	"math"
	"math/rand/v2"
	"testing"
)

func TestSoftmaxRow(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 1))
	eachLevel(func() {
		for n := 1; n < 210; n++ {
			for _, scale := range []float32{0.125, 1, -2, 30, -40, 0} {
				x := random(t, n, r)
				if n > 3 && scale > 0 {
					x[n/2] = -inf // masked
				}
				var sum float64
				top := math.Inf(-1)
				for _, v := range x {
					top = max(top, float64(scale)*float64(v))
				}
				for _, v := range x {
					sum += math.Exp(float64(scale)*float64(v) - top)
				}
				y := guarded(t, n)
				lse := SoftmaxRow(y, x, scale)
				if want := top + math.Log(sum); math.Abs(float64(lse)-want) > 3e-7*(1+math.Abs(want)) {
					t.Fatalf("%s: row of %d, scale %g: lse %g, want %g", levelName(), n, scale, lse, want)
				}
				for i, got := range y {
					z := float64(scale) * float64(x[i])
					want := math.Exp(z-top) / sum
					// the error of the exponent grows with its terms z and top
					if e := math.Abs(float64(got) - want); !(e <= want*(6e-7+1.2e-7*(math.Abs(top)+math.Abs(z))) || want == 0 && got == 0 || e < 1e-44) {
						t.Fatalf("%s: row of %d, scale %g: element %d is %g, want %g", levelName(), n, scale, i, got, want)
					}
				}
			}
		}
		for _, x := range [][]float32{{-inf, -inf, -inf}, {1, nan, 2}, {1, inf, 2}} {
			y := make([]float32, len(x))
			SoftmaxRow(y, x, 1)
			if !same(y[0], nan) && x[1] != inf || !same(y[1], nan) {
				t.Errorf("%s: softmax(%v) = %v, want NaN", levelName(), x, y)
			}
		}
		if lse := SoftmaxRow(nil, nil, 1); lse != -inf {
			t.Errorf("%s: lse of an empty row is %g, want -Inf", levelName(), lse)
		}
		// Numbers that are far apart must neither overflow nor change the other results.
		y := make([]float32, 3)
		if lse := SoftmaxRow(y, []float32{1e30, -1e30, 1e30}, 1); y[0] != 0.5 || y[1] != 0 || y[2] != 0.5 || lse != 1e30 {
			t.Errorf("%s: softmax of ±1e30 = %v, lse %g", levelName(), y, lse)
		}
	})
}

// layerNorm64 computes layer norm by its formula in float64.
func layerNorm64(x, gamma, beta []float64, eps float64) (y []float64, mean, rstd float64) {
	for _, v := range x {
		mean += v / float64(len(x))
	}
	var variance float64
	for _, v := range x {
		variance += (v - mean) * (v - mean) / float64(len(x))
	}
	rstd = 1 / math.Sqrt(variance+eps)
	for i, v := range x {
		y = append(y, (v-mean)*rstd*gamma[i]+beta[i])
	}
	return y, mean, rstd
}

// TestLayerNormRow compares the row with the formula in float64. It compares the gradient with
// finite differences of this formula.
func TestLayerNormRow(t *testing.T) {
	r := rand.New(rand.NewPCG(2, 2))
	const eps = 1e-5
	eachLevel(func() {
		for _, n := range []int{2, 3, 8, 15, 16, 17, 64, 77, 192, 200} {
			for _, nils := range []int{0, 1, 2, 3} {
				x, dy, gamma, beta := random(t, n, r), random(t, n, r), random(t, n, r), random(t, n, r)
				if nils&1 != 0 {
					gamma = nil
				}
				if nils&2 != 0 {
					beta = nil
				}
				x64, gamma64, beta64 := make([]float64, n), make([]float64, n), make([]float64, n)
				for i := range n {
					x[i] += 3
					x64[i], gamma64[i] = float64(x[i]), 1
					if gamma != nil {
						gamma64[i] = float64(gamma[i])
					}
					if beta != nil {
						beta64[i] = float64(beta[i])
					}
				}
				y, dx := guarded(t, n), guarded(t, n)
				mean, rstd := LayerNormRow(y, x, gamma, beta, eps)
				want, wantMean, wantRstd := layerNorm64(x64, gamma64, beta64, eps)
				if math.Abs(float64(mean)-wantMean) > 1e-6 || math.Abs(float64(rstd)/wantRstd-1) > 1e-5 {
					t.Errorf("%s: row of %d: mean %g, want %g, rstd %g, want %g", levelName(), n, mean, wantMean, rstd, wantRstd)
				}
				for i, got := range y {
					if math.Abs(float64(got)-want[i]) > 5e-6*(1+wantRstd) {
						t.Fatalf("%s: row of %d: element %d is %g, want %g", levelName(), n, i, got, want[i])
					}
				}
				if gamma != nil {
					continue // LayerNormGradRow is the gradient of a layer norm without gamma
				}
				LayerNormGradRow(dx, dy, x, mean, rstd)
				for i, got := range dx {
					const h = 1e-5
					loss := func(d float64) (sum float64) {
						x64[i] += d
						y, _, _ := layerNorm64(x64, gamma64, beta64, eps)
						x64[i] -= d
						for j, v := range y {
							sum += v * float64(dy[j])
						}
						return sum
					}
					if want := (loss(h) - loss(-h)) / (2 * h); math.Abs(float64(got)-want) > 2e-5*(1+wantRstd*wantRstd) {
						t.Fatalf("%s: gradient of %d: element %d is %g, want %g", levelName(), n, i, got, want)
					}
				}
			}
		}
	})
}
