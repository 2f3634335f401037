// Package emulator counts the instructions that a test executes on an arm64 processor. It runs the
// test in the emulator qemu, which traces every instruction. The counts are exact and do not depend
// on the machine, but they say nothing about the time of an instruction.
package emulator

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// Program is the test binary of a package for arm64.
type Program struct {
	binary string
	// filter holds the addresses of the functions of the kernel packages, as qemu expects them.
	filter string
}

// Build builds the test of the package whose test calls it.
func Build(t *testing.T) *Program {
	p := &Program{binary: filepath.Join(t.TempDir(), "arm64.test")}
	build := exec.Command("go", "test", "-c", "-o", p.binary, ".")
	build.Env = append(os.Environ(), "GOARCH=arm64", "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("building the test for arm64: %v: %s", err, out)
	}
	out, err := exec.Command("go", "tool", "nm", "-n", p.binary).Output()
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
		switch inside := strings.Contains(f[2], "/internal/kernel/"); {
		case inside && start == "":
			start = f[0]
		case !inside && start != "":
			ranges = append(ranges, "0x"+start+"..0x"+f[0])
			start = ""
		}
	}
	p.filter = strings.Join(ranges, ",")
	return p
}

// Count runs the test with the given flags. It returns the number of instructions that the
// functions of the kernel packages execute.
func (p *Program) Count(t *testing.T, flags ...string) int {
	args := append([]string{"-singlestep", "-d", "exec,nochain", "-dfilter", p.filter, p.binary}, flags...)
	out, err := exec.Command("qemu-aarch64-static", args...).CombinedOutput()
	if err != nil {
		t.Fatalf("running the test in the emulator: %v: %s", err, out[max(0, len(out)-500):])
	}
	return bytes.Count(out, []byte("Trace "))
}
