package gemm

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/sptune/spt/internal/kernel/emulator"
	"github.com/sptune/spt/internal/workers"
)

var (
	instructions = flag.Bool("instructions", false, "TestInstructions counts the instructions of arm64 under qemu")
	callName     = flag.String("call", "", "TestCall computes the product with this name")
	calls        = flag.Int("calls", 1, "the number of calls of TestCall")
)

// counted lists the products of TestInstructions. They have the shapes of ViT-Ti, with fewer rows.
var counted = []struct {
	name    string
	m, k, n int
	packed  bool // B is packed before
	bt      bool // B is stored transposed
}{
	{"weight 192x192", 40, 192, 192, true, false},
	{"weight 768x192", 40, 768, 192, true, false},
	{"scores", 48, 64, 197, false, true},
	{"values", 48, 197, 64, false, false},
	{"LoRA-A", 40, 768, 8, false, true},
}

// TestCall computes one product. TestInstructions runs it in the emulator.
func TestCall(*testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for _, p := range counted {
		if p.name != *callName {
			continue
		}
		c := Call{M: p.m, N: p.n, K: p.k, A: View{random(r, p.m*p.k), p.k, 1}, B: View{random(r, p.k*p.n), p.n, 1}, C: make([]float32, p.m*p.n), LDC: p.n, Alpha: 1}
		if p.bt {
			c.B = View{c.B.Data, 1, p.k}
		}
		if p.packed {
			c.Packed = Pack(workers.Aligned(PackedLen(p.k, p.n)), c.B, p.k, p.n)
		}
		s := new(workers.Scratch)
		for range *calls {
			c.Serial(s)
		}
	}
}

// TestInstructions prints the number of arm64 instructions that products execute for a
// multiply-add. One vector instruction computes four multiply-adds, so no kernel needs less than
// 0.25. The number is the difference between two calls and one call.
func TestInstructions(t *testing.T) {
	if !*instructions {
		t.Skip("-instructions is not set")
	}
	program := emulator.Build(t)
	for _, p := range counted {
		count := func(calls int) int {
			return program.Count(t, "-test.run", "^TestCall$", "-call", p.name, "-calls", fmt.Sprint(calls))
		}
		t.Logf("%-16s %.3f instructions for a multiply-add", p.name, float64(count(2)-count(1))/float64(p.m*p.k*p.n))
	}
}
