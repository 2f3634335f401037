package dataset

import "image"

// This file converts subsampled YCbCr to RGB with the arithmetic of libjpeg-turbo and libwebp.
// Published backbones were trained on images that these libraries decoded. The libraries
// interpolate chroma samples, but the conversion of Go's package image repeats them.

// jpegToRGB converts a decoded JPEG image to RGB.
func jpegToRGB(m *image.YCbCr) *RGB {
	w, h := m.Rect.Dx(), m.Rect.Dy()
	out := newRGB(w, h)
	cb, cr := make([]uint8, w+1), make([]uint8, w+1)
	up := newUpsampler(m)
	for y := range h {
		up.row(cb, m.Cb, y)
		up.row(cr, m.Cr, y)
		dst := out.Pix[3*y*w : 3*(y+1)*w]
		for x, luma := range m.Y[y*m.YStride : y*m.YStride+w] {
			b, r := cb[x], cr[x]
			l := int32(luma)
			dst[3*x] = clip8(l + jpegTables.crToR[r])
			dst[3*x+1] = clip8(l + (jpegTables.cbToG[b]+jpegTables.crToG[r])>>16)
			dst[3*x+2] = clip8(l + jpegTables.cbToB[b])
		}
	}
	return out
}

// jpegTables holds the chroma terms of the JFIF conversion from YCbCr to RGB. They are computed in
// fixed point with 16 fractional bits and rounded as in libjpeg (jdcolor.c).
var jpegTables = func() (t struct{ crToR, cbToB, crToG, cbToG [256]int32 }) {
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

// clip8 limits v to 0…255.
func clip8(v int32) uint8 {
	if uint32(v) < 256 {
		return uint8(v)
	}
	if v < 0 {
		return 0
	}
	return 255
}

// upsampler scales chroma rows to the width of luma rows with the "fancy upsampling" of
// libjpeg-turbo (jdsample.c). It uses a triangle filter for the ratios 4:2:2, 4:4:0 and 4:2:0. It
// repeats chroma samples for other ratios, and for 4:2:2 and 4:2:0 if there are fewer than three
// chroma columns.
type upsampler struct {
	ratio         image.YCbCrSubsampleRatio
	stride        int
	width, height int     // size of the chroma planes
	sum           []int32 // [width]; one chroma row, or for 4:2:0 3 × the near row + the far row
	hShift        int     // log2 of the horizontal subsampling factor
	vShift        int     // log2 of the vertical subsampling factor
}

// newUpsampler returns an upsampler for the chroma planes of m.
func newUpsampler(m *image.YCbCr) *upsampler {
	u := &upsampler{ratio: m.SubsampleRatio, stride: m.CStride}
	switch m.SubsampleRatio {
	case image.YCbCrSubsampleRatio422:
		u.hShift = 1
	case image.YCbCrSubsampleRatio420:
		u.hShift, u.vShift = 1, 1
	case image.YCbCrSubsampleRatio440:
		u.vShift = 1
	case image.YCbCrSubsampleRatio411:
		u.hShift = 2
	case image.YCbCrSubsampleRatio410:
		u.hShift, u.vShift = 2, 1
	}
	u.width = (m.Rect.Dx() + 1<<u.hShift - 1) >> u.hShift
	u.height = (m.Rect.Dy() + 1<<u.vShift - 1) >> u.vShift
	u.sum = make([]int32, u.width)
	return u
}

// row writes the chroma samples of row y of the image to dst. plane is a chroma plane. dst has one
// sample more than the width of the image, because samples may be written in pairs.
func (u *upsampler) row(dst, plane []uint8, y int) {
	near := plane[(y>>u.vShift)*u.stride:][:u.width]
	interpolate := u.width > 2
	switch {
	case u.ratio == image.YCbCrSubsampleRatio420 && interpolate:
		far := plane[u.farRow(y)*u.stride:][:u.width]
		for i, v := range near {
			u.sum[i] = 3*int32(v) + int32(far[i])
		}
		doubleRow(dst, u.sum, 8, 7, 4)
	case u.ratio == image.YCbCrSubsampleRatio422 && interpolate:
		for i, v := range near {
			u.sum[i] = int32(v)
		}
		doubleRow(dst, u.sum, 1, 2, 2)
	case u.ratio == image.YCbCrSubsampleRatio440:
		far := plane[u.farRow(y)*u.stride:][:u.width]
		bias := int32(1 + y&1)
		for i, v := range near {
			dst[i] = uint8((3*int32(v) + int32(far[i]) + bias) >> 2)
		}
	default:
		for x := range len(dst) - 1 {
			dst[x] = near[x>>u.hShift]
		}
	}
}

// farRow returns the index of the second nearest chroma row to row y of the image. At the edges it
// returns the nearest row.
func (u *upsampler) farRow(y int) int {
	if y&1 == 0 {
		return max(y/2-1, 0)
	}
	return min(y/2+1, u.height-1)
}

// doubleRow writes two samples for every element of sum: (3 × the element + its left neighbour +
// leftBias) >> shift, and the same with the right neighbour and rightBias. The two biases differ so
// that the rounding errors do not add up (jdsample.c).
func doubleRow(dst []uint8, sum []int32, leftBias, rightBias int32, shift uint) {
	last := len(sum) - 1
	for i, s := range sum {
		l, r := sum[max(i-1, 0)], sum[min(i+1, last)]
		dst[2*i] = uint8((3*s + l + leftBias) >> shift)
		if 2*i+1 < len(dst) {
			dst[2*i+1] = uint8((3*s + r + rightBias) >> shift)
		}
	}
}

// webpToRGB converts a decoded lossy WebP image to RGB. The image is BT.601 in the studio range
// with the ratio 4:2:0. The triangle filter and the rounding are those of libwebp
// (dsp/upsampling.c, dsp/yuv.h).
func webpToRGB(m *image.YCbCr) *RGB {
	w, h := m.Rect.Dx(), m.Rect.Dy()
	out := newRGB(w, h)
	lastX, lastY := (w+1)/2-1, (h+1)/2-1
	other := func(i, last int) int { // the second nearest chroma index to index i of the image
		if i&1 == 0 {
			return max(i/2-1, 0)
		}
		return min(i/2+1, last)
	}
	for y := range h {
		near, far := y/2*m.CStride, other(y, lastY)*m.CStride
		dst := out.Pix[3*y*w : 3*(y+1)*w]
		for x, luma := range m.Y[y*m.YStride : y*m.YStride+w] {
			x0, x1 := x/2, other(x, lastX)
			u := webpSample(m.Cb[near+x0], m.Cb[near+x1], m.Cb[far+x0], m.Cb[far+x1])
			v := webpSample(m.Cr[near+x0], m.Cr[near+x1], m.Cr[far+x0], m.Cr[far+x1])
			l := int32(luma) * 19077 >> 8
			dst[3*x] = clip8((l + v*26149>>8 - 14234) >> 6)
			dst[3*x+1] = clip8((l - u*6419>>8 - v*13320>>8 + 8708) >> 6)
			dst[3*x+2] = clip8((l + u*33050>>8 - 17685) >> 6)
		}
	}
	return out
}

// webpSample returns the weighted mean of four chroma samples: the nearest one by 9/16, its two
// neighbours by 3/16 each, and the diagonal neighbour by 1/16.
func webpSample(near, beside, above, diagonal uint8) int32 {
	n, b, a, d := int32(near), int32(beside), int32(above), int32(diagonal)
	return ((n+b+a+d+8+2*(b+a))>>3 + n) >> 1
}
