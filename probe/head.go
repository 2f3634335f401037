package probe

import (
	"context"
	"fmt"
)

// Head is a linear head with which a fine-tuning can start: logits = Weight·x + Bias.
type Head struct {
	// Weight is [classes, width], row-major.
	Weight []float32
	// Bias is [classes].
	Bias []float32
	// Scale is the factor of the weights and biases of the probe, at most 1.
	Scale float64
	// TrainLoss is the mean loss of the training images under the head, with the class weights of
	// the fit.
	TrainLoss float64
}

// Head returns the head for the start of a fine-tuning, after Kumar et al., "Fine-Tuning can
// Distort Pretrained Features and Underperform Out-of-Distribution", ICLR 2022.
//
// A probe of few images often separates the training images. Its training loss is then near 0, so
// the backbone would get hardly any gradient, while large weights would multiply the gradient of
// the few images with a loss. So Head divides all logits by a temperature: the loss of the training
// images becomes the loss that the probe has on held-out images (ValLoss), the loss that the probe
// would have on training images that it had not seen. The loss is at most half of the loss of a
// guess, so the weights never vanish. The loss of a guess is log(classes). With several labels, it
// is the loss if the probability of each label is the share of the training images that have it. A
// probe whose training loss is already as great is not changed. The division changes no prediction.
//
// The argument train holds the training images of Fit.
func (p *Probe) Head(ctx context.Context, train Features) (*Head, error) {
	if err := train.check("training", p.Problem, p.Width, p.Classes()); err != nil {
		return nil, fmt.Errorf("making a head of a linear probe: %w", err)
	}
	target := min(p.ValLoss, p.Problem.guess(train.Labels, p.Classes(), p.classWeights)/2)
	h := &Head{}
	set := func(scale float64) error {
		h.Scale, h.Weight, h.Bias = scale, scaled(p.Weight, scale), scaled(p.Bias, scale)
		m, err := head{h.Weight, h.Bias}.measure(ctx, p.Problem, train, p.classWeights)
		h.TrainLoss = m.mean()
		return err
	}
	if err := set(1); err != nil || h.TrainLoss >= target {
		return h, err
	}
	// The loss is convex in the scale, at least that of a guess at 0 and less than the target at 1.
	// So it crosses the target once.
	low, high := 0.0, 1.0
	for range 12 {
		middle := (low + high) / 2
		if err := set(middle); err != nil {
			return nil, err
		}
		if h.TrainLoss > target {
			low = middle
		} else {
			high = middle
		}
	}
	return h, nil
}

// scaled returns s·x.
func scaled(x []float32, s float64) []float32 {
	out := make([]float32, len(x))
	for i, v := range x {
		out[i] = float32(s * float64(v))
	}
	return out
}
