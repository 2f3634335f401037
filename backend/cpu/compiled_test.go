package cpu

import (
	"fmt"
	"math"
	"slices"
	"testing"

	. "github.com/gomlx/gomlx/core/graph"
	"github.com/gomlx/gomlx/core/tensors"
	"github.com/gomlx/gomlx/ml/nn"

	"github.com/gomlx/compute"
	"github.com/gomlx/compute/dtypes"
	"github.com/gomlx/compute/shapes"
)

// graphFunc builds the outputs of a program from its parameters.
type graphFunc func(in []*Node) []*Node

// compiled compiles fn on be for inputs of the given dimensions. An input is int32 if its first
// dimension is negative, and float32 otherwise.
func compiled(t testing.TB, be compute.Backend, fn graphFunc, dims ...[]int) compute.Executable {
	t.Helper()
	g := NewGraph(be, t.Name())
	var in []*Node
	for i, d := range dims {
		in = append(in, Parameter(g, fmt.Sprint("p", i), shapeOf(d)))
	}
	if err := g.Compile(fn(in)...); err != nil {
		t.Fatal(err)
	}
	return g.Executable()
}

func shapeOf(d []int) shapes.Shape {
	if len(d) > 0 && d[0] < 0 {
		d = slices.Clone(d)
		d[0] = -d[0]
		return shapes.Make(dtypes.Int32, d...)
	}
	return shapes.Make(dtypes.Float32, d...)
}

// upload copies values to a backend. shapeOf defines the meaning of d.
func upload(t testing.TB, be compute.Backend, flat any, d ...int) compute.Buffer {
	t.Helper()
	b, err := be.BufferFromFlatData(0, flat, shapeOf(d))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// contents returns a copy of the values of a float32 buffer.
func contents(t testing.TB, b compute.Buffer) []float32 {
	t.Helper()
	s, err := b.Shape()
	if err != nil {
		t.Fatal(err)
	}
	v := make([]float32, s.Size())
	if err := b.ToFlatData(v); err != nil {
		t.Fatal(err)
	}
	return v
}

// execute runs a program and copies its float32 outputs.
func execute(t testing.TB, exec compute.Executable, in []compute.Buffer, donate []bool) (out [][]float32) {
	t.Helper()
	results, err := exec.Execute(in, donate, 0)
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range results {
		out = append(out, contents(t, r))
	}
	return out
}

// near compares values with a tolerance relative to the largest expected magnitude.
func near(t testing.TB, what string, got, want []float32, tolerance float64) {
	t.Helper()
	if len(got) != len(want) {
		t.Fatalf("%s: %d values, expected %d", what, len(got), len(want))
	}
	scale := 0.0
	for _, w := range want {
		scale = max(scale, math.Abs(float64(w)))
	}
	for i, w := range want {
		if d := math.Abs(float64(got[i]) - float64(w)); !(d <= tolerance*scale) {
			t.Fatalf("%s, element %d: %g, expected %g; the largest magnitude is %g, the relative tolerance is %g", what, i, got[i], w, scale, tolerance)
		}
	}
}

// sameBits compares floats as bits. Zeros of different signs differ, and a NaN is equal to itself.
func sameBits(a, b []float32) bool {
	return slices.EqualFunc(a, b, func(x, y float32) bool { return math.Float32bits(x) == math.Float32bits(y) })
}

// tuningStep is a small training step. It has the blocks of a vision transformer over tokens
// [batch, tokens, width]. Gradient descent with momentum trains a LoRA module on the query, single
// entries of fc1 and a head.
type tuningStep struct {
	batch, tokens, width, heads, hidden, depth int
	rank, entries                              int
}

// smallStep runs in milliseconds. Its matrix products are large enough for the packed kernels, and
// its hidden rows are long enough for several chunks of work.
var smallStep = tuningStep{batch: 4, tokens: 37, width: 64, heads: 4, hidden: 256, depth: 2, rank: 4, entries: 50}

const classes = 5

// inputs returns the dimensions of the inputs: the tokens, the weights of each block, and then the
// trained tensors and their momentum. An optimiser donates the last two.
func (s tuningStep) inputs() (dims [][]int, donate []bool) {
	d, h := s.width, s.hidden
	dims = [][]int{{s.batch, s.tokens, d}}
	for range s.depth {
		dims = append(dims, []int{d}, []int{d}, []int{d, d}, []int{d, d}, []int{d, d}, []int{d, d}, []int{d},
			[]int{d}, []int{d}, []int{h, d}, []int{h}, []int{d, h}, []int{d}, []int{-s.entries})
	}
	donate = make([]bool, len(dims))
	for _, p := range s.trained() {
		dims = append(dims, p, p)
		donate = append(donate, true, true)
	}
	return dims, donate
}

func (s tuningStep) trained() (dims [][]int) {
	for range s.depth {
		dims = append(dims, []int{s.rank, s.width}, []int{s.width, s.rank}, []int{s.entries})
	}
	return append(dims, []int{classes, s.width})
}

// values draws random inputs. The weights have magnitudes like the weights of a trained model.
func (s tuningStep) values() (flat []any) {
	dims, _ := s.inputs()
	for i, d := range dims {
		n := shapeOf(d).Size()
		if d[0] < 0 {
			at := make([]int32, n)
			for j := range at {
				at[j] = int32(j * (s.hidden*s.width - 1) / (n - 1)) // first and last entry included
			}
			flat = append(flat, at)
			continue
		}
		v := normal(n, uint64(i))
		for j := range v {
			switch {
			case i == 0:
			case len(d) == 2:
				v[j] /= float32(2 * math.Sqrt(float64(d[1])))
			default:
				v[j] = v[j]/20 + 1
			}
		}
		flat = append(flat, v)
	}
	return flat
}

// upload puts the inputs on be.
func (s tuningStep) upload(t testing.TB, be compute.Backend) (in []compute.Buffer) {
	t.Helper()
	dims, _ := s.inputs()
	for i, v := range s.values() {
		in = append(in, upload(t, be, v, dims[i]...))
	}
	return in
}

// graph returns the loss, and the new value and the new momentum of each trained tensor.
func (s tuningStep) graph(in []*Node) []*Node {
	next := func() *Node {
		n := in[0]
		in = in[1:]
		return n
	}
	x := next()
	var frozen [][]*Node
	for range s.depth {
		var block []*Node
		for range 14 {
			block = append(block, next())
		}
		frozen = append(frozen, block)
	}
	var tuned, momentum []*Node
	for range s.trained() {
		tuned, momentum = append(tuned, next()), append(momentum, next())
	}
	linear := func(x, w, bias *Node) *Node {
		y := DotGeneral(x, []int{x.Rank() - 1}, nil, w, []int{1}, nil)
		if bias != nil {
			y = Add(y, ExpandLeftToRank(bias, y.Rank()))
		}
		return y
	}
	for i, w := range frozen {
		a, b, values := tuned[3*i], tuned[3*i+1], tuned[3*i+2]
		y := nn.LayerNorm(x, []int{2}, 1e-6, w[0], w[1], nil)
		query := Add(linear(y, w[2], nil), linear(linear(y, a, nil), b, nil))
		x = Add(x, linear(s.attention(query, linear(y, w[3], nil), linear(y, w[4], nil)), w[5], w[6]))
		y = nn.LayerNorm(x, []int{2}, 1e-6, w[7], w[8], nil)
		fc1 := Reshape(ScatterSum(Reshape(w[9], -1), ExpandDims(w[13], -1), values, true, true), s.hidden, s.width)
		x = Add(x, linear(gelu(linear(y, fc1, w[10])), w[11], w[12]))
	}
	logits := linear(ReduceMean(x, 1), tuned[len(tuned)-1], nil)
	loss := Neg(ReduceAllMean(Slice(LogSoftmax(logits), AxisRange(), AxisRange(1, 2))))
	out := []*Node{loss}
	for i, g := range Gradient(loss, tuned...) {
		m := Add(MulScalar(momentum[i], 0.9), MulScalar(g, 0.1))
		out = append(out, Sub(tuned[i], MulScalar(m, 0.5)), m)
	}
	return out
}

func gelu(x *Node) *Node {
	y, _ := InternalFusedOpCaller(
		func() *Node { return BackendFusedGelu(x, true) },
		func() *Node { return MulScalar(Mul(x, OnePlus(Erf(MulScalar(x, math.Sqrt(0.5))))), 0.5) }, true)
	return y
}

// attention is one operation if the backend has its gradient, and the decomposed form otherwise.
func (s tuningStep) attention(q, k, v *Node) *Node {
	width := s.width / s.heads
	for _, x := range []**Node{&q, &k, &v} {
		*x = Reshape(*x, s.batch, s.tokens, s.heads, width)
	}
	var y *Node
	if q.Graph().Backend().Capabilities().Operations[compute.OpTypeFusedScaledDotProductAttentionVJP] {
		y, _ = BackendFusedScaledDotProductAttention(q, k, v, compute.AttentionAxesLayoutBSHD, nil)
	} else {
		y, _ = decomposedAttention(q, k, v, compute.AttentionAxesLayoutBSHD, 1/math.Sqrt(float64(width)))
	}
	return Reshape(y, s.batch, s.tokens, s.width)
}

// decomposedAttention computes softmax(scale·Q·Kᵀ)·V and the log-sum-exp of each row of scores
// [batch, heads, seq] with the operations of the formula. Each head of key and value serves a group
// of neighbouring heads of the query.
func decomposedAttention(q, k, v *Node, layout compute.AttentionAxesLayout, scale float64) (y, lse *Node) {
	if layout == compute.AttentionAxesLayoutBSHD {
		q, k, v = TransposeAllAxes(q, 0, 2, 1, 3), TransposeAllAxes(k, 0, 2, 1, 3), TransposeAllAxes(v, 0, 2, 1, 3)
	}
	d := k.Shape().Dimensions
	heads := q.Shape().Dim(1)
	for _, x := range []**Node{&k, &v} {
		*x = Reshape(BroadcastToDims(Reshape(*x, d[0], d[1], 1, d[2], d[3]), d[0], d[1], heads/d[1], d[2], d[3]), d[0], heads, d[2], d[3])
	}
	scores := MulScalar(DotGeneral(q, []int{3}, []int{0, 1}, k, []int{3}, []int{0, 1}), scale)
	top := StopGradient(ReduceAndKeep(scores, ReduceMax, 3))
	e := Exp(Sub(scores, top))
	sum := ReduceAndKeep(e, ReduceSum, 3)
	y = DotGeneral(Div(e, sum), []int{3}, []int{0, 1}, v, []int{2}, []int{0, 1})
	if layout == compute.AttentionAxesLayoutBSHD {
		y = TransposeAllAxes(y, 0, 2, 1, 3)
	}
	return y, Squeeze(Add(top, Log(sum)), 3)
}

// TestTuningStep runs the step three times, each time with the state of the previous run, and
// compares it with the Go backend of GoMLX.
func TestTuningStep(t *testing.T) {
	t.Parallel()
	be := newBackend(t)
	dims, donate := smallStep.inputs()
	first := slices.Index(donate, true)
	step := func(be compute.Backend) (out [][]float32) {
		exec := compiled(t, be, smallStep.graph, dims...)
		in := smallStep.upload(t, be)
		for range 3 {
			results, err := exec.Execute(in, donate, 0)
			if err != nil {
				t.Fatal(err)
			}
			copy(in[first:], results[1:])
			out = append(out, contents(t, results[0]))
		}
		for _, b := range in[first:] {
			out = append(out, contents(t, b))
		}
		return out
	}
	want := step(be.plain)
	for i, got := range step(be) {
		near(t, fmt.Sprint("output ", i), got, want[i], 1e-5)
	}
}

// TestNeighbours checks matrix products next to operations that look like an epilogue or a patched
// weight but are not.
func TestNeighbours(t *testing.T) {
	own := newBackend(t)
	dot := func(a, b *Node) *Node { return DotGeneral(a, []int{1}, nil, b, []int{1}, nil) }
	scattered := func(in []*Node) *Node {
		return Reshape(ScatterSum(Reshape(in[1], 800), ExpandDims(in[2], -1), in[3], false, false), 40, 20)
	}
	pick := func(x, at *Node) *Node { return Gather(Reshape(x, x.Shape().Size()), ExpandDims(at, -1)) }
	for name, fn := range map[string]func(in []*Node) *Node{
		"GELU and tanh of a product":    func(in []*Node) *Node { z := dot(in[0], in[1]); return Add(gelu(z), Tanh(z)) },
		"GELU of a product and itself":  func(in []*Node) *Node { z := dot(in[0], in[1]); return Add(gelu(z), z) },
		"GELU and product of a product": func(in []*Node) *Node { z := dot(in[0], in[1]); return Add(gelu(z), dot(z, in[4])) },
		"entries of a dense layer": func(in []*Node) *Node {
			return pick(BackendFusedDense(in[0], TransposeAllAxes(in[1], 1, 0), in[5], compute.DenseConfig{Activation: compute.ActivationGelu}), in[2])
		},
		"entries with a patched weight":  func(in []*Node) *Node { return pick(dot(in[0], scattered(in)), in[2]) },
		"part of a patched weight":       func(in []*Node) *Node { return dot(in[0], Slice(scattered(in), AxisRange(0, 17))) },
		"a patched weight and the whole": func(in []*Node) *Node { w := scattered(in); return Add(dot(in[0], w), ReduceAllSum(w)) },
	} {
		build := func(in []*Node) []*Node { return []*Node{fn(in)} }
		args := func() []any {
			return []any{tensors.FromFlatDataAndDimensions(normal(30*20, 1), 30, 20), tensors.FromFlatDataAndDimensions(normal(40*20, 2), 40, 20),
				tensors.FromFlatDataAndDimensions([]int32{5, 100, 790}, 3), tensors.FromFlatDataAndDimensions(normal(3, 3), 3),
				tensors.FromFlatDataAndDimensions(normal(40*40, 4), 40, 40), tensors.FromFlatDataAndDimensions(normal(40, 5), 40)}
		}
		got, _ := run(t, own, build, args()...)
		want, _ := run(t, own.plain, build, args()...)
		near(t, name, got[0], want[0], 1e-5)
	}
}
