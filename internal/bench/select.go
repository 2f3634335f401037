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

// Method is what a step does. It is a method of package method, [Forward] or score. A training step
// has the drop rates of the VTAB recipe, whatever the method. The method "linear" passes every
// image through the backbone in every step, where a run computes the features once.
type Method string

// The methods that tune nothing.
const (
	Forward Method = "forward" // predictions
	score   Method = "score"   // stage 1: the squared gradients of all scored weights
)

// Methods lists the methods that can be measured.
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
		return &run.OptionError{Option: "method", Err: fmt.Errorf("%w; bench also takes %s and %s", err, Forward, score)}
	}
	return nil
}

// Scores reports whether a step of the method tunes what a plan selects.
func (m Method) Scores() bool {
	row, err := method.Lookup(method.Method(m))
	return err == nil && row.Scores
}

// DefaultBudget returns the default budget of SPT's methods: the paper's for a ViT-B, and less for
// a backbone as narrow as a ViT-Ti, because 0.4M pays for a module on every matrix there.
func DefaultBudget(c backbone.Config) plan.Budget {
	if c.NumFeatures() <= 192 {
		return plan.MustParseBudget("0.2M")
	}
	return plan.MustParseBudget("0.4M")
}

// Select returns what a method tunes on a backbone of this shape. SPT's methods plan under the
// budget from synthetic scores, with modules of the paper's rank, so that all backbones are
// measured alike. Other methods select as [method.Row.Select] does. Options that do not fit are a
// [run.OptionError].
func Select(ctx context.Context, c backbone.Config, m Method, budget plan.Budget) (peft.Selection, error) {
	if m == Forward || m == score {
		if !budget.IsZero() {
			return peft.Selection{}, &run.OptionError{Option: "budget", Err: fmt.Errorf("method %s takes no budget: found %s; leave it out", m, budget)}
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

// SelectPlan returns what a plan tunes on a backbone of this shape. A plan of another backbone is a
// [run.InputError].
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
