package cpu

import (
	"strings"
	"testing"

	. "github.com/gomlx/gomlx/core/graph"
	"github.com/gomlx/gomlx/core/tensors"
)

// TestTerms checks that matrix products that are added up become one product with an epilogue. The
// cases are a weight and LoRA with bias and GELU, and three products in the gradient of their
// common input. The results must equal the results of the Go backend of GoMLX.
func TestTerms(t *testing.T) {
	const rows, in, out, rank = 70, 33, 40, 8
	for name, c := range map[string]struct {
		graph func(in []*Node) []*Node
		want  string // a step
	}{
		"LoRA": {func(in []*Node) []*Node {
			return []*Node{Add(Add(MatMul(in[0], in[1]), MatMul(MatMul(in[0], in[4]), in[5])), BroadcastToDims(in[6], rows, out))}
		}, "+ ["},
		"three": {func(in []*Node) []*Node {
			y := Mul(Tanh(MatMul(in[0], in[1])), Mul(Tanh(MatMul(in[0], in[2])), Tanh(MatMul(in[0], in[3]))))
			return Gradient(ReduceAllSum(y), in[0])
		}, "+ [40,33] + [40,33]"},
		"read twice": {func(in []*Node) []*Node { // the products must stay separate
			a, b := MatMul(in[0], in[1]), MatMul(in[0], in[2])
			return []*Node{Add(a, b), Tanh(a), Tanh(b)}
		}, "[33,40]"},
	} {
		t.Run(name, func(t *testing.T) {
			args := func() (all []any) {
				for i, d := range [][]int{{rows, in}, {in, out}, {in, out}, {in, out}, {in, rank}, {rank, out}, {1, out}} {
					v := normal(d[0]*d[1], uint64(i+1))
					for j := range v {
						v[j] /= 8 // keep tanh away from saturation
					}
					all = append(all, tensors.FromFlatDataAndDimensions(v, d...))
				}
				return all
			}
			be := newBackend(t)
			got, steps := run(t, be, c.graph, args()...)
			want, _ := run(t, be.plain, c.graph, args()...)
			if !strings.Contains(steps, c.want) || name == "read twice" && strings.Contains(steps, "+ [") {
				t.Errorf("the steps are\n%s", steps)
			}
			for i := range got {
				near(t, name, got[i], want[i], 1e-5)
			}
		})
	}
}
