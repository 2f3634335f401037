package dataset

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
)

// Strata returns the stratum of each sample, in the order of the samples; see [Target]. It is -1
// for a sample without a target.
func (l *Loader) Strata() []int { return strata(l.samples) }

func strata(samples []Sample) []int {
	out := make([]int, len(samples))
	for i, s := range samples {
		out[i] = -1
		if s.Target != nil {
			out[i] = s.stratum()
		}
	}
	return out
}

// ClassCounts returns the number of training images of each class, by class id. Images whose target
// belongs to no single class are not counted.
func (d *Dataset) ClassCounts() []int {
	counts := make([]int, len(d.Classes))
	for _, class := range strata(d.Train) {
		if class >= 0 {
			counts[class]++
		}
	}
	return counts
}

// imbalance is the ratio of class sizes from which training images count as imbalanced.
const imbalance = 10

// Imbalance returns a sentence that names the largest and the smallest class of the training images
// if the largest class has at least ten times as many images. Otherwise it returns "". A model
// trained on such images neglects the small classes, and its accuracy hides it. Weights of classes,
// balanced sampling and a choice by balanced accuracy help.
func (d *Dataset) Imbalance() string {
	largest, smallest := -1, -1
	counts := d.ClassCounts()
	for class, n := range counts {
		if n > 0 && (largest < 0 || n > counts[largest]) {
			largest = class
		}
		if n > 0 && (smallest < 0 || n < counts[smallest]) {
			smallest = class
		}
	}
	if largest < 0 || counts[largest] < imbalance*counts[smallest] {
		return ""
	}
	return fmt.Sprintf("the classes are imbalanced: %s has %.3g times as many training images as %s (%d and %d)", abbreviate(d.Classes[largest]),
		float64(counts[largest])/float64(counts[smallest]), abbreviate(d.Classes[smallest]), counts[largest], counts[smallest])
}

// byStratum returns the positions of the samples of each stratum, in the order of the strata.
func byStratum(strata []int) (out [][]int) {
	members := map[int][]int{}
	for i, s := range strata {
		members[s] = append(members[s], i)
	}
	for _, s := range slices.Sorted(maps.Keys(members)) {
		out = append(out, members[s])
	}
	return out
}

// ShuffleBalanced returns n = len(strata) positions of samples in random order, in which each
// stratum is equally often, up to one position. The strata of the samples are as [Loader.Strata]
// returns them. The result depends only on the arguments.
//
// Over all epochs too, each stratum is drawn equally often, and each sample of a stratum is drawn
// equally often, up to one draw. So an epoch repeats the samples of a small stratum, and has a part
// of a large stratum; the next epochs have its other parts. A repeated sample has the position i +
// k·n for its k-th repetition, which gives it another random crop; see [Loader.Batches].
func ShuffleBalanced(strata []int, seed uint64, epoch int) []int {
	n, members := len(strata), byStratum(strata)
	order, drawn := make([]int, 0, n), make([]int, n)
	for s, m := range members {
		// The draws of all epochs are one sequence, in which the strata take turns. The draws of a
		// stratum are a sequence of passes over its samples, each in random order.
		before := func(draws int) int { return (draws - s + len(members) - 1) / len(members) }
		var pass []int
		for draw := before(epoch * n); draw < before((epoch+1)*n); draw++ {
			at := draw % len(m)
			if at == 0 || pass == nil {
				pass = rand.New(rand.NewPCG(seed^uint64(s+1)<<40, uint64(draw/len(m)))).Perm(len(m))
			}
			i := m[pass[at]]
			order = append(order, i+drawn[i]*n)
			drawn[i]++
		}
	}
	rand.New(rand.NewPCG(seed, uint64(epoch))).Shuffle(n, func(i, j int) { order[i], order[j] = order[j], order[i] })
	return order
}

// ShuffleStratified returns a random permutation of the positions of samples whose first positions,
// however many a caller takes, are of all strata in equal numbers, as far as the strata have
// samples. The strata of the samples are as [Loader.Strata] returns them. The result depends only
// on the arguments.
func ShuffleStratified(strata []int, seed uint64) (order []int) {
	r := rand.New(rand.NewPCG(seed, 0))
	members := byStratum(strata)
	for _, m := range members {
		r.Shuffle(len(m), func(i, j int) { m[i], m[j] = m[j], m[i] })
	}
	for len(members) > 0 {
		for _, s := range r.Perm(len(members)) {
			order = append(order, members[s][0])
			members[s] = members[s][1:]
		}
		members = slices.DeleteFunc(members, func(m []int) bool { return len(m) == 0 })
	}
	return order
}
