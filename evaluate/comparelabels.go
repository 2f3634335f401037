package evaluate

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
)

// LabelComparison compares the predictions of two classifiers for the same images, which have any
// number of labels.
type LabelComparison struct {
	// Exact compares the predicted labels: a classifier is right about an image if it predicts
	// exactly the labels of the image, as in LabelMetrics.SubsetAccuracy.
	Exact Comparison `json:"exact"`
	// MAP compares the mean average precision.
	MAP Difference `json:"map"`
	// Labels compares the average precision of each label that some image has, in the order of the
	// rows of the head of the first classifier.
	Labels []LabelDifference `json:"labels"`
}

// Difference compares a metric of two classifiers on the same images.
type Difference struct {
	First      float64 `json:"first"`      // metric of the first classifier
	Second     float64 `json:"second"`     // metric of the second classifier
	Difference float64 `json:"difference"` // Second - First
	// Interval is the 95 % confidence interval of Difference for paired images: the percentile
	// interval of [Resamples] bootstrap samples. A sample draws as many images as there are, with
	// replacement; both classifiers and all labels keep the same images (Efron and Tibshirani, An
	// Introduction to the Bootstrap, 1993).
	Interval Interval `json:"interval"`
}

// LabelDifference compares the average precision of a label.
type LabelDifference struct {
	Label   string `json:"label"`
	Support int    `json:"support"` // images with the label
	Difference
}

// Resamples is the number of bootstrap samples of a [Difference].
const Resamples = 2000

// CompareLabels compares the predictions of two classifiers with their thresholds, which are as for
// [LabelPredictions.Metrics]. Both must have the same images in the same order, with the same
// labels. It compares the labels that both classifiers know, by name. A label of an image that one
// of them does not know is an error; errors for different images name the first difference.
func CompareLabels(first, second *LabelPredictions, firstThresholds, secondThresholds []float64) (*LabelComparison, error) {
	c, err := compareLabels(first, second, firstThresholds, secondThresholds)
	if err != nil {
		return nil, fmt.Errorf("comparing predictions: %w", err)
	}
	return c, nil
}

func compareLabels(first, second *LabelPredictions, firstThresholds, secondThresholds []float64) (*LabelComparison, error) {
	sides := [2]labelSide{{p: first, thresholds: firstThresholds, name: "first"}, {p: second, thresholds: secondThresholds, name: "second"}}
	for _, s := range sides {
		if err := s.p.check(); err != nil {
			return nil, err
		}
		if err := CheckThresholds(s.thresholds, len(s.p.Classes)); err != nil {
			return nil, err
		}
	}
	for i := range sides {
		if err := sides[i].keep(sides[1-i]); err != nil {
			return nil, err
		}
	}
	slices.SortFunc(sides[1].labels, func(a, b int) int { // in the order of the first
		return slices.Index(first.Classes, second.Classes[a]) - slices.Index(first.Classes, second.Classes[b])
	})
	exact, err := compare(sides[0].exact(), sides[1].exact())
	if err != nil {
		return nil, err
	}
	c := &LabelComparison{Exact: *exact}
	var ranked [2][]ranking // of the labels with images
	for at, label := range sides[0].labels {
		scores, targets := first.column(label)
		others, _ := second.column(sides[1].labels[at])
		a, b := newRanking(scores, targets), newRanking(others, targets)
		if a.positives == 0 {
			continue
		}
		ranked[0], ranked[1] = append(ranked[0], a), append(ranked[1], b)
		d := LabelDifference{Label: first.Classes[label], Support: a.positives}
		d.First, _ = AveragePrecision(scores, targets)
		d.Second, _ = AveragePrecision(others, targets)
		d.Difference.Difference = d.Second - d.First
		c.Labels = append(c.Labels, d)
		c.MAP.First += d.First
		c.MAP.Second += d.Second
	}
	if n := float64(len(c.Labels)); n > 0 {
		c.MAP.First, c.MAP.Second = c.MAP.First/n, c.MAP.Second/n
		c.MAP.Difference = c.MAP.Second - c.MAP.First
		c.resample(ranked, first.Len())
	}
	return c, nil
}

// labelSide holds the predictions of one classifier.
type labelSide struct {
	p          *LabelPredictions
	thresholds []float64
	name       string
	labels     []int // the labels that both classifiers know
}

// keep sets s.labels. A label of an image that other does not know is an error.
func (s *labelSide) keep(other labelSide) error {
	for label, name := range s.p.Classes {
		if slices.Contains(other.p.Classes, name) {
			s.labels = append(s.labels, label)
			continue
		}
		for i := range s.p.Len() {
			if s.p.Targets[i*len(s.p.Classes)+label] == 1 {
				return fmt.Errorf("image %s has label %q, which the %s classifier does not know; compare classifiers of the same labels", s.p.Paths[i], name, other.name)
			}
		}
	}
	return nil
}

// exact returns the outcomes of the predicted labels. The target of an image is the list of its
// labels.
func (s *labelSide) exact() side {
	classes := s.p.Classes
	return side{s.p.Len(), func(i int) outcome {
		var names []string
		right := true
		for _, label := range s.labels {
			at := i*len(classes) + label
			has := s.p.Targets[at] == 1
			if has {
				names = append(names, classes[label])
			}
			right = right && has == (Sigmoid(s.p.Logits[at]) >= thresholdOf(s.thresholds, label))
		}
		slices.Sort(names)
		return outcome{s.p.Paths[i], strings.Join(names, ", "), right}
	}}
}

// ranking holds the images in the order of the scores of a label, highest first.
type ranking struct {
	images    []int32
	has       []bool // whether the image has the label
	last      []bool // whether the next image has another score
	positives int
}

func newRanking(scores []float32, targets []bool) ranking {
	r := ranking{images: make([]int32, len(scores)), has: make([]bool, len(scores)), last: make([]bool, len(scores))}
	for i := range scores {
		r.images[i] = int32(i)
	}
	slices.SortStableFunc(r.images, func(a, b int32) int {
		switch {
		case scores[a] > scores[b]:
			return -1
		case scores[a] < scores[b]:
			return 1
		}
		return 0
	})
	for i, at := range r.images {
		r.has[i] = targets[at]
		r.last[i] = i+1 == len(r.images) || scores[r.images[i+1]] != scores[at]
		r.positives += count(r.has[i])
	}
	return r
}

// precision returns the average precision of a sample with the given number of copies of each
// image; see AveragePrecision. ok is false if no image of the sample has the label.
func (r ranking) precision(copies []uint16) (ap float64, ok bool) {
	found, seen, before := 0, 0, 0
	for i, at := range r.images {
		n := int(copies[at])
		seen += n
		if r.has[i] {
			found += n
		}
		if r.last[i] && found > before {
			ap += float64(found-before) * float64(found) / float64(seen)
			before = found
		}
	}
	return ap / float64(max(found, 1)), found > 0
}

// resample sets the intervals of c by the bootstrap. ranked holds the rankings of the labels of c
// by the two classifiers.
func (c *LabelComparison) resample(ranked [2][]ranking, images int) {
	labels := len(c.Labels)
	// of each label, then of the mean; NaN without images
	differences := make([]float64, (labels+1)*Resamples)
	forBlocks(Resamples, func(_, from, to int) {
		copies := make([]uint16, images)
		for sample := from; sample < to; sample++ {
			rng := rand.New(rand.NewPCG(uint64(sample), 0))
			clear(copies)
			for range images {
				copies[rng.IntN(images)]++
			}
			sum, with := 0.0, 0
			for label := range labels {
				d := math.NaN()
				if a, ok := ranked[0][label].precision(copies); ok {
					b, _ := ranked[1][label].precision(copies)
					d = b - a
					sum, with = sum+d, with+1
				}
				differences[label*Resamples+sample] = d
			}
			differences[labels*Resamples+sample] = sum / float64(with) // NaN without labels
		}
	})
	for label := range labels {
		c.Labels[label].Interval = percentiles(differences[label*Resamples : (label+1)*Resamples])
	}
	c.MAP.Interval = percentiles(differences[labels*Resamples:])
}

// percentiles returns the interval between the 2.5th and the 97.5th percentile of the values that
// are numbers, as percentile of NumPy. It sorts the values.
func percentiles(values []float64) Interval {
	values = slices.DeleteFunc(values, math.IsNaN)
	slices.Sort(values)
	at := func(share float64) float64 {
		place := share * float64(len(values)-1)
		low := int(place)
		high := min(low+1, len(values)-1)
		return values[low] + (place-float64(low))*(values[high]-values[low])
	}
	return Interval{at((1 - confidenceLevel) / 2), at((1 + confidenceLevel) / 2)}
}
