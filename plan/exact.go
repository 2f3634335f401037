package plan

import (
	"context"
	"fmt"
	"slices"
	"sync/atomic"
)

// Options are the inputs of a plan beside the scores.
type Options struct {
	// Budget is the most that the plan may cost, in parameters, head excluded.
	Budget int
	// Only is [Unstructured], for which Module, ModuleParams and Rank are not
	// read, [Structured], or empty. It is not for [Release].
	Only string
	// Module is the structured module's registered name, recorded in the plan.
	Module string
	// ModuleParams returns P, the parameter count of one module of this rank on a
	// matrix [out, in]: r(in+out) for LoRA, 2·r·out + r + out for Adapter.
	ModuleParams func(in, out, rank int) int
	// Rank is the structured module's rank. Default [DefaultRank], for [Release] 8.
	Rank int
	// Alpha is the divisor of P from which a matrix gets its module. Default 10.
	Alpha float64
	// Beta is the divisor of the length from which a vector is tuned whole.
	// Default 5.
	Beta float64
	// ClassToken is the number of parameters of the class token, which is always
	// tuned. Default 0, for a backbone without one.
	ClassToken int
}

// Exact returns the plan with the greatest cost within o.Budget over all τ from
// 0 to the number of scores; of several, that of the greatest τ. Scores are
// taken in descending order, equal ones in the order of tensors and of flat
// indexes, so the plan does not depend on the number of processors. Single
// entries on norm vectors are tuned like others.
//
// Where every plan costs less than the budget, the most expensive one is
// returned: compare Cost.Total with Budget.
//
// It is an error if the class token alone exceeds the budget, if a score is NaN,
// infinite or negative, or if shapes and scores do not match. Cancelling ctx
// ends the search with the context's error.
func Exact(ctx context.Context, scored []Scored, o Options) (*Plan, error) {
	if o.Rank == 0 && o.Only != Unstructured && o.ModuleParams != nil {
		o.Rank = DefaultRank(scored, o.ModuleParams, o.ClassToken, o.Budget)
	}
	tensors, o, err := prepare(ctx, scored, o)
	if err != nil {
		return nil, fmt.Errorf("planning: %w", err)
	}
	if o.Budget < 1 {
		return nil, fmt.Errorf("planning: the budget is %d parameters, expected a positive number", o.Budget)
	}
	if o.Budget < o.ClassToken {
		return nil, fmt.Errorf("planning: the budget of %d parameters is below the least possible, %d, which the class token takes: raise the budget", o.Budget, o.ClassToken)
	}

	// Once a tensor is tuned as one, further entries of it change nothing. So its
	// first `need` entries are the only ones at which the cost moves, and they
	// are few: P/α of a matrix rather than in·out.
	parts := make([][]event, len(tensors))
	err = each(ctx, tensors, func(i int, t *tensor) error {
		if m := t.need; m <= len(t.Scores) {
			c := cutAt(m, t.Scores)
			parts[i] = c.take(make([]event, 0, m), t)
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("planning: %w", err)
	}
	events := append(slices.Concat(parts...), apart(tensors, o.Budget)...)
	slices.Sort(events)

	// The cost rises with τ as long as α, β ≥ 1; below, it falls where P is less
	// than the entries it replaces. Hence the sweep goes on to the end.
	a := newTally(tensors, o.ClassToken)
	best, end := a.cost, 0
	for i, e := range events {
		a.add(e)
		if a.cost <= o.Budget && a.cost >= best {
			best, end = a.cost, i+1
		}
	}

	p := newPlan(tensors, events[:end], o, "")
	if end == len(events) {
		for _, t := range tensors {
			p.Tau += len(t.Scores)
		}
		return p, nil
	}
	if p.Tau, err = rank(ctx, tensors, events[end]); err != nil {
		return nil, fmt.Errorf("planning: %w", err)
	}
	return p, nil
}

// apart returns the entries of the tensors that are never tuned as one, as far as
// a plan can reach: each costs one parameter for good, so that no plan has more of
// them than the budget.
func apart(tensors []tensor, budget int) (events []event) {
	var parts [][]float32
	n := 0
	never := func(t tensor) bool { return t.need > len(t.Scores) && t.entry > 0 }
	for _, t := range tensors {
		if never(t) {
			parts, n = append(parts, t.Scores), n+len(t.Scores)
		}
	}
	if n == 0 {
		return nil
	}
	c := cutAt(min(n, budget+1), parts...)
	for i := range tensors {
		if never(tensors[i]) {
			events = c.take(events, &tensors[i])
		}
	}
	return events
}

// rank returns the number of scores that are taken before the given one.
func rank(ctx context.Context, tensors []tensor, e event) (int, error) {
	var total atomic.Int64
	err := each(ctx, tensors, func(_ int, t *tensor) error {
		n := 0
		for i, v := range t.Scores {
			if newEvent(key(v), t.base+i) < e {
				n++
			}
		}
		total.Add(int64(n))
		return nil
	})
	return int(total.Load()), err
}
