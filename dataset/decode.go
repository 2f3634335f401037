package dataset

import (
	"errors"
	"fmt"
	"io"

	"github.com/sptune/spt/internal/jpeg"
)

// maxPixels limits the width × height of an image. Pillow refuses larger images as decompression
// bombs. The header gives the size, so the limit is checked before any memory for pixels is
// allocated.
const maxPixels = 178_956_970

// maxEdge limits the width and the height of an image. It bounds the memory of a row of pixels.
const maxEdge = 1 << 20

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
	size   func([]byte) (width, height int, err error)
	decode func([]byte) (*RGB, error)
	deep   func([]byte) bool // whether a channel has 16 bits; nil: never

	// reduce decodes the image with the width and the height divided by 2, 4 or 8 and rounded up.
	// Nil: the format does not allow it.
	reduce func(data []byte, denominator int) (*RGB, error)
}

// formats lists the supported formats.
var formats = []format{
	{"jpeg", []string{"\xff\xd8\xff"}, jpeg.Size, decodeJPEG, nil, reduceJPEG},
	{"png", []string{pngSignature}, pngSize, decodePNG, deepPNG, nil},
	{"gif", []string{"GIF87a", "GIF89a"}, gifSize, decodeGIF, nil, nil},
	{"webp", []string{"RIFF????WEBPVP8"}, webpSize, decodeWebP, nil, nil},
	{"bmp", []string{"BM"}, bmpSize, decodeBMP, nil, nil},
	{"tiff", []string{"II\x2a\x00", "MM\x00\x2a", "II\x2b\x00", "MM\x00\x2b"}, tiffSize, decodeTIFF, deepTIFF, nil},
	{"pnm", []string{"P5", "P6"}, pnmSize, decodePNM, nil, nil},
}

// decodeImage decodes an image file of any supported format: JPEG, PNG, GIF and WebP (of an
// animation the first frame), BMP, TIFF (the first page), and binary PGM and PPM. The content tells
// the format; the name of the file has no effect.
//
// The pixels equal the result of Pillow's convert("RGB"): palette indices become colours, grey is
// copied to three channels, and alpha is dropped without blending. A file that ends before its last
// pixel is an error. Two things differ from Pillow on purpose. First, grey channels of 16 bits keep
// their high byte, as all channels of 16 bits do in Pillow's RGB, in torchvision's to_dtype and in
// OpenCV's PNG reader. Pillow clips them at 255 instead, so they are nearly white. Second,
// decodeImage applies the orientation that EXIF or XMP states. ICC profiles are not applied, as by
// convert, torchvision and timm.
//
// Some damaged and rare files are an error, although Pillow reads pixels from them: other pixels
// than the file holds, or pixels that decoders do not agree on. Some damaged files are read that
// Pillow refuses, because their pixels are sound.
//
// decodeImage returns an error for an image of more than maxPixels before it allocates the pixels.
// It allocates at most 16 bytes for each pixel, and a constant. It also returns an error if a
// decoder panics on a broken file.
func decodeImage(data []byte) (*RGB, error) {
	m, _, err := decodeReduced(data, 0)
	return m, err
}

// decodeReduced decodes an image that is then resized to a shorter side of short pixels. If the
// image is much larger and its format allows it, the result is the image at a half, a quarter or an
// eighth of its size, which takes less time; see [format.denominator]. The frame is the part of the
// result that shows the image. With a short of 0, the result is that of [decodeImage].
func decodeReduced(data []byte, short int) (m *RGB, part frame, err error) {
	f, err := sniff(data)
	if err != nil {
		return nil, frame{}, err
	}
	defer func() {
		if p := recover(); p != nil {
			m, err = nil, fmt.Errorf("broken %s: the decoder failed with %q", f.name, fmt.Sprint(p))
		}
	}()
	width, height, err := f.size(data)
	if err != nil {
		return nil, frame{}, decodeError(f, data, err)
	}
	if err := checkSize(f.name, width, height); err != nil {
		return nil, frame{}, err
	}
	d := f.denominator(width, height, short)
	if d > 1 {
		m, err = f.reduce(data, d)
	} else {
		m, err = f.decode(data)
	}
	if err != nil {
		return nil, frame{}, decodeError(f, data, err)
	}
	if d == 1 { // some decoders find a size that differs from the header
		width, height = m.Width, m.Height
	}
	part = frame{0, 0, float64(width) / float64(d), float64(height) / float64(d)}
	o := orientation(f.name, data)
	return orient(m, o), part.orient(o, m.Width, m.Height), nil
}

// checkSize returns an error for an image of the named format without area, or with more pixels
// than the limits.
func checkSize(name string, width, height int) error {
	switch {
	case width <= 0 || height <= 0:
		return fmt.Errorf("the %s header has a size of %d×%d pixels: width and height must be 1 or more", name, width, height)
	case width > maxPixels/height:
		return fmt.Errorf("%s of %d×%d pixels: more than the limit of %d pixels", name, width, height, maxPixels)
	case width > maxEdge || height > maxEdge:
		return fmt.Errorf("%s of %d×%d pixels: width and height must be at most %d pixels", name, width, height, maxEdge)
	}
	return nil
}

// dimensions returns the width and the height, in pixels, that the header of a file states. It
// returns an error if the decoder panics on a broken header.
func (f format) dimensions(data []byte) (width, height int, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("broken %s: the decoder failed with %q", f.name, fmt.Sprint(p))
		}
	}()
	return f.size(data)
}

// decodeError adds the format to an error of a decoder. Some decoders return a bare io.EOF for a
// file that ends early; the message says more.
func decodeError(f format, data []byte, err error) error {
	if foreign := (*foreignError)(nil); errors.As(err, &foreign) {
		return err
	}
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return fmt.Errorf("%s is truncated after %d bytes: %w", f.name, len(data), io.ErrUnexpectedEOF)
	}
	return fmt.Errorf("broken %s: %w", f.name, err)
}
