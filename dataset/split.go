package dataset

import (
	"cmp"
	"fmt"
	"maps"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
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

// stratifyLabels divides samples with [Labels] into three splits by iterative stratification
// (Sechidis, Tsoumakas and Vlahavas, ECML PKDD 2011): it takes the label with the fewest samples
// that are not assigned, and gives each of them to the split that lacks most samples of this label.
// Among equal splits it takes the one that lacks most samples of any label, then one at random. The
// samples without a label come last. Each split keeps the order of samples.
func stratifyLabels(samples []Sample, valFraction, testFraction float64, seed uint64) (train, val, test []Sample) {
	fractions := [3]float64{1 - valFraction - testFraction, valFraction, testFraction}
	order := make([]int, len(samples))
	for i := range order {
		order[i] = i
	}
	// as in stratify
	slices.SortStableFunc(order, func(a, b int) int { return cmp.Compare(samples[a].Path, samples[b].Path) })
	rng := rand.New(rand.NewPCG(seed, math.MaxUint64-2))
	rng.Shuffle(len(order), func(i, j int) { order[i], order[j] = order[j], order[i] })

	labelsOf := func(i int) []int { // -1 stands for no label
		if labels := ClassesOf(samples[i].Target); len(labels) > 0 {
			return labels
		}
		return []int{-1}
	}
	members := map[int][]int{} // samples of each label
	for _, i := range order {
		for _, label := range labelsOf(i) {
			members[label] = append(members[label], i)
		}
	}
	left := map[int]int{}         // number of samples of each label that are not assigned
	lacks := map[int][3]float64{} // number of samples of each label that each split lacks
	lacksAny := [3]float64{}
	for s, f := range fractions {
		lacksAny[s] = f * float64(len(samples))
		for label, all := range members {
			wanted := lacks[label]
			wanted[s] = f * float64(len(all))
			lacks[label], left[label] = wanted, len(all)
		}
	}
	assigned := make([]int, len(samples))
	for i := range assigned {
		assigned[i] = -1
	}
	labels := slices.Sorted(maps.Keys(members))
	for {
		next := -1
		for _, label := range labels {
			if label >= 0 && left[label] > 0 && (next < 0 || left[label] < left[next]) {
				next = label
			}
		}
		for _, i := range members[next] {
			if assigned[i] >= 0 {
				continue
			}
			to, ties := -1, 0
			for s, f := range fractions {
				if f == 0 {
					continue
				}
				c := -1
				if to >= 0 {
					c = -cmp.Or(cmp.Compare(lacks[next][s], lacks[next][to]), cmp.Compare(lacksAny[s], lacksAny[to]))
				}
				if c < 0 {
					to, ties = s, 1
				} else if c == 0 {
					if ties++; rng.IntN(ties) == 0 {
						to = s
					}
				}
			}
			assigned[i] = to
			lacksAny[to]--
			for _, label := range labelsOf(i) {
				wanted := lacks[label]
				wanted[to]--
				lacks[label] = wanted
				left[label]--
			}
		}
		if next < 0 { // also the samples without a label
			break
		}
	}
	var splits [3][]Sample
	for i, s := range samples {
		splits[assigned[i]] = append(splits[assigned[i]], s)
	}
	return splits[0], splits[1], splits[2]
}

// share returns the share of n samples, rounded to nearest and at least one. It is 0 for a fraction
// of 0.
func share(n int, fraction float64) int {
	if fraction == 0 {
		return 0
	}
	return max(1, int(math.Round(fraction*float64(n))))
}
