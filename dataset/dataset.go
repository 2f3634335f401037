// Package dataset reads image sets and turns them into batches of pixels.
//
// [Open] opens an image set from disk. It recognises the layout (VTAB-1k lists, torchvision's
// ImageFolder, FGVC lists, Hugging Face parquet files, tables of paths and labels, and more; see
// [DescribeLayouts]), checks the lists, and makes the splits that are missing. [New] makes a data
// set of images that are in memory. Both return a [Dataset]: class names and three lists of
// samples. [KnownSets] lists the data sets of published benchmarks.
//
// A [Loader] reads samples in a given order, decodes them, resizes them exactly as Pillow does
// ([Transform]) and yields a [Batch] of uint8 pixels at a time, working ahead of its consumer.
// Loaders may share a [Cache]. The pixels are not normalised: that is cheaper inside the model's
// graph.
//
// No result depends on the number of workers, or on the order in which a file system lists its
// files. The same seed gives the same splits, the same order and the same crops.
package dataset

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"slices"
)

// Dataset is an image set in three splits. [Open] and [New] return it checked.
type Dataset struct {
	// Name is the name of the folder or file, or the name given to New.
	Name string

	// Root is the absolute path of the folder, or of the one file that was opened. It is "" for a
	// data set in memory.
	Root string

	// Layout is the name of the layout, one of [Layouts], or "memory".
	Layout string

	// Mixed is true if the order of Train is random already, as in VTAB-1k's lists, so that its
	// first images are of many classes. Scoring then reads Train in its order; otherwise it draws
	// images at random. Default false, also for a data set in memory.
	Mixed bool

	// Classes holds the name of every class id. The name is the id in decimal digits if the data
	// set names no classes.
	Classes []string

	// Train, Val and Test are the samples of the splits. Val and Test may be empty.
	Train, Val, Test []Sample

	// Split says where Val and Test come from: "given", or for example "stratified 0.8/0.1/0.1 seed
	// 0".
	Split string

	// Skipped lists the images that were left out because they were missing or broken. It is empty
	// unless the data set was opened with SkipBadImages.
	Skipped []SkippedImage

	// Ignored counts the files in class folders that are not images, by extension in lower case; ""
	// is the key of files without an extension. Hidden files, Thumbs.db and desktop.ini are not
	// counted. nil except in the layout imagefolder.
	Ignored map[string]int

	// Stray counts the images that lie beside the class folders. 0 except in the layout
	// imagefolder.
	Stray int

	// Options are the options that Open was called with; zero for a data set of New.
	Options OpenOptions

	classFolders bool     // every folder is a class
	opened       *Dataset // as Open returned it; nil: as it is
}

// AsOpened returns the data set as Open returned it, before CheckImages left out broken images.
func (d *Dataset) AsOpened() *Dataset {
	if d.opened != nil {
		return d.opened
	}
	return d
}

// SkippedImage is an image that was left out of a data set.
type SkippedImage struct {
	Split string // "train", "val" or "test"
	Path  string // Sample.Path
	Where string // Sample.Where
	Err   error  // why the image cannot be used
}

// split is one of the three lists of a data set, with its name.
type split struct {
	name    string
	samples *[]Sample
}

func (d *Dataset) splits() []split {
	return []split{{"train", &d.Train}, {"val", &d.Val}, {"test", &d.Test}}
}

// New returns a data set of the given samples, whose images are usually in memory. val and test may
// be empty. These are errors: no training sample, a target that does not fit the classes, a
// malformed image, an image that is listed twice, and a class of val or test without a training
// sample.
func New(name string, classes []string, train, val, test []Sample) (*Dataset, error) {
	d := &Dataset{Name: name, Layout: "memory", Classes: classes, Train: train, Val: val, Test: test, Split: "given"}
	for _, s := range d.splits() {
		*s.samples = slices.Clone(*s.samples)
		for i := range *s.samples {
			sample := &(*s.samples)[i]
			if sample.Where == "" {
				sample.Where = fmt.Sprintf("%s[%d]", s.name, i)
			}
			if sample.Image == nil && sample.Path == "" {
				return nil, fmt.Errorf("data set %s: %s has neither a path nor an image", name, sample.Where)
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
	if len(d.Train) == 0 {
		return errors.New("there are no training images")
	}
	type image struct {
		path   string
		memory *RGB
	}
	type place struct{ split, where string }
	seen := make(map[image]place)
	trained := make([]bool, len(d.Classes))
	for _, s := range d.splits() {
		for _, sample := range *s.samples {
			class, err := d.checkTarget(sample.Target)
			if err != nil {
				return fmt.Errorf("%s: %w", sample.Where, err)
			}
			key := image{sample.Path, sample.Image}
			if sample.Image != nil {
				key.path = ""
			}
			if first, ok := seen[key]; ok {
				if first.split == s.name {
					return fmt.Errorf("%s: %s is listed twice in the %s split (first at %s): remove one entry",
						sample.Where, sample.name(), s.name, first.where)
				}
				return fmt.Errorf("%s: %s is in the %s split and, at %s, in the %s split: an image may be in one split only",
					sample.Where, sample.name(), s.name, first.where, first.split)
			}
			seen[key] = place{s.name, sample.Where}
			switch {
			case class < 0: // no single class
			case s.name == "train":
				trained[class] = true
			case !trained[class] && d.Options.Classes == 0:
				return fmt.Errorf("%s: class %d (%s) of the %s split has no training image",
					sample.Where, class, d.Classes[class], s.name)
			}
		}
	}
	return nil
}

// checkTarget returns the target's stratum, or an error if the target does not fit the classes.
func (d *Dataset) checkTarget(t Target) (stratum int, err error) {
	if t == nil {
		return 0, errors.New("there is no target; set Sample.Target, for one label to dataset.Class(id)")
	}
	if err := t.Check(len(d.Classes)); err != nil {
		return 0, err
	}
	if stratum = t.Stratum(); stratum >= len(d.Classes) {
		return 0, fmt.Errorf("target %s is counted as class %d: there are %d classes", t, stratum, len(d.Classes))
	}
	return stratum, nil
}

// TargetName returns the name of the class that a target is counted as. For a target that stands
// for no single class it returns the text of the target.
func (d *Dataset) TargetName(t Target) string {
	if class := t.Stratum(); class >= 0 {
		return d.Classes[class]
	}
	return t.String()
}

// Fingerprint returns a SHA-256, in hex, of what the data set lists: for every image of every split
// its path below the root, its target, where it is listed, and the size of its file. It does not
// change when the data set is moved.
func (d *Dataset) Fingerprint() string {
	h := sha256.New() // its Write never fails
	for _, split := range d.splits() {
		for _, s := range *split.samples {
			size := int64(0)
			if s.stored == nil {
				if stat, err := os.Stat(s.Path); err == nil {
					size = stat.Size()
				}
			}
			fmt.Fprintf(h, "%q %s %q %d\n", relative(d.Root, s.Path), s.Target, s.Where, size)
		}
		fmt.Fprintln(h)
	}
	return hex.EncodeToString(h.Sum(nil))
}

// Trainable returns an error if all training images have the same target: nothing can be learned
// from them. Such images can still be measured and predicted.
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
	return fmt.Errorf("data set %s: all training images have the same target, %s: training needs images of at least two targets", d.Name, first)
}

// oneClass returns the error of a data set with a single class. Any model would reach a test
// accuracy of 100 % on it.
func oneClass(name string) error {
	return fmt.Errorf("there is one class, %s: training needs images of at least two classes", name)
}
