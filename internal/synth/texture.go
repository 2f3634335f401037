package synth

import "math"

// texture fills an object: how much, from 0 to 1, of its second colour shows.
type texture struct {
	name string
	// mix takes a point both in the object's frame (inside the unit circle) and
	// on the texture's grid (the image's frame, in periods, so that stripes keep
	// their direction when the object rotates); sharp is pixels per period.
	mix func(object, grid vector, sharp float64) float64
}

// textures of the pretraining; the first is solid.
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

// stripe is 1 on half of every period of t, 0 on the other half.
func stripe(t, sharp float64) float64 {
	return coverage(math.Abs(fraction(t)-0.5)-0.25, sharp)
}

func fraction(t float64) float64 { return t - math.Floor(t) }

// coverage is the share of a pixel that lies inside an outline at the given
// distance (negative inside) from the pixel's centre, taking the outline for a
// straight line; scale is pixels per unit of distance.
func coverage(distance, scale float64) float64 { return clamp(0.5 - float64(distance*scale)) }
