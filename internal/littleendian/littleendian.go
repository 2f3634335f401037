// Package littleendian gives access to the memory of numbers as the bytes of a little-endian file.
// Reading and hashing the weights of a backbone in this way needs no conversion.
package littleendian

import (
	"encoding/binary"
	"unsafe"
)

// Bytes returns the memory of x. ok is false on a processor that stores the highest byte first; its
// memory does not equal the bytes of a file.
func Bytes(x []float32) (b []byte, ok bool) {
	if binary.NativeEndian.Uint16([]byte{1, 0}) != 1 {
		return nil, false
	}
	return unsafe.Slice((*byte)(unsafe.Pointer(unsafe.SliceData(x))), 4*len(x)), true
}
