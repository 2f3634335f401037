// Package littleendian reads and writes numbers as the bytes of a little-endian file. On a
// little-endian processor it uses the memory of the numbers, so that reading, writing and hashing
// the weights of a backbone needs no conversion.
package littleendian

import (
	"encoding/binary"
	"io"
	"math"
	"slices"
	"unsafe"
)

// native reports whether the processor stores the lowest byte first, as the files do.
var native = binary.NativeEndian.Uint16([]byte{1, 0}) == 1

// memory returns the memory of x.
func memory(x []float32) []byte {
	return unsafe.Slice((*byte)(unsafe.Pointer(unsafe.SliceData(x))), 4*len(x))
}

// Read fills x with float32 values from r. The errors are those of [io.ReadFull].
func Read(r io.Reader, x []float32) error {
	b := memory(x)
	if _, err := io.ReadFull(r, b); err != nil || native {
		return err
	}
	for i := range x {
		x[i] = math.Float32frombits(binary.LittleEndian.Uint32(b[4*i:]))
	}
	return nil
}

// Write writes x to w as float32 values.
func Write(w io.Writer, x []float32) error {
	if native {
		_, err := w.Write(memory(x))
		return err
	}
	var b []byte
	for chunk := range slices.Chunk(x, 1<<13) {
		b = b[:0]
		for _, v := range chunk {
			b = binary.LittleEndian.AppendUint32(b, math.Float32bits(v))
		}
		if _, err := w.Write(b); err != nil {
			return err
		}
	}
	return nil
}
