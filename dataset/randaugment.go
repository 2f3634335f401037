package dataset

import "math"

// maxMagnitude is the largest magnitude of RandAugment, and defaultMagnitude the one that zero
// stands for.
const maxMagnitude, defaultMagnitude = 30, 9

// operation is an operation of RandAugment.
type operation struct {
	name   string
	signed bool // half of the images get the negative value
	// from and to are the values at magnitude 0 and at maxMagnitude.
	from, to float64
	// side returns the side of the image that the values are multiplied by. Nil: the values are
	// absolute.
	side func(*RGB) int
	do   func(m *RGB, value float64, fill [3]uint8)
}

// operations lists the operations of torchvision's RandAugment, in its order.
var operations = []operation{
	{name: "Identity", do: func(*RGB, float64, [3]uint8) {}},
	{name: "ShearX", signed: true, to: 0.3, do: func(m *RGB, v float64, fill [3]uint8) { affine(m, [6]float64{1, v, 0, 0, 1, 0}, fill) }},
	{name: "ShearY", signed: true, to: 0.3, do: func(m *RGB, v float64, fill [3]uint8) { affine(m, [6]float64{1, 0, 0, v, 1, 0}, fill) }},
	{name: "TranslateX", signed: true, to: 150. / 331, side: func(m *RGB) int { return m.Width },
		do: func(m *RGB, v float64, fill [3]uint8) { affine(m, [6]float64{1, 0, -math.Trunc(v), 0, 1, 0}, fill) }},
	{name: "TranslateY", signed: true, to: 150. / 331, side: func(m *RGB) int { return m.Height },
		do: func(m *RGB, v float64, fill [3]uint8) { affine(m, [6]float64{1, 0, 0, 0, 1, -math.Trunc(v)}, fill) }},
	{name: "Rotate", signed: true, to: 30, do: rotate},
	{name: "Brightness", signed: true, to: 0.9, do: func(m *RGB, v float64, _ [3]uint8) { brighten(m, 1+v) }},
	{name: "Color", signed: true, to: 0.9, do: func(m *RGB, v float64, _ [3]uint8) { saturate(m, 1+v) }},
	{name: "Contrast", signed: true, to: 0.9, do: func(m *RGB, v float64, _ [3]uint8) { contrast(m, 1+v) }},
	{name: "Sharpness", signed: true, to: 0.9, do: func(m *RGB, v float64, _ [3]uint8) { sharpen(m, 1+v) }},
	{name: "Posterize", to: 4, do: func(m *RGB, v float64, _ [3]uint8) { posterize(m, 8-int(math.RoundToEven(v))) }},
	{name: "Solarize", from: 255, do: func(m *RGB, v float64, _ [3]uint8) { solarize(m, v) }},
	{name: "AutoContrast", do: func(m *RGB, _ float64, _ [3]uint8) { autoContrast(m) }},
	{name: "Equalize", do: func(m *RGB, _ float64, _ [3]uint8) { equalise(m) }},
}

// apply runs the operation on m in place.
func (o operation) apply(m *RGB, magnitude int, negative bool, fill [3]uint8) {
	scale := 1.0
	if o.side != nil {
		scale = float64(o.side(m))
	}
	v := linspace(float32(o.from*scale), float32(o.to*scale), magnitude)
	if negative {
		v = -v
	}
	o.do(m, v, fill)
}

// linspace returns the value at a magnitude, from the first value to the last, as torch.linspace
// computes it in float32.
func linspace(first, last float32, magnitude int) float64 {
	step := (last - first) / maxMagnitude
	if magnitude < (maxMagnitude+1)/2 {
		return float64(first + float32(step*float32(magnitude)))
	}
	return float64(last - float32(step*float32(maxMagnitude-magnitude)))
}

// rotate turns m around its centre by an angle in degrees, counter-clockwise.
func rotate(m *RGB, degrees float64, fill [3]uint8) {
	if degrees == 0 {
		return
	}
	sin, cos := math.Sincos(-degrees * math.Pi / 180)
	cx, cy := float64(m.Width)/2, float64(m.Height)/2
	affine(m, [6]float64{cos, sin, cx - cos*cx - sin*cy, -sin, cos, cy + sin*cx - cos*cy}, fill)
}

// affine moves the pixels of m as Image.transform of Pillow does with the nearest neighbour and
// numbers of 16.16 bits. The centre of the pixel (x, y) gets the pixel of m at (a[0]·x+a[1]·y+a[2],
// a[3]·x+a[4]·y+a[5]), or fill outside m. Both sides of m must be below 8192 pixels, and a moves no
// pixel by more than a few times the sides.
func affine(m *RGB, a [6]float64, fill [3]uint8) {
	old := append([]uint8(nil), m.Pix...)
	fixed := func(v float64) int { return int(math.Floor(v*65536 + 0.5)) }
	rowX, rowY := fixed(a[2]+a[0]/2+a[1]/2), fixed(a[5]+a[3]/2+a[4]/2)
	dx, dy := [2]int{fixed(a[0]), fixed(a[3])}, [2]int{fixed(a[1]), fixed(a[4])}
	i := 0
	for range m.Height {
		x, y := rowX, rowY
		for range m.Width {
			pixel := fill[:]
			if sx, sy := x>>16, y>>16; uint(sx) < uint(m.Width) && uint(sy) < uint(m.Height) {
				pixel = old[3*(sy*m.Width+sx):]
			}
			m.Pix[i], m.Pix[i+1], m.Pix[i+2] = pixel[0], pixel[1], pixel[2]
			i += 3
			x, y = x+dx[0], y+dx[1]
		}
		rowX, rowY = rowX+dy[0], rowY+dy[1]
	}
}
