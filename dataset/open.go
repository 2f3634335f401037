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
	"regexp"
	"strconv"
	"strings"

	"github.com/sptune/spt/internal/regularfile"
)

// OpenOptions configures [Open]. The zero value works for most data sets.
type OpenOptions struct {
	// Layout is the name of the layout, one of [Layouts]. Default: "", and Open recognises the
	// layout.
	Layout string

	// Classes is the number of classes that the data set must have. Zero means any number. If
	// Classes is set, val and test may have classes without a training image. VTAB-1k needs this,
	// because a subset of 1000 images may miss some of up to 397 classes.
	Classes int

	// ImageColumn and LabelColumn are the names of the columns that hold images and labels. They
	// apply to the layouts parquet and table. Default: "", and Open finds the columns by their
	// usual names, such as "image" and "label".
	ImageColumn, LabelColumn string

	// ImageRoot is the folder that the paths of a table are relative to. ImageSuffix is text that
	// is appended to each path, such as ".jpg". They apply to the layout table. Default: "", and
	// the paths are relative to the table. If no image is there, Open looks for the only folder
	// below and the only extension that lead to images.
	ImageRoot, ImageSuffix string

	// NoTrain allows a table or parquet files without training images, to evaluate a classifier.
	// The classes are then the labels of the other splits. Default: false, and a data set without
	// training images is an error.
	NoTrain bool

	// ValFraction and TestFraction are the fractions of the training images that become the
	// validation split and the test split if the data set lacks them. Zero means 0.1. A negative
	// number leaves a missing split empty. The sum of both fractions must be below 1.
	ValFraction, TestFraction float64

	// Seed is the seed for the random choice of images for missing splits. The choice also depends
	// on the paths below the root, but not on the order of the lists. Default: 0.
	Seed uint64

	// MaxImages is the largest number of images of each split; see [Dataset.Limit], which Open calls
	// with Seed. Zero means no limit.
	MaxImages int

	// SkipBadImages removes bad images from the data set and lists them in Dataset.Skipped. Open
	// removes missing images, and Dataset.CheckImages removes broken images. Default: false, and a
	// bad image is an error.
	SkipBadImages bool
}

// contents holds the classes and samples that a layout has read. A split that the data set does not
// have is nil.
type contents struct {
	classes          []string
	train, val, test []Sample
	unnamed          bool           // no file names the classes, so there may be more classes
	name             string         // name of the data set; "" means the name of the folder or file
	note             string         // text that is appended to Dataset.Split
	notes            []string       // see Dataset.Notes
	fromOne          string         // the note that labels may begin at 1; "" if there is none
	ignored          map[string]int // see Dataset.Ignored
	stray            int            // see Dataset.Stray
	base             string         // see Dataset.base
	splitFolders     bool           // see Dataset.splitFolders
}

// source is the input of a layout: a folder, or one file in a folder.
type source struct {
	OpenOptions
	root string // the folder
	file string // the path of the file; "" means the whole folder
}

// Open opens the data set at path, which is a folder, or one file such as a parquet file or a
// table. Open checks that every image exists but decodes none. [Dataset.CheckImages] finds broken
// images, and [Dataset.Verify] finds duplicate images.
//
// [Layouts] and [DescribeLayouts] list the layouts that Open reads; docs/layouts.md describes them
// in full. If the data set lacks a validation or test split, Open takes images from the training
// split. Every class of three or more images gives its own share, at least one image, and keeps at
// least one training image. Dataset.Split records this.
//
// Open returns an error if
//   - the layout is unknown,
//   - a line or a JSON text is malformed,
//   - a label is negative, is not an integer in a list of integers, or has no class name,
//   - a class name is not UTF-8, or a list is in UTF-16,
//   - a path leaves the folder, or symbolic links form a loop,
//   - an image is missing, is listed twice, or is in two splits,
//   - a class folder is empty,
//   - a class of val or test has no training image,
//   - the number of classes differs from o.Classes,
//   - ctx is done.
//
// The error names the file and the line, key, row or folder.
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

// open is Open for an absolute path.
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
		return nil, fmt.Errorf("the layout %s has no columns: leave out the names of the image column and the label column", l.name)
	}
	if (o.ImageRoot != "" || o.ImageSuffix != "") && !l.paths {
		return nil, fmt.Errorf("the layout %s has no table of image paths: leave out the image root and the image suffix", l.name)
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
		Notes: g.notes, Options: o, classFolders: l.classFolders, base: g.base, splitFolders: g.splitFolders,
	}
	if err := d.findFiles(ctx); err != nil {
		return nil, err
	}
	if err := d.check(); err != nil {
		if d.Skipped != nil {
			err = fmt.Errorf("%w after skipping %s: %w", err, countImages(len(d.Skipped), "bad "), joinSkipped(d.Skipped))
		}
		return nil, err
	}
	if note := alikeClasses(d.Classes); note != "" {
		d.Notes = append(d.Notes, note)
	}
	d.splitMissing(g.val == nil, g.test == nil, valFraction, testFraction, o.Seed)
	d.Split += g.note
	if o.MaxImages > 0 {
		return d.Limit(o.MaxImages, o.Seed)
	}
	return d, nil
}

// expectClasses returns an error if the number of classes is not n. Zero means any number. If no
// file names the classes, expectClasses adds classes until there are n.
func (g *contents) expectClasses(n int) error {
	if n <= 0 {
		return nil
	}
	for g.unnamed && len(g.classes) < n {
		g.classes = append(g.classes, strconv.Itoa(len(g.classes)))
	}
	if len(g.classes) != n {
		hint := ""
		if g.fromOne != "" {
			hint = "; " + g.fromOne
		}
		return fmt.Errorf("the data set has %d classes, expected %d%s", len(g.classes), n, hint)
	}
	return nil
}

// maxList and maxClassNames limit the sizes of a list or table and of classes.txt, in bytes. A list
// of the 14 million images of ImageNet-21k has about 600 MB, and its class names 0.5 MB.
const (
	maxList       = 1 << 30
	maxClassNames = 16 << 20
)

// readText returns the contents of a text file without the byte-order mark of UTF-8. It returns an
// error for a file in UTF-16, and for one of more than limit bytes.
func readText(path string, limit int64) ([]byte, error) {
	text, err := regularfile.Read(path, limit)
	if err != nil {
		return nil, err
	}
	return withoutMark(path, text)
}

// openFile opens a regular file. It refuses any other kind of file without opening it, because
// opening a pipe waits for its writer.
func openFile(path string) (*os.File, error) {
	f, _, err := regularfile.Open(path)
	return f, err
}

// withoutMark returns the text of a file without the byte-order mark of UTF-8. It returns an error
// for a text in UTF-16.
func withoutMark(path string, text []byte) ([]byte, error) {
	if bytes.HasPrefix(text, []byte("\xff\xfe")) || bytes.HasPrefix(text, []byte("\xfe\xff")) {
		return nil, fmt.Errorf("%s is in UTF-16: save it as UTF-8", path)
	}
	return bytes.TrimPrefix(text, []byte("\xef\xbb\xbf")), nil
}

// findFiles checks that the file of every sample exists. It does not open the files. It removes the
// samples of missing files if SkipBadImages is set, and returns an error otherwise.
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
	return fmt.Errorf("%s cannot be used; restore the files or skip bad images: %w", countImages(len(missing), "listed "), joinSkipped(missing))
}

// remove removes the samples that have an error from a split, and returns the removed images.
// bad[i] is the error of sample i.
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

// joinSkipped returns one error for many images, which names the first ten.
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

// isURL matches URLs, which tables from the web list in place of paths.
var isURL = regexp.MustCompile(`^(?:[A-Za-z][A-Za-z0-9+.-]*://|data:image/)`)

// maxPathBytes limits the path of an image in a list. Linux has the same limit.
const maxPathBytes = 4096

// localPath returns the clean form of a path from a list. Lists may come from untrusted sources, so
// it returns an error for a path that leaves the folder of the data set.
func localPath(p string) (string, error) {
	if p == "" {
		return "", errors.New("the image path is empty")
	}
	if len(p) > maxPathBytes {
		return "", fmt.Errorf("the image path %q has %d bytes: the limit is %d", abbreviate(p), len(p), maxPathBytes)
	}
	if isURL.MatchString(p) {
		return "", fmt.Errorf("the image path %q is a URL, and images are not downloaded: download the images and list the paths of the files", abbreviate(p))
	}
	clean := path.Clean(p)
	if path.IsAbs(clean) || !filepath.IsLocal(filepath.FromSlash(clean)) {
		return "", fmt.Errorf("image path %q leaves the folder of the data set: use a relative path to a file inside it", abbreviate(p))
	}
	return clean, nil
}
