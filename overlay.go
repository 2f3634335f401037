package spt

import (
	"image"
	"image/color"
	"math"
)

// The colours of a Saliency: dark blue for 0 and yellow for 1, the ends of cividis (Nuñez, Anderton
// and Renslow, PLOS ONE 13(7), 2018, on colour maps and colour vision deficiency). Lightness
// increases between them, so people with any colour vision can order the colours.
var (
	lowColour  = [3]float64{0, 32, 76}
	highColour = [3]float64{255, 234, 70}
)

// tint is the share of the colour of the Saliency in a pixel of an overlay. The grey of the image
// has the other share.
const tint = 0.55

// Overlay draws s over the image that Explain got, pixels [Size, Size, 3]. The result has the same
// size. It shows the image in shades of grey, tinted dark blue where s is 0 and yellow where s is
// 1. Between the centres of the cells, the values are interpolated linearly.
func (s *Saliency) Overlay(pixels []uint8) *image.RGBA {
	size := int(math.Sqrt(float64(len(pixels) / 3)))
	out := image.NewRGBA(image.Rect(0, 0, size, size))
	for y := range size {
		for x := range size {
			p := pixels[(y*size+x)*3:]
			grey := 0.299*float64(p[0]) + 0.587*float64(p[1]) + 0.114*float64(p[2]) // ITU-R BT.601
			v := s.at((float64(x)+0.5)/float64(size), (float64(y)+0.5)/float64(size))
			channel := func(i int) uint8 {
				return uint8(math.Round((1-tint)*grey + tint*(lowColour[i]*(1-v)+highColour[i]*v)))
			}
			out.SetRGBA(x, y, color.RGBA{channel(0), channel(1), channel(2), 255})
		}
	}
	return out
}

// at returns the value at a point of an image whose sides have length 1.
func (s *Saliency) at(x, y float64) float64 {
	// between returns the two cells around a coordinate, and the weight of the second cell.
	between := func(v float64) (i, j int, weight float64) {
		v = min(max(v*saliencySide-0.5, 0), saliencySide-1)
		i = int(v)
		return i, min(i+1, saliencySide-1), v - float64(i)
	}
	x0, x1, wx := between(x)
	y0, y1, wy := between(y)
	row := func(y int) float64 { return float64(s[y][x0])*(1-wx) + float64(s[y][x1])*wx }
	return row(y0)*(1-wy) + row(y1)*wy
}
