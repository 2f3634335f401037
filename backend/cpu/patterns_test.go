package cpu

import (
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	. "github.com/gomlx/gomlx/core/graph"
	"github.com/gomlx/gomlx/core/tensors"

	"github.com/gomlx/compute"
	"github.com/gomlx/compute/dtypes"
	"github.com/gomlx/compute/shapes"
)

// run executes a graph function on a backend. If the backend is a backend of this package, run also
// returns the names of the steps.
func run(t *testing.T, be compute.Backend, fn func(in []*Node) []*Node, in ...any) (out [][]float32, steps string) {
	t.Helper()
	exec, err := NewExecCanonical(be, func(_ *Graph, in []*Node) []*Node { return fn(in) }, 0, 0, false, true, true)
	if err != nil {
		t.Fatal(err)
	}
	own, ok := be.(*backend)
	if ok {
		own.startTimings()
	}
	results, err := exec.Call(in...)
	if err != nil {
		t.Fatal(err)
	}
	if ok {
		for _, s := range own.stopTimings() {
			steps += s.Kind + ": " + s.Detail + "\n"
		}
	}
	for _, r := range results {
		v, err := tensors.CopyFlatData[float32](r)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, v)
	}
	return out, steps
}

func normal(n int, seed uint64) []float32 {
	r := rand.New(rand.NewPCG(seed, 0))
	v := make([]float32, n)
	for i := range v {
		v[i] = float32(2 * r.NormFloat64())
	}
	return v
}

func newBackend(t testing.TB) *backend {
	t.Helper()
	be, err := New("")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(be.Finalize)
	return be.(*backend)
}

// TestGELUGradient checks that the compiler recognises the gradient of GELU, and compares the
// result with the derivative in float64.
func TestGELUGradient(t *testing.T) {
	be := newBackend(t)
	x, dy := normal(7*33, 1), normal(7*33, 2)
	out, steps := run(t, be, func(in []*Node) []*Node {
		x := in[0]
		y, _ := InternalFusedOpCaller(
			func() *Node { return BackendFusedGelu(x, true) },
			func() *Node { return MulScalar(Mul(x, OnePlus(Erf(MulScalar(x, math.Sqrt(0.5))))), 0.5) }, true)
		return Gradient(ReduceAllSum(Mul(y, in[1])), x)
	}, tensors.FromFlatDataAndDimensions(x, 7, 33), tensors.FromFlatDataAndDimensions(dy, 7, 33))
	if !strings.Contains(steps, "GeluGrad") || strings.Contains(steps, "Erf") {
		t.Errorf("the gradient was not recognised:\n%s", steps)
	}
	for i, got := range out[0] {
		v := float64(x[i])
		want := float64(dy[i]) * (0.5*(1+math.Erf(v/math.Sqrt2)) + v*math.Exp(-v*v/2)/math.Sqrt(2*math.Pi))
		if math.Abs(float64(got)-want) > 1e-6*math.Max(1, math.Abs(float64(dy[i]))) {
			t.Fatalf("x %g: %g, expected %g", v, got, want)
		}
	}
}

// TestDropout checks that the recognised dropout has the same mask as the separate operations, also
// if the row length is not a multiple of the Philox block size.
func TestDropout(t *testing.T) {
	be := newBackend(t)
	for _, dims := range [][]int{{64, 48}, {5, 7, 33}, {3, 1}} {
		n := shapes.Make(dtypes.Float32, dims...)
		x := normal(n.Size(), 3)
		for i, v := range x {
			if v == 0 {
				x[i] = 1
			}
		}
		dropped := func(mask bool) func(in []*Node) []*Node {
			return func(in []*Node) []*Node {
				rng, u := RandomUniform(in[1], n)
				keep := ConvertDType(GreaterOrEqual(u, Scalar(u.Graph(), dtypes.Float32, float32(0.3))), dtypes.Float32)
				_, u = RandomUniform(rng, n) // a second stream
				also := ConvertDType(GreaterOrEqual(u, Scalar(u.Graph(), dtypes.Float32, float32(0.1))), dtypes.Float32)
				m := MulScalar(keep, 2)
				y := Mul(Mul(in[0], m), MulScalar(also, 3))
				if mask {
					return []*Node{y, m, also}
				}
				// A reduction along rows of odd length.
				return []*Node{y, ReduceSum(y, -1)}
			}
		}
		state := tensors.FromFlatDataAndDimensions([]uint64{11, 1<<64 - 2, 5}, 3)
		got, steps := run(t, be, dropped(false), tensors.FromFlatDataAndDimensions(x, dims...), state)
		if !strings.Contains(steps, "Dropout") {
			t.Errorf("%v: dropout was not recognised:\n%s", dims, steps)
		}
		want, _ := run(t, be, dropped(true), tensors.FromFlatDataAndDimensions(x, dims...), state)
		kept := 0
		for i := range x {
			if want[1][i] != 0 {
				kept++
			}
			if w := x[i] * want[1][i] * (want[2][i] * 3); got[0][i] != w || want[0][i] != w {
				t.Fatalf("%v, element %d: %g and %g, expected %g", dims, i, got[0][i], want[0][i], w)
			}
		}
		if size := float64(n.Size()); size > 1000 && math.Abs(float64(kept)-0.7*size) > 4*math.Sqrt(0.21*size) {
			t.Errorf("%v: %d of %g kept, expected about 70 %%", dims, kept, size)
		}
	}
}

// TestRandomView checks that loops draw the right random bits if the random state is a part of a
// larger tensor.
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
		t.Error("the bits differ from the bits of the operation")
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
