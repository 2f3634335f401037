package dataset

import (
	"cmp"
	"fmt"
	"math/rand/v2"
	"slices"
)

// Limit returns a data set with at most n images of each split. A split with more images keeps n of
// them, drawn at random with the seed: every class keeps its share, rounded, and at least one
// training image. So n must be at least the number of classes with training images. The same
// arguments give the same images, in the order of d. Dataset.Split of the result names n.
//
// d must not have lost broken images in [Dataset.CheckImages].
func (d *Dataset) Limit(n int, seed uint64) (*Dataset, error) {
	out := *d
	out.Options.MaxImages = n
	for _, s := range out.splits() {
		if len(*s.samples) <= n {
			continue
		}
		kept, err := limit(*s.samples, n, seed, s.name == "train")
		if err != nil {
			return nil, fmt.Errorf("limiting the %s split: %w", s.name, err)
		}
		*s.samples = kept
	}
	out.Split += fmt.Sprintf(", at most %d images of each", n)
	return &out, nil
}

// limit returns n of the samples, stratified by class. each reports whether every class keeps a
// sample.
func limit(samples []Sample, n int, seed uint64, each bool) ([]Sample, error) {
	classes := map[int][]int{} // indices of samples
	for i, s := range samples {
		classes[s.stratum()] = append(classes[s.stratum()], i)
	}
	if each && n < len(classes) {
		return nil, fmt.Errorf("at most %d images for %d classes: give at least one image for each class", n, len(classes))
	}
	// Every sample gets its quantile in its class. The n lowest quantiles take equal shares of all
	// classes.
	type ranked struct {
		quantile float64
		sample   int
	}
	order := make([]ranked, 0, len(samples))
	for class, members := range classes {
		slices.SortStableFunc(members, func(a, b int) int { return cmp.Compare(samples[a].Path, samples[b].Path) })
		rng := rand.New(rand.NewPCG(seed, uint64(class)))
		rng.Shuffle(len(members), func(i, j int) { members[i], members[j] = members[j], members[i] })
		for k, i := range members {
			r := ranked{(float64(k) + 0.5) / float64(len(members)), i}
			if each && k == 0 {
				r.quantile = 0
			}
			order = append(order, r)
		}
	}
	slices.SortFunc(order, func(a, b ranked) int {
		return cmp.Or(cmp.Compare(a.quantile, b.quantile), cmp.Compare(a.sample, b.sample))
	})
	kept := make([]int, n)
	for k := range kept {
		kept[k] = order[k].sample
	}
	slices.Sort(kept)
	out := make([]Sample, n)
	for k, i := range kept {
		out[k] = samples[i]
	}
	return out, nil
}
