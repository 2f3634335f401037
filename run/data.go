package run

import (
	"context"
	"errors"
	"fmt"

	"github.com/sptune/spt/dataset"
	"github.com/sptune/spt/internal/hub"
	"github.com/sptune/spt/internal/jsonfile"
	"github.com/sptune/spt/internal/option"
	"github.com/sptune/spt/progress"
)

// defaultFraction is the value that zero stands for in DataConfig.ValFraction and TestFraction.
const defaultFraction = 0.1

// DataConfig names a data set and configures how it is read and split.
type DataConfig struct {
	// Path is the folder, the archive or the file of the data set, see dataset.Open, or
	// hf-dataset:OWNER/NAME[/CONFIG][@REVISION] for a data set of the Hugging Face Hub.
	Path string `json:"path"`
	// Commit is the commit of a data set of the Hub. If it is set, Open takes this commit and
	// ignores the revision in Path. Otherwise Open sets it.
	Commit string `json:"commit,omitempty"`
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
	// LabelDelimiter separates several labels in a cell, and LabelColumns names columns of 0 and 1;
	// see dataset.OpenOptions. Both are for images with several labels. Empty: the data say it.
	LabelDelimiter string   `json:"label_delimiter,omitempty"`
	LabelColumns   []string `json:"label_columns,omitempty"`
	// ImageRoot is the folder that the paths of a table are relative to, and ImageSuffix is text
	// that is appended to each path. Empty: Open finds the images.
	ImageRoot   string `json:"image_root,omitempty"`
	ImageSuffix string `json:"image_suffix,omitempty"`
	// GroupColumn, GroupPattern and GroupDuplicates say which images are one group, and stay on one
	// side of a split; see dataset.OpenOptions. Default: every image is a group of its own.
	GroupColumn     string `json:"group_column,omitempty"`
	GroupPattern    string `json:"group_pattern,omitempty"`
	GroupDuplicates bool   `json:"group_duplicates,omitempty"`
	// Folds is the number of folds of a cross-validation, and Fold the fold of this run, counted
	// from 1. Its images are the test split. Zero: no folds.
	Folds int `json:"folds,omitempty"`
	Fold  int `json:"fold,omitempty"`
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

	// Broken holds the images that are skipped because they cannot be decoded: their names, as
	// dataset.Dataset.NameOf returns them, and the reasons. Open removes them from the splits
	// without reading them. RecordBroken sets it. Default: none is known.
	Broken map[string]string `json:"broken,omitempty"`

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

// Open opens the data set. A data set of the Hugging Face Hub is first downloaded into the cache
// that the libraries of Hugging Face use; report receives the progress, and a progress.Note if the
// cache was used without asking the Hub. report may be nil. If c holds numbers of classes and
// images, as the configuration of a run does, the data set must have the same splits and the same
// numbers. An option that cannot work, such as an unknown task or layout, is an [*OptionError].
// Every other error is an [*InputError], except the error of a cancelled ctx and that of a failed
// download.
func (c *DataConfig) Open(ctx context.Context, report progress.Func) (*dataset.Dataset, error) {
	if c.Path == "" {
		return nil, &OptionError{Option: "data", Err: errors.New("no data set given; give the path of its folder")}
	}
	if c.ValFraction+c.TestFraction >= 1 {
		return nil, &OptionError{Option: "val-fraction", Err: fmt.Errorf("validation fraction %g and test fraction %g leave no images for training; give fractions whose sum is below 1", c.ValFraction, c.TestFraction)}
	}
	o := dataset.OpenOptions{Layout: c.Layout, ImageColumn: c.ImageColumn, LabelColumn: c.LabelColumn, LabelDelimiter: c.LabelDelimiter, LabelColumns: c.LabelColumns, ImageRoot: c.ImageRoot, ImageSuffix: c.ImageSuffix, NoTrain: c.NoTrain, ValFraction: c.ValFraction, TestFraction: c.TestFraction, Seed: c.SplitSeed, MaxImages: c.MaxImages, SkipBadImages: c.SkipBadImages, Classes: c.GivenClasses,
		GroupColumn: c.GroupColumn, GroupPattern: c.GroupPattern, GroupDuplicates: c.GroupDuplicates, Folds: c.Folds, Fold: c.Fold, Progress: report}
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
	if hub.IsDataset(c.Path) {
		d, err := c.openHub(ctx, o, report)
		if err != nil {
			return nil, err
		}
		return d, c.accept(d)
	}
	c.Commit = ""
	if !IsDataPath(c.Path) {
		return nil, &OptionError{Option: "data", Err: fmt.Errorf("%s is an address, and only files are read; download the data first and give the path, or give hf-dataset:OWNER/NAME for a data set of the Hugging Face Hub", c.Path)}
	}
	d, err := dataset.Open(ctx, c.Path, o)
	if err != nil {
		if ctx.Err() != nil {
			return nil, err
		}
		if name := option.Of(err); name != "" {
			return nil, &OptionError{Option: name, Err: err}
		}
		if c.Task != "" {
			err = fmt.Errorf("task %s, which has %d classes: %w", c.Task, o.Classes, err)
		}
		return nil, &InputError{Err: err}
	}
	return d, c.accept(d)
}

// accept compares d with the data set of the run, if c is the configuration of a run, and removes
// the images of Broken.
func (c *DataConfig) accept(d *dataset.Dataset) error {
	if err := c.compare(d); err != nil {
		return err
	}
	return c.SkipBroken(d)
}

// SkipBroken removes the images of Broken from d, without reading them. An error is an
// [*InputError].
func (c *DataConfig) SkipBroken(d *dataset.Dataset) error {
	if len(c.Broken) == 0 || !d.Options.SkipBadImages {
		return nil
	}
	if err := d.SkipImages(func(name string) string { return c.Broken[jsonfile.Text(name)] }); err != nil {
		return &InputError{Err: err}
	}
	return nil
}

// RecordBroken sets Broken to the images that d skips because they cannot be decoded. It leaves out
// missing images, which Open finds.
func (c *DataConfig) RecordBroken(d *dataset.Dataset) {
	c.Broken = nil
	for _, s := range d.Skipped[len(d.AsOpened().Skipped):] {
		if s.Path == "" { // an image in memory has no name
			continue
		}
		if c.Broken == nil {
			c.Broken = make(map[string]string)
		}
		c.Broken[jsonfile.Text(d.NameOf(dataset.Sample{Path: s.Path}))] = s.Err.Error()
	}
}

// compare returns an error if c holds the splits and the numbers of a run, and d has others.
func (c *DataConfig) compare(d *dataset.Dataset) error {
	if c.Classes != 0 && d.Split != c.Split {
		return &InputError{Err: fmt.Errorf("data set %s has other splits than in the run: now %s, in the run %s; the data set has changed, or another version of spt made the run; restore the data set, use that version, or begin a new run", c.Path, d.Split, c.Split)}
	}
	now, before := [4]int{len(d.Classes), len(d.Train), len(d.Val), len(d.Test)}, [4]int{c.Classes, c.Train, c.Val, c.Test}
	if c.Classes != 0 && now != before {
		return &InputError{Err: fmt.Errorf("data set %s has changed since the run began: found %d classes, %d train, %d val and %d test images, expected %d classes, %d train, %d val and %d test images; restore the images, or begin a new run", c.Path, now[0], now[1], now[2], now[3], before[0], before[1], before[2], before[3])}
	}
	return nil
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
		c.GroupColumn, c.GroupPattern, c.GroupDuplicates, c.Folds, c.Fold = o.GroupColumn, o.GroupPattern, o.GroupDuplicates, o.Folds, o.Fold
		c.LabelDelimiter, c.LabelColumns = o.LabelDelimiter, o.LabelColumns
	}
	c.Layout, c.Split, c.Samples = d.Layout, d.Split, d.Fingerprint()
	c.Classes, c.Train, c.Val, c.Test = len(d.Classes), len(d.Train), len(d.Val), len(d.Test)
}
