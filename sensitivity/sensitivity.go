// Package sensitivity implements stage 1: it computes a score for each weight and bias of the
// blocks and the final norm of a backbone. A score estimates how much the loss of the task falls if
// the weight is tuned.
//
// Begin with [Score], which scores a backbone on training images. Its [Options] select the number
// of images and the [Criterion]. The default criterion is the squared gradient of the loss, summed
// over batches (SPT, He et al. 2023, section 3.1). The result is a [Scores] value, from which stage
// 2 (package plan) selects the weights to tune. [Scores.Save] and [Load] write and read a scores
// file.
//
// A [Scorer] is for programs that make the batches themselves: it adds up the scores of one batch
// after the other.
package sensitivity

import (
	"context"
	"errors"
	"fmt"

	"github.com/sptune/spt/backbone"
	"github.com/sptune/spt/backend"
	"github.com/sptune/spt/checkpoint"
	"github.com/sptune/spt/dataset"
	"github.com/sptune/spt/internal/program"
	"github.com/sptune/spt/objective"
	"github.com/sptune/spt/progress"
)

// Input holds the inputs of stage 1. The criteria [Magnitude] and [Random] use only Model.
type Input struct {
	// Backend runs the forward and backward passes.
	Backend backend.Backend
	// Model is the backbone whose weights are scored.
	Model *backbone.Model
	// Objective defines the loss.
	Objective objective.Objective
	// Head holds the tensors of the head by name, such as "head.weight" [C, D] and "head.bias" [C]
	// of a ViT with C classes. In the paper the head is drawn at random, because the task is new.
	Head checkpoint.StateDict
	// Images reads the training images at the image size of the backbone.
	Images *dataset.Loader
	// Order lists the positions in Images of the images to read. Options.Batches can limit their
	// number. Nil means all images in the order of Images.
	Order []int
}

// Score scores the weights of a backbone and returns the scores. It reports an event with stage
// progress.Score after each batch, or after each image if the criterion is [PerSample]. The loss of
// an event is the mean loss of the batches so far. A loss that is not finite is an error.
func Score(ctx context.Context, in Input, o Options, report progress.Func) (*Scores, error) {
	if err := o.Validate(); err != nil {
		return nil, err
	}
	o = o.WithDefaults()
	if !o.Criterion.Images() {
		return scoreWeights(in.Model, o.Criterion, o.Seed), nil
	}
	if in.Images == nil {
		return nil, fmt.Errorf("scoring with the criterion %s: Input.Images is not set; give a loader of training images", o.Criterion)
	}
	order := in.Order
	if order == nil {
		for i := range in.Images.Len() {
			order = append(order, i)
		}
	}
	if len(order) == 0 {
		return nil, errors.New("scoring: there are no training images; give at least one")
	}
	n, batchSize := o.images(len(order))
	if err := o.Criterion.checkBatches((n + batchSize - 1) / batchSize); err != nil {
		return nil, fmt.Errorf("scoring: %w", err)
	}
	s, err := newScorer(in.Backend, in.Model, in.Objective, in.Head, o)
	if err != nil {
		return nil, err
	}
	defer s.Close()
	sum := 0.0
	for batch, err := range in.Images.Batches(ctx, order[:n], batchSize, 0, 0) {
		if err != nil {
			return nil, err
		}
		targets, err := objective.Encode(in.Objective, in.Model.Config, batch.Targets)
		if err != nil {
			return nil, fmt.Errorf("scoring: %w", err)
		}
		step := batch.N
		if o.Criterion == PerSample {
			step = 1
		}
		for i := 0; i < batch.N; i += step {
			loss, err := s.addPixels(ctx, batch.Pixels, targets, batch.N, i, i+step)
			if err != nil {
				return nil, err
			}
			sum += loss
			report.Report(progress.Event{Stage: progress.Score, Done: int64(s.images), Total: int64(n), Loss: sum / float64(len(s.losses))})
		}
	}
	return s.Scores()
}

// addPixels scores the images with the positions from to to−1 of a batch of n images. pixels holds
// the pixels and encoded holds the encoded targets of the whole batch.
func (s *Scorer) addPixels(ctx context.Context, pixels []uint8, encoded []int32, n, from, to int) (loss float64, err error) {
	side := s.model.Config.ImageSize
	image, target := side*side*3, len(encoded)/n
	if len(pixels) != n*image {
		return 0, fmt.Errorf("scoring: a batch of %d images has %d pixel values, expected %d for images of %d×%d×3; read the images at the backbone's image size", n, len(pixels), n*image, side, side)
	}
	images, err := program.Tensor(s.be, pixels[from*image:to*image], to-from, side, side, 3)
	if err != nil {
		return 0, err
	}
	defer program.Free(images)
	shape := append([]int{to - from}, s.objective.TargetShape(s.model.Config)...)
	targets, err := program.Tensor(s.be, encoded[from*target:to*target], shape...)
	if err != nil {
		return 0, err
	}
	defer program.Free(targets)
	return s.Add(ctx, images, targets)
}
