package synth

import (
	"math"
	"strconv"
	"testing"
)

// plain returns s with a flat background and without clutter, contrast and noise. Every pixel that
// differs from the background then belongs to an object.
func plain(s scene) scene {
	return scene{ground: ground{base: s.ground.base}, objects: s.objects, cloud: s.cloud, gain: 1}
}

// mask reports for each pixel of the plain scene whether it shows an object: [row][column].
func mask(s scene, size int) [][]bool {
	s = plain(s)
	pixels := s.render(source("", ""), size)
	objects := make([][]bool, size)
	for row := range objects {
		objects[row] = make([]bool, size)
		for column := range size {
			var c colour
			for i := range c {
				c[i] = float64(pixels[(row*size+column)*3+i]) / 255
			}
			objects[row][column] = c.farFrom(s.ground.base, 0.15)
		}
	}
	return objects
}

// centroid returns the centroid of a mask, in pixels from the centre of the first pixel, and the
// number of its pixels.
func centroid(objects [][]bool) (c vector, area float64) {
	for row := range objects {
		for column, in := range objects[row] {
			if in {
				c.x, c.y, area = c.x+float64(column), c.y+float64(row), area+1
			}
		}
	}
	return vector{c.x / area, c.y / area}, area
}

// regions returns the number of connected parts of a mask. It clears the mask.
func regions(objects [][]bool) int {
	var clear func(row, column int)
	clear = func(row, column int) {
		if row < 0 || row >= len(objects) || column < 0 || column >= len(objects) || !objects[row][column] {
			return
		}
		objects[row][column] = false
		for d := -1; d <= 1; d++ {
			for e := -1; e <= 1; e++ {
				clear(row+d, column+e)
			}
		}
	}
	n := 0
	for row := range objects {
		for column := range objects[row] {
			if objects[row][column] {
				n++
				clear(row, column)
			}
		}
	}
	return n
}

func TestCountIsTheNumberOfRegions(t *testing.T) {
	for label := range mostObjects {
		for index := range 25 {
			s := countScene(source("test", "", uint64(label), uint64(index)), label)
			if got := regions(mask(s, 64)); got != label+1 {
				t.Errorf("image %d of label %q: %d regions", index, taskNamed(t, "count").Classes[label], got)
			}
		}
	}
}

// TestOrientationIsThatOfTheFarPoints measures the direction of a pointer from its mask. The
// farthest points from the centroid lie in this direction. They dominate a high moment of the mask.
func TestOrientationIsThatOfTheFarPoints(t *testing.T) {
	for label, name := range taskNamed(t, "orientation").Classes {
		for index := range 25 {
			objects := mask(orientationScene(source("test", "", uint64(label), uint64(index)), label), 128)
			centre, _ := centroid(objects)
			var far vector
			for row := range objects {
				for column, in := range objects[row] {
					if in {
						v := vector{float64(column) - centre.x, float64(row) - centre.y}
						weight := math.Pow(dot(v, v), 5)
						far.x, far.y = far.x+weight*v.x, far.y+weight*v.y
					}
				}
			}
			// Rows grow downwards. Degrees grow anticlockwise, from the right.
			degrees := math.Atan2(-far.y, far.x) * 180 / math.Pi
			if off := math.Remainder(degrees-45*float64(label), 360); math.Abs(off) > 18 {
				t.Errorf("image %d of label %q points to %.0f°, %.0f° off, want at most 16° and the error of the mask", index, name, degrees, off)
			}
		}
	}
}

func TestLocationIsTheCellOfTheCentroid(t *testing.T) {
	for label, name := range taskNamed(t, "location").Classes {
		for index := range 25 {
			s := locationScene(source("test", "", uint64(label), uint64(index)), label)
			// A disc replaces the crescent, whose centroid is not its centre.
			s.objects[0].shape = shapes[0]
			const size = 64
			centre, area := centroid(mask(s, size))
			row, column := int((centre.y+0.5)*4/size), int((centre.x+0.5)*4/size)
			if got := "row " + strconv.Itoa(row+1) + " column " + strconv.Itoa(column+1); got != name {
				t.Errorf("image %d of label %q is at %q", index, name, got)
			}
			radius := 0.88 * size * s.objects[0].radius
			if want := math.Pi * radius * radius; math.Abs(area/want-1) > 0.15 {
				t.Errorf("image %d of label %q: %g pixels of its disc show, want about %.0f", index, name, area, want)
			}
		}
	}
}

// TestEveryClassIsDrawnAndIsDifferent draws all classes from the same random numbers, so they
// differ only in shape, texture and arrangement, or in form and tint. It checks that no image is
// blank and that any two images differ.
func TestEveryClassIsDrawnAndIsDifferent(t *testing.T) {
	const size = 32
	var images [][]uint8
	for class, name := range Classes() {
		r := source("test", "")
		s := pretrainingScene(r, class)
		if _, area := centroid(mask(s, size)); area < 0.02*size*size {
			t.Errorf("%v: objects fill %g of %d pixels", name, area, size*size)
		}
		images = append(images, s.render(source("noise", ""), size))
	}
	for i, a := range images {
		for j, b := range images[:i] {
			different := 0
			for k := range a {
				if math.Abs(float64(a[k])-float64(b[k])) > 24 {
					different++
				}
			}
			if different < 30 {
				t.Errorf("classes %v and %v differ in %d of %d bytes only", Classes()[j], Classes()[i], different, len(a))
			}
		}
	}
}

func TestArrangementsHoldTheirNumberOfObjects(t *testing.T) {
	want := map[string]int{"single": 1, "pair": 2, "stack": 2, "grid": 4, "ring": 5}
	for class, name := range Classes() {
		if name.Texture != "solid" {
			continue
		}
		for index := range 5 {
			s := pretrainingScene(source("test", "", uint64(index)), class)
			if got := regions(mask(s, 128)); got != want[name.Arrangement] {
				t.Errorf("%v, image %d: %d regions, want %d", name, index, got, want[name.Arrangement])
			}
		}
	}
}

// TestSizesShowTheSameScene checks that a small image looks like a large image of the same scene
// that is scaled down. Antialiasing has this effect. Fractals and surfaces have details that a
// small image cannot show.
func TestSizesShowTheSameScene(t *testing.T) {
	const size, factor = 32, 8
	var sum, worst, images float64
	// A stride of 3 reaches every shape, texture and arrangement.
	for class := 0; class < scenes; class += 3 {
		s := pretrainingScene(source("test", "", uint64(class)), class)
		s.noise = 0
		small, large := s.render(source("", ""), size), s.render(source("", ""), size*factor)
		var difference float64
		for row := range size {
			for column := range size {
				for channel := range 3 {
					mean := 0.0
					for i := range factor * factor {
						y, x := row*factor+i/factor, column*factor+i%factor
						mean += float64(large[(y*size*factor+x)*3+channel]) / (factor * factor)
					}
					difference += math.Abs(mean - float64(small[(row*size+column)*3+channel]))
				}
			}
		}
		difference /= size * size * 3
		sum, worst, images = sum+difference, max(worst, difference), images+1
	}
	mean := sum / images
	t.Logf("mean difference %.2f of 255, worst image %.2f", mean, worst)
	if mean > 0.7 || worst > 2 {
		t.Errorf("mean difference from the image scaled down is %.2f of 255, %.2f in the worst image; want at most 0.7 and 2", mean, worst)
	}
}
