package cpu

import (
	"fmt"
	"math"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"

	. "github.com/gomlx/gomlx/core/graph"
	"github.com/gomlx/gomlx/core/tensors"

	"github.com/gomlx/compute"
	"github.com/gomlx/compute/dtypes"
	"github.com/gomlx/compute/shapes"
)

// agree compares with an oracle, relative to the oracle's largest value.
func agree(t *testing.T, what string, got, want []float32, bound float64) {
	t.Helper()
	if len(got) != len(want) {
		t.Fatalf("%s: %d values, expected %d", what, len(got), len(want))
	}
	most := 1e-3
	for _, w := range want {
		most = max(most, math.Abs(float64(w)))
	}
	for i, w := range want {
		if d := math.Abs(float64(got[i]) - float64(w)); !(d <= bound*most) {
			t.Fatalf("%s: element %d is %g, expected %g", what, i, got[i], w)
		}
	}
}

// TestAttention compares attention and its gradients with the formula,
// differentiated and run on GoMLX's Go backend: both layouts, other lengths of
// query and key, grouped heads, a scale, operands that are views.
func TestAttention(t *testing.T) {
	own := newBackend(t)
	for _, c := range []struct {
		layout                            compute.AttentionAxesLayout
		batch, heads, groups, n, m, width int
		scale                             float64
		view                              bool
	}{
		{compute.AttentionAxesLayoutBSHD, 2, 3, 3, 17, 17, 8, 0, false},
		{compute.AttentionAxesLayoutBSHD, 2, 3, 3, 1, 19, 8, 0, true},
		{compute.AttentionAxesLayoutBSHD, 1, 2, 2, 40, 33, 64, 0.3, true},
		{compute.AttentionAxesLayoutBHSD, 3, 2, 2, 5, 9, 4, 0, false},
		{compute.AttentionAxesLayoutBHSD, 2, 6, 2, 11, 7, 16, 0.5, true},
	} {
		dims := func(heads, n int) []int {
			if c.layout == compute.AttentionAxesLayoutBSHD {
				return []int{c.batch, n, heads, c.width}
			}
			return []int{c.batch, heads, n, c.width}
		}
		args := func() (in []any) {
			for i, d := range [][]int{dims(c.heads, c.n), dims(c.groups, c.m), dims(c.groups, c.m), dims(c.heads, c.n)} {
				d = slices.Clone(d)
				if c.view {
					d[1] += 2
				}
				in = append(in, tensors.FromFlatDataAndDimensions(normal(shapes.Make(dtypes.Float32, d...).Size(), uint64(i)), d...))
			}
			return in
		}
		operands := func(in []*Node) (q, k, v, g *Node) {
			if c.view {
				for i := range in {
					in[i] = Slice(in[i], AxisRange(), AxisRange(1, in[i].Shape().Dim(1)-1))
				}
			}
			return in[0], in[1], in[2], in[3]
		}
		got, steps := run(t, own, func(in []*Node) []*Node {
			q, k, v, g := operands(in)
			y, states := BackendFusedScaledDotProductAttention(q, k, v, c.layout, &compute.ScaledDotProductAttentionConfig{Scale: c.scale})
			return append([]*Node{y, states[0]}, Gradient(ReduceAllSum(Mul(y, g)), q, k, v)...)
		}, args()...)
		if !strings.Contains(steps, "AttentionVJP") || strings.Contains(steps, "GoMLX's") {
			t.Errorf("%+v: steps\n%s", c, steps)
		}
		want, _ := run(t, own.plain, func(in []*Node) []*Node {
			q, k, v, g := operands(in)
			bhsd := func(x *Node) *Node {
				if c.layout == compute.AttentionAxesLayoutBSHD {
					x = TransposeAllAxes(x, 0, 2, 1, 3)
				}
				if h := x.Shape().Dim(1); h != c.heads { // repeat each group's head
					x = InsertAxes(x, 2)
					x = BroadcastToDims(x, c.batch, h, c.heads/h, x.Shape().Dim(3), c.width)
					x = Reshape(x, c.batch, c.heads, x.Shape().Dim(3), c.width)
				}
				return x
			}
			scale := c.scale
			if scale == 0 {
				scale = 1 / math.Sqrt(float64(c.width))
			}
			scores := MulScalar(DotGeneral(bhsd(q), []int{3}, []int{0, 1}, bhsd(k), []int{3}, []int{0, 1}), scale)
			e := Exp(scores)
			sum := ReduceAndKeep(e, ReduceSum, -1)
			y := DotGeneral(Div(e, sum), []int{3}, []int{0, 1}, bhsd(v), []int{2}, []int{0, 1})
			if c.layout == compute.AttentionAxesLayoutBSHD {
				y = TransposeAllAxes(y, 0, 2, 1, 3)
			}
			return append([]*Node{y, Squeeze(Log(sum), -1)}, Gradient(ReduceAllSum(Mul(y, g)), q, k, v)...)
		}, args()...)
		for i, what := range []string{"output", "log-sum-exp", "query's gradient", "key's gradient", "value's gradient"} {
			agree(t, fmt.Sprintf("%+v: %s", c, what), got[i], want[i], 2e-5)
		}
	}
}

// entries is one step on the single entries of a weight [out, in]: the loss's
// gradient by their values, and by the input.
func entries(in []*Node) []*Node {
	x, w, at, values, g := in[0], in[1], in[2], in[3], in[4]
	flat := ScatterSum(Reshape(w, w.Shape().Size()), ExpandDims(at, -1), values, true, true)
	y := DotGeneral(x, []int{2}, nil, Reshape(flat, w.Shape().Dimensions...), []int{1}, nil)
	return append([]*Node{y}, Gradient(ReduceAllSum(Mul(y, g)), values, x)...)
}

// TestEntries: values added to single entries of a weight, forward and back,
// against GoMLX's Go backend; over steps with other values, other weights, and
// entries in few or many rows.
func TestEntries(t *testing.T) {
	own := newBackend(t)
	const batch, tokens, in, out = 2, 75, 48, 40
	exec, err := NewExecCanonical(own, func(_ *Graph, n []*Node) []*Node { return entries(n) }, 0, 0, false, true, true)
	if err != nil {
		t.Fatal(err)
	}
	weights := []*tensors.Tensor{tensors.FromFlatDataAndDimensions(normal(out*in, 5), out, in), tensors.FromFlatDataAndDimensions(normal(out*in, 6), out, in)}
	x := tensors.FromFlatDataAndDimensions(normal(batch*tokens*in, 7), batch, tokens, in)
	g := tensors.FromFlatDataAndDimensions(normal(batch*tokens*out, 8), batch, tokens, out)
	for step, positions := range [][]int32{{0, 1, 47, 48, 900, 1919}, {5, 6, 7, 8, 9, 10}, {0, 1, 47, 48, 900, 1919}, {100, 300, 500, 700, 900, 1100}} {
		values := tensors.FromFlatDataAndDimensions(normal(len(positions), uint64(20+step)), len(positions))
		at := tensors.FromFlatDataAndDimensions(positions, len(positions))
		own.StartTimings()
		got, err := exec.Call(x, weights[step%2], at, values, g)
		if err != nil {
			t.Fatal(err)
		}
		used := false
		for _, s := range own.Timings() {
			used = used || s.Kind == "single entries"
			if strings.Contains(s.Detail, "Scatter") {
				t.Errorf("step %d: the scattered weight was made: %s", step, s.Detail)
			}
		}
		if !used {
			t.Errorf("step %d: the gradient was picked from a whole product", step)
		}
		var copies []any // a tensor belongs to one backend
		for _, o := range []*tensors.Tensor{x, weights[step%2], at, values, g} {
			c, err := o.LocalClone()
			if err != nil {
				t.Fatal(err)
			}
			copies = append(copies, c)
		}
		want, _ := run(t, own.plain, entries, copies...)
		for i, what := range []string{"output", "gradient of the values", "gradient of the input"} {
			v, err := tensors.CopyFlatData[float32](got[i])
			if err != nil {
				t.Fatal(err)
			}
			agree(t, fmt.Sprintf("step %d: %s", step, what), v, want[i], 1e-5)
		}
	}
}

// TestEntriesAdded: what follows the gradient of single entries is not lost, and
// positions outside the weight touch nothing.
func TestEntriesAdded(t *testing.T) {
	own := newBackend(t)
	sum := func(in []*Node) []*Node {
		dw := DotGeneral(in[0], []int{0}, nil, in[1], []int{0}, nil)
		return []*Node{Add(in[3], Gather(Reshape(dw, dw.Shape().Size()), ExpandDims(in[2], -1)))}
	}
	args := func() []any {
		return []any{tensors.FromFlatDataAndDimensions(normal(70*20, 1), 70, 20), tensors.FromFlatDataAndDimensions(normal(70*40, 2), 70, 40),
			tensors.FromFlatDataAndDimensions([]int32{5, 100, 790}, 3), tensors.FromFlatDataAndDimensions(normal(3, 3), 3)}
	}
	got, steps := run(t, own, sum, args()...)
	want, _ := run(t, own.plain, sum, args()...)
	agree(t, "sum", got[0], want[0], 1e-5)
	if !strings.Contains(steps, "single entries") {
		t.Errorf("steps\n%s", steps)
	}
	weight := normal(40*20, 4)
	got, _ = run(t, own, func(in []*Node) []*Node {
		flat := ScatterSum(in[1], ExpandDims(in[2], -1), in[3], false, false)
		return []*Node{DotGeneral(in[0], []int{1}, nil, Reshape(flat, 40, 20), []int{1}, nil), DotGeneral(in[0], []int{1}, nil, Reshape(in[1], 40, 20), []int{1}, nil)}
	}, tensors.FromFlatDataAndDimensions(normal(30*20, 5), 30, 20), tensors.FromFlatDataAndDimensions(weight, 800),
		tensors.FromFlatDataAndDimensions([]int32{-1, 800, 1 << 30}, 3), tensors.FromFlatDataAndDimensions(normal(3, 6), 3))
	agree(t, "positions outside", got[0], got[1], 0)
}

// TestNeighbours: products next to what could be taken for their epilogue, or for
// a patched weight, and is not.
func TestNeighbours(t *testing.T) {
	own := newBackend(t)
	gelu := func(x *Node) *Node { return BackendFusedGelu(x, true) }
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
		agree(t, name, got[0], want[0], 1e-5)
	}
}

// TestRandomView: a random state within a larger tensor gives loops the bits
// that the operation returns.
func TestRandomView(t *testing.T) {
	own := newBackend(t)
	states := tensors.FromFlatDataAndDimensions([]uint64{1, 2, 3, 4, 5, 6}, 2, 3)
	draw := func(keep bool) []float32 {
		out, _ := run(t, own, func(in []*Node) []*Node {
			_, u := RandomUniform(Reshape(Slice(in[0], AxisRange(1)), 3), shapes.Make(dtypes.Float32, 10, 10))
			if keep {
				return []*Node{u}
			}
			return []*Node{Mul(u, OnesLike(u))}
		}, states)
		return out[0]
	}
	if !slices.Equal(draw(true), draw(false)) {
		t.Error("other bits")
	}
	second := tensors.FromFlatDataAndDimensions([]uint64{4, 5, 6}, 3)
	want, _ := run(t, own, func(in []*Node) []*Node {
		_, u := RandomUniform(in[0], shapes.Make(dtypes.Float32, 10, 10))
		return []*Node{u}
	}, second)
	if !slices.Equal(draw(false), want[0]) {
		t.Error("the bits are those of another state")
	}
}

// TestDonation: a loop's result takes the memory of a donated input, and leaves
// that of others alone.
func TestDonation(t *testing.T) {
	own := newBackend(t)
	b := own.Builder("donation")
	f := b.Main()
	shape := shapes.Make(dtypes.Float32, 100, 100)
	x, err := f.Parameter("x", shape, nil)
	if err != nil {
		t.Fatal(err)
	}
	y, err := f.Neg(x)
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Return([]compute.Value{y}, nil); err != nil {
		t.Fatal(err)
	}
	exec, err := b.Compile()
	if err != nil {
		t.Fatal(err)
	}
	data := normal(10000, 1)
	for _, c := range []struct{ borrowed, donated bool }{{false, true}, {false, false}, {true, true}, {true, false}} {
		var in compute.Buffer
		flat := slices.Clone(data)
		if c.borrowed {
			in, err = own.Borrow(flat, 100, 100)
		} else {
			in, err = own.BufferFromFlatData(0, flat, shape)
		}
		if err != nil {
			t.Fatal(err)
		}
		before := in.(*buffer).data
		out, err := exec.Execute([]compute.Buffer{in}, []bool{c.donated}, 0)
		if err != nil {
			t.Fatal(err)
		}
		taken := &out[0].(*buffer).data[0] == &before[0]
		if want := c.donated && !c.borrowed; taken != want {
			t.Errorf("%+v: memory taken over %t, expected %t", c, taken, want)
		}
		if !slices.Equal(flat, data) {
			t.Errorf("%+v: the caller's array was written to", c)
		}
		if _, err := in.Shape(); (err != nil) != c.donated {
			t.Errorf("%+v: the input is valid afterwards: %v", c, err)
		}
		if _, err := exec.Execute([]compute.Buffer{in}, nil, 0); (err != nil) != c.donated {
			t.Errorf("%+v: running it again: %v", c, err)
		}
	}
}

// TestSameBits: any number of threads, and programs side by side over the same
// weights, give the same bits.
func TestSameBits(t *testing.T) {
	own := newBackend(t)
	w := tensors.FromFlatDataAndDimensions(normal(96*64, 1), 64, 96)
	x := tensors.FromFlatDataAndDimensions(normal(4*70*96, 2), 4, 70, 96)
	state := tensors.FromFlatDataAndDimensions([]uint64{1, 2, 3}, 3)
	exec, err := NewExecCanonical(own, func(_ *Graph, in []*Node) []*Node {
		x, w := in[0], in[1]
		_, u := RandomUniform(in[2], x.Shape())
		dropped := Mul(x, MulScalar(ConvertDType(GreaterOrEqual(u, Scalar(x.Graph(), dtypes.Float32, float32(0.2))), dtypes.Float32), 1.25))
		y := Softmax(DotGeneral(dropped, []int{2}, nil, w, []int{1}, nil))
		heads := Reshape(y, 4, 70, 4, 16)
		a, _ := BackendFusedScaledDotProductAttention(heads, heads, heads, compute.AttentionAxesLayoutBSHD, nil)
		return Gradient(ReduceAllSum(Mul(a, a)), x, w)
	}, 0, 0, false, true, true)
	if err != nil {
		t.Fatal(err)
	}
	bits := func() (all []float32) {
		out, err := exec.Call(x, w, state)
		if err != nil {
			t.Error(err)
			return nil
		}
		for _, o := range out {
			v, err := tensors.CopyFlatData[float32](o)
			if err != nil {
				t.Error(err)
			}
			all = append(all, v...)
		}
		return all
	}
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
	want := bits()
	if len(want) == 0 {
		t.Fatal("no results")
	}
	for _, n := range []int{1, 2, 4} {
		runtime.GOMAXPROCS(n)
		if !slices.Equal(bits(), want) {
			t.Errorf("GOMAXPROCS %d: other bits", n)
		}
	}
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 3 {
				if !slices.Equal(bits(), want) {
					t.Error("side by side: other bits")
				}
			}
		})
	}
	wg.Wait()
}
