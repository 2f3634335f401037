package method

import (
	"fmt"
	"strings"

	"github.com/sptune/spt/backbone"
	"github.com/sptune/spt/internal/option"
	"github.com/sptune/spt/peft"
)

// biases returns the selection of every bias of the backbone, the biases of norms and of the patch
// embedding included (Ben Zaken et al. 2022, "BitFit", arXiv 2106.10199; "bias" in the tables of
// VPT).
func biases(c backbone.Config) peft.Selection {
	return whole(c, func(p backbone.Param) bool { return strings.HasSuffix(p.Name, ".bias") })
}

// partial returns the selection of the last blocks of the backbone and of all tensors after them:
// the final norm, and layers between these blocks (Yosinski et al. 2014, arXiv 1411.1792). With
// blocks = 1 it is partial-1 of VPT (Jia et al. 2022, arXiv 2203.12119).
func partial(c backbone.Config, blocks int) (peft.Selection, error) {
	var names []string
	for _, p := range c.Params() {
		if b := backbone.Block(p.Name); b != "" && (len(names) == 0 || names[len(names)-1] != b) {
			names = append(names, b)
		}
	}
	if blocks < 1 || blocks > len(names) {
		return peft.Selection{}, fmt.Errorf("tuning the last %d blocks: expected 1 to %d, the number of blocks of the backbone", blocks, len(names))
	}
	first, reached := names[len(names)-blocks], false
	return whole(c, func(p backbone.Param) bool {
		reached = reached || backbone.Block(p.Name) == first
		return reached
	}), nil
}

// whole returns the selection of all tensors for which choose returns true. It calls choose in the
// order of the tensors, without the head.
func whole(c backbone.Config, choose func(backbone.Param) bool) (s peft.Selection) {
	for _, p := range c.Params() {
		if p.Role != backbone.Head && choose(p) {
			s.Whole = append(s.Whole, p.Name)
		}
	}
	return s
}

// rankFor returns the largest rank at which modules on every matrix from the given block on have at
// most budget parameters, and the number of parameters at that rank.
func rankFor(c backbone.Config, module string, budget, fromBlock int) (rank, cost int, err error) {
	m, err := peft.Lookup(module)
	if err != nil {
		return 0, 0, err
	}
	total := func(rank int) (n int) {
		for _, p := range c.ParamsFrom(fromBlock) {
			if p.Matrix() {
				n += m.Count(p.Shape[1], p.Shape[0], rank)
			}
		}
		return n
	}
	for rank < c.MaxRank() && total(rank+1) <= budget {
		rank++
	}
	if rank == 0 {
		return 0, 0, option.Errorf("budget", "%s on every matrix needs %d parameters at rank 1, more than the budget of %d; raise the budget", module, total(1), budget)
	}
	return rank, total(rank), nil
}
