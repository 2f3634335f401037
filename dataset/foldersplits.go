package dataset

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"
)

// folderReading says which folders hold the class folders of each split.
type folderReading struct {
	base *folder // the folder that holds the class folders or the split folders
	// the folders with the class folders of train, val and test; nil: no such split
	splits [3]*folder
	given  bool         // folders with the names of splits were found
	inside bool         // every class folder in base has folders with the names of splits
	unread []unreadNote // folders that are not read
}

// unreadNote is a folder that is not read, and the reason.
type unreadNote struct {
	folder *folder
	reason string
}

// splitPurpose holds the words for the images of each split in messages.
var splitPurpose = [3]string{"training", "validation", "test"}

// splitWord returns the split that a word in the name of a folder stands for. The rule is that of
// the datasets library of Hugging Face (data_files.py): the name holds one of the words of
// splitNames, and the words are separated by digits and by the characters "-", ".", "_" and space.
// Upper and lower case are equal. ok is false if there is no such word, or if there are words of
// two splits.
func splitWord(name string) (split int, ok bool) {
	found := make(map[int]bool)
	for _, w := range nameWords(name) {
		if s, is := splitNames[w]; is {
			split, found[s] = s, true
		}
	}
	return split, len(found) == 1
}

// nameWords returns the words of the name of a folder, in lower case.
func nameWords(name string) []string {
	return strings.FieldsFunc(strings.ToLower(name), func(r rune) bool {
		return strings.ContainsRune("-._ 0123456789", r)
	})
}

// plainWords lists words that say nothing about the images in a folder.
var plainWords = []string{"set", "data", "dataset", "image", "images", "img", "imgs", "photo", "photos", "picture", "pictures", "folder", "split"}

// plainlySplit reports whether the name of a folder is rather the name of a split than of a class:
// the word of the split is the last word, as in "seg_train", or all other words are plain, as in
// "test_images".
func plainlySplit(name string) bool {
	all := nameWords(name)
	isSplit := func(w string) bool { _, ok := splitNames[w]; return ok }
	return isSplit(all[len(all)-1]) || !slices.ContainsFunc(all, func(w string) bool { return !isSplit(w) && !slices.Contains(plainWords, w) })
}

// joinedSplit returns the split of a name without separators, such as "trainset" and "TestImages".
// The datasets library does not read such names as splits.
func joinedSplit(name string) (split int, ok bool) {
	lower := strings.ToLower(name)
	for word, s := range splitNames {
		if rest, found := strings.CutPrefix(lower, word); found {
			if _, both := splitNames[rest]; both || slices.Contains(plainWords, rest) {
				return s, true
			}
		}
	}
	return 0, false
}

// wraps reports whether inner, the only folder with images in outer, is another level of outer and
// no class: it has the same name, the name of the same split, or a plain name.
func wraps(outer, inner *folder) bool {
	if strings.EqualFold(outer.name, inner.name) || slices.Contains(plainWords, strings.ToLower(inner.name)) {
		return true
	}
	a, ok := splitWord(outer.name)
	b, same := splitWord(inner.name)
	return ok && same && a == b
}

// unwrap returns the folder in f that holds the class folders: f itself, or the folder in it as in
// seg_train/seg_train and train/images. classes holds the names of the classes if they are known.
func unwrap(f *folder, classes []*folder) *folder {
	for {
		in := f.filled()
		if len(in) != 1 || !wraps(f, in[0]) || slices.ContainsFunc(classes, func(c *folder) bool { return c.name == in[0].name }) {
			return f
		}
		f = in[0]
	}
}

// splitFolder is a folder whose name holds the word of a split.
type splitFolder struct {
	named   *folder
	holds   *folder // the folder in named that holds the class folders
	split   int
	classes bool // holds has class folders
	plainly bool // see plainlySplit
}

// readFolders finds the split folders and class folders below root. It returns an error for a tree
// that has two readings.
func readFolders(root *folder) (folderReading, error) {
	filled := root.filled()
	if len(filled) == 1 && len(filled[0].filled()) > 0 {
		in := filled[0]
		_, isSplit := splitWord(in.name)
		if wraps(root, in) || !isSplit {
			r, err := readFolders(in)
			if err != nil || r.given || wraps(root, in) {
				r.unread = append(r.unread, unreadSiblings(root, in)...)
				return r, err
			}
		}
	}
	var found []splitFolder
	var others []*folder
	for _, f := range filled {
		s := splitFolder{named: f, holds: unwrap(f, nil)}
		var ok bool
		if s.split, ok = splitWord(f.name); ok {
			s.classes, s.plainly = len(s.holds.filled()) > 0, plainlySplit(f.name)
		}
		if s.classes || s.plainly {
			found = append(found, s)
		} else {
			others = append(others, f)
		}
	}
	return chooseReading(root, found, others)
}

// chooseReading decides whether the folders found, whose names hold the words of splits, are splits
// or classes. others are the other folders with images.
func chooseReading(root *folder, found []splitFolder, others []*folder) (folderReading, error) {
	distinct := make(map[int]bool)
	withClasses, plainly, train, flatTrain := 0, false, false, false
	for _, s := range found {
		distinct[s.split] = true
		plainly = plainly || s.plainly
		if s.classes {
			withClasses++
		}
		train = train || s.classes && s.split == 0
		flatTrain = flatTrain || !s.classes && s.split == 0
	}
	if len(found) == 0 {
		return readClassTree(root)
	}
	first := found[0]
	_, exact := splitNames[strings.ToLower(first.named.name)]
	switch {
	case train && (len(distinct) > 1 || len(others) == 0):
		return readSplitTree(root, found)
	case len(distinct) == 1 && withClasses == len(found) && !plainly && len(others) > 0:
		return readClassTree(root) // test_tube, flask and beaker
	case withClasses == 0 && len(found) == 1 && len(others) > 0 && flatTrain && exact:
		// train, bus and car: images in a training split would have classes
		return readClassTree(root)
	case flatTrain && !train && len(found) > 1 || withClasses == 0 && len(others) == 0:
		f := first.named
		for _, s := range found {
			if s.split == 0 {
				f = s.named
			}
		}
		return folderReading{}, fmt.Errorf("folder %s holds images but no class folders, so the images have no labels: put the images into %s%s",
			f.path, filepath.Join(f.path, "<class>"), tableHint(root.at, root.path))
	case len(others) == 0:
		return folderReading{}, fmt.Errorf("found %s, which holds %s images, and no folder of training images: add a folder train, or give %s to read its class folders",
			first.named.name, splitPurpose[first.split], first.holds.path)
	}
	asSplit := fmt.Sprintf("if %s holds %s images, move %s into a folder train", first.named.name, splitPurpose[first.split], folderNames(others))
	if first.split == 0 {
		asSplit = fmt.Sprintf("if %s holds the training images and %s is not needed, give %s", first.named.name, folderNames(others), first.holds.path)
	}
	return folderReading{}, fmt.Errorf("folder %s is either a split or a class beside %s: %s; if it is a class, rename the folder so that its name has no word such as train, val or test",
		first.named.path, folderNames(others), asSplit)
}

// readSplitTree returns the reading of root as a folder with the split folders found. At least one
// of them holds training images in class folders.
func readSplitTree(root *folder, found []splitFolder) (folderReading, error) {
	r := folderReading{base: root, given: true}
	named := make(map[*folder]bool)
	var chosen [3]*splitFolder
	for split := range r.splits {
		for _, s := range found {
			if s.split != split {
				continue
			}
			named[s.named] = true
			if split > 0 { // a class may have a plain name
				s.holds = unwrap(s.named, r.splits[0].filled())
			}
			switch first := chosen[split]; {
			case len(s.holds.filled()) == 0:
				r.unread = append(r.unread, unreadNote{s.named, "it has no class folders, so its images have no labels"})
			case first != nil:
				return folderReading{}, fmt.Errorf("found both %s and %s: keep one folder of %s images", first.named.name, s.named.name, splitPurpose[split])
			default:
				chosen[split], r.splits[split] = &s, s.holds
			}
		}
	}
	for _, f := range root.folders {
		split, ok := splitWord(f.name)
		switch {
		case named[f]:
		case f.total > 0:
			r.unread = append(r.unread, unreadNote{f, "its name is not the name of a split"})
		case ok && plainlySplit(f.name) && r.splits[split] == nil && !holdsAnnotations(f):
			r.splits[split] = f // the caller reports that it has no images
		default:
			r.unread = append(r.unread, unreadNote{f, "it has no images"})
		}
	}
	return r, nil
}

// readClassTree returns the reading of root as a folder with class folders. The class folders may
// have folders with the names of splits.
func readClassTree(root *folder) (folderReading, error) {
	r := folderReading{base: root, splits: [3]*folder{root}}
	classes := root.filled()
	joined := make(map[int]*folder)
	uses := make(map[string]int) // how many classes have a folder with the name
	inside, both := len(classes) > 1, ""
	for _, c := range classes {
		if s, ok := joinedSplit(c.name); ok {
			joined[s] = c
		}
		var splits [3]bool
		subs := c.filled()
		for _, sub := range subs {
			s, ok := splitWord(sub.name)
			if !ok || !plainlySplit(sub.name) || splits[s] {
				inside = false
				continue
			}
			splits[s] = true
			if uses[sub.name]++; uses[sub.name] > 1 || splits[0] && (splits[1] || splits[2]) {
				both = c.name + "/" + sub.name
			}
		}
		inside = inside && splits[0] && len(c.images) == 0
	}
	switch {
	case inside:
		r.given, r.inside = true, true
	case both != "":
		return folderReading{}, fmt.Errorf("folder %s is either a split of the class or a part of it: if it is a split, give every class folder a folder train and put all its images into train, val and test; if it is a part of the class, rename the folder or move its images into %s",
			both, strings.Split(both, "/")[0])
	case len(joined) > 1:
		var names []*folder
		for _, f := range classes {
			if _, ok := joinedSplit(f.name); ok {
				names = append(names, f)
			}
		}
		return folderReading{}, fmt.Errorf("the folders %s are either splits or classes: if they are splits, rename them to train, val and test; if they are classes, rename them so that they do not begin with such a word", folderNames(names))
	}
	return r, nil
}

// unreadSiblings returns the notes for the subfolders of f except in.
func unreadSiblings(f, in *folder) (out []unreadNote) {
	for _, sub := range f.folders {
		if sub != in {
			out = append(out, unreadNote{sub, "it has no images"})
		}
	}
	return out
}

// annotationWords lists words in the names of folders that hold descriptions of the images.
var annotationWords = []string{"annotation", "annotations", "label", "labels", "metadata", "xml", "json"}

// holdsAnnotations reports whether a folder without images holds descriptions of the images: it has
// files, and its name says so.
func holdsAnnotations(f *folder) bool {
	files := make(map[string]int)
	f.countOthers(files)
	return len(files) > 0 && slices.ContainsFunc(nameWords(f.name), func(w string) bool { return slices.Contains(annotationWords, w) })
}

// splitInside returns the folder of a class that holds its images of a split, or nil if the class
// has none.
func splitInside(class *folder, split int) *folder {
	for _, sub := range class.filled() {
		if s, ok := splitWord(sub.name); ok && s == split {
			return sub
		}
	}
	return nil
}

// emptyFolder returns the error for a class folder without images.
func emptyFolder(where string, f *folder) error {
	other := make(map[string]int)
	f.countOthers(other)
	return fmt.Errorf("class folder %s has no images (looked for %s%s): add images of the class or, if it is no class, move the folder out of the data set",
		where, strings.Join(imageExtensions, " "), foundExtensions(other))
}
