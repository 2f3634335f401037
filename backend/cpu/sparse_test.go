package cpu

import (
	"fmt"
	"math"
	"strings"
	"sync"
	"testing"

	. "github.com/gomlx/gomlx/core/graph"

	"github.com/gomlx/compute"
)

// tunedEntries is a layer with tuned single entries, as package peft builds it: a product x·Wᵀ of x
// [tokens, in] and W [out, in] with values added to entries of W. Its graph has the forward pass,
// and the gradients of the values and of x for the gradient dy [tokens, out] of the product.
type tunedEntries struct {
	tokens, in, out int
	transposed      bool // W is [in, out]: x·W
	batch           int  // x is [batch, tokens/batch, in]; 0: [tokens, in]
}

// inputs returns the dimensions of x, W, positions, values and dy for n entries.
func (p tunedEntries) inputs(n int) [][]int {
	return [][]int{{p.tokens, p.in}, p.weight(), {-n}, {n}, {p.tokens, p.out}}
}

func (p tunedEntries) weight() []int {
	if p.transposed {
		return []int{p.in, p.out}
	}
	return []int{p.out, p.in}
}

func (p tunedEntries) graph(in []*Node) []*Node {
	x, w, at, values, dy := in[0], in[1], in[2], in[3], in[4]
	w = Reshape(ScatterSum(Reshape(w, -1), ExpandDims(at, -1), values, true, true), p.weight()...)
	axis := 1
	if p.transposed {
		axis = 0
	}
	last := 1
	if p.batch > 0 {
		x, dy, last = Reshape(x, p.batch, -1, p.in), Reshape(dy, p.batch, -1, p.out), 2
	}
	y := DotGeneral(x, []int{last}, nil, w, []int{axis}, nil)
	return append([]*Node{y}, Gradient(ReduceAllSum(Mul(y, dy)), values, in[0])...)
}

// dense computes the same results in float64 with the complete matrix W plus the values.
func (p tunedEntries) dense(x, w []float32, at []int32, values, dy []float32) (out [][]float32) {
	sum := make([]float64, len(w))
	for i, v := range w {
		sum[i] = float64(v)
	}
	for i, e := range at {
		sum[e] += float64(values[i])
	}
	entry := func(o, i int) int {
		if p.transposed {
			return i*p.out + o
		}
		return o*p.in + i
	}
	y, dx, dw := make([]float64, p.tokens*p.out), make([]float64, p.tokens*p.in), make([]float64, len(w))
	for t := range p.tokens {
		for o := range p.out {
			for i := range p.in {
				y[t*p.out+o] += float64(x[t*p.in+i]) * sum[entry(o, i)]
				dx[t*p.in+i] += float64(dy[t*p.out+o]) * sum[entry(o, i)]
				dw[entry(o, i)] += float64(dy[t*p.out+o]) * float64(x[t*p.in+i])
			}
		}
	}
	dv := make([]float64, len(at))
	for i, e := range at {
		dv[i] = dw[e]
	}
	for _, v := range [][]float64{y, dv, dx} {
		f := make([]float32, len(v))
		for i := range v {
			f[i] = float32(v[i])
		}
		out = append(out, f)
	}
	return out
}

var entriesOutputs = []string{"product", "gradient of the values", "gradient of x"}

// TestEntriesAgainstDense compares tuned entries with dense. The cases have few entries and so many
// entries that the complete product is faster. Entries are at the corners of the matrix, appear
// twice in one scatter, and are in any order. Both layouts of the matrix and a single token are
// tested.
func TestEntriesAgainstDense(t *testing.T) {
	be := newBackend(t)
	spread := func(n, size int) []int32 { // n positions, the first and the last among them
		at := make([]int32, n)
		for i := range at {
			at[i] = int32(i * (size - 1) / (n - 1))
		}
		return at
	}
	const in, out = 48, 64
	corners := []int32{0, in - 1, in, in*out - in, in*out - 1}
	limit := int(be.options.denseFraction * in * out)
	for _, c := range []struct {
		name   string
		p      tunedEntries
		at     []int32
		single bool // the gradient is computed entry by entry
	}{
		{"corners", tunedEntries{tokens: 70, in: in, out: out}, corners, true},
		{"corners, transposed", tunedEntries{tokens: 70, in: in, out: out, transposed: true}, []int32{0, out - 1, out, in*out - out, in*out - 1}, true},
		{"below the limit, transposed", tunedEntries{tokens: 65, in: in, out: out, transposed: true}, spread(limit-1, in*out), true},
		{"above the limit, transposed", tunedEntries{tokens: 65, in: in, out: out, transposed: true}, spread(limit+2, in*out), false},
		{"narrow, transposed", tunedEntries{tokens: 90, in: 100, out: 9, transposed: true}, []int32{0, 8, 899, 9}, true},
		{"corners, of a batch", tunedEntries{tokens: 150, in: in, out: out, batch: 2}, corners, true},
		{"corners, of a batch, transposed", tunedEntries{tokens: 150, in: in, out: out, batch: 2, transposed: true}, []int32{0, out - 1, out, in*out - out, in*out - 1}, true},
		{"duplicates, not in order", tunedEntries{tokens: 130, in: in, out: out}, []int32{7, 3000, 7, 0, 7, 50, 0}, true},
		{"below the limit", tunedEntries{tokens: 65, in: in, out: out}, spread(limit-1, in*out), true},
		{"above the limit", tunedEntries{tokens: 65, in: in, out: out}, spread(limit+2, in*out), false},
		{"every entry", tunedEntries{tokens: 65, in: in, out: out, transposed: true}, spread(in*out, in*out), false},
		{"one row", tunedEntries{tokens: 64, in: in, out: out}, spread(in, in), true},
		{"few tokens", tunedEntries{tokens: 2, in: in, out: out}, corners, true},
		{"a single token", tunedEntries{tokens: 1, in: in, out: out}, corners, true},
		{"narrow", tunedEntries{tokens: 90, in: 100, out: 9}, []int32{0, 99, 899, 100}, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			n := len(c.at)
			dims := c.p.inputs(n)
			exec := compiled(t, be, c.p.graph, dims...)
			x, w, dy := normal(c.p.tokens*c.p.in, 1), normal(c.p.in*c.p.out, 2), normal(c.p.tokens*c.p.out, 3)
			fixed := []compute.Buffer{upload(t, be, x, dims[0]...), upload(t, be, w, dims[1]...), upload(t, be, c.at, dims[2]...), nil, upload(t, be, dy, dims[4]...)}
			for step := range 3 {
				values := normal(n, uint64(10+step))
				fixed[3] = upload(t, be, values, n)
				be.startTimings()
				got := execute(t, exec, fixed, nil)
				steps := stepNames(be)
				if single := strings.Contains(steps, "single entries of"); single != c.single {
					t.Errorf("entry by entry: %t, expected %t:\n%s", single, c.single, steps)
				}
				if scattered := strings.Contains(steps, "ScatterSum"); scattered != (c.p.tokens == 1) {
					t.Errorf("the weight was scattered: %t:\n%s", scattered, steps)
				}
				for i, want := range c.p.dense(x, w, c.at, values, dy) {
					near(t, fmt.Sprintf("step %d, %s", step, entriesOutputs[i]), got[i], want, 3e-6)
				}
			}
			if got := contents(t, fixed[1]); !sameBits(got, w) {
				t.Error("the frozen weight changed")
			}
		})
	}
}

// TestEntriesFollow checks that the patched weight is correct when the weight, the positions or the
// values change between runs. Weights are replaced, freed and donated, and two programs alternate
// on one weight.
func TestEntriesFollow(t *testing.T) {
	be := newBackend(t)
	p := tunedEntries{tokens: 40, in: 32, out: 50}
	const n = 6
	dims := p.inputs(n)
	execs := []compute.Executable{compiled(t, be, p.graph, dims...), compiled(t, be, p.graph, dims...)}
	x, dy := normal(p.tokens*p.in, 1), normal(p.tokens*p.out, 3)
	xb, dyb := upload(t, be, x, dims[0]...), upload(t, be, dy, dims[4]...)
	weights := [][]float32{normal(p.in*p.out, 20), normal(p.in*p.out, 21)}
	placed := []compute.Buffer{upload(t, be, weights[0], dims[1]...), upload(t, be, weights[1], dims[1]...)}
	positions := [][]int32{{0, 31, 32, 800, 801, 1599}, {1, 2, 3, 4, 5, 6}, {32, 31, 0, 6, 5, 1599}}
	held := be.memory().Packed
	for run, c := range []struct {
		exec, weight, at int
		donated, renewed bool
	}{
		{exec: 0, weight: 0, at: 0}, {exec: 0, weight: 0, at: 1}, {exec: 0, weight: 0, at: 1},
		{exec: 0, weight: 1, at: 1}, {exec: 0, weight: 0, at: 2}, {exec: 1, weight: 0, at: 0}, {exec: 0, weight: 0, at: 0},
		{exec: 1, weight: 1, at: 2, renewed: true}, {exec: 0, weight: 1, at: 2}, {exec: 0, weight: 0, at: 1, donated: true},
		{exec: 0, weight: 0, at: 1, donated: true}, {exec: 0, weight: 0, at: 0}, {exec: 1, weight: 0, at: 0},
	} {
		if c.renewed { // another weight, perhaps at the address of the old weight
			if err := placed[c.weight].Finalize(); err != nil {
				t.Fatal(err)
			}
			weights[c.weight] = normal(p.in*p.out, uint64(30+run))
			placed[c.weight] = upload(t, be, weights[c.weight], dims[1]...)
		}
		at, values := positions[c.at], normal(n, uint64(100+run))
		got := execute(t, execs[c.exec], []compute.Buffer{xb, placed[c.weight], upload(t, be, at, -n), upload(t, be, values, n), dyb}, []bool{false, c.donated, true, true, false})
		for i, want := range p.dense(x, weights[c.weight], at, values, dy) {
			near(t, fmt.Sprintf("run %d, %s", run, entriesOutputs[i]), got[i], want, 3e-6)
		}
		if c.donated {
			weights[c.weight] = normal(p.in*p.out, uint64(50+run))
			placed[c.weight] = upload(t, be, weights[c.weight], dims[1]...)
		}
	}
	for _, e := range execs {
		e.Finalize()
	}
	for _, b := range placed {
		_ = b.Finalize() // never fails
	}
	if now := be.memory().Packed - held; now > 4*int64(p.tokens*max(p.in, p.out)*4) {
		t.Errorf("%d bytes of packed weights are counted after all was freed", now)
	}
}

// TestEntriesSideBySide checks that concurrent runs of a program get the right results and keep no
// more copies than necessary. Some of the runs add the same values.
func TestEntriesSideBySide(t *testing.T) {
	be := newBackend(t)
	p := tunedEntries{tokens: 40, in: 32, out: 50}
	const n, lanes = 6, 4
	dims := p.inputs(n)
	exec := compiled(t, be, p.graph, dims...)
	x, w, dy := normal(p.tokens*p.in, 1), normal(p.in*p.out, 2), normal(p.tokens*p.out, 3)
	at := []int32{0, 31, 32, 800, 801, 1599}
	xb, wb, dyb, atb := upload(t, be, x, dims[0]...), upload(t, be, w, dims[1]...), upload(t, be, dy, dims[4]...), upload(t, be, at, -n)
	run := func(seed uint64) error {
		values := normal(n, seed)
		out, err := exec.Execute([]compute.Buffer{xb, wb, atb, upload(t, be, values, n), dyb}, nil, 0)
		if err != nil {
			return err
		}
		for i, want := range p.dense(x, w, at, values, dy) {
			near(t, fmt.Sprintf("values %d, %s", seed, entriesOutputs[i]), contents(t, out[i]), want, 3e-6)
		}
		return nil
	}
	for range 3 { // run until the weight is packed
		if err := run(9); err != nil {
			t.Fatal(err)
		}
	}
	alone := be.memory().Packed
	var wg sync.WaitGroup
	for lane := range lanes {
		wg.Go(func() {
			for i := range 20 {
				if err := run(uint64(i + lane/2)); err != nil { // two runs add the same values
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	if now := be.memory().Packed; now > lanes*alone {
		t.Errorf("%d bytes of packed weights after %d runs at once, %d after one", now, lanes, alone)
	}
}

// TestEntriesOnTheWay checks operations that read the gradient of single entries. For a complete
// product, these operations would become the epilogue.
func TestEntriesOnTheWay(t *testing.T) {
	be := newBackend(t)
	p := tunedEntries{tokens: 70, in: 48, out: 64}
	at := []int32{3, 0, 3071, 48}
	dims := p.inputs(len(at))
	x, w, values, dy := normal(p.tokens*p.in, 1), normal(p.in*p.out, 2), normal(4, 4), normal(p.tokens*p.out, 3)
	for i := range dy {
		dy[i] /= 50 // gradients near 1, where GELU bends
	}
	for name, c := range map[string]struct {
		graph func(g, values *Node) *Node
		want  func(g, value float64) float64
	}{
		"alone":               {func(g, _ *Node) *Node { return g }, func(g, _ float64) float64 { return g }},
		"scaled":              {func(g, _ *Node) *Node { return MulScalar(g, 0.1) }, func(g, _ float64) float64 { return 0.1 * g }},
		"momentum":            {func(g, v *Node) *Node { return Add(MulScalar(v, 0.9), g) }, func(g, v float64) float64 { return 0.9*v + g }},
		"added to the values": {func(g, v *Node) *Node { return Add(g, v) }, func(g, v float64) float64 { return g + v }},
		"GELU":                {func(g, _ *Node) *Node { return gelu(g) }, func(g, _ float64) float64 { return g / 2 * math.Erfc(-g/math.Sqrt2) }},
		"twice":               {func(g, v *Node) *Node { return Sub(Mul(v, Sqrt(Abs(g))), g) }, func(g, v float64) float64 { return v*math.Sqrt(math.Abs(g)) - g }},
	} {
		exec := compiled(t, be, func(in []*Node) []*Node { return []*Node{c.graph(p.graph(in)[1], in[3])} }, dims...)
		be.startTimings()
		got := execute(t, exec, []compute.Buffer{upload(t, be, x, dims[0]...), upload(t, be, w, dims[1]...), upload(t, be, at, -4), upload(t, be, values, 4), upload(t, be, dy, dims[4]...)}, nil)
		if steps := stepNames(be); !strings.Contains(steps, "single entries of") {
			t.Errorf("%s: not entry by entry:\n%s", name, steps)
		}
		want := make([]float32, 4)
		for i, g := range p.dense(x, w, at, values, dy)[1] {
			want[i] = float32(c.want(float64(g), float64(values[i])))
		}
		near(t, name, got[0], want, 3e-6)
	}
}

// TestEntriesOutside checks that positions outside a tuned weight change nothing.
func TestEntriesOutside(t *testing.T) {
	be := newBackend(t)
	const n = 30
	product := func(w []float32, at []int32) []float32 {
		return execute(t, compiled(t, be, func(in []*Node) []*Node {
			flat := ScatterSum(in[1], ExpandDims(in[2], -1), in[3], false, false)
			return []*Node{DotGeneral(in[0], []int{1}, nil, Reshape(flat, 40, 20), []int{1}, nil)}
		}, []int{n, 20}, []int{800}, []int{-3}, []int{3}), []compute.Buffer{upload(t, be, normal(n*20, 5), n, 20), upload(t, be, w, 800), upload(t, be, at, -3), upload(t, be, normal(3, 6), 3)}, nil)[0]
	}
	w, v := normal(800, 4), normal(3, 6)
	got := product(w, []int32{-1, 799, 1 << 30})
	w[799] += v[1]
	if want := product(w, []int32{-1, 800, 1 << 30}); !sameBits(got, want) {
		t.Errorf("%v, expected %v", got, want)
	}
}
