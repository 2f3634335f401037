package dataset

import (
	"bytes"
	"encoding/binary"

	"github.com/bep/imagemeta"
)

// orientation returns the EXIF orientation 1…8 of an image file. It is 1 if the file has none, or
// if the metadata are broken: the image can still be used.
func orientation(formatName string, data []byte) int {
	var f imagemeta.ImageFormat
	switch formatName {
	case "jpeg":
		f = imagemeta.JPEG
	case "png":
		f = imagemeta.PNG
	case "webp":
		// imagemeta ignores the padding of chunks of odd length and misses the chunks after them.
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
			case uint32: // against the standard, but Pillow accepts it
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

// webpEXIF returns the EXIF chunk of a WebP file, which has the form of a TIFF file, nil if there
// is none.
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

// orient turns a stored image upright. The EXIF value says where the stored row 0 and column 0
// belong: 1 top left, 2 top right, 3 bottom right, 4 bottom left; with rows and columns exchanged 5
// left top, 6 right top, 7 right bottom, 8 left bottom.
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
