package dataset

import (
	"errors"
	"io"
)

// vp8Bits reads the bits of a partition of VP8, which are coded arithmetically with equal
// probabilities (RFC 6386, section 7). Bits after the end are 0.
type vp8Bits struct {
	rest  []byte
	value uint32 // the range and the value have 8 bits before the point, and the value 8 after it
	size  uint32 // of the range, 128 to 255
	used  int    // bits after the point that have been shifted out
}

func newVP8Bits(data []byte) *vp8Bits {
	b := &vp8Bits{rest: data, size: 255}
	b.value = uint32(b.next())<<8 | uint32(b.next())
	return b
}

// next returns the next byte.
func (b *vp8Bits) next() (v byte) {
	if len(b.rest) > 0 {
		v, b.rest = b.rest[0], b.rest[1:]
	}
	return v
}

// read returns a number of n bits.
func (b *vp8Bits) read(n int) (v int) {
	for range n {
		split := 1 + (b.size-1)>>1
		v <<= 1
		if b.value >= split<<8 {
			v |= 1
			b.size -= split
			b.value -= split << 8
		} else {
			b.size = split
		}
		for ; b.size < 128; b.size <<= 1 {
			b.value <<= 1
			if b.used++; b.used == 8 {
				b.used = 0
				b.value |= uint32(b.next())
			}
		}
	}
	return v
}

// skip skips count values, each of which a flag precedes. If the flag is 0, the value is missing.
func (b *vp8Bits) skip(count, bits int) {
	for range count {
		if b.read(1) == 1 {
			b.read(bits)
		}
	}
}

// checkVP8 returns an error if a partition of a lossy WebP image begins with the byte 255. No
// encoder writes such a partition, because its value lies outside the range of the arithmetic code.
// libwebp and golang.org/x/image decode it to different pixels. data is a key frame of VP8 (RFC
// 6386, sections 9.1 to 9.5).
func checkVP8(data []byte) error {
	const header = 10
	if len(data) < header {
		return io.ErrUnexpectedEOF
	}
	size := uint24(data) >> 5
	if size > len(data)-header {
		return io.ErrUnexpectedEOF
	}
	first, rest := data[header:header+size], data[header+size:]
	b := newVP8Bits(first)
	b.read(2)           // colour space and clamping
	if b.read(1) == 1 { // segments
		known := b.read(1) == 1
		if b.read(1) == 1 {
			b.read(1)
			b.skip(4, 8) // quantisers
			b.skip(4, 7) // levels of the filter
		}
		if known {
			b.skip(3, 8) // probabilities
		}
	}
	b.read(1 + 6 + 3)   // kind, level and sharpness of the filter
	if b.read(1) == 1 { // changes of the level
		if b.read(1) == 1 {
			b.skip(8, 7)
		}
	}
	partitions := [][]byte{first}
	more := 1<<b.read(2) - 1 // besides the last one
	if len(rest) < 3*more {
		return io.ErrUnexpectedEOF
	}
	sizes, rest := rest[:3*more], rest[3*more:]
	for ; len(sizes) > 0; sizes = sizes[3:] {
		n := min(uint24(sizes), len(rest))
		partitions = append(partitions, rest[:n])
		rest = rest[n:]
	}
	for _, p := range append(partitions, rest) {
		if len(p) > 0 && p[0] == 255 {
			return errors.New("a partition of the lossy image begins with the byte 255, which no encoder writes")
		}
	}
	return nil
}
