package synth

import (
	"bytes"
	"fmt"
	"hash/crc32"
	"slices"
	"sync"
	"testing"
)

func TestClasses(t *testing.T) {
	classes := Classes()
	if len(classes) != 760 {
		t.Fatalf("%d classes, want 760", len(classes))
	}
	index := map[Class]int{}
	for i, c := range classes {
		if first, ok := index[c]; ok {
			t.Errorf("classes %d and %d are both %v", first, i, c)
		}
		index[c] = i
	}
	for c, want := range map[Class]int{
		{Shape: "disc", Texture: "solid", Arrangement: "single"}:      0,
		{Shape: "disc", Texture: "solid", Arrangement: "ring"}:        4,
		{Shape: "disc", Texture: "horizontal", Arrangement: "single"}: 5,
		{Shape: "square", Texture: "solid", Arrangement: "single"}:    30,
		{Shape: "ring", Texture: "checker", Arrangement: "stack"}:     (4*6+3)*5 + 2,
		{Shape: "crescent", Texture: "gradient", Arrangement: "ring"}: 239,
		{Shape: "triangle", Texture: "vertical", Arrangement: "pair"}: (2*6+2)*5 + 1,
	} {
		if got, ok := index[c]; !ok || got != want {
			t.Errorf("%v is class %d (found: %v), want %d", c, got, ok, want)
		}
	}
	forms := map[string]int{}
	for _, c := range classes[240:] {
		forms[c.Form]++
	}
	for kind, n := range map[string]int{"fractal": 120, "silhouette": 80, "surface": 60} {
		for i := range n {
			if name := fmt.Sprintf("%s %d", kind, i); forms[name] != 2 {
				t.Errorf("%s has %d classes, want 2", name, forms[name])
			}
		}
	}
	if len(forms) != 260 {
		t.Errorf("%d forms, want 260", len(forms))
	}
}

// TestPinnedImages checks hashes of the images, which are the same on every architecture. If a hash
// changes, the images are no longer those that the embedded backbone was trained on.
func TestPinnedImages(t *testing.T) {
	pretraining := func(seed uint64, size, first, end int) uint32 {
		sum := crc32.NewIEEE()
		for class := first; class < end; class++ {
			sum.Write(Pretraining(seed, class%7, class, size))
		}
		return sum.Sum32()
	}
	task := func(name string, size int) uint32 {
		sum := crc32.NewIEEE()
		for index := range 64 {
			pixels, label := taskNamed(t, name).Image(1, "train", index, size)
			sum.Write(append(pixels, byte(label)))
		}
		return sum.Sum32()
	}
	for _, pin := range []struct {
		name      string
		got, want uint32
	}{
		{"scenes of the pretraining, seed 0, 32 px", pretraining(0, 32, 0, 240), 0x98e498ce},
		{"scenes of the pretraining, seed 1<<63, 33 px", pretraining(1<<63, 33, 0, 240), 0x77ead4ed},
		{"forms of the pretraining, seed 0, 32 px", pretraining(0, 32, 240, 760), 0x97b898ef},
		{"fractals, 32 px", task("fractals", 32), 0xcd0555f8},
		{"silhouettes, 32 px", task("silhouettes", 32), 0x569e6c3f},
		{"surfaces, 64 px", task("surfaces", 64), 0x3b22fc31},
		{"count, 32 px", task("count", 32), 0xb69e8188},
		{"orientation, 48 px", task("orientation", 48), 0x5e2d691e},
		{"location, 32 px", task("location", 32), 0x98b9c6c4},
	} {
		if pin.got != pin.want {
			t.Errorf("%s: CRC-32 is %#08x, want %#08x", pin.name, pin.got, pin.want)
		}
	}
}

// taskNamed returns one of Tasks.
func taskNamed(t *testing.T, name string) Task {
	t.Helper()
	for _, task := range Tasks() {
		if task.Name == name {
			return task
		}
	}
	t.Fatalf("there is no task %q", name)
	return Task{}
}

// TestImagesDependOnTheirArgumentsOnly draws every image twice: first in order, then concurrently
// with all other images.
func TestImagesDependOnTheirArgumentsOnly(t *testing.T) {
	var draw []func() []uint8
	for _, seed := range []uint64{0, 1, 1 << 40} {
		for _, index := range []int{0, 1, 1 << 20} {
			for _, class := range []int{0, 239, 240, 480, 759} {
				draw = append(draw, func() []uint8 { return Pretraining(seed, index, class, 24) })
			}
			for _, task := range Tasks() {
				for _, split := range []string{"train", "val", ""} {
					draw = append(draw, func() []uint8 { pixels, _ := task.Image(seed, split, index, 24); return pixels })
				}
			}
		}
	}
	first := make([][]uint8, len(draw))
	for i, f := range draw {
		first[i] = f()
		if len(first[i]) != 24*24*3 {
			t.Fatalf("image %d has %d bytes, want %d", i, len(first[i]), 24*24*3)
		}
		for j := range i {
			if bytes.Equal(first[i], first[j]) {
				t.Errorf("images %d and %d of different arguments are equal", j, i)
			}
		}
	}
	var group sync.WaitGroup
	for i, f := range draw {
		group.Go(func() {
			if !bytes.Equal(f(), first[i]) {
				t.Errorf("image %d differs when it is drawn again", i)
			}
		})
	}
	group.Wait()
}

func TestLabelsAreBalancedAndShuffled(t *testing.T) {
	for _, task := range Tasks() {
		n := len(task.Classes)
		var runs, otherSplit [][]int
		for run := range 6 {
			var labels, other []int
			for i := range n {
				_, label := task.Image(3, "train", run*n+i, 1)
				labels = append(labels, label)
				_, label = task.Image(3, "test", run*n+i, 1)
				other = append(other, label)
			}
			runs, otherSplit = append(runs, labels), append(otherSplit, other)
			sorted := slices.Sorted(slices.Values(labels))
			for want, got := range sorted {
				if got != want {
					t.Fatalf("%s: labels of run %d are %v, want each of 0 to %d once", task.Name, run, labels, n-1)
				}
			}
		}
		for i := range runs {
			for j := range i {
				if slices.Equal(runs[i], runs[j]) {
					t.Errorf("%s: runs %d and %d have their labels in the same order", task.Name, j, i)
				}
			}
		}
		if fmt.Sprint(runs) == fmt.Sprint(otherSplit) {
			t.Errorf("%s: two splits have the same labels", task.Name)
		}
	}
}

func TestNoImageOutsideTheDomain(t *testing.T) {
	for _, c := range []struct{ class, size int }{{-1, 32}, {760, 32}, {0, 0}, {0, -5}} {
		if got := Pretraining(1, 0, c.class, c.size); got != nil {
			t.Errorf("class %d at size %d: %d bytes, want none", c.class, c.size, len(got))
		}
	}
	count := taskNamed(t, "count")
	if pixels, label := count.Image(1, "train", -1, 32); pixels != nil || label != -1 {
		t.Errorf("index -1: %d bytes with label %d, want none with -1", len(pixels), label)
	}
	if pixels, label := (Task{Name: "count", Classes: count.Classes}).Image(1, "train", 0, 32); pixels != nil || label != -1 {
		t.Errorf("a task that Tasks did not return: %d bytes with label %d, want none with -1", len(pixels), label)
	}
	if pixels, label := count.Image(1, "train", 0, 0); pixels != nil || label < 0 {
		t.Errorf("size 0: %d bytes with label %d, want none with a label", len(pixels), label)
	}
	if got := Pretraining(1, 0, 0, 1); len(got) != 3 {
		t.Errorf("size 1: %d bytes, want 3", len(got))
	}
}

func BenchmarkPretraining(b *testing.B) {
	for _, size := range []int{32, 64, 224} {
		b.Run(fmt.Sprintf("%dpx", size), func(b *testing.B) {
			b.ReportAllocs()
			classes, i := len(Classes()), 0
			for b.Loop() {
				Pretraining(1, i, i%classes, size)
				i++
			}
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "images/s")
		})
	}
}

func BenchmarkTask(b *testing.B) {
	for _, task := range Tasks() {
		b.Run(task.Name, func(b *testing.B) {
			b.ReportAllocs()
			i := 0
			for b.Loop() {
				task.Image(1, "train", i, DefaultSize)
				i++
			}
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "images/s")
		})
	}
}
