package evaluate

import (
	"fmt"
	"math"
)

// Comparison compares the predictions of two classifiers for the same images.
type Comparison struct {
	Images     int `json:"images"`
	BothRight  int `json:"both_right"`
	OnlyFirst  int `json:"only_first"`  // images that only the first classifier predicts correctly
	OnlySecond int `json:"only_second"` // images that only the second classifier predicts correctly
	BothWrong  int `json:"both_wrong"`
	// Difference is the accuracy of the second classifier minus the accuracy of the first.
	Difference float64 `json:"difference"`
	// Interval is the 95 % confidence interval of Difference for paired images: the Wald interval
	// with the adjustment of Bonett and Price (J. Educ. Behav. Stat. 37, 2012). With p =
	// (OnlySecond+1)/(Images+2) and q = (OnlyFirst+1)/(Images+2), it is p - q ± 1.96·√((p + q -
	// (p-q)²)/(Images+2)), limited to [-1, 1].
	Interval Interval `json:"interval"`
	// P is the two-sided p-value of McNemar's exact test. It is the probability of a difference at
	// least as large if both classifiers had the same accuracy.
	P float64 `json:"p"`
}

// Compare compares the predictions of two classifiers. Both must have the same images in the same
// order, and the same targets. The order of the classes may differ: targets are compared by the
// name of the class. The error for different images names the first difference.
func Compare(first, second *Predictions) (*Comparison, error) {
	for _, p := range []*Predictions{first, second} {
		if err := p.checkKnown(); err != nil {
			return nil, fmt.Errorf("comparing predictions: %w", err)
		}
	}
	side := func(p *Predictions) side {
		return side{p.Len(), func(i int) outcome {
			target := int(p.Targets[i])
			return outcome{p.Paths[i], p.Classes[target], p.Predicted(i) == target}
		}}
	}
	return compare(side(first), side(second))
}

// CompareRanked compares the predictions of two classifiers as [Compare] does, from the files that
// [LoadRanked] reads. firstClasses and secondClasses hold the names of their classes.
func CompareRanked(firstClasses []string, first []Ranked, secondClasses []string, second []Ranked) (*Comparison, error) {
	for _, all := range [][]Ranked{first, second} {
		for _, r := range all {
			if r.Target == Unknown {
				return nil, fmt.Errorf("comparing predictions: image %s has no target; leave out images without a label", r.Path)
			}
		}
	}
	side := func(classes []string, all []Ranked) side {
		return side{len(all), func(i int) outcome { return outcome{all[i].Path, classes[all[i].Target], all[i].Correct()} }}
	}
	return compare(side(firstClasses, first), side(secondClasses, second))
}

// side holds the outcomes of one classifier.
type side struct {
	images  int
	outcome func(i int) outcome
}

type outcome struct {
	path, target string
	correct      bool
}

func compare(first, second side) (*Comparison, error) {
	c := &Comparison{Images: first.images}
	for i := range min(first.images, second.images) {
		a, b := first.outcome(i), second.outcome(i)
		switch {
		case a.path != b.path:
			return nil, fmt.Errorf("comparing predictions: image %d is %s in the first and %s in the second; compare predictions of the same split", i+1, a.path, b.path)
		case a.target != b.target:
			return nil, fmt.Errorf("comparing predictions: image %s has target %q in the first and %q in the second; compare predictions of the same data set", a.path, a.target, b.target)
		case a.correct && b.correct:
			c.BothRight++
		case a.correct:
			c.OnlyFirst++
		case b.correct:
			c.OnlySecond++
		default:
			c.BothWrong++
		}
	}
	if first.images != second.images {
		return nil, fmt.Errorf("comparing predictions: the first has %d images and the second %d; compare predictions of the same split", first.images, second.images)
	}
	if c.Images == 0 {
		return nil, fmt.Errorf("comparing predictions: found no images, expected at least one")
	}
	c.Difference = float64(c.OnlySecond-c.OnlyFirst) / float64(c.Images)
	n := float64(c.Images + 2)
	p, q, z := float64(c.OnlySecond+1)/n, float64(c.OnlyFirst+1)/n, quantile(confidenceLevel)
	spread := z * math.Sqrt((p+q-(p-q)*(p-q))/n)
	c.Interval = Interval{max(-1, p-q-spread), min(1, p-q+spread)}
	c.P = mcNemar(c.OnlyFirst, c.OnlySecond)
	return c, nil
}

// mcNemar returns the two-sided p-value of the exact binomial test that each of a+b images falls
// with the same probability to a and to b.
func mcNemar(a, b int) float64 {
	n, least := a+b, min(a, b)
	// term is the probability of exactly least of n images, as term·2^exponent: the binomial
	// coefficient times 2⁻ⁿ underflows or overflows otherwise.
	term, exponent := 1.0, -n
	for i := 1; i <= least; i++ {
		fraction, e := math.Frexp(term * float64(n-least+i) / float64(i))
		term, exponent = fraction, exponent+e
	}
	sum, share := 1.0, 1.0
	for i := least; i > 0 && share > 0x1p-60; i-- {
		share *= float64(i) / float64(n-i+1)
		sum += share
	}
	return min(1, math.Ldexp(term*sum, exponent+1))
}
