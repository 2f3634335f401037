// Package backend is the one place where spt chooses what its graphs run on,
// and the one door through which they run.
//
// [Open] starts a [Device]: the processor, by package cpu, or in a build with XLA
// (build tag xla, cgo) a GPU through a PJRT plug-in, which [Plugins] finds.
//
// Everything above it builds GoMLX graphs and calls them as a [Program]. A
// Program turns every panic of graph building or execution into an error and
// keeps the dependency's log lines away from users, so nothing above has to
// know which compute.Backend is underneath.
package backend

import (
	"cmp"
	"context"
	"flag"
	"fmt"
	"io"
	"runtime"
	"runtime/debug"
	"slices"
	"sync"

	"github.com/gomlx/compute"
	"github.com/gomlx/compute/distributed"
	"github.com/gomlx/compute/dtypes/bfloat16"
	"github.com/gomlx/compute/dtypes/gotype"
	"github.com/gomlx/compute/shapes"
	"github.com/gomlx/gomlx/core/graph"
	"github.com/gomlx/gomlx/core/tensors"
	"github.com/gomlx/gomlx/support/exceptions"
	"k8s.io/klog/v2"

	"github.com/sptune/spt/backend/cpu"
)

// Backend is what graphs are compiled for and run on.
type Backend = compute.Backend

// New returns the default backend: package cpu. It is shared by the whole
// process, so weights placed on it are placed once.
func New() (Backend, error) { return start() }

var start = sync.OnceValues(func() (Backend, error) {
	silence()
	return cpu.New("")
})

// AtOnce is how many tokens, images times the length of their sequences, be is best given
// in one run of a program, and how many in all runs side by side. A processor computes
// small runs in its caches, each on a core of its own, but holds the activations of all.
// 0: as many as there are.
func AtOnce(be Backend) (run, all int) {
	if _, ok := be.(*cpu.Backend); ok {
		return 1024, 4096
	}
	return 0, 0
}

// Rematerialises reports whether be decides by itself what is computed again on the
// way back instead of being kept.
func Rematerialises(be Backend) bool {
	_, own := be.(*cpu.Backend)
	return own
}

// silence keeps GoMLX's klog lines off the user's terminal.
func silence() {
	flags := flag.NewFlagSet("klog", flag.ContinueOnError)
	klog.InitFlags(flags)
	// Set fails only for unknown names; these are klog's own.
	_ = flags.Set("logtostderr", "false")
	_ = flags.Set("stderrthreshold", "FATAL")
	klog.SetOutput(io.Discard)
}

// Program is a graph function, compiled once for each set of input shapes.
type Program struct {
	name     string
	be       Backend
	exec     *graph.Exec
	replicas int

	preparing sync.WaitGroup

	mu    sync.Mutex
	built []*graph.Graph // since the last run
}

// Build is a graph function: it maps the nodes of the inputs to the nodes of
// the outputs. It may panic, as GoMLX's own functions do; Program returns the
// panic as an error.
type Build func(g *graph.Graph, in []*graph.Node) []*graph.Node

// Caught is the panic of f as an error, whatever it is of; nil if there is none.
func Caught(f func()) error {
	switch r := exceptions.Try(f).(type) {
	case nil:
		return nil
	case error:
		return r
	default:
		return fmt.Errorf("%v", r)
	}
}

// NewProgram prepares fn to run on be. name is used in errors.
func NewProgram(be Backend, name string, fn Build) (*Program, error) {
	p := &Program{name: name, be: be, replicas: 1}
	noted := func(g *graph.Graph, in []*graph.Node) (out []*graph.Node) {
		p.mu.Lock()
		p.built = append(p.built, g)
		p.mu.Unlock()
		// GoMLX takes panics that are errors for errors. Another would also leave its
		// list of graphs in the making, for which Close waits, as it is.
		if err := Caught(func() { out = fn(g, in) }); err != nil {
			panic(err)
		}
		return out
	}
	exec, err := graph.NewExecCanonical(be, noted, 0, 0, false, true, true)
	if err != nil {
		return nil, fmt.Errorf("preparing the graph %q: %w", name, err)
	}
	// As many shapes as come: GoMLX's own limit is an error at the 33rd.
	p.exec = exec.WithName(name).SetMaxCache(-1)
	return p, nil
}

// NewReplicated prepares fn to run on all devices of be at once, on each with inputs
// of its own; in fn they meet in [AllMean] and [AllSum]. Inputs and outputs are those of
// the first device, then those of the second, and so on. With one device it is
// NewProgram.
func NewReplicated(be Backend, name string, fn Build) (*Program, error) {
	p, err := NewProgram(be, name, fn)
	if n := Replicas(be); err == nil && n > 1 {
		mesh, err := distributed.NewDeviceMesh([]int{n}, []string{"replica"})
		if err != nil {
			return nil, fmt.Errorf("preparing the graph %q for %d devices: %w", name, n, err)
		}
		p.replicas, p.exec = n, p.exec.SPMD(mesh)
	}
	return p, err
}

// AllSum is the sum of x over the replicas of a replicated program; x itself in
// another.
func AllSum(x *graph.Node) *graph.Node {
	if g := x.Graph(); g.NumDevices() > 1 {
		return g.Distributed().AllReduceOne(x, compute.ReduceOpSum)
	}
	return x
}

// AllMean is the mean of x over the replicas of a replicated program; x itself in
// another.
func AllMean(x *graph.Node) *graph.Node {
	if n := x.Graph().NumDevices(); n > 1 {
		return graph.MulScalar(AllSum(x), 1/float64(n))
	}
	return x
}

// Close releases the compiled graphs, once one that is being compiled is there.
func (p *Program) Close() {
	p.preparing.Wait()
	p.exec.Finalize()
}

// Prepare begins to compile the program for inputs of those shapes, beside what else
// happens; a Run of such inputs waits for it. What goes wrong is that Run's error.
func (p *Program) Prepare(in ...shapes.Shape) {
	p.preparing.Go(func() {
		_ = Caught(func() { _, _ = p.exec.Compile(in...) })
	})
}

// Donated is an input whose memory the program may overwrite. The tensor must
// not be used after the call.
type Donated struct{ *tensors.Tensor }

// Donate makes inputs of Run of tensors that are given to it.
func Donate(ts []*tensors.Tensor) (in []any) {
	for _, t := range ts {
		in = append(in, Donated{Tensor: t})
	}
	return in
}

// Lend makes inputs of Run of tensors that the caller keeps.
func Lend(lists ...[]*tensors.Tensor) (in []any) {
	for _, t := range slices.Concat(lists...) {
		in = append(in, t)
	}
	return in
}

// Run executes the program. Inputs are *tensors.Tensor or Donated; the caller
// keeps the former and owns the outputs. A cancelled ctx is noticed before the
// graph starts, not within it. What is donated is not touched if the graph cannot
// be built for the inputs' shapes, or ctx is cancelled.
func (p *Program) Run(ctx context.Context, in ...any) (out []*tensors.Tensor, err error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	args, given := make([]any, len(in)), make([]shapes.Shape, len(in))
	for i, a := range in {
		args[i] = a
		switch t := a.(type) {
		case *tensors.Tensor:
			given[i] = t.Shape()
		case Donated:
			given[i] = t.Shape()
		default:
			return nil, fmt.Errorf("running %s: input %d is a %T, expected a tensor", p.name, i, a)
		}
	}
	defer func() {
		p.mu.Lock()
		built := p.built
		p.built = nil
		p.mu.Unlock()
		if err == nil {
			noteMemory(p.be, built)
		}
	}()
	fail := func(err error) ([]*tensors.Tensor, error) {
		return nil, memoryError(p.name, p.be, given, fmt.Errorf("running %s on %s: %w", p.name, NameOf(p.be), brief{err}))
	}
	caught := Caught(func() { _, err = p.exec.Compile(given...) })
	if err = cmp.Or(err, caught); err != nil {
		return fail(err)
	}
	for i, a := range in {
		if d, ok := a.(Donated); ok {
			device := compute.DeviceNum(i * p.replicas / len(in))
			if args[i], err = graph.DonateTensorBuffer(d.Tensor, p.be, device); err != nil {
				return nil, fmt.Errorf("running %s: giving input %d to the backend: %w", p.name, i, err)
			}
		}
	}
	caught = Caught(func() { out, err = p.exec.Call(args...) })
	if err = cmp.Or(err, caught); err != nil {
		return fail(err)
	}
	return out, nil
}

// brief prints an error without the stack trace that pkg/errors adds to %+v
// and keeps the chain for errors.Is.
type brief struct{ error }

func (b brief) Error() string { return b.error.Error() }
func (b brief) Unwrap() error { return b.error }

// Tensor places a float32 array of the given shape on be. The data is copied.
func Tensor(be Backend, data []float32, shape ...int) (t *tensors.Tensor, err error) {
	return placeFlat(be, data, shape)
}

// Frozen places a float32 array that nobody will ever change again, such as a
// pretrained weight. The CPU backend reads it where it lies; others copy it.
func Frozen(be Backend, data []float32, shape ...int) (*tensors.Tensor, error) {
	if own, ok := be.(*cpu.Backend); ok {
		buffer, err := own.Borrow(data, shape...)
		if err != nil {
			return nil, err
		}
		return tensors.FromBuffer(buffer)
	}
	return Tensor(be, data, shape...)
}

// BFloat16 places a float32 array of the given shape on be, each value rounded to the
// nearest bfloat16.
func BFloat16(be Backend, data []float32, shape ...int) (*tensors.Tensor, error) {
	rounded := make([]bfloat16.BFloat16, len(data))
	for i, v := range data {
		rounded[i] = bfloat16.FromFloat32(v)
	}
	return placeFlat(be, rounded, shape)
}

// Int32 places an int32 array of the given shape on be. The data is copied.
func Int32(be Backend, data []int32, shape ...int) (*tensors.Tensor, error) {
	return placeFlat(be, data, shape)
}

// Uint8 places a uint8 array of the given shape on be. The data is copied.
func Uint8(be Backend, data []uint8, shape ...int) (*tensors.Tensor, error) {
	return placeFlat(be, data, shape)
}

// Uint64 places a uint64 array of the given shape on be. The data is copied.
func Uint64(be Backend, data []uint64, shape ...int) (*tensors.Tensor, error) {
	return placeFlat(be, data, shape)
}

// Copy is t, which lies on be's first device, on another of its devices, from 1.
func Copy(be Backend, t *tensors.Tensor, device int) (*tensors.Tensor, error) {
	c, err := t.OnDeviceClone(be, compute.DeviceNum(device))
	t.FinalizeLocal() // the way is through the host
	if err != nil {
		return nil, fmt.Errorf("copying a tensor of shape %s to device %d of %s: %w", t.Shape(), device, NameOf(be), err)
	}
	return c, nil
}

// Replicate copies tensors that lie on be's first device to its others: one list for
// each of those.
func Replicate(be Backend, ts []*tensors.Tensor) (out [][]*tensors.Tensor, err error) {
	for d := 1; d < Replicas(be); d++ {
		var copies []*tensors.Tensor
		for _, t := range ts {
			c, err := Copy(be, t, d)
			if err != nil {
				Free(append(copies, slices.Concat(out...)...)...)
				return nil, err
			}
			copies = append(copies, c)
		}
		out = append(out, copies)
	}
	return out, nil
}

// Scalar places one float32 on be.
func Scalar(be Backend, v float32) (*tensors.Tensor, error) {
	return place(be, tensors.FromScalar(v))
}

// placeFlat places row-major values.
func placeFlat[T gotype.Supported](be Backend, data []T, shape []int) (*tensors.Tensor, error) {
	size := 1
	for _, n := range shape {
		size *= n
	}
	if len(data) != size {
		return nil, fmt.Errorf("placing a tensor of shape %v on %s: %d values, expected %d", shape, NameOf(be), len(data), size)
	}
	return place(be, tensors.FromFlatDataAndDimensions(data, shape...))
}

func place(be Backend, t *tensors.Tensor) (*tensors.Tensor, error) {
	if err := t.MaterializeOnDevice(be, true, 0); err != nil {
		return nil, fmt.Errorf("placing a tensor of shape %s on %s: %w", t.Shape(), be.Name(), err)
	}
	t.FinalizeLocal() // one copy is enough
	return t, nil
}

// Float32s copies a float32 tensor's values to the host, row-major.
func Float32s(t *tensors.Tensor) ([]float32, error) {
	v, err := tensors.CopyFlatData[float32](t)
	if err != nil {
		return nil, fmt.Errorf("reading a tensor of shape %s back from the backend: %w", t.Shape(), err)
	}
	return v, nil
}

// Number copies a float32 scalar to the host.
func Number(t *tensors.Tensor) (float64, error) {
	v, err := Float32s(t)
	if err != nil {
		return 0, err
	}
	return float64(v[0]), nil
}

// ReturnMemory gives the system back what nothing uses any more, such as what a stage
// left behind, before the next one fills the memory.
func ReturnMemory() {
	runtime.GC() // the CPU backend's pools survive one collection
	debug.FreeOSMemory()
}

// Free releases tensors at once instead of at the next garbage collection.
func Free(ts ...*tensors.Tensor) {
	for _, t := range ts {
		if t != nil {
			_ = t.FinalizeAll() // the only failure is "already released"
		}
	}
}
