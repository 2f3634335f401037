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

// stratify deals the samples of every class to three splits, each in the order of samples. A class gives what is due of the
// running total over classes and was not given yet, so that small classes do not all round the same way and the whole comes
// within an image of the fractions. Every class keeps one training image; what it cannot give the next ones do. The test
// split's turns are others than the validation split's, so that not the same classes give to both.
func stratify(samples []Sample, classes int, valFraction, testFraction float64, seed uint64) (train, val, test []Sample) {
	byClass := make([][]int, classes)
	for i, s := range samples {
		byClass[s.class()] = append(byClass[s.class()], i)
	}
	const toVal, toTest = 1, 2
	dealt := make([]int, len(samples))
	total, nVals, nTests := 0, 0, 0
	// Rounding down has the test split's turn half an image later. What makes the whole round as it should is added to it,
	// and a little more, as a product may be just below a whole number.
	due := testFraction * float64(len(samples))
	later := math.Round(due) - due + 1e-6
	for class, members := range byClass {
		// By path, so that the order of a list does not matter; images in memory keep theirs.
		slices.SortStableFunc(members, func(a, b int) int { return cmp.Compare(samples[a].Path, samples[b].Path) })
		rng := rand.New(rand.NewPCG(seed, uint64(class)))
		rng.Shuffle(len(members), func(i, j int) { members[i], members[j] = members[j], members[i] })

		total += len(members)
		free := max(len(members)-1, 0)
		nVal := min(int(math.Round(valFraction*float64(total)))-nVals, free)
		nTest := min(max(int(testFraction*float64(total)+later)-nTests, 0), free-nVal)
		nVals, nTests = nVals+nVal, nTests+nTest
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
