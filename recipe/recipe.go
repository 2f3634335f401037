// Package recipe has the rules of the recipe auto. They choose the options of a run by the number
// of images, the size of the images, the backbone and the time.
//
// The rules are pure functions. spt.Task.Prepare measures what they need, such as the accuracy of a
// linear probe at several image sizes, and applies them to the options that the user left open.
// docs/method.md has the measurements behind each number.
package recipe

import (
	"cmp"
	"math"
	"slices"

	"github.com/sptune/spt/method"
	"github.com/sptune/spt/plan"
	"github.com/sptune/spt/train"
)

// Batch returns the number of images in a mini-batch for n training images: a power of two near
// n/50, from 8 to 64. Small mini-batches give a small data set enough steps.
func Batch(n int) int {
	size := 8
	for size < 64 && size*2*50 <= n {
		size *= 2
	}
	return size
}

// The number of steps grows with the cube root of the number of images: twice the images are worth
// more steps, but not twice as many.
const (
	stepsAt1000 = 1250
	leastEpochs = 3
	mostEpochs  = 100
)

// Steps returns the number of optimiser steps for n training images in mini-batches of the given
// size: 1250 for 1000 images, from 3 to 100 epochs.
func Steps(n, batch int) int {
	epoch := max(1, n/batch)
	steps := stepsAt1000 * math.Cbrt(float64(n)/1000)
	return min(max(int(steps), leastEpochs*epoch), mostEpochs*epoch)
}

// LearningRate returns the peak learning rate for a number of steps with mini-batches of the given
// size. m is the method; its published learning rate relative to that of SPT is kept.
//
// Small mini-batches are noisy, and many steps move the parameters far, so both need a lower rate.
// Short trainings need no higher one, because they start with the head of a probe.
func LearningRate(m method.Row, steps, batch int) float64 {
	rate := 3e-3 * math.Pow(min(1, 1000/float64(steps)), 0.25) * math.Sqrt(float64(batch)/16)
	rate = min(max(rate, 1e-3), 5e-3)
	rate *= m.TrainOptions().LR / train.VTAB().LR
	digits := math.Pow(10, 1-math.Floor(math.Log10(rate)))
	return math.Round(rate*digits) / digits // two digits, so that people can read it
}

// LeastSteps is the number of steps below which a run with a time limit takes smaller images. A
// probe on large images with a few steps is better than many steps on small images.
const LeastSteps = 10

// Patience returns the number of epochs without a better validation metric after which a training
// of the given number of epochs stops. While the learning rate is high, the metric goes up and
// down, and it improves again when the rate falls. So half of the epochs have to pass.
func Patience(epochs int) int { return max(5, (epochs+1)/2) }

// Budget returns the budget for a backbone of the given number of parameters: 0.5 %, but 0.1M on a
// small backbone, and at most 3 %.
func Budget(parameters int) plan.Budget {
	switch {
	case parameters >= 20_000_000:
		return plan.MustParseBudget("0.5%")
	case parameters >= 3_333_334:
		return plan.MustParseBudget("0.1M")
	}
	return plan.MustParseBudget("3%")
}

// Size is what is known of an image size.
type Size struct {
	// Pixels is the side of the square input of the backbone.
	Pixels int `json:"pixels"`
	// Accuracy and Loss are those of a linear probe on the validation images; see
	// objective.Evaluation.
	Accuracy float64 `json:"accuracy"`
	Loss     float64 `json:"loss"`
	// Forward is the time of the forward pass of an image, in seconds.
	Forward float64 `json:"forward"`
}

// Sizes returns the image sizes that are worth a probe, in descending order, for a backbone that
// was pretrained on images of native pixels. side is the median of the shorter sides of the images.
// A size far above it only enlarges the images. Without a known side, only native is worth a probe.
func Sizes(native, side int) []int {
	return slices.DeleteFunc(SmallerSizes(native), func(size int) bool { return size != native && (side == 0 || size < side) })
}

// SmallerSizes returns native and the smaller image sizes of the recipe, in descending order.
func SmallerSizes(native int) []int {
	out := []int{native}
	for _, share := range []float64{3. / 4, 4. / 7, 3. / 7} {
		if size := int(math.Round(share*float64(native)/16)) * 16; size >= leastSize && size < out[len(out)-1] {
			out = append(out, size)
		}
	}
	return out
}

// leastSize is the smallest size that SmallerSizes returns below native, in pixels.
const leastSize = 96

// Best returns the size with the lowest loss of the probe.
func Best(sizes []Size) Size {
	return slices.MinFunc(sizes, func(a, b Size) int { return cmp.Compare(a.Loss, b.Loss) })
}

// Smallest returns the smallest size whose probe is not much worse than the best one. It is the
// size for a tuning of the backbone; a head alone needs the best size.
func Smallest(sizes []Size) Size {
	best := Best(sizes)
	out := best
	for _, s := range sizes {
		if s.Pixels < out.Pixels && s.Accuracy >= best.Accuracy-probeLoss {
			out = s
		}
	}
	return out
}

// probeLoss is the accuracy that a probe may lose at a smaller image size. Tuning gains most of it
// back, and has more steps in the same time.
const probeLoss = 0.1
