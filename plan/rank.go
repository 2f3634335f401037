package plan

import (
	"cmp"

	"github.com/sptune/spt/sensitivity"
)

// defaultRank returns the default of Options.Rank. On backbones of width 768 or more it starts from
// 8, as in the paper, and on narrower ones from 8·width/768, rounded up. The result is the smallest
// rank from there upwards that is enough to spend the budget: modules on all matrices, all vectors
// and the class token together cost at least the budget. The rank never exceeds the shortest side
// of the matrices.
//
// The reason for the start is cost. Relative to the backbone, a module of rank 8 is four times as
// large at width 192 as at width 768. So the same relative budget pays for only a quarter as many
// modules. On a ViT-Ti, rank 2 gives SPT-LoRA a higher accuracy for budgets up to 0.1M
// (docs/notes/accuracy.md).
func defaultRank(tensors []sensitivity.Tensor, count Count, classToken, budget int) int {
	shortest, width := sidesOf(tensors)
	everything := func(rank int) int {
		cost := classToken
		for _, t := range tensors {
			switch {
			case len(t.Shape) == 1:
				cost += t.Shape[0]
			case len(t.Shape) == 2 && !t.EntriesOnly:
				cost += count(t.Shape[1], t.Shape[0], rank)
			}
		}
		return cost
	}
	rank := max(1, min(DefaultRank, (DefaultRank*width+paperWidth-1)/paperWidth, shortest))
	for rank < shortest && everything(rank) < budget {
		rank++
	}
	return rank
}

// sidesOf looks at the matrices that can get a module. It returns the shortest side of all of them,
// and the width: the greatest of their shorter sides.
func sidesOf(tensors []sensitivity.Tensor) (shortest, width int) {
	for _, t := range tensors {
		if len(t.Shape) == 2 && !t.EntriesOnly {
			side := min(t.Shape[0], t.Shape[1])
			shortest, width = min(cmp.Or(shortest, side), side), max(width, side)
		}
	}
	return shortest, width
}
