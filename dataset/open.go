package dataset

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/sptune/spt/internal/option"
	"github.com/sptune/spt/progress"
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
	// apply to the layouts parquet, table and webdataset. Default: "", and Open finds the columns
	// by their usual names, such as "image" and "label".
	ImageColumn, LabelColumn string

	// LabelDelimiter separates several labels in a cell of the label column, such as "|" in
	// "cat|dog". The targets are then [Labels], also of cells with one label. An empty cell means
	// no label. Spaces around a label do not count. It applies to the layouts parquet and table.
	// Default: "", and a cell is one label, or a list of labels in a JSON or parquet table.
	LabelDelimiter string

	// LabelColumns holds the names of the columns of a table that have 1 for the images with the
	// label of this name, and 0 for all others. The targets are then [Labels]. LabelColumns
	// excludes LabelColumn and LabelDelimiter. Default: nil. Without a column of labels, Open reads
	// all columns of 0 and 1 as labels; the targets are Labels if some row has 1 in several.
	LabelColumns []string

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

	// GroupColumn is the name of the column that holds the group of each image. It applies to the
	// layouts parquet and table. An image with an empty cell is a group of its own. Default: "",
	// and every image is a group of its own.
	GroupColumn string

	// GroupPattern is a regular expression of package regexp. If it matches the path of an image,
	// the text of its first capturing group names the group of the image. The path is relative to
	// the folder of the data set and has slashes. Images that do not match are groups of their own.
	// It applies to all layouts except parquet. Default: "".
	GroupPattern string

	// GroupDuplicates makes equal and nearly equal images one group; see Verification.Near. Groups
	// that hold two such images become one group. Open then decodes every image whose hash is not
	// in the cache of the user, or whose file has changed since. Default: false.
	GroupDuplicates bool

	// Folds is the number of folds of a cross-validation, and Fold is one of them, counted from 1.
	// If they are set, Open returns this data set of [Dataset.Folds]. Default: 0, no folds.
	Folds, Fold int

	// Seed is the seed for the random choice of images for missing splits. The choice also depends
	// on the paths below the root, but not on the order of the lists. Default: 0.
	Seed uint64

	// MaxImages is the largest number of images of each split; see [Dataset.Limit], which Open
	// calls with Seed. Zero means no limit.
	MaxImages int

	// SkipBadImages removes bad images from the data set and lists them in Dataset.Skipped. Open
	// removes missing images, and Dataset.CheckImages removes broken images. Default: false, and a
	// bad image is an error.
	SkipBadImages bool

	// Progress receives an event after every image that Open decodes for GroupDuplicates: of stage
	// progress.Hashes and, for images that look alike, of stage progress.Compare. Calls do not
	// overlap. Dataset.Options does not keep it. Default: nil, which reports no progress.
	Progress progress.Func
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
	regular          bool           // the images were seen to be regular files
	stray            int            // see Dataset.Stray
	base             string         // see Dataset.base
	splitFolders     bool           // see Dataset.splitFolders
}

// source is the input of a layout: a folder, or one file in a folder. The folder may be in an
// archive.
type source struct {
	OpenOptions
	at    files
	root  string   // the folder
	file  string   // the path of the file; "" means the whole folder
	given []string // the archives that a pattern names; nil without a pattern
	name  string   // name of the data set
	// the parquet files if they are known; else nil
	shards *parquetSet
}

// newSource returns the source at an absolute path: a folder, a file, an archive, or a pattern of
// archives.
func newSource(ctx context.Context, root string, o OpenOptions) (src source, notes []string, err error) {
	src = source{OpenOptions: o, at: disk{}, root: root, name: filepath.Base(root)}
	info, err := os.Stat(root)
	if errors.Is(err, fs.ErrNotExist) && strings.ContainsAny(root, "{") {
		src.root = filepath.Dir(root[:strings.IndexByte(root, '{')] + "x")
		src.name, _, _ = strings.Cut(src.name, "{")
		src.name = strings.TrimRight(cmp.Or(src.name, filepath.Base(src.root)), "-_.")
		src.given, err = expandBraces(root)
		return src, nil, err
	}
	switch {
	case err != nil:
		return src, nil, err
	case info.IsDir():
		return src, nil, nil
	case IsArchiveName(root):
		a, err := openArchive(ctx, root)
		if err != nil {
			return src, nil, err
		}
		src.at, src.root = a, a.top()
		src.name = src.name[:len(src.name)-len(endOf(root, archiveNames))]
		return src, a.notes, nil
	}
	if end := endOf(root, otherArchives); end != "" {
		return src, nil, fmt.Errorf("archives of the kind %s are not read: unpack it and give the folder, or pack the files as %s", end, strings.Join(archiveNames, ", "))
	}
	src.root, src.file = filepath.Dir(root), root
	src.name = strings.TrimSuffix(src.name, filepath.Ext(src.name))
	return src, nil, nil
}

// Open opens the data set at path. It is a folder, an archive that holds such a folder, one file
// such as a parquet file or a table, or a pattern of archives such as train-{000..009}.tar. Open
// reads archives in place; only a compressed tar archive is decompressed into the cache of the
// user, once. Open checks that every image exists but decodes none. [Dataset.CheckImages] finds
// broken images, and [Dataset.Verify] finds duplicate images.
//
// [Layouts] and [DescribeLayouts] list the layouts that Open reads; docs/layouts.md describes them
// in full. If the data set lacks a validation or test split, Open takes images from the training
// split. Every class of three or more images gives its own share, at least one image, and keeps at
// least one training image. Images of one group move together, so no group is in two of the splits
// that Open makes. Splits that the data set has are kept, and a note names the groups that they
// divide. Dataset.Split records this.
//
// Open returns an error if
//   - the layout is unknown,
//   - a line or a JSON text is malformed,
//   - a label is negative, is not an integer in a list of integers, or has no class name,
//   - a cell of a label column holds no label, or something else than the other cells,
//   - a class name is not UTF-8, or a list is in UTF-16,
//   - a path leaves the folder, or symbolic links form a loop,
//   - an archive is cut short, encrypted, or has a file whose path leaves it,
//   - an image is missing, is listed twice, or is in two splits,
//   - a class folder is empty,
//   - a class of val or test has no training image,
//   - the number of classes differs from o.Classes,
//   - the pattern of groups matches no image, or all images are one group and splits are missing,
//   - ctx is done.
//
// The error names the file and the line, key, row or folder.
func Open(ctx context.Context, path string, o OpenOptions) (*Dataset, error) {
	if isURL.MatchString(path) {
		return nil, fmt.Errorf("opening data set %s: it is a URL, and only files are read: download it first, and give the path of the file or folder", path)
	}
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
	if _, _, err := o.fractions(); err != nil { // before an archive is read
		return nil, err
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	src, notes, err := newSource(ctx, root, o)
	if err != nil {
		return nil, err
	}
	return src.open(ctx, root, notes)
}

// open reads a data set. root is the value of Dataset.Root, and notes begins Dataset.Notes.
func (src source) open(ctx context.Context, root string, notes []string) (*Dataset, error) {
	o := src.OpenOptions
	report := o.Progress
	o.Progress = nil
	valFraction, testFraction, err := o.fractions()
	if err != nil {
		return nil, err
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	pattern, err := o.groupPattern()
	if err != nil {
		return nil, err
	}
	l, err := chooseLayout(ctx, src)
	if err != nil {
		return nil, err
	}
	if err := o.checkLabels(l); err != nil {
		return nil, err
	}
	if (o.ImageColumn != "" || o.LabelColumn != "") && !l.columns {
		return nil, fmt.Errorf("the layout %s has no columns: leave out the names of the image column and the label column", l.name)
	}
	if (o.ImageRoot != "" || o.ImageSuffix != "") && !l.paths {
		return nil, fmt.Errorf("the layout %s has no table of image paths: leave out the image root and the image suffix", l.name)
	}
	if o.GroupColumn != "" && !l.columns {
		return nil, option.Errorf("group-column", "the layout %s has no columns, so no column names groups: give a pattern of groups for the paths of the images", l.name)
	}
	if pattern != nil && l.unnamed {
		return nil, option.Errorf("group-pattern", "the images of the layout %s have no names that a pattern of groups could match: give the name of a column of groups", l.name)
	}
	g, err := l.read(ctx, src)
	if err != nil {
		return nil, err
	}
	if err := g.expectClasses(o.Classes); err != nil {
		return nil, err
	}
	d := &Dataset{
		Name: cmp.Or(g.name, src.name), Root: root, Layout: l.name, Mixed: l.mixed, Classes: g.classes,
		Train: g.train, Val: g.val, Test: g.test, Ignored: g.ignored, Stray: g.stray,
		Notes: append(notes, g.notes...), Options: o, classFolders: l.classFolders, base: g.base, splitFolders: g.splitFolders,
	}
	if !g.regular {
		if err := d.findFiles(ctx, src.at); err != nil {
			return nil, err
		}
	}
	if err := d.check(); err != nil {
		if d.Skipped != nil {
			err = fmt.Errorf("%w after skipping %s: %w", err, countImages(len(d.Skipped), "bad "), joinSkipped(d.Skipped))
		}
		return nil, err
	}
	if note := d.untrainedLabels(); note != "" {
		d.Notes = append(d.Notes, note)
	}
	if note := alikeClasses(d.Classes); note != "" {
		d.Notes = append(d.Notes, note)
	}
	if err := d.setGroups(ctx, src.root, pattern, report); err != nil {
		return nil, err
	}
	if err := d.splitMissing(g.val == nil, g.test == nil, valFraction, testFraction, o.Seed); err != nil {
		return nil, err
	}
	d.Split += g.note
	if o.Fold != 0 || o.Folds != 0 {
		if d, err = d.fold(o.Folds, o.Fold); err != nil {
			return nil, err
		}
	} else if note := d.dividedNote(); note != "" {
		d.Notes = append(d.Notes, note)
	}
	if o.MaxImages > 0 {
		return d.Limit(o.MaxImages, o.Seed)
	}
	return d, nil
}

// checkLabels returns an error if the options for several labels contradict each other or have no
// effect on the layout l.
func (o OpenOptions) checkLabels(l layout) error {
	switch {
	case o.LabelDelimiter != "" && !l.columns:
		return fmt.Errorf("the layout %s has no column of labels: leave out the delimiter of labels", l.name)
	case o.LabelColumns != nil && !l.paths:
		return fmt.Errorf("the layout %s has no table of image paths: leave out the names of the label columns", l.name)
	case o.LabelColumns != nil && (o.LabelColumn != "" || o.LabelDelimiter != ""):
		return errors.New("the names of several label columns contradict the label column or the delimiter of labels: give columns of 0 and 1, or one column of labels")
	}
	for i, name := range o.LabelColumns {
		if slices.Contains(o.LabelColumns[:i], name) {
			return fmt.Errorf("the label column %q is named twice: name each column once", abbreviate(name))
		}
	}
	return nil
}

// untrainedLabels returns a note that names the labels of images with several labels that no
// training image has. It returns "" if there are none.
func (d *Dataset) untrainedLabels() string {
	if len(d.Train) == 0 || !d.severalLabels() {
		return ""
	}
	var names []string
	for class, n := range d.ClassCounts() {
		if n == 0 {
			names = append(names, d.Classes[class])
		}
	}
	if names == nil {
		return ""
	}
	return "labels without a training image, which cannot be learned: " + firstNames(names)
}

// severalLabels reports whether the targets are [Labels].
func (d *Dataset) severalLabels() bool {
	for _, s := range d.splits() {
		if len(*s.samples) > 0 {
			_, several := (*s.samples)[0].Target.(Labels)
			return several
		}
	}
	return false
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
func readText(at files, path string, limit int64) ([]byte, error) {
	text, err := at.read(path, limit)
	if err != nil {
		return nil, err
	}
	return withoutMark(path, text)
}

// withoutMark returns the text of a file without the byte-order mark of UTF-8. It returns an error
// for a text in UTF-16.
func withoutMark(path string, text []byte) ([]byte, error) {
	if bytes.HasPrefix(text, []byte("\xff\xfe")) || bytes.HasPrefix(text, []byte("\xfe\xff")) {
		return nil, fmt.Errorf("%s is in UTF-16: save it as UTF-8", path)
	}
	return bytes.TrimPrefix(text, []byte("\xef\xbb\xbf")), nil
}

// findFiles checks that the file of every sample exists, and sets Sample.stored of the samples in
// an archive. It does not open the files. It removes the samples of missing files if SkipBadImages
// is set, and returns an error otherwise.
func (d *Dataset) findFiles(ctx context.Context, at files) error {
	var missing []SkippedImage
	for _, s := range d.splits() {
		bad := make([]error, len(*s.samples))
		err := parallel(ctx, len(bad), scanWorkers, func(i int) {
			if sample := &(*s.samples)[i]; sample.stored == nil {
				if _, bad[i] = findFile(at, sample.Path); bad[i] == nil {
					sample.stored = at.image(sample.Path)
				}
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
	clean, err := listedPath(p)
	if err == nil && filepath.IsAbs(filepath.FromSlash(clean)) {
		return "", errLeaves(p)
	}
	return clean, err
}

// listedPath is localPath, but it also returns absolute paths; see tableData.checkAbsolute.
func listedPath(p string) (string, error) {
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
	if local := filepath.FromSlash(clean); filepath.IsAbs(local) {
		return clean, nil
	} else if path.IsAbs(clean) || !filepath.IsLocal(local) {
		return "", errLeaves(p)
	}
	return clean, nil
}

func errLeaves(p string) error {
	return fmt.Errorf("image path %q leaves the folder of the data set: use a relative path to a file inside it", abbreviate(p))
}
