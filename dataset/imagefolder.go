package dataset

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// readImageFolder reads class folders, at the top or below train, val and test.
func readImageFolder(root string) (g given, err error) {
	folders, err := subfolders(root)
	if err != nil {
		return given{}, err
	}
	// A class may be called "train" (CIFAR-100 has one). As a split, train holds folders; as a class, images.
	train, err := splitFolder(folders, 0)
	if err != nil {
		return given{}, err
	}
	if train != "" {
		inner, err := subfolders(filepath.Join(root, train))
		if err != nil {
			return given{}, err
		}
		if len(inner) > 0 {
			return readSplitFolders(root, folders, train)
		}
		named := slices.DeleteFunc(slices.Clone(folders), func(f string) bool { _, split := folderSplit(f); return !split })
		if len(named) > 1 || len(named) == len(folders) { // one among others may be a class
			return given{}, fmt.Errorf("folder %s holds images and no class folders, so nothing says what they show: images belong into %s%s",
				filepath.Join(root, train), filepath.Join(root, train, "<class>"), tableHint(root))
		}
	}
	if g.train, err = g.readClassFolders(root, "."); err == nil && len(g.classes) == 1 {
		err = fmt.Errorf("%w; if this folder holds those of the classes, give %s%s", oneClass(g.classes[0]), filepath.Join(root, g.classes[0]), tableHint(root))
	}
	return g, err
}

// tableHint says how to open a table that lies in a folder under a name that findTables does not know; "" if there is none.
func tableHint(root string) string {
	entries, _ := os.ReadDir(root) // there was an error before this one
	for _, e := range entries {
		if ext := strings.ToLower(filepath.Ext(e.Name())); !e.IsDir() && slices.Contains(tableFormats, ext) {
			return fmt.Sprintf("; if the table %s lists the images, give %s", e.Name(), filepath.Join(root, e.Name()))
		}
	}
	return ""
}

// folderSplit tells the split whose folder has such a name, in any case: one of splitNames, training or testing.
func folderSplit(folder string) (split int, ok bool) {
	name := strings.ToLower(folder)
	if name == "training" || name == "testing" {
		name = strings.TrimSuffix(name, "ing")
	}
	split, ok = splitNames[name]
	return split, ok
}

// splitFolder is the folder of a split, empty if there is none.
func splitFolder(folders []string, split int) (found string, err error) {
	for _, f := range folders {
		if s, ok := folderSplit(f); !ok || s != split {
			continue
		}
		if found != "" {
			return "", fmt.Errorf("found both %s and %s: keep one folder of %s images", found, f, [3]string{"training", "validation", "test"}[split])
		}
		found = f
	}
	return found, nil
}

func readSplitFolders(root string, folders []string, train string) (g given, err error) {
	if g.train, err = g.readClassFolders(root, train); err == nil {
		err = g.countStray(root, folders)
	}
	if err != nil {
		return given{}, err
	}
	for i, samples := range []*[]Sample{&g.val, &g.test} {
		folder, err := splitFolder(folders, i+1)
		if err == nil && folder != "" {
			*samples, err = g.readClassFolders(root, folder)
		}
		if err != nil {
			return given{}, err
		}
	}
	return g, nil
}

// TakesForClass reports whether a folder, or one that is made in it, would be read as a
// class, or as a part of one, when the data set is opened anew. The folder need not be
// there yet. It is true in an ImageFolder only.
func (d *Dataset) TakesForClass(folder string) bool {
	if d.Layout != "imagefolder" || len(d.Train) == 0 {
		return false
	}
	rel, err := filepath.Rel(realPath(d.Root), realPath(folder))
	if err != nil || !filepath.IsLocal(rel) {
		return false
	}
	top, _, _ := strings.Cut(filepath.ToSlash(rel), "/")
	if strings.Contains(d.Train[0].Where, "/") { // "train/dress"
		_, ok := folderSplit(top)
		return ok
	}
	return top == "." || !strings.HasPrefix(top, ".")
}

// realPath is an absolute path without links, as far as it is there.
func realPath(path string) string {
	abs, err := filepath.Abs(path)
	if err != nil {
		return path
	}
	if real, err := filepath.EvalSymlinks(abs); err == nil {
		return real
	}
	parent := filepath.Dir(abs)
	if parent == abs {
		return abs
	}
	return filepath.Join(realPath(parent), filepath.Base(abs))
}

// readClassFolders reads the class folders in root/splitFolder. The first that are read, the training split's, make g.classes.
func (g *given) readClassFolders(root, splitFolder string) ([]Sample, error) {
	folder := filepath.Join(root, splitFolder)
	folders, err := subfolders(folder)
	if err != nil {
		return nil, err
	}
	if len(folders) == 0 {
		return nil, fmt.Errorf("folder %s has no class folders: images belong into %s%s", folder, filepath.Join(folder, "<class>"), g.trainHint(root))
	}
	if err := g.countStray(folder, folders); err != nil {
		return nil, err
	}
	if g.classes == nil {
		g.classes, g.ignored = folders, make(map[string]int)
	}
	var samples []Sample
	for _, class := range folders {
		where := filepath.ToSlash(filepath.Join(splitFolder, class))
		if err := checkClassName(fmt.Sprintf("folder %q", where), class, "rename the folder"); err != nil {
			return nil, err
		}
		label, ok := slices.BinarySearch(g.classes, class)
		if !ok {
			return nil, fmt.Errorf("folder %s: the training split has no class %q%s", where, class, g.trainHint(root))
		}
		images, err := imagesBelow(filepath.Join(folder, class), g.ignored)
		if err != nil {
			return nil, err
		}
		if len(images) == 0 {
			other := map[string]int{}
			if _, err := imagesBelow(filepath.Join(folder, class), other); err != nil {
				return nil, err
			}
			return nil, fmt.Errorf("class folder %s has no images (looked for %s%s): delete it or fill it", where, strings.Join(imageExtensions, " "), foundExtensions(other))
		}
		for _, p := range images {
			samples = append(samples, Sample{Path: p, Target: Class(label), Where: where})
		}
	}
	return samples, nil
}

// trainHint says how to do without test images that have no labels, as Kaggle's; "" before the training images are known.
func (g *given) trainHint(root string) string {
	if len(g.train) == 0 {
		return ""
	}
	return fmt.Sprintf("; or give %s, from which the other splits are then taken", filepath.Join(root, filepath.Dir(g.train[0].Where)))
}

// foundExtensions says which files there are instead of images; "" if there are none.
func foundExtensions(ignored map[string]int) string {
	if len(ignored) == 0 {
		return ""
	}
	return ", found " + strings.TrimSpace(strings.Join(slices.Sorted(maps.Keys(ignored)), " "))
}

// countStray counts the images that lie in a folder beside its folders.
func (g *given) countStray(folder string, folders []string) error {
	entries, err := os.ReadDir(folder)
	for _, e := range entries {
		if IsImageName(e.Name()) && !slices.Contains(folders, e.Name()) {
			g.stray++
		}
	}
	return err
}

// imagesBelow returns the image files in a folder and its subfolders in torchvision's order: folders sorted by path, files
// sorted by name. Links are followed. ignored, if not nil, gets the number of other files by extension.
func imagesBelow(folder string, ignored map[string]int) ([]string, error) {
	files := make(map[string][]string)
	if err := collectImages(folder, nil, files, ignored); err != nil {
		return nil, err
	}
	var all []string
	for _, sub := range slices.Sorted(maps.Keys(files)) {
		all = append(all, files[sub]...)
	}
	return all, nil
}

// collectImages adds the image files of every folder below, sorted by name. ancestors are the real paths of the folders
// that lead here: meeting one of them again is a loop.
func collectImages(folder string, ancestors []string, files map[string][]string, ignored map[string]int) error {
	real, err := filepath.EvalSymlinks(folder)
	if err != nil {
		return fmt.Errorf("following %s: %w", folder, err)
	}
	if slices.Contains(ancestors, real) {
		return fmt.Errorf("folder %s is a link that leads back to %s: remove it", folder, real)
	}
	ancestors = append(ancestors, real)
	entries, err := os.ReadDir(folder)
	if err != nil {
		return err
	}
	for _, e := range entries {
		name, full := e.Name(), filepath.Join(folder, e.Name())
		if strings.HasPrefix(name, ".") {
			continue
		}
		isFolder, err := leadsToFolder(folder, e)
		if err != nil {
			return err
		}
		if isFolder {
			if err := collectImages(full, ancestors, files, ignored); err != nil {
				return err
			}
		} else if IsImageName(name) {
			files[folder] = append(files[folder], full)
		} else if lower := strings.ToLower(name); ignored != nil && lower != "thumbs.db" && lower != "desktop.ini" {
			ignored[filepath.Ext(lower)]++
		}
	}
	return nil
}

// subfolders returns the names of the folders, or links to folders, in a folder, without hidden ones. They are sorted by
// bytes, as Python's sorted does.
func subfolders(folder string) ([]string, error) {
	entries, err := os.ReadDir(folder)
	if err != nil {
		return nil, err
	}
	var names []string
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), ".") {
			continue
		}
		isFolder, err := leadsToFolder(folder, e)
		if err != nil {
			return nil, err
		}
		if isFolder {
			names = append(names, e.Name())
		}
	}
	return names, nil
}

// leadsToFolder reports whether an entry is a folder or a link to one. A link to nothing is not.
func leadsToFolder(folder string, e fs.DirEntry) (bool, error) {
	if e.Type()&fs.ModeSymlink == 0 {
		return e.IsDir(), nil
	}
	full := filepath.Join(folder, e.Name())
	info, err := os.Stat(full)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("following the link %s: %w", full, err)
	}
	return info.IsDir(), nil
}
