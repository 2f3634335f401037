package run

import (
	"context"
	"errors"
	"fmt"

	"github.com/sptune/spt/dataset"
)

// defaultFraction is the value that zero stands for in DataConfig.ValFraction and TestFraction.
const defaultFraction = 0.1

// DataConfig names a data set and configures how it is read and split.
type DataConfig struct {
	// Path is the folder or the file of the data set; see dataset.Open.
	Path string `json:"path"`
	// Task is the name of a data set of a benchmark, as dataset.FindKnown takes it. If it is set,
	// the data must have the number of classes of that data set. Empty: no benchmark.
	Task string `json:"task,omitempty"`
	// GivenClasses is the number of classes that data without a Task must have; see
	// dataset.OpenOptions.Classes. Zero means any number.
	GivenClasses int `json:"given_classes,omitempty"`
	// Layout is a name from dataset.Layouts. Empty: Open recognises the layout.
	Layout string `json:"layout"`
	// ImageColumn and LabelColumn name columns of parquet files and tables. Empty: Open finds the
	// columns.
	ImageColumn string `json:"image_column,omitempty"`
	LabelColumn string `json:"label_column,omitempty"`
	// ImageRoot is the folder that the paths of a table are relative to, and ImageSuffix is text
	// that is appended to each path. Empty: Open finds the images.
	ImageRoot   string `json:"image_root,omitempty"`
	ImageSuffix string `json:"image_suffix,omitempty"`
	// NoTrain allows a data set without training images; see dataset.OpenOptions.NoTrain. It is not
	// stored, because a run needs training images.
	NoTrain bool `json:"-"`
	// ValFraction and TestFraction are the shares of the training images that become a val or test
	// split, if the data has no such split. Zero means 0.1; a negative value means no split.
	ValFraction  float64 `json:"val_fraction"`
	TestFraction float64 `json:"test_fraction"`
	// SplitSeed is the seed with which the images of these splits are drawn.
	SplitSeed uint64 `json:"split_seed"`
	// MaxImages is the largest number of images of each split. The images are drawn with SplitSeed;
	// see dataset.Dataset.Limit. Zero means no limit.
	MaxImages int `json:"max_images,omitempty"`
	// SkipBadImages skips images that are missing or broken. Default: such an image is an error.
	SkipBadImages bool `json:"skip_bad_images"`

	// Record sets the fields from Split to Samples. Open compares Split and the numbers of classes
	// and images.

	// Split describes where the val and test splits come from.
	Split string `json:"split"`
	// Classes is the number of classes. Zero means that no numbers are recorded, so Open does not
	// compare.
	Classes int `json:"classes"`
	// Train, Val and Test are the numbers of images in the splits.
	Train int `json:"train"`
	Val   int `json:"val"`
	Test  int `json:"test"`
	// Samples is the fingerprint of the data set; see dataset.Dataset.Fingerprint.
	Samples string `json:"samples,omitempty"`

	// Images configures how images are resized and augmented.
	Images ImageOptions `json:"images"`
}

// ImageOptions configures how an image is resized to the square input of the backbone, and how
// training images are augmented.
type ImageOptions struct {
	// Resize is "direct" (the default), "crop" or "direct-crop", see dataset.Transform; or
	// ModelResize.
	Resize string `json:"resize"`
	// ResizeTo is the size before the crop, in px: of the shorter side with "crop", of both sides
	// with "direct-crop". Default: 256/224 of the image size, rounded.
	ResizeTo int `json:"resize_to"`
	// RandomCrop crops training images at a random place. It must be false with Resize "direct".
	// Default: false.
	RandomCrop bool `json:"random_crop"`
	// HorizontalFlip mirrors a random half of the training images. Default: false.
	HorizontalFlip bool `json:"horizontal_flip"`
	// Preset is the name of a preset of augmentation, see WithPreset. Give it without RandomCrop,
	// HorizontalFlip and Augment. [Configure] and spt.New replace it by the options of the preset,
	// so a recorded run holds the options themselves. Default: no preset.
	Preset string `json:"preset,omitempty"`
	// Augment is the other augmentation of training images. A random resized crop excludes
	// RandomCrop. Default: none.
	Augment dataset.Augment `json:"augment,omitzero"`
	// TestFlip makes validation, test and predictions average the logits of each image and its
	// mirror image. It doubles their time and does not change the training. Default: false.
	TestFlip bool `json:"test_flip,omitempty"`
	// CacheBytes is the largest size of the cache of decoded images, in bytes. Zero means 1 GiB; a
	// negative value means no cache.
	CacheBytes int64 `json:"cache_bytes"`
	// Workers is the number of images that are decoded in parallel. Default: GOMAXPROCS.
	Workers int `json:"workers"`
}

// RecipeImages returns the image options of a recipe. For VTAB-1k and RecipeAuto, images are
// resized directly to the image size and not augmented. For FGVC, images are resized to 256/224 of
// the image size and cropped; training images are cropped at random and flipped. The source is
// build_transform in lib/datasets.py of the reference release.
//
// The normalisation is not an image option, because it belongs to the backbone. The reference
// release normalises the input of every backbone with the mean and standard deviation of ImageNet.
// To do the same, set them in [ModelConfig].
func RecipeImages(recipe string) ImageOptions {
	if recipe == RecipeFGVC {
		return ImageOptions{Resize: "direct-crop", RandomCrop: true, HorizontalFlip: true}
	}
	return ImageOptions{Resize: "direct"}
}

// Open opens the data set. If c holds numbers of classes and images, as the configuration of a run
// does, the data set must have the same splits and the same numbers. An option that cannot work,
// such as an unknown task or layout, is an [*OptionError]. Every other error is an [*InputError],
// except the error of a cancelled ctx.
func (c DataConfig) Open(ctx context.Context) (*dataset.Dataset, error) {
	if c.Path == "" {
		return nil, &OptionError{Option: "data", Err: errors.New("no data set given; give the path of its folder")}
	}
	if c.ValFraction+c.TestFraction >= 1 {
		return nil, &OptionError{Option: "val-fraction", Err: fmt.Errorf("validation fraction %g and test fraction %g leave no images for training; give fractions whose sum is below 1", c.ValFraction, c.TestFraction)}
	}
	o := dataset.OpenOptions{Layout: c.Layout, ImageColumn: c.ImageColumn, LabelColumn: c.LabelColumn, ImageRoot: c.ImageRoot, ImageSuffix: c.ImageSuffix, NoTrain: c.NoTrain, ValFraction: c.ValFraction, TestFraction: c.TestFraction, Seed: c.SplitSeed, MaxImages: c.MaxImages, SkipBadImages: c.SkipBadImages, Classes: c.GivenClasses}
	if c.Task != "" {
		known, err := dataset.FindKnown(c.Task)
		if err != nil {
			return nil, &OptionError{Option: "task", Err: err}
		}
		o.Classes = known.Classes
	}
	if err := dataset.CheckLayout(c.Layout); err != nil {
		return nil, &OptionError{Option: "layout", Err: err}
	}
	d, err := dataset.Open(ctx, c.Path, o)
	if err != nil {
		if ctx.Err() != nil {
			return nil, err
		}
		if c.Task != "" {
			err = fmt.Errorf("task %s, which has %d classes: %w", c.Task, o.Classes, err)
		}
		return nil, &InputError{Err: err}
	}
	if c.Classes != 0 && d.Split != c.Split {
		return nil, &InputError{Err: fmt.Errorf("data set %s has other splits than in the run: now %s, in the run %s; the data set has changed, or another version of spt made the run; restore the data set, use that version, or begin a new run", c.Path, d.Split, c.Split)}
	}
	now, before := [4]int{len(d.Classes), len(d.Train), len(d.Val), len(d.Test)}, [4]int{c.Classes, c.Train, c.Val, c.Test}
	if c.Classes != 0 && now != before {
		return nil, &InputError{Err: fmt.Errorf("data set %s has changed since the run began: found %d classes, %d train, %d val and %d test images, expected %d classes, %d train, %d val and %d test images; restore the images, or begin a new run", c.Path, now[0], now[1], now[2], now[3], before[0], before[1], before[2], before[3])}
	}
	return d, nil
}

// Record stores the properties of the opened data set d in c: its layout, splits, fingerprint, and
// numbers of classes and images. If c has no Path, Record also stores the path and the options with
// which d was opened.
func (c *DataConfig) Record(d *dataset.Dataset) {
	d = d.AsOpened()  // as Open finds it, with broken images, because Open does not decode images
	if c.Path == "" { // the data set was opened by the program
		o := d.Options
		c.Path, c.ImageColumn, c.LabelColumn, c.ValFraction, c.TestFraction = d.Root, o.ImageColumn, o.LabelColumn, o.ValFraction, o.TestFraction
		c.SplitSeed, c.MaxImages, c.SkipBadImages, c.GivenClasses = o.Seed, o.MaxImages, o.SkipBadImages, o.Classes
		c.ImageRoot, c.ImageSuffix = o.ImageRoot, o.ImageSuffix
	}
	c.Layout, c.Split, c.Samples = d.Layout, d.Split, d.Fingerprint()
	c.Classes, c.Train, c.Val, c.Test = len(d.Classes), len(d.Train), len(d.Val), len(d.Test)
}
