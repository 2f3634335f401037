package dataset

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"math"
	"math/rand/v2"
	"slices"
	"strings"

	"github.com/sptune/spt/internal/labelsplit"
	"github.com/sptune/spt/internal/option"
)

// Folds returns the k data sets of a cross-validation. The images are divided into k folds, each of
// which is the test split of one data set. The training and validation splits of this data set come
// from all other folds: the validation split has the share OpenOptions.ValFraction of them.
//
// The numbers of images of the folds differ by at most one, and so do the numbers of images of each
// class. With several labels for each image, they are as equal as iterative stratification makes
// them. Images of a group are in one fold and, of the other folds, in one split; these numbers are
// then as equal as the groups allow. The images are those of all splits of d, but not of a test
// split that the data set has itself: it stays untouched. The choice follows from OpenOptions.Seed
// and from the paths of the images, and not from the splits of d.
//
// A class may be in one fold only. The data set whose test split has the images of this class then
// cannot learn it. A note names such classes.
//
// Folds returns an error if k is below 2 or above the number of images or groups.
func (d *Dataset) Folds(k int) ([]*Dataset, error) {
	var out []*Dataset
	for i := range max(k, 1) {
		f, err := d.AsOpened().fold(k, i+1)
		if err != nil {
			return nil, fmt.Errorf("dividing data set %s into folds: %w", d.Name, err)
		}
		out = append(out, f)
	}
	return out, nil
}

// fold returns data set i, counted from 1, of Folds.
func (d *Dataset) fold(k, i int) (*Dataset, error) {
	valFraction, _, err := d.Options.fractions()
	switch {
	case err != nil:
		return nil, err
	case k < 2:
		return nil, option.Errorf("folds", "%d folds leave nothing to train on: give 2 or more", k)
	case i < 1 || i > k:
		return nil, option.Errorf("folds", "there is no fold %d of %d: the folds have the numbers 1 to %d", i, k, k)
	}
	pool := slices.Concat(d.Train, d.Val)
	if !d.ownTest {
		pool = append(pool, d.Test...)
	}
	if len(pool) == 0 {
		return nil, errors.New("there are no images to divide into folds")
	}
	// The order of the splits of d must have no effect. Images in memory have no path.
	slices.SortStableFunc(pool, func(a, b Sample) int { return cmp.Compare(a.Path, b.Path) })
	folds, err := divideFolds(pool, k, d.Options.Seed)
	if err != nil {
		return nil, err
	}
	f := *d
	f.opened, f.Mixed, f.Train, f.Val, f.Test = nil, false, nil, nil, nil
	f.Notes = slices.Clone(d.Notes)
	f.Options.Folds, f.Options.Fold = k, i
	var rest []Sample
	for n, s := range pool {
		if folds[n] == i-1 {
			f.Test = append(f.Test, s)
		} else {
			rest = append(rest, s)
		}
	}
	groups := hasGroups(pool)
	if groups && valFraction > 0 {
		if f.Train, f.Val, _, err = stratifyGroups(rest, valFraction, 0, d.Options.Seed); err != nil {
			return nil, err
		}
		f.noteEmpty(len(f.Val) == 0, false)
	} else if d.severalLabels() {
		f.Train, f.Val, _ = stratifyLabels(rest, valFraction, 0, d.Options.Seed)
	} else {
		f.Train, f.Val, _ = stratify(rest, valFraction, 0, d.Options.Seed)
	}
	f.Split = fmt.Sprintf("fold %d of %d stratified by %s, val %g of the other folds, seed %d", i, k, d.Options.by(d.severalLabels()), valFraction, d.Options.Seed)
	if d.ownTest && len(d.Test) > 0 {
		f.Notes = append(f.Notes, fmt.Sprintf("%s in the test split of the data set and in no fold", countAre(len(d.Test))))
	}
	if note := d.unlearnable(pool, folds); note != "" {
		f.Notes = append(f.Notes, note)
	}
	return &f, nil
}

// DrawnTest reports whether the test split was drawn from the training images of the data set, so
// that Folds divides its images too.
func (d *Dataset) DrawnTest() bool { return !d.ownTest && len(d.Test) > 0 }

// hasGroups reports whether some sample belongs to a group.
func hasGroups(samples []Sample) bool {
	return slices.ContainsFunc(samples, func(s Sample) bool { return s.Group != "" })
}

// divideFolds returns the fold of each sample, from 0.
func divideFolds(samples []Sample, k int, seed uint64) ([]int, error) {
	if hasGroups(samples) {
		groups := groupsOf(samples, seed)
		if len(groups) < k {
			return nil, option.Errorf("folds", "%d folds need %d groups of images, but there are %d groups: give fewer folds", k, k, len(groups))
		}
		parts := make([]int, k)
		for p := range parts {
			parts[p] = p
		}
		a := newPlacement(groups, k, func(images, _ int) []float64 {
			return slices.Repeat([]float64{float64(images) / float64(k)}, k)
		})
		a.place(parts)
		return a.assigned(len(samples)), nil
	}
	if len(samples) < k {
		return nil, option.Errorf("folds", "%d folds need %d images, but there are %d images: give fewer folds", k, k, len(samples))
	}
	if _, several := samples[0].Target.(Labels); several {
		rng := rand.New(rand.NewPCG(seed, math.MaxUint64-2))
		return labelsplit.Parts(labelsOf(samples), rng.Perm(len(samples)), slices.Repeat([]float64{1 / float64(k)}, k), rng), nil
	}
	strata := make(map[int][]int)
	for i, s := range samples {
		strata[s.stratum()] = append(strata[s.stratum()], i)
	}
	folds := make([]int, len(samples))
	// Dealing the images out one stratum after the other makes the sizes of the folds equal too.
	next := 0
	for _, stratum := range slices.Sorted(maps.Keys(strata)) {
		members := strata[stratum]
		rng := rand.New(rand.NewPCG(seed, uint64(stratum)^math.MaxInt64))
		rng.Shuffle(len(members), func(i, j int) { members[i], members[j] = members[j], members[i] })
		for _, i := range members {
			folds[i] = next % k
			next++
		}
	}
	return folds, nil
}

// unlearnable returns a note that names the classes with images in one fold only. It returns "" if
// there are none.
func (d *Dataset) unlearnable(samples []Sample, folds []int) string {
	in := make(map[int]int) // fold of a class; -1 for several
	for i, s := range samples {
		for _, class := range ClassesOf(s.Target) {
			if f, ok := in[class]; ok && f != folds[i] {
				in[class] = -1
			} else if !ok {
				in[class] = folds[i]
			}
		}
	}
	var names []string
	for _, class := range slices.Sorted(maps.Keys(in)) {
		if in[class] >= 0 {
			names = append(names, fmt.Sprintf("%q", abbreviate(d.Classes[class])))
		}
	}
	if names == nil {
		return ""
	}
	if more := len(names) - 10; more > 0 {
		names = append(names[:10:10], fmt.Sprintf("and %d more", more))
	}
	return "classes whose images are all in one fold, so that no training can learn them for it: " + strings.Join(names, ", ")
}
