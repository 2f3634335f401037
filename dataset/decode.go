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
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/image/bmp"
	"golang.org/x/image/tiff"
	"golang.org/x/image/webp"
)

// MaxPixels is the largest image (width × height) that Decode accepts. It is the number at which Pillow refuses an image
// as a decompression bomb. The size is read from the header before any pixel memory is allocated.
const MaxPixels = 178_956_970

// maxEncodedBytes bounds what Decode reads from a stream; an uncompressed 32-bit image of MaxPixels fits.
const maxEncodedBytes = 1 << 30

// RGB is an 8-bit image without alpha.
type RGB struct {
	Width, Height int     // in pixels
	Pix           []uint8 // [Height, Width, 3], row-major, red green blue
}

// newRGB returns a black image.
func newRGB(width, height int) *RGB {
	return &RGB{Width: width, Height: height, Pix: make([]uint8, 3*width*height)}
}

// check tells whether the image has pixels, and as many as its size says.
func (m *RGB) check() error {
	if m.Width <= 0 || m.Height <= 0 {
		return fmt.Errorf("image of %d×%d pixels has no area", m.Width, m.Height)
	}
	if len(m.Pix) != 3*m.Width*m.Height {
		return fmt.Errorf("image of %d×%d pixels needs %d bytes of RGB, found %d", m.Width, m.Height, 3*m.Width*m.Height, len(m.Pix))
	}
	return nil
}

// format is one image file format: how to know it and how to read it.
type format struct {
	name   string
	magic  []string // what the file may begin with; "?" stands for any byte
	config func(io.Reader) (image.Config, error)
	decode func([]byte) (*RGB, error)
}

var formats = []format{
	{"jpeg", []string{"\xff\xd8"}, jpeg.DecodeConfig, standard(jpeg.Decode)},
	{"png", []string{"\x89PNG\r\n\x1a\n"}, png.DecodeConfig, standard(png.Decode)},
	{"gif", []string{"GIF87a", "GIF89a"}, gif.DecodeConfig, decodeGIF},
	{"webp", []string{"RIFF????WEBPVP8"}, webp.DecodeConfig, decodeWebP},
	{"bmp", []string{"BM????\x00\x00\x00\x00"}, bmp.DecodeConfig, standard(bmp.Decode)},
	{"tiff", []string{"II\x2a\x00", "MM\x00\x2a"}, tiff.DecodeConfig, decodeTIFF},
	{"pnm", []string{"P5", "P6"}, pnmConfig, decodePNM},
}

// standard adapts a decoder that returns an image.Image with its origin at (0, 0).
func standard(decode func(io.Reader) (image.Image, error)) func([]byte) (*RGB, error) {
	return func(data []byte) (*RGB, error) {
		m, err := decode(bytes.NewReader(data))
		if err != nil {
			return nil, err
		}
		return toRGB(m), nil
	}
}

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
	return format{}, fmt.Errorf("the file begins with % x, which is none of JPEG, PNG, GIF, WebP, BMP, TIFF, binary PGM/PPM", data[:min(8, len(data))])
}

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

// Decode reads one image, whatever its format: JPEG (grey, YCbCr, RGB, CMYK, YCCK), PNG, GIF (its first frame), WebP
// (still images), BMP, TIFF, and binary PGM and PPM. The format is told by the content, not by a name.
//
// The pixels are those of Pillow's convert("RGB"): palettes are looked up, grey is copied to three channels, alpha is
// dropped without blending. Two things differ from a bare Pillow load on purpose. 16-bit channels keep their high byte, also
// in grey images, which Pillow would clip at 255 to nearly white. And EXIF orientation, where the file has one, is applied.
//
// Lossless formats and WebP give Pillow's pixels exactly. JPEG may be one or two levels off here and there, because
// image/jpeg rounds its inverse DCT differently from libjpeg-turbo.
//
// Images of more than MaxPixels are refused before they are allocated. A decoder that panics on a broken file is an error here.
func Decode(r io.Reader) (*RGB, error) {
	data, err := io.ReadAll(io.LimitReader(r, maxEncodedBytes+1))
	if err != nil {
		return nil, fmt.Errorf("reading image: %w", err)
	}
	if len(data) > maxEncodedBytes {
		return nil, fmt.Errorf("image file is larger than %d bytes: refused", maxEncodedBytes)
	}
	return decodeBytes(data)
}

// DecodeFile is Decode on a regular file. Its errors name the file and are *ImageErrors.
func DecodeFile(path string) (*RGB, error) { return Sample{Path: path}.decode() }

// readImageFile reads a regular file of bounded size.
func readImageFile(path string) ([]byte, error) {
	info, err := findFile(path)
	if err != nil {
		return nil, err
	}
	size := info.Size()
	if size > maxEncodedBytes {
		return nil, fmt.Errorf("image %s has %d bytes: more than the limit of %d", path, size, maxEncodedBytes)
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("opening image: %w", err)
	}
	defer f.Close()
	// One allocation of the right size; io.ReadAll would grow its way there.
	data := make([]byte, size)
	if _, err := io.ReadFull(f, data); err != nil {
		return nil, fmt.Errorf("reading image %s: %w", path, err)
	}
	return data, nil
}

func decodeBytes(data []byte) (m *RGB, err error) {
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
		return nil, fmt.Errorf("%s header says %d×%d pixels", f.name, config.Width, config.Height)
	}
	if config.Width > MaxPixels/config.Height {
		return nil, fmt.Errorf("%s of %d×%d pixels: more than the limit of %d pixels", f.name, config.Width, config.Height, MaxPixels)
	}
	m, err = f.decode(data)
	if err != nil {
		// A stream that ends early is io.EOF to some decoders, which would say nothing to a reader of the message.
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			return nil, fmt.Errorf("%s is truncated after %d bytes: %w", f.name, len(data), io.ErrUnexpectedEOF)
		}
		return nil, fmt.Errorf("broken %s: %w", f.name, err)
	}
	return orient(m, orientation(f.name, data)), nil
}

// decodeGIF draws the first frame on the logical screen. What the frame leaves uncovered has the palette's first colour, as
// in Pillow.
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

// opaqueGIF is the data with no transparent colour in the first frame, in whose place image/gif would put black: Pillow drops
// transparency and keeps the colour.
func opaqueGIF(data []byte) []byte {
	at := 13 // header and screen
	if len(data) > at && data[10]&0x80 != 0 {
		at += 3 << (data[10]&7 + 1) // the colours of all frames
	}
	for at+3 < len(data) && data[at] == '!' { // extensions before the frame: kind, then blocks up to an empty one
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

// decodeTIFF undoes one thing: x/image/tiff takes the bits of Group 3 and Group 4 faxes for white on black if the file says
// that 0 is black, where libtiff's writers and readers do not let that change them.
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

// tiffNumber is a short number in a TIFF's first directory; -1 if it is not there.
func tiffNumber(data []byte, tag uint16) int {
	var order binary.ByteOrder = binary.LittleEndian
	if data[0] == 'M' {
		order = binary.BigEndian
	}
	at := uint64(order.Uint32(data[4:])) // decoded, so it is there
	for n := order.Uint16(data[at:]); n > 0; n-- {
		entry := data[at+2:][:12] // tag, type, count, value
		if order.Uint16(entry) == tag {
			return int(order.Uint16(entry[8:]))
		}
		at += 12
	}
	return -1
}

// decodeWebP differs from standard in one thing: WebP's YCbCr is BT.601 with the studio range 16…235, where image.YCbCr
// means JPEG's full range.
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

// imageExtensions are those that torchvision's ImageFolder takes for images, and .gif, .pnm and .jfif, another
// name of JPEG files, which it leaves out.
var imageExtensions = []string{".jpg", ".jpeg", ".png", ".gif", ".webp", ".bmp", ".tif", ".tiff", ".pgm", ".ppm", ".pnm", ".jfif"}

// IsImageName tells an image file by its extension, in either case. Hidden files are never images: macOS leaves "._x.jpg"
// beside "x.jpg" on foreign file systems.
func IsImageName(path string) bool {
	name := filepath.Base(path)
	return !strings.HasPrefix(name, ".") && slices.Contains(imageExtensions, strings.ToLower(filepath.Ext(name)))
}
