package dataset

import (
	"image"
	"image/color"
)

// toRGB converts the result of a decoder, with the formulas of Pillow's convert("RGB").
func toRGB(m image.Image) *RGB {
	if m, ok := m.(*image.YCbCr); ok {
		return jpegToRGB(m)
	}
	w, h := m.Bounds().Dx(), m.Bounds().Dy()
	out := newRGB(w, h)
	switch m := m.(type) {
	case *image.Gray:
		for y := range h {
			row := out.Pix[3*y*w : 3*(y+1)*w]
			for x, v := range m.Pix[y*m.Stride : y*m.Stride+w] {
				row[3*x], row[3*x+1], row[3*x+2] = v, v, v
			}
		}
	case *image.Gray16:
		for y := range h {
			row := out.Pix[3*y*w : 3*(y+1)*w]
			for x := range w {
				v := m.Pix[y*m.Stride+2*x] // the high byte: samples are big-endian
				row[3*x], row[3*x+1], row[3*x+2] = v, v, v
			}
		}
	case *image.NRGBA:
		for y := range h {
			copyChannels(out.Pix[3*y*w:3*(y+1)*w], m.Pix[y*m.Stride:], 4, 1)
		}
	case *image.NRGBA64:
		for y := range h {
			copyChannels(out.Pix[3*y*w:3*(y+1)*w], m.Pix[y*m.Stride:], 8, 2)
		}
	case *image.CMYK:
		for y := range h {
			row := out.Pix[3*y*w : 3*(y+1)*w]
			for x := range w {
				p := m.Pix[y*m.Stride+4*x:][:4]
				for c := range 3 {
					row[3*x+c] = inkToLight(p[c], p[3])
				}
			}
		}
	case *image.Paletted:
		palette := make([][3]uint8, 256) // as in Pillow, an index beyond the palette is black
		for i, c := range m.Palette {
			palette[i] = withoutAlpha(c)
		}
		for y := range h {
			row := out.Pix[3*y*w : 3*(y+1)*w]
			for x, i := range m.Pix[y*m.Stride : y*m.Stride+w] {
				copy(row[3*x:3*x+3], palette[i][:])
			}
		}
	case *image.RGBA:
		if m.Opaque() {
			for y := range h {
				copyChannels(out.Pix[3*y*w:3*(y+1)*w], m.Pix[y*m.Stride:], 4, 1)
			}
			break
		}
		anyToRGB(out, m)
	default:
		anyToRGB(out, m)
	}
	return out
}

// copyChannels copies three channels of every pixel. In src, pixels are pixel bytes apart and
// channels are channel bytes apart.
func copyChannels(dst, src []uint8, pixel, channel int) {
	for i, j := 0, 0; i < len(dst); i, j = i+3, j+pixel {
		dst[i], dst[i+1], dst[i+2] = src[j], src[j+channel], src[j+2*channel]
	}
}

// anyToRGB converts images of rare kinds, such as premultiplied TIFF, slowly.
func anyToRGB(out *RGB, m image.Image) {
	b := m.Bounds()
	i := 0
	for y := b.Min.Y; y < b.Max.Y; y++ {
		for x := b.Min.X; x < b.Max.X; x++ {
			p := withoutAlpha(m.At(x, y))
			copy(out.Pix[i:i+3], p[:])
			i += 3
		}
	}
}

// withoutAlpha returns red, green and blue without premultiplied alpha.
func withoutAlpha(c color.Color) [3]uint8 {
	if c, ok := c.(color.NRGBA64); ok { // NRGBAModel would round through premultiplied values
		return [3]uint8{uint8(c.R >> 8), uint8(c.G >> 8), uint8(c.B >> 8)}
	}
	n := color.NRGBAModel.Convert(c).(color.NRGBA)
	return [3]uint8{n.R, n.G, n.B}
}

// inkToLight converts one channel of CMYK as Pillow does: (1 - k) - c·(1 - k).
func inkToLight(ink, black uint8) uint8 {
	white := 255 - int(black)
	product := int(ink)*white + 128
	product = (product>>8 + product) >> 8 // divides by 255 and rounds
	return uint8(white - product)         // is never negative: product ≤ white
}
