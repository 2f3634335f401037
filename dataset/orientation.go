package dataset

import (
	"bytes"

	"github.com/bep/imagemeta"
)

// orientation returns the EXIF orientation 1…8 of an image file, 1 where it has none or where its metadata are broken:
// a picture is worth more than its metadata.
func orientation(formatName string, data []byte) int {
	var f imagemeta.ImageFormat
	switch formatName {
	case "jpeg":
		f = imagemeta.JPEG
	case "png":
		f = imagemeta.PNG
	case "webp":
		f = imagemeta.WebP
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
			if v, ok := tag.Value.(uint16); ok && v >= 1 && v <= 8 {
				value = int(v)
			}
			return imagemeta.ErrStopWalking
		},
	})
	if err != nil {
		return 1
	}
	return value
}

// orient turns the stored image into the upright one. The EXIF value says where the stored row 0 and column 0 belong:
// 1 top-left, 2 top-right, 3 bottom-right, 4 bottom-left, and with rows and columns exchanged 5 left-top, 6 right-top,
// 7 right-bottom, 8 left-bottom.
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
