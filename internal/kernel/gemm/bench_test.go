package gemm

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/sptune/spt/internal/workers"
)

// weightShapes are K and N of the products with the weights of ViT-B and ViT-Ti.
var weightShapes = [][2]int{{768, 768}, {768, 3072}, {3072, 768}, {192, 192}, {192, 576}, {192, 768}, {768, 192}}

// BenchmarkWeight measures the products with the weights of ViT-B and ViT-Ti for 8 and 32 images of
// 197 tokens, so M is 1576 and 6304. Weights are packed once.
func BenchmarkWeight(b *testing.B) {
	r := rand.New(rand.NewPCG(1, 2))
	for _, m := range []int{1576, 6304} {
		for _, d := range weightShapes {
			k, n := d[0], d[1]
			b.Run(fmt.Sprintf("%dx%dx%d", m, k, n), func(b *testing.B) {
				w := View{random(r, k*n), 1, k} // stored as in PyTorch, [n,k]
				c := Call{M: m, N: n, K: k, A: View{random(r, m*k), k, 1}, C: make([]float32, m*n), LDC: n, Alpha: 1}
				c.Packed = Pack(workers.Aligned(PackedLen(k, n)), w, k, n)
				rate(b, float64(m*n*k), &c)
			})
		}
	}
}

// BenchmarkFromMemory measures products of ViT-Ti with operands that are not in the caches, as in a
// training step.
func BenchmarkFromMemory(b *testing.B) {
	const m, tensors = 1576, 32 // each has one to five megabytes
	r := rand.New(rand.NewPCG(1, 2))
	for _, d := range [][2]int{{192, 192}, {192, 768}, {768, 192}} {
		k, n := d[0], d[1]
		b.Run(fmt.Sprintf("%dx%dx%d", m, k, n), func(b *testing.B) {
			as, cs := random(r, tensors*m*k), random(r, tensors*m*n)
			c := Call{M: m, N: n, K: k, LDC: n, Alpha: 1}
			c.Packed = Pack(workers.Aligned(PackedLen(k, n)), View{random(r, k*n), 1, k}, k, n)
			i := 0
			for b.Loop() {
				i = (i + 1) % tensors
				c.A, c.C = View{as[i*m*k:], k, 1}, cs[i*m*n:]
				c.Run()
			}
			report(b, float64(m*n*k))
		})
	}
}

// BenchmarkTuning measures the other products of fine-tuning, named M × K × N: products with LoRA
// matrices, gradients of weights, and matrix-vector products. No operand is packed before.
func BenchmarkTuning(b *testing.B) {
	r := rand.New(rand.NewPCG(1, 2))
	for _, d := range []struct {
		name    string
		m, k, n int
		at, bt  bool // A or B is stored transposed
		beta    float32
	}{
		{"LoRA-A", 6304, 768, 8, false, true, 0},
		{"LoRA-B", 6304, 8, 768, false, true, 1},
		{"LoRA-A-gradient", 8, 6304, 768, true, false, 0},
		{"LoRA-B-gradient", 768, 6304, 8, true, false, 0},
		{"weight-gradient", 768, 6304, 768, true, false, 0},
		{"weight-gradient", 3072, 1576, 768, true, false, 0},
		{"weight-gradient", 192, 1576, 192, true, false, 0},
		{"head", 32, 768, 100, false, true, 0},
		{"vector", 1, 768, 3072, false, false, 0},
		{"vector-transposed", 1, 768, 3072, false, true, 0},
	} {
		b.Run(fmt.Sprintf("%s-%dx%dx%d", d.name, d.m, d.k, d.n), func(b *testing.B) {
			c := Call{M: d.m, N: d.n, K: d.k, C: make([]float32, d.m*d.n), LDC: d.n, Alpha: 1, Beta: d.beta}
			c.A = View{random(r, d.m*d.k), d.k, 1}
			if d.at {
				c.A = View{c.A.Data, 1, d.m}
			}
			c.B = View{random(r, d.k*d.n), d.n, 1}
			if d.bt {
				c.B = View{c.B.Data, 1, d.k}
			}
			b.SetBytes(4 * int64(d.m*d.k+d.k*d.n+d.m*d.n+int(d.beta)*d.m*d.n))
			rate(b, float64(d.m*d.n*d.k), &c)
		})
	}
}

// BenchmarkAttention measures the attention of ViT-B: 12 heads of 64 channels for 8 images of 197
// tokens.
func BenchmarkAttention(b *testing.B) {
	const tokens, channels, heads, images = 197, 64, 12, 8
	r := rand.New(rand.NewPCG(1, 2))
	x := random(r, images*tokens*heads*channels)
	p := random(r, images*heads*tokens*tokens)
	of := func(i int) View { // head i of x, [image, token, head, channel]
		return View{x[i/heads*tokens*heads*channels+i%heads*channels:], heads * channels, 1}
	}
	work := float64(images * heads * tokens * tokens * channels)
	b.Run("scores", func(b *testing.B) {
		for b.Loop() {
			Batched(images*heads, func(i int, c *Call) {
				*c = Call{M: tokens, N: tokens, K: channels, A: of(i), B: of(i).T(), C: p[i*tokens*tokens:], LDC: tokens, Alpha: 0.125}
			})
		}
		report(b, work)
	})
	out := make([]float32, len(x))
	b.Run("values", func(b *testing.B) {
		for b.Loop() {
			Batched(images*heads, func(i int, c *Call) {
				o := out[i/heads*tokens*heads*channels+i%heads*channels:]
				*c = Call{M: tokens, N: channels, K: tokens, A: View{p[i*tokens*tokens:], tokens, 1}, B: of(i), C: o, LDC: heads * channels, Alpha: 1}
			})
		}
		report(b, work)
	})
	one := Call{M: tokens, N: tokens, K: channels, A: of(0), B: of(0).T(), C: p, LDC: tokens, Alpha: 0.125}
	s := new(workers.Scratch)
	b.Run("scores-serial", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			one.Serial(s)
		}
		report(b, tokens*tokens*channels)
	})
}

// rate reports the speed of c, which has work multiply-adds. It reports the median and the best of
// single runs, as docs/peers/openblas_gemm.c does.
func rate(b *testing.B, work float64, c *Call) {
	var took []time.Duration
	for b.Loop() {
		start := time.Now()
		c.Run()
		took = append(took, time.Since(start))
	}
	slices.Sort(took)
	b.ReportMetric(2*work/float64(took[len(took)/2]), "GFLOPS")
	b.ReportMetric(2*work/float64(took[0]), "best-GFLOPS")
}

// report reports the mean speed of iterations with work multiply-adds each.
func report(b *testing.B, work float64) {
	b.ReportMetric(2*work*float64(b.N)/float64(b.Elapsed().Nanoseconds()), "GFLOPS")
}

// BenchmarkKernel measures every kernel of this processor on one thread.
func BenchmarkKernel(b *testing.B) {
	const m, k, n = 197, 768, 768
	r := rand.New(rand.NewPCG(1, 2))
	best := active
	defer func() { active = best }()
	for i := range available {
		active = &available[i]
		b.Run(active.name, func(b *testing.B) {
			s := new(workers.Scratch)
			c := Call{M: m, N: n, K: k, A: View{random(r, m*k), k, 1}, C: make([]float32, m*n), LDC: n, Alpha: 1}
			c.Packed = Pack(workers.Aligned(PackedLen(k, n)), View{random(r, k*n), 1, k}, k, n)
			for b.Loop() {
				c.Serial(s)
			}
			report(b, m*k*n)
		})
	}
}

func BenchmarkPeak(b *testing.B) {
	for _, threads := range []int{1, workers.Count()} {
		b.Run(fmt.Sprint(threads), func(b *testing.B) {
			var best float64
			for b.Loop() {
				best = max(best, PeakGFLOPS(threads, 50*time.Millisecond))
			}
			b.ReportMetric(best, "GFLOPS")
		})
	}
}
