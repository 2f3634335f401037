package dataset

import (
	"cmp"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
)

// fractions returns the shares of missing validation and test splits, 0 for none.
func (o OpenOptions) fractions() (val, test float64, err error) {
	share := func(f float64) float64 {
		switch {
		case f == 0:
			return 0.1
		case f < 0:
			return 0
		}
		return f
	}
	val, test = share(o.ValFraction), share(o.TestFraction)
	if !(val+test < 1) { // also NaN
		return 0, 0, fmt.Errorf("validation fraction %g and test fraction %g leave no training images: their sum must be below 1", val, test)
	}
	return val, test, nil
}

// splitMissing moves training images to the splits that the folder does not have, and says so in d.Split.
func (d *Dataset) splitMissing(noVal, noTest bool, valFraction, testFraction float64, seed uint64) {
	if !noVal {
		valFraction = 0
	}
	if !noTest {
		testFraction = 0
	}
	d.Split = describeSplit(noVal, noTest, valFraction, testFraction, seed)
	train, val, test := stratify(d.Train, len(d.Classes), valFraction, testFraction, seed)
	d.Train = train
	if noVal {
		d.Val = val
	}
	if noTest {
		d.Test = test
	}
}

// describeSplit says how the splits come to be. A fraction is 0 where nothing is taken from the training images.
func describeSplit(noVal, noTest bool, valFraction, testFraction float64, seed uint64) string {
	rest := math.Round((1-valFraction-testFraction)*1e6) / 1e6
	if valFraction > 0 && testFraction > 0 {
		return fmt.Sprintf("stratified %g/%g/%g seed %d", rest, valFraction, testFraction, seed)
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
		return fmt.Sprintf("stratified %g/%g of train seed %d", rest, fraction, seed)
	}
	return "val " + one(noVal, valFraction) + ", test " + one(noTest, testFraction)
}

// stratify deals the samples of every class to three splits, each in the order of samples. Sizes are rounded on the running
// total over classes, so that small classes do not all round the same way and the whole comes within one image of the
// fractions, as long as every class can keep one training image.
func stratify(samples []Sample, classes int, valFraction, testFraction float64, seed uint64) (train, val, test []Sample) {
	byClass := make([][]int, classes)
	for i, s := range samples {
		byClass[s.Label] = append(byClass[s.Label], i)
	}
	const toVal, toTest = 1, 2
	dealt := make([]int, len(samples))
	total := 0
	for class, members := range byClass {
		// By path, so that the order of a list does not matter; images in memory keep theirs.
		slices.SortStableFunc(members, func(a, b int) int { return cmp.Compare(samples[a].Path, samples[b].Path) })
		rng := rand.New(rand.NewPCG(seed, uint64(class)))
		rng.Shuffle(len(members), func(i, j int) { members[i], members[j] = members[j], members[i] })

		share := func(fraction float64) int {
			return int(math.Round(fraction*float64(total+len(members))) - math.Round(fraction*float64(total)))
		}
		free := max(len(members)-1, 0)
		nVal := min(share(valFraction), free)
		nTest := min(share(testFraction), free-nVal)
		total += len(members)
		for _, i := range members[:nVal] {
			dealt[i] = toVal
		}
		for _, i := range members[nVal : nVal+nTest] {
			dealt[i] = toTest
		}
	}
	for i, s := range samples {
		switch dealt[i] {
		case toVal:
			val = append(val, s)
		case toTest:
			test = append(test, s)
		default:
			train = append(train, s)
		}
	}
	return train, val, test
}
