package plan

import (
	"context"
	"fmt"
	"math"
	"slices"

	"github.com/sptune/spt/sensitivity"
)

// releaseTargets lists the budgets of the published code, in units of its scale.
var releaseTargets = []float64{1.0, 0.8, 0.6, 0.4, 0.2, 0.1, 0.05}

// releaseScale is the number of parameters in one unit of budget of the published code.
const releaseScale = 1e6

// ReleaseBudgets returns the budgets, in parameters and in descending order, for which [New] makes
// plans with [CompatRelease].
func ReleaseBudgets() []int {
	budgets := make([]int, len(releaseTargets))
	for i, t := range releaseTargets {
		budgets[i] = int(math.Round(t * releaseScale))
	}
	return budgets
}

// Release returns the plans that the paper's published code chooses. There is one plan for each of
// the budgets 1.0, 0.8, 0.6, 0.4, 0.2, 0.1 and 0.05 times scale, in this order. scale is the number
// of parameters in one unit of budget. It is 1e6 in the published code; use a smaller scale for a
// backbone with few parameters. [New] with [CompatRelease] returns one of these plans at a scale of
// 1e6. Release sets o.Compat itself; count is as for New.
//
// The published code tries τ = ⌈0.02·k·scale⌉ for k = 1…79. For each budget it keeps the plan whose
// cost is nearest to the budget, above or below. If two costs are equally near, it keeps the plan
// of the larger τ. It counts single entries of norm vectors but does not tune them; they are in
// [Plan.CountedOnly].
//
// The published code fails if a τ exceeds the number of scores. Release skips these values, and
// returns an error only if the smallest τ exceeds the number of scores.
func Release(ctx context.Context, scores *sensitivity.Scores, scale float64, o Options, count Count) ([]*Plan, error) {
	fail := func(err error) ([]*Plan, error) {
		return nil, fmt.Errorf("planning in compat mode %q: %w", CompatRelease, err)
	}
	if !positive(scale) {
		return fail(fmt.Errorf("scale is %v, expected a positive number of parameters", scale))
	}
	o.Compat = CompatRelease
	tensors, o, err := prepare(ctx, scores, o, count)
	if err != nil {
		return fail(err)
	}

	size := 0
	parts := make([][]float32, len(tensors))
	for i, t := range tensors {
		parts[i] = t.Scores
		size += len(t.Scores)
	}
	taus := releaseTaus(scale, size)
	if len(taus) == 0 {
		return fail(fmt.Errorf("a scale of %v parameters needs at least %v scores, found %d; lower the scale", scale, math.Ceil(0.02*scale), size))
	}

	most := taus[len(taus)-1]
	c := cutAt(most, parts...)
	events := make([]event, 0, most)
	for i := range tensors {
		events = c.take(events, &tensors[i])
	}
	slices.Sort(events)

	best := make([]int, len(releaseTargets)) // τ
	gaps := make([]float64, len(releaseTargets))
	for i := range gaps {
		gaps[i] = math.Inf(1)
	}
	a := newTally(tensors, scores.ClassToken)
	done := 0
	for _, tau := range taus {
		for _, e := range events[done:tau] {
			a.add(e)
		}
		done = tau
		for i, target := range releaseTargets {
			if gap := math.Abs(float64(a.cost) - target*scale); gap <= gaps[i] {
				best[i], gaps[i] = tau, gap
			}
		}
	}

	plans := make([]*Plan, len(releaseTargets))
	for i, target := range releaseTargets {
		budget := max(1, int(math.Round(target*scale)))
		plans[i] = newPlan(tensors, events[:best[i]], o, budget, scores.ClassToken)
		plans[i].Tau = best[i]
	}
	return plans, nil
}

// releaseTaus returns the values of τ that the published code tries, without those above scores,
// the number of scores.
func releaseTaus(scale float64, scores int) []int {
	var taus []int
	for k := 1; k < 80; k++ {
		// The order of operations matters, because Release reproduces the rounding errors: with a
		// scale of 1e6, k = 35 gives 700001.
		tau := math.Ceil(float64(k) * 0.02 * scale)
		if tau > float64(scores) {
			break
		}
		taus = append(taus, int(tau))
	}
	return taus
}
