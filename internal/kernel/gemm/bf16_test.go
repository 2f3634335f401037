package gemm

import (
	"fmt"
	"math"
	"math/rand/v2"
	"runtime"
	"slices"
	"testing"
	"time"

	"github.com/sptune/spt/internal/workers"
)

// needBF16 skips the test on a machine that cannot compute products in bfloat16.
func needBF16(t testing.TB) {
	t.Helper()
	if err := SupportsBF16(); err != nil {
		t.Skip(err)
	}
}

// bf16Shapes are M, N and K of calls. They have incomplete tiles, strips, panels and blocks of K.
var bf16Shapes = [][3]int{
	{1, 1, 1}, {16, 16, 32}, {32, 32, 32}, {33, 65, 63}, {15, 17, 31}, {197, 197, 64}, {197, 64, 197}, {64, 24, 1000}, {40, 20, 769},
}

// TestBF16Whole compares calls of whole numbers with the exact result, for all layouts and
// epilogues. bfloat16 holds these numbers exactly.
func TestBF16Whole(t *testing.T) {
	needBF16(t)
	r := rand.New(rand.NewPCG(1, 2))
	epilogues := []options{{alpha: 1}, {0.5, 2, true, true, true, true, true}, {alpha: 1, beta: 1, bias: true, res: true}, {alpha: 1, res: true, apart: true}}
	for i, d := range bf16Shapes {
		for j, a := range layouts {
			for k, b := range layouts {
				if d[0]*d[1]*d[2] > 1e6 && (j > 1 || k > 1) {
					continue
				}
				checkBF16(t, call(r, d[0], d[1], d[2], a, b, epilogues[(i+j+k)%len(epilogues)]))
			}
		}
	}
}

// TestBF16Terms does the same for calls with terms.
func TestBF16Terms(t *testing.T) {
	needBF16(t)
	r := rand.New(rand.NewPCG(3, 4))
	for _, d := range [][4]int{{40, 40, 8, 100}, {100, 33, 768, 8}, {33, 70, 800, 31}} {
		c := call(r, d[0], d[1], d[2], "rows", "columns", options{alpha: 1, bias: true, res: true})
		for i := range MaxTerms {
			k := d[3] + i
			c.Terms = append(c.Terms, Term{K: k, A: view(r, layouts[i], c.M, k, integers), B: view(r, layouts[1-i], k, c.N, integers)})
		}
		checkBF16(t, c)
	}
}

// checkBF16 compares Run, Serial and the packed product of c with naive.
func checkBF16(t *testing.T, c *Call) {
	t.Helper()
	c.BF16 = true
	want := c.clone()
	naive(want)
	run := c.clone()
	run.Run()
	compare(t, "Run", run, want)
	serial := c.clone()
	serial.Serial(new(workers.Scratch))
	compare(t, "Serial", serial, want)
	packed := c.clone()
	packed.Packed = PackBF16(workers.Aligned(PackedBF16Len(c.K, c.N)), c.B, c.K, c.N)
	packed.B = View{}
	packed.Terms = slices.Clone(c.Terms)
	for i := range packed.Terms {
		p := &packed.Terms[i]
		p.Packed, p.B = PackBF16(workers.Aligned(PackedBF16Len(p.K, c.N)), p.B, p.K, c.N), View{}
	}
	packed.Run()
	compare(t, "packed", packed, want)
}

// rounded returns a copy of v with values rounded to bfloat16.
func rounded(v View) View {
	v.Data = slices.Clone(v.Data)
	for i, x := range v.Data {
		v.Data[i] = math.Float32frombits(uint32(toBF16(x)) << 16)
	}
	return v
}

// TestBF16Accuracy compares products of normally distributed numbers with float64 sums. Against the
// sum of the rounded operands, the error is that of float32 additions. Against the sum of the
// operands themselves, it is that of two roundings to eight significant bits for each product.
func TestBF16Accuracy(t *testing.T) {
	needBF16(t)
	r := rand.New(rand.NewPCG(5, 6))
	for _, d := range bf16Shapes {
		m, n, k := d[0], d[1], d[2]
		for _, layout := range layouts[:2] {
			c := &Call{M: m, N: n, K: k, A: view(r, layout, m, k, random), B: view(r, layout, k, n, random), C: make([]float32, m*n), LDC: n, Alpha: 1, BF16: true}
			c.Run()
			a, b := rounded(c.A), rounded(c.B)
			for i := range m {
				for j := range n {
					var sum, size, exact, exactSize float64
					for p := range k {
						x := float64(a.Data[i*a.Row+p*a.Col]) * float64(b.Data[p*b.Row+j*b.Col])
						y := float64(c.A.Data[i*a.Row+p*a.Col]) * float64(c.B.Data[p*b.Row+j*b.Col])
						sum, size, exact, exactSize = sum+x, size+math.Abs(x), exact+y, exactSize+math.Abs(y)
					}
					got := float64(c.C[i*n+j])
					if d := math.Abs(got - sum); d > float64(k+2)*0x1p-24*size {
						t.Fatalf("%d×%d×%d %s (%d,%d): %g differs by %g from the product of rounded operands", m, k, n, layout, i, j, got, d)
					}
					if d := math.Abs(got - exact); d > (0x1p-7+0x1p-16+float64(k+2)*0x1p-24)*exactSize {
						t.Fatalf("%d×%d×%d %s (%d,%d): %g differs by %g from the product", m, k, n, layout, i, j, got, d)
					}
				}
			}
		}
	}
}

// TestBF16Packing compares the packing of all layouts with the rounding in Go, bit by bit. The
// numbers have random bits, among them NaNs, infinities and numbers below the normal range.
func TestBF16Packing(t *testing.T) {
	needBF16(t)
	r := rand.New(rand.NewPCG(7, 8))
	bits := func(r *rand.Rand, n int) []float32 {
		x := make([]float32, n)
		for i := range x {
			x[i] = math.Float32frombits(r.Uint32())
			switch r.IntN(8) {
			case 0:
				// near the middle of two bfloat16s
				x[i] = math.Float32frombits(r.Uint32()&0xffff0000 | 0x7fff + r.Uint32()%3)
			case 1:
				x[i] = math.Float32frombits(r.Uint32() & 0x807fffff) // below the normal range
			}
		}
		return x
	}
	for _, d := range [][2]int{{1, 1}, {16, 32}, {5, 31}, {32, 33}, {19, 100}, {20, 800}} {
		n, k := d[0], d[1]
		for _, layout := range layouts {
			v := view(r, layout, n, k, bits)
			strip := workers.Aligned(bf16Steps(k) * 2 * tileFloats)
			packBF16Strip(strip, v, n, k)
			depth, p := bf16Steps(k), PackBF16(workers.Aligned(PackedBF16Len(k, n)), v.T(), k, n)
			for i := range n {
				for q := range k {
					want := toBF16(v.Data[i*v.Row+q*v.Col])
					tiles := min(2, (n+15)/16)
					tile := strip[(q/32*tiles+i/16)*tileFloats:]
					a := math.Float32bits(tile[i%16*16+q%32/2]) >> (q % 2 * 16)
					b := math.Float32bits(p.data[p.tile(q, i)+q%32/2*16+i%16]) >> (q % 2 * 16)
					if uint16(a) != want || uint16(b) != want {
						t.Fatalf("%d×%d %s (%d,%d) of %d steps: %x is packed as %x and %x, want %x", n, k, layout, i, q, depth, v.Data[i*v.Row+q*v.Col], uint16(a), uint16(b), want)
					}
				}
			}
		}
	}
}

// TestBF16Threads checks that results have the same bits for any number of threads, for Run, Serial
// and Batched, and for packed and unpacked operands.
func TestBF16Threads(t *testing.T) {
	needBF16(t)
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(0))
	r := rand.New(rand.NewPCG(9, 10))
	for _, d := range [][3]int{{300, 200, 800}, {70, 500, 300}, {1100, 40, 770}} {
		m, n, k := d[0], d[1], d[2]
		c := &Call{M: m, N: n, K: k, Alpha: 0.7, Beta: 0.3, C: random(r, m*n), LDC: n, A: view(r, "rows", m, k, random), B: view(r, "columns", k, n, random), Bias: random(r, n), GELU: true, BF16: true}
		want := c.clone()
		want.Serial(new(workers.Scratch))
		pack := PackBF16(workers.Aligned(PackedBF16Len(k, n)), c.B, k, n)
		for _, threads := range []int{1, 2, 3, 7} {
			runtime.GOMAXPROCS(threads)
			for _, p := range []*Packed{nil, pack} {
				got := c.clone()
				got.Packed = p
				got.Run()
				if !slices.Equal(got.C, want.C) {
					t.Errorf("%v: Run with %d threads differs from Serial", d, threads)
				}
				all := []*Call{c.clone(), c.clone(), c.clone(), c.clone()}
				Batched(len(all), func(i int, c *Call) { *c = *all[i]; c.Packed = p })
				for _, got := range all {
					if !slices.Equal(got.C, want.C) {
						t.Fatalf("%v: Batched with %d threads differs from Serial", d, threads)
					}
				}
			}
		}
	}
}

// TestBF16Special checks that NaN and infinite numbers affect only their row or column.
func TestBF16Special(t *testing.T) {
	needBF16(t)
	inf, nan := float32(math.Inf(1)), float32(math.NaN())
	r := rand.New(rand.NewPCG(11, 12))
	const m, n, k = 40, 70, 50
	for _, layout := range layouts {
		for _, x := range []float32{nan, inf} {
			for _, inA := range []bool{true, false} {
				c := call(r, m, n, k, layout, layout, options{alpha: 1})
				c.BF16 = true
				for i := range c.C {
					c.C[i] = nan // must not be read with Beta = 0
				}
				i, j, p := r.IntN(m), r.IntN(n), r.IntN(k)
				if inA {
					c.A.Data[i*c.A.Row+p*c.A.Col] = x
				} else {
					c.B.Data[p*c.B.Row+j*c.B.Col] = x
				}
				c.Run()
				for q, v := range c.C {
					affected := inA && q/n == i || !inA && q%n == j
					if finite := v-v == 0; finite == affected {
						t.Fatalf("%v in A %t at (%d,%d), layout %s: (%d,%d) is %v", x, inA, i, j, layout, q/n, q%n, v)
					}
				}
			}
		}
	}
}

// TestBF16Patch checks that the next product uses an element that was changed in the packed
// operand.
func TestBF16Patch(t *testing.T) {
	needBF16(t)
	r := rand.New(rand.NewPCG(15, 16))
	c := call(r, 20, 40, 900, "rows", "columns", options{alpha: 1})
	c.BF16 = true
	c.Packed = PackBF16(workers.Aligned(PackedBF16Len(c.K, c.N)), c.B, c.K, c.N)
	for range 50 {
		i, j := r.IntN(c.K), r.IntN(c.N)
		c.B.Data[i*c.B.Row+j*c.B.Col] += 3
		c.Packed.SetBF16(i, j, c.B.Data[i*c.B.Row+j*c.B.Col])
	}
	want := c.clone()
	naive(want)
	c.Run()
	compare(t, "patched", c, want)
}

// TestBF16Misuse checks that wrong calls panic before anything is written.
func TestBF16Misuse(t *testing.T) {
	needBF16(t)
	r := rand.New(rand.NewPCG(17, 18))
	for what, spoil := range map[string]func(c *Call){
		"K = 0":                func(c *Call) { c.K = 0 },
		"a float32 operand":    func(c *Call) { c.Packed = Pack(make([]float32, PackedLen(30, 40)), c.B, 30, 40) },
		"a call without BF16":  func(c *Call) { c.Packed, c.BF16 = PackBF16(make([]float32, PackedBF16Len(30, 40)), c.B, 30, 40), false },
		"an operand too short": func(c *Call) { c.B.Data = c.B.Data[:len(c.B.Data)-1] },
	} {
		c := call(r, 20, 40, 30, "rows", "rows", options{alpha: 1})
		c.BF16 = true
		spoil(c)
		before := slices.Clone(c.C)
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("%s: no panic", what)
				}
			}()
			c.Run()
		}()
		if !slices.Equal(c.C, before) {
			t.Errorf("%s: C was written", what)
		}
	}
}

// TestBF16Allocates checks that Serial allocates nothing after its scratch memory has grown.
func TestBF16Allocates(t *testing.T) {
	needBF16(t)
	r := rand.New(rand.NewPCG(19, 20))
	s := new(workers.Scratch)
	c := call(r, 197, 197, 64, "rows", "columns", options{alpha: 1})
	c.BF16 = true
	c.Serial(s)
	if n := testing.AllocsPerRun(5, func() { c.Serial(s) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// TestBF16Signals runs products on many threads while the garbage collector, the preemption of
// goroutines and the profiler interrupt them, and compares each result. The system saves and
// restores the tiles at each signal and each change of threads.
func TestBF16Signals(t *testing.T) {
	needBF16(t)
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(8))
	r := rand.New(rand.NewPCG(23, 24))
	interrupt(t)
	stop := make(chan struct{})
	go func() {
		for {
			select {
			case <-stop:
				return
			default:
				runtime.GC() // stops all goroutines with signals
			}
		}
	}()
	defer close(stop)
	failed := make(chan string, 8)
	end := time.Now().Add(700 * time.Millisecond)
	for range 8 {
		c := &Call{M: 100, N: 200, K: 1500, A: view(r, "rows", 100, 1500, random), B: view(r, "columns", 1500, 200, random), LDC: 200, Alpha: 1, BF16: true}
		go func() {
			s := new(workers.Scratch)
			c.C = make([]float32, 100*200)
			c.Serial(s)
			want := slices.Clone(c.C)
			n := 0
			for ; time.Now().Before(end); n++ {
				clear(c.C)
				c.Serial(s)
				if !slices.Equal(c.C, want) {
					failed <- fmt.Sprintf("product %d differs", n)
					return
				}
			}
			failed <- ""
		}()
	}
	for range 8 {
		if f := <-failed; f != "" {
			t.Error(f)
		}
	}
}

// BenchmarkBF16 measures the peak of products of bfloat16 numbers, and the products of
// BenchmarkWeight in bfloat16.
func BenchmarkBF16(b *testing.B) {
	needBF16(b)
	b.Run("peak", func(b *testing.B) {
		var best float64
		for b.Loop() {
			best = max(best, PeakBF16GFLOPS(1, 10*time.Millisecond))
		}
		b.ReportMetric(best, "GFLOPS")
	})
	r := rand.New(rand.NewPCG(1, 2))
	for _, d := range weightShapes {
		k, n := d[0], d[1]
		const m = 1576
		b.Run(fmt.Sprintf("%dx%dx%d", m, k, n), func(b *testing.B) {
			c := Call{M: m, N: n, K: k, A: View{random(r, m*k), k, 1}, C: make([]float32, m*n), LDC: n, Alpha: 1, BF16: true}
			c.Packed = PackBF16(workers.Aligned(PackedBF16Len(k, n)), View{random(r, k*n), 1, k}, k, n)
			rate(b, float64(m*n*k), &c)
		})
	}
}
