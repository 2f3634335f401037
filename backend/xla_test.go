//go:build xla && linux

package backend_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	. "github.com/gomlx/gomlx/core/graph"
	"github.com/gomlx/gomlx/core/tensors"

	"github.com/sptune/spt/backend"
	"github.com/sptune/spt/internal/devicetest"
	"github.com/sptune/spt/internal/program"
)

// TestDevice runs a program with a donated input on the device.
func TestDevice(t *testing.T) {
	be, _ := devicetest.Open(t)
	if !backend.OnDevice(be) {
		t.Errorf("OnDevice returns false for %s", be.Description())
	}
	p, err := program.New(be, "test", func(_ *Graph, in []*Node) []*Node {
		return []*Node{Add(in[0], in[1]), ReduceAllSum(Mul(in[0], in[1]))}
	})
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	x, err := program.Tensor(be, []float32{1, 2, 3, 4}, 2, 2)
	if err != nil {
		t.Fatal(err)
	}
	y, err := program.Tensor(be, []float32{10, 20, 30, 40}, 2, 2)
	if err != nil {
		t.Fatal(err)
	}
	out, err := p.Run(t.Context(), append(program.Donate([]*tensors.Tensor{x}), y)...)
	if err != nil {
		t.Fatal(err)
	}
	defer program.Free(append(out, y)...)
	for i, want := range [][]float32{{11, 22, 33, 44}, {300}} {
		got, err := program.Float32s(out[i])
		if err != nil {
			t.Fatal(err)
		}
		for j := range want {
			if got[j] != want[j] {
				t.Errorf("output %d: %v, want %v", i, got, want)
				break
			}
		}
	}
}

// TestOpenAbort checks that the user sees the last message of a plug-in that ends the process.
func TestOpenAbort(t *testing.T) {
	if plugin := os.Getenv("SPT_TEST_ABORT"); plugin != "" {
		_, _, err := backend.Open("xla:"+plugin, 1)
		t.Fatalf("opening a plug-in that aborts returned %v", err)
	}
	compiler, err := exec.LookPath("cc")
	if err != nil {
		t.Skip("needs the C compiler cc")
	}
	dir := t.TempDir()
	source, plugin := filepath.Join(dir, "abort.c"), filepath.Join(dir, "pjrt_c_api_abort_plugin.so")
	code := `#include <stdio.h>
#include <stdlib.h>
const void* GetPjrtApi(void) { fprintf(stderr, "Unknown flag in XLA_FLAGS: --no_such_flag\n"); abort(); }
`
	if err := os.WriteFile(source, []byte(code), 0o666); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command(compiler, "-shared", "-fPIC", "-o", plugin, source).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	cmd := exec.Command(os.Args[0], "-test.run", "^TestOpenAbort$")
	cmd.Env = append(os.Environ(), "SPT_TEST_ABORT="+plugin)
	out, err := cmd.CombinedOutput()
	if err == nil || !strings.Contains(string(out), "Unknown flag in XLA_FLAGS: --no_such_flag") {
		t.Errorf("error %v, output %q", err, out)
	}
}
