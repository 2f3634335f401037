package sensitivity

import (
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
	// Taylor is Σ |w·g|. The term |w·g| is the first-order estimate of the change of the loss if w
	// becomes zero. This is the saliency of SNIP (Lee et al. 2019, arXiv 1810.02340), which uses
	// one batch.
	Taylor Criterion = "taylor"
	// Magnitude is |w|, as in magnitude pruning (Han et al. 2015, arXiv 1506.02626). It needs no
	// images.
	Magnitude Criterion = "magnitude"
	// Random is a random number, uniform in [0, 1). It depends on Options.Seed and the name of the
	// tensor. It is a baseline for the other criteria and needs no images.
	Random Criterion = "random"
)

// Criteria returns all criteria, with the default first.
func Criteria() []Criterion {
	return []Criterion{SquaredGradient, PerSample, Taylor, Magnitude, Random}
}

// Images reports whether c needs training images.
func (c Criterion) Images() bool { return c != Magnitude && c != Random }

// Validate returns an error if c is unknown. The error lists the known criteria.
func (c Criterion) Validate() error {
	if slices.Contains(Criteria(), c) {
		return nil
	}
	return option.Unknown("criterion", "criterion", c, Criteria())
}

// score returns what one batch adds to the scores of the weights w, if g is their gradient.
func (c Criterion) score(w, g *Node) *Node {
	if c == Taylor {
		return Abs(Mul(w, g))
	}
	return Mul(g, g)
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
