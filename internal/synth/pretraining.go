package synth

import "math/rand/v2"

// Class is one class of the pretraining: every object of the image has the shape
// and the texture, and the objects stand in the arrangement.
type Class struct {
	Shape       string // disc, square, triangle, star, ring, cross, bar, crescent
	Texture     string // solid, horizontal, vertical (stripes), checker, dots, gradient
	Arrangement string // single, pair (side by side), stack (one above the other), grid (two by two), ring (five)
}

// arrangement places objects relative to a centre, in units of the group's
// extent.
type arrangement struct {
	name    string
	offsets []vector
	radius  float64 // of each object
	// half-width and half-height of the group, by which its centre keeps off
	// the image's border
	half vector
	// extent of the group in fractions of the image's side
	low, high float64
}

var arrangements = []arrangement{
	{"single", []vector{{0, 0}}, 1, vector{1, 1}, 0.2, 0.38},
	{"pair", []vector{{-0.5, 0}, {0.5, 0}}, 0.46, vector{1, 0.6}, 0.38, 0.49},
	{"stack", []vector{{0, -0.5}, {0, 0.5}}, 0.46, vector{0.6, 1}, 0.38, 0.49},
	{"grid", []vector{{-0.52, -0.52}, {0.52, -0.52}, {-0.52, 0.52}, {0.52, 0.52}}, 0.44, vector{1, 1}, 0.41, 0.49},
	{"ring", pentagon[:], 0.5, vector{1.5, 1.5}, 0.3, 0.33},
}

// Classes lists the 240 classes, 8 shapes by 6 textures by 5 arrangements. The
// order is fixed: class (shape·6 + texture)·5 + arrangement, each counted in the
// order in which the fields of [Class] list their values.
func Classes() []Class {
	var classes []Class
	for _, s := range shapes {
		for _, t := range textures {
			for _, a := range arrangements {
				classes = append(classes, Class{s.name, t.name, a.name})
			}
		}
	}
	return classes
}

// Pretraining draws image index of a class: [size, size, 3] RGB bytes. It is a
// pure function of its arguments (see the package's note on reproducibility).
// Images of one seed that differ in index or class are drawn independently; seed
// separates whole data sets. A class outside [0, len(Classes())), or a size below
// 1, has no image: the result is nil.
func Pretraining(seed uint64, index int, class int, size int) []uint8 {
	if class < 0 || class >= len(shapes)*len(textures)*len(arrangements) {
		return nil
	}
	r := source("pretraining", "", seed, uint64(index), uint64(class))
	s := pretrainingScene(r, class)
	return s.render(r, size)
}

func pretrainingScene(r *rand.Rand, class int) scene {
	a := arrangements[class%len(arrangements)]
	class /= len(arrangements)
	t, outline := textures[class%len(textures)], shapes[class/len(textures)]

	s := anyScene(r)
	extent := uniform(r, a.low, a.high)
	middle := vector{within(r, float64(a.half.x*extent)), within(r, float64(a.half.y*extent))}
	lean := tilt(r, 0.2)
	for _, offset := range a.offsets {
		offset = rotate(offset, lean)
		centre := vector{middle.x + float64(offset.x*extent), middle.y + float64(offset.y*extent)}
		s.objects = append(s.objects, anyObject(r, outline, t, centre, float64(a.radius*extent), s.ground))
	}
	return s
}

// within draws a coordinate that keeps margin from both borders of the image.
func within(r *rand.Rand, margin float64) float64 { return uniform(r, margin, 1-margin) }
