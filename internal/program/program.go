// Package program runs GoMLX graphs on a backend.
//
// Begin with [New], which returns a [Program] for a graph function. [Program.Run] compiles the
// function once for each set of input shapes, runs it on tensors, and returns panics as errors
// (program.go). [NewReplicated] returns a program that runs on several devices at the same time.
//
// [Tensor] and [Frozen] place inputs on the backend. [Float32s] and [Number] copy outputs to the
// host (tensors.go). [AtOnce] tells a caller how much work a backend processes best at the same
// time, and a program that exhausts the memory returns a [backend.MemoryError] (memory.go).
package program

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"sync"

	"github.com/gomlx/compute"
	"github.com/gomlx/compute/distributed"
	"github.com/gomlx/compute/shapes"
	"github.com/gomlx/gomlx/core/graph"
	"github.com/gomlx/gomlx/core/tensors"
	"github.com/gomlx/gomlx/support/exceptions"

	"github.com/sptune/spt/backend"
)

// Program is a graph function that is compiled once for each set of input shapes. A Program is made
// by [New] or [NewReplicated]. Its user calls Close when it is not needed any more.
type Program struct {
	name     string
	be       backend.Backend
	exec     *graph.Exec
	replicas int

	preparing sync.WaitGroup
}

// Build is a graph function. It maps the nodes of the inputs to the nodes of the outputs. It may
// panic, as the graph functions of GoMLX do. The Program returns the panic as an error.
type Build func(g *graph.Graph, in []*graph.Node) []*graph.Node

// Caught calls f and returns a panic of f as an error. The value of the panic may have any type. If
// f does not panic, Caught returns nil.
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

// New returns a program that runs fn on be. The errors of the program contain name.
func New(be backend.Backend, name string, fn Build) (*Program, error) {
	p := &Program{name: name, be: be, replicas: 1}
	caught := func(g *graph.Graph, in []*graph.Node) (out []*graph.Node) {
		// If the value of a panic is an error, GoMLX returns this error. After any other panic,
		// Close would wait forever for the graph.
		if err := Caught(func() { out = fn(g, in) }); err != nil {
			panic(err)
		}
		return out
	}
	exec, err := graph.NewExecCanonical(be, caught, 0, 0, false, true, true)
	if err != nil {
		return nil, fmt.Errorf("preparing the graph %q: %w", name, err)
	}
	// Allow any number of input shapes. The default limit of GoMLX is 32 sets of shapes.
	p.exec = exec.WithName(name).SetMaxCache(-1)
	return p, nil
}

// NewReplicated returns a program that runs fn on all devices of be at the same time. Each device
// is a replica with separate inputs. In fn, [AllMean] and [AllSum] combine values of all replicas.
// The inputs and outputs of a run are listed device by device: first all tensors of the first
// device, then all tensors of the second device, and so on. With one device, NewReplicated does the
// same as New.
func NewReplicated(be backend.Backend, name string, fn Build) (*Program, error) {
	p, err := New(be, name, fn)
	if n := backend.Replicas(be); err == nil && n > 1 {
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

// Prepare starts to compile the program for the given input shapes and returns at once. A Run with
// inputs of these shapes waits for the compilation and returns its error.
func (p *Program) Prepare(in ...shapes.Shape) {
	p.preparing.Go(func() {
		_ = Caught(func() { _, _ = p.exec.Compile(in...) })
	})
}

// donated is an input tensor whose memory the program may overwrite.
type donated struct{ *tensors.Tensor }

// Donate returns ts as inputs for [Program.Run] whose memory the program may overwrite. The caller
// must not use the tensors after the run.
func Donate(ts []*tensors.Tensor) (in []any) {
	for _, t := range ts {
		in = append(in, donated{t})
	}
	return in
}

// Lend returns the tensors of all lists as inputs for [Program.Run]. The caller keeps the tensors,
// and the program does not change them.
func Lend(lists ...[]*tensors.Tensor) (in []any) {
	for _, t := range slices.Concat(lists...) {
		in = append(in, t)
	}
	return in
}

// Run runs the program and returns its outputs, which the caller owns. An input is a
// *tensors.Tensor, which the caller keeps, or an input that [Donate] returned. Run checks ctx
// before the graph starts, but not while it runs. If ctx is cancelled, Run returns the error of
// ctx. If the device has too little memory, Run returns a [*backend.MemoryError]. Donated inputs
// stay valid if ctx is cancelled or if the graph cannot be built for the shapes of the inputs.
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
			return nil, fmt.Errorf("running %s: input %d has type %T; expected a tensor or a donated tensor", p.name, i, a)
		}
	}
	fail := func(err error) ([]*tensors.Tensor, error) {
		return nil, memoryError(p.name, p.be, given, fmt.Errorf("running %s on %s: %w", p.name, backend.NameOf(p.be), brief{err}))
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

// brief wraps an error and hides the stack trace that pkg/errors prints for %+v. errors.Is and
// errors.As still find the wrapped error.
type brief struct{ error }

func (b brief) Error() string { return b.error.Error() }
func (b brief) Unwrap() error { return b.error }
