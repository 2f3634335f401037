package dataset

import "math"

// This file changes the colours of images in place. The results are those of Pillow (ImageEnhance,
// ImageOps, and Blend.c and Convert.c of libImaging) and of torchvision's adjust_hue, bit for bit.
// The conversions to float32 and float64 prevent compilers from fusing a product with a sum.

// blend returns from + factor·(to-from), clipped and truncated to 8 bits, as ImagingBlend.
func blend(from, to uint8, factor float32) uint8 {
	v := float32(from) + float32(factor*float32(int(to)-int(from)))
	switch {
	case v <= 0:
		return 0
	case v >= 255:
		return 255
	}
	return uint8(v)
}

// blendColour moves all values of m away from one grey value, or towards it for a factor below 1.
func blendColour(m *RGB, grey uint8, factor float64) {
	var table [256]uint8
	for v := range table {
		table[v] = blend(grey, uint8(v), float32(factor))
	}
	for i, v := range m.Pix {
		m.Pix[i] = table[v]
	}
}

// luma returns the grey value of a pixel, as Pillow converts RGB to L.
func luma(r, g, b uint8) uint8 {
	return uint8((19595*uint32(r) + 38470*uint32(g) + 7471*uint32(b) + 0x8000) >> 16)
}

// brighten multiplies the values of m by factor.
func brighten(m *RGB, factor float64) { blendColour(m, 0, factor) }

// contrast scales the distance of the values of m from its mean grey value.
func contrast(m *RGB, factor float64) {
	sum := 0
	for i := 0; i+2 < len(m.Pix); i += 3 {
		sum += int(luma(m.Pix[i], m.Pix[i+1], m.Pix[i+2]))
	}
	mean := uint8(float64(sum)/float64(len(m.Pix)/3) + 0.5)
	blendColour(m, mean, factor)
}

// saturate scales the distance of the pixels of m from their grey values.
func saturate(m *RGB, factor float64) {
	f := float32(factor)
	for i := 0; i+2 < len(m.Pix); i += 3 {
		p := m.Pix[i : i+3 : i+3]
		grey := luma(p[0], p[1], p[2])
		p[0], p[1], p[2] = blend(grey, p[0], f), blend(grey, p[1], f), blend(grey, p[2], f)
	}
}

// turnHue adds a share of the circle to the hue of each pixel.
func turnHue(m *RGB, share float64) {
	// Like torchvision, turn by a whole number of 255ths although the circle has 256 values.
	turn := uint8(int32(share * 255))
	for i := 0; i+2 < len(m.Pix); i += 3 {
		p := m.Pix[i : i+3 : i+3]
		h, s, v := toHSV(p[0], p[1], p[2])
		p[0], p[1], p[2] = fromHSV(h+turn, s, v)
	}
}

// toHSV returns the hue, the saturation and the value of a pixel, each in 8 bits.
func toHSV(r, g, b uint8) (h, s, v uint8) {
	low, high := min(r, g, b), max(r, g, b)
	if low == high {
		return 0, 0, high
	}
	spread := float32(high - low)
	rc, gc, bc := float32(high-r)/spread, float32(high-g)/spread, float32(high-b)/spread
	var hue float32
	switch high {
	case r:
		hue = bc - gc
	case g:
		hue = float32(2 + float64(rc) - float64(bc))
	default:
		hue = float32(4 + float64(gc) - float64(rc))
	}
	hue = float32(math.Mod(float64(hue)/6+1, 1))
	return uint8(float64(hue) * 255), uint8(float64(spread/float32(high)) * 255), high
}

// fromHSV is the inverse of toHSV.
func fromHSV(h, s, v uint8) (r, g, b uint8) {
	if s == 0 {
		return v, v, v
	}
	turn := float64(h) * 6 / 255 // 0 to 6
	sector := math.Floor(turn)
	f, fs, value := float32(turn-sector), float32(float64(s)/255), float64(v)
	round := func(x float64) uint8 { return uint8(math.Round(x)) }
	p := round(value * (1 - float64(fs)))
	q := round(value * (1 - float64(float32(fs*f))))
	t := round(value * (1 - float64(float64(fs)*(1-float64(f)))))
	switch int(sector) % 6 {
	case 0:
		return v, t, p
	case 1:
		return q, v, p
	case 2:
		return p, v, t
	case 3:
		return p, q, v
	case 4:
		return t, p, v
	}
	return v, p, q
}

// sharpen scales the distance of the pixels of m from a smoothed image. The border stays as it is.
func sharpen(m *RGB, factor float64) {
	if m.Width < 3 || m.Height < 3 {
		return
	}
	f, stride := float32(factor), 3*m.Width
	above, here := append([]uint8(nil), m.Pix[:stride]...), make([]uint8, stride)
	for y := 1; y < m.Height-1; y++ {
		row, below := m.Pix[y*stride:][:stride], m.Pix[(y+1)*stride:][:stride]
		copy(here, row)
		for i := 3; i < stride-3; i++ {
			sum := int(above[i-3]) + int(above[i]) + int(above[i+3]) + int(here[i-3]) + 5*int(here[i]) + int(here[i+3]) +
				int(below[i-3]) + int(below[i]) + int(below[i+3])
			row[i] = blend(uint8((2*sum+13)/26), here[i], f) // the sum over 13, rounded
		}
		above, here = here, above
	}
}

// posterize keeps the upper bits of each value.
func posterize(m *RGB, bits int) {
	mask := uint8(0xff) << (8 - bits)
	for i := range m.Pix {
		m.Pix[i] &= mask
	}
}

// solarize inverts the values from a threshold on.
func solarize(m *RGB, threshold float64) {
	for i, v := range m.Pix {
		if float64(v) >= threshold {
			m.Pix[i] = 255 - v
		}
	}
}

// mapChannels replaces the values of each channel of m. table returns the new values for the
// histogram of a channel, or false if the channel stays as it is.
func mapChannels(m *RGB, table func(counts *[256]int) ([256]uint8, bool)) {
	for c := range 3 {
		var counts [256]int
		for i := c; i < len(m.Pix); i += 3 {
			counts[m.Pix[i]]++
		}
		if values, ok := table(&counts); ok {
			for i := c; i < len(m.Pix); i += 3 {
				m.Pix[i] = values[m.Pix[i]]
			}
		}
	}
}

// autoContrast stretches the values of each channel to the whole range.
func autoContrast(m *RGB) {
	mapChannels(m, func(counts *[256]int) (values [256]uint8, ok bool) {
		low, high := 0, 255
		for counts[low] == 0 {
			low++
		}
		for counts[high] == 0 {
			high--
		}
		if low == high {
			return values, false
		}
		scale := 255 / float64(high-low)
		offset := float64(-low) * scale
		for i := range values {
			values[i] = uint8(min(255, max(0, int(float64(float64(i)*scale)+offset))))
		}
		return values, true
	})
}

// equalise spreads the values of each channel so that they are about equally frequent.
func equalise(m *RGB) {
	mapChannels(m, func(counts *[256]int) (values [256]uint8, ok bool) {
		last := 255
		for counts[last] == 0 {
			last--
		}
		step := (len(m.Pix)/3 - counts[last]) / 255
		if step == 0 {
			return values, false
		}
		n := step / 2
		for i := range values {
			values[i] = uint8(min(255, n/step))
			n += counts[i]
		}
		return values, true
	})
}
