package dataset

import (
	"bytes"
	"encoding/binary"

	"github.com/bep/imagemeta"
)

// orientation returns the EXIF orientation of an image file, 1 to 8. It returns 1 if the file has
// no orientation or if the metadata are broken, because the image can still be used.
func orientation(formatName string, data []byte) int {
	var f imagemeta.ImageFormat
	switch formatName {
	case "jpeg":
		f = imagemeta.JPEG
	case "png":
		f = imagemeta.PNG
	case "webp":
		// imagemeta ignores the padding of chunks with odd length and does not find the chunks
		// after them.
		f, data = imagemeta.TIFF, webpEXIF(data)
	case "tiff":
		f = imagemeta.TIFF
	default:
		return 1
	}
	value := 1
	_, err := imagemeta.Decode(imagemeta.Options{
		R:           bytes.NewReader(data),
		ImageFormat: f,
		Sources:     imagemeta.EXIF,
		ShouldHandleTag: func(tag imagemeta.TagInfo) bool {
			return tag.Namespace == "IFD0" && tag.Tag == "Orientation"
		},
		HandleTag: func(tag imagemeta.TagInfo) error {
			switch v := tag.Value.(type) {
			case uint16:
				value = int(v)
			case uint32: // not in the standard, but Pillow accepts it
				value = int(v)
			}
			return imagemeta.ErrStopWalking
		},
	})
	if err != nil || value < 1 || value > 8 {
		return 1
	}
	return value
}

// webpEXIF returns the EXIF chunk of a WebP file, or nil if there is none. The chunk has the format
// of a TIFF file.
func webpEXIF(data []byte) []byte {
	for at := 12; at+8 <= len(data); { // after "RIFF", a length and "WEBP"
		kind, size := string(data[at:at+4]), uint64(binary.LittleEndian.Uint32(data[at+4:]))
		at += 8
		if size > uint64(len(data)-at) {
			return nil
		}
		if kind == "EXIF" {
			return bytes.TrimPrefix(data[at:at+int(size)], []byte("Exif\x00\x00"))
		}
		at += int(size + size%2)
	}
	return nil
}

// orient returns a stored image in its upright orientation. The EXIF value is the position of the
// stored row 0 and column 0 in the upright image:
//
//	1  row 0 at the top, column 0 at the left
//	2  row 0 at the top, column 0 at the right
//	3  row 0 at the bottom, column 0 at the right
//	4  row 0 at the bottom, column 0 at the left
//	5  row 0 at the left, column 0 at the top
//	6  row 0 at the right, column 0 at the top
//	7  row 0 at the right, column 0 at the bottom
//	8  row 0 at the left, column 0 at the bottom
func orient(m *RGB, value int) *RGB {
	if value <= 1 || value > 8 {
		return m
	}
	w, h := m.Width, m.Height
	out := &RGB{Width: w, Height: h, Pix: make([]uint8, len(m.Pix))}
	if value >= 5 {
		out.Width, out.Height = h, w
	}
	i := 0
	for y := range h {
		for x := range w {
			var tx, ty int
			switch value {
			case 2:
				tx, ty = w-1-x, y
			case 3:
				tx, ty = w-1-x, h-1-y
			case 4:
				tx, ty = x, h-1-y
			case 5:
				tx, ty = y, x
			case 6:
				tx, ty = h-1-y, x
			case 7:
				tx, ty = h-1-y, w-1-x
			case 8:
				tx, ty = y, w-1-x
			}
			copy(out.Pix[3*(ty*out.Width+tx):][:3], m.Pix[i:i+3])
			i += 3
		}
	}
	return out
}
