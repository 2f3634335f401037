package vector

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
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
// element, as portable Go and with NEON. It is the difference between the traces of two calls and of
// one call, so neither the start of the program nor the tables of package scalar count.
func TestInstructions(t *testing.T) {
	if !*instructions {
		t.Skip("-instructions is not set")
	}
	binary := filepath.Join(t.TempDir(), "vector.test")
	build := exec.Command("go", "test", "-c", "-o", binary, ".")
	build.Env = append(os.Environ(), "GOARCH=arm64", "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("building the test for arm64: %v: %s", err, out)
	}
	filter := codeRanges(t, binary)
	trace := func(name, level string, calls int) float64 {
		out, err := exec.Command("qemu-aarch64-static", "-singlestep", "-d", "exec,nochain", "-dfilter", filter, binary,
			"-test.run", "^TestCall$", "-call", name, "-level", level, "-calls", fmt.Sprint(calls)).CombinedOutput()
		if err != nil {
			t.Fatalf("running the test in the emulator: %v: %s", err, out[max(0, len(out)-500):])
		}
		return float64(bytes.Count(out, []byte("Trace ")))
	}
	for _, b := range benchmarks() {
		var n []string
		for _, level := range []string{"portable", "neon"} {
			n = append(n, fmt.Sprintf("%6.2f", (trace(b.name, level, 2)-trace(b.name, level, 1))/l1))
		}
		t.Logf("%-16s portable, neon: %s instructions for an element", b.name, strings.Join(n, ", "))
	}
}

// codeRanges returns the addresses of the functions of this package and of package scalar, as qemu
// expects them.
func codeRanges(t *testing.T, binary string) string {
	out, err := exec.Command("go", "tool", "nm", "-n", binary).Output()
	if err != nil {
		t.Fatalf("reading the symbols of the test: %v", err)
	}
	var ranges []string
	start := ""
	for line := range strings.Lines(string(out)) {
		f := strings.Fields(line)
		if len(f) < 3 || f[1] != "T" && f[1] != "t" {
			continue
		}
		switch inside := strings.Contains(f[2], "internal/kernel/vector"); {
		case inside && start == "":
			start = f[0]
		case !inside && start != "":
			ranges = append(ranges, "0x"+start+"..0x"+f[0])
			start = ""
		}
	}
	return strings.Join(ranges, ",")
}
