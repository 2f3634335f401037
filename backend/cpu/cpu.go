// Package cpu implements a GoMLX backend (compute.Backend) for CPUs in pure Go with generated
// assembly. GoMLX programs, such as the models and training steps of spt, run on it near the speed
// limit of the processor. It needs neither cgo nor an installed library.
//
// Importing the package registers the backend with GoMLX under the name "cpu". [New] starts a
// backend without this registry.
//
// A program passes through four stages. A newcomer can read the files in this order:
//
//  1. Recording. A function records the operations as GoMLX builds them. The Go backend of GoMLX
//     checks every operation and infers its shape, so both backends reject the same programs with
//     the same errors (function.go, fused.go, gen_ops.go).
//  2. Compiling. The compiler turns operations into nodes. It removes operations that only move
//     data and fuses element-wise operations and reductions into loops over rows. Operations that
//     follow a matrix product become the epilogue of the product (graph.go, layout.go, patterns.go,
//     rematerialise.go, fuse.go, assemble.go).
//  3. Scheduling. The memory plan places every intermediate result in one arena by its lifetime.
//     Every node becomes a step: a kernel with the places of its operands (schedule.go,
//     memory.go).
//  4. Running. The steps run in order. Each step uses the processors that other programs leave
//     free (executable.go, loop.go).
//
// A file about one kind of operation (dot.go, attention.go, conv.go, sparse.go, moves.go,
// delegate.go) has the compiler part first, then the kernel.
//
// Operations without a fast kernel (rare types, sorting, control flow) are delegated: they run one
// by one on the Go backend of GoMLX (delegate.go). So every program that runs there also runs here.
//
// [Borrow] creates a buffer from an array without a copy (buffer.go). [MemoryOf] returns the memory
// that a backend uses (memory.go). [TimeSteps] measures the steps of the programs of a backend
// (timing.go). [Is] reports whether a backend is a backend of this package.
//
// Results do not depend on the number of processors. The division of work depends only on shapes,
// and every sum has a fixed order.
package cpu

import (
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"

	"github.com/gomlx/compute"
	"github.com/gomlx/compute/gobackend"
	"github.com/gomlx/compute/shapes"

	"github.com/sptune/spt/internal/kernel/gemm"
)

// backendName is the name of this backend in compute.NewWithConfig and in the variable
// GOMLX_BACKEND.
const backendName = "cpu"

func init() { compute.Register(backendName, New) }

// backend implements compute.Backend. It is safe for concurrent use.
type backend struct {
	// Options of the compiler.
	options options
	// bf16 reports that matrix products round their operands to bfloat16, see New.
	bf16 bool
	// The Go backend of GoMLX. It checks operations and runs delegated operations.
	plain    compute.Backend
	arenas   arenas
	released released
	// A delegated operation holds this lock while it runs. In compute v0.1.3, two operations that
	// run at the same time can wait forever for workers of each other.
	delegating sync.Mutex
	// Total size of the buffers, in bytes.
	buffers atomic.Int64
	// Total size of the packed weights, in bytes.
	packed    atomic.Int64
	timings   timings
	finalized atomic.Bool
}

// BF16 is the configuration with which [New] starts a backend that rounds the operands of matrix
// products.
const BF16 = "bf16"

// New starts a backend. It is safe for concurrent use. config is empty or [BF16].
//
// With BF16, the large matrix products of a network round their float32 operands to the nearest
// bfloat16 and add up in float32. All tensors stay float32. The following operations compute
// completely in float32: products of two operands with at most two axes each, such as the products
// of a head; products with few rows or columns, such as the products with a factor of LoRA alone;
// and all operations that are not products. BF16 needs a processor with
// AVX512-BF16, see [SupportsBF16].
func New(config string) (compute.Backend, error) {
	switch config {
	case "":
	case BF16:
		if err := gemm.SupportsBF16(); err != nil {
			return nil, fmt.Errorf("starting the backend %q with the configuration %q: %w", backendName, config, err)
		}
	default:
		return nil, fmt.Errorf("starting the backend %q: the configuration %q is unknown; use %q or an empty configuration", backendName, config, BF16)
	}
	plain, err := gobackend.New("ops_sequential")
	if err != nil {
		return nil, fmt.Errorf("starting the backend %q: %w", backendName, err)
	}
	return &backend{options: defaultOptions(), bf16: config == BF16, plain: plain}, nil
}

// Is reports whether be is a backend of this package.
func Is(be compute.Backend) bool {
	_, own := be.(*backend)
	return own
}

// SupportsBF16 returns nil if [New] can start a backend with [BF16] on this machine, and otherwise
// an error that says what is missing.
func SupportsBF16() error { return gemm.SupportsBF16() }

// IsBF16 reports whether be is a backend of this package that was started with [BF16].
func IsBF16(be compute.Backend) bool {
	own, ok := be.(*backend)
	return ok && own.bf16
}

// Name returns "cpu".
func (b *backend) Name() string { return backendName }

// String returns "cpu".
func (b *backend) String() string { return backendName }

// Description returns the name of the matrix kernel in use and the number of threads.
func (b *backend) Description() string {
	kernel := gemm.Kernel()
	if b.bf16 {
		kernel += " and " + gemm.BF16Kernel()
	}
	return fmt.Sprintf("CPU backend of spt (%s, kernel %s, %d threads)", runtime.GOARCH, kernel, runtime.GOMAXPROCS(0))
}

// NumDevices returns 1. All processors together are one device.
func (b *backend) NumDevices() int { return 1 }

// DeviceDescription returns the description of the only device.
func (b *backend) DeviceDescription(compute.DeviceNum) string { return b.Description() }

// Capabilities returns the capabilities of the Go backend of GoMLX, plus fused attention and its
// gradient.
func (b *backend) Capabilities() compute.Capabilities {
	c := b.plain.Capabilities().Clone()
	c.Operations[compute.OpTypeFusedScaledDotProductAttention] = true
	c.Operations[compute.OpTypeFusedScaledDotProductAttentionVJP] = true
	return c
}

// Builder returns a builder for a new program.
func (b *backend) Builder(name string) compute.Builder { return newBuilder(b, name) }

// Finalize waits for a running delegated operation and releases the memory of the backend.
// Afterwards, existing buffers can still be read, but all other calls return an error.
func (b *backend) Finalize() {
	if !b.finalized.Swap(true) {
		b.arenas.drop()
		b.delegating.Lock() // wait for the delegated operation that runs
		defer b.delegating.Unlock()
		b.plain.Finalize()
	}
}

// IsFinalized reports whether Finalize was called.
func (b *backend) IsFinalized() bool { return b.finalized.Load() }

// usable returns an error after Finalize.
func (b *backend) usable() error {
	if b.IsFinalized() {
		return fmt.Errorf("the backend %q was finalized", backendName)
	}
	return nil
}

// BufferFromFlatData copies a flat slice to a new buffer. The slice must have the element type and
// the size of shape.
func (b *backend) BufferFromFlatData(device compute.DeviceNum, flat any, shape shapes.Shape) (compute.Buffer, error) {
	if err := b.usable(); err != nil {
		return nil, fmt.Errorf("making a buffer of shape %s: %w", shape, err)
	}
	if device != 0 {
		return nil, fmt.Errorf("making a buffer of shape %s on device %d: the backend %q has only device 0", shape, device, backendName)
	}
	data, err := flatBytes(flat, shape)
	if err != nil {
		return nil, err
	}
	buf := b.newBuffer(shape)
	copy(buf.data, data)
	return buf, nil
}

// HasSharedBuffers returns false. No other code can write to a buffer, so the backend can pack a
// buffer for the matrix kernel once and use the packed form many times.
func (b *backend) HasSharedBuffers() bool { return false }

// NewSharedBuffer returns an error, see HasSharedBuffers.
func (b *backend) NewSharedBuffer(compute.DeviceNum, shapes.Shape) (compute.Buffer, any, error) {
	return nil, nil, fmt.Errorf("the backend %q does not share buffers: %w", backendName, compute.ErrNotImplemented)
}
