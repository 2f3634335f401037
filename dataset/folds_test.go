package dataset

import (
	"encoding/json"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"testing"
)

// foldSpread is the measure of scikit-learn's StratifiedGroupKFold: the mean over the classes of
// the standard deviation of their shares among the folds.
func foldSpread(counts [][]int) float64 {
	sum := 0.0
	for class := range counts[0] {
		total := 0
		for _, fold := range counts {
			total += fold[class]
		}
		mean, squares := 1/float64(len(counts)), 0.0
		for _, fold := range counts {
			d := float64(fold[class])/float64(total) - mean
			squares += d * d
		}
		sum += math.Sqrt(squares / float64(len(counts)))
	}
	return sum / float64(len(counts[0]))
}

// TestFoldsAgainstSklearn compares folds with those of scikit-learn: without groups, the numbers of
// images of every class are the same up to the order of the folds; with groups, the folds are as
// equal as the best of five shuffles there, or nearly.
func TestFoldsAgainstSklearn(t *testing.T) {
	data, err := os.ReadFile("testdata/folds/folds.json")
	if err != nil {
		t.Fatal(err)
	}
	var file struct {
		Cases []struct {
			Labels, Groups []int
			Folds          int
			Counts         [][]int
			Spread         float64
		}
	}
	if err := json.Unmarshal(data, &file); err != nil {
		t.Fatal(err)
	}
	better, grouped := 0, 0
	for n, c := range file.Cases {
		var samples []Sample
		classes := 0
		for i, label := range c.Labels {
			s := Sample{Path: fmt.Sprintf("%04d.png", i), Target: Class(label)}
			if c.Groups != nil {
				s.Group = fmt.Sprint(c.Groups[i])
			}
			samples, classes = append(samples, s), max(classes, label+1)
		}
		folds, err := divideFolds(samples, c.Folds, 0)
		if err != nil {
			t.Fatal(err)
		}
		counts := make([][]int, c.Folds)
		for f := range counts {
			counts[f] = make([]int, classes)
		}
		for i, f := range folds {
			counts[f][c.Labels[i]]++
		}
		if c.Groups == nil {
			for class := range classes {
				var own, theirs []int
				for f := range counts {
					own, theirs = append(own, counts[f][class]), append(theirs, c.Counts[f][class])
				}
				slices.Sort(own)
				slices.Sort(theirs)
				if !slices.Equal(own, theirs) {
					t.Errorf("case %d, class %d: %v images in the folds, scikit-learn has %v", n, class, own, theirs)
				}
			}
			continue
		}
		grouped++
		if got := foldSpread(counts); got > c.Spread*1.25+0.002 {
			t.Errorf("case %d: %d folds deviate by %.4f, those of scikit-learn by %.4f", n, c.Folds, got, c.Spread)
		} else if got <= c.Spread {
			better++
		}
	}
	t.Logf("folds are at least as equal as those of scikit-learn in %d of %d cases with groups", better, grouped)
	if better*2 < grouped {
		t.Errorf("folds are at least as equal as those of scikit-learn in only %d of %d cases", better, grouped)
	}
}

// randomSamples returns samples of some classes, of which most belong to groups.
func randomSamples(rng *rand.Rand) (samples []Sample, classes int) {
	classes = 2 + rng.IntN(5)
	n := 0
	for g := range 4 + rng.IntN(40) {
		main := rng.IntN(classes)
		size := 1 + rng.IntN(8)
		for range size {
			class := main
			if rng.IntN(4) == 0 {
				class = rng.IntN(classes)
			}
			s := Sample{Path: fmt.Sprintf("%03d.png", n), Target: Class(class), Where: "list"}
			if g%5 > 0 {
				s.Group = fmt.Sprintf("g%d", g)
			}
			samples = append(samples, s)
			n++
		}
	}
	return samples, classes
}

// groupPlaces returns an error if a group is in several of the lists, or if the lists do not hold
// every image of all once.
func groupPlaces(all []Sample, lists ...[]Sample) error {
	place, seen := map[string]int{}, map[string]bool{}
	for i, list := range lists {
		for _, s := range list {
			if at, ok := place[s.Group]; ok && s.Group != "" && at != i {
				return fmt.Errorf("group %s is in the lists %d and %d", s.Group, at, i)
			}
			if seen[s.Path] {
				return fmt.Errorf("image %s is listed twice", s.Path)
			}
			place[s.Group], seen[s.Path] = i, true
		}
	}
	if len(seen) != len(all) {
		return fmt.Errorf("found %d of %d images", len(seen), len(all))
	}
	return nil
}

// TestGroupsStayTogether checks over many random data sets that no group is divided, that the
// result does not depend on the order of the list, and that every class keeps a training image.
func TestGroupsStayTogether(t *testing.T) {
	for n := range 150 {
		rng := rand.New(rand.NewPCG(1, uint64(n)))
		samples, classes := randomSamples(rng)
		valFraction, testFraction := 0.5*rng.Float64(), 0.45*rng.Float64()
		if n%5 == 0 {
			testFraction = 0
		}
		seed := rng.Uint64()
		train, val, test, err := stratifyGroups(samples, valFraction, testFraction, seed)
		if err != nil {
			t.Fatal(err)
		}
		if err := groupPlaces(samples, train, val, test); err != nil {
			t.Fatalf("data set %d: %v", n, err)
		}
		total, kept := count(samples, classes), count(train, classes)
		for class := range total {
			if total[class] > 0 && kept[class] == 0 {
				t.Errorf("data set %d: class %d has no training image", n, class)
			}
		}
		shuffled := slices.Clone(samples)
		rng.Shuffle(len(shuffled), func(i, j int) { shuffled[i], shuffled[j] = shuffled[j], shuffled[i] })
		_, val2, test2, err := stratifyGroups(shuffled, valFraction, testFraction, seed)
		if err != nil {
			t.Fatal(err)
		}
		for _, lists := range [][2][]Sample{{val, val2}, {test, test2}} {
			a, b := paths(lists[0]), paths(lists[1])
			slices.Sort(a)
			slices.Sort(b)
			if !slices.Equal(a, b) {
				t.Fatalf("data set %d: another order of the list gives another split: %v, %v", n, a, b)
			}
		}
		k := 2 + rng.IntN(4)
		d := &Dataset{Name: "random", Classes: make([]string, classes), Train: train, Val: val, Test: test, Options: OpenOptions{Seed: seed, ValFraction: valFraction, GroupPattern: "(x)"}}
		folds, err := d.Folds(k)
		if err != nil {
			t.Fatal(err)
		}
		var tests [][]Sample
		for _, f := range folds {
			if err := groupPlaces(samples, f.Train, f.Val, f.Test); err != nil {
				t.Fatalf("data set %d, %s: %v", n, f.Split, err)
			}
			if len(f.Test) == 0 {
				t.Errorf("data set %d: %s has no test image", n, f.Split)
			}
			tests = append(tests, f.Test)
		}
		if err := groupPlaces(samples, tests...); err != nil {
			t.Fatalf("data set %d: folds: %v", n, err)
		}
		// The folds of the data set do not depend on the splits that it had.
		other := *d
		other.Train, other.Val, other.Test = shuffled, nil, nil
		again, err := other.Folds(k)
		if err != nil {
			t.Fatal(err)
		}
		for i := range folds {
			if a, b := folds[i].Fingerprint(), again[i].Fingerprint(); a != b {
				t.Fatalf("data set %d: fold %d depends on the splits of the data set", n, i+1)
			}
		}
	}
}

// TestGroupSharesAgainstSearch compares the shares of the classes with the best shares that any
// division of the groups gives, for data sets that are small enough to try all of them.
func TestGroupSharesAgainstSearch(t *testing.T) {
	// Images by which the classes of val and test miss their shares, in all.
	missed := func(assigned []int, groups []imageGroup, targets [][]float64) (sum float64, ok bool) {
		got := make([][3]float64, len(targets))
		for i, g := range groups {
			for _, s := range g.strata {
				got[s.stratum][assigned[i]] += float64(s.images)
			}
		}
		for class, target := range targets {
			if got[class][0] == 0 {
				return 0, false
			}
			for p := range target {
				sum += (got[class][p] - target[p]) * (got[class][p] - target[p]) / max(1, target[p])
			}
		}
		return sum, true
	}
	excess, cases := 0.0, 0
	for n := range 40 {
		rng := rand.New(rand.NewPCG(2, uint64(n)))
		var samples []Sample
		several := n%2 == 1
		for g := range 9 {
			for i := range 1 + rng.IntN(4) {
				s := Sample{Path: fmt.Sprint(g, i), Group: fmt.Sprint(g), Target: Class(rng.IntN(2))}
				if several {
					s.Target = []Labels{{}, {0}, {1}, {0, 1}, {2}, {1, 2}}[rng.IntN(6)]
				}
				samples = append(samples, s)
			}
		}
		groups := groupsOf(samples, 0)
		target := func(images, _ int) []float64 {
			v := float64(share(images, 0.25))
			if several {
				v = 0.25 * float64(images)
			}
			return []float64{float64(images) - 2*v, v, v}
		}
		a := newPlacement(groups, 3, target)
		a.first = true
		a.place([]int{0, 1, 2})
		got, ok := missed(a.part, a.groups, a.targets)
		if !ok {
			t.Fatalf("data set %d: a class has no training image", n)
		}
		best := math.Inf(1)
		all := make([]int, len(a.groups))
		for code := range 19683 { // 3⁹
			for i := range all {
				all[i], code = code%3, code/3
			}
			if v, ok := missed(all, a.groups, a.targets); ok {
				best = min(best, v)
			}
		}
		if got > best+3 {
			t.Errorf("data set %d: deviation %.2f, the best division has %.2f", n, got, best)
		}
		excess += got - best
		cases++
	}
	t.Logf("mean excess over the best division %.3f", excess/float64(cases))
	if excess/float64(cases) > 0.5 {
		t.Errorf("the deviation exceeds that of the best division by %.2f on average", excess/float64(cases))
	}
}

// TestSingleGroups checks that groups of one image get exactly the shares of stratify.
func TestSingleGroups(t *testing.T) {
	samples := classSizes(10, 25, 100, 3)
	for i := range samples {
		samples[i].Group = samples[i].Path
	}
	train, val, test, err := stratifyGroups(samples, 0.1, 0.2, 7)
	if err != nil {
		t.Fatal(err)
	}
	wantTrain, wantVal, wantTest := stratify(samples, 0.1, 0.2, 7)
	for _, c := range [][2][]Sample{{train, wantTrain}, {val, wantVal}, {test, wantTest}} {
		if got, want := count(c[0], 4), count(c[1], 4); !slices.Equal(got, want) {
			t.Errorf("groups of one image: %v, stratify gives %v", got, want)
		}
	}
}

// TestFewGroups checks the splits of data sets with hardly any groups.
func TestFewGroups(t *testing.T) {
	of := func(sizes ...int) (samples []Sample) {
		for g, n := range sizes {
			for i := range n {
				samples = append(samples, Sample{Path: fmt.Sprint(g, "/", i), Group: fmt.Sprint(g), Target: Class(i % 2)})
			}
		}
		return samples
	}
	if _, _, _, err := stratifyGroups(of(10), 0.1, 0.1, 0); err == nil || !strings.Contains(err.Error(), "one group") {
		t.Errorf("one group: error %v", err)
	}
	if train, val, test, err := stratifyGroups(of(10), 0, 0, 0); err != nil || len(train) != 10 || val != nil || test != nil {
		t.Errorf("one group without splits: %d, %d, %d, %v", len(train), len(val), len(test), err)
	}
	// Three patients of 100 images: each split gets one, although 100 images are far from its
	// share.
	train, val, test, err := stratifyGroups(of(100, 100, 100), 0.1, 0.1, 0)
	if err != nil || len(train) != 100 || len(val) != 100 || len(test) != 100 {
		t.Errorf("three groups: %d, %d, %d, %v", len(train), len(val), len(test), err)
	}
	// A class of one group stays in train.
	samples := append(of(20, 20, 20, 20), Sample{Path: "x", Group: "x", Target: Class(2)})
	for seed := range uint64(20) {
		train, _, _, err := stratifyGroups(samples, 0.3, 0.3, seed)
		if err != nil || count(train, 3)[2] != 1 {
			t.Fatalf("seed %d: the only image of class 2 is not in train (%v)", seed, err)
		}
	}
}

// TestFolds checks the sizes of folds without groups, and the errors.
func TestFolds(t *testing.T) {
	samples := classSizes(10, 23, 4, 1)
	d := &Dataset{Name: "images", Classes: []string{"a", "b", "c", "d"}, Train: samples, Options: OpenOptions{ValFraction: 0.2}}
	folds, err := d.Folds(5)
	if err != nil {
		t.Fatal(err)
	}
	var sizes []int
	for i, f := range folds {
		n := count(f.Test, 4)
		sizes = append(sizes, len(f.Test))
		for class, total := range []int{10, 23, 4, 1} {
			if n[class] < total/5 || n[class] > (total+4)/5 {
				t.Errorf("fold %d has %d of %d images of class %d", i+1, n[class], total, class)
			}
		}
		if want := fmt.Sprintf("fold %d of 5 stratified by class, val 0.2 of the other folds, seed 0", i+1); f.Split != want {
			t.Errorf("split %q, want %q", f.Split, want)
		}
		if !slices.ContainsFunc(f.Notes, func(n string) bool { return strings.Contains(n, `"d"`) }) {
			t.Errorf("no note says that class d cannot be learned: %q", f.Notes)
		}
		if len(f.Val) == 0 || len(f.Train)+len(f.Val)+len(f.Test) != len(samples) {
			t.Errorf("fold %d has %d, %d, %d images", i+1, len(f.Train), len(f.Val), len(f.Test))
		}
	}
	if slices.Max(sizes)-slices.Min(sizes) > 1 {
		t.Errorf("the folds have %v images", sizes)
	}
	// A test split of the data set stays out.
	own := *d
	own.Test, own.ownTest = []Sample{{Path: "t", Target: Class(0)}}, true
	with, err := own.Folds(5)
	if err != nil {
		t.Fatal(err)
	}
	if with[2].Fingerprint() != folds[2].Fingerprint() || len(with[2].Notes) != len(folds[2].Notes)+1 {
		t.Errorf("the test split changes the folds, or no note says that it is left out: %q", with[2].Notes)
	}
	for _, k := range []int{-1, 0, 1, 39, 1 << 40} {
		if _, err := d.Folds(k); err == nil {
			t.Errorf("%d folds of 38 images: no error", k)
		}
	}
	d.Train = slices.Clone(samples)
	for i := range d.Train {
		d.Train[i].Group = fmt.Sprint(i % 3)
	}
	if _, err := d.Folds(4); err == nil || !strings.Contains(err.Error(), "3 groups") {
		t.Errorf("four folds of three groups: error %v", err)
	}
}
