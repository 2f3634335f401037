package train

import (
	"cmp"
	"maps"
	"math"
	"slices"

	"github.com/sptune/spt/internal/option"
	"github.com/sptune/spt/objective"
	"github.com/sptune/spt/peft"
	"github.com/sptune/spt/sensitivity"
)

// CompatRelease is the value of [Options.Compat] for trainings like those of the paper's published
// code.
const CompatRelease = sensitivity.CompatRelease

// DefaultBatchSize is the default of [Options.BatchSize] for data sets with at least eight times as
// many images.
const DefaultBatchSize = 64

// Options holds the hyper-parameters of a training. [VTAB] returns the values of the paper. The
// zero values of BatchSize, HeadLR, Init and Compat are defaults; the other fields have no
// defaults.
type Options struct {
	// Epochs is the number of passes over the training images, at least 1.
	Epochs int `json:"epochs"`
	// Steps is the number of optimiser steps of the training, which may end within an epoch. If it
	// is set, WithDefaults sets Epochs to the number of epochs that are begun. Zero means all steps
	// of Epochs.
	Steps int `json:"steps,omitempty"`
	// BatchSize is the number of images in a mini-batch. A data set with fewer images is one
	// mini-batch. Zero means 64, or an eighth of the training images if that is less. With Compat,
	// zero means 64.
	BatchSize int `json:"batch_size"`
	// LR is the learning rate after the warm-up, above 0 and at most 10.
	LR float64 `json:"lr"`
	// HeadLR is the learning rate of the head after the warm-up, at most 10. The whole schedule of
	// the head is the schedule of LR, multiplied by HeadLR/LR. Zero means LR.
	HeadLR float64 `json:"head_lr,omitempty"`
	// LRFactors holds factors for the learning rates of groups of tuned tensors, above 0 and at
	// most
	// 100. The whole schedule of a group is multiplied by its factor. A factor of the head and a
	// HeadLR contradict each other. Default: 1 for every group.
	LRFactors map[peft.Group]float64 `json:"lr_factors,omitempty"`
	// WeightDecay is the decoupled weight decay of AdamW, 0 or more. It applies only to tensors of
	// two or more dimensions, and not to class tokens and position embeddings.
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

	// LabelSmoothing is the share of the target that is spread evenly over all classes, at least 0
	// and below 1, as label_smoothing of CrossEntropyLoss in PyTorch. It also changes TrainLoss,
	// but not the validation loss. Zero means none.
	LabelSmoothing float64 `json:"label_smoothing,omitempty"`
	// ClassWeights says where ClassWeightValues come from: [AutoWeights], or the path of a file.
	// [NoWeights] means no weights. spt.Task sets ClassWeightValues; a [Run] does not read files.
	// Empty means that a caller has set ClassWeightValues, or that there are no weights.
	ClassWeights string `json:"class_weights,omitempty"`
	// ClassWeightValues holds the factor for the loss of an image, by the class of its target. All
	// factors are above 0. The loss of a mini-batch is the mean over its images of the weighted
	// losses, so the mean factor of the training images should be 1, as [NormalWeights] makes it.
	// For images with several labels, it is the factor for the loss of a label that an image has.
	// Nil means 1 for all classes.
	ClassWeightValues []float64 `json:"class_weight_values,omitempty"`
	// BalancedSampling draws the images of an epoch so that all classes are seen equally often: it
	// repeats images of small classes, and spreads the images of large classes over several epochs.
	// The number of images of an epoch stays the same.
	BalancedSampling bool `json:"balanced_sampling,omitempty"`
	// Select is the metric on validation images by which a run chooses between candidates. Empty
	// means objective.ByAccuracy.
	Select objective.Selection `json:"select,omitempty"`

	// Init is the way to draw the initial values of structured modules. Empty means
	// peft.PaperScheme; with Compat, it means peft.ReleaseScheme.
	Init peft.Scheme `json:"init,omitempty"`
	// Compat is [CompatRelease] for a training like those of the paper's published code: BatchSize
	// is 64 by default, every epoch ends with the remaining images as a smaller mini-batch, modules
	// start with peft.ReleaseScheme, and the modules on the q, k and v of a block share one dropout
	// mask. Empty means that an epoch ends with a smaller mini-batch only if it is at least half as
	// large as the others, and that each module has its own mask.
	Compat string `json:"compat,omitempty"`

	// Patience stops the training after this number of epochs without a better validation metric
	// Select, or an equal one with a lower validation loss. The result then has the tuned tensors
	// of the best epoch, also if the training was not stopped. It has no effect without validation.
	// Zero means that the training takes all its steps and the result has the last tuned tensors.
	Patience int `json:"patience,omitempty"`

	// Seed is the seed of all random numbers: initial values, order of the images, crops, flips,
	// dropout and drop-path.
	Seed uint64 `json:"seed"`
}

// VTAB returns the hyper-parameters of the paper for VTAB-1k: learning rate 1e-3, weight decay
// 1e-4, 100 epochs, and a cosine schedule after 10 warm-up epochs. All drop rates are 0.1. The
// mini-batches have the default size, which is 64 for the 1000 images of VTAB-1k.
func VTAB() Options {
	return Options{Epochs: 100, LR: 1e-3, WeightDecay: 1e-4, WarmupEpochs: 10, WarmupLR: 1e-6, MinLR: 1e-5,
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

// WithDefaults returns o with the values that a training on n images uses in place of zero values
// of BatchSize and Init.
func (o Options) WithDefaults(n int) Options {
	scheme, batch := peft.PaperScheme, min(DefaultBatchSize, max(1, n/8))
	if o.Compat == CompatRelease {
		scheme, batch = peft.ReleaseScheme, DefaultBatchSize
	}
	o.Init, o.BatchSize = cmp.Or(o.Init, scheme), cmp.Or(o.BatchSize, batch)
	if o.Steps > 0 {
		steps, _ := o.epoch(n, min(o.BatchSize, max(1, n)), 1)
		o = o.WithEpochs((o.Steps + steps - 1) / max(1, steps))
	}
	return o
}

// total returns the number of optimiser steps of a training with the given number of steps in each
// epoch.
func (o Options) total(steps int) int {
	if o.Steps > 0 {
		return o.Steps
	}
	return o.Epochs * steps
}

// epoch returns the number of optimiser steps in an epoch over n images, and the number of images
// that they read. Each of the steps reads batch images, but the last step can read fewer: the
// remaining images, if they are at least half a mini-batch, or any number of them with Compat. The
// devices share a mini-batch evenly, so this number is a multiple of the number of devices.
func (o Options) epoch(n, batch, devices int) (steps, images int) {
	steps = n / batch
	rest := n % batch
	rest -= rest % devices
	if rest > 0 && (2*rest >= batch || o.Compat == CompatRelease) {
		return steps + 1, steps*batch + rest
	}
	return steps, steps * batch
}

// Validate returns an error if an option is out of range.
func (o Options) Validate() error {
	if err := sensitivity.ValidateCompat(o.Compat); err != nil {
		return err
	}
	switch {
	case o.Epochs < 1:
		return option.Errorf("epochs", "epochs %d: expected at least 1", o.Epochs)
	case o.Steps < 0:
		return option.Errorf("steps", "%d steps: expected at least 1, or 0 for all steps of the epochs", o.Steps)
	case o.Patience < 0:
		return option.Errorf("patience", "patience of %d epochs: expected at least 1, or 0 to train for all epochs", o.Patience)
	case o.BatchSize < 0:
		return option.Errorf("batch-size", "batch size %d: expected at least 1, or 0 for the default", o.BatchSize)
	case !(o.LR > 0) || o.LR > 10:
		return option.Errorf("learning-rate", "learning rate %g: expected above 0 and at most 10, such as 0.001", o.LR)
	case !(o.HeadLR >= 0) || o.HeadLR > 10:
		return option.Errorf("head-learning-rate", "learning rate %g of the head: expected above 0 and at most 10, such as 0.01, or 0 for the learning rate of the other parameters", o.HeadLR)
	case o.HeadLR > 0 && o.LRFactors[peft.HeadGroup] > 0:
		return option.Errorf("learning-rate-factors", "the factor %g of the head and its learning rate %g contradict each other; give one of them", o.LRFactors[peft.HeadGroup], o.HeadLR)
	case !(o.LabelSmoothing >= 0 && o.LabelSmoothing < 1):
		return option.Errorf("label-smoothing", "label smoothing %g: expected at least 0 and below 1, such as 0.1", o.LabelSmoothing)
	case slices.ContainsFunc(o.ClassWeightValues, func(w float64) bool { return !(float32(w) > 0) || math.IsInf(float64(float32(w)), 1) }):
		return option.Errorf("class-weights", "class weights %v: expected finite numbers above 0", o.ClassWeightValues)
	case o.Init != "" && !slices.Contains(peft.Schemes(), o.Init):
		return option.Unknown("init", "scheme of initial values", o.Init, peft.Schemes())
	case o.Select.Validate() != nil:
		return o.Select.Validate()
	case o.Compat == CompatRelease && o.Init == peft.PaperScheme:
		return option.Errorf("init", "initial values of the scheme %q contradict compat mode %q, which starts modules as the release does; leave one of the two options out", o.Init, o.Compat)
	case !(o.WarmupEpochs >= 0) || o.WarmupEpochs > float64(o.Epochs):
		return option.Errorf("warmup-epochs", "warm-up epochs %g: expected 0 to the %d epochs of the run; WithEpochs scales the warm-up with the epochs", o.WarmupEpochs, o.Epochs)
	}
	for _, group := range slices.Sorted(maps.Keys(o.LRFactors)) {
		if !slices.Contains(peft.Groups(), group) {
			return option.Unknown("learning-rate-factors", "group of tuned tensors", group, peft.Groups())
		}
		if f := o.LRFactors[group]; !(f > 0 && f <= 100) {
			return option.Errorf("learning-rate-factors", "learning rate factor %g of %s: expected above 0 and at most 100, such as 3", f, group)
		}
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

// factors returns the factors of the learning rates, with that of the head.
func (o Options) factors() map[peft.Group]float64 {
	if o.HeadLR == 0 {
		return o.LRFactors
	}
	f := map[peft.Group]float64{peft.HeadGroup: o.HeadLR / o.LR}
	maps.Copy(f, o.LRFactors)
	return f
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
