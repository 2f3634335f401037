package dataset

import (
	"bytes"
	"fmt"
	"testing"
)

// vp8Encoder writes bits with equal probabilities (RFC 6386, section 7.3).
type vp8Encoder struct {
	out    []byte
	bottom uint32
	size   uint32
	left   int // bits before the next byte is complete
}

// write writes a number of n bits.
func (e *vp8Encoder) write(v, n int) {
	for i := n - 1; i >= 0; i-- {
		split := 1 + (e.size-1)>>1
		if v>>i&1 == 1 {
			e.bottom += split
			e.size -= split
		} else {
			e.size = split
		}
		for ; e.size < 128; e.size <<= 1 {
			for j := len(e.out) - 1; e.bottom>>31 == 1 && j >= 0; j-- { // a carry
				if e.out[j]++; e.out[j] != 0 {
					break
				}
			}
			e.bottom <<= 1
			if e.left--; e.left == 0 {
				e.out, e.left = append(e.out, byte(e.bottom>>24)), 8
				e.bottom &= 1<<24 - 1
			}
		}
	}
}

// TestCheckVP8 writes headers with and without each optional part, and finds a partition that
// begins with the byte 255.
func TestCheckVP8(t *testing.T) {
	for parts := range 16 {
		segments, levels, changes, several := parts&1, parts>>1&1, parts>>2&1, parts>>3&1
		e := &vp8Encoder{size: 255, left: 24}
		e.write(1, 2)
		e.write(segments, 1)
		if segments == 1 {
			e.write(1, 1)
			e.write(levels, 1)
			if levels == 1 {
				e.write(1, 1)
				for i, bits := range []int{8, 8, 8, 8, 7, 7, 7, 7} {
					e.write(i&1, 1)
					e.write(93&(1<<bits-1), i&1*bits)
				}
			}
			e.write(0b1_01100110_0_1_11111111, 19)
		}
		e.write(0b1_010101_110, 10)
		e.write(changes, 1)
		if changes == 1 {
			e.write(1, 1)
			e.write(0b1_1010101_0_0_1_0001111_0_0_0_1_1111111, 29)
		}
		e.write(2*several, 2) // 1 or 4 partitions
		e.write(0, 40)        // the rest of the partition
		first := e.out
		for bad := range 1 + 4*several {
			data := append([]byte{byte(len(first) << 5), byte(len(first) >> 3), 0}, make([]byte, 7)...)
			data = append(data, first...)
			rest := bytes.Repeat([]byte{7}, 1+4*several*3)
			if several == 1 {
				data = append(data, "\x03\x00\x00\x03\x00\x00\x03\x00\x00"...)
			}
			data = append(data, rest...)
			name := fmt.Sprintf("parts %04b, partition %d", parts, bad)
			if err := checkVP8(data); err != nil {
				t.Errorf("%s: %v", name, err)
			}
			data[len(data)-len(rest)+3*min(bad, 3)] = 255
			if err := checkVP8(data); err == nil {
				t.Errorf("%s: no error for the byte 255", name)
			}
			data[len(data)-len(rest)+3*min(bad, 3)] = 7
			if data[len(data)-1] = 255; len(rest) > 1 && checkVP8(data) != nil {
				t.Errorf("%s: an error for the byte 255 inside a partition", name)
			}
		}
	}
}
