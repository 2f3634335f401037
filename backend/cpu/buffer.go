package cpu

import (
	"errors"
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

	"github.com/sptune/spt/internal/kernel/gemm"
	"github.com/sptune/spt/internal/workers"
)

// buffer is a tensor on the backend. Its content does not change while the buffer is valid, so the
// buffer can keep packed forms of its content for the matrix kernel.
type buffer struct {
	backend *backend
	shape   shapes.Shape
	// 64-byte aligned; nil after Finalize or donation.
	data []byte

	mu sync.Mutex
	// The backend must not write to data or keep it.
	borrowed bool
	// A program used the buffer before, and the buffer stayed valid.
	again atomic.Bool
	// Right-hand operands of matrix products.
	packs map[packLayout]*gemm.Packed
}

// packLayout describes how a matrix product reads a buffer as a matrix [k,n]: the offset of the
// first element, and the strides of rows and columns, all in elements. bf16 reports that the packed
// form has bfloat16 elements.
type packLayout struct {
	offset, row, col, k, n int
	bf16                   bool
}

// newBuffer allocates a buffer with undefined content.
func (b *backend) newBuffer(shape shapes.Shape) *buffer {
	n := shape.ByteSize()
	b.buffers.Add(n)
	return &buffer{backend: b, shape: shape.Clone(), data: b.released.take(int(n))}
}

// Borrow returns a buffer of be that uses the memory of data without a copy. be must be a backend
// of this package, see [Is]. dims are the dimensions of the tensor. The caller must not change data
// while the buffer is in use, because the backend reads data in every run. The backend never writes
// to data.
func Borrow(be compute.Backend, data []float32, dims ...int) (compute.Buffer, error) {
	b, ok := be.(*backend)
	if !ok {
		return nil, fmt.Errorf("borrowing an array of shape %v: the backend %q copies arrays; only the backend %q borrows them", dims, be.Name(), backendName)
	}
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

// view returns n elements of data, starting with the element at offset. The offset counts elements,
// not bytes.
func view[T any](data []byte, offset, n int) []T {
	if n == 0 {
		return nil
	}
	var zero T
	size := int(unsafe.Sizeof(zero))
	_ = data[(offset+n)*size-1]
	return unsafe.Slice((*T)(unsafe.Add(unsafe.Pointer(unsafe.SliceData(data)), offset*size)), n)
}

// possible returns an error if no tensor can have the shape. Go must have a type for the elements,
// no axis may have a negative or unknown size, and the size in bytes must fit an int.
func possible(shape shapes.Shape) error {
	if t := int(shape.DType); t < 0 || t >= len(dtypes.SupportedDTypes) || !dtypes.SupportedDTypes[t] {
		return fmt.Errorf("no tensor can have the shape %s: Go has no type for %s", shape, shape.DType)
	}
	const most = math.MaxInt / 16 // an element has up to 16 bytes
	n := 1
	for _, d := range shape.Dimensions {
		if d < 0 {
			return fmt.Errorf("no tensor can have the shape %s: a dimension is negative or unknown", shape)
		}
		if d > 0 && n > most/d {
			return fmt.Errorf("no tensor can have the shape %s: it is larger than the address space", shape)
		}
		n *= max(d, 1) // an empty axis must not hide the size of the other axes
	}
	return nil
}

// flatBytes returns the memory of a flat slice. It returns an error if the slice does not have the
// type and the size of the shape.
func flatBytes(flat any, shape shapes.Shape) ([]byte, error) {
	if err := possible(shape); err != nil {
		return nil, err
	}
	v := reflect.ValueOf(flat)
	if v.Kind() != reflect.Slice {
		return nil, fmt.Errorf("a tensor of shape %s needs a slice: got %T", shape, flat)
	}
	element := shape.DType.GoType()
	if shape.DType.IsPacked() {
		element = reflect.TypeFor[byte]()
	}
	n := int(shape.ByteSize())
	if v.Type().Elem() != element || v.Len()*int(element.Size()) != n {
		return nil, fmt.Errorf("a tensor of shape %s needs %d bytes of %s: got %d elements of %s", shape, n, element, v.Len(), v.Type().Elem())
	}
	if n == 0 {
		return nil, nil
	}
	return unsafe.Slice((*byte)(v.UnsafePointer()), n), nil
}

// flat returns the memory of the buffer as a slice of its element type.
func (b *buffer) flat() any {
	if b.shape.DType.IsPacked() {
		return b.data
	}
	if len(b.data) == 0 {
		return dtypes.MakeAnySlice(b.shape.DType, 0)
	}
	return dtypes.UnsafeAnySliceFromBytes(unsafe.Pointer(unsafe.SliceData(b.data)), b.shape.DType, b.shape.Size())
}

// valid returns an error if the buffer was finalized or donated.
func (b *buffer) valid() error {
	if b == nil || !b.shape.Ok() {
		return errors.New("the buffer cannot be used any more: it was finalized or donated")
	}
	return nil
}

// Backend returns the backend that the buffer belongs to.
func (b *buffer) Backend() compute.Backend { return b.backend }

// Finalize releases the memory. A second call does nothing.
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

// Shape returns the shape of the tensor.
func (b *buffer) Shape() (shapes.Shape, error) { return b.shape, b.valid() }

// DeviceNum returns 0, the only device.
func (b *buffer) DeviceNum() (compute.DeviceNum, error) { return 0, b.valid() }

// ToFlatData copies the tensor into flat, a slice with the same element type and size.
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

// Data returns an error, because the backend does not share memory.
func (b *buffer) Data() (any, error) {
	return nil, fmt.Errorf("the backend %q does not share buffers: %w", backendName, compute.ErrNotImplemented)
}

// CopyToDevice returns a copy of the tensor on device 0, the only device.
func (b *buffer) CopyToDevice(device compute.DeviceNum) (compute.Buffer, error) {
	if err := b.valid(); err != nil {
		return nil, err
	}
	return b.backend.BufferFromFlatData(device, b.flat(), b.shape)
}
