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
	"slices"
	"strconv"
	"strings"
)

// OpenOptions say how Open treats what a folder does not say itself. The zero value is a good default.
type OpenOptions struct {
	// Layout is "vtab", "imagefolder", "fgvc", "parquet", "table" or "fewshot". "" recognises the layout.
	Layout string

	// Classes is the number of classes that the data set must have; 0 means as many as it has. Only where it is given may val
	// and test have classes without a training image: VTAB-1k's draws of 1000 images have such, of up to 397 classes.
	Classes int

	// ImageColumn and LabelColumn name columns of parquet files and tables. "" finds them, as Open says.
	ImageColumn, LabelColumn string

	// ValFraction and TestFraction are the shares of the training images that become the validation and the test split
	// where the folder has none. 0 means 0.1; a negative number means that a missing split stays empty. Together they must
	// stay below 1.
	ValFraction, TestFraction float64

	// Seed chooses which images those are. The choice depends on Seed and on the paths below the root, nothing else.
	Seed uint64

	// SkipBadImages leaves missing images (at Open) and broken ones (in CheckImages) out, listing them in Dataset.Skipped,
	// where they would be an error otherwise.
	SkipBadImages bool
}

// given are the splits that a folder brings along; nil is a split it does not have.
type given struct {
	classes          []string
	train, val, test []Sample
	madeUp           bool   // the classes are 0 … the greatest label, so there may be more of them
	name             string // "": that of the folder or the file
	note             string // added to Dataset.Split

	ignored map[string]int // this and stray are Dataset's
	stray   int
}

// source is what a layout reads: a folder, or one file in it.
type source struct {
	OpenOptions
	root string
	file string // "" for the whole folder
}

// A layout is a way to keep an image set in a folder.
type layout struct {
	name  string
	read  func(source) (given, error)
	files []string // patterns, in lower case, of files that are opened by themselves
}

// Layouts lists the names of the layouts that Open reads.
func Layouts() []string {
	var names []string
	for _, l := range layouts {
		names = append(names, l.name)
	}
	return names
}

var layouts = []layout{
	{"vtab", func(s source) (given, error) { return readVTAB(s.root) }, nil},
	{"imagefolder", func(s source) (given, error) { return readImageFolder(s.root) }, nil},
	{"fgvc", func(s source) (given, error) { return readFGVC(s.root) }, nil},
	{"parquet", readParquet, []string{"*.parquet"}},
	{"table", readTables, []string{"*.csv", "*.tsv", "*.jsonl"}},
	{"fewshot", readFewShot, []string{fewShotLists}},
}

// Open reads the image set in the folder at path, or in one parquet file, table or few-shot list. It finds every image but decodes none:
// see Dataset.CheckImages for broken images and Dataset.Verify for equal images under different names. Its layouts:
//
//   - vtab: lists train800.txt, val200.txt and test.txt of lines "path label", split on the last space, and optionally
//     classes.txt with a name per line. train800val200.txt is read only where train800.txt is absent. Without classes.txt
//     the classes are 0 … the greatest label.
//   - imagefolder: <class>/…/<image>, or the same below train, one of val, valid and validation, and test. Class ids are
//     those of torchvision: the index among the sorted folder names of train. Folders are read recursively, links
//     followed, hidden names ignored.
//   - fgvc: train.json, val.json and test.json, objects {"path": id}. The ids of train.json, sorted, become 0, 1, 2, …
//     Paths begin at images/, Images/ or the folder itself, whichever holds the files.
//   - parquet: the Hugging Face hub's files, in data or at the top, named after their split (train-00000-of-00001.parquet;
//     val, valid and validation are one), or in folders train, validation and test; files of other splits are not read. The
//     column of images is a struct {bytes, path}, or bytes: the only such struct, else the first of image, img and the names
//     of tables. That of labels is the first of label, labels, fine_label, class and target, integers or strings. Class
//     names come from the metadata that the datasets library writes, or README.md; else the classes are the training labels,
//     sorted. Images are read row by row when they are needed; compressions: snappy, zstd, gzip, brotli, lz4.
//   - table: metadata.csv, metadata.tsv or metadata.jsonl in the folder or in train, validation and test; or train.csv,
//     val.csv and test.csv, also as .tsv and .jsonl; or one such file. CSV and TSV have a heading; semicolons divide a CSV whose
//     heading has no comma. Columns are one of image, img, path, file, file_name, filename, filepath, image_path; one of label,
//     labels, fine_label, class, target; and if one file lists all, split. Without the last, paths that all begin with train,
//     validation or test say the split. Paths are relative to the table. Labels are names or integers: names and indices of
//     classes.txt where there is one, else the classes are the training labels, sorted.
//   - fewshot: one of NOAH's draws, annotations/train_meta.list.num_shot_16.seed_0, with val_meta.list and test_meta.list, in
//     lines as vtab's. Paths begin at images/, Images/ or the folder above annotations.
//
// A split that the folder lacks is taken from the training images, every class in proportion and none left without a
// training image; Dataset.Split says so.
//
// Errors name the file and the line, key, row or folder. They are: an unknown layout; a malformed line or json; a label that is
// not an integer, negative, or beyond classes.txt; a path that leaves the folder; a missing image; an empty class folder;
// a loop of links; a list in UTF-16; a class name that is not UTF-8; an image that is listed twice or in two splits; a class of
// val or test that train does not have; and another number of classes than was asked for.
func Open(path string, o OpenOptions) (*Dataset, error) {
	root, err := filepath.Abs(path)
	if err != nil {
		return nil, fmt.Errorf("opening data set %s: %w", path, err)
	}
	d, err := open(root, o)
	if err != nil {
		return nil, fmt.Errorf("opening data set %s: %w", path, err)
	}
	return d, nil
}

func open(root string, o OpenOptions) (*Dataset, error) {
	valFraction, testFraction, err := o.fractions()
	if err != nil {
		return nil, err
	}
	info, err := os.Stat(root)
	if err != nil {
		return nil, err
	}
	src, name := source{OpenOptions: o, root: root}, filepath.Base(root)
	if !info.IsDir() {
		src.root, src.file = filepath.Split(root)
		src.file, name = root, strings.TrimSuffix(src.file, filepath.Ext(src.file))
	}
	l, err := chooseLayout(src)
	if err != nil {
		return nil, err
	}
	g, err := l.read(src)
	if err != nil && l.name == "table" && o.Layout == "" && src.file == "" {
		// Other programs keep other things in files of these names.
		err = fmt.Errorf("%w (it is taken for a table of images; the layout imagefolder, if asked for, reads folders of classes beside it)", err)
	}
	if err != nil {
		return nil, err
	}
	if (o.ImageColumn != "" || o.LabelColumn != "") && l.name != "parquet" && l.name != "table" {
		return nil, fmt.Errorf("the layout %s has no columns to name: leave the names of the image and the label column out", l.name)
	}
	if o.Classes > 0 {
		for g.madeUp && len(g.classes) < o.Classes {
			g.classes = append(g.classes, strconv.Itoa(len(g.classes)))
		}
		if len(g.classes) != o.Classes {
			return nil, fmt.Errorf("it has %d classes, expected %d", len(g.classes), o.Classes)
		}
	}
	d := &Dataset{
		Name: cmp.Or(g.name, name), Root: root, Layout: l.name, Classes: g.classes,
		Train: g.train, Val: g.val, Test: g.test, Ignored: g.ignored, Stray: g.stray, skipBadImages: o.SkipBadImages, classesKnown: o.Classes > 0,
	}
	if err := d.findFiles(); err != nil {
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

// readText reads a list, without the byte-order mark that some programs put in front. With that of UTF-16 it is refused.
func readText(path string) ([]byte, error) {
	text, err := os.ReadFile(path)
	if bytes.HasPrefix(text, []byte("\xff\xfe")) || bytes.HasPrefix(text, []byte("\xfe\xff")) {
		return nil, fmt.Errorf("%s is in UTF-16: save it as UTF-8", path)
	}
	return bytes.TrimPrefix(text, []byte("\xef\xbb\xbf")), err
}

// CheckLayout says what is wrong with the name of a layout, if anything; "" is none.
func CheckLayout(name string) error {
	if name != "" && !slices.Contains(Layouts(), name) {
		return fmt.Errorf("layout %q is not one of %s", name, strings.Join(Layouts(), ", "))
	}
	return nil
}

// chooseLayout is the layout that was asked for, or that is recognised.
func chooseLayout(src source) (l layout, err error) {
	name := src.Layout
	if name == "" && src.file == "" {
		if name, err = recognise(src.root); err != nil {
			return l, err
		}
	}
	for _, l := range layouts {
		named := func(pattern string) bool {
			ok, err := filepath.Match(pattern, strings.ToLower(filepath.Base(src.file)))
			return ok && err == nil
		}
		if src.file != "" && !slices.ContainsFunc(l.files, named) {
			continue
		}
		if l.name == name || name == "" {
			return l, nil
		}
	}
	if err := CheckLayout(name); err != nil {
		return l, err
	}
	if name != "" {
		return l, fmt.Errorf("not a folder, as the layout %s needs", name)
	}
	return l, fmt.Errorf("not a folder: give the folder that holds the images and their lists, a table (.csv, .tsv, .jsonl), a .parquet file, or a few-shot list (%s)", fewShotLists)
}

// recognise tells the layout of a folder.
func recognise(root string) (string, error) {
	vtab, err := anyExists(root, "train800.txt", "train800val200.txt")
	if err != nil {
		return "", err
	}
	fgvc, err := anyExists(root, "train.json")
	if err != nil {
		return "", err
	}
	switch {
	case vtab && fgvc:
		return "", errors.New("found both VTAB lists (*.txt) and FGVC lists (train.json): say which with the layout option, vtab or fgvc")
	case vtab:
		return "vtab", nil
	case fgvc:
		return "fgvc", nil
	}
	if draws, err := filepath.Glob(filepath.Join(globEscape(root), "annotations", fewShotLists)); err != nil || draws != nil {
		return "fewshot", err
	}
	shards, _, err := parquetFiles(root)
	if err != nil {
		return "", err
	}
	if shards[0] != nil {
		return "parquet", nil
	}
	tables, err := findTables(root)
	if err != nil {
		return "", err
	}
	if tables != nil {
		return "table", nil
	}
	folders, err := subfolders(root)
	if err != nil {
		return "", err
	}
	for _, f := range folders {
		nested, err := anyExists(filepath.Join(root, f), "train800.txt", "train800val200.txt", "train.json")
		if err != nil {
			return "", err
		}
		if nested {
			return "", fmt.Errorf("this is a folder of data sets: open one of them, for instance %s", filepath.Join(root, f))
		}
	}
	other := map[string]int{}
	for _, f := range folders {
		images, err := imagesBelow(filepath.Join(root, f), other)
		if err != nil {
			return "", err
		}
		if len(images) > 0 {
			return "imagefolder", nil
		}
	}
	return "", errors.New("unknown layout: looked for train800.txt or train800val200.txt (VTAB-1k lists), train.json (FGVC), " +
		"*.parquet in the folder or in data, tables such as metadata.jsonl or train.csv, and " +
		"folders named after classes with images in them, at the top or below train (ImageFolder)" + foundExtensions(other) + tableHint(root))
}

func anyExists(folder string, names ...string) (bool, error) {
	for _, name := range names {
		_, err := os.Stat(filepath.Join(folder, name))
		if err == nil {
			return true, nil
		}
		if !errors.Is(err, fs.ErrNotExist) {
			return false, err
		}
	}
	return false, nil
}

// findFiles makes sure that every sample's file is there. It stats and does not open them.
func (d *Dataset) findFiles() error {
	var missing []SkippedImage
	for _, s := range d.splits() {
		bad := make([]error, len(*s.samples))
		_ = parallel(context.Background(), len(bad), 0, func(i int) {
			if sample := (*s.samples)[i]; sample.stored == nil {
				_, bad[i] = findFile(sample.Path)
			}
		})
		missing = append(missing, d.remove(s, bad)...)
	}
	if len(missing) == 0 {
		return nil
	}
	if d.skipBadImages {
		d.Skipped = append(d.Skipped, missing...)
		return nil
	}
	return fmt.Errorf("%d of the listed images cannot be used (opening with bad images skipped would leave them out): %w", len(missing), joinSkipped(missing))
}

// remove takes the samples with an error out of a split, and returns them.
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

// joinSkipped is one error for many images; it spells out the first ten.
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

// localPath cleans a path from a list. It must stay inside the data set: a list may come from anywhere.
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
