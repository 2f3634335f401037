package train

import (
	"math"

	"github.com/sptune/spt/internal/option"
)

// Options holds the hyper-parameters of a training. The fields have no defaults; [VTAB] returns the
// values of the paper.
type Options struct {
	// Epochs is the number of passes over the training images, at least 1.
	Epochs int `json:"epochs"`
	// BatchSize is the number of images in a mini-batch, at least 1. A data set with fewer images
	// is one mini-batch.
	BatchSize int `json:"batch_size"`
	// LR is the learning rate after the warm-up, above 0 and at most 10.
	LR float64 `json:"lr"`
	// WeightDecay is the decoupled weight decay of AdamW, 0 or more. It applies only to tensors of
	// two or more dimensions.
	WeightDecay float64 `json:"weight_decay"`
	// WarmupEpochs is the length of the linear warm-up in epochs, from 0 to Epochs.
	WarmupEpochs float64 `json:"warmup_epochs"`
	// WarmupLR is the learning rate of the first step of the warm-up, 0 or more.
	WarmupLR float64 `json:"warmup_lr"`
	// MinLR is the learning rate at the end of the cosine schedule, 0 or more.
	MinLR float64 `json:"min_lr"`

	// DropPath is the drop-path rate (stochastic depth) of the last block, at least 0 and below 1.
	// The rate grows linearly from 0 at the first block.
	DropPath float64 `json:"drop_path"`
	// Dropout is the dropout rate on the input of a structured module, at least 0 and below 1. It
	// also applies to prompts, bottlenecks and the hidden layers of an MLP head.
	Dropout float64 `json:"dropout"`
	// ModuleDropPath is the drop-path rate on the output of a structured module, at least 0 and
	// below 1.
	ModuleDropPath float64 `json:"module_drop_path"`

	// Seed is the seed of all random numbers: initial values, order of the images, crops, flips,
	// dropout and drop-path.
	Seed uint64 `json:"seed"`
}

// VTAB returns the hyper-parameters of the paper for VTAB-1k: learning rate 1e-3, weight decay
// 1e-4, mini-batches of 64 images, 100 epochs, and a cosine schedule after 10 warm-up epochs. All
// drop rates are 0.1.
func VTAB() Options {
	return Options{Epochs: 100, BatchSize: 64, LR: 1e-3, WeightDecay: 1e-4, WarmupEpochs: 10, WarmupLR: 1e-6, MinLR: 1e-5,
		DropPath: 0.1, Dropout: 0.1, ModuleDropPath: 0.1}
}

// WithEpochs returns o with n epochs. It scales WarmupEpochs by the same factor as Epochs.
func (o Options) WithEpochs(n int) Options {
	if o.Epochs > 0 {
		o.WarmupEpochs *= float64(n) / float64(o.Epochs)
	}
	o.Epochs = n
	return o
}

// Validate returns an error if an option is out of range.
func (o Options) Validate() error {
	switch {
	case o.Epochs < 1:
		return option.Errorf("epochs", "epochs %d: expected at least 1", o.Epochs)
	case o.BatchSize < 1:
		return option.Errorf("batch-size", "batch size %d: expected at least 1", o.BatchSize)
	case !(o.LR > 0) || o.LR > 10:
		return option.Errorf("learning-rate", "learning rate %g: expected above 0 and at most 10, such as 0.001", o.LR)
	case !(o.WarmupEpochs >= 0) || o.WarmupEpochs > float64(o.Epochs):
		return option.Errorf("warmup-epochs", "warm-up epochs %g: expected 0 to the %d epochs of the run; WithEpochs scales the warm-up with the epochs", o.WarmupEpochs, o.Epochs)
	}
	type rate struct {
		option, name string
		value        float64
	}
	for _, r := range []rate{
		{"weight-decay", "weight decay", o.WeightDecay},
		{"warmup-learning-rate", "warm-up learning rate", o.WarmupLR},
		{"min-learning-rate", "minimum learning rate", o.MinLR},
	} {
		if !(r.value >= 0) || math.IsInf(r.value, 1) {
			return option.Errorf(r.option, "%s %g: expected a finite number that is not negative", r.name, r.value)
		}
	}
	for _, r := range []rate{
		{"drop-path", "drop-path rate", o.DropPath},
		{"dropout", "dropout rate", o.Dropout},
		{"module-drop-path", "module drop-path rate", o.ModuleDropPath},
	} {
		if !(r.value >= 0 && r.value < 1) {
			return option.Errorf(r.option, "%s %g: expected at least 0 and below 1", r.name, r.value)
		}
	}
	return nil
}

// learningRate returns the learning rate at a fractional epoch, starting at 0. It is the cosine
// schedule with linear warm-up of timm (CosineLRScheduler without warmup_prefix), evaluated at
// every step.
func (o Options) learningRate(epoch float64) float64 {
	if epoch < o.WarmupEpochs {
		return o.WarmupLR + (o.LR-o.WarmupLR)*epoch/o.WarmupEpochs
	}
	return o.MinLR + (o.LR-o.MinLR)*(1+math.Cos(math.Pi*epoch/float64(o.Epochs)))/2
}
