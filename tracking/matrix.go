package tracking

import (
	"bytes"
	"fmt"
	"image"
	"image/color"
	"image/draw"
	"image/png"
	"math"

	"golang.org/x/image/font"
	"golang.org/x/image/font/basicfont"
	"golang.org/x/image/math/fixed"

	"github.com/sptune/spt/evaluate"
)

// namedClasses is the largest number of classes whose names are drawn.
const namedClasses = 100

// maxClasses limits the side of the drawing, in cells.
const maxClasses = 4096

// drawMatrix returns a drawing of a confusion matrix as PNG: a row for each target, a column for
// each predicted class. The darkness of a cell is its share of the images in the row, from white to
// dark blue. Up to 100 classes have their names beside the rows and their numbers above the
// columns. There is no drawing, and no error, for no classes and for more than maxClasses. Cells
// outside the matrix are an error.
func drawMatrix(classes []string, cells []evaluate.Cell) ([]byte, error) {
	n := len(classes)
	if n == 0 || n > maxClasses {
		return nil, nil
	}
	rows := make([]float64, n) // images of each row
	for _, c := range cells {
		if c.Target < 0 || c.Target >= n || c.Predicted < 0 || c.Predicted >= n || c.Images < 0 {
			return nil, fmt.Errorf("the confusion matrix has %d images of class %d that are predicted as class %d, expected classes 0 to %d and numbers of images from 0", c.Images, c.Target, c.Predicted, n-1)
		}
		rows[c.Target] += float64(c.Images)
	}
	face := basicfont.Face7x13
	side, left, top := max(1, 1024/n), 0, 0 // of a cell, and the margins, in px
	names := make([]string, n)
	if n <= namedClasses {
		side = min(max(side, face.Height+1), 48)
		for i, class := range classes {
			names[i] = fmt.Sprintf("%d %s", i, shortened(class))
			left = max(left, face.Advance*len([]rune(names[i]))+8)
		}
		top = face.Height + 6
	}
	drawn := image.NewRGBA(image.Rect(0, 0, left+n*side, top+n*side))
	draw.Draw(drawn, drawn.Bounds(), image.White, image.Point{}, draw.Src)
	for _, c := range cells {
		share := float64(c.Images) / max(1, rows[c.Target])
		cell := image.Rect(0, 0, side, side).Add(image.Pt(left+c.Predicted*side, top+c.Target*side))
		draw.Draw(drawn, cell, image.NewUniform(shade(share)), image.Point{}, draw.Src)
	}
	if n <= namedClasses {
		pen := font.Drawer{Dst: drawn, Src: image.Black, Face: face}
		for i, name := range names {
			middle := i*side + side/2
			pen.Dot = fixed.P(4, top+middle+face.Ascent/2)
			pen.DrawString(name)
			number := fmt.Sprint(i)
			pen.Dot = fixed.P(left+middle-face.Advance*len(number)/2, face.Ascent+2)
			pen.DrawString(number)
		}
	}
	var encoded bytes.Buffer
	err := png.Encode(&encoded, drawn)
	return encoded.Bytes(), err
}

// shortened returns the first 24 characters of the name of a class.
func shortened(name string) string {
	if r := []rune(name); len(r) > 24 {
		return string(r[:23]) + "."
	}
	return name
}

// shade returns the colour of a share from 0 (white) to 1 (the darkest of the Blues of
// ColorBrewer).
func shade(share float64) color.RGBA {
	mix := func(dark float64) uint8 { return uint8(math.Round(255 + (dark-255)*share)) }
	return color.RGBA{mix(8), mix(48), mix(107), 255}
}
