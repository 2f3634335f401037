package dataset

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// gifFrame is the first frame of a GIF file.
type gifFrame struct {
	width, height int // of the screen, extended to hold the frame
	x, y, w, h    int // of the frame
	interlaced    bool
	palette       []byte // red, green and blue; nil if the indices are levels of grey
	background    uint8  // the index of the pixels outside the frame
	bits          int    // of the LZW data
	data          []byte // the LZW data in blocks, and the rest of the file
}

// gifSize returns the size of a GIF image.
func gifSize(file []byte) (width, height int, err error) {
	f, err := readGIF(file)
	return f.width, f.height, err
}

// readGIF reads a GIF file up to the data of its first frame. Like Pillow, it skips unknown bytes
// between blocks, and it extends the screen if the frame does not fit.
func readGIF(file []byte) (f gifFrame, err error) {
	if len(file) < 13 {
		return f, io.ErrUnexpectedEOF
	}
	f.width, f.height = int(binary.LittleEndian.Uint16(file[6:])), int(binary.LittleEndian.Uint16(file[8:]))
	flags := file[10]
	r := gifReader{file[13:]}
	if flags&0x80 != 0 {
		f.palette = gifPalette(r.read(3 << (flags&7 + 1)))
	}
	for {
		switch b := r.read(1); {
		case len(b) == 0 || b[0] == ';':
			return f, io.ErrUnexpectedEOF
		case b[0] == '!':
			label := r.read(1)
			if len(label) == 0 {
				return f, io.ErrUnexpectedEOF
			}
			block := r.block()
			if label[0] == 0xf9 && len(block) > 0 {
				if block[0]&1 != 0 {
					if len(block) < 4 {
						return f, errors.New("a graphic control extension is too short")
					}
					f.background = block[3]
				}
			}
			if label[0] == 0xfe && len(block) == 0 {
				continue
			}
			for len(r.block()) > 0 {
			}
		case b[0] == ',':
			d := r.read(9)
			if len(d) < 9 {
				return f, io.ErrUnexpectedEOF
			}
			f.x, f.y = int(binary.LittleEndian.Uint16(d)), int(binary.LittleEndian.Uint16(d[2:]))
			f.w, f.h = int(binary.LittleEndian.Uint16(d[4:])), int(binary.LittleEndian.Uint16(d[6:]))
			if f.w == 0 || f.h == 0 {
				return f, fmt.Errorf("the first frame has a size of %d×%d pixels", f.w, f.h)
			}
			f.width, f.height = max(f.width, f.x+f.w), max(f.height, f.y+f.h)
			f.interlaced = d[8]&0x40 != 0
			if d[8]&0x80 != 0 {
				f.palette = gifPalette(r.read(3 << (d[8]&7 + 1)))
			}
			bits := r.read(1)
			if len(bits) == 0 {
				return f, io.ErrUnexpectedEOF
			}
			f.bits, f.data = int(bits[0]), r.rest
			return f, nil
		}
	}
}

// gifReader reads a GIF file piece by piece.
type gifReader struct{ rest []byte }

// read returns the next n bytes, or fewer at the end of the file.
func (r *gifReader) read(n int) []byte {
	n = min(n, len(r.rest))
	b := r.rest[:n]
	r.rest = r.rest[n:]
	return b
}

// block returns the next data block. An empty block ends a list.
func (r *gifReader) block() []byte {
	if n := r.read(1); len(n) > 0 {
		return r.read(int(n[0]))
	}
	return nil
}

// gifPalette returns a palette, or nil if each index has its own value as a level of grey. Pillow
// takes indices for such levels then, also those beyond the palette.
func gifPalette(p []byte) []byte {
	for i, v := range p {
		if int(v) != i/3 {
			return p
		}
	}
	return nil
}

// decodeGIF draws the first frame on the logical screen. Pixels outside the frame get the
// transparent colour or the first colour of the palette, as in Pillow.
func decodeGIF(file []byte) (*RGB, error) {
	f, err := readGIF(file)
	if err != nil {
		return nil, err
	}
	indices := make([]uint8, f.width*f.height)
	if f.background != 0 {
		for i := range indices {
			indices[i] = f.background
		}
	}
	if err := f.decode(indices); err != nil {
		return nil, err
	}
	m := newRGB(f.width, f.height)
	u := newUnpacker(8, 1)
	u.setPalette(f.palette, f.palette != nil)
	u.unpack(m.Pix, indices, len(indices), 1)
	return m, nil
}

// gifCodes is the number of codes of the LZW compression of GIF.
const gifCodes = 1 << 12

// decode decompresses the frame to the indices of the screen. Data that end before the last pixel
// are an error.
func (f *gifFrame) decode(indices []uint8) error {
	if f.bits > 12 {
		return fmt.Errorf("LZW codes of %d bits are not allowed", f.bits)
	}
	var (
		link   [gifCodes]uint16 // the code of all but the last index
		last   [gifCodes]uint8  // the last index
		text   [gifCodes]uint8  // of the current code, written from the end
		clear  = 1 << f.bits
		next   = clear + 2
		size   = f.bits + 1
		prev   = -1  // the previous code, or -1 after a clear code
		first  uint8 // the first index of the previous code
		bits   uint  // bits that have been read, but not used
		count  int   // of these bits
		r      = gifReader{f.data}
		block  []byte
		x, row int
		pass   = gifPasses[:1]
	)
	if f.interlaced {
		pass = gifPasses[1:]
	}
	row = pass[0][0]
	emit := func(s []uint8) bool {
		for _, v := range s {
			indices[(f.y+row)*f.width+f.x+x] = v
			if x++; x < f.w {
				continue
			}
			x = 0
			for row += pass[0][1]; row >= f.h; row = pass[0][0] {
				if pass = pass[1:]; len(pass) == 0 {
					return false
				}
			}
		}
		return true
	}
	if row >= f.h {
		return nil
	}
	for {
		for count < size {
			if len(block) == 0 {
				n := r.read(1)
				if len(n) == 0 {
					return io.ErrUnexpectedEOF
				}
				if block = r.read(int(n[0])); len(block) < int(n[0]) {
					return io.ErrUnexpectedEOF
				}
				continue
			}
			bits |= uint(block[0]) << count
			count += 8
			block = block[1:]
		}
		code := int(bits & (1<<size - 1))
		bits >>= size
		count -= size
		switch {
		case code == clear:
			next, size, prev = clear+2, f.bits+1, -1
			continue
		case code == clear+1:
			return io.ErrUnexpectedEOF
		case prev < 0:
			if code > clear {
				return errors.New("the first LZW code is not a pixel")
			}
			prev, first = code, uint8(code)
			if !emit([]uint8{first}) {
				return nil
			}
			continue
		case code > next:
			return errors.New("an LZW code is not defined")
		}
		at, c := len(text), code
		if c == next {
			at--
			text[at] = first
			c = prev
		}
		for c >= clear {
			if at == 0 || c >= gifCodes {
				return errors.New("an LZW code is not defined")
			}
			at--
			text[at] = last[c]
			c = int(link[c])
		}
		first = uint8(c)
		if next < gifCodes {
			last[next], link[next] = first, uint16(prev)
			if next == 1<<size-1 && size < 12 {
				size++
			}
			next++
		}
		prev = code
		if !emit([]uint8{first}) || !emit(text[at:]) {
			return nil
		}
	}
}

// gifPasses lists the first row and the distance of rows: of a frame without interlacing, and of
// the four passes of an interlaced one.
var gifPasses = [][2]int{{0, 1}, {0, 8}, {4, 8}, {2, 4}, {1, 2}}
