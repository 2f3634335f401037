package evaluate

import (
	"fmt"
	"math"
	"slices"
)

// FromRanked returns the predictions that ranked predictions of k classes say, as far as they do:
// the k most probable classes and the target have their probabilities, and all other classes share
// what is left. So the metrics of the result are those of the predictions from which
// [Predictions.Ranked] made all, up to the rounding of float32, if k is at least 5.
func FromRanked(classes []string, all []Ranked) (*Predictions, error) {
	p := &Predictions{Classes: classes, Logits: make([]float32, len(all)*len(classes))}
	for i, r := range all {
		if err := r.check(len(classes)); err != nil {
			return nil, fmt.Errorf("image %s: %w", r.Path, err)
		}
		p.Paths, p.Targets = append(p.Paths, r.Path), append(p.Targets, int32(r.Target))
		known := map[int]float64{}
		rest := 1.0
		for _, t := range r.Top {
			known[t.Class] = t.Probability
			rest -= t.Probability
		}
		if _, ok := known[r.Target]; !ok && r.Target != Unknown {
			known[r.Target] = r.TargetProbability
			rest -= r.TargetProbability
		}
		row, others := p.row(i), rest/float64(max(1, len(classes)-len(known)))
		for c := range row {
			probability, ok := known[c]
			if !ok {
				probability = others
			}
			row[c] = float32(math.Log(max(probability, leastProbability)))
		}
		// Equal probabilities keep their order, and no other class ranks above those of Top.
		least := float32(math.Inf(1))
		for _, t := range r.Top {
			row[t.Class] = min(row[t.Class], math.Nextafter32(least, -math.MaxFloat32))
			least = row[t.Class]
		}
		for c := range row {
			if !slices.ContainsFunc(r.Top, func(t ClassProbability) bool { return t.Class == c }) {
				row[c] = min(row[c], math.Nextafter32(least, -math.MaxFloat32))
			}
		}
	}
	return p, p.check()
}

// leastProbability stands for probabilities that are too small for a float32.
const leastProbability = 1e-45
