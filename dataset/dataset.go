// Package dataset goes from a folder of images to batches of pixels.
//
// Open recognises the layouts in which image sets are kept (VTAB-1k lists, torchvision's ImageFolder, FGVC json, the Hugging
// Face hub's parquet files, tables of paths and labels), checks them, and makes the splits that are missing. New takes images
// that are already in memory. The result is a Dataset: class names and three lists of Samples. Known has the benchmarks' sets
// by name.
//
// A Loader reads Samples in the order it is told, decodes them (Decode), resizes them exactly as Pillow does
// (ResizeBicubic, Transform) and yields Batches of uint8 pixels, working ahead of its consumer. Loaders may share a Cache.
// Normalization is left to the consumer: it is cheaper inside the model's graph.
//
// Nothing here depends on the number of workers or on the order in which a file system lists its files: the same seed gives
// the same splits, the same order and the same crops.
package dataset

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"slices"
)

// Sample is one labelled image, in a file of its own, in a row of a parquet file, or in memory.
type Sample struct {
	// Path is the image file: the data set's root joined with the path in the list. For a row it is the parquet file, "#" and
	// the row, from 0; for an image in memory "".
	Path   string
	Image  *RGB   // image in memory, used instead of Path; nobody may change it afterwards
	Target Target // the annotation; Class for an image with one label
	Where  string // where the data set says so, for messages: "train800.txt:17", "train/dress", `train.json: "a.jpg"`

	stored *parquetFile // the image is in its row; nil: it is not in a parquet file
	row    int
}

// name is what a message calls the sample's image.
func (s Sample) name() string {
	if s.Image != nil {
		return "image in memory"
	}
	return s.Path
}

// Dataset is a labelled image set in three splits. Open and New return it checked.
type Dataset struct {
	Name    string   // the folder's name, or the name given to New
	Root    string   // absolute path of the folder, or of the one file that was opened; "" for a data set in memory
	Layout  string   // "vtab", "imagefolder", "fgvc", "parquet", "table", "fewshot" or "memory"
	Classes []string // name of every class id; the decimal id where the layout has no names
	Train   []Sample
	Val     []Sample // may be empty
	Test    []Sample // may be empty
	Split   string   // how Val and Test came to be: "given", or for instance "stratified 0.8/0.1/0.1 seed 0"

	// Skipped are the images left out because they were missing or broken, with SkipBadImages only.
	Skipped []SkippedImage

	// Ignored counts, by extension in lower case ("" is none), the files in class folders that are not taken for images; Stray
	// the images beside those folders, in none of them. Hidden files, Thumbs.db and desktop.ini are not counted. In an
	// ImageFolder only.
	Ignored map[string]int
	Stray   int

	skipBadImages bool
	classesKnown  bool // OpenOptions.Classes was given
}

// SkippedImage is an image that was left out of a data set, and why.
type SkippedImage struct {
	Split string // "train", "val" or "test"
	Path  string
	Where string // as in Sample
	Err   error
}

// TrainVal returns Train followed by Val: what the final run of the VTAB-1k protocol trains on, after its settings were
// chosen on Val. VTAB's own train800val200.txt is the same list.
func (d *Dataset) TrainVal() []Sample {
	return slices.Concat(d.Train, d.Val)
}

// split is one of a data set's three lists, with its name.
type split struct {
	name    string
	samples *[]Sample
}

func (d *Dataset) splits() []split {
	return []split{{"train", &d.Train}, {"val", &d.Val}, {"test", &d.Test}}
}

// New returns a data set of the given samples, whose images are usually in memory. val and test may be empty. It is an
// error if train is empty, a label is not an index of classes, an image in memory is malformed, the same
// image stands in the lists twice, or a class of val or test has no training sample.
func New(name string, classes []string, train, val, test []Sample) (*Dataset, error) {
	d := &Dataset{Name: name, Layout: "memory", Classes: classes, Train: train, Val: val, Test: test, Split: "given"}
	for _, s := range d.splits() {
		*s.samples = slices.Clone(*s.samples)
		for i := range *s.samples {
			sample := &(*s.samples)[i]
			if sample.Where == "" {
				sample.Where = fmt.Sprintf("%s[%d]", s.name, i)
			}
			if sample.Target == nil {
				return nil, fmt.Errorf("data set %s: %s has no target; set Target, for one label dataset.Class(id)", name, sample.Where)
			}
			if err := sample.Target.Check(len(classes)); err != nil {
				return nil, fmt.Errorf("data set %s: %s: %w", name, sample.Where, err)
			}
			switch {
			case sample.Image == nil && sample.Path == "":
				return nil, fmt.Errorf("data set %s: %s has neither a path nor an image", name, sample.Where)
			case sample.Image != nil:
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

// check finds what is wrong between samples: an empty training set, an image listed twice, a class that is not trained.
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
			key := image{sample.Path, sample.Image}
			if sample.Image != nil {
				key.path = ""
			}
			if first, ok := seen[key]; ok {
				if first.split == s.name {
					return fmt.Errorf("%s: %s stands twice in the %s split (first at %s): remove one entry",
						sample.Where, sample.name(), s.name, first.where)
				}
				return fmt.Errorf("%s: %s is in the %s split and, at %s, in the %s split: an image may be in one split only",
					sample.Where, sample.name(), s.name, first.where, first.split)
			}
			seen[key] = place{s.name, sample.Where}
			if s.name == "train" {
				trained[sample.class()] = true
			} else if !trained[sample.class()] && !d.classesKnown {
				return fmt.Errorf("%s: class %d (%s) of the %s split has no training image",
					sample.Where, sample.class(), d.Classes[sample.class()], s.name)
			}
		}
	}
	return nil
}

// Fingerprint is a SHA-256, in hex, of what the data set lists: of each split the images' paths from the root on, labels,
// where they are listed, and how large the files are. It does not change when the data set is moved.
func (d *Dataset) Fingerprint() string {
	h := sha256.New() // which never fails
	for _, split := range d.splits() {
		for _, s := range *split.samples {
			size := int64(0)
			if stat, err := os.Stat(s.Path); err == nil { // rows of a table have none
				size = stat.Size()
			}
			fmt.Fprintf(h, "%q %s %q %d\n", relative(d.Root, s.Path), s.Target, s.Where, size)
		}
		fmt.Fprintln(h)
	}
	return hex.EncodeToString(h.Sum(nil))
}

// Trainable refuses training images of fewer than two classes. Others can be measured, and looked at, alone.
func (d *Dataset) Trainable() error {
	if other := func(s Sample) bool { return s.class() != d.Train[0].class() }; len(d.Train) > 0 && !slices.ContainsFunc(d.Train, other) {
		return fmt.Errorf("data set %s: %w", d.Name, oneClass(d.Classes[d.Train[0].class()]))
	}
	return nil
}

// oneClass is the error of a data set that has but one: its test accuracy would be 100 % whatever is trained.
func oneClass(name string) error {
	return fmt.Errorf("there is one class, %s, and nothing to tell its images from: training takes images of at least two classes", name)
}
