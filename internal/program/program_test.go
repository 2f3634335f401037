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

// TestDonatedSurvivesRefusal: a program that cannot be built for its inputs leaves what it was
// given as it was, so that a training can be saved and go on.
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
		t.Fatal("3 values and 2 were added")
	}
	if _, err := p.Run(t.Context(), donated{state}, 7); err == nil || !strings.Contains(err.Error(), "input 1 has type int") {
		t.Fatalf("a number for a tensor: %v", err)
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

// TestManyShapes: a program takes as many shapes as it meets, such as a last batch of any size;
// GoMLX's own default ends at 32.
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

// TestPanicsAreErrors: whatever a graph function panics with is an error, and the program can be
// closed after it.
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
			t.Fatalf("after a panic with %v Close waits for ever", value)
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
		t.Errorf("5 values for a shape of 6: %v", err)
	}
	if _, err := Frozen(be, dtypes.Float64, make([]float32, 6), 2, 3); err == nil || !strings.Contains(err.Error(), "the type is Float64") {
		t.Errorf("a frozen tensor of type float64: %v", err)
	}
}

// TestMemoryError checks that the error of a device without free memory becomes a
// backend.MemoryError, which names sizes and options, and that other errors stay.
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
