package dataset

import (
	"cmp"
	"fmt"
	"maps"
	"math"
	"math/rand/v2"
	"slices"
)

// imageGroup holds the images of a group, or one image that is a group of its own.
type imageGroup struct {
	members []int          // indices of samples
	strata  []stratumCount // sorted by stratum
}

// rarest returns the number of all images of the stratum of g that has the fewest. images holds the
// numbers of all strata.
func (g imageGroup) rarest(images map[int]int) int {
	least := math.MaxInt
	for _, s := range g.strata {
		least = min(least, images[s.stratum])
	}
	return least
}

// stratumCount is the number of images of a stratum.
type stratumCount struct{ stratum, images int }

// The strata of images with several labels: each of their labels, everyImage, which keeps the sizes
// of the parts, and noLabel for an image without a label.
const (
	noLabel    = -1
	everyImage = -2
)

// strataOf returns the strata of a sample that a division into parts respects.
func strataOf(s Sample) []int {
	labels, several := s.Target.(Labels)
	switch {
	case !several:
		return []int{s.stratum()}
	case len(labels) == 0:
		return []int{everyImage, noLabel}
	}
	return append([]int{everyImage}, labels...)
}

// groupsOf returns the groups of samples, larger groups first. If images have several labels,
// groups with rare labels come before them, as in stratifyLabels. Other groups are in a random
// order that follows from the seed and from the paths of their images. So the order of samples has
// no effect, except for images in memory, which have no path.
func groupsOf(samples []Sample, seed uint64) []imageGroup {
	order := make([]int, len(samples))
	for i := range order {
		order[i] = i
	}
	slices.SortStableFunc(order, func(a, b int) int { return cmp.Compare(samples[a].Path, samples[b].Path) })
	at := make(map[string]int)
	var groups []imageGroup
	for _, i := range order {
		g, ok := at[samples[i].Group]
		if !ok || samples[i].Group == "" {
			g = len(groups)
			groups = append(groups, imageGroup{})
			at[samples[i].Group] = g
		}
		groups[g].members = append(groups[g].members, i)
	}
	images := make(map[int]int) // of each stratum
	for i := range groups {
		g := &groups[i]
		counts := make(map[int]int)
		for _, m := range g.members {
			for _, s := range strataOf(samples[m]) {
				counts[s]++
				images[s]++
			}
		}
		for _, s := range slices.Sorted(maps.Keys(counts)) {
			g.strata = append(g.strata, stratumCount{s, counts[s]})
		}
	}
	rng := rand.New(rand.NewPCG(seed, math.MaxUint64-2))
	rng.Shuffle(len(groups), func(i, j int) { groups[i], groups[j] = groups[j], groups[i] })
	slices.SortStableFunc(groups, func(a, b imageGroup) int { return len(b.members) - len(a.members) })
	if images[everyImage] > 0 {
		slices.SortStableFunc(groups, func(a, b imageGroup) int { return a.rarest(images) - b.rarest(images) })
	}
	return groups
}

// groupsOfClasses counts the groups that hold images of each class.
func groupsOfClasses(samples []Sample) map[int]int {
	type part struct {
		class int
		group string
	}
	counts, seen := make(map[int]int), make(map[part]bool)
	for _, s := range samples {
		for _, class := range ClassesOf(s.Target) {
			p := part{class, s.Group}
			if s.Group == "" || !seen[p] {
				counts[class]++
				seen[p] = true
			}
		}
	}
	return counts
}

// placement assigns groups to parts: to splits or to folds.
type placement struct {
	groups []imageGroup // imageGroup.strata counts from 0 without gaps
	// targets[stratum] is the wanted number of images of the stratum in each part, and counts the
	// number so far.
	targets, counts [][]float64
	// first reports whether part 0 must get a group of every stratum.
	first bool
	part  []int // part of each group; -1 before it is placed
	sizes []int // number of images in each part
	// left counts the groups of each stratum that are not placed, and kept those in part 0.
	left, kept []int
}

// cost returns by how much the deviation from the targets grows if g enters part p. The deviation
// is the sum of (count - target)²/target over all strata and parts, as in Pearson's χ². For folds,
// whose targets are equal, it is a sum of variances; scikit-learn's StratifiedGroupKFold minimises
// the mean of the standard deviations.
func (a *placement) cost(g imageGroup, p int) (cost float64) {
	for _, s := range g.strata {
		n, t := a.counts[s.stratum][p], a.targets[s.stratum][p]
		cost += float64(s.images) * (2*(n-t) + float64(s.images)) / max(1, t)
	}
	return cost
}

// move moves group i to part p. A negative p removes it from its part.
func (a *placement) move(i, p int) {
	g, from := a.groups[i], a.part[i]
	for _, s := range g.strata {
		if from >= 0 {
			a.counts[s.stratum][from] -= float64(s.images)
		}
		if p >= 0 {
			a.counts[s.stratum][p] += float64(s.images)
		}
		if from == 0 {
			a.kept[s.stratum]--
		}
		if p == 0 {
			a.kept[s.stratum]++
		}
	}
	if from >= 0 {
		a.sizes[from] -= len(g.members)
	}
	if p >= 0 {
		a.sizes[p] += len(g.members)
	}
	a.part[i] = p
}

// needed reports whether part 0 needs group i, because it has no other group of some stratum and
// will get none.
func (a *placement) needed(i int) bool {
	return a.first && slices.ContainsFunc(a.groups[i].strata, func(s stratumCount) bool {
		others := a.kept[s.stratum] + a.left[s.stratum]
		if a.part[i] == 0 {
			others--
		}
		return others == 0
	})
}

// best returns the part in which group i, which is in no part, costs least. Among equal parts it
// returns the part with the fewest images.
func (a *placement) best(i int, parts []int) (best int, cost float64) {
	best = -1
	for _, p := range parts {
		c := a.cost(a.groups[i], p)
		if best < 0 || c < cost || c == cost && a.sizes[p] < a.sizes[best] {
			best, cost = p, c
		}
	}
	return best, cost
}

const (
	// rounds limits the number of passes in which place improves the parts.
	rounds = 10
	// exchanged limits the number of groups among which place exchanges pairs, which takes the
	// square of this number.
	exchanged = 500
	// leastGain is above the rounding errors of a cost.
	leastGain = 1e-6
)

// place assigns each group to one of parts. First every group, the largest first, enters the part
// where it costs least. Then single groups move, and pairs of the largest groups change their
// places, as long as the deviation falls.
func (a *placement) place(parts []int) {
	for i, g := range a.groups {
		for _, s := range g.strata {
			a.left[s.stratum]--
		}
		to, _ := a.best(i, parts)
		if a.needed(i) {
			to = 0
		}
		a.move(i, to)
	}
	for range rounds {
		improved := false
		for i, g := range a.groups {
			if a.part[i] == 0 && a.needed(i) || a.sizes[a.part[i]] == len(g.members) {
				continue
			}
			from := a.part[i]
			a.move(i, -1)
			to, cost := a.best(i, parts)
			if cost > a.cost(g, from)-leastGain {
				to = from
			}
			a.move(i, to)
			improved = improved || to != from
		}
		for i := range min(exchanged, len(a.groups)) {
			for j := range i {
				improved = a.exchange(i, j) || improved
			}
		}
		if !improved {
			return
		}
	}
}

// exchange exchanges the parts of two groups if the deviation falls, and reports whether it did.
func (a *placement) exchange(i, j int) bool {
	p, q := a.part[i], a.part[j]
	if p == q || p == 0 && a.needed(i) || q == 0 && a.needed(j) {
		return false
	}
	before := 0.0
	a.move(i, -1)
	before += a.cost(a.groups[i], p)
	a.move(j, -1)
	before += a.cost(a.groups[j], q)
	after := a.cost(a.groups[i], q)
	a.move(i, q)
	after += a.cost(a.groups[j], p)
	if after < before-leastGain {
		a.move(j, p)
		return true
	}
	a.move(i, p)
	a.move(j, q)
	return false
}

// fill moves a group from part 0 into part p if p is empty: the group that costs least. It keeps
// the groups that part 0 needs.
func (a *placement) fill(p int) {
	if a.sizes[p] > 0 {
		return
	}
	best, least := -1, 0.0
	for i, g := range a.groups {
		if a.part[i] != 0 || a.needed(i) || a.sizes[0] == len(g.members) {
			continue
		}
		a.move(i, -1)
		cost := a.cost(g, p) - a.cost(g, 0)
		a.move(i, 0)
		if best < 0 || cost < least {
			best, least = i, cost
		}
	}
	if best >= 0 {
		a.move(best, p)
	}
}

// newPlacement returns the placement of groups in n parts. target returns the wanted numbers of
// images of a stratum in the parts, from the numbers of its images and groups.
func newPlacement(groups []imageGroup, n int, target func(images, groups int) []float64) *placement {
	a := &placement{groups: make([]imageGroup, len(groups)), part: make([]int, len(groups)), sizes: make([]int, n)}
	number := make(map[int]int)
	var images []int
	for i, g := range groups {
		a.part[i] = -1
		strata := make([]stratumCount, len(g.strata))
		for at, s := range g.strata {
			to, ok := number[s.stratum]
			if !ok {
				to = len(images)
				number[s.stratum] = to
				images, a.left = append(images, 0), append(a.left, 0)
			}
			strata[at] = stratumCount{to, s.images}
			images[to] += s.images
			a.left[to]++
		}
		a.groups[i] = imageGroup{g.members, strata}
	}
	a.kept = make([]int, len(images))
	for to, total := range images {
		a.targets, a.counts = append(a.targets, target(total, a.left[to])), append(a.counts, make([]float64, n))
	}
	return a
}

// assigned returns the part of each of n samples.
func (a *placement) assigned(n int) []int {
	out := make([]int, n)
	for i, g := range a.groups {
		for _, m := range g.members {
			out[m] = a.part[i]
		}
	}
	return out
}

// stratifyGroups divides the samples into three splits and keeps the images of a group in one
// split. The shares of the classes are those of stratify, as nearly as the groups allow, and the
// shares of several labels those of stratifyLabels. At least one group of every class or label
// stays in train. If there are enough groups, no split with a fraction above 0 is empty. Each split
// keeps the order of samples. If all samples are one group, stratifyGroups returns an error.
func stratifyGroups(samples []Sample, valFraction, testFraction float64, seed uint64) (train, val, test []Sample, err error) {
	groups := groupsOf(samples, seed)
	parts := []int{0}
	for p, fraction := range []float64{0, valFraction, testFraction} {
		if fraction > 0 {
			parts = append(parts, p)
		}
	}
	if len(parts) > 1 && len(groups) == 1 && len(samples) > 1 {
		return nil, nil, nil, fmt.Errorf("all %d images are in one group, %q, so they cannot be divided into splits: give other groups, or no validation and no test split", len(samples), abbreviate(samples[0].Group))
	}
	several := slices.ContainsFunc(samples, func(s Sample) bool { _, is := s.Target.(Labels); return is })
	a := newPlacement(groups, 3, func(images, groups int) []float64 {
		// Labels give their exact share. As in stratify, large strata give at least one image to
		// each split. Strata of two groups give their exact share, which may be less than half an
		// image.
		nVal, nTest := valFraction*float64(images), testFraction*float64(images)
		switch {
		case several:
		case groups < 2:
			nVal, nTest = 0, 0
		case groups >= smallClass:
			nVal, nTest = float64(share(images, valFraction)), float64(share(images, testFraction))
		}
		return []float64{float64(images) - nVal - nTest, nVal, nTest}
	})
	a.first = true
	a.place(parts)
	for _, p := range parts[1:] {
		a.fill(p)
	}
	train, val, test = divide(samples, a.assigned(len(samples)))
	return train, val, test, nil
}
