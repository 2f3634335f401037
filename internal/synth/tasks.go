package synth

import (
	"math"
	"math/rand/v2"
	"strconv"
)

// Task is a small classification task to tune a pretrained backbone on. Get one
// from [Tasks] and leave its fields as they are: they select the images.
type Task struct {
	Name    string   // count, orientation or location
	Classes []string // name of each label

	scene func(r *rand.Rand, label int) scene
}

// Tasks lists the tasks, in this order:
//
//   - count: how many objects, 1 to 8; discs, squares and triangles of any
//     colour, which do not touch. Chance is 1/8.
//   - orientation: which of 8 compass directions a dart, drop or pin points to,
//     give or take 16°. Chance is 1/8.
//   - location: which of 4×4 equal cells of the image, in reading order, holds the
//     centre of the one object; any shape and texture of the pretraining. Chance
//     is 1/16.
func Tasks() []Task {
	count := Task{Name: "count", scene: countScene}
	for n := range mostObjects {
		count.Classes = append(count.Classes, strconv.Itoa(n+1))
	}
	orientation := Task{Name: "orientation", scene: orientationScene}
	for _, direction := range compass {
		orientation.Classes = append(orientation.Classes, direction.name)
	}
	location := Task{Name: "location", scene: locationScene}
	for row := range cells {
		for column := range cells {
			location.Classes = append(location.Classes, "row "+strconv.Itoa(row+1)+" column "+strconv.Itoa(column+1))
		}
	}
	return []Task{count, orientation, location}
}

// Image draws image index of a split: [size, size, 3] RGB bytes and the label, an
// index into t.Classes. It is a pure function of its arguments (see the package's
// note on reproducibility); splits are told apart by name only, and any name
// will do. Labels are balanced: of each run of C = len(t.Classes) images that
// starts at a multiple of C, every image has another label, in an order shuffled
// for each run. The pixels are nil if size is below 1; they are nil and the label
// is -1 if index is negative or t is not one of [Tasks].
func (t Task) Image(seed uint64, split string, index int, size int) (pix []uint8, label int) {
	if t.scene == nil || len(t.Classes) == 0 || index < 0 {
		return nil, -1
	}
	n := len(t.Classes)
	label = source(t.Name+" labels", split, seed, uint64(index/n)).Perm(n)[index%n]
	r := source(t.Name, split, seed, uint64(index))
	s := t.scene(r, label)
	return s.render(r, size), label
}

const mostObjects = 8

func countScene(r *rand.Rand, label int) scene {
	s := anyScene(r)
	// Neither the size of one object nor the area of all may tell the number.
	typical := uniform(r, 0.08, 0.115)
	for range label + 1 {
		radius := float64(typical * uniform(r, 0.9, 1.15))
		centre := vector{within(r, radius), within(r, radius)}
		for s.crowded(centre, radius) {
			// Shrinking a little at every try makes sure that a place is found.
			radius = float64(radius * 0.998)
			centre = vector{within(r, radius), within(r, radius)}
		}
		t := textures[0]
		if r.IntN(2) == 1 {
			t = textures[len(textures)-1]
		}
		s.objects = append(s.objects, anyObject(r, shapes[r.IntN(3)], t, centre, radius, s.ground))
	}
	return s
}

// crowded is whether a new object would come closer to another than the pixel or
// so that separates them in an image of 32.
func (s *scene) crowded(centre vector, radius float64) bool {
	for _, o := range s.objects {
		apart := vector{o.centre.x - centre.x, o.centre.y - centre.y}
		if math.Sqrt(dot(apart, apart)) < o.radius+radius+0.04 {
			return true
		}
	}
	return false
}

const half = math.Sqrt2 / 2

// compass goes anticlockwise from the right.
var compass = []struct {
	name      string
	direction vector
}{
	{"east", vector{1, 0}},
	{"north-east", vector{half, -half}},
	{"north", vector{0, -1}},
	{"north-west", vector{-half, -half}},
	{"west", vector{-1, 0}},
	{"south-west", vector{-half, half}},
	{"south", vector{0, 1}},
	{"south-east", vector{half, half}},
}

func orientationScene(r *rand.Rand, label int) scene {
	s := anyScene(r)
	radius := uniform(r, 0.2, 0.36)
	centre := vector{within(r, radius), within(r, radius)}
	t := textures[0]
	if r.IntN(2) == 1 {
		t = textures[len(textures)-1]
	}
	o := anyObject(r, pointers[r.IntN(len(pointers))], t, centre, radius, s.ground)
	// A slope of 0.2867 is 16°, which leaves 13° between neighbouring classes.
	o.heading = rotate(compass[label].direction, tilt(r, 0.2867))
	s.objects = []object{o}
	return s
}

// cells in each direction of the location task.
const cells = 4

func locationScene(r *rand.Rand, label int) scene {
	s := anyScene(r)
	radius := uniform(r, 0.1, 0.15)
	// The object is whole, and its centre is more than a pixel of an image of
	// 32 away from the neighbouring cells.
	coordinate := func(cell int) float64 {
		low := max(radius, (float64(cell)+0.15)/cells)
		high := min(1-radius, (float64(cell)+0.85)/cells)
		return uniform(r, low, high)
	}
	centre := vector{coordinate(label % cells), coordinate(label / cells)}
	o := anyObject(r, shapes[r.IntN(len(shapes))], textures[r.IntN(len(textures))], centre, radius, s.ground)
	s.objects = []object{o}
	return s
}
