package evaluate

import (
	"fmt"
	"slices"
)

// Mean returns the predictions of an ensemble of classifiers: the logits of an image are the means
// of its logits. That is the geometric mean of the probabilities. All must have the same images in
// the same order, the same targets and the same classes, by name; the order of the classes may
// differ, and the result has that of the first. Logits that [Predictions.Keep] left out are
// approximate. The error for different images names the first difference.
func Mean(all []*Predictions) (*Predictions, error) {
	if len(all) == 0 {
		return nil, fmt.Errorf("averaging predictions: found none, expected at least one")
	}
	first := all[0]
	out := &Predictions{Classes: first.Classes, Paths: first.Paths, Targets: first.Targets, Logits: make([]float32, len(first.Logits))}
	for n, p := range all {
		if err := p.check(); err != nil {
			return nil, fmt.Errorf("averaging predictions: %w", err)
		}
		if len(p.Classes) != len(first.Classes) || p.Len() != first.Len() {
			return nil, fmt.Errorf("averaging predictions: number %d has %d images and %d classes, but the first has %d and %d; average predictions of one data set", n+1, p.Len(), len(p.Classes), first.Len(), len(first.Classes))
		}
		column := make([]int, len(first.Classes)) // of each class of the first in p
		for c, name := range first.Classes {
			if column[c] = slices.Index(p.Classes, name); column[c] < 0 {
				return nil, fmt.Errorf("averaging predictions: number %d has no class %q, which the first has; average predictions of the same classes", n+1, name)
			}
		}
		var row []float32
		for i, path := range first.Paths {
			if p.Paths[i] != path || (p.Targets[i] == Unknown) != (first.Targets[i] == Unknown) ||
				p.Targets[i] != Unknown && int(p.Targets[i]) != column[first.Targets[i]] {
				return nil, fmt.Errorf("averaging predictions: image %d of number %d is %s, and in the first it is %s or has another class; average predictions of the same split", i+1, n+1, p.Paths[i], path)
			}
			row = p.row(i, row)
			for c := range column {
				out.Logits[i*len(column)+c] += row[column[c]] / float32(len(all))
			}
		}
	}
	return out, nil
}
