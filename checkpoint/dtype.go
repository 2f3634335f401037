package checkpoint

import (
	"fmt"
	"math/bits"
)

// DType is an element type in the spelling of safetensors, such as "F32", "BF16" or "I64".
type DType string

// The element types that this package reads as float32 or writes. A file may hold any other type of
// the format too: such tensors are checked and listed, but not read.
const (
	F64  DType = "F64"
	F32  DType = "F32"
	F16  DType = "F16"
	BF16 DType = "BF16"
	I32  DType = "I32"
	U8   DType = "U8"
)

// dtypes lists every type of the format with its width in bits. The order is that of the
// enumeration in the official Rust library, whose writer lays out tensors from the last type to the
// first, which keeps each tensor aligned.
var dtypes = []struct {
	name DType
	bits uint64
}{
	{"BOOL", 8}, {"F4", 4}, {"F6_E2M3", 6}, {"F6_E3M2", 6}, {U8, 8}, {"I8", 8},
	{"F8_E5M2", 8}, {"F8_E4M3", 8}, {"F8_E8M0", 8}, {"F8_E4M3FNUZ", 8}, {"F8_E5M2FNUZ", 8},
	{"I16", 16}, {"U16", 16}, {F16, 16}, {BF16, 16}, {I32, 32}, {"U32", 32}, {F32, 32},
	{"C64", 64}, {F64, 64}, {"I64", 64}, {"U64", 64},
}

// rank returns the index of d in dtypes, -1 for a type that the format does not have.
func (d DType) rank() int {
	for i, t := range dtypes {
		if t.name == d {
			return i
		}
	}
	return -1
}

// readsAsFloat32 reports whether [File.Float32] reads d.
func (d DType) readsAsFloat32() bool {
	return d == F32 || d == F16 || d == BF16 || d == F64
}

// byteSize returns the number of bytes that a tensor takes. Like the official reader it multiplies
// from left to right, so that a zero dimension hides an overflow only in the dimensions after it.
func byteSize(d DType, shape []int) (uint64, error) {
	rank := d.rank()
	if rank < 0 {
		return 0, fmt.Errorf("unknown dtype %q", d)
	}
	size := uint64(1)
	mul := func(x uint64) bool {
		var hi uint64
		hi, size = bits.Mul64(size, x)
		return hi == 0
	}
	for _, n := range shape {
		if n < 0 {
			return 0, fmt.Errorf("shape %v has a negative dimension", shape)
		}
		if !mul(uint64(n)) {
			return 0, fmt.Errorf("the number of elements of shape %v overflows 64 bits", shape)
		}
	}
	if !mul(dtypes[rank].bits) {
		return 0, fmt.Errorf("the size of %s %v in bits overflows 64 bits", d, shape)
	}
	if size%8 != 0 {
		return 0, fmt.Errorf("%s %v takes %d bits, which is not a whole number of bytes", d, shape, size)
	}
	return size / 8, nil
}
