// Package sensitivity is stage 1: it gives every weight of the backbone's blocks and final norm a
// score, which estimates how much tuning the weight would lower the loss of the task.
//
// The score is the squared gradient of the objective's loss, summed over batches (SPT, He et al.
// 2023, section 3.1), or the score of another [Criterion]. [Score] runs stage 1 over a data set. A
// [Scorer] accumulates scores batch by batch on a backend. [Scores] is what stage 2 plans from; a
// run keeps it in a file.
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

// Input is what stage 1 reads.
type Input struct {
	// Backend is the device that computes.
	Backend backend.Backend
	// Model is the backbone whose weights are scored.
	Model *backbone.Model
	// Objective gives the loss. A criterion that reads no images does not need it.
	Objective objective.Objective
	// Head holds the tensors of the backbone's head, such as "head.weight" [C, D] and "head.bias"
	// [C]; the paper draws new ones. A criterion that reads no images does not need it.
	Head checkpoint.StateDict
	// Images reads training images at the backbone's image size. A criterion that reads no images
	// does not need it.
	Images *dataset.Loader
	// Order lists positions in Images, in the order in which they are read. Nil: the images as they
	// are listed. Options says how many are read.
	Order []int
}

// Score runs stage 1. It reports progress.Score after each batch, or after each image if the
// criterion is PerSample; the loss of an event is the mean over the batches so far.
func Score(ctx context.Context, in Input, o Options, report progress.Func) (*Scores, error) {
	if err := o.Validate(); err != nil {
		return nil, err
	}
	o = o.WithDefaults()
	if !o.Criterion.Images() {
		return scoreWeights(in.Model, o.Criterion, o.Seed), nil
	}
	if in.Images == nil {
		return nil, fmt.Errorf("scoring by the criterion %s: Input.Images is not set; give a loader of training images", o.Criterion)
	}
	order := in.Order
	if order == nil {
		for i := range in.Images.Len() {
			order = append(order, i)
		}
	}
	if len(order) == 0 {
		return nil, errors.New("scoring: there are no training images")
	}
	s, err := newScorer(in.Backend, in.Model, in.Objective, in.Head, o.Criterion)
	if err != nil {
		return nil, err
	}
	defer s.Close()
	n, batchSize := o.images(len(order))
	sum := 0.0
	for batch, err := range in.Images.Batches(ctx, order[:n], batchSize, false, 0, 0) {
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

// addPixels scores the images from … to−1 of a batch of n images.
func (s *Scorer) addPixels(ctx context.Context, pixels []uint8, encoded []int32, n, from, to int) (loss float64, err error) {
	side := s.model.Config.ImageSize
	image, target := side*side*3, len(encoded)/n
	if len(pixels) != n*image {
		return 0, fmt.Errorf("scoring: a batch of %d images has %d values, expected %d of %d×%d×3; read the images at the backbone's image size", n, len(pixels), n*image, side, side)
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
