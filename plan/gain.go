package plan

import (
	"context"
	"fmt"
	"math"
	"slices"

	"github.com/sptune/spt/sensitivity"
)

// mostRank is the default of Options.Rank with the rules Gain and GainRandomPlaces.
const mostRank = 16

// gain makes a plan by the rule [Gain] or [GainRandomPlaces]. The currency of the rule is the
// squared summed gradient: the first-order fall of the loss when a parameter moves along its
// gradient is g² for an entry, ‖g‖² for a whole vector, and the sum of the r largest σ² for a
// module of rank r on a matrix whose summed gradient has the singular values σ.
//
// Every parameter has the same price. At a price, each tensor takes what leaves the most gain after
// the price is paid: a module of some rank, single entries, the whole vector, or nothing. gain
// finds the lowest price at which the plan stays within the budget, and then spends the rest of the
// budget on the next ranks, vectors and entries by their gain for each parameter.
func gain(ctx context.Context, scores *sensitivity.Scores, budget int, o Options, count Count) (*Plan, error) {
	if o.Rank == 0 {
		side, _ := sidesOf(scores.Tensors)
		o.Rank = min(mostRank, side)
	}
	tensors, o, err := prepare(ctx, scores, o, count)
	if err == nil {
		err = checkBudget(budget, scores.ClassToken)
	}
	offers := make([]offer, len(tensors))
	if err == nil {
		err = each(ctx, tensors, func(i int, t *tensor) (err error) {
			offers[i], err = newOffer(t, o, count, budget)
			return err
		})
	}
	if err != nil {
		return nil, fmt.Errorf("planning: %w", err)
	}
	taken := make([]taking, len(tensors))
	buy := func(price float64) (cost int) {
		cost = scores.ClassToken
		for i := range offers {
			taken[i] = offers[i].best(price)
			cost += taken[i].cost
		}
		return cost
	}
	low, high := 0.0, 1.0
	for i := range offers {
		high = max(high, 2*offers[i].highest())
	}
	if buy(low) > budget {
		low = high * 1e-15
		for range 200 { // the middle of floats is reached before
			middle := math.Sqrt(low * high)
			if middle <= low || middle >= high {
				break
			}
			if buy(middle) > budget {
				low = middle
			} else {
				high = middle
			}
		}
		spend(offers, taken, budget-buy(high))
	}
	p := newGainPlan(tensors, offers, taken, o, budget, scores.ClassToken)
	if o.Rule == GainRandomPlaces {
		p.toRandomPlaces(tensors, o.Seed)
	}
	return p, nil
}

// offer holds what one tensor can gain.
type offer struct {
	// gains and costs hold the gain and the cost of the modules of rank 1, 2 and so on, or of the
	// whole vector.
	gains []float64
	costs []int
	// entries holds the largest entries in descending order, and sums the gain of the first of
	// them: sums[n] is that of n entries.
	entries []event
	sums    []float64
}

// taking is what a plan takes of an offer: the first units of gains, or the first entries.
type taking struct {
	units, entries int
	cost           int
}

// newOffer returns what t can gain within the budget.
func newOffer(t *tensor, o Options, count Count, budget int) (offer, error) {
	var a offer
	switch {
	case len(t.Shape) == 1:
		sum := 0.0
		for _, g := range t.Scores {
			sum += float64(g) * float64(g)
		}
		a.gains, a.costs = []float64{sum}, []int{t.whole}
		return a, nil // the whole vector replaces its entries
	case !t.EntriesOnly:
		in, out := inOut(t.Tensor)
		values, err := singular(t.Scores, out, in, o.Rank, t.Name)
		if err != nil {
			return a, fmt.Errorf("the singular values of the gradient of %q: %w", t.Name, err)
		}
		sum := 0.0
		for i, v := range values {
			sum += v * v
			a.gains, a.costs = append(a.gains, sum), append(a.costs, count(in, out, i+1))
		}
	}
	if t.entry > 0 {
		a.entries = largest(min(budget, len(t.Scores)), t)
		slices.Sort(a.entries)
		a.sums = make([]float64, 1, len(a.entries)+1)
		for _, e := range a.entries {
			g := float64(t.Scores[e.position()-t.base])
			a.sums = append(a.sums, a.sums[len(a.sums)-1]+g*g)
		}
	}
	return a, nil
}

// highest returns the highest price at which the offer is taken.
func (a *offer) highest() float64 {
	price := 0.0
	for i := range a.gains {
		price = max(price, a.gains[i]/float64(a.costs[i]))
	}
	if len(a.sums) > 1 {
		price = max(price, a.sums[1])
	}
	return price
}

// best returns what leaves the most gain at a price for each parameter.
func (a *offer) best(price float64) (t taking) {
	most := 0.0
	for i, g := range a.gains {
		if left := g - price*float64(a.costs[i]); left > most {
			most, t = left, taking{units: i + 1, cost: a.costs[i]}
		}
	}
	if len(a.entries) == 0 {
		return t
	}
	// an entry is taken if its own gain is above the price
	n, _ := slices.BinarySearchFunc(a.entries, price, func(e event, price float64) int {
		if g := e.value(); g*g > price {
			return -1
		}
		return 1
	})
	if left := a.sums[n] - price*float64(n); left > most {
		t = taking{entries: n, cost: n}
	}
	return t
}

// value returns the size of the score of an event.
func (e event) value() float64 { return float64(math.Float32frombits(^uint32(e >> 32))) }

// spend takes more of the offers for up to the given number of parameters, by the gain for each
// parameter. The units of a module or vector come first; single entries spend what they leave.
func spend(offers []offer, taken []taking, left int) {
	for {
		best, most, cost := -1, 0.0, 0
		for i, a := range offers {
			n := taken[i].units
			if taken[i].entries > 0 || n == len(a.gains) {
				continue
			}
			gain, price := a.gains[n], a.costs[n]
			if n > 0 {
				gain, price = gain-a.gains[n-1], price-a.costs[n-1]
			}
			if price <= left && gain/float64(price) > most {
				best, most, cost = i, gain/float64(price), price
			}
		}
		if best < 0 {
			break
		}
		taken[best].units++
		taken[best].cost += cost
		left -= cost
	}
	for ; left > 0; left-- {
		best := -1
		for i, a := range offers {
			if taken[i].units == 0 && taken[i].entries < len(a.entries) &&
				(best < 0 || a.entries[taken[i].entries] < offers[best].entries[taken[best].entries]) {
				best = i
			}
		}
		if best < 0 {
			return
		}
		taken[best].entries++
		taken[best].cost++
	}
}

// newGainPlan returns the plan that takes the given parts of the offers.
func newGainPlan(tensors []tensor, offers []offer, taken []taking, o Options, budget, classToken int) *Plan {
	p := newPlan(tensors, nil, o, budget, classToken)
	p.Rank, p.Ranks = 0, map[string]int{}
	for i, t := range tensors {
		switch n := taken[i]; {
		case n.entries > 0:
			for _, e := range offers[i].entries[:n.entries] {
				p.Entries[t.Name] = append(p.Entries[t.Name], int32(e.position()-t.base))
			}
			slices.Sort(p.Entries[t.Name])
			p.Cost.Unstructured += n.cost
		case n.units == 0:
		case len(t.Shape) == 1:
			p.Vectors = append(p.Vectors, t.Name)
			p.Cost.Vectors += n.cost
		default:
			p.Matrices = append(p.Matrices, t.Name)
			p.Ranks[t.Name] = n.units
			p.Rank = max(p.Rank, n.units)
			p.Cost.Structured += n.cost
		}
	}
	p.Cost.Total = p.Cost.sum()
	return p
}
