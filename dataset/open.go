package dataset

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
)

// OpenOptions say how Open treats what a folder does not say itself. The zero value is a good default.
type OpenOptions struct {
	// Layout is "vtab", "imagefolder" or "fgvc". "" recognises the layout.
	Layout string

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
}

// A layout is a way to keep an image set in a folder.
var layouts = map[string]func(root string) (given, error){
	"vtab":        readVTAB,
	"imagefolder": readImageFolder,
	"fgvc":        readFGVC,
}

// Open reads the image set in the folder at path. It finds every image file but decodes none: see Dataset.CheckImages for
// broken images and Dataset.Verify for equal images under different names. Its layouts:
//
//   - vtab: lists train800.txt, val200.txt and test.txt of lines "path label", split on the last space, and optionally
//     classes.txt with a name per line. train800val200.txt is read only where train800.txt is absent. Without classes.txt
//     the classes are 0 … the greatest label.
//   - imagefolder: <class>/…/<image>, or the same below train, one of val, valid and validation, and test. Class ids are
//     those of torchvision: the index among the sorted folder names of train. Folders are read recursively, links
//     followed, hidden names ignored.
//   - fgvc: train.json, val.json and test.json, objects {"path": id}. The ids of train.json, sorted, become 0, 1, 2, …
//     Paths begin at images/, Images/ or the folder itself, whichever holds the files.
//
// A split that the folder lacks is taken from the training images, every class in proportion and none left without a
// training image; Dataset.Split says so.
//
// Errors name the file and the line, key or folder. They are: an unknown layout; a malformed line or json; a label that is
// not an integer, negative, or beyond classes.txt; a path that leaves the folder; a missing image; an empty class folder;
// a loop of links; an image that is listed twice or in two splits; a class of val or test that train does not have.
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
	if !info.IsDir() {
		return nil, errors.New("not a folder: give the folder that holds the images and their lists")
	}
	layout := o.Layout
	if layout == "" {
		if layout, err = recognise(root); err != nil {
			return nil, err
		}
	}
	read, ok := layouts[layout]
	if !ok {
		return nil, fmt.Errorf("layout %q is not one of vtab, imagefolder, fgvc", layout)
	}
	g, err := read(root)
	if err != nil {
		return nil, err
	}
	d := &Dataset{
		Name: filepath.Base(root), Root: root, Layout: layout, Classes: g.classes,
		Train: g.train, Val: g.val, Test: g.test, skipBadImages: o.SkipBadImages,
	}
	if err := d.findFiles(); err != nil {
		return nil, err
	}
	if err := d.check(); err != nil {
		return nil, err
	}
	d.splitMissing(g.val == nil, g.test == nil, valFraction, testFraction, o.Seed)
	return d, nil
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
	for _, f := range folders {
		images, err := imagesBelow(filepath.Join(root, f))
		if err != nil {
			return "", err
		}
		if len(images) > 0 {
			return "imagefolder", nil
		}
	}
	return "", errors.New("unknown layout: looked for train800.txt or train800val200.txt (VTAB-1k lists), train.json (FGVC), and " +
		"folders named after classes with images in them, at the top or below train (ImageFolder)")
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
			_, bad[i] = findFile((*s.samples)[i].Path)
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
