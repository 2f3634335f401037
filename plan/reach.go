package plan

import (
	"fmt"
	"slices"

	"github.com/sptune/spt/sensitivity"
)

// Reach returns the share, from 0 to 1, of the sensitivity that lies in what the plan tunes: the
// sum of the scores of its matrices, vectors and entries, divided by the sum of all scores. Signed
// scores are squared. A matrix with a structured module counts whole, although a module of low rank
// cannot change all of it. Without any sensitivity, Reach returns 0. It returns an error if the
// plan names a tensor or an entry that the scores do not have.
func (p *Plan) Reach(scores *sensitivity.Scores) (float64, error) {
	value := func(s float32) float64 { return float64(s) }
	if scores.Criterion.Signed() {
		value = func(s float32) float64 { return float64(s) * float64(s) }
	}
	whole := set(slices.Concat(p.Matrices, p.Vectors))
	var all, reached float64
	found := 0
	for _, t := range scores.Tensors {
		sum := 0.0
		for _, s := range t.Scores {
			sum += value(s)
		}
		all += sum
		entries, single := p.Entries[t.Name]
		switch {
		case whole[t.Name]:
			found++
			reached += sum
		case single:
			found++
			for _, at := range entries {
				if int(at) >= len(t.Scores) {
					return 0, fmt.Errorf("the sensitivity that the plan reaches: entry %d of %q is outside the %d scores of the tensor", at, t.Name, len(t.Scores))
				}
				reached += value(t.Scores[at])
			}
		}
	}
	if want := len(whole) + len(p.Entries); found != want {
		return 0, fmt.Errorf("the sensitivity that the plan reaches: the scores have %d of the %d tensors of the plan; give the scores of the same backbone", found, want)
	}
	if all == 0 {
		return 0, nil
	}
	return reached / all, nil
}
