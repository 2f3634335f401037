package jpeg

// convert upsamples the components and converts their colours.
func (d *decoder) convert(how Colours) (*Image, error) {
	w, h, n := ceil(d.width, d.denominator), ceil(d.height, d.denominator), len(d.components)
	m := &Image{Width: w, Height: h, Channels: n, Pix: make([]uint8, w*h*n), Read: d.pos}
	up := make([]upsampler, n)
	for i := range up {
		up[i] = newUpsampler(d, &d.components[i])
	}
	luminance := how == AsYCbCr && n >= 3 || how == AsMarked && d.luminance
	rows := make([][]uint8, n)
	for y := range h {
		for i := range up {
			rows[i] = up[i].row(y)
		}
		out := m.Pix[y*w*n : (y+1)*w*n]
		switch {
		case n == 1:
			copy(out, rows[0])
		case luminance && n == 3:
			toRGB(out, rows, 3)
		case luminance:
			toRGB(out, rows, 4)
			for x := range w { // YCCK is the YCbCr of the inverted inks
				p := out[4*x : 4*x+4]
				p[0], p[1], p[2], p[3] = ^p[0], ^p[1], ^p[2], rows[3][x]
			}
		default:
			for i, row := range rows {
				for x := range w {
					out[x*n+i] = row[x]
				}
			}
		}
	}
	return m, nil
}

// isLuminance reports whether the markers say that the first three components are YCbCr.
func (d *decoder) isLuminance() bool {
	switch len(d.components) {
	case 3:
		if d.jfif {
			return true
		}
		if d.adobe {
			return d.adobeTransform != 0
		}
		return d.components[0].id != 'R' || d.components[1].id != 'G' || d.components[2].id != 'B'
	case 4:
		return d.adobe && d.adobeTransform != 0
	}
	return false
}

// toRGB converts a row of YCbCr to RGB. pixel is the distance between pixels in out.
func toRGB(out []uint8, rows [][]uint8, pixel int) {
	n := len(out) / pixel
	luma, cb, cr := rows[0][:n], rows[1][:n], rows[2][:n]
	for x, v := range luma {
		b, r, l := cb[x], cr[x], int32(v)
		p := out[pixel*x:][:3]
		p[0] = clip(l + tables.crToR[r])
		p[1] = clip(l + (tables.cbToG[b]+tables.crToG[r])>>16)
		p[2] = clip(l + tables.cbToB[b])
	}
}

// tables holds the chroma terms of the JFIF conversion from YCbCr to RGB. They are computed in
// fixed point with 16 fractional bits and rounded as in libjpeg.
var tables = func() (t struct{ crToR, cbToB, crToG, cbToG [256]int32 }) {
	const half = 1 << 15
	for i := range int32(256) {
		v := i - 128
		t.crToR[i] = (91881*v + half) >> 16  // 1.40200
		t.cbToB[i] = (116130*v + half) >> 16 // 1.77200
		t.crToG[i] = -46802 * v              // 0.71414, shifted after the sum
		t.cbToG[i] = -22554*v + half         // 0.34414
	}
	return t
}()

// upsampler scales the rows of a component to the width of the image, with the "fancy upsampling"
// of libjpeg-turbo. It uses a triangle filter for the ratios 2×1, 1×2 and 2×2. It repeats samples
// for other ratios, for 2×1 and 2×2 if there are fewer than three columns, and if the image is made
// eight times smaller.
type upsampler struct {
	c           *component
	acrossRatio int
	downRatio   int
	repeat      bool    // repeat samples, whatever the ratio
	sum         []int32 // [width of the component]; one row, or 3 × the near row + the far row
	out         []uint8 // [width of the component · acrossRatio]
}

// newUpsampler returns an upsampler for a component.
func newUpsampler(d *decoder, c *component) upsampler {
	least := 8 / d.denominator
	u := upsampler{c: c, acrossRatio: d.maxH * least / (c.h * c.edge), downRatio: d.maxV * least / (c.v * c.edge), repeat: least == 1}
	u.sum = make([]int32, c.width)
	u.out = make([]uint8, c.width*u.acrossRatio)
	return u
}

// row returns the samples of row y of the image. The next call overwrites them.
func (u *upsampler) row(y int) []uint8 {
	near := u.plane(y / u.downRatio)
	across, down := u.acrossRatio, u.downRatio
	switch {
	case across == 1 && down == 1:
		return near
	case across == 2 && down == 2 && u.c.width > 2 && !u.repeat:
		for i, v := range u.plane(u.farRow(y)) {
			u.sum[i] = 3*int32(near[i]) + int32(v)
		}
		u.double(8, 7, 4)
	case across == 2 && down == 1 && u.c.width > 2 && !u.repeat:
		for i, v := range near {
			u.sum[i] = int32(v)
		}
		u.double(1, 2, 2)
	case across == 1 && down == 2 && !u.repeat:
		bias := int32(1 + y&1)
		for i, v := range u.plane(u.farRow(y)) {
			u.out[i] = uint8((3*int32(near[i]) + int32(v) + bias) >> 2)
		}
	default:
		for i, v := range near {
			for k := range across {
				u.out[i*across+k] = v
			}
		}
	}
	return u.out
}

// plane returns row y of the component.
func (u *upsampler) plane(y int) []uint8 { return u.c.samples[u.c.edge*u.c.stride*y:][:u.c.width] }

// farRow returns the index of the second nearest row of the component to row y of the image. At the
// edges it returns the nearest row.
func (u *upsampler) farRow(y int) int {
	if y&1 == 0 {
		return max(y/2-1, 0)
	}
	return min(y/2+1, u.c.height-1)
}

// double writes two samples for every element of sum: (3 × the element + its left neighbour +
// leftBias) >> shift, and the same with the right neighbour and rightBias. The two biases differ so
// that the rounding errors do not add up.
func (u *upsampler) double(leftBias, rightBias int32, shift uint) {
	last := len(u.sum) - 1
	for i, s := range u.sum {
		l, r := u.sum[max(i-1, 0)], u.sum[min(i+1, last)]
		u.out[2*i] = uint8((3*s + l + leftBias) >> shift)
		u.out[2*i+1] = uint8((3*s + r + rightBias) >> shift)
	}
}
