package plan

import (
	"cmp"

	"github.com/sptune/spt/sensitivity"
)

// defaultRank returns the rank of modules where none is given: the paper's 8. On a backbone
// narrower than the paper's it is 8 in proportion to the width, rounded up, if that is enough to
// spend the budget: if a module on every matrix and every vector whole cost at least as much. The
// shortest side of the matrices bounds the rank.
//
// A module of rank 8 takes four times as large a share of a backbone 192 wide as of one 768 wide,
// so a budget of the same share pays for a quarter as many. With rank 2 SPT-LoRA gains on a ViT-Ti
// up to 0.1M (docs/benchmarks.md).
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

// sidesOf returns the shortest side of the matrices that take a module, and their width: the
// greatest of their shorter sides.
func sidesOf(tensors []sensitivity.Tensor) (shortest, width int) {
	for _, t := range tensors {
		if len(t.Shape) == 2 && !t.EntriesOnly {
			side := min(t.Shape[0], t.Shape[1])
			shortest, width = min(cmp.Or(shortest, side), side), max(width, side)
		}
	}
	return shortest, width
}
