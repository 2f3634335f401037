package synth

import (
	"math"
	"math/rand/v2"
)

// colour holds the red, green and blue channels, from 0 to 1.
type colour [3]float64

// anyColour draws a random colour.
func anyColour(r *rand.Rand) colour { return colour{r.Float64(), r.Float64(), r.Float64()} }

// farFrom reports whether two colours are at least distance apart in the RGB cube.
func (c colour) farFrom(other colour, distance float64) bool {
	sum := 0.0
	for i := range c {
		d := c[i] - other[i]
		sum += float64(d * d)
	}
	return sum >= float64(distance*distance)
}

// mix returns the colour between c (t = 0) and other (t = 1).
func (c colour) mix(other colour, t float64) colour {
	for i := range c {
		c[i] += float64((other[i] - c[i]) * t)
	}
	return c
}

// lattice is the number of lattice points along each side of the image. The clouds are interpolated
// between these points.
const lattice = 5

// ground is the background of an image: a colour with a linear gradient and smooth clouds of
// brightness.
type ground struct {
	base  colour
	shade vector                    // gradient: change of each channel over the side of the image
	cloud [lattice][lattice]float64 // brightness at the lattice points
}

// anyGround draws a random background.
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

// object is one filled shape. Lengths are fractions of the side of the image.
type object struct {
	shape         shape
	centre        vector
	radius        float64
	heading       vector // direction of the +x axis of the shape, a unit vector
	texture       texture
	first, second colour
	period        float64 // of the texture
	phase         vector  // of the texture, in periods
}

// anyObject returns an object with a random heading, random colours and a random period of the
// texture. The colours differ clearly from the background and from each other. At least 40 % of all
// colours are possible for the first colour and 15 % for the second colour. So the loops end soon.
func anyObject(r *rand.Rand, s shape, t texture, centre vector, radius float64, on ground) object {
	o := object{shape: s, texture: t, centre: centre, radius: radius, heading: anyDirection(r)}
	// With a period below 0.13, a stripe would be narrower than two pixels in an image of 32×32
	// pixels.
	o.period = float64(max(0.13, float64(0.6*radius)) * uniform(r, 1, 1.25))
	o.phase = vector{r.Float64(), r.Float64()}
	for o.first = anyColour(r); !o.first.farFrom(on.base, 0.5); {
		o.first = anyColour(r)
	}
	// The mixture of the two colours must differ from the background, too. Otherwise the middle of
	// a gradient would look like the background and would cut the object in two.
	for o.second = anyColour(r); !o.second.farFrom(o.first, 0.5) || !o.second.farFrom(on.base, 0.4) ||
		!o.first.mix(o.second, 0.5).farFrom(on.base, 0.35); {
		o.second = anyColour(r)
	}
	return o
}

// scene describes an image independently of its size in pixels.
type scene struct {
	ground  ground
	clutter []object // objects of the background
	objects []object // objects that the label describes
	cloud   *cloud   // fractal that the label describes, or nil
	gain    float64  // factor on the contrast around mid-grey
	noise   float64  // half-width of the uniform noise of each pixel
}

// anyScene draws a random scene with clutter but without objects.
func anyScene(r *rand.Rand) scene {
	s := scene{ground: anyGround(r), gain: uniform(r, 0.65, 1), noise: uniform(r, 0, 0.06)}
	for range r.IntN(4) {
		o := anyObject(r, bar, textures[0], vector{r.Float64(), r.Float64()}, uniform(r, 0.08, 0.3), s.ground)
		o.first = s.ground.base.mix(o.first, uniform(r, 0.1, 0.22))
		s.clutter = append(s.clutter, o)
	}
	return s
}

// render returns the pixels, [size, size, 3]. It returns nil if size is below 1. It uses r only for
// the noise.
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
	if s.cloud != nil {
		s.cloud.paint(canvas, size)
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

// paint paints the background.
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

// cell returns the lattice point at or before t, and the position of t between this point and the
// next one, from 0 to 1. t is in [0, 1). A smooth-step function is applied to the position, so that
// the clouds have no visible edges.
func cell(t float64) (point int, way float64) {
	scaled := float64(t * (lattice - 1))
	point = int(scaled)
	way = scaled - float64(point)
	return point, float64(float64(way*way) * (3 - float64(2*way)))
}

// paint paints the object.
func (o *object) paint(canvas []colour, size int) {
	side := float64(size)
	// The shape lies inside the circle of the radius. Its soft edge extends one pixel beyond.
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
