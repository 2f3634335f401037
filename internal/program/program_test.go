package program

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/gomlx/compute/dtypes"
	"github.com/gomlx/compute/shapes"
	"github.com/gomlx/gomlx/core/graph"
	"github.com/gomlx/gomlx/core/tensors"

	"github.com/sptune/spt/backend"
)

func newProgram(t *testing.T, be backend.Backend, fn Build) *Program {
	t.Helper()
	p, err := New(be, "sum", fn)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func place32(t *testing.T, be backend.Backend, data []float32, shape ...int) *tensors.Tensor {
	t.Helper()
	x, err := Tensor(be, data, shape...)
	if err != nil {
		t.Fatal(err)
	}
	return x
}

// TestDonatedSurvivesRefusal checks that donated inputs stay valid if the program cannot be built
// for the inputs. Then a training run can still save its state and continue.
func TestDonatedSurvivesRefusal(t *testing.T) {
	be, _, err := backend.Open("cpu", 1)
	if err != nil {
		t.Fatal(err)
	}
	p := newProgram(t, be, func(_ *graph.Graph, in []*graph.Node) []*graph.Node {
		return []*graph.Node{graph.Add(in[0], in[1])}
	})
	defer p.Close()
	state, wrong, right := place32(t, be, []float32{1, 2, 3}, 3), place32(t, be, []float32{1, 2}, 2), place32(t, be, []float32{4, 5, 6}, 3)
	defer Free(wrong, right)
	if _, err := p.Run(t.Context(), donated{state}, wrong); err == nil {
		t.Fatal("a tensor of 3 values and a tensor of 2 values were added without an error")
	}
	if _, err := p.Run(t.Context(), donated{state}, 7); err == nil || !strings.Contains(err.Error(), "input 1 has type int") {
		t.Fatalf("a number in place of a tensor: error %v", err)
	}
	out, err := p.Run(t.Context(), donated{state}, right)
	if err != nil {
		t.Fatal(err)
	}
	defer Free(out...)
	if got, err := Float32s(out[0]); err != nil || !slices.Equal(got, []float32{5, 7, 9}) {
		t.Errorf("%v, error %v", got, err)
	}
}

// TestManyShapes checks that a program accepts any number of input shapes, such as a last
// mini-batch of any size. The default limit of GoMLX is 32.
func TestManyShapes(t *testing.T) {
	be, _, err := backend.Open("cpu", 1)
	if err != nil {
		t.Fatal(err)
	}
	p := newProgram(t, be, func(_ *graph.Graph, in []*graph.Node) []*graph.Node {
		return []*graph.Node{graph.ReduceAllSum(in[0])}
	})
	defer p.Close()
	for n := 1; n <= 40; n++ {
		x := place32(t, be, make([]float32, n), n)
		out, err := p.Run(t.Context(), x)
		if err != nil {
			t.Fatalf("shape %d: %v", n, err)
		}
		Free(append(out, x)...)
	}
}

// TestPanicsAreErrors checks that a panic of a graph function becomes an error for any type of
// panic value, and that the program can be closed afterwards.
func TestPanicsAreErrors(t *testing.T) {
	be, _, err := backend.Open("cpu", 1)
	if err != nil {
		t.Fatal(err)
	}
	for _, value := range []any{"text", fmt.Errorf("an error"), 7} {
		p := newProgram(t, be, func(*graph.Graph, []*graph.Node) []*graph.Node { panic(value) })
		x := place32(t, be, []float32{1}, 1)
		if _, err := p.Run(t.Context(), x); err == nil || !strings.Contains(err.Error(), fmt.Sprint(value)) {
			t.Errorf("a panic with %v: error %v", value, err)
		}
		Free(x)
		closed := make(chan bool)
		go func() { p.Close(); close(closed) }()
		select {
		case <-closed:
		case <-time.After(10 * time.Second):
			t.Fatalf("after a panic with %v, Close does not return", value)
		}
	}
}

// TestPlaceRefuses checks the errors for too few values and for an unknown type.
func TestPlaceRefuses(t *testing.T) {
	be, _, err := backend.Open("cpu", 1)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Tensor(be, make([]uint8, 5), 2, 3); err == nil || !strings.Contains(err.Error(), "shape [2 3]") || !strings.Contains(err.Error(), "5 values, expected 6") {
		t.Errorf("5 values for a shape of 6 elements: error %v", err)
	}
	if _, err := Frozen(be, dtypes.Float64, make([]float32, 6), 2, 3); err == nil || !strings.Contains(err.Error(), "the type is Float64") {
		t.Errorf("a frozen tensor of type float64: error %v", err)
	}
}

// TestMemoryError checks that an error of a device that has no free memory becomes a
// backend.MemoryError with sizes and advice, and that other errors stay unchanged.
func TestMemoryError(t *testing.T) {
	be, _, err := backend.Open("cpu", 1)
	if err != nil {
		t.Fatal(err)
	}
	given := []shapes.Shape{shapes.Make(dtypes.Float32, 2, 3), shapes.Make(dtypes.Float32, 2, 3)}
	cause := fmt.Errorf("PJRT error (code=8): RESOURCE_EXHAUSTED: Out of memory while trying to allocate 34359738368 bytes.")
	got := memoryError("training step", be, given, fmt.Errorf("running: %w", cause))
	var m *backend.MemoryError
	if !errors.As(got, &m) || m.Inputs != 48 || !errors.Is(got, cause) {
		t.Fatalf("%v, %+v", got, m)
	}
	for _, want := range []string{"training step", "34359738368 bytes", "batch size", "activation checkpointing", "precision bf16", "[2, 3]"} {
		if !strings.Contains(got.Error(), want) {
			t.Errorf("%q lacks %q", got, want)
		}
	}
	other := errors.New("shapes differ")
	if got := memoryError("x", be, nil, other); got != other {
		t.Errorf("%v", got)
	}
}
