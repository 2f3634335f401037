package train

import (
	"context"

	"github.com/gomlx/gomlx/core/tensors"
)

// LearningRate exports learningRate to tests outside the package.
func (o Options) LearningRate(epoch float64) float64 { return o.learningRate(epoch) }

// SetMaxKept sets the largest number of logits that a training with patience keeps. The returned
// function sets it back.
func SetMaxKept(n int) (restore func()) {
	before := maxKept
	maxKept = n
	return func() { maxKept = before }
}

// Tokens returns the tokens of images that enter block Selection.FromBlock, float32 [B, N, D].
func (p *Predictor) Tokens(ctx context.Context, images *tensors.Tensor) ([]float32, error) {
	out, err := p.run(ctx, p.tokens, images)
	return out.values, err
}
