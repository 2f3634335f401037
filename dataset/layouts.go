package dataset

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"

	"github.com/sptune/spt/internal/option"
)

// layout describes one way to store a data set on disk.
type layout struct {
	// name is the value of OpenOptions.Layout and Dataset.Layout.
	name string

	// description describes the layout in one line. Help texts and docs/layouts.md show it.
	description string

	// markers holds names of files that no other layout has. A folder with one of these files has
	// this layout. A folder with markers of two layouts is an error.
	markers []string

	// signs describes the files that recognise looks for. Error messages show it. It is "" if
	// recognise is nil.
	signs string

	// recognise reports whether a folder without markers has this layout. Open calls the functions
	// in the order of the table. Nil means that only markers identify the layout.
	recognise func(ctx context.Context, src source) (bool, error)

	// files holds patterns, in lower case, for the names of single files that the layout opens. Nil
	// means that the layout opens folders only.
	files []string

	// read returns the classes and the samples. It checks ctx if it reads many files.
	read func(ctx context.Context, src source) (contents, error)

	// columns reports whether OpenOptions.ImageColumn, LabelColumn and LabelDelimiter apply.
	columns bool

	// paths reports whether OpenOptions.ImageRoot, ImageSuffix and LabelColumns apply.
	paths bool

	// unnamed reports whether images have no names, so that OpenOptions.GroupPattern does not
	// apply.
	unnamed bool

	// mixed is the value of Dataset.Mixed.
	mixed bool

	// classFolders reports whether every folder is a class. A new folder in the data set then
	// becomes a class the next time the data set is opened. Dataset.TakesForClass reads it.
	classFolders bool
}

// The names of layouts that are chosen without recognition.
const (
	// LayoutParquet is the layout of images that are rows of parquet files and have no names.
	LayoutParquet    = "parquet"
	layoutWebDataset = "webdataset"
)

// layouts returns the table of layouts, in the order in which they are recognised. To add a layout:
//  1. Write the read function in a new file. It returns the class names and a list of samples for
//     each split. The list is nil for a split that the data set does not have. A sample has a
//     Target and a Path. If the image lies inside another file, set Sample.stored too. Read lists
//     through src.at, so that the layout works in archives.
//  2. Add a row to the table below.
//  3. Test the layout in a new file.
//  4. Describe the layout in docs/layouts.md.
//
// Help texts, error messages, recognition and the check of columns are derived from the row.
func layouts() []layout {
	return []layout{
		{
			name:        "vtab",
			description: `VTAB-1k lists: train800.txt, val200.txt and test.txt with lines "path label"`,
			markers:     []string{"train800.txt", "train800val200.txt"},
			read:        readVTAB,
			mixed:       true,
		},
		{
			name:        "fgvc",
			description: `FGVC lists: train.json, val.json and test.json with objects {"path": class id}`,
			markers:     []string{"train.json"},
			read:        readFGVC,
		},
		{
			name:        "fewshot",
			description: "Few-shot lists, as NOAH publishes them: annotations/train_meta.list.num_shot_K.seed_S",
			signs:       "annotations/" + fewShotLists,
			recognise:   recogniseFewShot,
			files:       []string{fewShotLists},
			read:        readFewShot,
		},
		{
			name:        LayoutParquet,
			description: "Hugging Face data sets: parquet files that hold images and labels",
			signs:       "*.parquet in the folder or in data",
			recognise:   recogniseParquet,
			files:       []string{"*.parquet"},
			read:        readParquet,
			columns:     true,
			unnamed:     true,
		},
		{
			name:        "table",
			description: "Tables of image paths and labels: metadata, or train, val and test, as .csv, .tsv or .jsonl",
			signs:       "tables such as metadata.jsonl or train.csv",
			recognise:   recogniseTables,
			files:       []string{"*.csv", "*.tsv", "*.jsonl", metadataTable},
			read:        readTables,
			columns:     true,
			paths:       true,
		},
		{
			name:        layoutWebDataset,
			description: "WebDataset shards: .tar files that hold each image and its label under one name",
			signs:       "*" + shardName + " with labels beside the images",
			recognise:   recogniseWebDataset,
			read:        readWebDataset,
			columns:     true,
		},
		{ // The last row, because any folder of images may have this layout.
			name:         "imagefolder",
			description:  "Class folders, as in torchvision's ImageFolder: at the top or in train, val and test",
			signs:        "class folders with images, at the top or in train",
			recognise:    recogniseImageFolder,
			read:         readImageFolder,
			classFolders: true,
		},
	}
}

// Layouts returns the names of the layouts that [Open] reads.
func Layouts() []string {
	var names []string
	for _, l := range layouts() {
		names = append(names, l.name)
	}
	return names
}

// DescribeLayouts returns a text with one line for each layout that [Open] reads: the name and a
// description.
func DescribeLayouts() string {
	var b strings.Builder
	for _, l := range layouts() {
		fmt.Fprintf(&b, "%-12s %s\n", l.name, l.description)
	}
	return b.String()
}

// CheckLayout returns an error if name is neither the name of a layout nor "". With "", [Open]
// recognises the layout.
func CheckLayout(name string) error {
	if name != "" && !slices.Contains(Layouts(), name) {
		return option.Unknown("layout", "layout", name, Layouts())
	}
	return nil
}

// lookedFor returns the signs of the layout or, without signs, its markers. It returns "" for a
// layout that opens single files only.
func (l layout) lookedFor() string {
	if l.signs != "" {
		return l.signs
	}
	return strings.Join(l.markers, " or ")
}

// opensFile reports whether the layout opens a single file with the given name.
func (l layout) opensFile(name string) bool {
	return slices.ContainsFunc(l.files, func(pattern string) bool {
		ok, err := filepath.Match(pattern, strings.ToLower(name))
		return ok && err == nil
	})
}

// chooseLayout returns the layout that the options name. If they name none, it recognises the
// layout of the folder or file.
func chooseLayout(ctx context.Context, src source) (layout, error) {
	if err := CheckLayout(src.Layout); err != nil {
		return layout{}, err
	}
	if src.given != nil && src.Layout == "" {
		src.Layout = layoutWebDataset
	}
	if src.given != nil && src.Layout != layoutWebDataset {
		return layout{}, fmt.Errorf("a pattern of archives has the layout %s, and not %s: leave the layout out, or give one archive", layoutWebDataset, src.Layout)
	}
	if src.file == "" && src.Layout == "" {
		return recogniseLayout(ctx, src)
	}
	// A layout that opens a file of exactly this name comes before a layout with a pattern.
	for _, exact := range []bool{true, false} {
		for _, l := range layouts() {
			opens := src.file == "" || l.opensFile(filepath.Base(src.file))
			if exact {
				opens = slices.Contains(l.files, filepath.Base(src.file))
			}
			if (src.Layout == "" || src.Layout == l.name) && opens {
				return l, nil
			}
		}
	}
	if src.Layout != "" {
		return layout{}, fmt.Errorf("the layout %s cannot open a file with this name: give the folder of the data set, or another layout", src.Layout)
	}
	var files []string
	for _, l := range layouts() {
		files = append(files, l.files...)
	}
	return layout{}, fmt.Errorf("it is not a folder: give the folder that holds the images and their lists, or a file with a name such as %s", strings.Join(append(files, archiveNames...), ", "))
}

// recogniseLayout returns the layout of a folder: the layout whose marker the folder holds, or else
// the first layout whose recognise function accepts the folder.
func recogniseLayout(ctx context.Context, src source) (layout, error) {
	var marked []layout
	var found []string
	for _, l := range layouts() {
		ok, err := anyExists(src.at, src.root, l.markers...)
		if err != nil {
			return layout{}, err
		}
		if ok {
			marked = append(marked, l)
			found = append(found, fmt.Sprintf("%s (layout %s)", l.lookedFor(), l.name))
		}
	}
	switch len(marked) {
	case 0:
	case 1:
		return marked[0], nil
	default:
		return layout{}, fmt.Errorf("the folder has the lists of several layouts: %s; choose one with the option layout", strings.Join(found, ", "))
	}
	var looked []string
	for _, l := range layouts() {
		if l.recognise != nil {
			if ok, err := l.recognise(ctx, src); err != nil || ok {
				return l, err
			}
		}
		if signs := l.lookedFor(); signs != "" {
			looked = append(looked, fmt.Sprintf("%s (%s)", signs, l.name))
		}
	}
	other, err := otherFiles(ctx, src)
	if err != nil {
		return layout{}, err
	}
	return layout{}, errors.New("unknown layout: looked for " + strings.Join(looked, "; ") + foundExtensions(other) + archiveHint(src) + tableHint(src.at, src.root))
}

// refuseFolderOfSets returns an error if a subfolder of root holds the marker of a layout. root is
// then the parent folder of data sets.
func refuseFolderOfSets(ctx context.Context, at files, root string, folders []string) error {
	var markers []string
	for _, l := range layouts() {
		markers = append(markers, l.markers...)
	}
	errs := make([]error, len(folders))
	err := parallel(ctx, len(folders), scanWorkers, func(i int) {
		nested, err := anyExists(at, filepath.Join(root, folders[i]), markers...)
		if err == nil && nested {
			err = fmt.Errorf("it is a folder of data sets: open one of them, such as %s", filepath.Join(root, folders[i]))
		}
		errs[i] = err
	})
	return cmp.Or(append(errs, err)...)
}

// anyExists reports whether a folder has a file with one of the names.
func anyExists(at files, folder string, names ...string) (bool, error) {
	for _, name := range names {
		_, err := at.stat(filepath.Join(folder, name))
		if err == nil {
			return true, nil
		}
		if !errors.Is(err, fs.ErrNotExist) {
			return false, err
		}
	}
	return false, nil
}
