package method

import (
	"fmt"
	"slices"
	"strings"

	"github.com/sptune/spt/backbone"
	"github.com/sptune/spt/internal/option"
	"github.com/sptune/spt/peft"
	"github.com/sptune/spt/plan"
)

// biases returns the selection of every bias of the backbone, the biases of norms and of the patch
// embedding included (Ben Zaken et al. 2022, "BitFit", arXiv 2106.10199; "bias" in the tables of
// VPT).
func biases(c backbone.Config) peft.Selection {
	return whole(c, isBias)
}

// isBias reports whether p is the bias of a layer or a norm.
func isBias(p backbone.Param) bool { return strings.HasSuffix(p.Name, ".bias") }

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

// norms returns the selection of every norm: their weights and biases.
func norms(c backbone.Config) peft.Selection {
	return whole(c, func(p backbone.Param) bool { return isVector(p) && p.Norm })
}

// withModules returns the selection with the structured module of r on the matrices of
// o.TargetModules or r.places, and with every bias and norm if r.vectors is set.
func withModules(r Row, c backbone.Config, o Options) (peft.Selection, error) {
	if len(o.TargetModules) > 0 {
		r.places = o.TargetModules
		for _, target := range r.places {
			if len(r.at(target).matrices(c, 0)) == 0 {
				return peft.Selection{}, option.Errorf("target-modules", "target module %q: the blocks of the backbone have no such linear layer; they have %s", target, strings.Join(layers(c), ", "))
			}
		}
	}
	if len(r.matrices(c, 0)) == 0 {
		return peft.Selection{}, fmt.Errorf("method %s puts its modules on the matrices %s of each block, and the backbone has none of them; choose another method", r.Method, strings.Join(r.places, ", "))
	}
	rank := o.Rank
	if !o.Budget.IsZero() {
		parameters, err := o.Budget.Parameters(c.Size())
		if err != nil {
			return peft.Selection{}, err
		}
		if rank, _, err = r.rankFor(c, parameters, o.FromBlock); err != nil {
			return peft.Selection{}, err
		}
	}
	if rank == 0 {
		rank = min(plan.DefaultRank, c.MaxRank())
	}
	if rank < 1 || rank > c.MaxRank() {
		return peft.Selection{}, option.Errorf("rank", "rank %d: expected 1 to %d, the shortest side of the backbone's matrices", rank, c.MaxRank())
	}
	s := peft.Selection{Module: r.Module, Rank: rank}
	if r.vectors {
		s = whole(c, isVector)
		s.Module, s.Rank = r.Module, rank
	}
	for _, p := range r.matrices(c, 0) {
		s.Structured = append(s.Structured, p.Name)
	}
	return s, nil
}

// at returns r with its modules on one place.
func (r Row) at(place string) Row {
	r.places = []string{place}
	return r
}

// layer returns the name of the layer of a matrix within its block, such as "attn.q".
func layer(p backbone.Param) string {
	return strings.TrimSuffix(strings.TrimPrefix(p.Name, backbone.Block(p.Name)+"."), ".weight")
}

// layers returns the names of the linear layers of the blocks, each once.
func layers(c backbone.Config) (names []string) {
	for _, p := range c.Params() {
		if p.Matrix() && !slices.Contains(names, layer(p)) {
			names = append(names, layer(p))
		}
	}
	return names
}

// isVector reports whether p is a bias, or the weight or bias of a norm, that SPT can tune whole.
func isVector(p backbone.Param) bool { return p.Role == backbone.Scored && len(p.Shape) == 1 }

// matrices returns the matrices that get the module of the method, from the given block on.
func (r Row) matrices(c backbone.Config, fromBlock int) (out []backbone.Param) {
	for _, p := range c.ParamsFrom(fromBlock) {
		if p.Matrix() && (r.places == nil || slices.ContainsFunc(r.places, func(place string) bool {
			return strings.HasSuffix("."+layer(p), "."+place)
		})) {
			out = append(out, p)
		}
	}
	return out
}

// rankFor returns the largest rank at which the method tunes at most budget parameters from the
// given block on, and the number of parameters at that rank.
func (r Row) rankFor(c backbone.Config, budget, fromBlock int) (rank, cost int, err error) {
	m, err := peft.Lookup(r.Module)
	if err != nil {
		return 0, 0, err
	}
	matrices, vectors := r.matrices(c, fromBlock), 0
	if r.vectors {
		for _, p := range c.ParamsFrom(fromBlock) {
			if isVector(p) {
				vectors += p.Size()
			}
		}
	}
	total := func(rank int) int {
		n := vectors
		for _, p := range matrices {
			n += m.Count(p.Shape[1], p.Shape[0], rank)
		}
		return n
	}
	for rank < c.MaxRank() && total(rank+1) <= budget {
		rank++
	}
	if rank == 0 {
		return 0, 0, option.Errorf("budget", "method %s needs %d parameters at rank 1, more than the budget of %d; raise the budget", r.Method, total(1), budget)
	}
	return rank, total(rank), nil
}
