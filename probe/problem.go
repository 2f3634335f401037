package probe

import (
	"context"

	"github.com/sptune/spt/internal/workers"
)

// Problem is the kind of labels that a probe predicts: [OneLabel] or [SeveralLabels]. All that
// differs between the two kinds is in its methods.
type Problem interface {
	// targets returns the number of values of an image in Features.Labels.
	targets(classes int) int
	// check returns an error if a value of labels is out of range.
	check(labels []int32, classes int) error
	// begin returns the start of a fit to images with the given labels. Labels from which nothing
	// can be learned are an error. Nil weights are ones.
	begin(labels []int32, classes int, classWeights []float64) (start, error)
	// guess returns the loss of a head without weights.
	guess(labels []int32, classes int, classWeights []float64) float64
	// measure adds up the correct predictions and the losses of images with the given labels and
	// logits.
	measure(labels []int32, logits []float32, classes int, classWeights []float64, s *workers.Scratch) measure
	// deal returns the part of each image, 0 to parts-1, for parts with equal shares of each class.
	// Part -1 is in no held-out part: the image is the only one of a class.
	deal(labels []int32, classes, parts int) []int
}

// start is the start of a fit.
type start struct {
	present []int     // the ids of the classes that get weights
	bias    []float64 // the best bias of each of them while all weights are 0
	loss    loss
}

// loss is the loss of the training images of a fit.
type loss interface {
	// gradient replaces the logits of images, [images, present], by the gradient of their loss, and
	// returns the sum of their losses. image is the first of them.
	gradient(image int, logits []float32, s *workers.Scratch) float64
	// absent returns the bias of each class that is not present. o.point is the result of the fit.
	absent(ctx context.Context, o *objective) (func(class int) float64, error)
}
