package vector

import (
	"flag"
	"fmt"
	"strings"
	"testing"

	"github.com/sptune/spt/internal/kernel/emulator"
)

var (
	instructions = flag.Bool("instructions", false, "TestInstructions counts the instructions of arm64 under qemu")
	callName     = flag.String("call", "", "TestCall calls the benchmark with this name")
	callLevel    = flag.String("level", "", "the instruction set of TestCall")
	calls        = flag.Int("calls", 1, "the number of calls of TestCall")
)

// TestCall calls one benchmark. TestInstructions runs it in the emulator.
func TestCall(*testing.T) {
	for _, b := range benchmarks() {
		if b.name == *callName {
			eachLevel(func() {
				if levelName() == *callLevel {
					for range *calls {
						b.f()
					}
				}
			})
		}
	}
}

// TestInstructions prints the number of arm64 instructions that each function executes for an
// element, as portable Go and with NEON. It is the difference between the traces of two calls and
// of one call, so neither the start of the program nor the tables of package scalar count.
func TestInstructions(t *testing.T) {
	if !*instructions {
		t.Skip("-instructions is not set")
	}
	p := emulator.Build(t)
	count := func(name, level string, calls int) float64 {
		return float64(p.Count(t, "-test.run", "^TestCall$", "-call", name, "-level", level, "-calls", fmt.Sprint(calls)))
	}
	for _, b := range benchmarks() {
		var n []string
		for _, level := range []string{"portable", "neon"} {
			n = append(n, fmt.Sprintf("%6.2f", (count(b.name, level, 2)-count(b.name, level, 1))/l1))
		}
		t.Logf("%-16s portable, neon: %s instructions for an element", b.name, strings.Join(n, ", "))
	}
}
