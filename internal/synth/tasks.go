package synth

import (
	"math"
	"math/rand/v2"
	"slices"
	"strconv"
	"sync"
)

// Task is a small classification task for tuning a pretrained backbone. [Tasks] returns the tasks.
// Do not change their fields, because [Task.Image] depends on them.
type Task struct {
	Name    string   // "fractals", "silhouettes", "surfaces", "count", "orientation" or "location"
	Classes []string // name of each class

	scene func(r *rand.Rand, label int) scene
}

// Tasks returns the tasks. The classes of the first three are new: they are not in the pretraining.
// Their images have any colours, and lean up to 45° to each side. The other three ask for
// properties that the pretraining ignores. The tasks are, in this order:
//
//   - fractals: which one of 16 fractals. Chance is 1/16.
//   - silhouettes: which one of 16 silhouettes. Chance is 1/16.
//   - surfaces: which one of 16 surfaces. Chance is 1/16.
//   - count: the number of objects, 1 to 8. The objects are discs, squares and triangles of any
//     colour, and do not touch each other. Chance is 1/8.
//   - orientation: the compass direction in which a dart, drop or pin points, one of 8. The object
//     deviates from the direction by at most 16°. Chance is 1/8.
//   - location: the cell with the centre of the only object, one of 4×4 cells in reading order. The
//     object has any shape and texture of the pretraining. Chance is 1/16.
func Tasks() []Task { return slices.Clone(allTasks()) }

// allTasks returns the tasks. The forms of their textures take a millisecond to draw.
var allTasks = sync.OnceValue(func() []Task {
	var tasks []Task
	for _, k := range formKinds {
		tasks = append(tasks, formTask(k.name, k.draw))
	}
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
	return append(tasks, count, orientation, location)
})

// Image draws the image with the given index in a split. It returns the pixels, [size, size, 3]
// RGB, and the label, an index into t.Classes. Image is a pure function of its arguments; see the
// package documentation. A split can have any name. Splits with different names have different
// images.
//
// Labels are balanced: each block of len(t.Classes) images has every label once. The order of the
// labels is random in each block. The pixels are nil if size is below 1. If index is negative or t
// is not one of [Tasks], the pixels are nil and the label is -1.
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

// formsOfTask is the number of classes of a task whose classes are forms.
const formsOfTask = 16

// formTask returns the task to recognise forms of a kind.
func formTask(kind string, draw func(r *rand.Rand) form) Task {
	t := Task{Name: kind + "s"}
	var forms []form
	for i := range formsOfTask {
		forms = append(forms, draw(source("task form", kind, uint64(i))))
		t.Classes = append(t.Classes, kind+" "+strconv.Itoa(i+1))
	}
	t.scene = func(r *rand.Rand, label int) scene {
		s := anyScene(r)
		forms[label](r, &s, 1, palette(r, &s, anyColour))
		return s
	}
	return t
}

// mostObjects is the greatest number of objects of the task count.
const mostObjects = 8

// countScene draws a scene of label + 1 objects.
func countScene(r *rand.Rand, label int) scene {
	s := anyScene(r)
	// The size of the objects and their total area must not reveal their number.
	typical := uniform(r, 0.08, 0.115)
	for range label + 1 {
		radius := float64(typical * uniform(r, 0.9, 1.15))
		centre := vector{within(r, radius), within(r, radius)}
		for s.crowded(centre, radius) {
			// Reduce the radius a little at every attempt, so that the object fits in the end.
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

// crowded reports whether a new object would be too close to another object. In an image of 32×32
// pixels, objects are at least about one pixel apart.
func (s *scene) crowded(centre vector, radius float64) bool {
	for _, o := range s.objects {
		apart := vector{o.centre.x - centre.x, o.centre.y - centre.y}
		if math.Sqrt(dot(apart, apart)) < o.radius+radius+0.04 {
			return true
		}
	}
	return false
}

// half is the cosine of 45°.
const half = math.Sqrt2 / 2

// compass lists the directions anticlockwise, beginning on the right.
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

// orientationScene draws a scene of one object that points to the direction of the label.
func orientationScene(r *rand.Rand, label int) scene {
	s := anyScene(r)
	radius := uniform(r, 0.2, 0.36)
	centre := vector{within(r, radius), within(r, radius)}
	t := textures[0]
	if r.IntN(2) == 1 {
		t = textures[len(textures)-1]
	}
	o := anyObject(r, pointers[r.IntN(len(pointers))], t, centre, radius, s.ground)
	// A slope of 0.2867 is 16°. It leaves 13° between neighbouring classes.
	o.heading = rotate(compass[label].direction, tilt(r, 0.2867))
	s.objects = []object{o}
	return s
}

// cells is the number of cells of the task location along each side.
const cells = 4

// locationScene draws a scene of one object in the cell of the label.
func locationScene(r *rand.Rand, label int) scene {
	s := anyScene(r)
	radius := uniform(r, 0.1, 0.15)
	// The object lies completely inside the image. In an image of 32×32 pixels, its centre is more
	// than one pixel away from the neighbouring cells.
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
