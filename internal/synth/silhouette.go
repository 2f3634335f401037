package synth

import (
	"math"
	"math/rand/v2"
)

// harmonics is the highest order of the waves around a silhouette.
const harmonics = 10

// silhouette is an outline: a circle whose radius is modulated by waves, as in visual atoms
// (Takashima et al., CVPR 2023). The wave of order k has k periods around the circle. Its entry is
// its complex amplitude.
type silhouette [harmonics + 1]vector

// radius returns the radius of the outline in the direction of p, which is at most 1. It also
// returns the length of p.
func (s *silhouette) radius(p vector) (radius, length float64) {
	length = math.Sqrt(dot(p, p))
	if length < 1e-9 {
		return 1, 0
	}
	direction := vector{p.x / length, p.y / length}
	power := vector{1, 0} // direction to the power k, as complex numbers
	radius, least := 1.0, 1.0
	for k := 1; k < len(s); k++ {
		power = rotate(power, direction)
		if amplitude := s[k]; amplitude != (vector{}) {
			size := math.Sqrt(dot(amplitude, amplitude))
			radius += dot(amplitude, power) - size
			least -= size
		}
	}
	return max(radius, 0.12, float64(0.5*least)), length
}

// silhouetteForm draws a form whose images show the same silhouette with the same number of rings,
// in alternating colours.
func silhouetteForm(r *rand.Rand) form {
	var mean silhouette
	left := uniform(r, 0.25, 0.4)
	for range 2 + r.IntN(3) {
		amplitude, direction := float64(left*uniform(r, 0.3, 0.7)), anyDirection(r)
		left -= amplitude
		mean[1+r.IntN(harmonics)] = vector{float64(amplitude * direction.x), float64(amplitude * direction.y)}
	}
	rings := float64(1+r.IntN(4)) / 2
	return func(r *rand.Rand, s *scene, lean float64, colours func() colour) {
		outline := mean
		for k, a := range outline {
			factor := uniform(r, 0.8, 1.2)
			outline[k] = vector{float64(factor * a.x), float64(factor * a.y)}
		}
		o := object{period: 1, radius: uniform(r, 0.25, 0.55)}
		o.shape.distance = func(p vector) float64 {
			radius, length := outline.radius(p)
			return float64(0.7 * (length - radius))
		}
		o.texture.mix = func(p, _ vector, _ float64) float64 {
			radius, length := outline.radius(p)
			return stripe(0.26+float64(rings*(1-length/radius)), 12)
		}
		o.centre = vector{uniform(r, 0.35, 0.65), uniform(r, 0.35, 0.65)}
		o.heading = tilt(r, lean)
		o.first = colours()
		o.second = colours()
		s.objects = append(s.objects, o)
	}
}
