package cpu

import (
	"fmt"
	"slices"
	"testing"
	"unsafe"

	. "github.com/gomlx/gomlx/core/graph"

	"github.com/gomlx/compute"
)

// memoryOf returns the address of the elements of a buffer.
func memoryOf(b compute.Buffer) *byte { return unsafe.SliceData(b.(*buffer).data) }

// TestDonatedState checks that the updated state of a training step stays at the same address, and
// that inputs that are not donated do not change.
func TestDonatedState(t *testing.T) {
	be := newBackend(t)
	dims, donate := smallStep.inputs()
	first := slices.Index(donate, true)
	exec := compiled(t, be, smallStep.graph, dims...)
	in := smallStep.upload(t, be)
	held := be.memory().Buffers
	for run := range 3 {
		var state []*byte
		for _, b := range in[first:] {
			state = append(state, memoryOf(b))
		}
		out, err := exec.Execute(in, donate, 0)
		if err != nil {
			t.Fatal(err)
		}
		for i, b := range in[first:] {
			if b.(*buffer).valid() == nil {
				t.Errorf("run %d: the donated input %d is still valid", run, first+i)
			}
		}
		var updated []*byte
		for _, b := range out[1:] {
			updated = append(updated, memoryOf(b))
		}
		slices.SortFunc(state, comparePointers)
		slices.SortFunc(updated, comparePointers)
		if !slices.Equal(state, updated) {
			t.Errorf("run %d: the new state does not use the memory of the old state", run)
		}
		if err := out[0].Finalize(); err != nil {
			t.Fatal(err)
		}
		copy(in[first:], out[1:])
		if now := be.memory().Buffers; now != held {
			t.Errorf("run %d: the backend counts %d bytes of tensors, %d before", run, now, held)
		}
	}
	for i, v := range smallStep.values()[:first] {
		if w, ok := v.([]float32); ok && !sameBits(contents(t, in[i]), w) {
			t.Errorf("input %d was not donated and changed", i)
		}
	}
}

func comparePointers(a, b *byte) int {
	return int(uintptr(unsafe.Pointer(a))) - int(uintptr(unsafe.Pointer(b)))
}

// TestDonatedInPlace checks that a scatter and a loop write their result to the memory of a donated
// tensor. For any other input the result has separate memory. A borrowed array is never written to.
func TestDonatedInPlace(t *testing.T) {
	be := newBackend(t)
	const n = 1000
	at, values := []int32{5, n - 1, 5}, []float32{1, 2, 3}
	for name, c := range map[string]struct {
		graph graphFunc
		want  func(x []float32)
	}{
		"scatter": {func(in []*Node) []*Node {
			return []*Node{ScatterSum(in[0], ExpandDims(in[1], -1), in[2], false, false)}
		}, func(x []float32) {
			for i, e := range at {
				x[e] += values[i]
			}
		}},
		"loop": {func(in []*Node) []*Node { return []*Node{Neg(in[0])} }, func(x []float32) {
			for i := range x {
				x[i] = -x[i]
			}
		}},
	} {
		exec := compiled(t, be, c.graph, []int{n}, []int{-3}, []int{3})
		data := normal(n, 1)
		want := slices.Clone(data)
		c.want(want)
		for _, donated := range []bool{true, false} {
			for _, borrowed := range []bool{true, false} {
				what := fmt.Sprintf("%s, donated %t, borrowed %t", name, donated, borrowed)
				mine := slices.Clone(data)
				x := upload(t, be, mine, n)
				if borrowed {
					var err error
					if x, err = Borrow(be, mine, n); err != nil {
						t.Fatal(err)
					}
				}
				old := memoryOf(x)
				in := []compute.Buffer{x, upload(t, be, at, -3), upload(t, be, values, 3)}
				out, err := exec.Execute(in, []bool{donated, false, false}, 0)
				if err != nil {
					t.Fatal(err)
				}
				if !sameBits(contents(t, out[0]), want) {
					t.Errorf("%s: wrong result", what)
				}
				if !slices.Equal(mine, data) {
					t.Errorf("%s: the array of the caller changed", what)
				}
				if taken := memoryOf(out[0]) == old; taken != (donated && !borrowed) {
					t.Errorf("%s: output uses the memory of the input: %t", what, taken)
				}
				if _, err := x.Shape(); (err != nil) != donated {
					t.Errorf("%s: the input afterwards: %v", what, err)
				}
				if !donated && !sameBits(contents(t, x), data) {
					t.Errorf("%s: the input changed", what)
				}
				if _, err := exec.Execute(in, nil, 0); (err != nil) != donated {
					t.Errorf("%s: running it again: %v", what, err)
				}
			}
		}
	}
}

// TestDonatedTwice passes one buffer for two inputs and donates one or both of them. Both inputs
// must be read before the buffer is overwritten.
func TestDonatedTwice(t *testing.T) {
	be := newBackend(t)
	const n = 64
	x := normal(n*n, 1)
	for _, first := range []int{0, 1} {
		exec := compiled(t, be, func(in []*Node) []*Node {
			// The product reads the second input after the loop has run.
			y := Neg(in[first])
			return []*Node{y, DotGeneral(y, []int{1}, nil, in[1-first], []int{0}, nil)}
		}, []int{n, n}, []int{n, n})
		sum := execute(t, exec, []compute.Buffer{upload(t, be, x, n, n), upload(t, be, x, n, n)}, nil)
		if sum[0][1] != -x[1] {
			t.Fatal("wrong result without donations")
		}
		for _, donate := range [][]bool{{true, false}, {false, true}, {true, true}} {
			b := upload(t, be, x, n, n)
			out := execute(t, exec, []compute.Buffer{b, b}, donate)
			for i := range out {
				if !sameBits(out[i], sum[i]) {
					t.Errorf("first %d, donated %v: output %d differs from the output for two separate buffers", first, donate, i)
				}
			}
			if b.(*buffer).valid() == nil {
				t.Errorf("first %d, donated %v: the buffer is still valid", first, donate)
			}
		}
	}
}

// TestDonatedToOthers checks that the memory of a donated input is released if no output can use
// it, and that an input that later steps read is not overwritten.
func TestDonatedToOthers(t *testing.T) {
	be := newBackend(t)
	const n = 50
	exec := compiled(t, be, func(in []*Node) []*Node {
		y := Tanh(in[0])
		// The product reads the input after the loop has run.
		return []*Node{y, DotGeneral(y, []int{1}, nil, in[0], []int{0}, nil), ReduceAllSum(in[1])}
	}, []int{n, n}, []int{n})
	x, v := normal(n*n, 1), normal(n, 2)
	want := execute(t, exec, []compute.Buffer{upload(t, be, x, n, n), upload(t, be, v, n)}, nil)
	before := be.memory().Buffers
	in := []compute.Buffer{upload(t, be, x, n, n), upload(t, be, v, n)}
	out, err := exec.Execute(in, []bool{true, true}, 0)
	if err != nil {
		t.Fatal(err)
	}
	for i, b := range out {
		if !sameBits(contents(t, b), want[i]) {
			t.Errorf("output %d differs when inputs are donated", i)
		}
		if err := b.Finalize(); err != nil {
			t.Fatal(err)
		}
	}
	if now := be.memory().Buffers; now != before {
		t.Errorf("the backend counts %d bytes of tensors, %d before", now, before)
	}
}

// TestReleasedMemory checks that a new tensor uses the memory of a finalized tensor of the same
// size. It must never use memory that a result took over from a donated tensor, or borrowed memory.
func TestReleasedMemory(t *testing.T) {
	be := newBackend(t)
	const n = 4096
	numbers := func(v float32) []float32 { return slices.Repeat([]float32{v}, n) }
	exec := compiled(t, be, func(in []*Node) []*Node { return []*Node{AddScalar(in[0], 1)} }, []int{n})
	own := numbers(1)
	borrowed, err := Borrow(be, own, n)
	if err != nil {
		t.Fatal(err)
	}
	given := upload(t, be, numbers(2), n)
	results, err := exec.Execute([]compute.Buffer{given}, []bool{true}, 0)
	if err != nil {
		t.Fatal(err)
	}
	_, _ = borrowed.Finalize(), given.Finalize() // never fail
	// None of these tensors may use the memory of the result or of the array.
	for range 20 {
		b := upload(t, be, numbers(5), n)
		if memoryOf(b) == memoryOf(results[0]) {
			t.Error("a new tensor uses memory that a result took over from a donated tensor")
		}
		defer b.Finalize()
	}
	if !sameBits(contents(t, results[0]), numbers(3)) || !sameBits(own, numbers(1)) {
		t.Error("memory that was not released changed")
	}
	// The pool may lose some of the memory, in particular under the race detector.
	again := 0
	for range 100 {
		b := upload(t, be, numbers(6), n)
		was := memoryOf(b)
		_ = b.Finalize() // never fails
		c := upload(t, be, numbers(7), n)
		if memoryOf(c) == was {
			again++
		}
		_ = c.Finalize() // never fails
	}
	if again == 0 {
		t.Error("released memory is never used again")
	}
}
