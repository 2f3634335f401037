package sensitivity

import (
	"cmp"

	"github.com/sptune/spt/internal/option"
)

// Options configures stage 1. A zero Batches, BatchSize or Criterion means the value of the paper.
type Options struct {
	// Batches is the number of full batches of training images. Zero means 16. If the data set does
	// not have more full batches than that, all images are read.
	Batches int `json:"batches"`
	// BatchSize is the number of images in a batch. Zero means 32. A data set with fewer images is
	// one batch.
	BatchSize int `json:"batch_size"`
	// Seed is the seed of the criterion [Random] and of the drop-path of [CompatRelease]. A caller
	// can also use it to draw the head and the order of the images. Default: 0.
	Seed uint64 `json:"seed"`
	// Stratified makes a caller that draws the order of the images draw it so that the images that
	// are read are of all classes in equal numbers, as far as the classes have images. [Score]
	// itself reads the images in Input.Order. Default: false.
	Stratified bool `json:"stratified,omitempty"`
	// Criterion selects how weights are scored. Empty means [SquaredGradient].
	Criterion Criterion `json:"criterion,omitempty"`
	// Compat is [CompatRelease] for scores that are computed as in the paper's published code: with
	// drop-path at the rate 0.1 in the last block, and with the same weight for every batch.
	// Default: empty, for scores without drop-path, in which a smaller batch has a smaller weight;
	// see [Scorer.Add].
	Compat string `json:"compat,omitempty"`
	// FromBlock is the first block whose weights are scored. The scores of earlier tensors are
	// zero, so that no plan selects them, and their gradients are not computed. A configuration
	// does not store it: run.TuneOptions holds the same number. Default: 0, all blocks.
	FromBlock int `json:"-"`
}

// WithDefaults returns o with the default values in place of zero fields.
func (o Options) WithDefaults() Options {
	o.Batches = cmp.Or(o.Batches, 16)
	o.BatchSize = cmp.Or(o.BatchSize, 32)
	o.Criterion = cmp.Or(o.Criterion, SquaredGradient)
	return o
}

// Validate returns an error if an option is out of range, if the criterion or the compat mode is
// unknown, or if the compat mode has no effect on the criterion. Zero fields are valid; they mean
// the default values.
func (o Options) Validate() error {
	o = o.WithDefaults()
	switch {
	case o.Batches < 1:
		return option.Errorf("score-batches", "scoring %d batches of %d images: expected at least 1 batch", o.Batches, o.BatchSize)
	case o.BatchSize < 1:
		return option.Errorf("score-batch-size", "scoring %d batches of %d images: expected at least 1 image in a batch", o.Batches, o.BatchSize)
	}
	if err := o.Criterion.Validate(); err != nil {
		return err
	}
	if err := ValidateCompat(o.Compat); err != nil {
		return err
	}
	if err := o.Criterion.checkBatches(o.Batches); err != nil {
		return err
	}
	if o.Compat != "" && !o.Criterion.Images() {
		return option.Errorf("compat", "criterion %s reads no images, so compat mode %s has no effect on it; leave one of them out", o.Criterion, o.Compat)
	}
	return nil
}

// images returns how many of the available images are read, and the batch size. Batches limits the
// number of full batches. If the data set does not have more full batches, the remaining images are
// read too, as a smaller last batch.
func (o Options) images(available int) (n, batchSize int) {
	batchSize = min(o.BatchSize, available)
	if o.Batches < available/batchSize {
		return o.Batches * batchSize, batchSize
	}
	return available, batchSize
}
