package dataset

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"image"
	"image/gif"
	"image/jpeg"
	"image/png"
	"io"
	"slices"

	"golang.org/x/image/bmp"
	"golang.org/x/image/tiff"
	"golang.org/x/image/webp"
)

// maxPixels limits the width × height of an image. Pillow refuses larger images as decompression
// bombs. The header gives the size, so the limit is checked before any memory for pixels is
// allocated.
const maxPixels = 178_956_970

// maxEncodedBytes limits the size of an image file. An uncompressed image of maxPixels with 32 bits
// per pixel fits.
const maxEncodedBytes = 1 << 30

// RGB is an image with three channels of 8 bits and no alpha.
type RGB struct {
	// Width and Height are the size of the image in pixels.
	Width, Height int

	// Pix holds the pixels, [Height, Width, 3], in row-major order. The channels are red, green and
	// blue.
	Pix []uint8
}

// newRGB returns a black image.
func newRGB(width, height int) *RGB {
	return &RGB{Width: width, Height: height, Pix: make([]uint8, 3*width*height)}
}

// check returns an error if the image has no pixels, or if the length of Pix does not fit the size.
func (m *RGB) check() error {
	if m.Width <= 0 || m.Height <= 0 {
		return fmt.Errorf("image of %d×%d pixels has no area: width and height must be 1 or more", m.Width, m.Height)
	}
	if len(m.Pix) != 3*m.Width*m.Height {
		return fmt.Errorf("image of %d×%d pixels needs %d bytes of RGB, found %d", m.Width, m.Height, 3*m.Width*m.Height, len(m.Pix))
	}
	return nil
}

// format describes one image file format.
type format struct {
	name   string
	magic  []string // possible first bytes of a file; "?" matches any byte
	config func(io.Reader) (image.Config, error)
	decode func([]byte) (*RGB, error)
}

// formats lists the supported formats.
var formats = []format{
	{"jpeg", []string{"\xff\xd8"}, jpeg.DecodeConfig, standard(jpeg.Decode)},
	{"png", []string{"\x89PNG\r\n\x1a\n"}, png.DecodeConfig, standard(png.Decode)},
	{"gif", []string{"GIF87a", "GIF89a"}, gif.DecodeConfig, decodeGIF},
	{"webp", []string{"RIFF????WEBPVP8"}, webp.DecodeConfig, decodeWebP},
	{"bmp", []string{"BM????\x00\x00\x00\x00"}, bmp.DecodeConfig, standard(bmp.Decode)},
	{"tiff", []string{"II\x2a\x00", "MM\x00\x2a"}, tiff.DecodeConfig, decodeTIFF},
	{"pnm", []string{"P5", "P6"}, pnmConfig, decodePNM},
}

// standard returns a format.decode function for a decoder that returns an image.Image with its
// origin at (0, 0).
func standard(decode func(io.Reader) (image.Image, error)) func([]byte) (*RGB, error) {
	return func(data []byte) (*RGB, error) {
		m, err := decode(bytes.NewReader(data))
		if err != nil {
			return nil, err
		}
		return toRGB(m), nil
	}
}

// sniff returns the format of an image file. The first bytes of the file tell the format.
func sniff(data []byte) (format, error) {
	for _, f := range formats {
		for _, magic := range f.magic {
			if matches(data, magic) {
				return f, nil
			}
		}
	}
	if len(data) == 0 {
		return format{}, errors.New("the file is empty")
	}
	return format{}, fmt.Errorf("the file begins with the bytes % x, which is none of JPEG, PNG, GIF, WebP, BMP, TIFF, binary PGM and PPM: convert it to one of these formats", data[:min(8, len(data))])
}

// matches reports whether data begins with magic.
func matches(data []byte, magic string) bool {
	if len(data) < len(magic) {
		return false
	}
	for i := range len(magic) {
		if magic[i] != '?' && data[i] != magic[i] {
			return false
		}
	}
	return true
}

// decodeImage decodes an image file of any supported format: JPEG (grey, YCbCr, RGB, CMYK, YCCK),
// PNG, GIF (the first frame), WebP (still images), BMP, TIFF, and binary PGM and PPM. The content
// tells the format; the name of the file has no effect.
//
// The pixels equal the result of Pillow's convert("RGB"): palette indices become colours, grey is
// copied to three channels, and alpha is dropped without blending. Two things differ from Pillow on
// purpose. First, 16-bit channels keep their high byte. Pillow would clip grey 16-bit images at
// 255, so they would be nearly white. Second, decodeImage applies the EXIF orientation of the file.
//
// Lossless formats and WebP give exactly the pixels of Pillow. JPEG pixels may differ by one or two
// levels, because image/jpeg rounds its inverse DCT differently from libjpeg-turbo.
//
// decodeImage returns an error for an image of more than maxPixels before it allocates the pixels.
// It also returns an error if a decoder panics on a broken file.
func decodeImage(data []byte) (m *RGB, err error) {
	f, err := sniff(data)
	if err != nil {
		return nil, err
	}
	defer func() {
		if p := recover(); p != nil {
			m, err = nil, fmt.Errorf("broken %s: the decoder failed with %q", f.name, fmt.Sprint(p))
		}
	}()
	config, err := f.config(bytes.NewReader(data))
	if err != nil {
		return nil, fmt.Errorf("reading the %s header: %w", f.name, err)
	}
	if config.Width <= 0 || config.Height <= 0 {
		return nil, fmt.Errorf("the %s header has a size of %d×%d pixels: width and height must be 1 or more", f.name, config.Width, config.Height)
	}
	if config.Width > maxPixels/config.Height {
		return nil, fmt.Errorf("%s of %d×%d pixels: more than the limit of %d pixels", f.name, config.Width, config.Height, maxPixels)
	}
	m, err = f.decode(data)
	if err != nil {
		// Some decoders return a bare io.EOF for a file that ends early. The message says more.
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			return nil, fmt.Errorf("%s is truncated after %d bytes: %w", f.name, len(data), io.ErrUnexpectedEOF)
		}
		return nil, fmt.Errorf("broken %s: %w", f.name, err)
	}
	return orient(m, orientation(f.name, data)), nil
}

// decodeGIF draws the first frame on the logical screen. Pixels outside the frame get the first
// colour of the palette, as in Pillow.
func decodeGIF(data []byte) (*RGB, error) {
	config, err := gif.DecodeConfig(bytes.NewReader(data))
	if err != nil {
		return nil, err
	}
	frame, err := gif.Decode(bytes.NewReader(opaqueGIF(data)))
	if err != nil {
		return nil, err
	}
	at := frame.Bounds().Min
	part := toRGB(frame)
	if part.Width == config.Width && part.Height == config.Height {
		return part, nil
	}
	m := newRGB(config.Width, config.Height)
	if p, ok := frame.(*image.Paletted); ok && len(p.Palette) > 0 {
		first := withoutAlpha(p.Palette[0])
		for i := range m.Pix {
			m.Pix[i] = first[i%3]
		}
	}
	for y := range part.Height {
		copy(m.Pix[3*((at.Y+y)*m.Width+at.X):], part.Pix[3*y*part.Width:3*(y+1)*part.Width])
	}
	return m, nil
}

// opaqueGIF returns data without the transparency flag of the first frame. With the flag, image/gif
// would make the transparent colour black. Pillow drops the transparency and keeps the colour.
func opaqueGIF(data []byte) []byte {
	at := 13 // size of the header and the screen descriptor
	if len(data) > at && data[10]&0x80 != 0 {
		at += 3 << (data[10]&7 + 1) // size of the global colour table
	}
	// Extensions precede the frame. Each has a label and a list of blocks, which ends with an empty
	// block.
	for at+3 < len(data) && data[at] == '!' {
		if control := at + 3; data[at+1] == 0xf9 && data[control]&1 != 0 {
			data = slices.Clone(data)
			data[control] &^= 1
		}
		for at += 2; at < len(data) && data[at] != 0; at += 1 + int(data[at]) {
		}
		at++
	}
	return data
}

// decodeTIFF decodes a TIFF file and corrects the colours of faxes. x/image/tiff inverts images in
// Group 3 and Group 4 compression if the file declares that 0 is black; libtiff does not invert
// them.
func decodeTIFF(data []byte) (*RGB, error) {
	m, err := standard(tiff.Decode)(data)
	if err != nil {
		return nil, err
	}
	const compression, photometric = 259, 262
	if c := tiffNumber(data, compression); (c == 3 || c == 4) && tiffNumber(data, photometric) == 1 {
		for i := range m.Pix {
			m.Pix[i] = 255 - m.Pix[i]
		}
	}
	return m, nil
}

// tiffNumber returns the 16-bit value of a tag in the first directory of a TIFF file, or -1 if the
// tag is missing.
func tiffNumber(data []byte, tag uint16) int {
	var order binary.ByteOrder = binary.LittleEndian
	if data[0] == 'M' {
		order = binary.BigEndian
	}
	at := uint64(order.Uint32(data[4:])) // in range: the file has been decoded
	for n := order.Uint16(data[at:]); n > 0; n-- {
		entry := data[at+2:][:12] // tag, type, count, value
		if order.Uint16(entry) == tag {
			return int(order.Uint16(entry[8:]))
		}
		at += 12
	}
	return -1
}

// decodeWebP decodes a WebP file. The YCbCr values of WebP are BT.601 in the studio range 16…235,
// but image.YCbCr assumes the full range of JPEG. Lossy images therefore need their own conversion
// to RGB.
func decodeWebP(data []byte) (*RGB, error) {
	m, err := webp.Decode(bytes.NewReader(data))
	if err != nil {
		return nil, err
	}
	switch m := m.(type) {
	case *image.YCbCr:
		return webpToRGB(m), nil
	case *image.NYCbCrA:
		return webpToRGB(&m.YCbCr), nil
	}
	return toRGB(m), nil
}
