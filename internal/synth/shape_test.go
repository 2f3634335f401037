package synth

import (
	"math"
	"testing"
)

// TestShapesHaveTheirArea compares the area of each shape with a formula. The area is right only if
// the sign of the distance is right everywhere.
func TestShapesHaveTheirArea(t *testing.T) {
	// lens returns the area that two discs share if their centres are d apart.
	lens := func(r, s, d float64) float64 {
		a := math.Acos((d*d + r*r - s*s) / (2 * d * r))
		b := math.Acos((d*d + s*s - r*r) / (2 * d * s))
		return r*r*(a-math.Sin(2*a)/2) + s*s*(b-math.Sin(2*b)/2)
	}
	// The drop is a disc and a kite without the sector that they share.
	tangent := math.Sqrt(1.45*1.45 - 0.55*0.55)
	sector := math.Acos(0.55 / 1.45)
	want := map[string]float64{
		"disc":     math.Pi * 0.88 * 0.88,
		"square":   1.44 * 1.44,
		"triangle": 3 * math.Sqrt(3) / 4,
		"star":     5 * 0.45 * math.Sin(math.Pi/5),
		"ring":     math.Pi * (0.95*0.95 - 0.48*0.48),
		"cross":    2*1.9*0.6 - 0.6*0.6,
		"bar":      1.9 * 0.6,
		"crescent": math.Pi*0.95*0.95 - lens(0.95, 0.7, 0.55),
		"dart":     0.6 * 1.45,
		"drop":     math.Pi*0.55*0.55 + 0.55*tangent - 0.55*0.55*sector,
		// The pin is a disc and the part of a bar outside the disc.
		"pin": math.Pi*0.45*0.45 + 0.34*(1+0.55) - (0.17*math.Sqrt(0.45*0.45-0.17*0.17) + 0.45*0.45*math.Asin(0.17/0.45)),
	}
	for _, s := range append(shapes[:len(shapes):len(shapes)], pointers...) {
		const steps = 800
		inside := 0
		for i := range steps {
			for j := range steps {
				p := vector{(float64(i)+0.5)*2.2/steps - 1.1, (float64(j)+0.5)*2.2/steps - 1.1}
				d := s.distance(p)
				if d < 0 {
					inside++
					if dot(p, p) > 1.03*1.03 {
						t.Fatalf("%s: reaches %v, outside the unit circle", s.name, p)
					}
				}
			}
		}
		if got := float64(inside) * 2.2 * 2.2 / (steps * steps); math.Abs(got/want[s.name]-1) > 0.003 {
			t.Errorf("%s: area %.4f, want %.4f", s.name, got, want[s.name])
		}
	}
}

// TestDistancesAreDistances checks the slope of the distance functions. A distance never changes by
// more than the length of a step. For a step across the outline it changes by exactly this length,
// so edges are one pixel wide. Corners are an exception, because two edges are equally near there.
func TestDistancesAreDistances(t *testing.T) {
	const step = 1e-4
	r := source("test", "")
	for _, s := range append(shapes[:len(shapes):len(shapes)], pointers...) {
		near, exact := 0, 0
		for range 20000 {
			p := vector{uniform(r, -1.2, 1.2), uniform(r, -1.2, 1.2)}
			d := s.distance(p)
			slope := vector{(s.distance(vector{p.x + step, p.y}) - d) / step, (s.distance(vector{p.x, p.y + step}) - d) / step}
			if max(math.Abs(slope.x), math.Abs(slope.y)) > 1+1e-6 {
				t.Fatalf("%s: slope %v at %v, want at most 1 in any direction", s.name, slope, p)
			}
			if math.Abs(d) < 0.05 {
				near++
				if math.Abs(dot(slope, slope)-1) < 0.02 {
					exact++
				}
			}
		}
		if near < 500 || float64(exact) < 0.97*float64(near) {
			t.Errorf("%s: slope is 1 at %d of %d points near the outline, want 97 %%", s.name, exact, near)
		}
	}
}
