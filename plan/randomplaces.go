package plan

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"

	"github.com/sptune/spt/internal/seeded"
)

// toRandomPlaces moves what the plan tunes to random places, which follow from the seed. The
// numbers of the plan stay the same:
//
//   - A matrix with a module is exchanged for a matrix of as many values, on which a module has as
//     many parameters. With ranks of its own for each matrix, the other matrix gets the same rank.
//   - A vector is exchanged for a vector of the same length.
//   - Entries are drawn from all values of the tensors that are not tuned whole and have no module:
//     as many from matrices and as many from vectors as before.
//
// tensors are those from which the plan was made.
func (p *Plan) toRandomPlaces(tensors []tensor, seed uint64) {
	// Tensors of the same kind can be exchanged. Those without a cost of the whole tensor are tuned
	// by entries only.
	type kind struct {
		matrix      bool
		size, whole int
	}
	converted := set(slices.Concat(p.Matrices, p.Vectors))
	members := map[kind][]int{}
	ranks := map[kind][]int{} // of the converted tensors; 0 for those without a rank of their own
	var kinds []kind
	for i := range tensors {
		t := &tensors[i]
		if t.whole == 0 {
			continue
		}
		k := kind{len(t.Shape) > 1, len(t.Scores), t.whole}
		if members[k] == nil {
			kinds = append(kinds, k)
		}
		members[k] = append(members[k], i)
		if converted[t.Name] {
			ranks[k] = append(ranks[k], p.Ranks[t.Name])
		}
	}
	chosen, moved := map[int]bool{}, map[string]int{}
	for _, k := range kinds {
		order := seeded.Rand(seed, fmt.Sprintf("random places, %+v", k)).Perm(len(members[k]))
		for n, i := range order[:len(ranks[k])] {
			chosen[members[k][i]] = true
			if k.matrix {
				moved[tensors[members[k][i]].Name] = ranks[k][n]
			}
		}
	}
	if p.Ranks != nil {
		p.Ranks = moved
	}
	p.Matrices, p.Vectors = []string{}, []string{}
	entries := map[bool]int{} // numbers of entries in matrices, and in vectors
	for i := range tensors {
		t := &tensors[i]
		matrix := len(t.Shape) > 1
		entries[matrix] += len(p.Entries[t.Name])
		switch {
		case chosen[i] && matrix:
			p.Matrices = append(p.Matrices, t.Name)
		case chosen[i]:
			p.Vectors = append(p.Vectors, t.Name)
		}
	}
	p.Entries = map[string][]int32{}
	for _, matrix := range []bool{true, false} {
		var others []*tensor
		size := 0
		for i := range tensors {
			if t := &tensors[i]; !chosen[i] && (len(t.Shape) > 1) == matrix {
				others = append(others, t)
				size += len(t.Scores)
			}
		}
		start, t := 0, 0 // position of the first value of others[t]
		for _, position := range sample(size, entries[matrix], seeded.Rand(seed, fmt.Sprintf("random entries, matrices %t", matrix))) {
			for position-start >= len(others[t].Scores) {
				start += len(others[t].Scores)
				t++
			}
			name := others[t].Name
			p.Entries[name] = append(p.Entries[name], int32(position-start))
		}
	}
}

// sample returns n different numbers below size in ascending order, by Floyd's algorithm.
func sample(size, n int, r *rand.Rand) []int {
	drawn := make(map[int]bool, n)
	for last := size - n; last < size; last++ {
		i := r.IntN(last + 1)
		if drawn[i] {
			i = last
		}
		drawn[i] = true
	}
	return slices.Sorted(maps.Keys(drawn))
}
