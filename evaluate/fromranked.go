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
	p := &Predictions{Classes: classes}
	if len(all)*len(classes) > MaxLogits {
		p.Keep = KeptLogits // all other classes have one logit anyway
	}
	row := make([]float32, len(classes))
	for _, r := range all {
		if err := r.check(len(classes)); err != nil {
			return nil, fmt.Errorf("image %s: %w", r.Path, err)
		}
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
		others := rest / float64(max(1, len(classes)-len(known)))
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
		if err := p.Add([]string{r.Path}, []int32{int32(r.Target)}, row); err != nil {
			return nil, err
		}
	}
	return p, p.check()
}

// leastProbability stands for probabilities that are too small for a float32.
const leastProbability = 1e-45
