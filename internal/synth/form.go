package synth

import "math/rand/v2"

// form adds the content of a class to a scene: a fractal, a silhouette or a surface. It draws all
// properties that differ between the images of the class. lean bounds the slope of the rotation.
// colours returns the next colour of the form.
type form func(r *rand.Rand, s *scene, lean float64, colours func() colour)

// formKinds lists the kinds of forms, in the order of the pretraining classes.
var formKinds = []struct {
	name  string
	count int // number of forms in the pretraining
	draw  func(r *rand.Rand) form
}{
	{"fractal", 120, fractalForm},
	{"silhouette", 80, silhouetteForm},
	{"surface", 60, surfaceForm},
}

// tint is a range of colours.
type tint struct {
	name string
	base colour
}

// tints lists the tints of the pretraining.
var tints = []tint{
	{"red", colour{0.85, 0.25, 0.15}},
	{"yellow", colour{0.8, 0.75, 0.15}},
	{"green", colour{0.2, 0.7, 0.35}},
	{"blue", colour{0.2, 0.35, 0.85}},
	{"violet", colour{0.65, 0.25, 0.7}},
	{"grey", colour{0.5, 0.5, 0.5}},
}

// colour draws a colour of the tint.
func (t tint) colour(r *rand.Rand) colour {
	light := uniform(r, 0.35, 1.15)
	c := t.base.mix(colour{1, 1, 1}, max(0, float64(2*(light-0.85))))
	for i := range c {
		c[i] = clamp(float64(c[i]*min(light, 1)) + uniform(r, -0.06, 0.06))
	}
	return c
}

// palette returns a function that returns the colours of a form, which draw draws. The first colour
// differs clearly from the background of s: palette draws the background again until it does. Every
// other colour differs from the colour before.
func palette(r *rand.Rand, s *scene, draw func(r *rand.Rand) colour) func() colour {
	var last *colour
	return func() colour {
		c := draw(r)
		for last == nil && !s.ground.base.farFrom(c, 0.4) {
			s.ground = anyGround(r)
		}
		for last != nil && !c.farFrom(*last, 0.25) {
			c = draw(r)
		}
		last = &c
		return c
	}
}
