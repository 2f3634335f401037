package cpu

import (
	"fmt"
	"math"
	"reflect"
	"slices"
	"sync"
	"sync/atomic"
	"unsafe"

	"github.com/gomlx/compute"
	"github.com/gomlx/compute/dtypes"
	"github.com/gomlx/compute/shapes"

	"github.com/sptune/spt/backend/cpu/internal/kernel/gemm"
	"github.com/sptune/spt/backend/cpu/internal/workers"
)

// buffer is a tensor on the backend. Its content never changes while it is
// valid, so it may be kept in other forms too: packed for the matrix kernel.
type buffer struct {
	backend *Backend
	shape   shapes.Shape
	data    []byte // 64-byte aligned; nil once finalized or donated

	mu       sync.Mutex
	borrowed bool                        // data is not ours to write, or not any more
	again    atomic.Bool                 // a program used it before, without taking it
	packs    map[packLayout]*gemm.Packed // right-hand operands of matrix products
}

// packLayout is how a product reads a buffer as k×n matrix.
type packLayout struct{ offset, row, col, k, n int }

// newBuffer allocates an undefined buffer.
func (b *Backend) newBuffer(shape shapes.Shape) *buffer {
	n := shape.ByteSize()
	b.buffers.Add(n)
	return &buffer{backend: b, shape: shape.Clone(), data: b.released.take(int(n))}
}

// Borrow makes a buffer of a float32 array without copying it. The array must
// not be changed afterwards: the backend reads it whenever the buffer is used.
func (b *Backend) Borrow(data []float32, dims ...int) (compute.Buffer, error) {
	shape := shapes.Shape{DType: dtypes.Float32, Dimensions: slices.Clone(dims)}
	if err := b.usable(); err != nil {
		return nil, fmt.Errorf("borrowing an array of shape %s: %w", shape, err)
	}
	bytes, err := flatBytes(data, shape)
	if err != nil {
		return nil, err
	}
	b.buffers.Add(int64(len(bytes)))
	return &buffer{backend: b, shape: shape, data: bytes, borrowed: true}, nil
}

// alignedBytes allocates n bytes on a 64-byte boundary.
func alignedBytes(n int) []byte {
	f := workers.Aligned((n + 3) / 4)
	return unsafe.Slice((*byte)(unsafe.Pointer(unsafe.SliceData(f))), n)
}

// view reads the bytes of data, from an element offset on, as n elements.
func view[T any](data []byte, offset, n int) []T {
	if n == 0 {
		return nil
	}
	var zero T
	size := int(unsafe.Sizeof(zero))
	_ = data[(offset+n)*size-1]
	return unsafe.Slice((*T)(unsafe.Add(unsafe.Pointer(unsafe.SliceData(data)), offset*size)), n)
}

// possible checks that a tensor can have the shape: its type has values in Go,
// no axis is negative or of unknown size, and its bytes can be counted.
func possible(shape shapes.Shape) error {
	if t := int(shape.DType); t < 0 || t >= len(dtypes.SupportedDTypes) || !dtypes.SupportedDTypes[t] {
		return fmt.Errorf("no tensor has the shape %s: the type %s has no values in Go", shape, shape.DType)
	}
	const most = math.MaxInt / 16 // elements, of up to 16 bytes
	n := 1
	for _, d := range shape.Dimensions {
		if d < 0 {
			return fmt.Errorf("no tensor has the shape %s: a dimension is negative or not known", shape)
		}
		if d > 0 && n > most/d {
			return fmt.Errorf("no tensor has the shape %s: it is larger than any memory", shape)
		}
		n *= max(d, 1) // axes beside an empty one are bounded too
	}
	return nil
}

// flatBytes is the memory of a flat slice, checked against shape.
func flatBytes(flat any, shape shapes.Shape) ([]byte, error) {
	if err := possible(shape); err != nil {
		return nil, err
	}
	v := reflect.ValueOf(flat)
	if v.Kind() != reflect.Slice {
		return nil, fmt.Errorf("a tensor of shape %s takes a slice, got %T", shape, flat)
	}
	element := shape.DType.GoType()
	if shape.DType.IsPacked() {
		element = reflect.TypeFor[byte]()
	}
	n := int(shape.ByteSize())
	if v.Type().Elem() != element || v.Len()*int(element.Size()) != n {
		return nil, fmt.Errorf("a tensor of shape %s takes %d bytes of %s, got %d elements of %s", shape, n, element, v.Len(), v.Type().Elem())
	}
	if n == 0 {
		return nil, nil
	}
	return unsafe.Slice((*byte)(v.UnsafePointer()), n), nil
}

// flat is the buffer's memory as a slice of its element type.
func (b *buffer) flat() any {
	if b.shape.DType.IsPacked() {
		return b.data
	}
	if len(b.data) == 0 {
		return dtypes.MakeAnySlice(b.shape.DType, 0)
	}
	return dtypes.UnsafeAnySliceFromBytes(unsafe.Pointer(unsafe.SliceData(b.data)), b.shape.DType, b.shape.Size())
}

func (b *buffer) valid() error {
	if b == nil || !b.shape.Ok() {
		return fmt.Errorf("the buffer was finalized or donated; it cannot be used any more")
	}
	return nil
}

// Backend is the backend that made the buffer.
func (b *buffer) Backend() compute.Backend { return b.backend }

// Finalize releases the memory; a second call does nothing.
func (b *buffer) Finalize() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.backend.buffers.Add(-int64(len(b.data)))
	for _, p := range b.packs {
		b.backend.packed.Add(-4 * int64(len(p.Data())))
	}
	if !b.borrowed {
		b.backend.released.give(b.data)
	}
	b.data, b.packs, b.shape = nil, nil, shapes.Invalid()
	b.again.Store(false)
	return nil
}

// Shape is the tensor's shape.
func (b *buffer) Shape() (shapes.Shape, error) { return b.shape, b.valid() }

// DeviceNum is 0.
func (b *buffer) DeviceNum() (compute.DeviceNum, error) { return 0, b.valid() }

// ToFlatData copies the tensor into flat, a slice of its type and size.
func (b *buffer) ToFlatData(flat any) error {
	if err := b.valid(); err != nil {
		return err
	}
	dst, err := flatBytes(flat, b.shape)
	if err != nil {
		return fmt.Errorf("copying a tensor from the backend: %w", err)
	}
	copy(dst, b.data)
	return nil
}

// Data is not offered: the backend shares no memory.
func (b *buffer) Data() (any, error) {
	return nil, fmt.Errorf("the backend %q shares no buffers: %w", BackendName, compute.ErrNotImplemented)
}

// CopyToDevice copies the tensor to device 0, the only one.
func (b *buffer) CopyToDevice(device compute.DeviceNum) (compute.Buffer, error) {
	if err := b.valid(); err != nil {
		return nil, err
	}
	return b.backend.BufferFromFlatData(device, b.flat(), b.shape)
}
