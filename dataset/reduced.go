package dataset

// reducingGap is the smallest ratio of the shorter side of a reduced image to the length that it is
// then resized to. Of 3 and more, Pillow says about the reducing_gap of its Image.resize that the
// result is mostly the same as without it.
const reducingGap = 3

// denominator returns the largest number by which the decoder may divide the width and the height
// of an image whose shorter side is then resized to short pixels: 1, 2, 4 or 8. With a short of 0
// it returns 1, which stands for the whole image.
func (f format) denominator(width, height, short int) int {
	if f.reduce == nil || short == 0 {
		return 1
	}
	d := 8
	for d > 1 && min(width, height) < d*reducingGap*short {
		d /= 2
	}
	return d
}

// frame is the part of the pixels that shows an image: the positions of its edges, in pixels from
// the left and from the top. The last column and the last row of a reduced image lie partly outside
// if the denominator does not divide its size.
type frame struct{ left, top, right, bottom float64 }

// whole returns the frame of all pixels of m.
func whole(m *RGB) frame { return frame{0, 0, float64(m.Width), float64(m.Height)} }

// width returns the width of the image in pixels.
func (f frame) width() float64 { return f.right - f.left }

// height returns the height of the image in pixels.
func (f frame) height() float64 { return f.bottom - f.top }

// orient returns the frame after [orient], where width and height are the size of the pixels
// before.
func (f frame) orient(value, width, height int) frame {
	w, h := float64(width), float64(height)
	mirrored := frame{w - f.right, f.top, w - f.left, f.bottom}
	flipped := frame{f.left, h - f.bottom, f.right, h - f.top}
	turned := frame{w - f.right, h - f.bottom, w - f.left, h - f.top}
	switch value {
	case 2:
		return mirrored
	case 3:
		return turned
	case 4:
		return flipped
	case 5:
		return f.transposed()
	case 6:
		return flipped.transposed()
	case 7:
		return turned.transposed()
	case 8:
		return mirrored.transposed()
	}
	return f
}

// transposed returns the frame with rows and columns exchanged.
func (f frame) transposed() frame { return frame{f.top, f.left, f.bottom, f.right} }
