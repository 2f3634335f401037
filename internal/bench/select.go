package bench

import (
	"context"
	"fmt"

	"github.com/sptune/spt"
	"github.com/sptune/spt/backbone"
	"github.com/sptune/spt/internal/option"
	"github.com/sptune/spt/method"
	"github.com/sptune/spt/peft"
	"github.com/sptune/spt/plan"
	"github.com/sptune/spt/run"
	"github.com/sptune/spt/sensitivity"
)

// Method is a kind of step: a training step of a method in package method, or [Forward], or
// "score". Training steps of all methods use the dropout and drop-path rates of the VTAB recipe. A
// step of the method "linear" runs the backbone for every image, although a real run computes the
// features of each image only once.
type Method string

// These methods tune no parameters.
const (
	// Forward is the forward pass, which computes predictions.
	Forward Method = "forward"
	// score is stage 1, which computes the squared gradients of all scored weights.
	score Method = "score"
)

// Methods returns all methods that can be measured.
func Methods() (out []Method) {
	for _, m := range method.Methods() {
		out = append(out, Method(m))
	}
	return append(out, Forward, score)
}

// Validate returns a [run.OptionError] if m is unknown.
func (m Method) Validate() error {
	if m == Forward || m == score {
		return nil
	}
	if _, err := method.Lookup(method.Method(m)); err != nil {
		stages := []string{string(Forward), string(score)}
		if option.Nearest(string(m), stages) != "" {
			err = option.Unknown("method", "method", string(m), stages)
		}
		return &run.OptionError{Option: "method", Err: fmt.Errorf("%w; spt bench also takes %s and %s", err, Forward, score)}
	}
	return nil
}

// Scores reports whether the method tunes the selection of a plan, which needs scores.
func (m Method) Scores() bool {
	row, err := method.Lookup(method.Method(m))
	return err == nil && row.Scores
}

// DefaultBudget returns the default budget of the SPT methods. It is 0.4M, which the paper uses for
// a ViT-B. For a backbone of width 192 (ViT-Ti) or less it is 0.2M, because 0.4M would pay for a
// module on every matrix.
func DefaultBudget(c backbone.Config) plan.Budget {
	if c.NumFeatures() <= 192 {
		return plan.MustParseBudget("0.2M")
	}
	return plan.MustParseBudget("0.4M")
}

// Select returns the selection that a method tunes on a backbone with configuration c. The SPT
// methods make a plan for the budget from synthetic scores, with modules of rank 8 on every
// backbone. Other methods select as [method.Row.Select] does. The selection is empty for [Forward]
// and "score". Select returns a [run.OptionError] if the method or the budget is wrong.
func Select(ctx context.Context, c backbone.Config, m Method, budget plan.Budget) (peft.Selection, error) {
	if m == Forward || m == score {
		if !budget.IsZero() {
			return peft.Selection{}, &run.OptionError{Option: "budget", Err: fmt.Errorf("method %s takes no budget: found a budget of %s; leave it out", m, budget)}
		}
		return peft.Selection{}, nil
	}
	row, err := method.Lookup(method.Method(m))
	if err != nil {
		return peft.Selection{}, &run.OptionError{Option: "method", Err: err}
	}
	if row.Scores {
		p, err := spt.Plan(ctx, c, syntheticScores(c), budget, plan.Options{Module: row.Module, Only: row.Only, Rank: plan.DefaultRank})
		if err != nil {
			return peft.Selection{}, err
		}
		return spt.Select(c, p), nil
	}
	s, err := row.Select(c, method.Options{Budget: budget})
	if err != nil {
		return s, &run.OptionError{Option: option.Of(err), Err: err}
	}
	return s, nil
}

// SelectPlan returns the selection of a plan on a backbone with configuration c. It returns a
// [run.InputError] if the plan is for another backbone.
func SelectPlan(c backbone.Config, p *plan.Plan) (peft.Selection, error) {
	count, err := peft.CountOf(p.Module)
	if err == nil {
		err = p.Validate(sensitivity.Tensors(c), count)
	}
	if err != nil {
		return peft.Selection{}, &run.InputError{Err: err}
	}
	return spt.Select(c, p), nil
}
