package dataset

// unpacker converts rows of packed samples to RGB. Samples have 1, 2, 4, 8 or 16 bits, the highest
// bit first; those of 16 bits are big-endian and lose their low byte.
type unpacker struct {
	bits     int
	channels int // stored per pixel
	// colours is the number of channels that matter: 1 for grey or a palette index, 3 for RGB, 4
	// for CMYK or, if premultiplied is set, RGB that is multiplied by the alpha in the fourth
	// channel.
	colours       int
	premultiplied bool

	levels [256][3]uint8 // the colour of each sample; only for one colour channel
	first  [3]uint8      // the colour of the sample 0
}

// newUnpacker returns an unpacker for pixels without a palette: grey for one or two channels, RGB
// for more. Further channels, such as alpha, are dropped.
func newUnpacker(bits, channels int) *unpacker {
	u := &unpacker{bits: bits, channels: channels, colours: 1}
	if channels >= 3 {
		u.colours = 3
	}
	for i := range u.levels {
		v := uint8(i)
		if bits < 8 {
			v = uint8(i * 255 / (1<<bits - 1))
		}
		u.levels[i] = [3]uint8{v, v, v}
	}
	return u
}

// setPalette sets the colours of indices, as red, green and blue bytes. Indices beyond the palette
// are black. It does nothing if used is false.
func (u *unpacker) setPalette(palette []byte, used bool) {
	if !used {
		return
	}
	for i := range u.levels {
		u.levels[i] = [3]uint8{}
		if 3*i+3 <= len(palette) {
			u.levels[i] = [3]uint8(palette[3*i : 3*i+3])
		}
	}
	u.first = u.levels[0]
}

// invert makes the highest sample black.
func (u *unpacker) invert() {
	for i, c := range u.levels {
		u.levels[i] = [3]uint8{^c[0], ^c[1], ^c[2]}
	}
}

// unpack writes n pixels to dst, at every step-th pixel.
func (u *unpacker) unpack(dst, row []byte, n, step int) {
	if u.colours == 1 {
		for x := range n {
			c := &u.levels[u.sample(row, x*u.channels)]
			d := dst[3*x*step:][:3]
			d[0], d[1], d[2] = c[0], c[1], c[2]
		}
		return
	}
	if u.colours == 3 && u.channels == 3 && u.bits == 8 && step == 1 {
		copy(dst[:3*n], row)
		return
	}
	size := u.bits / 8
	pixel := size * u.channels
	for x := range n {
		s := row[x*pixel:][:pixel]
		d := dst[3*x*step:][:3]
		d[0], d[1], d[2] = s[0], s[size], s[2*size]
		switch {
		case u.premultiplied:
			divideAlpha(d, s[3*size])
		case u.colours == 4:
			k := s[3*size]
			d[0], d[1], d[2] = inkToLight(d[0], k), inkToLight(d[1], k), inkToLight(d[2], k)
		}
	}
}

// sample returns sample i of a row, of which only the high byte of 16 bits.
func (u *unpacker) sample(row []byte, i int) uint8 {
	switch u.bits {
	case 8:
		return row[i]
	case 16:
		return row[2*i]
	}
	at := i * u.bits
	return row[at/8] >> (8 - u.bits - at%8) & (1<<u.bits - 1)
}

// divideAlpha undoes the multiplication of a colour by alpha.
func divideAlpha(p []uint8, alpha uint8) {
	if alpha == 0 {
		clear(p)
		return
	}
	for i, v := range p {
		p[i] = uint8(min(int(v)*255/int(alpha), 255))
	}
}

// fromSamples makes an image from interleaved bytes of grey, RGB or CMYK. It may overwrite them.
func fromSamples(width, height, channels int, samples []uint8) *RGB {
	if channels == 3 {
		return &RGB{Width: width, Height: height, Pix: samples}
	}
	u := newUnpacker(8, channels)
	if channels == 4 { // in place: the pixels of RGB are smaller
		u.colours = 4
		u.unpack(samples, samples, width*height, 1)
		return &RGB{Width: width, Height: height, Pix: samples[:3*width*height]}
	}
	m := newRGB(width, height)
	u.unpack(m.Pix, samples, width*height, 1)
	return m
}

// inkToLight converts one channel of CMYK to one channel of RGB as Pillow does: (1 - black) -
// ink·(1 - black), with 255 for 1.
func inkToLight(ink, black uint8) uint8 {
	white := 255 - int(black)
	product := int(ink)*white + 128
	product = (product>>8 + product) >> 8 // divides by 255 and rounds
	return uint8(white - product)         // never negative, because product ≤ white
}
