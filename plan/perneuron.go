package plan

import (
	"context"
	"fmt"
	"slices"

	"github.com/sptune/spt/internal/option"
	"github.com/sptune/spt/sensitivity"
)

// perNeuron makes the plan of the rule [PerNeuron], as [New] describes it. A row of a tensor of two
// or more dimensions holds the weights of one output neuron. The published code of GPS tunes the
// same biases. In addition, it tunes weights of the patch embedding, which spt does not score.
func perNeuron(ctx context.Context, scores *sensitivity.Scores, budget int, o Options) (*Plan, error) {
	tensors, o, err := prepare(ctx, scores, o, nil)
	if err != nil {
		return nil, fmt.Errorf("planning: %w", err)
	}
	p := newPlan(tensors, nil, o, budget, scores.ClassToken)
	neurons, longest := 0, 0
	for i := range tensors {
		switch t := &tensors[i]; {
		case len(t.Shape) > 1:
			neurons += t.Shape[0]
			longest = max(longest, len(t.Scores)/t.Shape[0])
		case !t.Norm:
			p.Vectors = append(p.Vectors, t.Name)
			p.Cost.Vectors += len(t.Scores)
		}
	}
	left := budget - p.Cost.sum() // not negative, see checkBiases

	// Each neuron gives its entries in descending order. So many entries of each are enough, unless
	// neurons have scores of zero, which are never taken.
	var ranks [][]event // the entries of rank 1 of all neurons, then of rank 2, …
	for most := left/max(1, neurons) + 1; ; most *= 2 {
		ranks = make([][]event, min(most, longest))
		parts := make([][][]event, len(tensors))
		err := each(ctx, tensors, func(i int, t *tensor) error {
			parts[i] = t.ranked(len(ranks))
			return nil
		})
		if err != nil {
			return nil, fmt.Errorf("planning: %w", err)
		}
		total := 0
		for _, part := range parts {
			for rank, events := range part {
				ranks[rank] = append(ranks[rank], events...)
				total += len(events)
			}
		}
		if total >= left || most >= longest {
			break
		}
	}
	for _, events := range ranks {
		if len(events) > left {
			slices.Sort(events)
			events = events[:left]
		}
		left -= len(events)
		for _, e := range events {
			t := &tensors[owner(tensors, e)]
			p.Entries[t.Name] = append(p.Entries[t.Name], int32(e.position()-t.base))
		}
		p.Cost.Unstructured += len(events)
	}
	for _, positions := range p.Entries {
		slices.Sort(positions)
	}
	p.Cost.Total = p.Cost.sum()
	return p, nil
}

// checkBiases returns an error if the budget does not cover the class token and every bias.
func checkBiases(tensors []sensitivity.Tensor, classToken, budget int) error {
	least := classToken
	for _, t := range tensors {
		if len(t.Shape) == 1 && !t.Norm {
			least += t.Shape[0]
		}
	}
	if budget < least {
		return option.Errorf("budget", "the budget is %d parameters, but plan rule %q tunes every bias, and with the class token these are %d parameters; give a larger budget", budget, PerNeuron, least)
	}
	return nil
}

// ranked returns the events of the n largest scores of each row of t: first those of the largest
// scores of all rows, then those of the second largest scores, and so on. It leaves out scores of
// zero. It returns nothing for a vector.
func (t *tensor) ranked(n int) [][]event {
	if len(t.Shape) < 2 {
		return nil
	}
	out := make([][]event, n)
	length := len(t.Scores) / t.Shape[0]
	best := make([]event, 0, n+1)
	for start := 0; start < len(t.Scores); start += length {
		best = best[:0]
		for i, v := range t.Scores[start : start+length] {
			e := newEvent(key(v), t.base+start+i)
			if key(v) == 0 || len(best) == n && e > best[n-1] {
				continue
			}
			at, _ := slices.BinarySearch(best, e)
			best = slices.Insert(best, at, e)
			best = best[:min(n, len(best))]
		}
		for rank, e := range best {
			out[rank] = append(out[rank], e)
		}
	}
	return out
}
