package plan

// The paper's modules have rank 8, on matrices of a ViT-B, which is 768 wide.
const (
	paperRank  = 8
	paperWidth = 768
)

// DefaultRank is the rank of modules where none is given: the paper's 8; on a narrower
// backbone than the paper's 8 in proportion to its width, rounded up, if that is enough
// to spend the budget, that is if a module on every matrix and every vector whole cost
// as much at least. The width is the greatest of the matrices' shorter sides; the
// shortest of these bounds the rank.
//
// A module of rank 8 takes four times as large a share of a backbone 192 wide as of one
// 768 wide, so that a budget of the same share pays for a quarter as many. With rank 2
// SPT-LoRA gains on a ViT-Ti up to 0.1M (docs/benchmarks.md).
func DefaultRank(scored []Scored, moduleParams func(in, out, rank int) int, classToken, budget int) int {
	shortest, width, all := 0, 0, classToken
	for _, s := range scored {
		if len(s.Shape) == 2 && !s.EntriesOnly {
			side := min(s.Shape[0], s.Shape[1])
			if shortest == 0 || side < shortest {
				shortest = side
			}
			width = max(width, side)
		}
	}
	rank := max(1, min(paperRank, (paperRank*width+paperWidth-1)/paperWidth, shortest))
	for _, s := range scored {
		switch {
		case len(s.Shape) == 1:
			all += s.Shape[0]
		case len(s.Shape) == 2 && !s.EntriesOnly:
			in, out := s.inOut()
			all += moduleParams(in, out, rank)
		}
	}
	if all < budget {
		rank = max(1, min(paperRank, shortest))
	}
	return rank
}
