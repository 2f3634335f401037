package cpu

import (
	"runtime"
	"slices"
	"sync"
	"testing"

	. "github.com/gomlx/gomlx/core/graph"
	"github.com/gomlx/gomlx/ml/nn"

	"github.com/gomlx/compute"
	"github.com/gomlx/compute/dtypes"
)

// TestThreadsRandomPrograms checks that random programs give the same bits for any number of
// processors.
func TestThreadsRandomPrograms(t *testing.T) {
	be := newBackend(t)
	n := uint64(50)
	if testing.Short() {
		n = 24
	}
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
	for seed := range n {
		var want [][]float32
		for _, procs := range []int{1, 2, 4} {
			runtime.GOMAXPROCS(procs)
			log, got, err := runProgram(be, seed)
			if err != nil {
				t.Fatalf("seed %d: %v\n%s", seed, err, log)
			}
			if want == nil {
				want = got
			}
			for i := range want {
				if !sameBits(got[i], want[i]) {
					t.Fatalf("seed %d, output %d: GOMAXPROCS %d gives other bits than GOMAXPROCS 1", seed, i, procs)
				}
			}
		}
	}
}

// TestThreadsSums checks that long sums have the same order for any number of processors. The cases
// are sums over all elements, over rows, over leading and middle axes, and the gradients of a layer
// norm. It also checks that random bits depend only on their position.
func TestThreadsSums(t *testing.T) {
	be := newBackend(t)
	dims := [][]int{{20, 130, 100}, {100}, {100}}
	exec := compiled(t, be, func(in []*Node) []*Node {
		x := in[0]
		norm := nn.LayerNorm(x, []int{2}, 1e-6, in[1], in[2], nil)
		_, u := RandomUniform(Const(x.Graph(), []uint64{1, 2, 3}), x.Shape())
		dropped := Mul(x, MulScalar(ConvertDType(GreaterOrEqual(u, Const(x.Graph(), float32(0.2))), dtypes.Float32), 1.25))
		out := []*Node{u, dropped, ReduceSum(dropped, 2), ReduceAllSum(x), ReduceSum(x, 0), ReduceSum(x, 1), ReduceSum(x, 2), ReduceSum(x, 0, 1), ReduceSum(x, 1, 2), Softmax(Reshape(x, 13, 20000))}
		return append(out, Gradient(ReduceAllSum(Mul(norm, Sin(x))), in...)...)
	}, dims...)
	in := []compute.Buffer{upload(t, be, normal(260000, 1), dims[0]...), upload(t, be, normal(100, 2), 100), upload(t, be, normal(100, 3), 100)}
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
	want := execute(t, exec, in, nil)
	for _, procs := range []int{2, 3, 4} {
		runtime.GOMAXPROCS(procs)
		for i, got := range execute(t, exec, in, nil) {
			if !sameBits(got, want[i]) {
				t.Errorf("GOMAXPROCS %d, output %d: the bits differ from the bits with one processor", procs, i)
			}
		}
	}
}

// TestThreadsTuningStep checks that three training steps give the same bits for any number of
// processors. Each step gets the state of the previous step.
func TestThreadsTuningStep(t *testing.T) {
	be := newBackend(t)
	dims, donate := stateful.inputs()
	first := slices.Index(donate, true)
	exec := compiled(t, be, stateful.graph, dims...)
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
	var want [][]float32
	for _, procs := range []int{1, 2, 4} {
		runtime.GOMAXPROCS(procs)
		in := stateful.upload(t, be)
		for range 3 {
			out, err := exec.Execute(in, donate, 0)
			if err != nil {
				t.Fatal(err)
			}
			copy(in[first:], out[1:])
		}
		var got [][]float32
		for _, b := range in[first:] {
			got = append(got, contents(t, b))
		}
		if want == nil {
			want = got
		}
		for i := range want {
			if !sameBits(got[i], want[i]) {
				t.Errorf("GOMAXPROCS %d, tensor %d: the bits differ from the bits with one processor", procs, i)
			}
		}
	}
}

// TestThreadsSideBySide checks that goroutines that run three programs on the same weights at the
// same time get the same bits as each program alone. One of the programs has delegated operations.
func TestThreadsSideBySide(t *testing.T) {
	be := newBackend(t)
	s := smallStep
	dims, donate := s.inputs()
	first := slices.Index(donate, true)
	forward := func(in []*Node) []*Node { return s.graph(in)[:1] }
	delegated := func(in []*Node) []*Node {
		// Products with the step's weights, transposed too, and a sort.
		x := DotGeneral(DotGeneral(in[0], []int{2}, nil, in[3], []int{1}, nil), []int{2}, nil, in[3], []int{0}, nil)
		return []*Node{x, Sort(ReduceSum(x, 1), -1, true)}
	}
	programs := []struct {
		exec    compute.Executable
		donates bool
		want    [][]float32
	}{
		{exec: compiled(t, be, s.graph, dims...), donates: true},
		{exec: compiled(t, be, forward, dims...)},
		{exec: compiled(t, be, delegated, dims...)},
	}
	shared := s.upload(t, be)
	state := s.values()[first:]
	once := func(i int) (out [][]float32, err error) {
		in := slices.Clone(shared)
		p := programs[i]
		if p.donates { // each goroutine has a separate state
			for j, v := range state {
				if in[first+j], err = be.BufferFromFlatData(0, v, shapeOf(dims[first+j])); err != nil {
					return nil, err
				}
			}
		}
		var results []compute.Buffer
		if p.donates {
			results, err = p.exec.Execute(in, donate, 0)
		} else {
			results, err = p.exec.Execute(in, nil, 0)
		}
		if err != nil {
			return nil, err
		}
		for _, b := range results {
			shape, err := b.Shape()
			if err != nil {
				return nil, err
			}
			v := make([]float32, shape.Size())
			if err := b.ToFlatData(v); err != nil {
				return nil, err
			}
			out = append(out, v)
		}
		return out, nil
	}
	for i := range programs {
		var err error
		if programs[i].want, err = once(i); err != nil {
			t.Fatal(err)
		}
	}
	// Weights that no run has packed yet, so that the goroutines pack them.
	shared = s.upload(t, be)
	var wg sync.WaitGroup
	for g := range 8 {
		wg.Go(func() {
			for turn := range 6 {
				i := (g + turn) % len(programs)
				got, err := once(i)
				if err != nil {
					t.Errorf("goroutine %d, program %d: %v", g, i, err)
					return
				}
				for o := range got {
					if !sameBits(got[o], programs[i].want[o]) {
						t.Errorf("goroutine %d, program %d, output %d: the bits differ from the bits of the program alone", g, i, o)
					}
				}
			}
		})
	}
	wg.Wait()
}
