package synth

import (
	"math/rand/v2"
	"strconv"
	"sync"
)

// Class is one class of the pretraining: a scene, or a form in a tint.
//
// In a scene, all objects have the same shape and texture, and their positions follow the
// arrangement. Form and Tint are empty.
type Class struct {
	// Shape is disc, square, triangle, star, ring, cross, bar or crescent.
	Shape string
	// Texture is solid, horizontal (stripes), vertical (stripes), checker, dots or gradient.
	Texture string
	// Arrangement is single, pair (side by side), stack (one above the other), grid (two by two) or
	// ring (five objects).
	Arrangement string

	// Form is fractal, silhouette or surface, with a number from 0. Shape, Texture and Arrangement
	// are empty.
	Form string
	// Tint is red, yellow, green, blue, violet or grey.
	Tint string
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

// scenes is the number of classes that are scenes.
var scenes = len(shapes) * len(textures) * len(arrangements)

// tintsOfForm is the number of tints of each form.
const tintsOfForm = 2

// tinted is a class that is a form in a tint.
type tinted struct {
	name string
	form form
	tint tint
}

// forms returns the classes that are forms: 120 fractals, 80 silhouettes and 60 surfaces, each in
// two of the six tints.
var forms = sync.OnceValue(func() []tinted {
	var out []tinted
	for _, k := range formKinds {
		for i := range k.count {
			r := source("pretraining form", k.name, uint64(i))
			f := k.draw(r)
			for _, t := range r.Perm(len(tints))[:tintsOfForm] {
				out = append(out, tinted{k.name + " " + strconv.Itoa(i), f, tints[t]})
			}
		}
	}
	return out
})

// Classes returns the 760 classes. The order is fixed. The first 240 are scenes: 8 shapes by 6
// textures by 5 arrangements. The index of a scene is (shape·6 + texture)·5 + arrangement. The
// values are numbered from 0, in the order in which the comments on the fields of [Class] list
// them. The forms follow, each in two tints.
func Classes() []Class {
	var classes []Class
	for _, s := range shapes {
		for _, t := range textures {
			for _, a := range arrangements {
				classes = append(classes, Class{Shape: s.name, Texture: t.name, Arrangement: a.name})
			}
		}
	}
	for _, f := range forms() {
		classes = append(classes, Class{Form: f.name, Tint: f.tint.name})
	}
	return classes
}

// Pretraining draws the image with the given index in a class, an index into [Classes]. It returns
// the pixels, [size, size, 3] RGB. It is a pure function of its arguments; see the package
// documentation. Images with different indexes or classes are independent. Each seed gives another
// data set. The result is nil if the class does not exist or if size is below 1.
func Pretraining(seed uint64, index int, class int, size int) []uint8 {
	if class < 0 || class >= scenes+len(forms()) {
		return nil
	}
	r := source("pretraining", "", seed, uint64(index), uint64(class))
	s := pretrainingScene(r, class)
	return s.render(r, size)
}

// pretrainingLean is the greatest slope of a form. It is 19°: a form keeps its direction, so the
// backbone learns directions.
const pretrainingLean = 0.35

// pretrainingScene draws a scene of a class.
func pretrainingScene(r *rand.Rand, class int) scene {
	if class >= scenes {
		f, s := forms()[class-scenes], anyScene(r)
		f.form(r, &s, pretrainingLean, palette(r, &s, f.tint.colour))
		return s
	}
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
