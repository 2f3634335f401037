package gemm

import (
	"fmt"
	"math"
	"math/rand/v2"
	"runtime"
	"slices"
	"testing"

	"github.com/sptune/spt/internal/workers"
)

// eachKernel runs f with every kernel of this machine as the active one.
func eachKernel(t *testing.T, f func(t *testing.T)) {
	best := active
	defer func() { active = best }()
	for i := range available {
		active = &available[i]
		t.Run(active.name, f)
	}
}

// random returns n normally distributed numbers.
func random(r *rand.Rand, n int) []float32 {
	x := make([]float32, n)
	for i := range x {
		x[i] = float32(r.NormFloat64())
	}
	return x
}

// integers returns n whole numbers from -4 to 4. Their products and sums are exact in float32 in
// any order, so a correct kernel gives the exact result.
func integers(r *rand.Rand, n int) []float32 {
	x := make([]float32, n)
	for i := range x {
		x[i] = float32(r.IntN(9) - 4)
	}
	return x
}

// layouts names the memory layouts of a view.
var layouts = []string{"rows", "columns", "rows apart", "columns apart", "strided"}

// view returns a matrix [rows, cols] in the given layout. Its slice ends with the last element.
func view(r *rand.Rand, layout string, rows, cols int, numbers func(*rand.Rand, int) []float32) View {
	v := View{Row: cols, Col: 1}
	switch layout {
	case "columns":
		v = View{Row: 1, Col: rows}
	case "rows apart":
		v.Row += 5
	case "columns apart":
		v = View{Row: 1, Col: rows + 3}
	case "strided":
		v = View{Row: 2*cols + 1, Col: 2}
	}
	v.Data = numbers(r, max(0, (rows-1)*v.Row+(cols-1)*v.Col+1))
	return v
}

// sentinel fills the gaps between the rows of C and PreAct.
const sentinel = -12345

// framed returns a matrix [m, n] with gaps between its rows. The gaps contain sentinel.
func framed(r *rand.Rand, m, n, ld int) []float32 {
	x := integers(r, (m-1)*ld+n)
	for i := range x {
		if i%ld >= n {
			x[i] = sentinel
		}
	}
	return x
}

// options selects the other fields of a call. apart leaves gaps between the rows of C, PreAct and
// Residual.
type options struct {
	alpha, beta                    float32
	bias, preAct, gelu, res, apart bool
}

// call returns a call whose operands are whole numbers. a and b are the layouts of A and B.
func call(r *rand.Rand, m, n, k int, a, b string, o options) *Call {
	c := &Call{M: m, N: n, K: k, Alpha: o.alpha, Beta: o.beta, GELU: o.gelu, LDC: n, LDP: n, LDR: n}
	c.A = view(r, a, m, k, integers)
	c.B = view(r, b, k, n, integers)
	if o.apart {
		c.LDC, c.LDP, c.LDR = n+3, n+1, n+7
	}
	c.C = framed(r, m, n, c.LDC)
	if o.bias {
		c.Bias = integers(r, n)
	}
	if o.preAct {
		c.PreAct = framed(r, m, n, c.LDP)
	}
	if o.res {
		c.Residual = framed(r, m, n, c.LDR)
	}
	return c
}

// clone returns a copy of c with copies of the slices that a call writes.
func (c *Call) clone() *Call {
	d := *c
	d.C, d.PreAct = slices.Clone(c.C), slices.Clone(c.PreAct)
	return &d
}

// naive computes c by the formula in float64.
func naive(c *Call) {
	for i := range c.M {
		for j := range c.N {
			var sum float64
			for p := range c.K {
				sum += float64(c.A.Data[i*c.A.Row+p*c.A.Col]) * float64(c.B.Data[p*c.B.Row+j*c.B.Col])
			}
			for _, t := range c.Terms {
				for p := range t.K {
					sum += float64(t.A.Data[i*t.A.Row+p*t.A.Col]) * float64(t.B.Data[p*t.B.Row+j*t.B.Col])
				}
			}
			sum *= float64(c.Alpha)
			if c.Beta != 0 {
				sum += float64(c.Beta) * float64(c.C[i*c.LDC+j])
			}
			if c.Bias != nil {
				sum += float64(c.Bias[j])
			}
			if c.PreAct != nil {
				c.PreAct[i*c.LDP+j] = float32(sum)
			}
			if c.GELU {
				sum *= 0.5 * math.Erfc(-sum/math.Sqrt2)
			}
			if c.Residual != nil {
				sum += float64(c.Residual[i*c.LDR+j])
			}
			c.C[i*c.LDC+j] = float32(sum)
		}
	}
}

// compare checks C and PreAct of got, with the gaps. Results are exact, except after GELU.
func compare(t *testing.T, how string, got, want *Call) {
	t.Helper()
	for _, x := range []struct {
		name      string
		got, want []float32
		ld        int
	}{{"C", got.C, want.C, got.LDC}, {"PreAct", got.PreAct, want.PreAct, got.LDP}} {
		for i, w := range x.want {
			tolerance := 0.
			if got.GELU && x.name == "C" {
				tolerance = 1e-6 * (1 + math.Abs(float64(w)))
			}
			if d := math.Abs(float64(x.got[i]) - float64(w)); !(d <= tolerance) {
				t.Fatalf("%s: %s (%d,%d) is %v, want %v: %d×%d×%d, A strides %d %d, B strides %d %d, alpha %v beta %v",
					how, x.name, i/x.ld, i%x.ld, x.got[i], w, got.M, got.K, got.N,
					got.A.Row, got.A.Col, got.B.Row, got.B.Col, got.Alpha, got.Beta)
			}
		}
	}
}

// checkCall compares Run, Serial and the packed product with naive.
func checkCall(t *testing.T, c *Call) {
	t.Helper()
	want := c.clone()
	naive(want)
	run := c.clone()
	run.Run()
	compare(t, "Run", run, want)
	serial := c.clone()
	serial.Serial(new(workers.Scratch))
	compare(t, "Serial", serial, want)
	packed := c.clone()
	packed.Packed = Pack(workers.Aligned(PackedLen(c.K, c.N)), c.B, c.K, c.N)
	packed.B = View{}
	packed.Terms = slices.Clone(c.Terms)
	for i := range packed.Terms {
		p := &packed.Terms[i]
		p.Packed, p.B = Pack(workers.Aligned(PackedLen(p.K, c.N)), p.B, p.K, c.N), View{}
	}
	packed.Run()
	compare(t, "packed", packed, want)
}

func TestShapes(t *testing.T) {
	eachKernel(t, func(t *testing.T) {
		r := rand.New(rand.NewPCG(1, 2))
		plain := options{alpha: 1}
		for _, d := range [][3]int{
			{1, 1, 1}, {14, 32, 16}, {15, 33, 17}, {13, 31, 15}, {28, 64, 32}, {6, 16, 8}, {7, 17, 9},
			{197, 197, 64}, {197, 64, 197}, {100, 192, 1600}, {8, 768, 900}, {768, 8, 900}, {300, 8, 768},
			{60, 768, 8}, {1, 768, 100}, {1, 100, 768}, {300, 1, 50}, {16, 16, 2000}, {3, 5, 3000},
			{250, 800, 10}, {17, 20, 769}, {2, 2, 31},
		} {
			layouts := layouts
			if testing.Short() && d[0]*d[1]*d[2] > 1<<20 {
				continue // too slow in an emulator
			}
			if d[0]*d[1]*d[2] > 1<<17 {
				layouts = layouts[:2]
			}
			for _, a := range layouts {
				for _, b := range layouts {
					checkCall(t, call(r, d[0], d[1], d[2], a, b, plain))
				}
			}
		}
	})
}

func TestEpilogues(t *testing.T) {
	eachKernel(t, func(t *testing.T) {
		r := rand.New(rand.NewPCG(3, 4))
		// The shapes cover complete tiles and ragged edges, one block of K and several blocks, and
		// narrow, thin and transposed products.
		for _, d := range [][5]any{
			{30, 70, 20, "rows", "columns"}, {15, 20, 900, "rows", "rows"}, {33, 7, 100, "rows", "columns"},
			{5, 90, 100, "rows", "rows"}, {90, 5, 100, "columns", "rows"}, {5, 33, 100, "columns", "columns"},
			{9, 9, 0, "rows", "rows"},
		} {
			for bits := range 32 {
				for _, ab := range [][2]float32{{1, 0}, {1, 1}, {-2, 3}} {
					checkCall(t, call(r, d[0].(int), d[1].(int), d[2].(int), d[3].(string), d[4].(string), options{
						ab[0], ab[1], bits&1 != 0, bits&2 != 0, bits&4 != 0, bits&8 != 0, bits&16 != 0}))
				}
			}
		}
	})
}

// TestTerms checks calls with terms of every layout and of several depths, with every epilogue, and
// with one block of K and several blocks.
func TestTerms(t *testing.T) {
	eachKernel(t, func(t *testing.T) {
		r := rand.New(rand.NewPCG(7, 8))
		// The last shape has two blocks of K.
		shapes := [][3]int{{17, 17, 5}, {197, 64, 30}, {31, 70, 800}}
		if testing.Short() {
			shapes = shapes[:1]
		}
		for _, d := range shapes {
			for _, layout := range layouts {
				for _, depths := range [][]int{{1}, {8, 33}, {MaxTermDepth, 8}} {
					for bits := range 8 {
						c := call(r, d[0], d[1], d[2], "rows", "columns", options{alpha: 1, beta: float32(bits & 1), bias: bits&2 != 0, res: bits&4 != 0, gelu: bits == 7, preAct: bits == 7})
						for _, k := range depths {
							c.Terms = append(c.Terms, Term{K: k, A: view(r, layout, c.M, k, integers), B: view(r, layouts[bits%len(layouts)], k, c.N, integers)})
						}
						checkCall(t, c)
					}
				}
			}
		}
	})
}

func TestRandomCalls(t *testing.T) {
	eachKernel(t, func(t *testing.T) {
		r := rand.New(rand.NewPCG(5, 6))
		size := func() int { // mostly small, sometimes larger than a block
			if r.IntN(8) == 0 {
				return 1 + r.IntN(1000)
			}
			return 1 + r.IntN(50)
		}
		flip := func() bool { return r.IntN(2) == 0 }
		calls := 400
		if testing.Short() {
			calls = 40
		}
		for range calls {
			m, n, k := size(), size(), size()
			if m*n*k > 1<<19 {
				k = 1 + k%40
				n = 1 + n%100
			}
			checkCall(t, call(r, m, n, k, layouts[r.IntN(5)], layouts[r.IntN(5)], options{
				float32(r.IntN(5) - 2), float32(r.IntN(3) - 1), flip(), flip(), flip(), flip(), flip()}))
		}
	})
}

// TestRounding checks that the rounding error of a sum of k products is at most about √k·2⁻²⁴ times
// the sum of the absolute products. One missing product would exceed this bound.
func TestRounding(t *testing.T) {
	eachKernel(t, func(t *testing.T) {
		r := rand.New(rand.NewPCG(7, 8))
		for _, d := range [][3]int{{50, 50, 768}, {30, 8, 3072}, {8, 60, 6304}, {60, 8, 6304}, {20, 40, 6304}} {
			m, n, k := d[0], d[1], d[2]
			for _, b := range []string{"rows", "columns"} {
				c := Call{M: m, N: n, K: k, Alpha: 0.3, C: make([]float32, m*n), LDC: n,
					A: view(r, "rows", m, k, random), B: view(r, b, k, n, random)}
				c.Run()
				for i := range m {
					for j := range n {
						var sum, abs float64
						for p := range k {
							x := 0.3 * float64(c.A.Data[i*c.A.Row+p*c.A.Col]) * float64(c.B.Data[p*c.B.Row+j*c.B.Col])
							sum, abs = sum+x, abs+math.Abs(x)
						}
						bound := (2 + math.Sqrt(float64(k))) * 0x1p-24 * abs
						if d := math.Abs(float64(c.C[i*n+j]) - sum); d > bound {
							t.Fatalf("%v (%d,%d) is %v, want %v, error %.2g > %.2g", d, i, j, c.C[i*n+j], sum, d, bound)
						}
					}
				}
			}
		}
	})
}

// TestGELU compares with values of torch.nn.functional.gelu in float32. The error of PyTorch itself
// is 1.3e-7 at -3.5.
func TestGELU(t *testing.T) {
	x := []float32{-3.5, -2, -1, -0.5, -1e-3, 0, 1e-3, 0.25, 0.75179, 1, 2, 3, 5.5}
	want := []float32{-0.0008143335580825806, -0.04550027847290039, -0.15865525603294373, -0.1542687714099884,
		-0.0004996010684408247, 0, 0.0005003989790566266, 0.14967657625675201, 0.5818187594413757,
		0.8413447141647339, 1.9544997215270996, 2.9959497451782227, 5.5}
	n := len(x)
	c := Call{M: 1, N: n, K: 1, Alpha: 1, A: View{[]float32{1}, 1, 1}, B: View{x, n, 1},
		C: make([]float32, n), LDC: n, GELU: true}
	c.Run()
	for i, w := range want {
		if d := math.Abs(float64(c.C[i] - w)); d > 2e-7+1e-6*math.Abs(float64(w)) {
			t.Errorf("GELU(%v) is %v, PyTorch returns %v", x[i], c.C[i], w)
		}
	}
}

// TestThreads checks that results have the same bits for any number of threads, and for Run, Serial
// and Batched.
func TestThreads(t *testing.T) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(0))
	eachKernel(t, func(t *testing.T) {
		r := rand.New(rand.NewPCG(9, 10))
		for _, d := range [][5]any{
			{99, 99, 64, "rows", "columns"}, {150, 96, 800, "rows", "columns"}, {8, 200, 900, "columns", "rows"},
			{200, 8, 900, "columns", "rows"}, {300, 8, 100, "rows", "columns"}, {1, 300, 200, "rows", "columns"},
			{60, 130, 1000, "columns", "rows"},
		} {
			m, n, k := d[0].(int), d[1].(int), d[2].(int)
			c := &Call{M: m, N: n, K: k, Alpha: 0.7, Beta: 0.3, C: random(r, m*n), LDC: n,
				A: view(r, d[3].(string), m, k, random), B: view(r, d[4].(string), k, n, random), Bias: random(r, n), GELU: true}
			want := c.clone()
			want.Serial(new(workers.Scratch))
			for _, threads := range []int{1, 2, 3, 7} {
				runtime.GOMAXPROCS(threads)
				got := c.clone()
				got.Run()
				if !slices.Equal(got.C, want.C) {
					t.Errorf("%v: Run with %d threads differs from Serial", d, threads)
				}
				for _, batch := range []int{2, 60} {
					if batch > 2 && m*n*k > 1<<20 {
						continue
					}
					all := make([]*Call, batch)
					for i := range all {
						all[i] = c.clone()
					}
					Batched(batch, func(i int, c *Call) { *c = *all[i] })
					for _, got := range all {
						if !slices.Equal(got.C, want.C) {
							t.Fatalf("%v: Batched with %d threads differs from Serial", d, threads)
						}
					}
				}
				pack := Pack(workers.Aligned(PackedLen(k, n)), c.B, k, n)
				if threads == 1 {
					continue
				}
				runtime.GOMAXPROCS(1)
				if one := Pack(workers.Aligned(PackedLen(k, n)), c.B, k, n); !slices.Equal(one.Data(), pack.Data()) {
					t.Errorf("%v: Pack with %d threads differs from one thread", d, threads)
				}
			}
		}
	})
}

func TestSpecialValues(t *testing.T) {
	inf, nan := float32(math.Inf(1)), float32(math.NaN())
	isNaN := func(x float32) bool { return x != x }
	eachKernel(t, func(t *testing.T) {
		r := rand.New(rand.NewPCG(11, 12))
		for _, d := range [][3]int{{40, 70, 50}, {40, 8, 100}, {8, 70, 100}, {1, 40, 2000}} {
			m, n, k := d[0], d[1], d[2]
			for _, layout := range []string{"rows", "columns"} {
				fresh := func() *Call {
					c := call(r, m, n, k, layout, layout, options{alpha: 1})
					for i := range c.C {
						c.C[i] = nan // must not be read with Beta = 0
					}
					return c
				}
				i, j, p := r.IntN(m), r.IntN(n), r.IntN(k)
				check := func(what string, c *Call, bad func(row, col int, v float32) bool) {
					t.Helper()
					c.Run()
					for q, v := range c.C {
						if bad(q/n, q%n, v) {
							t.Fatalf("%v %s, %s at (%d,%d): (%d,%d) is %v", d, layout, what, i, j, q/n, q%n, v)
						}
					}
				}
				check("nothing", fresh(), func(_, _ int, v float32) bool { return isNaN(v) })
				c := fresh()
				c.A.Data[i*c.A.Row+p*c.A.Col] = nan
				check("NaN in A", c, func(row, _ int, v float32) bool { return isNaN(v) != (row == i) })
				c = fresh()
				c.B.Data[p*c.B.Row+j*c.B.Col] = nan
				check("NaN in B", c, func(_, col int, v float32) bool { return isNaN(v) != (col == j) })
				c = fresh()
				c.A.Data[i*c.A.Row+p*c.A.Col] = inf
				c.B.Data[p*c.B.Row+j*c.B.Col] = 0
				check("Inf times 0", c, func(row, col int, v float32) bool { return row == i && col == j && !isNaN(v) || row != i && isNaN(v) })
				c = fresh()
				for q := range n {
					c.B.Data[p*c.B.Row+q*c.B.Col] = 2
				}
				c.A.Data[i*c.A.Row+p*c.A.Col] = -inf
				check("-Inf in A", c, func(row, _ int, v float32) bool { return (v == -inf) != (row == i) })
				c = fresh()
				c.Beta = 1
				check("NaN in C", c, func(_, _ int, v float32) bool { return !isNaN(v) })
			}
		}
	})
}

func TestEmpty(t *testing.T) {
	eachKernel(t, func(t *testing.T) {
		for _, d := range [][3]int{{0, 3, 2}, {3, 0, 2}, {0, 0, 0}} {
			c := Call{M: d[0], N: d[1], K: d[2], Alpha: 1}
			c.Run()
			c.Serial(new(workers.Scratch))
			Pack(nil, View{}, d[2], 0)
		}
		Batched(0, nil)
		Batched(3, func(int, *Call) {})
	})
}

func TestPackedIndex(t *testing.T) {
	eachKernel(t, func(t *testing.T) {
		r := rand.New(rand.NewPCG(13, 14))
		for _, d := range [][2]int{{1, 1}, {5, 3}, {768, 100}, {1000, 37}, {1600, 33}, {3, 600}, {0, 4}} {
			k, n := d[0], d[1]
			for _, layout := range layouts {
				b := view(r, layout, k, n, random)
				p := Pack(workers.Aligned(PackedLen(k, n)+3), b, k, n)
				if len(p.Data()) != PackedLen(k, n) {
					t.Fatalf("%v: %d float32s packed, PackedLen is %d", d, len(p.Data()), PackedLen(k, n))
				}
				for i := range k {
					for j := range n {
						if got, want := p.Data()[p.Index(i, j)], b.Data[i*b.Row+j*b.Col]; got != want {
							t.Fatalf("%v %s: (%d,%d) is %v, want %v", d, layout, i, j, got, want)
						}
					}
				}
			}
		}
	})
}

// TestPatch checks that the next product uses an element that was changed in the packed operand.
func TestPatch(t *testing.T) {
	eachKernel(t, func(t *testing.T) {
		r := rand.New(rand.NewPCG(15, 16))
		c := call(r, 20, 40, 900, "rows", "columns", options{alpha: 1})
		c.Packed = Pack(workers.Aligned(PackedLen(c.K, c.N)), c.B, c.K, c.N)
		for range 50 {
			i, j := r.IntN(c.K), r.IntN(c.N)
			c.B.Data[i*c.B.Row+j*c.B.Col] += 3
			c.Packed.Data()[c.Packed.Index(i, j)] += 3
		}
		want := c.clone()
		naive(want)
		c.Run()
		compare(t, "patched", c, want)
	})
}

// TestShortSlices checks that a slice that is too short causes a panic before anything is written.
func TestShortSlices(t *testing.T) {
	r := rand.New(rand.NewPCG(17, 18))
	all := options{alpha: 1, bias: true, preAct: true, res: true}
	for what, cut := range map[string]func(c *Call){
		"A":        func(c *Call) { c.A.Data = c.A.Data[:len(c.A.Data)-1] },
		"B":        func(c *Call) { c.B.Data = c.B.Data[:len(c.B.Data)-1] },
		"C":        func(c *Call) { c.C = c.C[:len(c.C)-1] },
		"Bias":     func(c *Call) { c.Bias = c.Bias[:len(c.Bias)-1] },
		"PreAct":   func(c *Call) { c.PreAct = c.PreAct[:len(c.PreAct)-1] },
		"Residual": func(c *Call) { c.Residual = c.Residual[:len(c.Residual)-1] },
		"Packed":   func(c *Call) { c.Packed = Pack(make([]float32, PackedLen(3, 3)), View{make([]float32, 9), 3, 1}, 3, 3) },
	} {
		c := call(r, 20, 40, 30, "rows", "rows", all)
		cut(c)
		before := slices.Clone(c.C)
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("%s too short: no panic", what)
				}
			}()
			c.Run()
		}()
		if !slices.Equal(c.C, before) {
			t.Errorf("%s too short: C was written", what)
		}
	}
}

// TestSerialAllocates checks that Serial allocates nothing after its scratch memory has grown.
func TestSerialAllocates(t *testing.T) {
	eachKernel(t, func(t *testing.T) {
		r := rand.New(rand.NewPCG(19, 20))
		s := new(workers.Scratch)
		for _, c := range []*Call{
			call(r, 197, 197, 64, "rows", "columns", options{alpha: 1}),
			call(r, 197, 64, 197, "rows", "rows", options{alpha: 1, gelu: true}),
			call(r, 64, 8, 100, "rows", "rows", options{alpha: 1}),
			call(r, 8, 64, 100, "columns", "columns", options{alpha: 1}),
		} {
			run := func() {
				mark := s.Mark()
				c.Serial(s)
				if s.Mark() != mark {
					t.Error("scratch memory was not released")
				}
				s.Release(mark)
			}
			run()
			if n := testing.AllocsPerRun(5, run); n != 0 {
				t.Errorf("%d×%d×%d: %v allocations", c.M, c.K, c.N, n)
			}
		}
	})
}

func TestPeak(t *testing.T) {
	eachKernel(t, func(t *testing.T) {
		if p := PeakGFLOPS(1, 1e6); !(p > 0 && p < 1e4) {
			t.Errorf("peak of %v GFLOPS", p)
		}
	})
}

func ExampleCall() {
	x := View{[]float32{1, 2, 3, 4}, 2, 1}
	c := Call{M: 2, N: 2, K: 2, A: x, B: x.T(), C: make([]float32, 4), LDC: 2, Alpha: 1, Bias: []float32{0, 100}}
	c.Run()
	fmt.Println(c.C)
	// Output: [5 111 11 125]
}

// TestInPlaceIsPacked checks that a kernel gives the same bits whether it reads A in place or from
// packed strips. Rows that are 512 float32s apart are packed.
func TestInPlaceIsPacked(t *testing.T) {
	eachKernel(t, func(t *testing.T) {
		const m, n, k, wide = 61, 70, 300, 512
		r := rand.New(rand.NewPCG(9, 9))
		b := random(r, k*n)
		a := random(r, m*k)
		var want []float32
		for _, v := range []View{{Row: wide, Col: 1}, {Row: k, Col: 1}, {Row: k + 3, Col: 1}, {Row: 1, Col: m}, {Row: 1, Col: wide}} {
			v.Data = make([]float32, wide*wide)
			for i := range m {
				for p := range k {
					v.Data[i*v.Row+p*v.Col] = a[i*k+p]
				}
			}
			c := Call{M: m, N: n, K: k, A: v, B: View{b, n, 1}, C: make([]float32, m*n), LDC: n, Alpha: 1}
			c.Run()
			if want == nil {
				want = c.C
			}
			if !slices.Equal(c.C, want) {
				t.Errorf("A with strides %d and %d: the result differs from the result with packed strips", v.Row, v.Col)
			}
		}
	})
}
