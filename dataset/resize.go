package dataset

import (
	"fmt"
	"math"
)

// precisionBits is the number of fractional bits in the fixed-point numbers of Pillow's 8-bit
// resampling. Of 32 bits, 8 bits are for the value and 2 bits for overshoot.
const precisionBits = 32 - 8 - 2

// resizeBicubic returns m resized to width × height pixels. The result equals Image.resize((width,
// height), Image.BICUBIC) of Pillow up to version 12 bit for bit (libImaging/Resample.c). The
// filter is the cubic filter with a = -0.5. If the image shrinks, the filter is widened by the
// scale factor. The first pass changes the width and the second pass the height, with 8 bits per
// channel between them.
//
// Pillow 13 changes the height first if an image becomes wider and lower. Its result differs by up
// to ten levels at sharp edges. Published results were made with the order of Pillow 12.
//
// If the size does not change, resizeBicubic returns m itself. It returns an error if m or the new
// size has no area, or if the result or the image between the two passes has more than maxPixels.
func resizeBicubic(m *RGB, width, height int) (*RGB, error) {
	return resizeFrame(m, whole(m), width, height)
}

// resizeFrame returns the image in a frame of m, resized to width × height pixels. The result
// equals Image.resize with this frame; see [resizeBicubic].
func resizeFrame(m *RGB, part frame, width, height int) (*RGB, error) {
	if err := m.check(); err != nil {
		return nil, fmt.Errorf("resizing: %w", err)
	}
	if width < 1 || height < 1 || width > maxPixels/height {
		return nil, fmt.Errorf("resizing an image of %d×%d pixels to %d×%d: the new size must have 1 to %d pixels", m.Width, m.Height, width, height, maxPixels)
	}
	if part.left != 0 || part.right != float64(m.Width) || width != m.Width {
		if width > maxPixels/m.Height {
			return nil, fmt.Errorf("resizing an image of %d×%d pixels to %d×%d: the first pass makes %d×%d pixels, more than the limit of %d; the image is too narrow for its height", m.Width, m.Height, width, height, width, m.Height, maxPixels)
		}
		m = resizeRows(m, bicubicTaps(m.Width, part.left, part.right, width))
	}
	if part.top != 0 || part.bottom != float64(m.Height) || height != m.Height {
		m = resizeColumns(m, bicubicTaps(m.Height, part.top, part.bottom, height))
	}
	return m, nil
}

// taps holds the filter of one output sample: the weights of consecutive input samples.
type taps struct {
	first   int     // index of the first input sample
	weights []int32 // in units of 2^-precisionBits; they sum to about 1
}

// bicubicTaps returns the filter of every output sample. The part between two positions of a row or
// column of in samples is resized to out samples.
func bicubicTaps(in int, from, to float64, out int) []taps {
	scale := (to - from) / float64(out)
	filterScale := max(scale, 1)
	support := 2 * filterScale
	inverse := 1 / filterScale
	all := make([]taps, out)
	raw := make([]float64, 2*int(math.Ceil(support))+1)
	for i := range all {
		// The float64 conversions prevent compilers from fusing a product with a sum. A fused
		// operation would round differently from Pillow.
		center := from + float64((float64(i)+0.5)*scale)
		first := max(int(center-support+0.5), 0)
		end := min(int(center+support+0.5), in)
		sum := 0.0
		for j := first; j < end; j++ {
			w := cubic(float64((float64(j) - center + 0.5) * inverse))
			raw[j-first] = w
			sum += w
		}
		weights := make([]int32, end-first)
		for j := range weights {
			w := raw[j]
			if sum != 0 {
				w /= sum
			}
			// The conversion to int32 truncates towards zero, as in C. Adding half a unit away from
			// zero first rounds to nearest.
			weights[j] = int32(math.Copysign(0.5, w) + float64(w*(1<<precisionBits)))
		}
		all[i] = taps{first, weights}
	}
	return all
}

// cubic returns the value of the cubic convolution kernel with a = -0.5 (Keys 1981) at x. The order
// of operations is that of Pillow.
func cubic(x float64) float64 {
	const a = -0.5
	x = math.Abs(x)
	switch {
	case x < 1:
		return float64(float64((float64((a+2)*x)-(a+3))*x)*x) + 1
	case x < 2:
		return (float64((float64((x-5)*x)+8)*x) - 4) * a
	}
	return 0
}

// resizeRows returns m with a new width. The pixels of the result are [m.Height, len(t), 3].
func resizeRows(m *RGB, t []taps) *RGB {
	out := newRGB(len(t), m.Height)
	for y := range m.Height {
		src := m.Pix[3*y*m.Width : 3*(y+1)*m.Width]
		dst := out.Pix[3*y*out.Width : 3*(y+1)*out.Width]
		for x, tap := range t {
			r, g, b := int32(1<<(precisionBits-1)), int32(1<<(precisionBits-1)), int32(1<<(precisionBits-1))
			p := src[3*tap.first : 3*(tap.first+len(tap.weights))]
			for _, w := range tap.weights {
				r += w * int32(p[0])
				g += w * int32(p[1])
				b += w * int32(p[2])
				p = p[3:]
			}
			dst[3*x] = clip8(r >> precisionBits)
			dst[3*x+1] = clip8(g >> precisionBits)
			dst[3*x+2] = clip8(b >> precisionBits)
		}
	}
	return out
}

// resizeColumns returns m with a new height. The pixels of the result are [len(t), m.Width, 3].
func resizeColumns(m *RGB, t []taps) *RGB {
	out := newRGB(m.Width, len(t))
	stride := 3 * m.Width
	sum := make([]int32, stride)
	for y, tap := range t {
		for i := range sum {
			sum[i] = 1 << (precisionBits - 1)
		}
		for j, w := range tap.weights {
			src := m.Pix[(tap.first+j)*stride:][:len(sum)]
			for i, v := range src {
				sum[i] += w * int32(v)
			}
		}
		dst := out.Pix[y*stride:][:len(sum)]
		for i, s := range sum {
			dst[i] = clip8(s >> precisionBits)
		}
	}
	return out
}
