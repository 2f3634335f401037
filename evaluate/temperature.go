package evaluate

import (
	"fmt"
	"math"
	"slices"
)

// MinTemperature and MaxTemperature bound the result of [Predictions.Temperature].
const (
	MinTemperature = 0.05
	MaxTemperature = 20
)

// Temperature returns the temperature that minimises the mean log loss of the images. This
// calibrates the probabilities without changing a prediction (Guo, Pleiss, Sun, Weinberger, ICML
// 2017, arXiv 1706.04599). Use the images of the val split, which the training has not seen.
//
// The result lies between [MinTemperature] and [MaxTemperature]. It is MinTemperature if all
// predictions are right, because the log loss then falls without end. It is MaxTemperature if the
// logits say too little about the targets. It is 1 if each image has equal logits for all classes.
// An image without a target and the lack of images are errors.
func (p *Predictions) Temperature() (float64, error) {
	if err := p.checkKnown(); err != nil {
		return 0, fmt.Errorf("computing the temperature: %w", err)
	}
	if right, flat := p.separated(); flat {
		return 1, nil
	} else if right {
		return MinTemperature, nil
	}
	// The loss is convex in x = 1/temperature. The minimum lies between low and high.
	low, high := 1.0/MaxTemperature, 1.0/MinTemperature
	x := 1.0
	for range 100 {
		slope, curvature := p.slope(x)
		switch {
		case slope == 0, slope > 0 && x == 1.0/MaxTemperature, slope < 0 && x == 1.0/MinTemperature:
			return 1 / x, nil
		case slope > 0:
			high = x
		default:
			low = x
		}
		// Newton's step. A step beyond the bracket ends at a bound that is not yet tried, or else
		// in the middle of the bracket.
		next := x - slope/curvature
		if !(next > low && next < high) {
			switch {
			case slope > 0 && low == 1.0/MaxTemperature:
				next = low
			case slope < 0 && high == 1.0/MinTemperature:
				next = high
			default:
				next = math.Sqrt(low * high)
			}
		}
		// The error of a small step is about its square.
		if math.Abs(next-x) <= 1e-7*x {
			return 1 / next, nil
		}
		x = next
	}
	return 1 / x, nil
}

// separated reports whether the target of each image has the largest logit, and whether all logits
// of each image are equal.
func (p *Predictions) separated() (right, flat bool) {
	right, flat = true, true
	var row []float32
	for i, target := range p.Targets {
		row = p.row(i, row)
		largest := slices.Max(row)
		right = right && row[target] == largest
		flat = flat && slices.Min(row) == largest
	}
	return right, flat
}

// slope returns the first and the second derivative of the mean log loss at x = 1/temperature: the
// means of E[z] - z[target] and of Var[z], where z are the logits and the probabilities weigh them.
func (p *Predictions) slope(x float64) (first, second float64) {
	sums := make([][2]float64, blocks(p.Len()))
	forBlocks(p.Len(), func(block, from, to int) {
		var row []float32
		for i := from; i < to; i++ {
			row = p.row(i, row)
			largest := float64(slices.Max(row))
			total, linear, square := 0.0, 0.0, 0.0
			for _, v := range row {
				d := float64(v) - largest
				e := math.Exp(x * d)
				total += e
				linear += e * d
				square += e * d * d
			}
			mean := linear / total
			sums[block][0] += mean - (float64(row[p.Targets[i]]) - largest)
			sums[block][1] += square/total - mean*mean
		}
	})
	for _, s := range sums {
		first += s[0]
		second += s[1]
	}
	n := float64(p.Len())
	return first / n, second / n
}
