package cpu

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"

	. "github.com/gomlx/gomlx/core/graph"

	"github.com/gomlx/compute"
	"github.com/gomlx/compute/dtypes"
	"github.com/gomlx/compute/shapes"
)

// TestAttentionOfViews computes attention with query, key and value that are strided views of one
// tensor, and checks the gradient of this tensor.
func TestAttentionOfViews(t *testing.T) {
	const b, n, h, w = 2, 21, 6, 8
	bshd, bhsd := compute.AttentionAxesLayoutBSHD, compute.AttentionAxesLayoutBHSD
	// three splits x along the axis at, which has size 3, into three tensors and transposes each
	// with perm.
	three := func(x *Node, at int, perm ...int) (out []*Node) {
		for i := range 3 {
			spec := make([]SliceAxisSpec, x.Rank())
			for a := range spec {
				spec[a] = AxisRange()
			}
			spec[at] = AxisRange(i, i+1)
			y := Squeeze(Slice(x, spec...), at)
			if perm != nil {
				y = TransposeAllAxes(y, perm...)
			}
			out = append(out, y)
		}
		return out
	}
	for _, c := range []struct {
		name   string
		layout compute.AttentionAxesLayout
		dims   []int
		qkv    func(x *Node) []*Node
	}{
		{"tokens of [q k v]", bshd, []int{b, n, 3, h, w}, func(x *Node) []*Node { return three(x, 2) }},
		{"tokens of [q k v], heads first", bhsd, []int{b, n, 3, h, w}, func(x *Node) []*Node { return three(x, 2, 0, 2, 1, 3) }},
		{"heads first, read token by token", bshd, []int{3, b, h, n, w}, func(x *Node) []*Node { return three(x, 0, 0, 2, 1, 3) }},
		{"width not innermost", bshd, []int{3, b, n, w, h}, func(x *Node) []*Node { return three(x, 0, 0, 1, 3, 2) }},
		{"every second token", bshd, []int{b, 2*n - 1, 3, h, w}, func(x *Node) []*Node {
			return three(Slice(x, AxisRange(), AxisRange().Stride(2)), 2)
		}},
		{"the first token's query, two heads for six", bshd, []int{b, n, 3, h, w}, func(x *Node) []*Node {
			q := three(x, 2)
			q[0] = Slice(q[0], AxisRange(), AxisRange(0, 1))
			for i := 1; i < 3; i++ {
				q[i] = Slice(q[i], AxisRange(), AxisRange(), AxisRange(2, 4))
			}
			return q
		}},
		{"keys of another number of tokens, two heads for six", bshd, []int{b, n, 3, h, w}, func(x *Node) []*Node {
			q := three(x, 2)
			for i := 1; i < 3; i++ {
				q[i] = Slice(q[i], AxisRange(), AxisRange(5, 12), AxisRange(1, 3))
			}
			return q
		}},
		{"one image's keys for all", bhsd, []int{3, b, h, n, w}, func(x *Node) []*Node {
			q := three(x, 0)
			for i := 1; i < 3; i++ {
				q[i] = BroadcastToDims(Slice(q[i], AxisRange(0, 1)), b, h, n, w)
			}
			return q
		}},
	} {
		for _, scale := range []float64{0, 0.7, -0.4} {
			t.Run(fmt.Sprint(c.name, ", scale ", scale), func(t *testing.T) {
				be := newBackend(t)
				x := normal(shapeOf(c.dims).Size(), 1)
				graph := func(fused bool) graphFunc {
					return func(in []*Node) []*Node {
						qkv := c.qkv(in[0])
						var y, lse *Node
						if fused {
							var states []*Node
							y, states = BackendFusedScaledDotProductAttention(qkv[0], qkv[1], qkv[2], c.layout, &compute.ScaledDotProductAttentionConfig{Scale: scale})
							lse = states[0]
						} else {
							by := scale
							if by == 0 {
								by = 1 / math.Sqrt(w)
							}
							y, lse = decomposedAttention(qkv[0], qkv[1], qkv[2], c.layout, by)
						}
						// dy is strided too: the transpose of a row-major tensor.
						dy := TransposeAllAxes(Reshape(Sin(IotaFull(y.Graph(), shapes.Make(dtypes.Float32, y.Shape().Size()))), y.Shape().Dim(3), y.Shape().Dim(2), y.Shape().Dim(1), y.Shape().Dim(0)), 3, 2, 1, 0)
						return []*Node{y, lse, Gradient(ReduceAllSum(Mul(y, dy)), in[0])[0]}
					}
				}
				be.startTimings()
				got := execute(t, compiled(t, be, graph(true), c.dims), []compute.Buffer{upload(t, be, x, c.dims...)}, nil)
				steps := stepNames(be)
				for _, name := range []string{"attention FusedScaledDotProductAttention [", "attention FusedScaledDotProductAttentionVJP ["} {
					if strings.Count(steps, name) != 1 {
						t.Errorf("expected one step %q:\n%s", name, steps)
					}
				}
				want := execute(t, compiled(t, be.plain, graph(false), c.dims), []compute.Buffer{upload(t, be.plain, x, c.dims...)}, nil)
				for i, what := range []string{"output", "log-sum-exp", "gradient"} {
					near(t, what, got[i], want[i], 2e-5)
				}
			})
		}
	}
}

// stepNames returns the steps that ran since startTimings, one line for each kind of step.
func stepNames(be *backend) string {
	var b strings.Builder
	for _, s := range be.stopTimings() {
		fmt.Fprintln(&b, s.Kind, s.Detail)
	}
	return b.String()
}

// TestAttentionFarScores checks attention with scores that are close together but overflow exp. The
// result must equal the formula after the greatest score is subtracted.
func TestAttentionFarScores(t *testing.T) {
	be := newBackend(t)
	dims := []int{1, 9, 2, 4}
	far := normal(72, 2)
	for i := range far {
		far[i] += 100
	}
	run := func(b compute.Backend, fused bool) [][]float32 {
		return execute(t, compiled(t, b, func(in []*Node) []*Node {
			y, lse := decomposedAttention(in[0], in[1], in[2], compute.AttentionAxesLayoutBSHD, 0.5)
			if fused {
				var states []*Node
				y, states = BackendFusedScaledDotProductAttention(in[0], in[1], in[2], compute.AttentionAxesLayoutBSHD, nil)
				lse = states[0]
			}
			return append([]*Node{y, lse}, Gradient(ReduceAllSum(Mul(y, in[3])), in[:3]...)...)
		}, dims, dims, dims, dims), []compute.Buffer{upload(t, b, normal(72, 1), dims...), upload(t, b, far, dims...), upload(t, b, normal(72, 3), dims...), upload(t, b, normal(72, 4), dims...)}, nil)
	}
	want := run(be.plain, false)
	if most := slices.Max(want[1]); most < 200 {
		t.Fatalf("the greatest log-sum-exp is %g, so no score overflows exp", most)
	}
	for i, got := range run(be, true) {
		// Scores of several hundred have errors of 3e-5. In the gradient of the query, keys of
		// about 100 multiply the errors of dS.
		near(t, fmt.Sprint("output ", i), got, want[i], 1e-3)
	}
}

// TestAttentionOfOtherForms checks that the backend returns ErrNotImplemented for attention that it
// does not run itself, so that callers use the decomposed form.
func TestAttentionOfOtherForms(t *testing.T) {
	be := newBackend(t)
	q := shapes.Make(dtypes.Float32, 2, 3, 5, 4)
	layout := compute.AttentionAxesLayoutBHSD
	forms := map[string]func(f compute.Function) (*compute.ScaledDotProductAttentionConfig, error){
		"causal": func(compute.Function) (*compute.ScaledDotProductAttentionConfig, error) {
			return &compute.ScaledDotProductAttentionConfig{Causal: true}, nil
		},
		"mask": func(f compute.Function) (*compute.ScaledDotProductAttentionConfig, error) {
			m, err := f.Parameter("mask", shapes.Make(dtypes.Bool, 5, 5), nil)
			return &compute.ScaledDotProductAttentionConfig{Mask: m}, err
		},
		"one bias for all keys": func(f compute.Function) (*compute.ScaledDotProductAttentionConfig, error) {
			m, err := f.Parameter("bias", shapes.Make(dtypes.Float32, 2, 3, 5, 1), nil)
			return &compute.ScaledDotProductAttentionConfig{Bias: m}, err
		},
		"lengths": func(f compute.Function) (*compute.ScaledDotProductAttentionConfig, error) {
			m, err := f.Parameter("lengths", shapes.Make(dtypes.Int32, 2), nil)
			return &compute.ScaledDotProductAttentionConfig{QuerySeqLen: m, KeyValueSeqLen: m}, err
		},
		"values of another width": nil,
		"float64":                 nil,
		"in a closure":            nil,
	}
	for name, config := range forms {
		t.Run(name, func(t *testing.T) {
			f := be.Builder(name).Main()
			of := q
			if name == "float64" {
				of = shapes.Make(dtypes.Float64, q.Dimensions...)
			}
			var in [3]compute.Value
			for i := range in {
				if name == "values of another width" && i == 2 {
					of = shapes.Make(dtypes.Float32, 2, 3, 5, 6)
				}
				var err error
				if in[i], err = f.Parameter(fmt.Sprint(i), of, nil); err != nil {
					t.Fatal(err)
				}
			}
			var c *compute.ScaledDotProductAttentionConfig
			if config != nil {
				var err error
				if c, err = config(f); err != nil {
					t.Fatal(err)
				}
			}
			if name == "in a closure" {
				var err error
				if f, err = f.Closure(); err != nil {
					t.Fatal(err)
				}
			}
			if _, _, err := f.FusedScaledDotProductAttention(in[0], in[1], in[2], layout, c); !errors.Is(err, compute.ErrNotImplemented) {
				t.Errorf("forward: %v, expected %v", err, compute.ErrNotImplemented)
			}
			if _, _, _, err := f.FusedScaledDotProductAttentionVJP(in[0], in[1], in[2], layout, c, in[0], []compute.Value{in[0]}, in[0]); !errors.Is(err, compute.ErrNotImplemented) {
				t.Errorf("gradient: %v, expected %v", err, compute.ErrNotImplemented)
			}
		})
	}
}

// TestAttentionFallsBack checks that a caller that offers both forms gets the decomposed form of
// causal attention and its gradient.
func TestAttentionFallsBack(t *testing.T) {
	be := newBackend(t)
	dims := []int{2, 3, 7, 4}
	run := func(b compute.Backend) [][]float32 {
		return execute(t, compiled(t, b, func(in []*Node) []*Node {
			y, fused := InternalFusedOpCaller(func() *Node {
				y, _ := BackendFusedScaledDotProductAttention(in[0], in[1], in[2], compute.AttentionAxesLayoutBHSD, &compute.ScaledDotProductAttentionConfig{Causal: true})
				return y
			}, func() *Node {
				scores := MulScalar(DotGeneral(in[0], []int{3}, []int{0, 1}, in[1], []int{3}, []int{0, 1}), 0.5)
				causal := BroadcastToDims(Reshape(LowerTriangular(in[0].Graph(), 7), 1, 1, 7, 7), 2, 3, 7, 7)
				return DotGeneral(MaskedSoftmax(scores, causal, -1), []int{3}, []int{0, 1}, in[2], []int{2}, []int{0, 1})
			}, true)
			if fused {
				t.Error("causal attention ran as one operation")
			}
			return append([]*Node{y}, Gradient(ReduceAllSum(Mul(y, in[2])), in...)...)
		}, dims, dims, dims), []compute.Buffer{upload(t, b, normal(168, 1), dims...), upload(t, b, normal(168, 2), dims...), upload(t, b, normal(168, 3), dims...)}, nil)
	}
	want := run(be.plain)
	for i, got := range run(be) {
		near(t, fmt.Sprint("output ", i), got, want[i], 1e-5)
	}
}
