// Package cpu is a compute.Backend for CPUs in pure Go with generated assembly:
// GoMLX programs, spt's models and training steps among them, run on it near
// the processor's limit, with no cgo and no library installed.
//
// A program passes through it in four stages. [function] records the graph as
// GoMLX builds it, and lets GoMLX's own Go backend check every operation and
// infer its shape, so that what is wrong there is wrong here with the same
// words. The compiler (graph.go, layout.go, fuse.go, dot.go) removes what
// moves data without computing, fuses element-wise chains and reductions into
// loops over rows, and gives matrix products what follows them as epilogue.
// The planner (memory.go) places every intermediate result in one arena by its
// lifetime. The executable runs the steps in order, each on all
// processors that other programs in progress leave.
//
// What the compiler has no fast form for (rare types, sorting, control flow)
// runs as a single operation on GoMLX's Go backend (delegate.go), so every
// program that runs there runs here.
//
// Results do not depend on the number of processors: work is partitioned by
// shapes alone, and every sum has one order.
package cpu

import (
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"

	"github.com/gomlx/compute"
	"github.com/gomlx/compute/gobackend"
	"github.com/gomlx/compute/shapes"

	"github.com/sptune/spt/backend/cpu/internal/kernel/gemm"
)

// BackendName selects this backend in compute.NewWithConfig and GOMLX_BACKEND.
const BackendName = "cpu"

func init() {
	compute.Register(BackendName, func(config string) (compute.Backend, error) { return New(config) })
}

// Backend implements compute.Backend. It is safe for concurrent use.
type Backend struct {
	plain    compute.Backend // GoMLX's Go backend: shapes, checks, and what is delegated
	arenas   arenas
	released released
	// One delegated operation at a time: in compute v0.1.3 two that run side by
	// side can wait for each other's workers for ever.
	delegating sync.Mutex
	// Bytes of tensors, and of weights in the matrix kernel's layout.
	buffers, packed atomic.Int64
	timings         timings
	finalized       atomic.Bool
}

// New starts the backend. There is nothing to configure: config must be empty.
func New(config string) (*Backend, error) {
	if config != "" {
		return nil, fmt.Errorf("starting the backend %q: configuration %q is not known; it takes none", BackendName, config)
	}
	plain, err := gobackend.New("ops_sequential")
	if err != nil {
		return nil, fmt.Errorf("starting the backend %q: %w", BackendName, err)
	}
	return &Backend{plain: plain}, nil
}

// Name is "cpu".
func (b *Backend) Name() string { return BackendName }

// String is "cpu".
func (b *Backend) String() string { return BackendName }

// Description names the matrix kernel in use and the number of threads.
func (b *Backend) Description() string {
	return fmt.Sprintf("spt's CPU backend (%s, kernel %s, %d threads)", runtime.GOARCH, gemm.Kernel(), runtime.GOMAXPROCS(0))
}

// NumDevices is 1: all processors together.
func (b *Backend) NumDevices() int { return 1 }

// DeviceDescription describes the one device.
func (b *Backend) DeviceDescription(compute.DeviceNum) string { return b.Description() }

// Capabilities are those of GoMLX's Go backend, and attention's gradient.
func (b *Backend) Capabilities() compute.Capabilities {
	c := b.plain.Capabilities().Clone()
	c.Operations[compute.OpTypeFusedScaledDotProductAttention] = true
	c.Operations[compute.OpTypeFusedScaledDotProductAttentionVJP] = true
	return c
}

// Builder starts a program.
func (b *Backend) Builder(name string) compute.Builder { return newBuilder(b, name) }

// Finalize releases the backend's memory. Buffers can still be read; everything
// else is an error from then on.
func (b *Backend) Finalize() {
	if !b.finalized.Swap(true) {
		b.arenas.drop()
		b.delegating.Lock() // what runs there now comes to its end
		defer b.delegating.Unlock()
		b.plain.Finalize()
	}
}

// IsFinalized reports whether Finalize was called.
func (b *Backend) IsFinalized() bool { return b.finalized.Load() }

// usable is an error once the backend was finalized.
func (b *Backend) usable() error {
	if b.IsFinalized() {
		return fmt.Errorf("the backend %q was finalized", BackendName)
	}
	return nil
}

// BufferFromFlatData copies a flat slice of the shape's type to a new buffer.
func (b *Backend) BufferFromFlatData(device compute.DeviceNum, flat any, shape shapes.Shape) (compute.Buffer, error) {
	if err := b.usable(); err != nil {
		return nil, fmt.Errorf("making a buffer of shape %s: %w", shape, err)
	}
	if device != 0 {
		return nil, fmt.Errorf("making a buffer of shape %s on device %d: the backend %q has device 0 only", shape, device, BackendName)
	}
	data, err := flatBytes(flat, shape)
	if err != nil {
		return nil, err
	}
	buf := b.newBuffer(shape)
	copy(buf.data, data)
	return buf, nil
}

// HasSharedBuffers is false: a buffer that nobody else can write may be packed
// for the matrix kernel once, however often it is used.
func (b *Backend) HasSharedBuffers() bool { return false }

// NewSharedBuffer is not offered, see HasSharedBuffers.
func (b *Backend) NewSharedBuffer(compute.DeviceNum, shapes.Shape) (compute.Buffer, any, error) {
	return nil, nil, fmt.Errorf("the backend %q shares no buffers: %w", BackendName, compute.ErrNotImplemented)
}

// Memory says what the backend holds, in bytes.
type Memory struct {
	Arena   int64 // intermediate results: the most that programs needed at once
	Buffers int64 // tensors
	Packed  int64 // weights in the matrix kernel's layout
}

// Memory reports what the backend holds now. The memory of finalized tensors, which new
// ones take over or the garbage collector takes back, is not counted.
func (b *Backend) Memory() Memory {
	return Memory{Arena: b.arenas.peakBytes(), Buffers: b.buffers.Load(), Packed: b.packed.Load()}
}
