// Package backend opens devices and runs GoMLX graphs on them.
//
// [Open] opens a [Device]: the processor, through package cpu, or a GPU, through a PJRT plug-in.
// GPUs need a build with XLA (build tag xla, cgo). [Plugins] lists the installed plug-ins.
//
// The other packages of spt build GoMLX graphs and run them as a [Program]. A Program returns
// panics of graph functions and of GoMLX as errors, and hides the log lines of GoMLX. Its users
// need not know the device.
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

// Backend is an open device. Graphs are compiled for it and run on it.
type Backend = compute.Backend

// New opens the processor. All callers in the process share one backend, so weights are placed on
// it once.
func New() (Backend, error) { return start() }

var start = sync.OnceValues(func() (Backend, error) {
	silence()
	return cpu.New("")
})

// AtOnce returns how many tokens be processes best: in one run of a program, and in all runs at
// the same time. An image has one token per position of its sequence. A processor computes each
// small run on one core, in its caches, but needs memory for the activations of all runs. 0 means
// no limit.
func AtOnce(be Backend) (run, all int) {
	if _, ok := be.(*cpu.Backend); ok {
		return 1024, 4096
	}
	return 0, 0
}

// Rematerialises reports whether be itself decides which activations it computes again in the
// backward pass instead of keeping them.
func Rematerialises(be Backend) bool {
	_, own := be.(*cpu.Backend)
	return own
}

// silence discards the log lines that GoMLX writes with klog.
func silence() {
	flags := flag.NewFlagSet("klog", flag.ContinueOnError)
	klog.InitFlags(flags)
	// Set fails for unknown names only. klog defines these names.
	_ = flags.Set("logtostderr", "false")
	_ = flags.Set("stderrthreshold", "FATAL")
	klog.SetOutput(io.Discard)
}

// Program is a graph function that is compiled once for each set of input shapes.
type Program struct {
	name     string
	be       Backend
	exec     *graph.Exec
	replicas int

	preparing sync.WaitGroup
}

// Build is a graph function. It maps the nodes of the inputs to the nodes of the outputs. It may
// panic, as GoMLX's functions do: Program returns the panic as an error.
type Build func(g *graph.Graph, in []*graph.Node) []*graph.Node

// Caught calls f and returns a panic as an error, whatever the type of its value. It returns nil
// if f does not panic.
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

// NewProgram returns a program that runs fn on be. Errors contain name.
func NewProgram(be Backend, name string, fn Build) (*Program, error) {
	p := &Program{name: name, be: be, replicas: 1}
	caught := func(g *graph.Graph, in []*graph.Node) (out []*graph.Node) {
		// GoMLX returns a panic with an error as that error. After any other panic, Close would
		// wait for the graph forever.
		if err := Caught(func() { out = fn(g, in) }); err != nil {
			panic(err)
		}
		return out
	}
	exec, err := graph.NewExecCanonical(be, caught, 0, 0, false, true, true)
	if err != nil {
		return nil, fmt.Errorf("preparing the graph %q: %w", name, err)
	}
	// Allow any number of input shapes. By default, GoMLX returns an error at the 33rd.
	p.exec = exec.WithName(name).SetMaxCache(-1)
	return p, nil
}

// NewReplicated returns a program that runs fn on all devices of be at the same time. Each device
// is a replica with separate inputs; [AllMean] and [AllSum] combine values of all replicas. The
// inputs and outputs of a run are those of the first device, then those of the second device, and
// so on. With one device, NewReplicated does the same as NewProgram.
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

// AllSum returns the sum of x over all replicas. In a program that is not replicated it returns x.
func AllSum(x *graph.Node) *graph.Node {
	if g := x.Graph(); g.NumDevices() > 1 {
		return g.Distributed().AllReduceOne(x, compute.ReduceOpSum)
	}
	return x
}

// AllMean returns the mean of x over all replicas. In a program that is not replicated it returns
// x.
func AllMean(x *graph.Node) *graph.Node {
	if n := x.Graph().NumDevices(); n > 1 {
		return graph.MulScalar(AllSum(x), 1/float64(n))
	}
	return x
}

// Close waits for a compilation in progress and releases the compiled graphs.
func (p *Program) Close() {
	p.preparing.Wait()
	p.exec.Finalize()
}

// Prepare starts to compile the program for the given input shapes and returns. A Run with such
// inputs waits for the compilation and returns its error.
func (p *Program) Prepare(in ...shapes.Shape) {
	p.preparing.Go(func() {
		_ = Caught(func() { _, _ = p.exec.Compile(in...) })
	})
}

// donated is an input whose memory the program may overwrite.
type donated struct{ *tensors.Tensor }

// Donate returns inputs for Run whose memory the program may overwrite. The caller must not use
// the tensors after the run.
func Donate(ts []*tensors.Tensor) (in []any) {
	for _, t := range ts {
		in = append(in, donated{t})
	}
	return in
}

// Lend returns inputs for Run that the caller keeps.
func Lend(lists ...[]*tensors.Tensor) (in []any) {
	for _, t := range slices.Concat(lists...) {
		in = append(in, t)
	}
	return in
}

// Run runs the program. An input is a *tensors.Tensor, which the caller keeps, or an input that
// [Donate] returned. The caller owns the outputs. Run checks ctx before the graph starts, not
// while it runs. If ctx is cancelled, or the graph cannot be built for the shapes of the inputs,
// donated inputs stay valid.
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
		case donated:
			given[i] = t.Shape()
		default:
			return nil, fmt.Errorf("running %s: input %d has type %T, expected a tensor", p.name, i, a)
		}
	}
	fail := func(err error) ([]*tensors.Tensor, error) {
		return nil, memoryError(p.name, p.be, given, fmt.Errorf("running %s on %s: %w", p.name, NameOf(p.be), brief{err}))
	}
	caught := Caught(func() { _, err = p.exec.Compile(given...) })
	if err = cmp.Or(err, caught); err != nil {
		return fail(err)
	}
	for i, a := range in {
		if d, ok := a.(donated); ok {
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

// brief is an error without the stack trace that pkg/errors adds to %+v. It keeps the chain for
// errors.Is.
type brief struct{ error }

func (b brief) Error() string { return b.error.Error() }
func (b brief) Unwrap() error { return b.error }

// Tensor copies a float32 array of the given shape to be.
func Tensor(be Backend, data []float32, shape ...int) (t *tensors.Tensor, err error) {
	return placeFlat(be, data, shape)
}

// Frozen places a float32 array on be that must not change any more, such as a pretrained weight.
// The processor uses the array itself; other devices copy it.
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

// BFloat16 copies a float32 array of the given shape to be and rounds each value to the nearest
// bfloat16.
func BFloat16(be Backend, data []float32, shape ...int) (*tensors.Tensor, error) {
	rounded := make([]bfloat16.BFloat16, len(data))
	for i, v := range data {
		rounded[i] = bfloat16.FromFloat32(v)
	}
	return placeFlat(be, rounded, shape)
}

// Int32 copies an int32 array of the given shape to be.
func Int32(be Backend, data []int32, shape ...int) (*tensors.Tensor, error) {
	return placeFlat(be, data, shape)
}

// Uint8 copies a uint8 array of the given shape to be.
func Uint8(be Backend, data []uint8, shape ...int) (*tensors.Tensor, error) {
	return placeFlat(be, data, shape)
}

// Uint64 copies a uint64 array of the given shape to be.
func Uint64(be Backend, data []uint64, shape ...int) (*tensors.Tensor, error) {
	return placeFlat(be, data, shape)
}

// Copy copies t from the first device of be to another of its devices.
func Copy(be Backend, t *tensors.Tensor, device int) (*tensors.Tensor, error) {
	c, err := t.OnDeviceClone(be, compute.DeviceNum(device))
	t.FinalizeLocal() // the copy went through the host
	if err != nil {
		return nil, fmt.Errorf("copying a tensor of shape %s to device %d of %s: %w", t.Shape(), device, NameOf(be), err)
	}
	return c, nil
}

// Replicate copies tensors from the first device of be to each of its other devices. It returns
// one list per other device.
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

// Scalar places one float32 number on be.
func Scalar(be Backend, v float32) (*tensors.Tensor, error) {
	return place(be, tensors.FromScalar(v))
}

// placeFlat places row-major values on be.
func placeFlat[T gotype.Supported](be Backend, data []T, shape []int) (*tensors.Tensor, error) {
	size := 1
	for _, n := range shape {
		size *= n
	}
	if len(data) != size {
		return nil, fmt.Errorf("placing a tensor of shape %v on %s: got %d values, expected %d", shape, NameOf(be), len(data), size)
	}
	return place(be, tensors.FromFlatDataAndDimensions(data, shape...))
}

// place moves t to be.
func place(be Backend, t *tensors.Tensor) (*tensors.Tensor, error) {
	if err := t.MaterializeOnDevice(be, true, 0); err != nil {
		return nil, fmt.Errorf("placing a tensor of shape %s on %s: %w", t.Shape(), be.Name(), err)
	}
	t.FinalizeLocal() // one copy is enough
	return t, nil
}

// Float32s copies the values of a float32 tensor to the host, row-major.
func Float32s(t *tensors.Tensor) ([]float32, error) {
	v, err := tensors.CopyFlatData[float32](t)
	if err != nil {
		return nil, fmt.Errorf("reading a tensor of shape %s from its device: %w", t.Shape(), err)
	}
	return v, nil
}

// Number copies one float32 number to the host.
func Number(t *tensors.Tensor) (float64, error) {
	v, err := Float32s(t)
	if err != nil {
		return 0, err
	}
	return float64(v[0]), nil
}

// ReturnMemory returns unused memory to the operating system. Call it between two stages that need
// much memory.
func ReturnMemory() {
	runtime.GC() // the pools of package cpu survive one collection
	debug.FreeOSMemory()
}

// Free releases tensors now instead of at the next garbage collection. It ignores nil.
func Free(ts ...*tensors.Tensor) {
	for _, t := range ts {
		if t != nil {
			_ = t.FinalizeAll() // fails only if t was released before
		}
	}
}
