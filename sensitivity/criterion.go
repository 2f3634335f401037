package sensitivity

import (
	"fmt"
	"math"
	"slices"

	. "github.com/gomlx/gomlx/core/graph"

	"github.com/sptune/spt/backbone"
	"github.com/sptune/spt/internal/option"
	"github.com/sptune/spt/internal/seeded"
)

// Criterion is the name of a formula that scores a weight w. In the formulas, g is the gradient
// with respect to w of the mean loss of a batch, and Σ is the sum over the batches. [Scorer.Add]
// says how much a smaller batch counts.
type Criterion string

// The criteria.
const (
	// SquaredGradient is Σ g², the criterion of SPT (He et al. 2023, arXiv 2303.08566).
	SquaredGradient Criterion = "gradient"
	// PerSample is Σ g² with batches of one image. This is the diagonal of the empirical Fisher
	// information. It needs one backward pass for each image.
	PerSample Criterion = "per-sample"
	// SummedGradient is Σ g with its sign: minus the direction in which the loss falls. Only
	// plan.Gain reads it, because the other rules compare scores that are not negative.
	SummedGradient Criterion = "sum"
	// Taylor is Σ |w·g|. The term |w·g| is the first-order estimate of the change of the loss if w
	// becomes zero. This is the saliency of SNIP (Lee et al. 2019, arXiv 1810.02340), which uses
	// one batch.
	Taylor Criterion = "taylor"
	// SplitHalf is the product of the sums of g over the even and over the odd batches, or zero if
	// the product is negative. Noise that is independent between batches has an expected product of
	// zero, whereas Σ g² grows with it. It needs at least two batches.
	SplitHalf Criterion = "split-half"
	// SignalToNoise is (Σ g)²/Σ g², or zero if all g are zero. It is at most the number of batches,
	// and reaches it if all batches have the same gradient. It does not depend on the size of the
	// gradient. It needs at least two batches.
	SignalToNoise Criterion = "signal-to-noise"
	// Activation is Σ |w|·a, where a is the mean of |x| over the images and tokens of a batch, and
	// x is the value by which the weight is multiplied. This is FPS (Yang et al. 2025, arXiv
	// 2510.27359). It needs no backward pass. x is the input of a linear layer, the normalised
	// value of a norm, the value before a layer scale, and 1 for a bias. Kernels of convolutions
	// and response norms score zero.
	Activation Criterion = "fps"
	// Magnitude is |w|, as in magnitude pruning (Han et al. 2015, arXiv 1506.02626). It needs no
	// images.
	Magnitude Criterion = "magnitude"
	// Random is a random number, uniform in [0, 1). It depends on Options.Seed and the name of the
	// tensor. It is a baseline for the other criteria and needs no images.
	Random Criterion = "random"
)

// formula says how a criterion is computed. Score computes one or two sums over the batches for
// each weight, and then the score of the weight from the sums.
type formula struct {
	criterion Criterion
	// add returns what a batch adds to each of the sums of the weights w. g is the gradient of w,
	// or a if forward is set. odd is 1 for a batch with an odd number, and 0 for an even number.
	// Batches are numbered from 0. Nil: the criterion needs no images.
	add func(w, g, odd *Node) []*Node
	// score returns the score of a weight from its sums. Nil: the score is the only sum.
	score func(sums []float64) float64
	// forward reports whether the criterion needs no gradient.
	forward bool
	// signed reports whether scores can be negative.
	signed bool
	// batches is the smallest number of batches, if it is more than one.
	batches int
}

// formulas lists all criteria, the default first.
var formulas = []formula{
	{criterion: SquaredGradient, add: squares},
	{criterion: PerSample, add: squares},
	{criterion: SummedGradient, signed: true, add: func(_, g, _ *Node) []*Node { return []*Node{g} }},
	{criterion: Taylor, add: func(w, g, _ *Node) []*Node { return []*Node{Abs(Mul(w, g))} }},
	{criterion: SplitHalf, batches: 2,
		add:   func(_, g, odd *Node) []*Node { return []*Node{Mul(g, OneMinus(odd)), Mul(g, odd)} },
		score: func(sums []float64) float64 { return max(0, sums[0]*sums[1]) }},
	{criterion: SignalToNoise, batches: 2,
		add: func(_, g, _ *Node) []*Node { return []*Node{g, Mul(g, g)} },
		score: func(sums []float64) float64 {
			if sums[1] == 0 {
				return 0
			}
			return sums[0] * sums[0] / sums[1]
		}},
	{criterion: Activation, forward: true, add: func(w, a, _ *Node) []*Node { return []*Node{Mul(Abs(w), a)} }},
	{criterion: Magnitude},
	{criterion: Random},
}

func squares(_, g, _ *Node) []*Node { return []*Node{Mul(g, g)} }

// formula returns the formula of c. The empty criterion is the default.
func (c Criterion) formula() formula {
	return formulas[max(0, slices.IndexFunc(formulas, func(f formula) bool { return f.criterion == c }))]
}

// sums returns the number of sums that the formula needs.
func (f formula) sums() int {
	if f.score != nil {
		return 2
	}
	return 1
}

// Criteria returns all criteria, with the default first.
func Criteria() (all []Criterion) {
	for _, f := range formulas {
		all = append(all, f.criterion)
	}
	return all
}

// Images reports whether c needs training images.
func (c Criterion) Images() bool { return c.formula().add != nil }

// Signed reports whether scores of c can be negative.
func (c Criterion) Signed() bool { return c.formula().signed }

// Check returns an error if no score of c can have the value v. It names the value and what was
// expected.
func (c Criterion) Check(v float32) error {
	switch {
	case math.IsNaN(float64(v)) || math.IsInf(float64(v), 0):
		return fmt.Errorf("%v, expected a finite number", v)
	case v < 0 && !c.Signed():
		return fmt.Errorf("%v, expected a finite number that is not negative", v)
	}
	return nil
}

// Validate returns an error if c is unknown. The error lists the known criteria.
func (c Criterion) Validate() error {
	if slices.Contains(Criteria(), c) {
		return nil
	}
	return option.Unknown("criterion", "criterion", c, Criteria())
}

// checkBatches returns an error if c needs more batches.
func (c Criterion) checkBatches(batches int) error {
	if least := c.formula().batches; batches < least {
		return option.Errorf("criterion", "criterion %s compares mini-batches and needs at least %d of them, but the images are %d; give more images, smaller mini-batches, or another criterion", c, least, batches)
	}
	return nil
}

// scoreWeights returns the scores of a criterion that needs no images.
func scoreWeights(m *backbone.Model, by Criterion, seed uint64) *Scores {
	s := newScores(m, by)
	for i, t := range s.Tensors {
		values := make([]float32, t.size())
		if by == Magnitude {
			for i, w := range m.Weights[t.Name].Data {
				values[i] = float32(math.Abs(float64(w)))
			}
		} else {
			r := seeded.Rand(seed, t.Name)
			for i := range values {
				values[i] = r.Float32()
			}
		}
		s.Tensors[i].Scores = values
	}
	return s
}
