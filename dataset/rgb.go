package dataset

import (
	"image"
	"image/color"
)

// toRGB converts the result of a decoder to RGB. It uses the formulas of Pillow's convert("RGB").
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
		palette := make([][3]uint8, 256) // an index beyond the palette is black, as in Pillow
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

// copyChannels copies three channels of every pixel to dst. In src, pixel is the distance between
// pixels and channel the distance between channels, in bytes.
func copyChannels(dst, src []uint8, pixel, channel int) {
	for i, j := 0, 0; i < len(dst); i, j = i+3, j+pixel {
		dst[i], dst[i+1], dst[i+2] = src[j], src[j+channel], src[j+2*channel]
	}
}

// anyToRGB converts an image of any kind pixel by pixel. It is slow; toRGB uses it for rare kinds,
// such as TIFF with premultiplied alpha.
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

// withoutAlpha returns the red, green and blue of a colour, not premultiplied by alpha.
func withoutAlpha(c color.Color) [3]uint8 {
	// NRGBAModel would premultiply the values and lose precision.
	if c, ok := c.(color.NRGBA64); ok {
		return [3]uint8{uint8(c.R >> 8), uint8(c.G >> 8), uint8(c.B >> 8)}
	}
	n := color.NRGBAModel.Convert(c).(color.NRGBA)
	return [3]uint8{n.R, n.G, n.B}
}

// inkToLight converts one channel of CMYK to one channel of RGB as Pillow does: (1 - black) -
// ink·(1 - black), with 255 for 1.
func inkToLight(ink, black uint8) uint8 {
	white := 255 - int(black)
	product := int(ink)*white + 128
	product = (product>>8 + product) >> 8 // divides by 255 and rounds
	return uint8(white - product)         // never negative, because product ≤ white
}
