package dataset

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"testing"
)

// groupedLabels returns samples with several labels in groups. The images of a group have similar
// labels, as those of a patient or a place do. Label 0 is the most frequent.
func groupedLabels(rng *rand.Rand, groups, labels, images int) (samples []Sample) {
	for g := range groups {
		likely := make([]float64, labels)
		for l := range likely {
			likely[l] = 0.02 / float64(1+l)
			if rng.Float64() < 0.6/float64(1+l) {
				likely[l] = 0.7
			}
		}
		for i := range 1 + rng.IntN(images) {
			target := Labels{}
			for l, p := range likely {
				if rng.Float64() < p {
					target = append(target, l)
				}
			}
			samples = append(samples, Sample{Path: fmt.Sprintf("%04d-%02d.png", g, i), Group: fmt.Sprint("g", g), Target: target, Where: "list"})
		}
	}
	return samples
}

// labelDeviation returns the mean deviation of the number of images of each label in each part from
// its share of all images of this label, as a fraction of the share. Shares below one image do not
// count.
func labelDeviation(all []Sample, classes int, shares []float64, parts ...[]Sample) (mean float64) {
	total, n := countClasses(all, classes), 0
	for p, part := range parts {
		got := countClasses(part, classes)
		for l := range total {
			want := shares[p] * float64(total[l])
			if want < 1 {
				continue
			}
			mean += math.Abs(float64(got[l])-want) / want
			n++
		}
	}
	return mean / float64(n)
}

// bySizeAlone returns the samples as images of one class, so that groups of them are divided by
// their sizes alone.
func bySizeAlone(samples []Sample) []Sample {
	out := slices.Clone(samples)
	for i := range out {
		out[i].Target = Class(0)
	}
	return out
}

// withTargets returns the samples of all that are in part.
func withTargets(all, part []Sample) (out []Sample) {
	in := map[string]bool{}
	for _, s := range part {
		in[s.Path] = true
	}
	for _, s := range all {
		if in[s.Path] {
			out = append(out, s)
		}
	}
	return out
}

// TestGroupedLabels checks that groups of images with several labels are divided so that each split
// and each fold gets its share of each label, that no group is divided, and that the shares are
// much nearer to the ideal than those of a division by the sizes of the groups alone.
func TestGroupedLabels(t *testing.T) {
	const labels = 14
	sum, sets := 0.0, 10
	for n := range sets {
		rng := rand.New(rand.NewPCG(3, uint64(n)))
		samples := groupedLabels(rng, 150, labels, 12)
		shares := []float64{0.7, 0.15, 0.15}
		train, val, test, err := stratifyGroups(samples, 0.15, 0.15, uint64(n))
		if err != nil {
			t.Fatal(err)
		}
		if err := groupPlaces(samples, train, val, test); err != nil {
			t.Fatalf("data set %d: %v", n, err)
		}
		for i, part := range [][]Sample{train, val, test} {
			if got, want := float64(len(part)), shares[i]*float64(len(samples)); math.Abs(got-want) > 0.05*want {
				t.Errorf("data set %d: a split has %g images, want %.0f within 5 %%", n, got, want)
			}
		}
		mean := labelDeviation(samples, labels, shares, train, val, test)
		a, b, c, err := stratifyGroups(bySizeAlone(samples), 0.15, 0.15, uint64(n))
		if err != nil {
			t.Fatal(err)
		}
		naive := labelDeviation(samples, labels, shares, withTargets(samples, a), withTargets(samples, b), withTargets(samples, c))
		if mean > 0.12 || mean > 0.3*naive {
			t.Errorf("data set %d: the numbers of images deviate by %.3f of their shares, want at most 0.12, and 0.3 of %.3f, the deviation by sizes alone", n, mean, naive)
		}
		sum += mean

		folds, err := divideFolds(samples, 5, uint64(n))
		if err != nil {
			t.Fatal(err)
		}
		parts, fifths := make([][]Sample, 5), slices.Repeat([]float64{0.2}, 5)
		for i, f := range folds {
			parts[f] = append(parts[f], samples[i])
		}
		if err := groupPlaces(samples, parts...); err != nil {
			t.Fatalf("data set %d: folds: %v", n, err)
		}
		if mean := labelDeviation(samples, labels, fifths, parts...); mean > 0.2 {
			t.Errorf("data set %d: the numbers of images of the folds deviate by %.3f of their shares, want at most 0.2", n, mean)
		}
	}
	if mean := sum / float64(sets); mean > 0.08 {
		t.Errorf("the numbers of images deviate by %.3f of their shares on average, want at most 0.08", mean)
	}
}
