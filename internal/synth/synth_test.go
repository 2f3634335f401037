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
	if len(classes) != 240 {
		t.Fatalf("%d classes, want 240", len(classes))
	}
	index := map[Class]int{}
	for i, c := range classes {
		if first, ok := index[c]; ok {
			t.Errorf("classes %d and %d are both %v", first, i, c)
		}
		index[c] = i
	}
	for c, want := range map[Class]int{
		{"disc", "solid", "single"}:      0,
		{"disc", "solid", "ring"}:        4,
		{"disc", "horizontal", "single"}: 5,
		{"square", "solid", "single"}:    30,
		{"ring", "checker", "stack"}:     (4*6+3)*5 + 2,
		{"crescent", "gradient", "ring"}: 239,
		{"triangle", "vertical", "pair"}: (2*6+2)*5 + 1,
	} {
		if got, ok := index[c]; !ok || got != want {
			t.Errorf("%v is class %d (found: %v), want %d", c, got, ok, want)
		}
	}
}

// TestPinnedImages checks hashes of the images, which are the same on every architecture. If a hash
// changes, the images are no longer those that the embedded backbone was trained on.
func TestPinnedImages(t *testing.T) {
	pretraining := func(seed uint64, size int) uint32 {
		sum := crc32.NewIEEE()
		for class := range Classes() {
			sum.Write(Pretraining(seed, class%7, class, size))
		}
		return sum.Sum32()
	}
	task := func(i, size int) uint32 {
		sum := crc32.NewIEEE()
		for index := range 64 {
			pixels, label := Tasks()[i].Image(1, "train", index, size)
			sum.Write(append(pixels, byte(label)))
		}
		return sum.Sum32()
	}
	for _, pin := range []struct {
		name      string
		got, want uint32
	}{
		{"pretraining, seed 0, 32 px", pretraining(0, 32), 0x98e498ce},
		{"pretraining, seed 1<<63, 33 px", pretraining(1<<63, 33), 0x77ead4ed},
		{"count, 32 px", task(0, 32), 0xb69e8188},
		{"orientation, 48 px", task(1, 48), 0x5e2d691e},
		{"location, 32 px", task(2, 32), 0x98b9c6c4},
	} {
		if pin.got != pin.want {
			t.Errorf("%s: CRC-32 is %#08x, want %#08x", pin.name, pin.got, pin.want)
		}
	}
}

// TestImagesDependOnTheirArgumentsOnly draws every image twice: first in order, then concurrently
// with all other images.
func TestImagesDependOnTheirArgumentsOnly(t *testing.T) {
	var draw []func() []uint8
	for _, seed := range []uint64{0, 1, 1 << 40} {
		for _, index := range []int{0, 1, 1 << 20} {
			for _, class := range []int{0, 1, 239} {
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
	for _, c := range []struct{ class, size int }{{-1, 32}, {240, 32}, {0, 0}, {0, -5}} {
		if got := Pretraining(1, 0, c.class, c.size); got != nil {
			t.Errorf("class %d at size %d: %d bytes, want none", c.class, c.size, len(got))
		}
	}
	count := Tasks()[0]
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
