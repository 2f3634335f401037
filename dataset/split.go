package dataset

import (
	"cmp"
	"fmt"
	"maps"
	"math"
	"math/rand/v2"
	"slices"
	"strings"

	"github.com/sptune/spt/internal/labelsplit"
)

// fractions returns the fractions of the training images that become the validation and the test
// split if the data set lacks them. A fraction of 0 means an empty split.
func (o OpenOptions) fractions() (val, test float64, err error) {
	fraction := func(f float64) float64 {
		switch {
		case f == 0:
			return 0.1
		case f < 0:
			return 0
		}
		return f
	}
	val, test = fraction(o.ValFraction), fraction(o.TestFraction)
	if !(val+test < 1) { // true for NaN too
		return 0, 0, fmt.Errorf("validation fraction %g and test fraction %g leave no training images: their sum must be below 1", val, test)
	}
	return val, test, nil
}

// splitMissing moves training images to the splits that the data set does not have, and sets
// d.Split and d.Unsplit. noVal and noTest report whether the data set has no validation split and
// no test split.
func (d *Dataset) splitMissing(noVal, noTest bool, valFraction, testFraction float64, seed uint64) error {
	if !noVal {
		valFraction = 0
	}
	if !noTest {
		testFraction = 0
	}
	d.Unsplit, d.ownTest = noVal && noTest, !noTest
	if len(d.Train) == 0 {
		valFraction, testFraction = 0, 0
	}
	several := d.severalLabels()
	d.Split = describeSplit(noVal, noTest, valFraction, testFraction, seed, d.Options.by(several))
	if note := d.smallClasses(valFraction, testFraction); note != "" {
		d.Notes = append(d.Notes, note)
	}
	var train, val, test []Sample
	switch {
	case d.Options.grouped():
		var err error
		if train, val, test, err = stratifyGroups(d.Train, valFraction, testFraction, seed); err != nil {
			return err
		}
		d.noteEmpty(valFraction > 0 && len(val) == 0, testFraction > 0 && len(test) == 0)
	case several:
		train, val, test = stratifyLabels(d.Train, valFraction, testFraction, seed)
	default:
		train, val, test = stratify(d.Train, valFraction, testFraction, seed)
	}
	d.Train = train
	if noVal {
		d.Val = val
	}
	if noTest {
		d.Test = test
	}
	return nil
}

// describeSplit returns the text of Dataset.Split. A fraction is 0 if no training images move to
// the split. by says what the splits respect; see OpenOptions.by. Runs record the text, and a run
// of another text has other splits. If the rule of stratify, stratifyGroups or stratifyLabels
// changes, the text must change too.
func describeSplit(noVal, noTest bool, valFraction, testFraction float64, seed uint64, by string) string {
	rest := math.Round((1-valFraction-testFraction)*1e6) / 1e6
	if valFraction > 0 && testFraction > 0 {
		return fmt.Sprintf("stratified by %s %g/%g/%g seed %d", by, rest, valFraction, testFraction, seed)
	}
	if !noVal && !noTest {
		return "given"
	}
	one := func(missing bool, fraction float64) string {
		switch {
		case !missing:
			return "given"
		case fraction == 0:
			return "none"
		}
		return fmt.Sprintf("stratified by %s %g/%g of train seed %d", by, rest, fraction, seed)
	}
	return "val " + one(noVal, valFraction) + ", test " + one(noTest, testFraction)
}

// smallClass is the number of images from which a class is in all three splits.
const smallClass = 3

// smallClasses returns a note that names the classes that have too few training images, or too few
// groups of them, for every split. It returns "" if there are none, or if no training images move
// to other splits.
func (d *Dataset) smallClasses(valFraction, testFraction float64) string {
	if valFraction == 0 && testFraction == 0 {
		return ""
	}
	sizes := groupsOfClasses(d.Train)
	var names []string
	more := 0
	for _, class := range slices.Sorted(maps.Keys(sizes)) {
		switch {
		case sizes[class] >= smallClass:
		case len(names) == 10:
			more++
		default:
			names = append(names, fmt.Sprintf("%q", d.Classes[class]))
		}
	}
	if names == nil {
		return ""
	}
	text := strings.Join(names, ", ")
	if more > 0 {
		text += fmt.Sprintf(" and %d more", more)
	}
	what := "images"
	if d.Options.grouped() {
		what = "groups"
	}
	return fmt.Sprintf("classes with fewer than %d %s are not in every split: %s", smallClass, what, text)
}

// stratify divides the samples into three splits. Every stratum of three or more samples gives its
// own share, rounded to nearest, and at least one sample to each split with a fraction above 0. At
// least one sample stays in train. Each split keeps the order of samples.
//
// The strata of one and two samples are too small for three splits. Those of two samples form a
// pool: some of them, drawn at random, give one sample to val or to test, so that the pool as a
// whole gives its share.
func stratify(samples []Sample, valFraction, testFraction float64, seed uint64) (train, val, test []Sample) {
	strata := make(map[int][]int) // indices of samples
	for i, s := range samples {
		strata[s.stratum()] = append(strata[s.stratum()], i)
	}
	const toTrain, toVal, toTest = 0, 1, 2
	assigned := make([]int, len(samples)) // the split of each sample, at first toTrain
	assign := func(members []int, nVal, nTest int) {
		for _, i := range members[:nVal] {
			assigned[i] = toVal
		}
		for _, i := range members[nVal : nVal+nTest] {
			assigned[i] = toTest
		}
	}
	var pool []int // one sample of each stratum of two
	for _, stratum := range slices.Sorted(maps.Keys(strata)) {
		members := strata[stratum]
		// Sorting by path makes the result independent of the order of the list. Images in memory
		// have no path and keep their order.
		slices.SortStableFunc(members, func(a, b int) int { return cmp.Compare(samples[a].Path, samples[b].Path) })
		rng := rand.New(rand.NewPCG(seed, uint64(stratum)))
		rng.Shuffle(len(members), func(i, j int) { members[i], members[j] = members[j], members[i] })
		switch n := len(members); {
		case n >= smallClass:
			nVal, nTest := share(n, valFraction), share(n, testFraction)
			for nVal+nTest > n-1 { // both were rounded up
				if nVal >= nTest {
					nVal--
				} else {
					nTest--
				}
			}
			assign(members, nVal, nTest)
		case n == 2:
			pool = append(pool, members[0])
		}
	}
	rng := rand.New(rand.NewPCG(seed, math.MaxUint64-1))
	rng.Shuffle(len(pool), func(i, j int) { pool[i], pool[j] = pool[j], pool[i] })
	nVal := min(int(math.Round(valFraction*float64(2*len(pool)))), len(pool))
	nTest := min(int(math.Round(testFraction*float64(2*len(pool)))), len(pool)-nVal)
	assign(pool, nVal, nTest)
	return divide(samples, assigned)
}

// divide divides samples into train, val and test, the splits 0, 1 and 2 of assigned.
func divide(samples []Sample, assigned []int) (train, val, test []Sample) {
	out := [3]*[]Sample{&train, &val, &test}
	for i, s := range samples {
		*out[assigned[i]] = append(*out[assigned[i]], s)
	}
	return train, val, test
}

// stratifyLabels divides samples with [Labels] into three splits; see labelsplit.Parts. Each split
// keeps the order of samples.
func stratifyLabels(samples []Sample, valFraction, testFraction float64, seed uint64) (train, val, test []Sample) {
	order := make([]int, len(samples))
	for i := range order {
		order[i] = i
	}
	// as in stratify
	slices.SortStableFunc(order, func(a, b int) int { return cmp.Compare(samples[a].Path, samples[b].Path) })
	rng := rand.New(rand.NewPCG(seed, math.MaxUint64-2))
	rng.Shuffle(len(order), func(i, j int) { order[i], order[j] = order[j], order[i] })
	return divide(samples, labelsplit.Parts(labelsOf(samples), order, []float64{1 - valFraction - testFraction, valFraction, testFraction}, rng))
}

// labelsOf returns the function that returns the class ids of a sample.
func labelsOf(samples []Sample) func(i int) []int {
	return func(i int) []int { return ClassesOf(samples[i].Target) }
}

// share returns the share of n samples, rounded to nearest and at least one. It is 0 for a fraction
// of 0.
func share(n int, fraction float64) int {
	if fraction == 0 {
		return 0
	}
	return max(1, int(math.Round(fraction*float64(n))))
}
