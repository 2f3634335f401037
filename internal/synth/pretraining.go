package synth

import "math/rand/v2"

// Class is one class of the pretraining. All objects in an image of the class have the same shape
// and texture. Their positions follow the arrangement.
type Class struct {
	// Shape is disc, square, triangle, star, ring, cross, bar or crescent.
	Shape string
	// Texture is solid, horizontal (stripes), vertical (stripes), checker, dots or gradient.
	Texture string
	// Arrangement is single, pair (side by side), stack (one above the other), grid (two by two) or
	// ring (five objects).
	Arrangement string
}

// arrangement defines the positions of a group of objects. Lengths are in units of the extent of
// the group.
type arrangement struct {
	// name is the value of Class.Arrangement.
	name string
	// offsets holds the centres of the objects, relative to the centre of the group.
	offsets []vector
	// radius is the radius of each object.
	radius float64

	// half is the half-width and half-height of the group. The centre of the group keeps this
	// distance from the border of the image.
	half vector

	// low and high bound the extent of the group, in fractions of the side of the image.
	low, high float64
}

// arrangements lists the arrangements of the pretraining.
var arrangements = []arrangement{
	{"single", []vector{{0, 0}}, 1, vector{1, 1}, 0.2, 0.38},
	{"pair", []vector{{-0.5, 0}, {0.5, 0}}, 0.46, vector{1, 0.6}, 0.38, 0.49},
	{"stack", []vector{{0, -0.5}, {0, 0.5}}, 0.46, vector{0.6, 1}, 0.38, 0.49},
	{"grid", []vector{{-0.52, -0.52}, {0.52, -0.52}, {-0.52, 0.52}, {0.52, 0.52}}, 0.44, vector{1, 1}, 0.41, 0.49},
	{"ring", pentagon[:], 0.5, vector{1.5, 1.5}, 0.3, 0.33},
}

// Classes returns the 240 classes: 8 shapes by 6 textures by 5 arrangements. The order is fixed.
// The index of a class is (shape·6 + texture)·5 + arrangement. The values are numbered from 0, in
// the order in which the comments on the fields of [Class] list them.
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

// Pretraining draws the image with the given index in a class, an index into [Classes]. It returns
// the pixels, [size, size, 3] RGB. It is a pure function of its arguments; see the package
// documentation. Images with different indexes or classes are independent. Each seed gives another
// data set. The result is nil if the class does not exist or if size is below 1.
func Pretraining(seed uint64, index int, class int, size int) []uint8 {
	if class < 0 || class >= len(shapes)*len(textures)*len(arrangements) {
		return nil
	}
	r := source("pretraining", "", seed, uint64(index), uint64(class))
	s := pretrainingScene(r, class)
	return s.render(r, size)
}

// pretrainingScene draws a scene of a class.
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

// within draws a coordinate that is at least margin away from both edges of the image.
func within(r *rand.Rand, margin float64) float64 { return uniform(r, margin, 1-margin) }
