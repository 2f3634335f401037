package dataset

import (
	"fmt"
	"math"
	"slices"
	"testing"
)

// classSizes returns samples with paths. Class c has n[c] samples.
func classSizes(n ...int) []Sample {
	var samples []Sample
	for class, count := range n {
		for i := range count {
			samples = append(samples, Sample{Path: fmt.Sprintf("%d/%03d.png", class, i), Target: Class(class)})
		}
	}
	return samples
}

func count(samples []Sample, classes int) []int {
	n := make([]int, classes)
	for _, s := range samples {
		n[s.stratum()]++
	}
	return n
}

func paths(samples []Sample) []string {
	var all []string
	for _, s := range samples {
		all = append(all, s.Path)
	}
	return all
}

func TestStratify(t *testing.T) {
	for _, c := range []struct {
		sizes            []int
		val, test        float64
		train, vals, tst []int
	}{
		{[]int{10, 20, 100}, 0.1, 0.1, []int{8, 16, 80}, []int{1, 2, 10}, []int{1, 2, 10}},
		{[]int{100}, 0.25, 0, []int{75}, []int{25}, []int{0}},
		// Every class keeps one training image.
		{[]int{1, 1, 1}, 0.3, 0.3, []int{1, 1, 1}, []int{0, 0, 0}, []int{0, 0, 0}},
		// Each class can give only one image.
		{[]int{2, 2}, 0.45, 0.45, []int{1, 1}, []int{1, 1}, []int{0, 0}},
		// Every second class gives an image, because each class owes half an image.
		{[]int{5, 5, 5, 5}, 0.1, 0, []int{4, 5, 4, 5}, []int{1, 0, 1, 0}, []int{0, 0, 0, 0}},
		// No class gives images to both splits.
		{[]int{2, 2, 2, 2, 2, 2, 2, 2, 2, 2}, 0.1, 0.1, []int{2, 2, 1, 2, 1, 2, 2, 1, 2, 1}, []int{0, 0, 1, 0, 0, 0, 0, 1, 0, 0}, []int{0, 0, 0, 0, 1, 0, 0, 0, 0, 1}},
		// A large class gives the images that the small classes cannot give.
		{[]int{1, 1, 1, 1, 1, 5}, 0.2, 0.2, []int{1, 1, 1, 1, 1, 1}, []int{0, 0, 0, 0, 0, 2}, []int{0, 0, 0, 0, 0, 2}},
		{[]int{0, 10}, 0.1, 0.2, []int{0, 7}, []int{0, 1}, []int{0, 2}},
	} {
		samples := classSizes(c.sizes...)
		train, val, test := stratify(samples, c.val, c.test, 3)
		if a, b, d := count(train, len(c.sizes)), count(val, len(c.sizes)), count(test, len(c.sizes)); !slices.Equal(a, c.train) || !slices.Equal(b, c.vals) || !slices.Equal(d, c.tst) {
			t.Errorf("%v at %g/%g: train %v, val %v, test %v; want %v, %v, %v", c.sizes, c.val, c.test, a, b, d, c.train, c.vals, c.tst)
		}
		all := slices.Concat(paths(train), paths(val), paths(test))
		slices.Sort(all)
		if !slices.Equal(all, paths(samples)) {
			t.Errorf("%v: the three splits together differ from the samples", c.sizes)
		}
	}
}

// TestStratifySmallClasses checks that 200 classes of 4 images give a tenth of all images. Rounding
// each class separately would give none of them or a quarter.
func TestStratifySmallClasses(t *testing.T) {
	sizes := slices.Repeat([]int{4}, 200)
	_, val, _ := stratify(classSizes(sizes...), 0.1, 0.1, 0)
	if len(val) != 80 {
		t.Errorf("%d of 800 images in the validation split, want 80", len(val))
	}
}

// TestStratifyOrder checks that the choice depends on the paths and the seed, not on the order of
// the list.
func TestStratifyOrder(t *testing.T) {
	samples := classSizes(30, 50, 7)
	_, val, test := stratify(samples, 0.2, 0.1, 5)
	reversed := slices.Clone(samples)
	slices.Reverse(reversed)
	_, val2, test2 := stratify(reversed, 0.2, 0.1, 5)
	slices.Reverse(val2)
	slices.Reverse(test2)
	if !slices.Equal(paths(val), paths(val2)) || !slices.Equal(paths(test), paths(test2)) {
		t.Error("the reversed list gives another split")
	}
	_, other, _ := stratify(samples, 0.2, 0.1, 6)
	if slices.Equal(paths(val), paths(other)) {
		t.Error("another seed gives the same split")
	}
	// A different result would change the splits of every data set.
	want := []string{"2/001.png"}
	if got := paths(val)[len(val)-1:]; !slices.Equal(got, want) {
		t.Errorf("the last validation image is %v, want %v", got, want)
	}
}

func TestFractions(t *testing.T) {
	for _, c := range []struct{ val, test, wantVal, wantTest float64 }{
		{0, 0, 0.1, 0.1}, {-1, 0.3, 0, 0.3}, {0.2, -1, 0.2, 0}, {-1, -1, 0, 0},
	} {
		val, test, err := OpenOptions{ValFraction: c.val, TestFraction: c.test}.fractions()
		if err != nil || val != c.wantVal || test != c.wantTest {
			t.Errorf("%+v: %g, %g, %v", c, val, test, err)
		}
	}
	if _, _, err := (OpenOptions{ValFraction: math.NaN()}).fractions(); err == nil {
		t.Error("NaN was accepted")
	}
}

// TestOpenSplits checks which splits Open makes, and how Dataset.Split describes them.
func TestOpenSplits(t *testing.T) {
	files := tree{}
	for i := range 20 {
		files[fmt.Sprintf("train/a/%02d.png", i)] = "image"
		files[fmt.Sprintf("train/b/%02d.png", i)] = "image"
	}
	withVal := files.with(tree{"val/a/x.png": "image"})
	withTest := files.with(tree{"test/a/x.png": "image"})
	for _, c := range []struct {
		files            tree
		o                OpenOptions
		train, val, test int
		split            string
	}{
		{files, OpenOptions{}, 32, 4, 4, "stratified 0.8/0.1/0.1 seed 0"},
		{files, OpenOptions{ValFraction: 0.25, TestFraction: -1, Seed: 9}, 30, 10, 0, "val stratified 0.75/0.25 of train seed 9, test none"},
		{withVal, OpenOptions{}, 36, 1, 4, "val given, test stratified 0.9/0.1 of train seed 0"},
		{withTest, OpenOptions{ValFraction: 0.2}, 32, 8, 1, "val stratified 0.8/0.2 of train seed 0, test given"},
		{withTest, OpenOptions{ValFraction: -1}, 40, 0, 1, "val none, test given"},
	} {
		d, err := Open(t.Context(), c.files.write(t), c.o)
		if err != nil {
			t.Fatal(err)
		}
		if len(d.Train) != c.train || len(d.Val) != c.val || len(d.Test) != c.test || d.Split != c.split {
			t.Errorf("%+v: %d/%d/%d, %q; want %d/%d/%d, %q", c.o, len(d.Train), len(d.Val), len(d.Test), d.Split, c.train, c.val, c.test, c.split)
		}
		again, err := Open(t.Context(), d.Root, c.o)
		if err != nil {
			t.Fatal(err)
		}
		if !slices.Equal(paths(d.Val), paths(again.Val)) || !slices.Equal(paths(d.Test), paths(again.Test)) {
			t.Errorf("%+v: opening the data set again gives other splits", c.o)
		}
	}
}
