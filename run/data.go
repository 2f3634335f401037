package run

import (
	"context"
	"errors"
	"fmt"

	"github.com/sptune/spt/dataset"
)

// DataConfig names a data set and says how it is read and split.
type DataConfig struct {
	// Path is the folder or the file of the data set; see dataset.Open.
	Path string `json:"path"`
	// Task is the name of a benchmark's data set. If set, the data must have its number of classes.
	Task string `json:"task,omitempty"`
	// GivenClasses is dataset.OpenOptions.Classes, for data without a Task. 0: any number.
	GivenClasses int `json:"given_classes,omitempty"`
	// Layout is a name of dataset.Layouts. Empty: recognised.
	Layout string `json:"layout"`
	// ImageColumn and LabelColumn name columns of parquet files and tables. Empty: found.
	ImageColumn string `json:"image_column,omitempty"`
	LabelColumn string `json:"label_column,omitempty"`
	// ValFraction and TestFraction are shares of the training images, used for a split that the
	// data lacks. 0: 0.1; negative: none.
	ValFraction  float64 `json:"val_fraction"`
	TestFraction float64 `json:"test_fraction"`
	SplitSeed    uint64  `json:"split_seed"` // seed of these splits
	// SkipBadImages leaves out images that are missing or broken, instead of failing.
	SkipBadImages bool `json:"skip_bad_images"`

	// Record sets the following fields; Open refuses data that differ from them.

	Split   string `json:"split"`   // how the val and test splits came to be
	Classes int    `json:"classes"` // number of classes
	Train   int    `json:"train"`   // numbers of images
	Val     int    `json:"val"`
	Test    int    `json:"test"`
	Samples string `json:"samples,omitempty"` // dataset.Dataset.Fingerprint

	Images ImageOptions `json:"images"`
}

// ImageOptions configures how an image becomes the square that the backbone reads.
type ImageOptions struct {
	// Resize is "direct" (the default), "crop" or "direct-crop"; see dataset.Transform.
	Resize string `json:"resize"`
	// ResizeTo is the size before the crop, px: of the shorter side, or with "direct-crop" of both.
	// 0: 256/224 of the image size, rounded.
	ResizeTo int `json:"resize_to"`
	// RandomCrop crops at a random place while training. Not with Resize "direct".
	RandomCrop bool `json:"random_crop"`
	// HorizontalFlip mirrors every other image, at random, while training.
	HorizontalFlip bool `json:"horizontal_flip"`
	// CacheBytes bounds the memory for decoded images. 0: 1 GiB; negative: no cache.
	CacheBytes int64 `json:"cache_bytes"`
	// Workers is the number of images that are decoded at the same time. 0: GOMAXPROCS.
	Workers int `json:"workers"`
}

// TaskImages returns the recipe of the paper for the images of a benchmark's data set. VTAB-1k
// resizes directly to the image size, without augmentation. FGVC resizes to 256/224 of it and
// crops; while training it crops at random and flips (build_transform in lib/datasets.py of the
// reference release).
//
// The recipe has no normalisation: that belongs to the backbone. The reference release normalises
// with the mean and standard deviation of ImageNet whatever the backbone; set them in [ModelConfig]
// to do the same.
func TaskImages(k dataset.Known) ImageOptions {
	if k.Group == "fgvc" {
		return ImageOptions{Resize: "direct-crop", RandomCrop: true, HorizontalFlip: true}
	}
	return ImageOptions{Resize: "direct"}
}

// Open reads the data set. Where c holds numbers of images, as the configuration of a run does, the
// data set must have the same. Errors other than that of ctx are an [*OptionError] for an unknown
// task or layout, else an [*InputError].
func (c DataConfig) Open(ctx context.Context) (*dataset.Dataset, error) {
	if c.Path == "" {
		return nil, &OptionError{Option: "data", Err: errors.New("no data set given: give its folder")}
	}
	if c.ValFraction+c.TestFraction >= 1 {
		return nil, &OptionError{Option: "val-fraction", Err: fmt.Errorf("validation fraction %g and test fraction %g leave nothing to train on; together they must be below 1", c.ValFraction, c.TestFraction)}
	}
	o := dataset.OpenOptions{Layout: c.Layout, ImageColumn: c.ImageColumn, LabelColumn: c.LabelColumn, ValFraction: c.ValFraction, TestFraction: c.TestFraction, Seed: c.SplitSeed, SkipBadImages: c.SkipBadImages, Classes: c.GivenClasses}
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
	now, before := [4]int{len(d.Classes), len(d.Train), len(d.Val), len(d.Test)}, [4]int{c.Classes, c.Train, c.Val, c.Test}
	if c.Classes != 0 && now != before {
		return nil, &InputError{Err: fmt.Errorf("data set %s has changed since the run began: classes, train, val and test images are %v, expected %v; put the images back, or begin a new run", c.Path, now, before)}
	}
	return d, nil
}

// Record notes in c what the data set turned out to be.
func (c *DataConfig) Record(d *dataset.Dataset) {
	d = d.AsOpened()  // Open does not decode images
	if c.Path == "" { // the data set was opened by the program
		o := d.Options
		c.Path, c.ImageColumn, c.LabelColumn, c.ValFraction, c.TestFraction = d.Root, o.ImageColumn, o.LabelColumn, o.ValFraction, o.TestFraction
		c.SplitSeed, c.SkipBadImages, c.GivenClasses = o.Seed, o.SkipBadImages, o.Classes
	}
	c.Layout, c.Split, c.Samples = d.Layout, d.Split, d.Fingerprint()
	c.Classes, c.Train, c.Val, c.Test = len(d.Classes), len(d.Train), len(d.Val), len(d.Test)
}
