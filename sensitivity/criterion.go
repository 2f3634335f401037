package sensitivity

import (
	"math"
	"strings"

	. "github.com/gomlx/gomlx/core/graph"

	"github.com/sptune/spt/backbone"
	"github.com/sptune/spt/internal/option"
	"github.com/sptune/spt/internal/seeded"
)

// Criterion says how a weight w is scored. In the formulas below g is the gradient of the loss of a
// batch with respect to w, and sums run over the batches.
type Criterion string

// The criteria.
const (
	// SquaredGradient is Σ g², the criterion of SPT (He et al. 2023, arXiv 2303.08566).
	SquaredGradient Criterion = "gradient"
	// PerSample is Σ g² with every image as a batch of its own: the diagonal of the empirical
	// Fisher information. It takes one backward pass for each image.
	PerSample Criterion = "per-sample"
	// Taylor is Σ |w·g|, the first-order change of the loss when w becomes zero: the saliency of SNIP
	// (Lee et al. 2019, arXiv 1810.02340), which uses one batch.
	Taylor Criterion = "taylor"
	// Magnitude is |w|, as in magnitude pruning (Han et al. 2015, arXiv 1506.02626). It reads no
	// images.
	Magnitude Criterion = "magnitude"
	// Random is uniform in [0, 1), drawn from the seed and the tensor's name. It is the baseline
	// for the other criteria. It reads no images.
	Random Criterion = "random"
)

// Criteria returns all criteria.
func Criteria() []Criterion {
	return []Criterion{SquaredGradient, PerSample, Taylor, Magnitude, Random}
}

// Images reports whether c reads images.
func (c Criterion) Images() bool { return c != Magnitude && c != Random }

// Validate reports an unknown criterion.
func (c Criterion) Validate() error {
	var names []string
	for _, known := range Criteria() {
		if c == known {
			return nil
		}
		names = append(names, string(known))
	}
	return option.Errorf("criterion", "criterion %q is unknown; known: %s", c, strings.Join(names, ", "))
}

// score returns what one batch adds to the scores of the weights w with gradients g.
func (c Criterion) score(w, g *Node) *Node {
	if c == Taylor {
		return Abs(Mul(w, g))
	}
	return Mul(g, g)
}

// scoreWeights scores by a criterion that reads no images.
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
