package dataset

import (
	"fmt"
	"math"
	"math/rand/v2"
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
		// Each class of two can give only one image.
		{[]int{2, 2}, 0.45, 0.45, []int{1, 1}, []int{1, 1}, []int{0, 0}},
		// Every class of three or more gives an image to each split.
		{[]int{12, 12}, 0.1, 0.1, []int{10, 10}, []int{1, 1}, []int{1, 1}},
		{[]int{3, 5, 25}, 0.1, 0.1, []int{1, 3, 19}, []int{1, 1, 3}, []int{1, 1, 3}},
		{[]int{5, 5, 5, 5}, 0.1, 0, []int{4, 4, 4, 4}, []int{1, 1, 1, 1}, []int{0, 0, 0, 0}},
		{[]int{0, 10}, 0.1, 0.2, []int{0, 7}, []int{0, 1}, []int{0, 2}},
		{[]int{3, 4}, 0.6, 0.39, []int{1, 1}, []int{1, 1}, []int{1, 2}},
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

// TestStratifyPool checks that 200 classes of 2 images together give a tenth of all images to each
// split.
func TestStratifyPool(t *testing.T) {
	train, val, test := stratify(classSizes(slices.Repeat([]int{2}, 200)...), 0.1, 0.1, 0)
	if len(train) != 320 || len(val) != 40 || len(test) != 40 {
		t.Errorf("%d/%d/%d images in train/val/test, want 320/40/40", len(train), len(val), len(test))
	}
}

// TestStratifyProperties checks the promises about every class on random sizes, fractions and
// seeds.
func TestStratifyProperties(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	for range 500 {
		sizes := make([]int, 1+rng.IntN(12))
		for i := range sizes {
			sizes[i] = rng.IntN(40)
		}
		valFraction := rng.Float64() * 0.6
		testFraction := rng.Float64() * (0.98 - valFraction)
		if rng.IntN(5) == 0 {
			valFraction = 0
		}
		seed := rng.Uint64()
		samples := classSizes(sizes...)
		train, val, test := stratify(samples, valFraction, testFraction, seed)
		what := fmt.Sprintf("%v at %g/%g seed %d", sizes, valFraction, testFraction, seed)
		inTrain, inVal, inTest := count(train, len(sizes)), count(val, len(sizes)), count(test, len(sizes))
		for c, n := range sizes {
			if inTrain[c]+inVal[c]+inTest[c] != n || n > 0 && inTrain[c] == 0 {
				t.Fatalf("%s: class %d has %d/%d/%d images", what, c, inTrain[c], inVal[c], inTest[c])
			}
			if n < 3 {
				continue
			}
			for _, s := range []struct {
				got      int
				fraction float64
			}{{inVal[c], valFraction}, {inTest[c], testFraction}} {
				want := s.fraction * float64(n)
				if (s.got == 0) != (s.fraction == 0) || math.Abs(float64(s.got)-want) > 0.5+1e-9 && s.got > 1 && inTrain[c] > 1 {
					t.Fatalf("%s: class %d of %d images gives %d, want about %.2f", what, c, n, s.got, want)
				}
			}
		}
		shuffled := slices.Clone(samples)
		rng.Shuffle(len(shuffled), func(i, j int) { shuffled[i], shuffled[j] = shuffled[j], shuffled[i] })
		_, val2, test2 := stratify(shuffled, valFraction, testFraction, seed)
		for _, pair := range [][2][]Sample{{val, val2}, {test, test2}} {
			a, b := paths(pair[0]), paths(pair[1])
			slices.Sort(a)
			slices.Sort(b)
			if !slices.Equal(a, b) {
				t.Fatalf("%s: another order of the list gives another split", what)
			}
		}
	}
}

// TestSmallClasses checks the note about the classes that are not in every split.
func TestSmallClasses(t *testing.T) {
	files := tree{}
	for class, n := range map[string]int{"many": 12, "three": 3, "two": 2, "one": 1} {
		for i := range n {
			files[fmt.Sprintf("%s/%d.png", class, i)] = "image"
		}
	}
	d, err := Open(t.Context(), files.write(t), OpenOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if want := []string{`classes with fewer than 3 images are not in every split: "one", "two"`}; !slices.Equal(d.Notes, want) {
		t.Errorf("notes %q, want %q", d.Notes, want)
	}
	d, err = Open(t.Context(), d.Root, OpenOptions{ValFraction: -1, TestFraction: -1})
	if err != nil || d.Notes != nil {
		t.Errorf("without splits: notes %q, error %v", d.Notes, err)
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
		{files, OpenOptions{}, 32, 4, 4, "stratified by class 0.8/0.1/0.1 seed 0"},
		{files, OpenOptions{ValFraction: 0.25, TestFraction: -1, Seed: 9}, 30, 10, 0, "val stratified by class 0.75/0.25 of train seed 9, test none"},
		{withVal, OpenOptions{}, 36, 1, 4, "val given, test stratified by class 0.9/0.1 of train seed 0"},
		{withTest, OpenOptions{ValFraction: 0.2}, 32, 8, 1, "val stratified by class 0.8/0.2 of train seed 0, test given"},
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
