package plan

import (
	"math"
	"math/rand/v2"
	"testing"

	"gonum.org/v1/gonum/mat"
)

// TestSingular compares the singular values that the range finder returns with those of the whole
// decomposition, for matrices with a few directions that stand out from noise.
func TestSingular(t *testing.T) {
	for _, c := range []struct{ out, in, n int }{{6, 40, 6}, {96, 24, 4}, {24, 24, 3}, {120, 200, 5}} {
		r := rand.New(rand.NewPCG(1, uint64(c.in)))
		values := make([]float32, c.out*c.in)
		for i := range values {
			values[i] = float32(0.02 * r.NormFloat64())
		}
		for k := range 3 { // planted directions of strength 3, 2 and 1
			u, v := unit(r, c.out), unit(r, c.in)
			for i := range c.out {
				for j := range c.in {
					values[i*c.in+j] += float32(float64(3-k) * u[i] * v[j])
				}
			}
		}
		sigma, err := singular(values, c.out, c.in, c.n, "test")
		if err != nil {
			t.Fatal(err)
		}
		whole := mat.NewDense(c.out, c.in, nil)
		for i, v := range values {
			whole.Set(i/c.in, i%c.in, float64(v))
		}
		var svd mat.SVD
		svd.Factorize(whole, mat.SVDNone)
		for i, want := range svd.Values(nil)[:c.n] {
			bound := 1e-3
			if i >= 3 { // noise has a flat spectrum
				bound = 0.1
			}
			if math.Abs(sigma[i]-want) > bound*want {
				t.Errorf("%d×%d: singular value %d is %v, want %v", c.out, c.in, i, sigma[i], want)
			}
		}
	}
}

func unit(r *rand.Rand, n int) []float64 {
	v, sum := make([]float64, n), 0.0
	for i := range v {
		v[i] = r.NormFloat64()
		sum += v[i] * v[i]
	}
	for i := range v {
		v[i] /= math.Sqrt(sum)
	}
	return v
}
