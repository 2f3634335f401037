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

// CompatRelease is the value of [Options.Compat] and [Plan.Compat] for the plans that the paper's
// published code makes.
const CompatRelease = "release"

// The values of [Options.Only] and [Plan.Only]: one half of the method by itself.
const (
	// Unstructured plans give no matrix a module: its entries are tuned one by one, however many
	// they are. Vectors follow the rule.
	Unstructured = "unstructured"
	// Structured plans tune no single entries: a tensor below its threshold stays frozen and costs
	// nothing.
	Structured = "structured"
)

// DefaultRank is the rank of the paper's modules.
const DefaultRank = 8

// The paper's α and β, and the width of the ViT-B on which its modules have rank 8.
const (
	paperAlpha = 10
	paperBeta  = 5
	paperWidth = 768
)

// Count returns P, the number of parameters of a structured module of the given rank on a matrix
// [out, in]: rank·(in+out) for LoRA.
type Count func(in, out, rank int) int

// Options configures stage 2. The zero value takes the paper's α and β.
type Options struct {
	// Module is the name of the structured module. Plans record it. It is not read, and neither is
	// Rank, if Only is [Unstructured]. There is no default.
	Module string `json:"module"`
	// Only restricts the plan to one half of the method: [Unstructured] or [Structured]. Default
	// empty: both halves.
	Only string `json:"only,omitempty"`
	// Rank is the rank of the modules. Default 0: 8 as in the paper; on a backbone narrower than
	// the paper's it is 8 in proportion to the width, if that is enough to spend the budget. With
	// Compat the default is always 8.
	Rank int `json:"rank"`
	// Alpha is α: a matrix gets a module from P/α selected entries on. Default 10.
	Alpha float64 `json:"alpha"`
	// Beta is β: a vector is tuned whole from len/β selected entries on. Default 5.
	Beta float64 `json:"beta"`
	// Compat is empty for the plan that spends the most within the budget, or [CompatRelease] for
	// the plan that the paper's published code makes. Default empty.
	Compat string `json:"compat"`
}

// WithDefaults returns o with the defaults of its zero fields, except a Rank that depends on the
// budget.
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

// Validate reports options with which no plan can be made. o has its defaults filled in. tensors
// are the scored tensors of the backbone; their scores are not read. classToken is the number of
// parameters of its class token, budget the number of parameters that the plan may spend.
func (o Options) Validate(tensors []sensitivity.Tensor, classToken, budget int) error {
	if err := o.check(); err != nil {
		return err
	}
	if side, _ := sidesOf(tensors); o.Only != Unstructured && o.Rank > side {
		return option.Errorf("rank", "rank %d: expected 1 to %d, the shortest side of the backbone's matrices", o.Rank, side)
	}
	if o.Compat == "" {
		return checkBudget(budget, classToken)
	}
	if targets := ReleaseBudgets(); !slices.Contains(targets, budget) {
		return option.Errorf("budget", "a budget of %d parameters: compat mode %q makes plans for %v; give one of these, or leave compat mode", budget, o.Compat, targets)
	}
	return nil
}

// check reports what is wrong with the options by themselves.
func (o Options) check() error {
	switch {
	case o.Only != "" && o.Only != Unstructured && o.Only != Structured:
		return fmt.Errorf("only %q is no kind of plan; set it to %q, %q or nothing", o.Only, Unstructured, Structured)
	case o.Compat != "" && o.Compat != CompatRelease:
		return option.Errorf("compat", "compat mode %q is unknown; known: %s", o.Compat, CompatRelease)
	case o.Only != "" && o.Compat != "":
		return option.Errorf("compat", "compat mode %q makes no plans of %s tuning only; leave one of them out", o.Compat, o.Only)
	case o.Only != Unstructured && o.Module == "":
		return fmt.Errorf("no structured module is named; name one, for example %q", "lora")
	case o.Rank < 0:
		return option.Errorf("rank", "rank is %d, expected 1 or more", o.Rank)
	case !positive(o.Alpha) || !positive(o.Beta):
		return fmt.Errorf("alpha and beta are %v and %v, expected positive numbers", o.Alpha, o.Beta)
	}
	return nil
}

// checkBudget reports a budget that no plan can keep.
func checkBudget(budget, classToken int) error {
	switch {
	case budget < 1:
		return option.Errorf("budget", "the budget is %d parameters, expected a positive number", budget)
	case budget < classToken:
		return option.Errorf("budget", "the budget of %d parameters is below the least possible, %d, which the class token takes; raise the budget", budget, classToken)
	}
	return nil
}

// positive reports whether v is a finite number above zero.
func positive(v float64) bool { return v > 0 && !math.IsInf(v, 1) }

// New returns the plan for a budget of parameters. count counts the parameters of the structured
// module that o names; it is not called if o.Only is [Unstructured].
//
// Without o.Compat it is the plan with the greatest cost within the budget, over every τ. Scores
// are taken in descending order, equal ones in the order of tensors and of positions, so the plan
// does not depend on the number of processors. Where every plan costs less than the budget, New
// returns the most expensive one: compare Cost.Total with Budget.
//
// New fails on the options that [Options.Validate] reports, on a score that is NaN, infinite or
// negative, and on shapes that do not match the scores. If ctx is cancelled, New returns its error.
func New(ctx context.Context, scores *sensitivity.Scores, budget int, o Options, count Count) (*Plan, error) {
	o = o.WithDefaults()
	if err := o.Validate(scores.Tensors, scores.ClassToken, budget); err != nil {
		return nil, fmt.Errorf("planning: %w", err)
	}
	if o.Compat == "" {
		return exact(ctx, scores, budget, o, count)
	}
	plans, err := Release(ctx, scores, releaseScale, o, count)
	if err != nil {
		return nil, err
	}
	return plans[slices.Index(ReleaseBudgets(), budget)], nil
}
