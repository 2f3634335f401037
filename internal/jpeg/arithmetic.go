package jpeg

import "fmt"

// arithmeticDecoder is the QM decoder of ITU-T T.81, annex D, with the statistics of a scan.
type arithmeticDecoder struct {
	code   int32 // the code register: the base of the interval and the bits that follow
	size   int32 // of the interval
	shift  int   // number of bits that follow in code; negative until the first bytes are read
	broken bool  // a value is out of range; the blocks up to the next restart stay as they are

	decisions int // since decoder.spend was called last

	dc    [16][64]uint8 // states of the DC tables: index << 1 | more probable symbol
	ac    [16][256]uint8
	fixed uint8
}

// estimates is table D.2 of ITU-T T.81: the probability of the less probable symbol, the next state
// after the less and the more probable symbol, and whether the meaning of the symbols is switched.
// The last state keeps a probability of one half.
var estimates = [114]struct {
	qe         int32
	less, more uint8
	change     uint8
}{
	{0x5a1d, 1, 1, 1}, {0x2586, 14, 2, 0}, {0x1114, 16, 3, 0}, {0x080b, 18, 4, 0},
	{0x03d8, 20, 5, 0}, {0x01da, 23, 6, 0}, {0x00e5, 25, 7, 0}, {0x006f, 28, 8, 0},
	{0x0036, 30, 9, 0}, {0x001a, 33, 10, 0}, {0x000d, 35, 11, 0}, {0x0006, 9, 12, 0},
	{0x0003, 10, 13, 0}, {0x0001, 12, 13, 0}, {0x5a7f, 15, 15, 1}, {0x3f25, 36, 16, 0},
	{0x2cf2, 38, 17, 0}, {0x207c, 39, 18, 0}, {0x17b9, 40, 19, 0}, {0x1182, 42, 20, 0},
	{0x0cef, 43, 21, 0}, {0x09a1, 45, 22, 0}, {0x072f, 46, 23, 0}, {0x055c, 48, 24, 0},
	{0x0406, 49, 25, 0}, {0x0303, 51, 26, 0}, {0x0240, 52, 27, 0}, {0x01b1, 54, 28, 0},
	{0x0144, 56, 29, 0}, {0x00f5, 57, 30, 0}, {0x00b7, 59, 31, 0}, {0x008a, 60, 32, 0},
	{0x0068, 62, 33, 0}, {0x004e, 63, 34, 0}, {0x003b, 32, 35, 0}, {0x002c, 33, 9, 0},
	{0x5ae1, 37, 37, 1}, {0x484c, 64, 38, 0}, {0x3a0d, 65, 39, 0}, {0x2ef1, 67, 40, 0},
	{0x261f, 68, 41, 0}, {0x1f33, 69, 42, 0}, {0x19a8, 70, 43, 0}, {0x1518, 72, 44, 0},
	{0x1177, 73, 45, 0}, {0x0e74, 74, 46, 0}, {0x0bfb, 75, 47, 0}, {0x09f8, 77, 48, 0},
	{0x0861, 78, 49, 0}, {0x0706, 79, 50, 0}, {0x05cd, 48, 51, 0}, {0x04de, 50, 52, 0},
	{0x040f, 50, 53, 0}, {0x0363, 51, 54, 0}, {0x02d4, 52, 55, 0}, {0x025c, 53, 56, 0},
	{0x01f8, 54, 57, 0}, {0x01a4, 55, 58, 0}, {0x0160, 56, 59, 0}, {0x0125, 57, 60, 0},
	{0x00f6, 58, 61, 0}, {0x00cb, 59, 62, 0}, {0x00ab, 61, 63, 0}, {0x008f, 61, 32, 0},
	{0x5b12, 65, 65, 1}, {0x4d04, 80, 66, 0}, {0x412c, 81, 67, 0}, {0x37d8, 82, 68, 0},
	{0x2fe8, 83, 69, 0}, {0x293c, 84, 70, 0}, {0x2379, 86, 71, 0}, {0x1edf, 87, 72, 0},
	{0x1aa9, 87, 73, 0}, {0x174e, 72, 74, 0}, {0x1424, 72, 75, 0}, {0x119c, 74, 76, 0},
	{0x0f6b, 74, 77, 0}, {0x0d51, 75, 78, 0}, {0x0bb6, 77, 79, 0}, {0x0a40, 77, 48, 0},
	{0x5832, 80, 81, 1}, {0x4d1c, 88, 82, 0}, {0x438e, 89, 83, 0}, {0x3bdd, 90, 84, 0},
	{0x34ee, 91, 85, 0}, {0x2eae, 92, 86, 0}, {0x299a, 93, 87, 0}, {0x2516, 86, 71, 0},
	{0x5570, 88, 89, 1}, {0x4ca9, 95, 90, 0}, {0x44d9, 96, 91, 0}, {0x3e22, 97, 92, 0},
	{0x3824, 99, 93, 0}, {0x32b4, 99, 94, 0}, {0x2e17, 93, 86, 0}, {0x56a8, 95, 96, 1},
	{0x4f46, 101, 97, 0}, {0x47e5, 102, 98, 0}, {0x41cf, 103, 99, 0}, {0x3c3d, 104, 100, 0},
	{0x375e, 99, 93, 0}, {0x5231, 105, 102, 0}, {0x4c0f, 106, 103, 0}, {0x4639, 107, 104, 0},
	{0x415e, 103, 99, 0}, {0x5627, 105, 106, 1}, {0x50e7, 108, 107, 0}, {0x4b85, 109, 103, 0},
	{0x5597, 110, 109, 0}, {0x504f, 111, 107, 0}, {0x5a10, 110, 111, 1}, {0x5522, 112, 109, 0},
	{0x59eb, 112, 111, 1}, {0x5a1d, 113, 113, 0},
}

// reset prepares the decoder for a scan or a restart interval.
func (a *arithmeticDecoder) reset(d *decoder) {
	if !d.arithmetic {
		return
	}
	a.code, a.size, a.shift, a.broken = 0, 0, -16, false
	a.fixed = 113 << 1
	for _, c := range d.scan {
		if d.first == 0 && d.high == 0 {
			a.dc[c.dcTable] = [64]uint8{}
		}
		if d.last > 0 {
			a.ac[c.acTable] = [256]uint8{}
		}
	}
}

// arithmeticByte returns the next byte of the data. Zeros follow the data before a marker.
func (d *decoder) arithmeticByte() int32 {
	if d.marker != 0 {
		return 0
	}
	if d.pos >= len(d.data) {
		d.truncated = true
		return 0
	}
	b := d.data[d.pos]
	d.pos++
	if b != 0xff {
		return int32(b)
	}
	for d.pos < len(d.data) && d.data[d.pos] == 0xff {
		d.pos++
	}
	if d.pos == len(d.data) {
		d.truncated = true
		return 0
	}
	m := d.data[d.pos]
	d.pos++
	if m == 0 {
		return 0xff
	}
	d.marker = m
	return 0
}

// bit decodes one binary decision with a state.
func (d *decoder) bit(state *uint8) int {
	a := &d.arith
	a.decisions++
	for a.size < 0x8000 {
		if a.shift--; a.shift < 0 {
			a.code = a.code<<8 | d.arithmeticByte()
			if a.shift += 8; a.shift < 0 {
				if a.shift++; a.shift == 0 {
					a.size = 0x8000
				}
			}
		}
		a.size <<= 1
	}
	symbol := *state & 1
	e := &estimates[*state>>1]
	less := e.less<<1 | symbol ^ e.change
	more := e.more<<1 | symbol
	a.size -= e.qe
	if limit := a.size << a.shift; a.code >= limit {
		a.code -= limit
		exchanged := a.size < e.qe
		a.size = e.qe
		if exchanged {
			*state = more
		} else {
			*state = less
			symbol ^= 1
		}
	} else if a.size < 0x8000 {
		if a.size < e.qe {
			*state = less
			symbol ^= 1
		} else {
			*state = more
		}
	}
	return int(symbol)
}

// arithmeticScan returns the function that decodes one block of an arithmetic-coded scan.
func (d *decoder) arithmeticScan() (func(*component, *block), error) {
	for _, c := range d.scan {
		if c.dcTable > 15 || c.acTable > 15 {
			return nil, fmt.Errorf("table %d of arithmetic coding does not exist", max(c.dcTable, c.acTable))
		}
	}
	dc := d.first == 0
	switch {
	case !d.progressive:
		return func(c *component, b *block) {
			if d.arith.broken {
				return
			}
			d.arithmeticDC(c, b)
			if !d.arith.broken {
				d.arithmeticAC(c, b)
			}
		}, nil
	case dc && d.high == 0:
		return func(c *component, b *block) {
			if !d.arith.broken {
				d.arithmeticDC(c, b)
			}
		}, nil
	case dc:
		return func(_ *component, b *block) {
			b[0] |= int16(d.bit(&d.arith.fixed) << d.low)
		}, nil
	case d.high == 0:
		return func(c *component, b *block) {
			if !d.arith.broken {
				d.arithmeticAC(c, b)
			}
		}, nil
	}
	return func(c *component, b *block) {
		if !d.arith.broken {
			d.arithmeticRefine(c, b)
		}
	}, nil
}

// arithmeticDC decodes a DC coefficient (T.81, F.2.4.1).
func (d *decoder) arithmeticDC(c *component, b *block) {
	bins := &d.arith.dc[c.dcTable]
	at := c.dcContext
	if d.bit(&bins[at]) == 0 {
		c.dcContext = 0
	} else {
		sign := d.bit(&bins[at+1])
		at += 2 + sign
		m := d.bit(&bins[at])
		if m != 0 {
			at = 20
			for d.bit(&bins[at]) != 0 {
				if m <<= 1; m == 0x8000 {
					d.arith.broken = true
					return
				}
				at++
			}
		}
		switch {
		case m < 1<<d.dcL[c.dcTable]>>1:
			c.dcContext = 0
		case m > 1<<d.dcU[c.dcTable]>>1:
			c.dcContext = 12 + 4*sign
		default:
			c.dcContext = 4 + 4*sign
		}
		c.dc = int(int16(c.dc + d.magnitude(bins[:], at+14, m, sign)))
	}
	b[0] = int16(c.dc << d.low)
}

// magnitude decodes the bits below the highest one, m, and returns the value.
func (d *decoder) magnitude(bins []uint8, at, m, sign int) int {
	v := m
	for m >>= 1; m > 0; m >>= 1 {
		if d.bit(&bins[at]) != 0 {
			v |= m
		}
	}
	if sign != 0 {
		return -(v + 1)
	}
	return v + 1
}

// arithmeticAC decodes AC coefficients (T.81, F.2.4.2).
func (d *decoder) arithmeticAC(c *component, b *block) {
	bins := &d.arith.ac[c.acTable]
	for k := max(d.first, 1); k <= d.last; k++ {
		at := 3 * (k - 1)
		if d.bit(&bins[at]) != 0 {
			return
		}
		for d.bit(&bins[at+1]) == 0 {
			at += 3
			if k++; k > d.last {
				d.arith.broken = true
				return
			}
		}
		sign := d.bit(&d.arith.fixed)
		at += 2
		m := d.bit(&bins[at])
		if m != 0 && d.bit(&bins[at]) != 0 {
			m <<= 1
			at = 217
			if k <= int(d.acK[c.acTable]) {
				at = 189
			}
			for d.bit(&bins[at]) != 0 {
				if m <<= 1; m == 0x8000 {
					d.arith.broken = true
					return
				}
				at++
			}
		}
		b[zigzag[k]] = int16(d.magnitude(bins[:], at+14, m, sign) << d.low)
	}
}

// arithmeticRefine decodes one more bit of AC coefficients (T.81, G.1.3.3).
func (d *decoder) arithmeticRefine(c *component, b *block) {
	bins := &d.arith.ac[c.acTable]
	one := int16(1) << d.low
	end := d.last
	for end > 0 && b[zigzag[end]] == 0 {
		end--
	}
	for k := d.first; k <= d.last; k++ {
		at := 3 * (k - 1)
		if k > end && d.bit(&bins[at]) != 0 {
			return
		}
		for {
			p := &b[zigzag[k]]
			if *p != 0 {
				if d.bit(&bins[at+2]) != 0 {
					if *p < 0 {
						*p -= one
					} else {
						*p += one
					}
				}
				break
			}
			if d.bit(&bins[at+1]) != 0 {
				if *p = one; d.bit(&d.arith.fixed) != 0 {
					*p = -one
				}
				break
			}
			at += 3
			if k++; k > d.last {
				d.arith.broken = true
				return
			}
		}
	}
}
