package synth

import (
	"math"
	"math/rand/v2"
)

// colour is red, green, blue from 0 to 1.
type colour [3]float64

func anyColour(r *rand.Rand) colour { return colour{r.Float64(), r.Float64(), r.Float64()} }

// farFrom is whether two colours are at least distance apart in the RGB cube.
func (c colour) farFrom(other colour, distance float64) bool {
	sum := 0.0
	for i := range c {
		d := c[i] - other[i]
		sum += float64(d * d)
	}
	return sum >= float64(distance*distance)
}

// mix goes from c (t = 0) to other (t = 1).
func (c colour) mix(other colour, t float64) colour {
	for i := range c {
		c[i] += float64((other[i] - c[i]) * t)
	}
	return c
}

// lattice points of the background's clouds, in each direction.
const lattice = 5

// ground is the background: a colour that shades linearly along a direction, with
// smooth clouds over it.
type ground struct {
	base  colour
	shade vector // change of every channel per side of the image
	cloud [lattice][lattice]float64
}

func anyGround(r *rand.Rand) ground {
	g := ground{base: anyColour(r)}
	direction, strength := anyDirection(r), uniform(r, 0, 0.35)
	g.shade = vector{float64(direction.x * strength), float64(direction.y * strength)}
	height := uniform(r, 0, 0.15)
	for i := range g.cloud {
		for j := range g.cloud[i] {
			g.cloud[i][j] = uniform(r, -height, height)
		}
	}
	return g
}

// object is one filled shape. Lengths are fractions of the image's side.
type object struct {
	shape         shape
	centre        vector
	radius        float64
	heading       vector // unit vector to which the shape's +x axis is turned
	texture       texture
	first, second colour
	period        float64 // of the texture
	phase         vector  // of the texture, in periods
}

// anyObject draws the looks of an object: a heading, and colours that stand out
// from the background and from each other. Whatever the colours drawn before, at
// least 40 % of the cube (first) and 15 % (second) will do, so its loops end soon.
func anyObject(r *rand.Rand, s shape, t texture, centre vector, radius float64, on ground) object {
	o := object{shape: s, texture: t, centre: centre, radius: radius, heading: anyDirection(r)}
	// Less than 0.13 is a stripe of under two pixels in an image of 32.
	o.period = float64(max(0.13, float64(0.6*radius)) * uniform(r, 1, 1.25))
	o.phase = vector{r.Float64(), r.Float64()}
	for o.first = anyColour(r); !o.first.farFrom(on.base, 0.5); {
		o.first = anyColour(r)
	}
	// The colours in between stand out too, or a gradient would fade into the
	// background half-way and cut its object in two.
	for o.second = anyColour(r); !o.second.farFrom(o.first, 0.5) || !o.second.farFrom(on.base, 0.4) ||
		!o.first.mix(o.second, 0.5).farFrom(on.base, 0.35); {
		o.second = anyColour(r)
	}
	return o
}

// scene is all that an image shows, at any size.
type scene struct {
	ground  ground
	clutter []object // part of the background
	objects []object // what the label is about
	gain    float64  // contrast about mid-grey
	noise   float64  // half-width of each pixel's uniform noise
}

// anyScene draws all but the objects.
func anyScene(r *rand.Rand) scene {
	s := scene{ground: anyGround(r), gain: uniform(r, 0.65, 1), noise: uniform(r, 0, 0.06)}
	for range r.IntN(4) {
		o := anyObject(r, bar, textures[0], vector{r.Float64(), r.Float64()}, uniform(r, 0.08, 0.3), s.ground)
		o.first = s.ground.base.mix(o.first, uniform(r, 0.1, 0.22))
		s.clutter = append(s.clutter, o)
	}
	return s
}

// render returns [size, size, 3] pixels, or nil if size is below 1. Only the
// noise is drawn from r.
func (s *scene) render(r *rand.Rand, size int) []uint8 {
	if size < 1 {
		return nil
	}
	canvas := make([]colour, size*size)
	s.ground.paint(canvas, size)
	for i := range s.clutter {
		s.clutter[i].paint(canvas, size)
	}
	for i := range s.objects {
		s.objects[i].paint(canvas, size)
	}
	pixels := make([]uint8, 0, 3*len(canvas))
	for _, c := range canvas {
		bits := r.Uint64()
		for _, v := range c {
			noise := float64(s.noise * (float64(bits&0xffff)/32767.5 - 1))
			bits >>= 16
			v = clamp(0.5 + float64(s.gain*(v-0.5)) + noise)
			pixels = append(pixels, uint8(float64(v*255)+0.5))
		}
	}
	return pixels
}

func (g *ground) paint(canvas []colour, size int) {
	for row := range size {
		y := (float64(row) + 0.5) / float64(size)
		i, v := cell(y)
		for column := range size {
			x := (float64(column) + 0.5) / float64(size)
			j, u := cell(x)
			above := g.cloud[i][j] + float64((g.cloud[i][j+1]-g.cloud[i][j])*u)
			below := g.cloud[i+1][j] + float64((g.cloud[i+1][j+1]-g.cloud[i+1][j])*u)
			light := above + float64((below-above)*v) + dot(g.shade, vector{x - 0.5, y - 0.5})
			pixel := &canvas[row*size+column]
			for channel, base := range g.base {
				pixel[channel] = base + light
			}
		}
	}
}

// cell finds the lattice point at or before t in [0, 1), and how far t lies on
// the way to the next one, eased so that the clouds have no creases.
func cell(t float64) (point int, way float64) {
	scaled := float64(t * (lattice - 1))
	point = int(scaled)
	way = scaled - float64(point)
	return point, float64(float64(way*way) * (3 - float64(2*way)))
}

func (o *object) paint(canvas []colour, size int) {
	side := float64(size)
	// The shape lies within its unit circle; its edge reaches a pixel farther.
	limits := func(centre float64) (first, end int) {
		reach := o.radius + 1/side
		return int(float64(clamp(centre-reach) * side)), int(math.Ceil(float64(clamp(centre+reach) * side)))
	}
	top, bottom := limits(o.centre.y)
	left, right := limits(o.centre.x)
	for row := top; row < bottom; row++ {
		for column := left; column < right; column++ {
			offset := vector{(float64(column)+0.5)/side - o.centre.x, (float64(row)+0.5)/side - o.centre.y}
			back := rotate(offset, vector{o.heading.x, -o.heading.y})
			local := vector{back.x / o.radius, back.y / o.radius}
			share := coverage(o.shape.distance(local), float64(o.radius*side))
			if share == 0 {
				continue
			}
			grid := vector{offset.x/o.period + o.phase.x, offset.y/o.period + o.phase.y}
			fill := o.first.mix(o.second, o.texture.mix(local, grid, float64(o.period*side)))
			pixel := &canvas[row*size+column]
			*pixel = pixel.mix(fill, share)
		}
	}
}
