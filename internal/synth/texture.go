package synth

import "math"

// texture is the pattern that fills an object.
type texture struct {
	name string
	// mix returns the share of the second colour at a point, from 0 to 1. object is the point in
	// the frame of the object, inside the unit circle. grid is the point in the frame of the image,
	// in periods of the texture. Stripes use grid, so they keep their direction when the object
	// rotates. sharp is the number of pixels in a period.
	mix func(object, grid vector, sharp float64) float64
}

// textures lists the textures of the pretraining. The first one is solid.
var textures = []texture{
	{"solid", func(_, _ vector, _ float64) float64 { return 0 }},
	{"horizontal", func(_, grid vector, sharp float64) float64 { return stripe(grid.y, sharp) }},
	{"vertical", func(_, grid vector, sharp float64) float64 { return stripe(grid.x, sharp) }},
	{"checker", func(_, grid vector, sharp float64) float64 {
		a, b := stripe(grid.x, sharp), stripe(grid.y, sharp)
		return float64(a*(1-b)) + float64(b*(1-a))
	}},
	{"dots", func(_, grid vector, sharp float64) float64 {
		cell := vector{fraction(grid.x) - 0.5, fraction(grid.y) - 0.5}
		return coverage(math.Sqrt(dot(cell, cell))-0.33, sharp)
	}},
	{"gradient", func(object, _ vector, _ float64) float64 { return clamp(0.5 + object.x/1.6) }},
}

// stripe returns 1 in one half of each period of t and 0 in the other half. The edges are one pixel
// wide.
func stripe(t, sharp float64) float64 {
	return coverage(math.Abs(fraction(t)-0.5)-0.25, sharp)
}

// fraction returns the fractional part of t.
func fraction(t float64) float64 { return t - math.Floor(t) }

// coverage returns the share of a pixel that lies inside an outline. distance is the distance from
// the centre of the pixel to the outline, negative inside. coverage treats the outline as a
// straight line. scale is the number of pixels in a unit of distance.
func coverage(distance, scale float64) float64 { return clamp(0.5 - float64(distance*scale)) }
