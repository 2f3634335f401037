package run

import (
	"cmp"
	"fmt"
	"math"
	"slices"

	"github.com/sptune/spt/peft"
	"github.com/sptune/spt/plan"
)

// PlanOptions are stage 2's. Zero values are the paper's, but for the rank.
type PlanOptions struct {
	Module string  `json:"module"`         // structured module
	Only   string  `json:"only,omitempty"` // plan.Unstructured, plan.Structured or, for both, empty
	Rank   int     `json:"rank"`           // 0: plan.DefaultRank for the backbone and budget; 8 in compat mode
	Alpha  float64 `json:"alpha"`          // 0: 10
	Beta   float64 `json:"beta"`           // 0: 5
	Compat string  `json:"compat"`         // "" (exact budget) or "release"
}

func (o PlanOptions) WithDefaults() PlanOptions {
	if o.Only == plan.Unstructured {
		o.Module, o.Rank = "", 0
	} else if o.Compat != "" {
		o.Rank = cmp.Or(o.Rank, 8)
	}
	if o.Alpha == 0 {
		o.Alpha = 10
	}
	if o.Beta == 0 {
		o.Beta = 5
	}
	return o
}

// count is the parameter count of the structured module.
func (o PlanOptions) Count() (func(in, out, rank int) int, error) {
	if o.Module == "" && o.Only != plan.Unstructured {
		_, err := peft.Lookup("")
		return nil, err
	}
	return peft.CountOf(o.Module)
}

// validate refuses what no plan can meet. classToken is its parameter count,
// maxRank the shortest side of the matrices.
func (o PlanOptions) Validate(budget, classToken, maxRank int) error {
	positive := func(v float64) bool { return v > 0 && !math.IsInf(v, 1) }
	switch {
	case o.Only != plan.Unstructured && (o.Rank < 0 || o.Rank > maxRank):
		return fmt.Errorf("rank %d: expected 1 to %d, the shortest side of the backbone's matrices", o.Rank, maxRank)
	case !positive(o.Alpha) || !positive(o.Beta):
		return fmt.Errorf("alpha %g and beta %g: expected positive numbers", o.Alpha, o.Beta)
	}
	if o.Only != "" && o.Compat != "" {
		return fmt.Errorf("compat mode %q makes no plans of %s tuning only; leave one of them out", o.Compat, o.Only)
	}
	switch o.Compat {
	case "":
		if budget < classToken {
			return fmt.Errorf("a budget of %d parameters is below the least possible, %d, which the class token takes; raise the budget", budget, classToken)
		}
	case plan.CompatRelease:
		if targets := plan.ReleaseBudgets(); !slices.Contains(targets, budget) {
			return fmt.Errorf("budget of %d parameters: the release's targets are %v; give one of them, or leave compat mode", budget, targets)
		}
	default:
		return fmt.Errorf("compat mode %q is unknown; known: release", o.Compat)
	}
	return nil
}
