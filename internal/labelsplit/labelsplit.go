// Package labelsplit divides images with any number of labels into parts that have equal shares of
// each label. Begin with [Parts].
package labelsplit

import (
	"cmp"
	"maps"
	"math/rand/v2"
	"slices"
)

// Parts returns the part of each of len(order) images, from 0, by iterative stratification
// (Sechidis, Tsoumakas and Vlahavas, ECML PKDD 2011): it takes the label with the fewest images
// that are not assigned, and gives each of them to the part that lacks most images of this label.
// Among equal parts it takes the one that lacks most images of any label, then one at random. The
// images without a label come last.
//
// labels returns the ids of the labels of an image, in ascending order. order is a permutation of
// the images, in which they are taken. fractions holds the share of the images of each part; a part
// with the fraction 0 stays empty.
func Parts(labels func(image int) []int, order []int, fractions []float64, rng *rand.Rand) []int {
	labelsOf := func(i int) []int { // -1 stands for no label
		if ids := labels(i); len(ids) > 0 {
			return ids
		}
		return []int{-1}
	}
	members := map[int][]int{} // images of each label
	for _, i := range order {
		for _, label := range labelsOf(i) {
			members[label] = append(members[label], i)
		}
	}
	left := map[int]int{}        // number of images of each label that are not assigned
	lacks := map[int][]float64{} // number of images of each label that each part lacks
	for label, all := range members {
		left[label] = len(all)
		for _, f := range fractions {
			lacks[label] = append(lacks[label], f*float64(len(all)))
		}
	}
	var lacksAny []float64
	for _, f := range fractions {
		lacksAny = append(lacksAny, f*float64(len(order)))
	}
	assigned := slices.Repeat([]int{-1}, len(order))
	ids := slices.Sorted(maps.Keys(members))
	for {
		next := -1
		for _, label := range ids {
			if label >= 0 && left[label] > 0 && (next < 0 || left[label] < left[next]) {
				next = label
			}
		}
		for _, i := range members[next] {
			if assigned[i] >= 0 {
				continue
			}
			to, ties := -1, 0
			for part, f := range fractions {
				if f == 0 {
					continue
				}
				c := -1
				if to >= 0 {
					c = -cmp.Or(cmp.Compare(lacks[next][part], lacks[next][to]), cmp.Compare(lacksAny[part], lacksAny[to]))
				}
				if c < 0 {
					to, ties = part, 1
				} else if c == 0 {
					if ties++; rng.IntN(ties) == 0 {
						to = part
					}
				}
			}
			assigned[i] = to
			lacksAny[to]--
			for _, label := range labelsOf(i) {
				lacks[label][to]--
				left[label]--
			}
		}
		if next < 0 { // also the images without a label
			return assigned
		}
	}
}
