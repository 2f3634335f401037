package synth

import "math"

// shape is an outline inside the unit circle.
type shape struct {
	name string
	// distance returns the distance from a point to the outline. The distance is negative inside.
	// It is exact only near the outline, which is enough for an edge that is one pixel wide.
	distance func(p vector) float64
}

// shapes lists the shapes of the pretraining. No shape is a rotation of another one.
var shapes = []shape{
	{"disc", circle(vector{}, 0.88)},
	{"square", polygon(vector{-0.72, -0.72}, vector{0.72, -0.72}, vector{0.72, 0.72}, vector{-0.72, 0.72})},
	{"triangle", polygon(vector{0, -1}, vector{0.8660254037844386, 0.5}, vector{-0.8660254037844386, 0.5})},
	{"star", star()},
	{"ring", except(circle(vector{}, 0.95), circle(vector{}, 0.48))},
	{"cross", polygon(
		vector{-0.3, -0.95}, vector{0.3, -0.95}, vector{0.3, -0.3}, vector{0.95, -0.3}, vector{0.95, 0.3}, vector{0.3, 0.3},
		vector{0.3, 0.95}, vector{-0.3, 0.95}, vector{-0.3, 0.3}, vector{-0.95, 0.3}, vector{-0.95, -0.3}, vector{-0.3, -0.3})},
	bar,
	{"crescent", except(circle(vector{}, 0.95), circle(vector{0.55, 0}, 0.7))},
}

// bar is a shape of the pretraining. Clutter has this shape, too.
var bar = shape{"bar", polygon(vector{-0.95, -0.3}, vector{0.95, -0.3}, vector{0.95, 0.3}, vector{-0.95, 0.3})}

// pointers lists the shapes of the task orientation, which point towards +x. The point of a pointer
// that is farthest from its centroid lies in this direction.
var pointers = []shape{
	{"dart", polygon(vector{1, 0}, vector{-0.8, 0.6}, vector{-0.45, 0}, vector{-0.8, -0.6})},
	// The base of the triangle ends where the tangents from its tip touch the circle.
	{"drop", union(circle(vector{-0.45, 0}, 0.55), polygon(vector{1, 0}, vector{-0.2414, 0.5089}, vector{-0.2414, -0.5089}))},
	{"pin", union(circle(vector{-0.55, 0}, 0.45), polygon(vector{1, 0.17}, vector{-0.5, 0.17}, vector{-0.5, -0.17}, vector{1, -0.17}))},
}

// pentagon holds five unit vectors that are 72° apart. The first one points upwards.
var pentagon = [5]vector{
	{0, -1},
	{0.9510565162951535, -0.30901699437494745},
	{0.5877852522924731, 0.8090169943749475},
	{-0.5877852522924731, 0.8090169943749475},
	{-0.9510565162951535, -0.30901699437494745},
}

// star returns the distance function of a star with five points.
func star() func(vector) float64 {
	var vertices []vector
	for i, outer := range pentagon {
		// The inner vertex after an outer vertex lies opposite to the third outer vertex after it.
		opposite := pentagon[(i+3)%5]
		vertices = append(vertices, outer, vector{float64(-0.45 * opposite.x), float64(-0.45 * opposite.y)})
	}
	return polygon(vertices...)
}

// circle returns the distance function of a disc.
func circle(centre vector, radius float64) func(vector) float64 {
	return func(p vector) float64 {
		offset := vector{p.x - centre.x, p.y - centre.y}
		return math.Sqrt(dot(offset, offset)) - radius
	}
}

// union returns the distance function of the points inside a or b.
func union(a, b func(vector) float64) func(vector) float64 {
	return func(p vector) float64 { return min(a(p), b(p)) }
}

// except returns the distance function of the points inside a and outside b.
func except(a, b func(vector) float64) func(vector) float64 {
	return func(p vector) float64 { return max(a(p), -b(p)) }
}

// polygon returns the distance function of a polygon, which may be concave.
func polygon(vertices ...vector) func(vector) float64 {
	type edge struct {
		from, along   vector
		square, slope float64 // |along|², along.x / along.y
	}
	edges := make([]edge, len(vertices))
	for i, from := range vertices {
		to := vertices[(i+1)%len(vertices)]
		along := vector{to.x - from.x, to.y - from.y}
		edges[i] = edge{from, along, dot(along, along), along.x / along.y}
	}
	return func(p vector) float64 {
		nearest, inside := math.Inf(1), false
		for i := range edges {
			e := &edges[i]
			offset := vector{p.x - e.from.x, p.y - e.from.y}
			t := clamp(dot(offset, e.along) / e.square)
			foot := vector{offset.x - float64(t*e.along.x), offset.y - float64(t*e.along.y)}
			nearest = min(nearest, dot(foot, foot))
			// Even-odd rule: a point is inside if a ray towards +x crosses an odd number of edges.
			// The slope of a horizontal edge is not finite, and the ray never crosses it.
			if (offset.y < 0) != (offset.y < e.along.y) && offset.x < float64(offset.y*e.slope) {
				inside = !inside
			}
		}
		if inside {
			return -math.Sqrt(nearest)
		}
		return math.Sqrt(nearest)
	}
}

// clamp limits v to [0, 1].
func clamp(v float64) float64 { return min(max(v, 0), 1) }
