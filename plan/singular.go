package plan

import (
	"errors"

	"gonum.org/v1/gonum/mat"

	"github.com/sptune/spt/internal/seeded"
)

// Parameters of the randomised range finder of Halko, Martinsson and Tropp 2011 (arXiv 0909.4061,
// algorithm 4.4): columns beyond the rank, and passes that sharpen the range.
const (
	oversampling = 8
	powerPasses  = 2
)

// singular returns the n largest singular values of a row-major matrix [out, in], in descending
// order. n is at most the shorter side. It finds them in a random subspace, which name seeds: the
// values of a matrix with a flat spectrum are a few percent too low, and those of values that stand
// out are exact.
func singular(values []float32, out, in, n int, name string) ([]float64, error) {
	data := make([]float64, len(values))
	for i, v := range values {
		data[i] = float64(v)
	}
	g := mat.NewDense(out, in, data)
	var small mat.Matrix = g
	if k := n + oversampling; k < min(in, out) {
		r := seeded.Rand(0, name)
		random := mat.NewDense(in, k, nil)
		for i := range in {
			for j := range k {
				random.Set(i, j, r.NormFloat64())
			}
		}
		basis, err := orthonormal(g, random)
		for range powerPasses {
			if err == nil {
				basis, err = orthonormal(g.T(), basis)
			}
			if err == nil {
				basis, err = orthonormal(g, basis)
			}
		}
		if err != nil {
			return nil, err
		}
		projected := new(mat.Dense)
		projected.Mul(basis.T(), g)
		small = projected
	}
	var svd mat.SVD
	if !svd.Factorize(small, mat.SVDNone) {
		return nil, errNotConverged
	}
	return svd.Values(nil)[:n], nil
}

var errNotConverged = errors.New("the singular value decomposition did not converge; check that the gradient is finite")

// orthonormal returns an orthonormal basis of the columns of a·b.
func orthonormal(a, b mat.Matrix) (*mat.Dense, error) {
	var product, q mat.Dense
	product.Mul(a, b)
	var svd mat.SVD
	if !svd.Factorize(&product, mat.SVDThinU) {
		return nil, errNotConverged
	}
	svd.UTo(&q)
	return &q, nil
}
