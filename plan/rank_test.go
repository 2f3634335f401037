package plan

import (
	"testing"

	"github.com/sptune/spt/sensitivity"
)

// TestDefaultRank checks the default rank: 8 at the width and the budgets of the paper, less on
// narrower backbones, and more where this rank cannot spend the budget.
func TestDefaultRank(t *testing.T) {
	lora := moduleParams["lora"]
	for _, c := range []struct {
		depth, dim, budget, want int
	}{
		{12, 768, 50_000, 8}, {12, 768, 400_000, 8}, {12, 768, 1_449_216, 8}, {12, 768, 1_449_217, 9}, {24, 1024, 400_000, 8},
		{12, 384, 108_000, 4}, {12, 192, 27_622, 2}, {12, 192, 50_000, 2}, {12, 192, 100_000, 2},
		{12, 192, 113_472, 2}, {12, 192, 113_473, 3}, {12, 192, 200_000, 5}, {12, 192, 400_000, 9},
		{2, 8, 100, 1}, {2, 8, 1_000_000, 8}, {2, 4, 1_000_000, 4},
	} {
		scored := vitShapes(c.depth, c.dim)
		rank := defaultRank(scored, lora, c.dim, c.budget)
		if rank != c.want {
			t.Errorf("depth %d, width %d, budget %d: rank %d, want %d", c.depth, c.dim, c.budget, rank, c.want)
		}
	}
	// Matrices that take no module do not matter. The rank does not exceed the shortest side.
	scored := append(vitShapes(1, 64), sensitivity.Tensor{Name: "downsample", Shape: []int{8, 1024}, EntriesOnly: true}, sensitivity.Tensor{Name: "narrow", Shape: []int{6, 1024}})
	if rank := defaultRank(scored, lora, 0, 1_000_000); rank != 6 {
		t.Errorf("rank %d, want 6, the shortest side", rank)
	}
	// exact uses the default rank. It does not change a rank that is set.
	tiny := vit(12, 192)
	for given, want := range map[int]int{0: 2, 3: 3} {
		p, err := inputs{Budget: 100_000, Module: "lora", ModuleParams: lora, ClassToken: 192, Rank: given}.exact(t.Context(), tiny)
		if err != nil {
			t.Fatal(err)
		}
		if p.Rank != want || p.Cost.Total != 100_000 {
			t.Errorf("rank %d, %d of 100000 parameters, want rank %d", p.Rank, p.Cost.Total, want)
		}
	}
}

// TestDefaultRankSteps checks that the default rank grows with the budget, by one at a time, from a
// rank in proportion to the width up to the shortest side.
func TestDefaultRankSteps(t *testing.T) {
	for module, count := range moduleParams {
		for dim, start := range map[int]int{48: 1, 96: 1, 192: 2, 200: 3} {
			scored := vitShapes(2, dim)
			before, budget := start, 1
			for budget < 2_000_000 {
				rank := defaultRank(scored, count, dim, budget)
				if rank < before || rank > before+1 {
					t.Fatalf("%s, width %d, budget %d: rank %d after rank %d", module, dim, budget, rank, before)
				}
				before, budget = rank, budget+max(1, budget/500)
			}
			if before != dim {
				t.Errorf("%s, width %d: the greatest rank is %d", module, dim, before)
			}
		}
	}
}
