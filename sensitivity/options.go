package sensitivity

import (
	"cmp"

	"github.com/sptune/spt/internal/option"
)

// Options configures stage 1. Zero fields take the values of the paper.
type Options struct {
	// Batches is the number of batches of training images to score on. 0: 16. Fewer are read if the
	// data set has fewer images.
	Batches int `json:"batches"`
	// BatchSize is the number of images in a batch. 0: 32.
	BatchSize int `json:"batch_size"`
	// Seed decides what is drawn at random: the scores of the criterion Random, and what a caller
	// draws for scoring, such as the initial head and the order of the images.
	Seed uint64 `json:"seed"`
	// Criterion says how a weight is scored. Empty: SquaredGradient.
	Criterion Criterion `json:"criterion,omitempty"`
}

// WithDefaults returns o with its defaults in place of zero fields.
func (o Options) WithDefaults() Options {
	o.Batches = cmp.Or(o.Batches, 16)
	o.BatchSize = cmp.Or(o.BatchSize, 32)
	o.Criterion = cmp.Or(o.Criterion, SquaredGradient)
	return o
}

// Validate reports an option that is out of range. Zero fields stand for their defaults.
func (o Options) Validate() error {
	o = o.WithDefaults()
	switch {
	case o.Batches < 1:
		return option.Errorf("score-batches", "scoring %d batches of %d images: expected at least 1 batch", o.Batches, o.BatchSize)
	case o.BatchSize < 1:
		return option.Errorf("score-batch-size", "scoring %d batches of %d images: expected at least 1 image in a batch", o.Batches, o.BatchSize)
	}
	return o.Criterion.Validate()
}

// images returns how many of available images are read, and the size of their batches. Batches
// bounds full batches only: what is left after them, less than a batch, is read too if the data set
// has no further full batch.
func (o Options) images(available int) (n, batchSize int) {
	batchSize = min(o.BatchSize, available)
	if o.Batches < available/batchSize {
		return o.Batches * batchSize, batchSize
	}
	return available, batchSize
}
