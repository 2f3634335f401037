package bench

import (
	"context"
	"fmt"

	"github.com/sptune/spt"
	"github.com/sptune/spt/backbone"
	"github.com/sptune/spt/method"
	"github.com/sptune/spt/peft"
	"github.com/sptune/spt/plan"
	"github.com/sptune/spt/run"
)

// Method is what a step does. It is a method of package method, [Forward] or score. A
// training step has the drop rates of the VTAB recipe, whatever the method. The method
// "linear" passes every image through the backbone in every step, where a run computes
// the features once.
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
	if err := method.Method(m).Validate(); err != nil {
		return &run.OptionError{Err: fmt.Errorf("%w; bench also takes %s and %s", err, Forward, score)}
	}
	return nil
}

// planRank is the rank of the modules in synthetic plans. It does not depend on the
// budget, so that all backbones are measured alike.
const planRank = 8

// DefaultBudget returns the budget of SPT's methods where none is given, as
// [plan.ParseBudget] reads it. It is the paper's for a ViT-B. A backbone as narrow as a
// ViT-Ti gets less, because 0.4M pays for a module on every matrix there.
func DefaultBudget(c backbone.Config) string {
	if c.NumFeatures() <= 192 {
		return "0.2M"
	}
	return "0.4M"
}

// Select returns what a method tunes on a backbone of this shape. SPT's methods plan
// under the budget from synthetic scores with modules of rank 8. Other methods select as
// [method.Baseline] does. Options that do not fit are a [run.OptionError].
func Select(ctx context.Context, c backbone.Config, m Method, budget string) (peft.Selection, error) {
	if err := m.Validate(); err != nil {
		return peft.Selection{}, err
	}
	tuned := method.Method(m)
	switch {
	case m == Forward || m == score:
		if budget != "" {
			return peft.Selection{}, &run.OptionError{Err: fmt.Errorf("method %s takes no budget: found %q; leave it out", m, budget)}
		}
		return peft.Linear(), nil
	case tuned.Scores():
		p, err := spt.Plan(ctx, c, syntheticScores(c), budget, run.PlanOptions{Module: tuned.Module(), Rank: planRank, Only: tuned.Only()})
		if err != nil {
			return peft.Selection{}, err
		}
		return spt.Select(c, p), nil
	}
	s, err := method.Baseline(c, tuned, method.BaselineOptions{Budget: budget})
	if err != nil {
		return peft.Selection{}, &run.OptionError{Err: err}
	}
	return s, nil
}

// SelectPlan returns what a plan tunes on a backbone of this shape. A plan of another
// backbone is a [run.InputError].
func SelectPlan(c backbone.Config, p *plan.Plan) (peft.Selection, error) {
	count, err := peft.CountOf(p.Module)
	if err == nil {
		err = p.Validate(spt.Tensors(c), count)
	}
	if err != nil {
		return peft.Selection{}, &run.InputError{Err: err}
	}
	return spt.Select(c, p), nil
}
