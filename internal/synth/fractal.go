package synth

import (
	"math"
	"math/rand/v2"
)

// affine is an affine map of the plane.
type affine struct {
	x, y  vector // rows of the matrix
	shift vector
}

// at returns the image of p.
func (m *affine) at(p vector) vector {
	return vector{dot(m.x, p) + m.shift.x, dot(m.y, p) + m.shift.y}
}

// fractalForm draws a form whose images show perturbed copies of one fractal.
func fractalForm(r *rand.Rand) form {
	f := anyFractal(r)
	return func(r *rand.Rand, s *scene, lean float64, colours func() colour) {
		s.cloud = anyCloud(r, f, lean, colours)
	}
}

// fractal is an iterated function system: a list of affine maps, each with a probability. Its
// points are those that random sequences of the maps visit, as in FractalDB (Kataoka et al., ACCV
// 2020).
type fractal struct {
	maps  []affine
	upTo  []float64 // cumulative probabilities of the maps
	mean  vector    // mean of the points
	scale float64   // 1 / standard deviation of the points along their wider axis
}

// anyFractal draws a fractal. The singular values of the maps follow Anderson and Farrell
// (Improving Fractal Pre-training, WACV 2022): with their sum in a narrow range, most systems are
// neither dust nor a blot. The loop rejects the others.
func anyFractal(r *rand.Rand) fractal {
	for {
		n := 2 + r.IntN(3)
		f := fractal{}
		sum, total := 0.0, 0.0
		for range n {
			major := uniform(r, 0.25, 0.88)
			minor := uniform(r, 0.1, major)
			sum += major + float64(2*minor)
			// The matrix is rotation · diagonal · rotation, with random signs on the diagonal.
			left, right := anyDirection(r), anyDirection(r)
			m := affine{shift: vector{uniform(r, -1, 1), uniform(r, -1, 1)}}
			if r.IntN(2) == 1 {
				minor = -minor
			}
			column := func(v vector) vector {
				v = rotate(v, right)
				return rotate(vector{float64(v.x * major), float64(v.y * minor)}, left)
			}
			first, second := column(vector{1, 0}), column(vector{0, 1})
			m.x, m.y = vector{first.x, second.x}, vector{first.y, second.y}
			f.maps = append(f.maps, m)
			total += max(0.05, math.Abs(float64(major*minor)))
			f.upTo = append(f.upTo, total)
		}
		for i := range f.upTo {
			f.upTo[i] /= total
		}
		if low := float64(0.5 * float64(5+n)); sum < low || sum > low+0.5 {
			continue
		}
		if f.measure(r) {
			return f
		}
	}
}

// measure sets the mean and the scale of the points. It reports whether the fractal is fit for a
// class: its points must cover between a twelfth and two thirds of a square around them.
func (f *fractal) measure(r *rand.Rand) bool {
	const n, side = 1500, 24
	points := make([]vector, n)
	p := vector{}
	for range 20 { // the first points may not yet belong to the fractal
		p = f.maps[f.choose(r)].at(p)
	}
	for i := range points {
		p = f.maps[f.choose(r)].at(p)
		points[i] = p
		f.mean.x, f.mean.y = f.mean.x+p.x/n, f.mean.y+p.y/n
	}
	spread := vector{}
	for _, p := range points {
		d := vector{p.x - f.mean.x, p.y - f.mean.y}
		spread.x, spread.y = spread.x+float64(d.x*d.x)/n, spread.y+float64(d.y*d.y)/n
	}
	f.scale = 1 / math.Sqrt(max(spread.x, spread.y))
	if min(spread.x, spread.y) < float64(0.05*max(spread.x, spread.y)) {
		return false
	}
	var covered [side * side]bool
	count := 0
	cell := func(v float64) int { return int(math.Floor(float64((v + 2.2) * (side / 4.4)))) }
	for _, p := range points {
		q := f.normal(p)
		column, row := cell(q.x), cell(q.y)
		if column >= 0 && column < side && row >= 0 && row < side && !covered[row*side+column] {
			covered[row*side+column] = true
			count++
		}
	}
	return count >= side*side/12 && count <= side*side*2/3
}

// normal returns p relative to the mean of the points, in standard deviations.
func (f *fractal) normal(p vector) vector {
	return vector{float64((p.x - f.mean.x) * f.scale), float64((p.y - f.mean.y) * f.scale)}
}

// choose draws the index of a map.
func (f *fractal) choose(r *rand.Rand) int {
	t := r.Float64()
	for i, limit := range f.upTo {
		if t < limit {
			return i
		}
	}
	return len(f.upTo) - 1
}

// perturbed returns the fractal with every coefficient of its maps changed by at most limit. Such
// perturbations replace the images of a class in one-instance FractalDB (Nakamura et al., ICCV
// 2023). The singular values are at most 0.88, so a limit of 0.05 keeps the maps contracting.
func (f fractal) perturbed(r *rand.Rand, limit float64) fractal {
	maps := make([]affine, len(f.maps))
	for i, m := range f.maps {
		for _, c := range []*float64{&m.x.x, &m.x.y, &m.y.x, &m.y.y, &m.shift.x, &m.shift.y} {
			*c += uniform(r, -limit, limit)
		}
		maps[i] = m
	}
	f.maps = maps
	return f
}

// cloud is a fractal in an image. Lengths are fractions of the side of the image.
type cloud struct {
	fractal fractal
	colours []colour // of each map
	centre  vector
	x, y    vector // rows of the matrix from standard deviations to the image
	seed    uint64 // of the points
}

// anyCloud places a fractal in an image: it perturbs the maps and draws position, extent, aspect
// ratio and rotation. lean bounds the slope of the rotation. colours draws the colour of a map.
func anyCloud(r *rand.Rand, f fractal, lean float64, colours func() colour) *cloud {
	c := &cloud{fractal: f.perturbed(r, 0.04), seed: r.Uint64()}
	for range f.maps {
		c.colours = append(c.colours, colours())
	}
	extent := uniform(r, 0.14, 0.27)
	c.centre = vector{uniform(r, 0.35, 0.65), uniform(r, 0.35, 0.65)}
	aspect := uniform(r, 0.8, 1.25)
	turn := tilt(r, lean)
	across, down := rotate(vector{float64(extent * aspect), 0}, turn), rotate(vector{0, extent / aspect}, turn)
	c.x, c.y = vector{across.x, down.x}, vector{across.y, down.y}
	return c
}

// paint paints the points of the fractal. The colour of a point is a running mean of the colours of
// the maps that led to it. So parts of the fractal differ in colour.
func (c *cloud) paint(canvas []colour, size int) {
	r := rand.New(rand.NewPCG(c.seed, 0))
	weight := make([]float64, len(canvas))
	sums := make([]colour, len(canvas))
	p, shade := c.fractal.mean, c.colours[0]
	for i := range 20 + 2*size*size {
		which := c.fractal.choose(r)
		p = c.fractal.maps[which].at(p)
		shade = shade.mix(c.colours[which], 0.5)
		q := c.fractal.normal(p)
		x, y := c.centre.x+dot(c.x, q), c.centre.y+dot(c.y, q)
		if i < 20 || !(x >= 0 && x < 1 && y >= 0 && y < 1) {
			continue
		}
		at := int(float64(y*float64(size)))*size + int(float64(x*float64(size)))
		weight[at]++
		for channel, v := range shade {
			sums[at][channel] += v
		}
	}
	for at, n := range weight {
		if n == 0 {
			continue
		}
		mean := sums[at]
		for channel := range mean {
			mean[channel] /= n
		}
		canvas[at] = canvas[at].mix(mean, min(1, n/2))
	}
}
