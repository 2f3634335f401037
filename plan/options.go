package plan

import (
	"cmp"
	"context"
	"fmt"
	"math"
	"slices"

	"github.com/sptune/spt/internal/option"
	"github.com/sptune/spt/sensitivity"
)

// CompatRelease is the value of [Options.Compat] and [Plan.Compat] for plans that equal those of
// the paper's published code.
const CompatRelease = sensitivity.CompatRelease

// These are the values of [Options.Only] and [Plan.Only]. Each uses only one half of the method.
const (
	// Unstructured plans use no structured modules. The selected entries of a matrix are tuned one
	// by one, whatever their number. The rule for vectors does not change.
	Unstructured = "unstructured"
	// Structured plans tune no single entries. A tensor that does not convert stays frozen and
	// costs nothing.
	Structured = "structured"
)

// DefaultRank is the rank of the structured modules in the paper.
const DefaultRank = 8

// These are the α and β of the paper, and the width of the ViT-B for which the paper takes rank 8.
const (
	paperAlpha = 10
	paperBeta  = 5
	paperWidth = 768
)

// Count returns P, the number of parameters of a structured module of the given rank on a matrix
// [out, in]. For LoRA it is rank·(in+out).
type Count func(in, out, rank int) int

// Options configures [New] and [Release]. Module must be set, except with Only [Unstructured].
// Other zero fields take the values of the paper.
type Options struct {
	// Module is the name of the structured module, such as "lora". The plan records it. It has no
	// default. If Only is [Unstructured], Module and Rank are ignored.
	Module string `json:"module"`
	// Only restricts the plan to one half of the method: [Unstructured] or [Structured]. Default:
	// empty, which uses both halves.
	Only string `json:"only,omitempty"`
	// Rank is the rank of the structured modules. Default: the smallest rank that is enough to
	// spend the budget, but at least the paper's 8, or 8·width/768, rounded up, on a backbone
	// narrower than 768. With Compat the default is always 8.
	Rank int `json:"rank"`
	// Alpha is α: a matrix gets a module if at least P/α of its entries are selected. Default: 10.
	Alpha float64 `json:"alpha"`
	// Beta is β: a vector is tuned whole if at least len/β of its entries are selected. Default: 5.
	Beta float64 `json:"beta"`
	// Rule is one of [Rules]. Default: empty, which is SPT's rule.
	Rule string `json:"rule,omitempty"`
	// Seed is the seed of the random places of the rules [RandomPlaces] and [GainRandomPlaces]. A
	// configuration does not store it: it is the seed of the scores, sensitivity.Options.Seed.
	// Default: 0.
	Seed uint64 `json:"-"`
	// Compat is [CompatRelease] for the plan that the paper's published code makes. Default: empty,
	// for the plan that spends the budget exactly, as [New] describes.
	Compat string `json:"compat"`
	// FromBlock is the first block of which the plan selects parameters, if it is not 0. Blocks are
	// numbered from 0. The class token, which enters the first block of all, is not tuned then. A
	// configuration does not store FromBlock: run.TuneOptions holds the same number. Default: 0,
	// all blocks.
	FromBlock int `json:"-"`
}

// WithDefaults returns o with defaults in place of zero fields. Rank stays 0 where its default
// depends on the budget, that is without Compat.
func (o Options) WithDefaults() Options {
	switch {
	case o.Only == Unstructured:
		o.Module, o.Rank = "", 0
	case o.Compat != "":
		o.Rank = cmp.Or(o.Rank, DefaultRank)
	}
	o.Alpha = cmp.Or(o.Alpha, paperAlpha)
	o.Beta = cmp.Or(o.Beta, paperBeta)
	return o
}

// Validate returns an error if no plan can be made with these options. Call WithDefaults first.
// tensors are the scored tensors of the backbone; Validate does not read their scores. classToken
// is the number of parameters of the class token. budget is the number of parameters that the plan
// may spend.
func (o Options) Validate(tensors []sensitivity.Tensor, classToken, budget int) error {
	if err := o.check(); err != nil {
		return err
	}
	if o.FromBlock > 0 {
		if tensors, classToken = sensitivity.From(tensors, o.FromBlock), 0; len(tensors) == 0 {
			return option.Errorf("from-block", "planning from block %d on: the backbone has fewer blocks, which are numbered from 0; give an earlier block", o.FromBlock)
		}
	}
	if side, _ := sidesOf(tensors); o.Only != Unstructured && o.Rank > side {
		return option.Errorf("rank", "rank %d: expected 1 to %d, the shortest side of the backbone's matrices", o.Rank, side)
	}
	if o.Rule == PerNeuron {
		return checkBiases(tensors, classToken, budget)
	}
	if o.Compat == "" {
		return checkBudget(budget, classToken)
	}
	if targets := ReleaseBudgets(); !slices.Contains(targets, budget) {
		return option.Errorf("budget", "the budget is %d parameters, but compat mode %q makes plans for %v only; give one of these budgets, or leave out the compat mode", budget, o.Compat, targets)
	}
	return nil
}

// check returns an error if an option is wrong for every backbone and every budget.
func (o Options) check() error {
	if err := sensitivity.ValidateCompat(o.Compat); err != nil {
		return err
	}
	if err := validateRule(o.Rule, o.Only, o.Module, o.Compat); err != nil {
		return err
	}
	switch {
	case o.Only != "" && o.Only != Unstructured && o.Only != Structured:
		return fmt.Errorf("only is %q, expected %q, %q or nothing", o.Only, Unstructured, Structured)
	case o.FromBlock < 0:
		return option.Errorf("from-block", "planning from block %d on: expected 0 or more", o.FromBlock)
	case o.FromBlock > 0 && o.Compat != "":
		return option.Errorf("compat", "compat mode %q makes no plans from a later block on; leave out one of the two options", o.Compat)
	case o.Only != "" && o.Compat != "":
		return option.Errorf("compat", "compat mode %q makes no plans of %s tuning only; leave out one of the two options", o.Compat, o.Only)
	case o.Only != Unstructured && o.Module == "":
		return fmt.Errorf("no structured module is named; give one, for example %q", "lora")
	case o.Rule == PerNeuron && o.Beta != paperBeta:
		return option.Errorf("beta", "plan rule %q has no threshold, so beta has no effect on it; leave it out", o.Rule)
	case o.Rank < 0:
		return option.Errorf("rank", "rank is %d, expected 1 or more", o.Rank)
	case !positive(o.Alpha) || !positive(o.Beta):
		return fmt.Errorf("alpha and beta are %v and %v, expected positive numbers", o.Alpha, o.Beta)
	}
	return nil
}

// checkBudget returns an error if every plan exceeds the budget.
func checkBudget(budget, classToken int) error {
	switch {
	case budget < 1:
		return option.Errorf("budget", "the budget is %d parameters, expected a positive number", budget)
	case budget < classToken:
		return option.Errorf("budget", "the budget is %d parameters, but the class token alone has %d; give a larger budget", budget, classToken)
	}
	return nil
}

// positive reports whether v is a finite number above zero.
func positive(v float64) bool { return v > 0 && !math.IsInf(v, 1) }

// New returns the plan for a budget, which is a number of parameters without the head. count
// returns the number of parameters of the module that o names. It is not called if o.Only is
// [Unstructured].
//
// Without o.Compat, New takes positive scores in descending order, and equal scores in the order of
// tensors and positions. So the plan does not depend on the number of processors. New takes each
// score by this rule, until the budget is spent or no score is left:
//
//   - Below the threshold of its tensor (see the package comment), the score tunes one entry.
//   - A score that reaches the threshold converts the tensor: a module, or the whole vector,
//     replaces the entries. The conversion must keep the cost within the budget.
//   - If the conversion does not fit, the tensor never converts. This score and the later scores of
//     the tensor tune one entry each, or nothing if o.Only is [Structured].
//   - The later scores of a tensor that converted change nothing.
//
// A score of zero is never taken, because the weight had no measured effect on the loss. The cost
// never exceeds the budget. It equals the budget unless all positive scores together cost less, or
// o.Only is Structured; compare Cost.Total with Budget.
//
// With o.FromBlock, the scores of earlier tensors are not taken, and the class token costs nothing.
//
// With [PerNeuron], New tunes whole every vector that is not part of a norm. It spends the rest of
// the budget on entries of matrices and kernels, of which the rows are the weights of one output
// neuron: it takes the largest score of each neuron, then the second largest of each, and so on.
// Where the budget ends, the larger scores come first.
//
// With [Gain], New finds the price of a parameter at which the plan just fits the budget, if every
// tensor takes what leaves it the most gain after the price is paid. The next ranks, vectors and
// entries by their gain for each parameter spend the rest.
//
// New returns an error if [Options.Validate] does, if a score is NaN or infinite, if it is negative
// or if the criterion of the scores is not that of the rule, or if a shape does not match the
// number of scores. If ctx is cancelled, New returns the error of ctx.
func New(ctx context.Context, scores *sensitivity.Scores, budget int, o Options, count Count) (*Plan, error) {
	o = o.WithDefaults()
	if err := o.Validate(scores.Tensors, scores.ClassToken, budget); err != nil {
		return nil, fmt.Errorf("planning: %w", err)
	}
	if scores.FromBlock > o.FromBlock {
		return nil, fmt.Errorf("planning: %w", option.Errorf("from-block", "the scores are those of block %d and later blocks, but the plan begins with block %d; plan from block %[1]d on, or give scores of all blocks", scores.FromBlock, o.FromBlock))
	}
	if o.FromBlock > 0 {
		late := *scores
		late.Tensors, late.ClassToken = sensitivity.From(scores.Tensors, o.FromBlock), 0
		scores = &late
	}
	switch {
	case o.Rule == PerNeuron:
		return perNeuron(ctx, scores, budget, o)
	case ByGain(o.Rule):
		return gain(ctx, scores, budget, o, count)
	case o.Compat == "":
		return exact(ctx, scores, budget, o, count)
	}
	plans, err := Release(ctx, scores, releaseScale, o, count)
	if err != nil {
		return nil, err
	}
	return plans[slices.Index(ReleaseBudgets(), budget)], nil
}
