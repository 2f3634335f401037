package plan

import (
	"cmp"

	"github.com/sptune/spt/sensitivity"
)

// defaultRank returns the default of Options.Rank: 8, as in the paper. On a backbone narrower than
// 768 it is 8·width/768, rounded up, if this rank is enough to spend the budget. It is enough if
// modules on all matrices together with all vectors cost at least the budget. The rank never
// exceeds the shortest side of the matrices.
//
// The reason is cost. Relative to the backbone, a module of rank 8 is four times as large at width
// 192 as at width 768. So the same relative budget pays for only a quarter as many modules. On a
// ViT-Ti, rank 2 gives SPT-LoRA a higher accuracy for budgets up to 0.1M (docs/benchmarks.md).
func defaultRank(tensors []sensitivity.Tensor, count Count, classToken, budget int) int {
	shortest, width := sidesOf(tensors)
	all := classToken
	rank := max(1, min(DefaultRank, (DefaultRank*width+paperWidth-1)/paperWidth, shortest))
	for _, t := range tensors {
		switch {
		case len(t.Shape) == 1:
			all += t.Shape[0]
		case len(t.Shape) == 2 && !t.EntriesOnly:
			all += count(t.Shape[1], t.Shape[0], rank)
		}
	}
	if all < budget {
		rank = max(1, min(DefaultRank, shortest))
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
