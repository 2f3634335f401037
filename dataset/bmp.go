package dataset

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"
)

// bmpHeader is the header of a BMP file.
type bmpHeader struct {
	width, height int
	topDown       bool
	bits          int // per pixel
	compression   int // 0 none, 1 RLE8, 2 RLE4, 3 bit fields
	masks         [4]uint32
	palette       []byte // red, green and blue; nil if there is none or if indices are levels
	levels        bool   // indices are levels of grey
	offset        int    // of the pixels in the file
}

// bmpSize returns the size of a BMP image.
func bmpSize(file []byte) (width, height int, err error) {
	h, err := readBMP(file)
	return h.width, h.height, err
}

// readBMP reads the header and the palette of a BMP file.
func readBMP(file []byte) (h bmpHeader, err error) {
	if len(file) < 18 {
		return h, io.ErrUnexpectedEOF
	}
	u16, u32 := binary.LittleEndian.Uint16, binary.LittleEndian.Uint32
	offset := uint64(u32(file[10:]))
	size := int(u32(file[14:]))
	if !slices.Contains([]int{12, 40, 52, 56, 64, 108, 124}, size) {
		return h, fmt.Errorf("a header of %d bytes is not supported", size)
	}
	if len(file) < 14+size {
		return h, io.ErrUnexpectedEOF
	}
	d := file[18 : 14+size]
	end := 14 + size
	colours, entry := uint64(0), uint64(4)
	if size == 12 {
		h.width, h.height, h.bits, entry = int(u16(d)), int(u16(d[2:])), int(u16(d[6:])), 3
	} else {
		width, height := u32(d), u32(d[4:])
		if h.topDown = d[7] == 0xff; h.topDown {
			height = -height
		}
		if width > 1<<31-1 || height > 1<<31-1 {
			return h, fmt.Errorf("a size of %d×%d pixels is not supported", width, height)
		}
		h.width, h.height, h.bits, h.compression = int(width), int(height), int(u16(d[10:])), int(u32(d[12:]))
		colours = uint64(u32(d[28:]))
		if h.compression == 3 {
			masks := d[min(36, len(d)):]
			n := min(len(masks)/4, 4)
			if size < 52 { // the masks follow the header
				if len(file) < end+12 {
					return h, io.ErrUnexpectedEOF
				}
				masks, n = file[end:end+12], 3
				end += 12
			}
			for i := range n {
				h.masks[i] = u32(masks[4*i:])
			}
		}
	}
	if h.compression > 3 {
		return h, fmt.Errorf("compression %d is not supported, only RLE and bit fields", h.compression)
	}
	if !slices.Contains([]int{1, 4, 8, 16, 24, 32}, h.bits) || (h.compression == 1 || h.compression == 2) && h.bits > 8 {
		return h, fmt.Errorf("%d bits per pixel with compression %d are not supported", h.bits, h.compression)
	}
	if h.bits <= 8 {
		if h.compression == 3 {
			return h, fmt.Errorf("%d bits per pixel with bit fields are not supported", h.bits)
		}
		if colours == 0 {
			colours = 1 << h.bits
		}
		if colours > 1<<16 {
			return h, fmt.Errorf("a palette of %d colours is not supported, only 65536", colours)
		}
		if offset == uint64(14+size) {
			offset += entry * colours
		}
		if err := h.readPalette(file[end:], int(colours), int(entry)); err != nil {
			return h, err
		}
		end += int(entry * colours)
	}
	if offset == 0 {
		offset = uint64(end)
	}
	if offset > uint64(len(file)) {
		return h, io.ErrUnexpectedEOF
	}
	h.offset = int(offset)
	return h, nil
}

// readPalette reads a palette of blue, green, red and perhaps padding. The file may end within the
// palette. Pillow ignores a palette of levels of grey: of 0 and 255 for two colours, or of the
// indices themselves.
func (h *bmpHeader) readPalette(data []byte, colours, entry int) error {
	h.levels = colours <= 256 && len(data) >= colours*entry
	for i := range min(colours, 256, len(data)/entry) {
		p := data[i*entry:]
		h.palette = append(h.palette, p[2], p[1], p[0])
		level := uint8(i)
		if colours == 2 {
			level = uint8(255 * i)
		}
		h.levels = h.levels && p[0] == level && p[1] == level && p[2] == level
	}
	if two := colours <= 2; h.levels && (two != (h.bits == 1) || !two && h.bits != 8 || two && h.compression != 0) {
		return fmt.Errorf("a grey palette of %d colours is not supported for %d bits per pixel", colours, h.bits)
	}
	return nil
}

// bmpFields lists the supported masks of red, green, blue and alpha, and the functions that read a
// pixel.
var bmpFields = []struct {
	bits  int
	masks [4]uint32
	read  func(p []byte) (r, g, b uint8)
}{
	{32, [4]uint32{0xff0000, 0xff00, 0xff, 0}, bmpBGR},
	{32, [4]uint32{0xff000000, 0xff0000, 0xff00, 0}, bmpXBGR},
	{32, [4]uint32{0xff000000, 0xff00, 0xff, 0}, bmpBGXR},
	{32, [4]uint32{0xff000000, 0xff0000, 0xff00, 0xff}, bmpXBGR},
	{32, [4]uint32{0xff, 0xff00, 0xff0000, 0xff000000}, func(p []byte) (r, g, b uint8) { return p[0], p[1], p[2] }},
	{32, [4]uint32{0xff0000, 0xff00, 0xff, 0xff000000}, bmpBGR},
	{32, [4]uint32{0xff000000, 0xff00, 0xff, 0xff0000}, bmpBGXR},
	{32, [4]uint32{}, bmpBGR},
	{24, [4]uint32{0xff0000, 0xff00, 0xff}, bmpBGR},
	{16, [4]uint32{0xf800, 0x7e0, 0x1f}, func(p []byte) (r, g, b uint8) {
		v := int(binary.LittleEndian.Uint16(p))
		return uint8(v >> 11 * 255 / 31), uint8(v >> 5 & 63 * 255 / 63), uint8(v & 31 * 255 / 31)
	}},
	{16, [4]uint32{0x7c00, 0x3e0, 0x1f}, bmp555},
}

func bmpBGR(p []byte) (r, g, b uint8)  { return p[2], p[1], p[0] }
func bmpXBGR(p []byte) (r, g, b uint8) { return p[3], p[2], p[1] }
func bmpBGXR(p []byte) (r, g, b uint8) { return p[3], p[1], p[0] }

func bmp555(p []byte) (r, g, b uint8) {
	v := int(binary.LittleEndian.Uint16(p))
	return uint8(v >> 10 & 31 * 255 / 31), uint8(v >> 5 & 31 * 255 / 31), uint8(v & 31 * 255 / 31)
}

// decodeBMP decodes a BMP file.
func decodeBMP(file []byte) (*RGB, error) {
	h, err := readBMP(file)
	if err != nil {
		return nil, err
	}
	m := newRGB(h.width, h.height)
	data, stride, bits := file[h.offset:], (h.width*h.bits+31)/32*4, h.bits
	if h.compression == 1 || h.compression == 2 {
		if data, err = h.runs(file); err != nil {
			return nil, err
		}
		stride, bits = h.width, 8
	}
	if need := (h.height-1)*stride + (h.width*bits+7)/8; len(data) < need {
		return nil, io.ErrUnexpectedEOF
	}
	read := bmpBGR
	switch {
	case h.compression == 3:
		masks := h.masks
		if h.bits != 32 {
			masks[3] = 0
		}
		read = nil
		for _, f := range bmpFields {
			if f.bits == h.bits && f.masks == masks {
				read = f.read
			}
		}
		if read == nil {
			return nil, fmt.Errorf("bit fields %#x of %d bits are not supported", h.masks, h.bits)
		}
	case h.bits == 16:
		read = bmp555
	}
	u := newUnpacker(bits, 1)
	u.setPalette(h.palette, !h.levels)
	for y := range h.height {
		row := data[y*stride:]
		to := h.height - 1 - y
		if h.topDown {
			to = y
		}
		dst := m.Pix[3*to*h.width:][:3*h.width]
		if h.bits <= 8 {
			u.unpack(dst, row, h.width, 1)
			continue
		}
		for x := range h.width {
			dst[3*x], dst[3*x+1], dst[3*x+2] = read(row[x*h.bits/8:])
		}
	}
	return m, nil
}

// runs expands the run-length codes of a BMP file to one byte per pixel. It follows the rules of
// Pillow where a file breaks those of the format.
func (h *bmpHeader) runs(file []byte) ([]byte, error) {
	total := h.width * h.height
	out := make([]byte, 0, total+256)
	four := h.compression == 2
	x := 0
	for at := h.offset; len(out) < total && at+2 <= len(file); {
		n, b := int(file[at]), file[at+1]
		at += 2
		switch {
		case n > 0: // a run
			n = max(0, min(n, h.width-x))
			for i := range n {
				v := b
				if four && i%2 == 0 {
					v = b >> 4
				} else if four {
					v = b & 15
				}
				out = append(out, v)
			}
			x += n
		case b == 0: // end of the row
			for len(out)%h.width != 0 {
				out = append(out, 0)
			}
			x = 0
		case b == 1: // end of the image
			at = len(file)
		case b == 2: // a step to the right and up
			if at+2 > len(file) {
				at = len(file)
				break
			}
			skip := min(total-len(out), int(file[at])+int(file[at+1])*h.width)
			out = append(out, make([]byte, skip)...)
			x = len(out) % h.width
			at += 2
		default: // single pixels
			n = min(total-len(out), int(b))
			size := n
			if four {
				size = (n + 1) / 2
			}
			data := file[at:min(at+size, len(file))]
			at += size
			for i, v := range data {
				if !four {
					out = append(out, v)
					continue
				}
				if out = append(out, v>>4); 2*i+1 < n {
					out = append(out, v&15)
				}
			}
			x += int(b)
			at += at % 2
		}
	}
	if len(out) < total {
		return nil, errors.New("the run-length codes end before the last pixel")
	}
	return out, nil
}
