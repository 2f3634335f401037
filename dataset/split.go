package dataset

import (
	"cmp"
	"fmt"
	"maps"
	"math"
	"math/rand/v2"
	"slices"
)

// fractions returns the shares of the training images that become the validation and the test
// split, 0 for none.
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

// splitMissing moves training images to the splits that the data set does not have, and sets
// d.Split.
func (d *Dataset) splitMissing(noVal, noTest bool, valFraction, testFraction float64, seed uint64) {
	if !noVal {
		valFraction = 0
	}
	if !noTest {
		testFraction = 0
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

// describeSplit returns Dataset.Split. A fraction is 0 if the split takes no training images.
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

// stratify divides the samples into three splits, each in the order of samples, and every stratum
// in proportion to the fractions.
//
// The strata take turns: each gives what is due of the running total and was not given before, so
// that small strata do not all round the same way, and the splits come within one image of the
// fractions. Every stratum keeps one training image; later strata give what it cannot. The turns of
// the test split differ from those of the validation split, so that not the same strata give to
// both.
func stratify(samples []Sample, valFraction, testFraction float64, seed uint64) (train, val, test []Sample) {
	strata := make(map[int][]int) // indices of samples
	for i, s := range samples {
		strata[s.stratum()] = append(strata[s.stratum()], i)
	}
	const toVal, toTest = 1, 2
	dealt := make([]int, len(samples))
	total, nVals, nTests := 0, 0, 0
	// Rounding down makes the test split take its turns half an image later. later makes its total
	// come out rounded to nearest. The small addition is for products just below a whole number.
	due := testFraction * float64(len(samples))
	later := math.Round(due) - due + 1e-6
	for _, stratum := range slices.Sorted(maps.Keys(strata)) {
		members := strata[stratum]
		// The order of paths makes the order of a list irrelevant. Images in memory have no path
		// and keep their order.
		slices.SortStableFunc(members, func(a, b int) int { return cmp.Compare(samples[a].Path, samples[b].Path) })
		rng := rand.New(rand.NewPCG(seed, uint64(stratum)))
		rng.Shuffle(len(members), func(i, j int) { members[i], members[j] = members[j], members[i] })

		total += len(members)
		free := len(members) - 1
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
