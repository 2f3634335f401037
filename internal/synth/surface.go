package synth

import (
	"math"
	"math/rand/v2"
)

// weave is the kind of a surface.
type weave int

const (
	smooth    weave = iota // mean of waves
	sharpened              // the same with sharp edges
	woven                  // product of two waves
	ridged                 // lines where the mean of the waves is zero
	pebbled                // distance to the nearest of scattered points
	cracked                // lines between the cells of scattered points
	weaveCount
)

// scattered is the number of scattered points along each axis, before their pattern repeats.
const scattered = 16

// surface is a texture that fills an image. Frequencies are in periods per side of the image. In an
// image of 64 pixels, a period has more than four pixels.
type surface struct {
	weave weave
	waves []vector // frequencies

	warp vector // frequency of the wave that displaces the points
	bend vector // amplitude of the displacement

	stretch  vector  // scattered points per side of the image
	disorder float64 // displacement of a scattered point, in parts of its cell
	edge     float64 // width of the lines between cells
}

// view is a surface in one image: a rotated, scaled and shifted copy.
type view struct {
	*surface
	phases  []float64 // of the waves
	bent    float64   // phase of the displacement
	turn    vector    // rotation
	scale   float64
	origin  vector // of the scattered points
	offsets [scattered][scattered]vector
}

// surfaceForm draws a form whose images show the same surface, on the whole image or on an object.
func surfaceForm(r *rand.Rand) form {
	f := &surface{weave: weave(r.IntN(int(weaveCount)))}
	f.waves = make([]vector, 1+r.IntN(3))
	if f.weave == woven {
		f.waves = make([]vector, 2)
	}
	frequency := func(low, high float64) vector {
		direction := anyDirection(r)
		length := uniform(r, low, high)
		return vector{float64(length * direction.x), float64(length * direction.y)}
	}
	for i := range f.waves {
		f.waves[i] = frequency(3, 14)
	}
	f.warp = frequency(1, 5)
	f.bend = vector{uniform(r, -0.06, 0.06), uniform(r, -0.06, 0.06)}
	f.stretch = vector{uniform(r, 3, 9), uniform(r, 3, 9)}
	f.disorder = uniform(r, 0.1, 1)
	f.edge = uniform(r, 0.06, 0.2)
	return func(r *rand.Rand, s *scene, lean float64, colours func() colour) {
		v := f.view(r, lean)
		// covers the image
		o := object{shape: shapes[0], centre: vector{0.5, 0.5}, radius: 0.85, heading: vector{1, 0}, period: 1}
		o.texture.mix = func(_, p vector, _ float64) float64 { return v.mix(p) }
		o.first = colours()
		o.second = colours()
		if r.IntN(2) == 1 {
			o.shape, o.radius = shapes[r.IntN(len(shapes))], uniform(r, 0.4, 0.6)
			o.centre, o.heading = vector{uniform(r, 0.4, 0.6), uniform(r, 0.4, 0.6)}, anyDirection(r)
		}
		s.objects = append(s.objects, o)
	}
}

// view draws a view of the surface. lean bounds the slope of its rotation.
func (f *surface) view(r *rand.Rand, lean float64) *view {
	v := &view{surface: f, phases: make([]float64, len(f.waves))}
	for i := range v.phases {
		v.phases[i] = r.Float64()
	}
	v.bent = r.Float64()
	v.turn, v.scale = tilt(r, lean), uniform(r, 0.8, 1.25)
	v.origin = vector{r.Float64(), r.Float64()}
	for i := range v.offsets {
		for j := range v.offsets[i] {
			v.offsets[i][j] = vector{uniform(r, -0.5, 0.5), uniform(r, -0.5, 0.5)}
		}
	}
	return v
}

// mix returns the share of the second colour at a point of the image.
func (v *view) mix(p vector) float64 {
	p = rotate(vector{float64(v.scale * p.x), float64(v.scale * p.y)}, v.turn)
	w := wave(dot(p, v.warp) + v.bent)
	p = vector{p.x + float64(w*v.bend.x), p.y + float64(w*v.bend.y)}
	switch v.weave {
	case pebbled:
		nearest, _ := v.distances(p)
		return clamp(float64(1.4 * nearest))
	case cracked:
		nearest, next := v.distances(p)
		return clamp(0.5 + float64(8*(next-nearest-v.edge)))
	}
	mean, product := 0.0, 1.0
	for i, f := range v.waves {
		height := wave(dot(p, f) + v.phases[i])
		mean += height
		product = float64(product * height)
	}
	mean /= float64(len(v.waves))
	switch v.weave {
	case smooth:
		return clamp(0.5 + float64(0.5*mean))
	case sharpened:
		return clamp(0.5 + float64(4*mean))
	case woven:
		return clamp(0.5 + float64(3*product))
	default: // ridged
		return clamp(1 - float64(2*math.Abs(mean)))
	}
}

// distances returns the distances from a point to the nearest and the next scattered point, in
// cells.
func (v *view) distances(p vector) (nearest, next float64) {
	// The shift makes the coordinates positive, so that division rounds them down.
	q := vector{float64(p.x*v.stretch.x) + v.origin.x + 2*scattered, float64(p.y*v.stretch.y) + v.origin.y + 2*scattered}
	nearest, next = 9.0, 9.0
	for i := int(q.y) - 1; i <= int(q.y)+1; i++ {
		for j := int(q.x) - 1; j <= int(q.x)+1; j++ {
			offset := v.offsets[i%scattered][j%scattered]
			d := vector{float64(j) + 0.5 + float64(v.disorder*offset.x) - q.x, float64(i) + 0.5 + float64(v.disorder*offset.y) - q.y}
			length := math.Sqrt(dot(d, d))
			if length < nearest {
				nearest, next = length, nearest
			} else {
				next = min(next, length)
			}
		}
	}
	return nearest, next
}

// wave has the period 1 and resembles a sine. It consists of two parabolas, from 0 to 1 and to −1,
// because the last bit of math.Sin depends on the machine.
func wave(t float64) float64 {
	t = float64(2 * fraction(t))
	if t >= 1 {
		return float64(-4 * float64((t-1)*(2-t)))
	}
	return float64(4 * float64(t*(1-t)))
}
