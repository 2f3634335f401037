package dataset

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// layout describes one way in which an image set is kept on disk.
type layout struct {
	// name is the value of OpenOptions.Layout and Dataset.Layout.
	name string

	// description says in one line what the layout is. Help texts and docs/layouts.md show it.
	description string

	// markers are names of files that no other layout has. A folder with one of these files has
	// this layout; a folder with markers of two layouts is an error.
	markers []string

	// signs names, in words, what recognise looks for. It is "" without recognise.
	signs string

	// recognise reports whether a folder without markers has this layout. nil means never. The
	// layouts are asked in the order of the table.
	recognise func(ctx context.Context, folder string) (bool, error)

	// files are patterns, in lower case, of the names of single files that the layout opens. nil
	// means that it opens folders only.
	files []string

	// read returns the classes and the samples. It honours ctx where it reads many files.
	read func(ctx context.Context, src source) (given, error)

	// columns is true if OpenOptions.ImageColumn and LabelColumn apply.
	columns bool

	// mixed becomes Dataset.Mixed.
	mixed bool

	// classFolders is true if every folder is a class, so that a new folder in the data set becomes
	// a class when the set is opened again. Dataset.TakesForClass needs it.
	classFolders bool
}

// layouts returns the table of layouts, in the order in which they are recognised. To add a layout:
//
//  1. Write its read function in a file of its own. The function returns a given: the class names
//     and a list of samples for each split, nil for a split that the data set does not have. A
//     sample has a Target and either a Path or, if its image lies inside another file, a Path that
//     identifies it and a stored.
//  2. Add its row here.
//  3. Test it in a file of its own.
//  4. Describe it in docs/layouts.md.
//
// Help, error messages, recognition, and the check of columns follow from the row.
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
			description: "NOAH's few-shot draws: one list annotations/train_meta.list.num_shot_K.seed_S",
			signs:       "annotations/" + fewShotLists,
			recognise:   recogniseFewShot,
			files:       []string{fewShotLists},
			read:        readFewShot,
		},
		{
			name:        "parquet",
			description: "Hugging Face image sets: parquet files that hold images and labels",
			signs:       "*.parquet in the folder or in data",
			recognise:   recogniseParquet,
			files:       []string{"*.parquet"},
			read:        readParquet,
			columns:     true,
		},
		{
			name:        "table",
			description: "tables of image paths and labels: metadata or train, val and test as .csv, .tsv or .jsonl",
			signs:       "tables such as metadata.jsonl or train.csv",
			recognise:   recogniseTables,
			files:       []string{"*.csv", "*.tsv", "*.jsonl"},
			read:        readTables,
			columns:     true,
		},
		{ // Last: any folder of images looks like it.
			name:         "imagefolder",
			description:  "torchvision's ImageFolder: a folder for each class, at the top or below train, val and test",
			signs:        "folders named after classes with images in them, at the top or below train",
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

// DescribeLayouts returns a line for each layout that [Open] reads: its name and what it is.
func DescribeLayouts() string {
	var b strings.Builder
	for _, l := range layouts() {
		fmt.Fprintf(&b, "%-12s %s\n", l.name, l.description)
	}
	return b.String()
}

// CheckLayout returns an error if name is not the name of a layout. "", which recognises the
// layout, is allowed.
func CheckLayout(name string) error {
	if name != "" && !slices.Contains(Layouts(), name) {
		return fmt.Errorf("layout %q is not one of %s", name, strings.Join(Layouts(), ", "))
	}
	return nil
}

// lookedFor names what the layout is recognised by. It returns "" for a layout that opens single
// files only.
func (l layout) lookedFor() string {
	if l.signs != "" {
		return l.signs
	}
	return strings.Join(l.markers, " or ")
}

// opensFile reports whether the layout opens a single file of that name.
func (l layout) opensFile(name string) bool {
	return slices.ContainsFunc(l.files, func(pattern string) bool {
		ok, err := filepath.Match(pattern, strings.ToLower(name))
		return ok && err == nil
	})
}

// chooseLayout returns the layout that the options name, or the one that the folder or file has.
func chooseLayout(ctx context.Context, src source) (layout, error) {
	if err := CheckLayout(src.Layout); err != nil {
		return layout{}, err
	}
	if src.file == "" && src.Layout == "" {
		return recogniseLayout(ctx, src.root)
	}
	for _, l := range layouts() {
		if (src.Layout == "" || src.Layout == l.name) && (src.file == "" || l.opensFile(filepath.Base(src.file))) {
			return l, nil
		}
	}
	if src.Layout != "" {
		return layout{}, fmt.Errorf("not a folder, as the layout %s needs", src.Layout)
	}
	var files []string
	for _, l := range layouts() {
		files = append(files, l.files...)
	}
	return layout{}, fmt.Errorf("not a folder: give the folder that holds the images and their lists, or a file of one of the forms %s", strings.Join(files, ", "))
}

// recogniseLayout returns the layout of a folder.
func recogniseLayout(ctx context.Context, root string) (layout, error) {
	var marked []layout
	var found []string
	for _, l := range layouts() {
		ok, err := anyExists(root, l.markers...)
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
		return layout{}, fmt.Errorf("the folder has the lists of several layouts: %s; name one with the option layout", strings.Join(found, ", "))
	}
	var looked []string
	for _, l := range layouts() {
		if l.recognise != nil {
			if ok, err := l.recognise(ctx, root); err != nil || ok {
				return l, err
			}
		}
		if signs := l.lookedFor(); signs != "" {
			looked = append(looked, fmt.Sprintf("%s (%s)", signs, l.name))
		}
	}
	other, err := otherFiles(ctx, root)
	if err != nil {
		return layout{}, err
	}
	return layout{}, errors.New("unknown layout: looked for " + strings.Join(looked, "; ") + foundExtensions(other) + tableHint(root))
}

// refuseFolderOfSets returns an error if one of the folders in root is a data set by its markers:
// the user then gave the folder above.
func refuseFolderOfSets(root string, folders []string) error {
	for _, folder := range folders {
		for _, l := range layouts() {
			nested, err := anyExists(filepath.Join(root, folder), l.markers...)
			if err != nil {
				return err
			}
			if nested {
				return fmt.Errorf("this is a folder of data sets: open one of them, for instance %s", filepath.Join(root, folder))
			}
		}
	}
	return nil
}

// anyExists reports whether a folder has a file of one of the names.
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
