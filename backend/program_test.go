package backend

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/gomlx/gomlx/core/graph"
	"github.com/gomlx/gomlx/core/tensors"
)

func newProgram(t *testing.T, be Backend, fn Build) *Program {
	t.Helper()
	p, err := NewProgram(be, "sum", fn)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func place32(t *testing.T, be Backend, data []float32, shape ...int) *tensors.Tensor {
	t.Helper()
	x, err := Tensor(be, data, shape...)
	if err != nil {
		t.Fatal(err)
	}
	return x
}

// TestDonatedSurvivesRefusal: a program that cannot be built for its inputs leaves what it
// was given as it was, so that a training can be saved and go on.
func TestDonatedSurvivesRefusal(t *testing.T) {
	be, err := New()
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

// TestManyShapes: a program takes as many shapes as it meets, such as a last batch of any
// size; GoMLX's own default ends at 32.
func TestManyShapes(t *testing.T) {
	be, err := New()
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

// TestPanicsAreErrors: whatever a graph function panics with is an error, and the program
// can be closed after it.
func TestPanicsAreErrors(t *testing.T) {
	be, err := New()
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

// TestPlaceRefuses checks the error on values that are not as many as the shape says.
func TestPlaceRefuses(t *testing.T) {
	be, err := New()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Uint8(be, make([]uint8, 5), 2, 3); err == nil || !strings.Contains(err.Error(), "shape [2 3]") || !strings.Contains(err.Error(), "5 values, expected 6") {
		t.Errorf("5 values for a shape of 6: %v", err)
	}
}
