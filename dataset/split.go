package dataset

import (
	"cmp"
	"fmt"
	"maps"
	"math"
	"math/rand/v2"
	"slices"
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
// d.Split. noVal and noTest report whether the data set has no validation split and no test split.
func (d *Dataset) splitMissing(noVal, noTest bool, valFraction, testFraction float64, seed uint64) {
	if !noVal {
		valFraction = 0
	}
	if !noTest {
		testFraction = 0
	}
	if len(d.Train) == 0 {
		valFraction, testFraction = 0, 0
	}
	d.Split = describeSplit(noVal, noTest, valFraction, testFraction, seed)
	train, val, test := stratify(d.Train, valFraction, testFraction, seed)
	d.Train = train
	if noVal {
		d.Val = val
	}
	if noTest {
		d.Test = test
	}
}

// describeSplit returns the text of Dataset.Split. A fraction is 0 if no training images move to
// the split.
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

// stratify divides the samples into three splits. It divides every stratum in proportion to the
// fractions. Each split keeps the order of samples.
//
// Rounding every stratum separately would round all small strata the same way. Instead, stratify
// goes through the strata and keeps running totals. From each stratum it takes as many images as
// the split lacks for its fraction of the total so far. Every stratum keeps at least one training
// image. If a stratum cannot give enough images, later strata give more. The size of a split is
// then within one image of its fraction, unless all remaining strata are too small. The totals of
// the validation and the test split are rounded differently, so that both splits do not take from
// the same strata.
func stratify(samples []Sample, valFraction, testFraction float64, seed uint64) (train, val, test []Sample) {
	strata := make(map[int][]int) // indices of samples
	for i, s := range samples {
		strata[s.stratum()] = append(strata[s.stratum()], i)
	}
	const toTrain, toVal, toTest = 0, 1, 2
	assigned := make([]int, len(samples)) // the split of each sample, at first toTrain
	total, nVals, nTests := 0, 0, 0
	// The validation total is rounded to nearest, and the running test total is rounded down, so
	// the test split takes its images later. The offset later makes the final test total rounded to
	// nearest. The small addition corrects products that are just below an integer.
	due := testFraction * float64(len(samples))
	later := math.Round(due) - due + 1e-6
	for _, stratum := range slices.Sorted(maps.Keys(strata)) {
		members := strata[stratum]
		// Sorting by path makes the result independent of the order of the list. Images in memory
		// have no path and keep their order.
		slices.SortStableFunc(members, func(a, b int) int { return cmp.Compare(samples[a].Path, samples[b].Path) })
		rng := rand.New(rand.NewPCG(seed, uint64(stratum)))
		rng.Shuffle(len(members), func(i, j int) { members[i], members[j] = members[j], members[i] })

		total += len(members)
		free := len(members) - 1
		nVal := min(int(math.Round(valFraction*float64(total)))-nVals, free)
		nTest := min(max(int(testFraction*float64(total)+later)-nTests, 0), free-nVal)
		nVals, nTests = nVals+nVal, nTests+nTest
		for _, i := range members[:nVal] {
			assigned[i] = toVal
		}
		for _, i := range members[nVal : nVal+nTest] {
			assigned[i] = toTest
		}
	}
	for i, s := range samples {
		switch assigned[i] {
		case toVal:
			val = append(val, s)
		case toTest:
			test = append(test, s)
		case toTrain:
			train = append(train, s)
		}
	}
	return train, val, test
}
