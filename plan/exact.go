package plan

import (
	"context"
	"fmt"
	"slices"
	"sync/atomic"

	"github.com/sptune/spt/sensitivity"
)

// exact tries all τ from 0 to the number of scores and returns the plan with the greatest cost
// within the budget. If several plans have this cost, it returns the plan of the greatest τ. Unlike
// Release, it tunes single entries of norm vectors like other entries.
func exact(ctx context.Context, scores *sensitivity.Scores, budget int, o Options, count Count) (*Plan, error) {
	if o.Rank == 0 && o.Only != Unstructured && count != nil {
		o.Rank = defaultRank(scores.Tensors, count, scores.ClassToken, budget)
	}
	tensors, o, err := prepare(ctx, scores, o, count)
	if err == nil {
		err = checkBudget(budget, scores.ClassToken)
	}
	if err != nil {
		return nil, fmt.Errorf("planning: %w", err)
	}

	// Only the first `need` entries of a tensor change the cost. Beyond its threshold, further
	// entries change nothing. So it is enough to sort a few entries of each tensor: P/α of a matrix
	// rather than in·out.
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
	events := append(slices.Concat(parts...), entryOnly(tensors, budget)...)
	slices.Sort(events)

	// If α, β ≥ 1, the cost never falls when τ rises. With smaller values, it falls where a module
	// has fewer parameters than the entries that it replaces. So the loop does not stop at the
	// first cost above the budget.
	a := newTally(tensors, scores.ClassToken)
	best, end := a.cost, 0
	for i, e := range events {
		a.add(e)
		if a.cost <= budget && a.cost >= best {
			best, end = a.cost, i+1
		}
	}

	p := newPlan(tensors, events[:end], o, budget, scores.ClassToken)
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

// entryOnly returns the events of the tensors that are always tuned entry by entry. Each entry
// costs one parameter, so a plan takes at most budget of them. entryOnly returns one more, if there
// are more.
func entryOnly(tensors []tensor, budget int) (events []event) {
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

// rank returns the number of scores that are taken before the given event.
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
