package cpu

import (
	"fmt"
	"math"
	"strings"
	"testing"

	. "github.com/gomlx/gomlx/core/graph"
	"github.com/gomlx/gomlx/core/tensors"
	"github.com/gomlx/gomlx/ml/nn"
)

// TestLayerNormGradient checks that the compiler recognises the gradient of layer norm, with and
// without weight and bias, and with and without a residual connection. It compares the result with
// the derivative in float64.
func TestLayerNormGradient(t *testing.T) {
	be := newBackend(t)
	const rows, cols, eps = 30, 48, 1e-3
	x, gamma, beta, dy := normal(rows*cols, 1), normal(cols, 2), normal(cols, 3), normal(rows*cols, 4)
	for i := range x {
		x[i] += float32(i / cols) // each row has another mean
	}
	for _, dims := range [][]int{{rows, cols}, {5, rows / 5, cols}} {
		for _, affine := range []bool{true, false} {
			for _, residual := range []bool{true, false} {
				t.Run(fmt.Sprintf("%dD affine %t residual %t", len(dims), affine, residual), func(t *testing.T) {
					out, steps := run(t, be, func(in []*Node) []*Node {
						with := in[:1]
						var w, b *Node
						if affine {
							w, b, with = in[1], in[2], in[:3]
						}
						y := nn.LayerNorm(in[0], []int{-1}, eps, w, b, nil)
						if residual {
							y = Add(y, in[0])
						}
						return Gradient(ReduceAllSum(Mul(y, in[3])), with...)
					}, tensors.FromFlatDataAndDimensions(x, dims...), tensors.FromFlatDataAndDimensions(gamma, cols),
						tensors.FromFlatDataAndDimensions(beta, cols), tensors.FromFlatDataAndDimensions(dy, dims...))
					if !strings.Contains(steps, "LayerNormGrad") || strings.Contains(steps, "Sqrt") {
						t.Errorf("the gradient was not recognised:\n%s", steps)
					}
					want := [][]float64{make([]float64, rows*cols), make([]float64, cols), make([]float64, cols)}
					for r := range rows {
						mean, variance, g1, gh := 0.0, 0.0, 0.0, 0.0
						at := r * cols
						for j := range cols {
							mean += float64(x[at+j]) / cols
						}
						for j := range cols {
							variance += math.Pow(float64(x[at+j])-mean, 2) / cols
						}
						rstd := 1 / math.Sqrt(variance+eps)
						h, g := make([]float64, cols), make([]float64, cols)
						for j := range cols {
							v := float64(dy[at+j])
							h[j], g[j] = (float64(x[at+j])-mean)*rstd, v
							if affine {
								g[j] *= float64(gamma[j])
							}
							want[1][j] += v * h[j]
							want[2][j] += v
							g1 += g[j] / cols
							gh += g[j] * h[j] / cols
						}
						for j := range cols {
							want[0][at+j] = rstd * (g[j] - g1 - h[j]*gh)
							if residual {
								want[0][at+j] += float64(dy[at+j])
							}
						}
					}
					for k := range out {
						for i, got := range out[k] {
							if math.Abs(float64(got)-want[k][i]) > 1e-5*math.Max(1, math.Abs(want[k][i])) {
								t.Fatalf("gradient %d, element %d: %g, expected %g", k, i, got, want[k][i])
							}
						}
					}
				})
			}
		}
	}
}

// TestLayerNormLookalikes checks that the compiler does not recognise formulas that differ from the
// gradient of layer norm in one place. The results must equal the results of the Go backend of
// GoMLX.
func TestLayerNormLookalikes(t *testing.T) {
	const rows, cols = 12, 32
	x, dy := normal(rows*cols, 1), normal(rows*cols, 2)
	for name, sigma := range map[string]func(x, centred *Node) *Node{
		"second moment": func(x, _ *Node) *Node { return Sqrt(AddScalar(ReduceAndKeep(Square(x), ReduceMean, -1), 1e-3)) },
		"sum":           func(_, c *Node) *Node { return Sqrt(AddScalar(ReduceAndKeep(Square(c), ReduceSum, -1), 1e-3)) },
		"no root":       func(_, c *Node) *Node { return AddScalar(ReduceAndKeep(Square(c), ReduceMean, -1), 1e-3) },
	} {
		t.Run(name, func(t *testing.T) {
			f := func(in []*Node) []*Node {
				c := Sub(in[0], ReduceAndKeep(in[0], ReduceMean, -1))
				return Gradient(ReduceAllSum(Mul(Div(c, sigma(in[0], c)), in[1])), in[0])
			}
			in := func() []any {
				return []any{tensors.FromFlatDataAndDimensions(x, rows, cols), tensors.FromFlatDataAndDimensions(dy, rows, cols)}
			}
			be := newBackend(t)
			got, steps := run(t, be, f, in()...)
			if strings.Contains(steps, "LayerNorm") {
				t.Errorf("recognised as a layer norm:\n%s", steps)
			}
			want, _ := run(t, be.plain, f, in()...)
			near(t, name, got[0], want[0], 1e-5)
		})
	}
}
