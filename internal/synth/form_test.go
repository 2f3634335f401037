package synth

import (
	"math"
	"testing"
)

// TestFractalsContract checks that no perturbation makes the maps of a fractal expand, by the
// spectral norm of the matrices. Otherwise the points of an image could leave every bound.
func TestFractalsContract(t *testing.T) {
	r := source("test", "")
	for range 60 {
		f := anyFractal(r)
		for range 20 {
			for _, m := range f.perturbed(r, 0.04).maps {
				// The larger eigenvalue of MᵀM, from its trace and determinant.
				trace, det := dot(m.x, m.x)+dot(m.y, m.y), m.x.x*m.y.y-m.x.y*m.y.x
				norm := math.Sqrt((trace + math.Sqrt(max(0, trace*trace-4*det*det))) / 2)
				if !(norm < 1) {
					t.Fatalf("a map has the spectral norm %g", norm)
				}
			}
		}
	}
}

// TestSierpinski paints the Sierpinski triangle, whose points are known: the middle triangle is
// empty, and the middles of the other three are not.
func TestSierpinski(t *testing.T) {
	f := fractal{}
	for i, shift := range []vector{{-1, -1}, {1, -1}, {0, 1}} { // x grows to the right, y downwards
		f.maps = append(f.maps, affine{vector{0.5, 0}, vector{0, 0.5}, vector{shift.x / 2, shift.y / 2}})
		f.upTo = append(f.upTo, float64(i+1)/3)
	}
	if f.measure(source("test", "")); math.Abs(f.mean.x) > 0.05 || math.Abs(f.mean.y+1.0/3) > 0.05 {
		t.Errorf("the mean is %v, want the centroid (0, -1/3)", f.mean)
	}
	// The attractor is the triangle of the three fixed points. Show it in full size.
	f.mean, f.scale = vector{}, 1
	white := colour{1, 1, 1}
	c := cloud{fractal: f, colours: []colour{white, white, white}, centre: vector{0.5, 0.5}, x: vector{0.45, 0}, y: vector{0, 0.45}}
	const size = 90
	canvas := make([]colour, size*size)
	c.paint(canvas, size)
	at := func(x, y float64) bool { // reports whether there is a point within two pixels
		column, row := int((0.5+0.45*x)*size), int((0.5+0.45*y)*size)
		for i := -2; i <= 2; i++ {
			for j := -2; j <= 2; j++ {
				if canvas[(row+i)*size+column+j] != (colour{}) {
					return true
				}
			}
		}
		return false
	}
	for _, empty := range []vector{{0, -0.5}, {0, -0.7}, {-0.9, 0.5}, {0.9, 0.9}} {
		if at(empty.x, empty.y) {
			t.Errorf("there is a point near %v", empty)
		}
	}
	for _, full := range []vector{{-0.95, -0.97}, {0.95, -0.97}, {0, 0.95}, {0, 0.03}, {-0.5, -0.03}, {0.5, -0.03}, {0, -0.97}} {
		if !at(full.x, full.y) {
			t.Errorf("there is no point near %v", full)
		}
	}
}

// TestFractalsOfAClassAreAlike compares the pixels that fractals cover, without rotation and at the
// same place. Two perturbed copies of a fractal must share more of them than copies of different
// fractals.
func TestFractalsOfAClassAreAlike(t *testing.T) {
	r := source("test", "")
	const size, n = 24, 20
	covered := func(f fractal) (out [size * size]bool) {
		c := cloud{fractal: f.perturbed(r, 0.04), centre: vector{0.5, 0.5}, x: vector{0.2, 0}, y: vector{0, 0.2}}
		for range f.maps {
			c.colours = append(c.colours, colour{1, 1, 1})
		}
		canvas := make([]colour, size*size)
		c.paint(canvas, size)
		for i, p := range canvas {
			out[i] = p != (colour{})
		}
		return out
	}
	overlap := func(a, b [size * size]bool) float64 { // intersection over union
		both, either := 0.0, 0.0
		for i := range a {
			if a[i] && b[i] {
				both++
			}
			if a[i] || b[i] {
				either++
			}
		}
		return both / either
	}
	var first, second [n][size * size]bool
	for i := range n {
		f := anyFractal(r)
		first[i], second[i] = covered(f), covered(f)
	}
	right := 0
	for i := range n {
		best, which := -1.0, -1
		for j := range n {
			if o := overlap(first[i], second[j]); o > best {
				best, which = o, j
			}
		}
		if which == i {
			right++
		}
	}
	if right < n*9/10 {
		t.Errorf("%d of %d fractals are nearest to their own copy, want at least nine tenths", right, n)
	}
}

// TestSilhouetteRadius compares the radius with the sum of cosines that it stands for.
func TestSilhouetteRadius(t *testing.T) {
	s := silhouette{2: {0.1, 0.05}, 5: {-0.08, 0.12}, harmonics: {0, -0.03}}
	for i := range 360 {
		angle := float64(i) * math.Pi / 180
		want := 1.0
		for k, a := range s {
			size := math.Hypot(a.x, a.y)
			want += size*math.Cos(float64(k)*angle-math.Atan2(a.y, a.x)) - size
		}
		radius, length := s.radius(vector{3 * math.Cos(angle), 3 * math.Sin(angle)})
		if math.Abs(radius-want) > 1e-12 || math.Abs(length-3) > 1e-12 || radius > 1 {
			t.Fatalf("at %d°: radius %g at length %g, want %g at 3", i, radius, length, want)
		}
	}
}

// TestScatteredPoints compares the distances with those to all points of the neighbourhood.
func TestScatteredPoints(t *testing.T) {
	r := source("test", "")
	f := &surface{stretch: vector{4, 7}, disorder: 0.9}
	v := f.view(r, 1)
	for range 500 {
		p := vector{uniform(r, -1.8, 1.8), uniform(r, -1.8, 1.8)}
		q := vector{p.x*4 + v.origin.x, p.y*7 + v.origin.y}
		nearest, next := math.Inf(1), math.Inf(1)
		for i := -40; i < 40; i++ {
			for j := -40; j < 40; j++ {
				o := v.offsets[(i+10*scattered)%scattered][(j+10*scattered)%scattered]
				d := math.Hypot(float64(j)+0.5+0.9*o.x-q.x, float64(i)+0.5+0.9*o.y-q.y)
				if d < nearest {
					nearest, next = d, nearest
				} else {
					next = min(next, d)
				}
			}
		}
		gotNearest, gotNext := v.distances(p)
		if math.Abs(gotNearest-nearest) > 1e-9 {
			t.Fatalf("the nearest point of %v is at %g, want %g", p, gotNearest, nearest)
		}
		// The second nearest point may lie outside the nine cells, but then it is far away.
		if math.Abs(gotNext-next) > 1e-9 && next < 0.9 {
			t.Fatalf("the next point of %v is at %g, want %g", p, gotNext, next)
		}
	}
}

func TestWave(t *testing.T) {
	for i := -300; i < 300; i++ {
		x := float64(i) / 97
		if sine := math.Sin(2 * math.Pi * x); math.Abs(wave(x)-sine) > 0.06 {
			t.Errorf("wave(%g) is %g, want about the sine, %g", x, wave(x), sine)
		}
	}
}

// TestPalette checks that forms differ from their background, and that neighbouring colours differ.
func TestPalette(t *testing.T) {
	r := source("test", "")
	for i := range 300 {
		s := anyScene(r)
		draw := anyColour
		if i%2 == 0 {
			draw = tints[i/2%len(tints)].colour
		}
		colours := palette(r, &s, draw)
		first, second, third := colours(), colours(), colours()
		if !first.farFrom(s.ground.base, 0.4) || !second.farFrom(first, 0.25) || !third.farFrom(second, 0.25) {
			t.Fatalf("colours %v, %v and %v on %v", first, second, third, s.ground.base)
		}
	}
}
