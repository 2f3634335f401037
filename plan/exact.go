package plan

import (
	"context"
	"fmt"
	"slices"
	"sync/atomic"

	"github.com/sptune/spt/sensitivity"
)

// exact takes one positive score after another, in descending order, until the budget is spent or
// no score is left. [New] states the rule. Unlike Release, exact tunes single entries of norm
// vectors like other entries.
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

	// Sorting all scores would be slow. A tensor that converts does so at its threshold, and its
	// later scores change nothing. So `first` holds only the first `need` scores of each tensor
	// that can convert: P/α of a matrix rather than in·out.
	//
	// `more` holds scores of tensors that cannot convert. Each of them costs one parameter, so
	// there are at most as many as parameters left in the budget, plus `freed`: the number of
	// parameters that conversions can free. A conversion frees parameters if the module has fewer
	// parameters than the entries that it replaces. This needs α or β below 1.
	parts := make([][]event, len(tensors))
	err = each(ctx, tensors, func(i int, t *tensor) error {
		if t.need <= len(t.Scores) {
			parts[i] = largest(t.need, t)
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("planning: %w", err)
	}
	first := slices.Concat(parts...)
	slices.Sort(first)
	freed := 0
	var never []*tensor
	for i := range tensors {
		switch t := &tensors[i]; {
		case t.need <= len(t.Scores):
			freed += max(0, -t.conversion())
		case t.entry > 0:
			never = append(never, t)
		}
	}
	a := newTally(tensors, scores.ClassToken)
	more := largest(budget-a.cost+freed, never...)
	slices.Sort(more)

	var taken []event
	var last event // that changed the plan
	for a.cost < budget && len(first)+len(more) > 0 {
		e := pop(&first, &more)
		i, change := a.change(e)
		t := &tensors[i]
		// An entry always fits, because it costs at most one parameter. A tensor whose conversion
		// does not fit never converts.
		if a.cost+change > budget {
			if t.entry > 0 {
				n := budget - a.cost + freed
				all := largest(t.need+n, t)
				slices.Sort(all)
				more = merge(more, all[t.need:], n)
			}
			t.need = len(t.Scores) + 1
		}
		a.add(e)
		taken = append(taken, e)
		if t.entry > 0 || a.taken[i] == t.need {
			last = e
		}
	}

	p := newPlan(tensors, taken, o, budget, scores.ClassToken)
	if p.Tau, err = rank(ctx, tensors, last); err != nil {
		return nil, fmt.Errorf("planning: %w", err)
	}
	if o.Rule == RandomPlaces {
		p.toRandomPlaces(tensors, o.Seed)
	}
	return p, nil
}

// largest returns the events of the n largest scores of some tensors together, in no particular
// order. It leaves out scores of zero, so it can return fewer than n events.
func largest(n int, tensors ...*tensor) []event {
	var parts [][]float32
	size := 0
	for _, t := range tensors {
		parts = append(parts, t.Scores)
		size += len(t.Scores)
	}
	if n = min(n, size); n == 0 {
		return nil
	}
	c := cutAt(n, parts...)
	if c.key == 0 {
		c.ties = 0
	}
	events := make([]event, 0, n)
	for _, t := range tensors {
		events = c.take(events, t)
	}
	return events
}

// merge returns the n smallest events of two ascending lists, or all events if there are fewer.
func merge(a, b []event, n int) []event {
	n = min(n, len(a)+len(b))
	out := make([]event, 0, n)
	for range n {
		out = append(out, pop(&a, &b))
	}
	return out
}

// pop removes the smallest event from two ascending lists and returns it. One of the lists may be
// empty.
func pop(a, b *[]event) event {
	if len(*a) == 0 || len(*b) > 0 && (*b)[0] < (*a)[0] {
		a = b
	}
	e := (*a)[0]
	*a = (*a)[1:]
	return e
}

// rank returns the rank of an event among the scores, from 1 for the largest score. It returns 0
// for the event 0, which no score has.
func rank(ctx context.Context, tensors []tensor, e event) (int, error) {
	var total atomic.Int64
	err := each(ctx, tensors, func(_ int, t *tensor) error {
		n := 0
		for i, v := range t.Scores {
			if newEvent(key(v), t.base+i) <= e {
				n++
			}
		}
		total.Add(int64(n))
		return nil
	})
	return int(total.Load()), err
}
