// Package dataset opens image data sets and loads their images in mini-batches of pixels.
//
// A program uses the package in three steps:
//
//  1. [Open] opens a data set on disk and returns a [Dataset]: the class names, and the samples of
//     the training, validation and test splits. Open recognises the layout, such as class folders,
//     VTAB-1k lists or Hugging Face parquet files ([DescribeLayouts] lists them all), in a folder
//     or in an archive. It checks the lists and makes the splits that are missing. [OpenShards]
//     opens known parquet files, and [New] makes a Dataset of images in memory.
//  2. [Dataset.CheckImages] decodes every image once and finds the broken images.
//     [Dataset.Verify] also finds duplicate images. Both steps are optional. [Dataset.Folds] makes
//     the data sets of a cross-validation, and [Dataset.Diff] compares two data sets.
//  3. [NewLoader] returns a [Loader] for the samples of one split. [Loader.Batches] yields
//     mini-batches ([Batch]). Its workers decode the images, apply the [Transform] and prefetch the
//     next mini-batches. Several loaders may share a [Cache] of resized images.
//
// The package resizes images exactly as Pillow does. The pixels are uint8 values and are not
// normalised, because the graph of the model normalises them faster.
//
// [KnownSets] lists the data sets of the benchmarks VTAB-1k and FGVC.
//
// Results are deterministic. The same seed gives the same splits, the same order and the same
// crops. The number of workers, and the order in which a file system lists its files, make no
// difference.
package dataset

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"
)

// Dataset is an image data set in three splits: training, validation and test. [Open] and [New]
// return a Dataset whose samples and classes have been checked.
type Dataset struct {
	// Name is the name of the folder or file that was opened, or the name given to New. The
	// extension of a file is removed.
	Name string

	// Root is the absolute path of the folder, archive or file that was opened. It is "" for a data
	// set in memory.
	Root string

	// Layout is the name of the layout, one of [Layouts], or "memory".
	Layout string

	// Mixed reports whether the order of Train is already random, as in the lists of VTAB-1k. The
	// first images of Train then belong to many classes. Scoring reads Train in order if Mixed is
	// true; otherwise it draws images at random. Mixed is false for a data set in memory.
	Mixed bool

	// Classes holds the class names, indexed by class id. If the data set does not name its
	// classes, a name is the id in decimal digits.
	Classes []string

	// Train, Val and Test are the samples of the splits. Val and Test may be empty.
	Train, Val, Test []Sample

	// Split describes where Val and Test come from: "given" if the data set has them, or for
	// example "stratified by class 0.8/0.1/0.1 seed 0" if Open took them from the training images.
	Split string

	// Unsplit reports whether the data set on disk has neither a validation nor a test split.
	Unsplit bool

	// Skipped lists the images that were removed because they are missing or broken. It is empty
	// unless OpenOptions.SkipBadImages is set.
	Skipped []SkippedImage

	// Ignored counts the files in class folders that are not images. The key is the extension in
	// lower case, or "" for files without an extension. Hidden files, Thumbs.db and desktop.ini are
	// not counted. Ignored is nil except in the layout imagefolder.
	Ignored map[string]int

	// Stray is the number of images that lie outside the class folders and are therefore not read.
	// It is 0 except in the layout imagefolder.
	Stray int

	// Notes lists further facts that a user should know, one sentence each: folders, columns and
	// images that are not read, places where images were found, labels that look wrong, classes
	// that are too small for every split, and class names that look alike.
	Notes []string

	// Options holds the options that Open was called with. It is the zero value for a data set of
	// New.
	Options OpenOptions

	// ownTest reports whether the data set on disk has a test split, or was made with one by New.
	ownTest bool

	// classFolders has the value of layout.classFolders.
	classFolders bool

	// base is the folder that holds the class folders or, if splitFolders is true, the split
	// folders. It is "" except in the layout imagefolder.
	base         string
	splitFolders bool

	// opened is the data set as Open returned it. Nil means that the data set has not changed
	// since.
	opened *Dataset
}

// AsOpened returns the data set as [Open] returned it, before [Dataset.CheckImages] removed broken
// images.
func (d *Dataset) AsOpened() *Dataset {
	if d.opened != nil {
		return d.opened
	}
	return d
}

// SkippedImage is an image that was removed from a data set because it is missing or broken.
type SkippedImage struct {
	Split string // "train", "val" or "test"
	Path  string // path of the image, as in Sample.Path
	Where string // place that lists the image, as in Sample.Where
	Err   error  // reason why the image cannot be used
}

// split is one of the three splits of a data set.
type split struct {
	name    string // "train", "val" or "test"
	samples *[]Sample
}

// splits returns the training, validation and test splits, in this order.
func (d *Dataset) splits() []split {
	return []split{{"train", &d.Train}, {"val", &d.Val}, {"test", &d.Test}}
}

// New returns a data set of the given samples, whose images are usually in memory. Both val and
// test may be empty. New copies the lists of samples but not the images.
//
// New returns an error if there is no training sample, if a target does not fit the classes, if an
// image is malformed or listed twice, or if a class of val or test has no training sample.
func New(name string, classes []string, train, val, test []Sample) (*Dataset, error) {
	d := &Dataset{Name: name, Layout: "memory", Classes: classes, Train: train, Val: val, Test: test, Split: "given", ownTest: len(test) > 0}
	for _, s := range d.splits() {
		*s.samples = slices.Clone(*s.samples)
		for i := range *s.samples {
			sample := &(*s.samples)[i]
			if sample.Where == "" {
				sample.Where = fmt.Sprintf("%s[%d]", s.name, i)
			}
			if sample.Image == nil && sample.Path == "" {
				return nil, fmt.Errorf("data set %s: %s has neither a path nor an image; give it one of them", name, sample.Where)
			}
			if sample.Image != nil {
				if err := sample.Image.check(); err != nil {
					return nil, fmt.Errorf("data set %s: %s: %w", name, sample.Where, err)
				}
			}
		}
	}
	if err := d.check(); err != nil {
		return nil, fmt.Errorf("data set %s: %w", name, err)
	}
	return d, nil
}

// check returns an error if there are no training images, if a target does not fit the classes, if
// an image is listed twice, or if a class of val or test has no training image.
func (d *Dataset) check() error {
	if len(d.Train) == 0 && (!d.Options.NoTrain || len(d.Val)+len(d.Test) == 0) {
		return errors.New("there are no training images")
	}
	// The values count the samples of all splits, which takes less memory than their places.
	files, images, at := make(map[string]int32, len(d.Train)+len(d.Val)+len(d.Test)), make(map[*RGB]int32), int32(0)
	trained := make([]bool, len(d.Classes))
	for _, s := range d.splits() {
		for _, sample := range *s.samples {
			class, err := d.checkTarget(sample.Target)
			if err != nil {
				return fmt.Errorf("%s: %w", sample.Where, err)
			}
			first, seen := images[sample.Image]
			if sample.Image == nil {
				first, seen = files[sample.Path]
				files[sample.Path] = at
			} else {
				images[sample.Image] = at
			}
			if seen {
				split, where := d.place(int(first))
				if split == s.name {
					return fmt.Errorf("%s: %s is listed twice in the %s split (first at %s): remove one entry",
						sample.Where, sample.name(), s.name, where)
				}
				return fmt.Errorf("%s: %s is in the %s split and, at %s, in the %s split: keep it in one split only",
					sample.Where, sample.name(), s.name, where, split)
			}
			at++
			switch {
			case class < 0: // no single class
			case s.name == "train":
				trained[class] = true
			case !trained[class] && d.Options.Classes == 0 && d.Options.Fold == 0 && len(d.Train) > 0:
				return fmt.Errorf("%s: class %d (%s) of the %s split has no training image",
					sample.Where, class, abbreviate(d.Classes[class]), s.name)
			}
		}
	}
	return nil
}

// place returns the split of a sample and the place that lists the sample. i counts the samples of
// all splits.
func (d *Dataset) place(i int) (split, where string) {
	for _, s := range d.splits() {
		if i < len(*s.samples) {
			return s.name, (*s.samples)[i].Where
		}
		i -= len(*s.samples)
	}
	return "", ""
}

// checkTarget returns the stratum of a target, or an error if the target does not fit the classes.
func (d *Dataset) checkTarget(t Target) (stratum int, err error) {
	if t == nil {
		return 0, errors.New("there is no target; give every sample a target, such as the id of its class")
	}
	if err := t.Check(len(d.Classes)); err != nil {
		return 0, err
	}
	if stratum = t.Stratum(); stratum >= len(d.Classes) {
		return 0, fmt.Errorf("target %s counts as class %d, but there are only %d classes", t, stratum, len(d.Classes))
	}
	return stratum, nil
}

// TargetName returns the name of the class that t counts as; see [Target]. For [Labels] it returns
// the names of all labels, or "none". If t belongs to no class, TargetName returns the text of t.
func (d *Dataset) TargetName(t Target) string {
	if l, ok := t.(Labels); ok {
		var names []string
		for _, class := range l {
			names = append(names, d.Classes[class])
		}
		return cmp.Or(strings.Join(names, ", "), "none")
	}
	if class := t.Stratum(); class >= 0 {
		return d.Classes[class]
	}
	return t.String()
}

// Fingerprint returns a SHA-256 hash, in hex, of the lists of the data set. The hash covers the
// names of the classes, in their order. For every image of every split, it covers the path below
// Root, the target, the place that lists the image, its group, and the size of its file in bytes.
// It does not cover the pixels. Moving the data set does not change the fingerprint.
func (d *Dataset) Fingerprint() string {
	h := sha256.New() // its Write never fails
	fmt.Fprintf(h, "%q\n", d.Classes)
	for _, split := range d.splits() {
		samples := *split.samples
		sizes := make([]int64, len(samples))
		// never cancelled
		_ = parallel(context.Background(), len(samples), scanWorkers, func(i int) {
			if s := samples[i]; s.Image == nil {
				sizes[i] = max(0, s.source().size())
			}
		})
		for i, s := range samples {
			fmt.Fprintf(h, "%q %s %q %d\n", relative(d.Root, s.Path), s.Target, s.Where, sizes[i])
			if s.Group != "" {
				fmt.Fprintf(h, "group %q\n", s.Group)
			}
		}
		fmt.Fprintln(h)
	}
	return hex.EncodeToString(h.Sum(nil))
}

// Files returns the paths of the files that hold the images, each once: image files, or the files
// that several images are part of.
func (d *Dataset) Files() (paths []string) {
	seen := map[string]bool{}
	for _, split := range d.splits() {
		for _, s := range *split.samples {
			path := s.source().file()
			if path != "" && !seen[path] {
				seen[path] = true
				paths = append(paths, path)
			}
		}
	}
	return paths
}

// Trainable returns an error if all training images have the same target, because a model cannot
// learn from them. Such a data set can still be used for evaluation and prediction.
func (d *Dataset) Trainable() error {
	if len(d.Train) == 0 {
		return nil
	}
	first := d.Train[0].Target
	if slices.ContainsFunc(d.Train, func(s Sample) bool { return s.Target.String() != first.String() }) {
		return nil
	}
	if first.Stratum() >= 0 {
		return fmt.Errorf("data set %s: %w", d.Name, oneClass(d.TargetName(first)))
	}
	return fmt.Errorf("data set %s: all training images have the same target, %s: training needs images of at least two targets", d.Name, abbreviate(d.TargetName(first)))
}

// oneClass returns the error for a data set with a single class. Any model would reach a test
// accuracy of 100 % on such a data set.
func oneClass(name string) error {
	return fmt.Errorf("there is one class, %s: training needs images of at least two classes", abbreviate(name))
}
