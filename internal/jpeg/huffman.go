package jpeg

import (
	"encoding/binary"
	"fmt"
)

// bitReader holds bits that have been read from the file, but not used.
type bitReader struct {
	acc uint64 // the bits are the n lowest ones
	n   int
}

// fill reads bytes until the bit reader holds more than 56 bits, or until a marker or the end of
// the file.
func (d *decoder) fill() {
	r := &d.bits
	if d.marker != 0 {
		return
	}
	if d.pos+8 <= len(d.data) {
		v := binary.BigEndian.Uint64(d.data[d.pos:])
		const low, top = 0x0101010101010101, 0x8080808080808080
		if (^v-low)&v&top == 0 { // no byte is 0xff
			k := (64 - r.n) / 8
			r.acc = r.acc<<(8*k) | v>>(64-8*k)
			r.n += 8 * k
			d.pos += k
			return
		}
	}
	for r.n <= 56 && d.pos < len(d.data) {
		b := d.data[d.pos]
		d.pos++
		if b == 0xff {
			for d.pos < len(d.data) && d.data[d.pos] == 0xff {
				d.pos++
			}
			if d.pos == len(d.data) {
				return
			}
			if m := d.data[d.pos]; m != 0 {
				d.pos++
				d.marker = m
				return
			}
			d.pos++
		}
		r.acc = r.acc<<8 | uint64(b)
		r.n += 8
	}
}

// need makes sure that the bit reader holds n bits, at most 17. Zeros follow the data before a
// marker.
func (d *decoder) need(n int) {
	if d.bits.n >= n {
		return
	}
	d.fill()
	if d.bits.n >= n {
		return
	}
	if d.marker != 0 {
		d.insufficient = true
	} else {
		d.truncated = true
	}
	d.bits.acc <<= 57 - d.bits.n
	d.bits.n = 57
}

// receive returns the next n bits.
func (d *decoder) receive(n int) int {
	d.need(n)
	d.bits.n -= n
	return int(d.bits.acc>>d.bits.n) & (1<<n - 1)
}

// receiveSigned returns the value that the next n bits encode: a first bit of 0 means a negative
// value.
func (d *decoder) receiveSigned(n int) int {
	v := d.receive(n)
	if v < 1<<n>>1 {
		v += -1<<n + 1
	}
	return v
}

// huffmanTable is a Huffman code. The counts and values are those of the file; the other fields are
// derived from them by derive.
type huffmanTable struct {
	counts [17]uint8 // number of codes of each length in bits
	values [256]uint8

	lookup  [256]uint16 // for the next 8 bits: length << 8 | value, or 0 for longer codes
	maximum [18]int32   // the greatest code of each length, or -1
	offset  [17]int32   // of the value of a code, less the code
	derived bool
}

// huffmanTables reads the segment of a DHT marker.
func (d *decoder) huffmanTables(s []byte) bool {
	for len(s) > 0 {
		if len(s) < 17 || s[0]&15 > 3 || s[0]>>4 > 1 {
			return false
		}
		t := new(huffmanTable)
		total := 0
		for i := 1; i <= 16; i++ {
			t.counts[i] = s[i]
			total += int(s[i])
		}
		if total > 256 || total > len(s)-17 {
			return false
		}
		copy(t.values[:], s[17:17+total])
		d.huffman[s[0]>>4][s[0]&15] = t
		s = s[17+total:]
	}
	return true
}

// derive computes the derived fields. It returns false if the counts are not those of a prefix
// code, or if a code of a DC table has a value above 15.
func (t *huffmanTable) derive(dc bool) bool {
	code, k := int32(0), 0
	for n := 1; n <= 16; n++ {
		t.offset[n] = int32(k) - code
		t.maximum[n] = -1
		for range t.counts[n] {
			if code >= 1<<n || dc && t.values[k] > 15 {
				return false
			}
			for i := int32(0); n <= 8 && i < 1<<(8-n); i++ {
				t.lookup[code<<(8-n)|i] = uint16(n)<<8 | uint16(t.values[k])
			}
			t.maximum[n] = code
			code++
			k++
		}
		code <<= 1
	}
	t.maximum[17] = 1<<31 - 1 // ends the search
	t.derived = true
	return true
}

// symbol decodes the next value. An invalid code has the value 0.
func (d *decoder) symbol(t *huffmanTable) int {
	if d.bits.n < 17 {
		d.fill()
	}
	if d.bits.n >= 8 {
		if e := t.lookup[uint8(d.bits.acc>>(d.bits.n-8))]; e != 0 {
			d.bits.n -= int(e >> 8)
			return int(e & 255)
		}
	}
	code, n := int32(d.receive(1)), 1
	for code > t.maximum[n] {
		code = code<<1 | int32(d.receive(1))
		n++
	}
	if n > 16 {
		return 0
	}
	return int(t.values[uint8(code+t.offset[n])])
}

// table returns the Huffman table of a scan with its derived fields. A sequential file without
// tables uses those of the standard, as the frames of a Motion JPEG do.
func (d *decoder) table(class, index int) (*huffmanTable, error) {
	if index < 4 {
		t := d.huffman[class][index]
		if t == nil && !d.progressive && index < 2 {
			t = standardTable(class, index)
			d.huffman[class][index] = t
		}
		if t != nil {
			if !t.derived && !t.derive(class == 0) {
				return nil, fmt.Errorf("the Huffman table %d is damaged", index)
			}
			return t, nil
		}
	}
	return nil, fmt.Errorf("the Huffman table %d is missing", index)
}

// scanDecoder returns the function that decodes one block of the current scan.
func (d *decoder) scanDecoder() (func(*component, *block), error) {
	dc := d.first == 0
	if d.arithmetic {
		return d.arithmeticScan()
	}
	for _, c := range d.scan {
		if dc && d.high == 0 {
			if _, err := d.table(0, c.dcTable); err != nil {
				return nil, err
			}
		}
		if d.last > 0 {
			if _, err := d.table(1, c.acTable); err != nil {
				return nil, err
			}
		}
	}
	switch {
	case !d.progressive:
		return d.sequentialBlock, nil
	case dc && d.high == 0:
		return d.firstDC, nil
	case dc:
		return d.refineDC, nil
	case d.high == 0:
		return d.firstAC, nil
	}
	return d.refineAC, nil
}

// sequentialBlock decodes a block of a sequential image.
func (d *decoder) sequentialBlock(c *component, b *block) {
	if d.skip {
		return
	}
	if s := d.symbol(d.huffman[0][c.dcTable]); s != 0 {
		c.dc += d.receiveSigned(s)
	}
	b[0] = int16(c.dc)
	t := d.huffman[1][c.acTable]
	for k := 1; k < 64; k++ {
		s := d.symbol(t)
		run, size := s>>4, s&15
		if size == 0 {
			if run != 15 {
				break
			}
			k += 15
			continue
		}
		k += run
		b[zigzag[k]] = int16(d.receiveSigned(size))
	}
}

// firstDC decodes the DC coefficient of a block in the first scan with it.
func (d *decoder) firstDC(c *component, b *block) {
	if d.skip {
		return
	}
	if s := d.symbol(d.huffman[0][c.dcTable]); s != 0 {
		c.dc += d.receiveSigned(s)
	}
	b[0] = int16(c.dc << d.low)
}

// refineDC decodes one more bit of the DC coefficient of a block.
func (d *decoder) refineDC(_ *component, b *block) {
	b[0] |= int16(d.receive(1) << d.low)
}

// firstAC decodes AC coefficients of a block in the first scan with them.
func (d *decoder) firstAC(c *component, b *block) {
	if d.skip {
		return
	}
	if d.endOfBand > 0 {
		d.endOfBand--
		return
	}
	t := d.huffman[1][c.acTable]
	for k := d.first; k <= d.last; k++ {
		s := d.symbol(t)
		run, size := s>>4, s&15
		switch {
		case size != 0:
			k += run
			b[zigzag[k]] = int16(d.receiveSigned(size) << d.low)
		case run == 15:
			k += 15
		default:
			d.endOfBand = 1<<run + d.receive(run) - 1
			return
		}
	}
}

// refineAC decodes one more bit of AC coefficients of a block.
func (d *decoder) refineAC(c *component, b *block) {
	if d.skip {
		return
	}
	one := int16(1) << d.low
	k := d.first
	if d.endOfBand == 0 {
		t := d.huffman[1][c.acTable]
		for ; k <= d.last; k++ {
			s := d.symbol(t)
			run, value := s>>4, int16(0)
			if s&15 != 0 { // the size is 1 in a sound file
				if value = -one; d.receive(1) != 0 {
					value = one
				}
			} else if run != 15 {
				d.endOfBand = 1<<run + d.receive(run)
				break
			}
			k = d.refineRun(b, k, run)
			if value != 0 {
				b[zigzag[k]] = value
			}
		}
	}
	if d.endOfBand > 0 {
		d.refineRun(b, k, 64)
		d.endOfBand--
	}
}

// refineRun reads a bit for each coefficient from position k on that is not zero, until it has
// passed run coefficients that are zero. It returns the position of the next zero, or the position
// after the last coefficient of the scan.
func (d *decoder) refineRun(b *block, k, run int) int {
	one := int16(1) << d.low
	for ; k <= d.last; k++ {
		p := &b[zigzag[k]]
		if *p == 0 {
			if run--; run < 0 {
				break
			}
			continue
		}
		if d.receive(1) != 0 && *p&one == 0 {
			if *p >= 0 {
				*p += one
			} else {
				*p -= one
			}
		}
	}
	return k
}
