package dataset

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// recogniseImageFolder reports whether a folder in root holds images.
func recogniseImageFolder(ctx context.Context, root string) (bool, error) {
	folders, err := subfolders(root)
	if err != nil {
		return false, err
	}
	if err := refuseFolderOfSets(root, folders); err != nil {
		return false, err
	}
	for _, f := range folders {
		images, err := imagesBelow(ctx, filepath.Join(root, f), nil)
		if err != nil || len(images) > 0 {
			return err == nil, err
		}
	}
	return false, nil
}

// otherFiles counts, by extension, the files below the folders of root that are not images.
func otherFiles(ctx context.Context, root string) (map[string]int, error) {
	folders, err := subfolders(root)
	other := map[string]int{}
	for _, f := range folders {
		if _, err := imagesBelow(ctx, filepath.Join(root, f), other); err != nil {
			return nil, err
		}
	}
	return other, err
}

// readImageFolder reads class folders, at the top or below train, val and test. The ids of the
// classes are torchvision's: the index among the sorted names of the training folders.
func readImageFolder(ctx context.Context, src source) (g given, err error) {
	root := src.root
	folders, err := subfolders(root)
	if err != nil {
		return given{}, err
	}
	// A class may be called "train", as in CIFAR-100. The split train holds folders; the class
	// train holds images.
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
			return readSplitFolders(ctx, root, folders, train)
		}
		named := slices.DeleteFunc(slices.Clone(folders), func(f string) bool { _, split := folderSplit(f); return !split })
		// a single one among other folders may be a class
		if len(named) > 1 || len(named) == len(folders) {
			return given{}, fmt.Errorf("folder %s holds images and no class folders, so the labels are missing: put the images into %s%s",
				filepath.Join(root, train), filepath.Join(root, train, "<class>"), tableHint(root))
		}
	}
	if g.train, err = g.readClassFolders(ctx, root, "."); err == nil && len(g.classes) == 1 {
		err = fmt.Errorf("%w; if this folder holds the class folders, give %s%s", oneClass(g.classes[0]), filepath.Join(root, g.classes[0]), tableHint(root))
	}
	return g, err
}

// tableHint returns advice, for an error message, on how to open a table in the folder whose name
// findTables does not know. It returns "" if there is no table.
func tableHint(root string) string {
	entries, _ := os.ReadDir(root) // the message reports another error already
	for _, e := range entries {
		if ext := strings.ToLower(filepath.Ext(e.Name())); !e.IsDir() && slices.Contains(tableFormats, ext) {
			return fmt.Sprintf("; if the table %s lists the images, give %s", e.Name(), filepath.Join(root, e.Name()))
		}
	}
	return ""
}

// folderSplit returns the split whose folder has that name, in upper or lower case: one of
// splitNames, training or testing.
func folderSplit(folder string) (split int, ok bool) {
	name := strings.ToLower(folder)
	if name == "training" || name == "testing" {
		name = strings.TrimSuffix(name, "ing")
	}
	split, ok = splitNames[name]
	return split, ok
}

// splitFolder returns the folder of a split, "" if there is none.
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

// readSplitFolders reads the class folders below the folders of the splits.
func readSplitFolders(ctx context.Context, root string, folders []string, train string) (g given, err error) {
	if g.train, err = g.readClassFolders(ctx, root, train); err == nil {
		err = g.countStray(root, folders)
	}
	if err != nil {
		return given{}, err
	}
	for i, samples := range []*[]Sample{&g.val, &g.test} {
		folder, err := splitFolder(folders, i+1)
		if err == nil && folder != "" {
			*samples, err = g.readClassFolders(ctx, root, folder)
		}
		if err != nil {
			return given{}, err
		}
	}
	return g, nil
}

// TakesForClass reports whether folder, or a new folder in it, would be read as a class or as a
// part of a class when the data set is opened again. The folder need not exist yet. The result is
// false in every layout but imagefolder.
func (d *Dataset) TakesForClass(folder string) bool {
	if !d.classFolders || len(d.Train) == 0 {
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

// realPath returns an absolute path without links. The end of the path need not exist.
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

// readClassFolders reads the class folders in root/splitFolder. The first call, which is for the
// training split, sets g.classes.
func (g *given) readClassFolders(ctx context.Context, root, splitFolder string) ([]Sample, error) {
	folder := filepath.Join(root, splitFolder)
	folders, err := subfolders(folder)
	if err != nil {
		return nil, err
	}
	if len(folders) == 0 {
		return nil, fmt.Errorf("folder %s has no class folders: put the images into %s%s", folder, filepath.Join(folder, "<class>"), g.trainHint(root))
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
		images, err := imagesBelow(ctx, filepath.Join(folder, class), g.ignored)
		if err != nil {
			return nil, err
		}
		if len(images) == 0 {
			other := map[string]int{}
			if _, err := imagesBelow(ctx, filepath.Join(folder, class), other); err != nil {
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

// trainHint returns advice, for an error message, on how to open the training images alone: test
// images without labels, such as Kaggle's, cannot be read. It returns "" before the training images
// are known.
func (g *given) trainHint(root string) string {
	if len(g.train) == 0 {
		return ""
	}
	return fmt.Sprintf("; or give %s, and the other splits are taken from it", filepath.Join(root, filepath.Dir(g.train[0].Where)))
}

// foundExtensions names, for an error message, the kinds of files that were found instead of
// images. It returns "" if there are none.
func foundExtensions(ignored map[string]int) string {
	if len(ignored) == 0 {
		return ""
	}
	return ", found " + strings.TrimSpace(strings.Join(slices.Sorted(maps.Keys(ignored)), " "))
}

// countStray counts the images in a folder that lie beside its folders.
func (g *given) countStray(folder string, folders []string) error {
	entries, err := os.ReadDir(folder)
	for _, e := range entries {
		if IsImageName(e.Name()) && !slices.Contains(folders, e.Name()) {
			g.stray++
		}
	}
	return err
}

// imagesBelow returns the image files in a folder and its subfolders in torchvision's order:
// folders sorted by path, files sorted by name. It follows links and skips hidden names. ignored,
// if not nil, receives the number of other files by extension.
func imagesBelow(ctx context.Context, folder string, ignored map[string]int) ([]string, error) {
	files := make(map[string][]string)
	if err := collectImages(ctx, folder, nil, files, ignored); err != nil {
		return nil, err
	}
	var all []string
	for _, sub := range slices.Sorted(maps.Keys(files)) {
		all = append(all, files[sub]...)
	}
	return all, nil
}

// collectImages adds the image files of folder and of every folder below it to files, sorted by
// name. ancestors are the real paths of the folders that lead here: a folder that is among them is
// a loop.
func collectImages(ctx context.Context, folder string, ancestors []string, files map[string][]string, ignored map[string]int) error {
	if err := ctx.Err(); err != nil {
		return err
	}
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
			if err := collectImages(ctx, full, ancestors, files, ignored); err != nil {
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

// subfolders returns the names of the folders, and of links to folders, in a folder. Hidden names
// are left out. The names are sorted by their bytes, as Python's sorted does.
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

// leadsToFolder reports whether an entry is a folder or a link to a folder. It is false for a link
// to nothing.
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

// imageExtensions are the extensions of image files. torchvision's ImageFolder has the same but for
// .gif, .pnm and .jfif, another extension of JPEG files.
var imageExtensions = []string{".jpg", ".jpeg", ".png", ".gif", ".webp", ".bmp", ".tif", ".tiff", ".pgm", ".ppm", ".pnm", ".jfif"}

// IsImageName reports whether a file is an image by its extension, in upper or lower case. Hidden
// files are never images: macOS leaves "._x.jpg" beside "x.jpg" on foreign file systems.
func IsImageName(path string) bool {
	name := filepath.Base(path)
	return !strings.HasPrefix(name, ".") && slices.Contains(imageExtensions, strings.ToLower(filepath.Ext(name)))
}

// ImageFiles returns the image files that paths name. A path of a file stands for that file,
// whatever its name. A path of a folder stands for all images in it and below it, in the order of
// the layout imagefolder. It is an error if a path does not exist, if a folder holds no image, or
// if ctx is done.
func ImageFiles(ctx context.Context, paths ...string) ([]string, error) {
	var files []string
	for _, p := range paths {
		info, err := os.Stat(p)
		if err != nil {
			return nil, fmt.Errorf("looking for images: %w", err)
		}
		if !info.IsDir() {
			files = append(files, p)
			continue
		}
		images, err := imagesBelow(ctx, p, nil)
		if err != nil {
			return nil, fmt.Errorf("looking for images in %s: %w", p, err)
		}
		if len(images) == 0 {
			return nil, fmt.Errorf("looking for images: there are none in %s (looked for %s)", p, strings.Join(imageExtensions, " "))
		}
		files = append(files, images...)
	}
	return files, nil
}
