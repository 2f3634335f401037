package dataset

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"
)

// OpenOptions configures [Open]. The zero value is a good default.
type OpenOptions struct {
	// Layout is the name of the layout, one of [Layouts]. Default "": Open recognises the layout.
	Layout string

	// Classes is the number of classes that the data set must have. Default 0: any number. Only if
	// Classes is given may val and test have classes without a training image. VTAB-1k needs this:
	// its draws of 1000 images miss some of up to 397 classes.
	Classes int

	// ImageColumn and LabelColumn are the names of the columns of images and labels, for layouts
	// that have columns (parquet, table). Default "": Open finds the columns by their usual names.
	ImageColumn, LabelColumn string

	// ValFraction and TestFraction are the shares of the training images that become the validation
	// and the test split if the data set has none. Default 0: a share of 0.1. A negative number
	// leaves a missing split empty. The sum of both shares must be below 1.
	ValFraction, TestFraction float64

	// Seed chooses the images of the splits that Open makes. The choice depends on Seed and on the
	// paths below the root, on nothing else. Default 0.
	Seed uint64

	// SkipBadImages removes bad images from the data set and lists them in Dataset.Skipped: missing
	// images in Open, broken ones in Dataset.CheckImages. Default false: a bad image is an error.
	SkipBadImages bool
}

// given holds what a layout read. A nil split is one that the data set does not have.
type given struct {
	classes          []string
	train, val, test []Sample
	unnamed          bool           // no file names the classes: there may be more of them
	name             string         // name of the data set; "": that of the folder or the file
	note             string         // added to Dataset.Split
	ignored          map[string]int // Dataset.Ignored
	stray            int            // Dataset.Stray
}

// source is what a layout reads: a folder, or one file in it.
type source struct {
	OpenOptions
	root string // folder
	file string // "": the whole folder
}

// Open opens the image set in the folder at path, or in one file such as a parquet file or a table.
// It finds every image and decodes none: [Dataset.CheckImages] finds broken images, and
// [Dataset.Verify] finds equal images under different names.
//
// [Layouts] and [DescribeLayouts] list the layouts that Open knows; docs/layouts.md describes them
// in full. If the data set lacks a validation or test split, Open takes it from the training
// images: from every class in proportion, leaving each class at least one training image.
// Dataset.Split says so.
//
// An error names the file and the line, key, row or folder. These are errors: an unknown layout; a
// malformed line or JSON; a label that is not an integer, is negative, or is beyond the class
// names; a path that leaves the folder; a missing image; an empty class folder; a loop of links; a
// list in UTF-16; a class name that is not UTF-8; an image that is listed twice or in two splits; a
// class of val or test without training images; and another number of classes than Classes. If ctx
// is done, Open returns its error.
func Open(ctx context.Context, path string, o OpenOptions) (*Dataset, error) {
	root, err := filepath.Abs(path)
	if err != nil {
		return nil, fmt.Errorf("opening data set %s: %w", path, err)
	}
	d, err := open(ctx, root, o)
	if err != nil {
		return nil, fmt.Errorf("opening data set %s: %w", path, err)
	}
	return d, nil
}

func open(ctx context.Context, root string, o OpenOptions) (*Dataset, error) {
	valFraction, testFraction, err := o.fractions()
	if err != nil {
		return nil, err
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	info, err := os.Stat(root)
	if err != nil {
		return nil, err
	}
	src, name := source{OpenOptions: o, root: root}, filepath.Base(root)
	if !info.IsDir() {
		src.root, src.file = filepath.Dir(root), root
		name = strings.TrimSuffix(name, filepath.Ext(name))
	}
	l, err := chooseLayout(ctx, src)
	if err != nil {
		return nil, err
	}
	if (o.ImageColumn != "" || o.LabelColumn != "") && !l.columns {
		return nil, fmt.Errorf("the layout %s has no columns to name: leave out the names of the image column and the label column", l.name)
	}
	g, err := l.read(ctx, src)
	if err != nil {
		return nil, err
	}
	if err := g.expectClasses(o.Classes); err != nil {
		return nil, err
	}
	d := &Dataset{
		Name: cmp.Or(g.name, name), Root: root, Layout: l.name, Mixed: l.mixed, Classes: g.classes,
		Train: g.train, Val: g.val, Test: g.test, Ignored: g.ignored, Stray: g.stray,
		Options: o, classFolders: l.classFolders,
	}
	if err := d.findFiles(ctx); err != nil {
		return nil, err
	}
	if err := d.check(); err != nil {
		if d.Skipped != nil {
			err = fmt.Errorf("%w without the %s that cannot be used: %w", err, countImages(len(d.Skipped), "listed "), joinSkipped(d.Skipped))
		}
		return nil, err
	}
	d.splitMissing(g.val == nil, g.test == nil, valFraction, testFraction, o.Seed)
	d.Split += g.note
	return d, nil
}

// expectClasses returns an error if there are not n classes; n is 0 if any number will do. Classes
// that no file names are added up to n.
func (g *given) expectClasses(n int) error {
	if n <= 0 {
		return nil
	}
	for g.unnamed && len(g.classes) < n {
		g.classes = append(g.classes, strconv.Itoa(len(g.classes)))
	}
	if len(g.classes) != n {
		return fmt.Errorf("it has %d classes, expected %d", len(g.classes), n)
	}
	return nil
}

// readText reads a text file and removes the byte-order mark of UTF-8. A file in UTF-16 is an
// error.
func readText(path string) ([]byte, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	return withoutMark(path, text)
}

// withoutMark removes the byte-order mark of UTF-8 from the text of a file. UTF-16 is an error.
func withoutMark(path string, text []byte) ([]byte, error) {
	if bytes.HasPrefix(text, []byte("\xff\xfe")) || bytes.HasPrefix(text, []byte("\xfe\xff")) {
		return nil, fmt.Errorf("%s is in UTF-16: save it as UTF-8", path)
	}
	return bytes.TrimPrefix(text, []byte("\xef\xbb\xbf")), nil
}

// findFiles makes sure that the file of every sample exists. It does not open the files.
func (d *Dataset) findFiles(ctx context.Context) error {
	var missing []SkippedImage
	for _, s := range d.splits() {
		bad := make([]error, len(*s.samples))
		err := parallel(ctx, len(bad), 0, func(i int) {
			if sample := (*s.samples)[i]; sample.stored == nil {
				_, bad[i] = findFile(sample.Path)
			}
		})
		if err != nil {
			return err
		}
		missing = append(missing, d.remove(s, bad)...)
	}
	if len(missing) == 0 {
		return nil
	}
	if d.Options.SkipBadImages {
		d.Skipped = append(d.Skipped, missing...)
		return nil
	}
	return fmt.Errorf("%d of the listed images cannot be used (the option to skip bad images leaves them out): %w", len(missing), joinSkipped(missing))
}

// remove removes the samples that have an error from a split, and returns them.
func (d *Dataset) remove(s split, bad []error) []SkippedImage {
	var removed []SkippedImage
	var kept []Sample
	for i, sample := range *s.samples {
		if bad[i] == nil {
			kept = append(kept, sample)
			continue
		}
		removed = append(removed, SkippedImage{s.name, sample.Path, sample.Where, bad[i]})
	}
	*s.samples = kept
	return removed
}

// joinSkipped returns one error for many images. It names the first ten.
func joinSkipped(images []SkippedImage) error {
	var all []error
	for i, m := range images {
		if i == 10 {
			all = append(all, fmt.Errorf("and %d more", len(images)-i))
			break
		}
		all = append(all, fmt.Errorf("%s: %w", m.Where, m.Err))
	}
	return errors.Join(all...)
}

// localPath cleans a path from a list. A list may come from anywhere, so the path must stay inside
// the data set.
func localPath(p string) (string, error) {
	if p == "" {
		return "", errors.New("the image path is empty")
	}
	clean := path.Clean(p)
	if path.IsAbs(clean) || !filepath.IsLocal(filepath.FromSlash(clean)) {
		return "", fmt.Errorf("image path %q leaves the data set's folder: paths must be relative and stay inside it", p)
	}
	return clean, nil
}
