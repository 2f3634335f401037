package cpu

import (
	"fmt"
	"math"
	"runtime"
	"slices"
	"strings"
	"testing"

	. "github.com/gomlx/gomlx/core/graph"

	"github.com/gomlx/compute"

	"github.com/sptune/spt/internal/kernel/gemm"
)

// newBF16 returns a backend that rounds the operands of products. It skips the test on a machine
// that cannot do so.
func newBF16(t testing.TB) *backend {
	t.Helper()
	if err := gemm.SupportsBF16(); err != nil {
		t.Skip(err)
	}
	be, err := New(BF16)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(be.Finalize)
	return be.(*backend)
}

// TestConfig checks that New refuses an unknown configuration, and BF16 on a processor without it.
func TestConfig(t *testing.T) {
	if _, err := New("fp8"); err == nil || !strings.Contains(err.Error(), `"fp8" is unknown`) {
		t.Errorf("fp8: %v", err)
	}
	be, err := New(BF16)
	if missing := gemm.SupportsBF16(); missing != nil {
		if err == nil || !strings.Contains(err.Error(), missing.Error()) {
			t.Errorf("without AVX512-BF16: %v", err)
		}
		return
	}
	if err != nil {
		t.Fatal(err)
	}
	defer be.Finalize()
	if plain := newBackend(t); !IsBF16(be) || IsBF16(plain) || !Is(be) || !strings.Contains(be.Description(), gemm.BF16Kernel()) || strings.Contains(plain.Description(), gemm.BF16Kernel()) {
		t.Errorf("%s: bf16 %t; %s: bf16 %t", be.Description(), IsBF16(be), plain.Description(), IsBF16(plain))
	}
}

// toBFloat16 rounds positive and negative numbers to bfloat16.
func toBFloat16(x []float32) []float32 {
	y := slices.Clone(x)
	for i, v := range y {
		b := math.Float32bits(v)
		y[i] = math.Float32frombits((b + 0x7fff + b>>16&1) &^ 0xffff)
	}
	return y
}

// TestBF16Products checks which operations round their operands. Products of activations equal the
// float32 products of rounded operands, except for the order of sums. Products of a head, products
// with few columns and the operations between products have the bits of the float32 backend.
func TestBF16Products(t *testing.T) {
	be, plain := newBF16(t), newBackend(t)
	for _, c := range []struct {
		name    string
		x, w    []int
		graph   func(x, w *Node) *Node
		rounded bool
	}{
		{"activations", []int{2, 40, 48}, []int{64, 48}, func(x, w *Node) *Node { return DotGeneral(x, []int{2}, nil, w, []int{1}, nil) }, true},
		{"transposed weight", []int{2, 40, 48}, []int{48, 64}, func(x, w *Node) *Node { return DotGeneral(x, []int{2}, nil, w, []int{0}, nil) }, true},
		{"gradient of a weight", []int{2, 40, 48}, []int{2, 40, 64}, func(x, w *Node) *Node { return DotGeneral(x, []int{0, 1}, nil, w, []int{0, 1}, nil) }, true},
		{"batch of products", []int{3, 40, 48}, []int{3, 50, 48}, func(x, w *Node) *Node { return DotGeneral(x, []int{2}, []int{0}, w, []int{2}, []int{0}) }, true},
		{"feature map", []int{2, 8, 8, 48}, []int{64, 48}, func(x, w *Node) *Node { return DotGeneral(x, []int{3}, nil, w, []int{1}, nil) }, true},
		{"head", []int{80, 48}, []int{64, 48}, func(x, w *Node) *Node { return DotGeneral(x, []int{1}, nil, w, []int{1}, nil) }, false},
		{"low rank", []int{2, 40, 48}, []int{8, 48}, func(x, w *Node) *Node { return DotGeneral(x, []int{2}, nil, w, []int{1}, nil) }, false},
		{"element-wise", []int{2, 40, 48}, []int{48}, func(x, w *Node) *Node { return Softmax(gelu(Mul(x, ExpandLeftToRank(w, 3)))) }, false},
	} {
		x, w := normal(shapeOf(c.x).Size(), 1), normal(shapeOf(c.w).Size(), 2)
		run := func(be *backend, x, w []float32) (y []float32) {
			exec := compiled(t, be, func(in []*Node) []*Node { return []*Node{c.graph(in[0], in[1])} }, c.x, c.w)
			in := []compute.Buffer{upload(t, be, x, c.x...), upload(t, be, w, c.w...)}
			for range 3 { // the weight is packed in the second run
				got := execute(t, exec, in, nil)[0]
				if y != nil && !sameBits(got, y) {
					t.Errorf("%s: the product with a packed weight has other bits", c.name)
				}
				y = got
			}
			return y
		}
		got, want := run(be, x, w), run(plain, x, w)
		if !c.rounded {
			if !sameBits(got, want) {
				t.Errorf("%s: other bits than in float32", c.name)
			}
			continue
		}
		if sameBits(got, want) {
			t.Errorf("%s: the operands were not rounded", c.name)
		}
		near(t, c.name, got, run(plain, toBFloat16(x), toBFloat16(w)), 1e-6)
	}
}

// TestBF16Entries checks that values of single entries are added to the float32 weight before it is
// rounded, for entries that occur several times too, and that a value is removed again.
func TestBF16Entries(t *testing.T) {
	be := newBF16(t)
	for _, transposed := range []bool{false, true} {
		p := tunedEntries{tokens: 80, in: 48, out: 64, batch: 2, transposed: transposed}
		at := []int32{7, 3000, 7, 0, 7, 50, 0}
		dims := p.inputs(len(at))
		exec := compiled(t, be, p.graph, dims...)
		x, w, dy := toBFloat16(normal(p.tokens*p.in, 1)), normal(p.in*p.out, 2), toBFloat16(normal(p.tokens*p.out, 3))
		fixed := []compute.Buffer{upload(t, be, x, dims[0]...), upload(t, be, w, dims[1]...), upload(t, be, at, dims[2]...), nil, upload(t, be, dy, dims[4]...)}
		for step := range 3 {
			values := normal(len(at), uint64(10+step))
			for i := range values {
				values[i] *= 0.003 // less than the distance of two bfloat16 near 1
			}
			fixed[3] = upload(t, be, values, len(at))
			got := execute(t, exec, fixed, nil)
			sum := slices.Clone(w)
			for i, e := range at {
				sum[e] += values[i]
			}
			want := p.dense(x, toBFloat16(sum), at, make([]float32, len(at)), dy)
			for i := range want {
				near(t, fmt.Sprintf("transposed %t, step %d, %s", transposed, step, entriesOutputs[i]), got[i], want[i], 3e-6)
			}
		}
	}
}

// TestBF16TuningStep checks that training steps give nearly the same as in float32, and the same
// bits for any number of processors.
func TestBF16TuningStep(t *testing.T) {
	be, plain := newBF16(t), newBackend(t)
	dims, donate := stateful.inputs()
	first := slices.Index(donate, true)
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
	steps := func(be *backend) [][]float32 {
		exec := compiled(t, be, stateful.graph, dims...)
		in := stateful.upload(t, be)
		for range 2 {
			out, err := exec.Execute(in, donate, 0)
			if err != nil {
				t.Fatal(err)
			}
			copy(in[first:], out[1:])
		}
		var state [][]float32
		for _, b := range in[first:] {
			state = append(state, contents(t, b))
		}
		return state
	}
	exact, want := steps(plain), steps(be)
	same := 0
	for i := range want {
		if sameBits(want[i], exact[i]) {
			same++
		}
		near(t, fmt.Sprintf("tensor %d", i), want[i], exact[i], 0.03)
	}
	if same > len(want)/2 {
		t.Errorf("%d of %d tensors have the bits of float32", same, len(want))
	}
	for _, procs := range []int{2, 3, 7} {
		runtime.GOMAXPROCS(procs)
		for i, got := range steps(be) {
			if !sameBits(got, want[i]) {
				t.Errorf("GOMAXPROCS %d, tensor %d: the bits differ from the bits with one processor", procs, i)
			}
		}
	}
}
