package cpu

import (
	"fmt"
	"math"
	"strings"
	"testing"

	. "github.com/gomlx/gomlx/core/graph"

	"github.com/gomlx/compute"
)

// windowAttention computes attention within windows in the form that backbones use. q, k and v are
// [images·windows, tokens, heads, width]. bias [1, heads, tokens, tokens] is the same for all
// windows. mask is [windows, 1, tokens, tokens], or nil for no mask. Bias and mask get no gradient.
func windowAttention(q, k, v, bias, mask *Node) *Node {
	config := &compute.ScaledDotProductAttentionConfig{Bias: InternalBackendOutputs(bias)[0]}
	if mask != nil {
		windows, tokens := mask.Shape().Dim(0), mask.Shape().Dim(2)
		images := q.Shape().Dim(0) / windows
		mask = BroadcastToDims(Reshape(mask, 1, windows, 1, tokens, tokens), images, windows, 1, tokens, tokens)
		config.Mask = InternalBackendOutputs(Reshape(mask, images*windows, 1, tokens, tokens))[0]
	}
	y, _ := BackendFusedScaledDotProductAttention(q, k, v, compute.AttentionAxesLayoutBSHD, config)
	return y
}

// plainWindowAttention computes the same result with the formula.
func plainWindowAttention(q, k, v, bias, mask *Node) *Node {
	scores := MulScalar(Einsum("bqhd,bkhd->bhqk", q, k), 1/math.Sqrt(float64(q.Shape().Dim(3))))
	scores = Add(scores, bias)
	if mask != nil {
		windows, tokens := mask.Shape().Dim(0), mask.Shape().Dim(2)
		dims := scores.Shape().Dimensions
		scores = Reshape(Add(Reshape(scores, dims[0]/windows, windows, dims[1], tokens, tokens), Reshape(mask, 1, windows, 1, tokens, tokens)), dims...)
	}
	return Einsum("bhqk,bkhd->bqhd", Softmax(scores, -1), v)
}

// TestWindowAttention compares the value and the gradients with the formula, and checks that the
// mask is not repeated in memory.
func TestWindowAttention(t *testing.T) {
	for _, c := range []struct{ images, windows, tokens, heads, width int }{{3, 4, 49, 3, 32}, {2, 1, 49, 2, 32}, {1, 9, 16, 1, 8}, {2, 2, 144, 2, 32}, {2, 3, 1, 2, 4}, {2, 3, 5, 2, 3}} {
		for _, masked := range []bool{false, true} {
			t.Run(fmt.Sprint(c, masked), func(t *testing.T) {
				be := newBackend(t)
				qkv := []int{c.images * c.windows, c.tokens, 3, c.heads, c.width}
				table, mask := []int{1, c.heads, c.tokens, c.tokens}, []int{c.windows, 1, c.tokens, c.tokens}
				y := []int{c.images * c.windows, c.tokens, c.heads, c.width}
				far := normal(shapeOf(mask).Size(), 3)
				for i := range far {
					if far[i] < 1 {
						far[i] = 0
					} else {
						far[i] = -100
					}
				}
				run := func(b compute.Backend, attention func(q, k, v, bias, mask *Node) *Node) [][]float32 {
					return execute(t, compiled(t, b, func(in []*Node) []*Node {
						var parts [3]*Node
						for i := range parts {
							parts[i] = Squeeze(Slice(in[0], AxisRange(), AxisRange(), AxisRange(i, i+1)), 2)
						}
						var m *Node
						if masked {
							m = in[2]
						}
						y := attention(parts[0], parts[1], parts[2], in[1], m)
						return []*Node{y, Gradient(ReduceAllSum(Mul(y, in[3])), in[0])[0]}
					}, qkv, table, mask, y), []compute.Buffer{
						upload(t, b, normal(shapeOf(qkv).Size(), 1), qkv...), upload(t, b, normal(shapeOf(table).Size(), 2), table...),
						upload(t, b, far, mask...), upload(t, b, normal(shapeOf(y).Size(), 4), y...)}, nil)
				}
				be.startTimings()
				got := run(be, windowAttention)
				steps := stepNames(be)
				if strings.Contains(steps, fmt.Sprint([]int{c.images, c.windows, 1, c.tokens, c.tokens})) || strings.Count(steps, "FusedScaledDotProductAttention") != 2 {
					t.Errorf("expected attention, its gradient and no copy of the mask:\n%s", steps)
				}
				for i, want := range run(be.plain, plainWindowAttention) {
					near(t, fmt.Sprint("output ", i), got[i], want, 1e-5)
				}
			})
		}
	}
}

// TestAttentionAddends checks every supported shape of a mask and a bias.
func TestAttentionAddends(t *testing.T) {
	const b, h, s, kv, w = 4, 3, 5, 6, 8
	q, k := []int{b, s, h, w}, []int{b, kv, h, w}
	shapes := [][]int{{s, kv}, {1, kv}, {h, s, kv}, {h, 1, kv}, {1, s, kv}, {b, h, s, kv}, {b, 1, s, kv}, {b, 1, 1, kv}, {1, h, s, kv}, {1, 1, 1, kv}}
	for i, mask := range shapes {
		bias := shapes[(i*3+1)%len(shapes)]
		for form, transposed := range map[string]bool{"": false, ", transposed": true} {
			t.Run(fmt.Sprint(mask, bias, form), func(t *testing.T) {
				be := newBackend(t)
				stored := mask
				if transposed {
					stored = append(append([]int{}, mask[:len(mask)-2]...), mask[len(mask)-1], mask[len(mask)-2])
				}
				run := func(be compute.Backend, fused bool) [][]float32 {
					return execute(t, compiled(t, be, func(in []*Node) []*Node {
						m := in[2]
						if transposed {
							m = Transpose(m, -2, -1)
						}
						var y *Node
						if fused {
							y, _ = BackendFusedScaledDotProductAttention(in[0], in[1], in[1], compute.AttentionAxesLayoutBSHD, &compute.ScaledDotProductAttentionConfig{
								Mask: InternalBackendOutputs(m)[0], Bias: InternalBackendOutputs(in[3])[0], Scale: 0.6})
						} else {
							scores := MulScalar(Einsum("bqhd,bkhd->bhqk", in[0], in[1]), 0.6)
							for _, x := range []*Node{m, in[3]} {
								scores = Add(scores, BroadcastToDims(ExpandLeftToRank(x, 4), b, h, s, kv))
							}
							y = Einsum("bhqk,bkhd->bqhd", Softmax(scores, -1), in[1])
						}
						return append([]*Node{y}, Gradient(ReduceAllSum(Mul(y, y)), in[0], in[1])...)
					}, q, k, stored, bias), []compute.Buffer{upload(t, be, normal(b*s*h*w, 1), q...), upload(t, be, normal(b*kv*h*w, 2), k...),
						upload(t, be, normal(shapeOf(stored).Size(), 3), stored...), upload(t, be, normal(shapeOf(bias).Size(), 4), bias...)}, nil)
				}
				want := run(be.plain, false)
				for i, got := range run(be, true) {
					near(t, fmt.Sprint("output ", i), got, want[i], 1e-5)
				}
			})
		}
	}
}
