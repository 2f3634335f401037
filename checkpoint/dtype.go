package checkpoint

import (
	"fmt"
	"math/bits"
)

// DType is the type of the elements of a tensor, as safetensors spells it: "F32", "BF16", "I64" and
// so on.
type DType string

// The element types that [File] reads or [Save] writes. A file may also hold tensors of the other
// types of the safetensors format. Their sizes are checked and [File.Tensors] lists them, but their
// values cannot be read.
const (
	F64  DType = "F64"  // IEEE 754 double precision
	F32  DType = "F32"  // IEEE 754 single precision
	F16  DType = "F16"  // IEEE 754 half precision
	BF16 DType = "BF16" // bfloat16: the upper half of an F32
	I32  DType = "I32"  // signed 32-bit integer
	U8   DType = "U8"   // unsigned 8-bit integer
)

// dtypes lists every type of the safetensors format with its width in bits. The order is the one of
// the enumeration in the official Rust library. The writer there stores the tensors from the last
// type to the first, so that the values of each tensor are aligned.
var dtypes = []struct {
	name DType
	bits uint64
}{
	{"BOOL", 8}, {"F4", 4}, {"F6_E2M3", 6}, {"F6_E3M2", 6}, {U8, 8}, {"I8", 8},
	{"F8_E5M2", 8}, {"F8_E4M3", 8}, {"F8_E8M0", 8}, {"F8_E4M3FNUZ", 8}, {"F8_E5M2FNUZ", 8},
	{"I16", 16}, {"U16", 16}, {F16, 16}, {BF16, 16}, {I32, 32}, {"U32", 32}, {F32, 32},
	{"C64", 64}, {F64, 64}, {"I64", 64}, {"U64", 64},
}

// index returns the index of d in dtypes, or -1 if the format has no such type.
func (d DType) index() int {
	for i, t := range dtypes {
		if t.name == d {
			return i
		}
	}
	return -1
}

// readsAsFloat32 reports whether [File.Float32] reads tensors of type d.
func (d DType) readsAsFloat32() bool {
	return d == F32 || d == F16 || d == BF16 || d == F64
}

// advice says what to do about tensors of type d, which readsAsFloat32 does not accept.
func (d DType) advice() string {
	if i := d.index(); i >= 0 && dtypes[i].bits <= 8 && d != "BOOL" {
		return "the checkpoint is quantised; use the original checkpoint, or dequantise it with the program that quantised it"
	}
	return "convert the checkpoint to one of these types"
}

// byteSize returns the number of bytes that a tensor of type d takes. An unknown type, a negative
// dimension, an overflow and a fraction of a byte are errors. Like the official reader, byteSize
// multiplies the dimensions from left to right. A dimension of 0 therefore hides an overflow in the
// dimensions after it, but not in those before it.
func byteSize(d DType, shape []int) (uint64, error) {
	i := d.index()
	if i < 0 {
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
	if !mul(dtypes[i].bits) {
		return 0, fmt.Errorf("the size in bits of a tensor of type %s and shape %v overflows 64 bits", d, shape)
	}
	if size%8 != 0 {
		return 0, fmt.Errorf("a tensor of type %s and shape %v takes %d bits, which is not a whole number of bytes", d, shape, size)
	}
	return size / 8, nil
}
