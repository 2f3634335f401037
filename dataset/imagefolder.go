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

// recogniseImageFolder reports whether a subfolder of root holds images.
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

// otherFiles counts the files in the subfolders of root that are not images, by extension.
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

// readImageFolder reads class folders, which lie in root itself or in its folders train, val and
// test. The class ids equal those of torchvision: a class id is the index of the class folder among
// the sorted training folders.
func readImageFolder(ctx context.Context, src source) (g contents, err error) {
	root := src.root
	folders, err := subfolders(root)
	if err != nil {
		return contents{}, err
	}
	// A class may be called "train", as in CIFAR-100. If the folder train holds folders, it is a
	// split. If it holds images, it is a class.
	train, err := splitFolder(folders, 0)
	if err != nil {
		return contents{}, err
	}
	if train != "" {
		inner, err := subfolders(filepath.Join(root, train))
		if err != nil {
			return contents{}, err
		}
		if len(inner) > 0 {
			return readSplitFolders(ctx, root, folders, train)
		}
		named := slices.DeleteFunc(slices.Clone(folders), func(f string) bool { _, split := folderSplit(f); return !split })
		// A single folder with the name of a split, among other folders, may be a class.
		if len(named) > 1 || len(named) == len(folders) {
			return contents{}, fmt.Errorf("folder %s holds images but no class folders, so the images have no labels: put the images into %s%s",
				filepath.Join(root, train), filepath.Join(root, train, "<class>"), tableHint(root))
		}
	}
	if g.train, err = g.readClassFolders(ctx, root, "."); err == nil && len(g.classes) == 1 {
		err = fmt.Errorf("%w; if folder %[2]s holds the class folders, give %[2]s%[3]s", oneClass(g.classes[0]), filepath.Join(root, g.classes[0]), tableHint(root))
	}
	return g, err
}

// tableHint returns the end of an error message: it says how to open a table in the folder whose
// name findTables does not know. It returns "" if there is no table.
func tableHint(root string) string {
	entries, _ := os.ReadDir(root) // the caller already reports another error
	for _, e := range entries {
		if ext := strings.ToLower(filepath.Ext(e.Name())); !e.IsDir() && slices.Contains(tableFormats, ext) {
			return fmt.Sprintf("; if the table %s lists the images, give %s", e.Name(), filepath.Join(root, e.Name()))
		}
	}
	return ""
}

// folderSplit returns the split that a folder holds by its name, in upper or lower case. The name
// is one of splitNames, training or testing.
func folderSplit(folder string) (split int, ok bool) {
	name := strings.ToLower(folder)
	if name == "training" || name == "testing" {
		name = strings.TrimSuffix(name, "ing")
	}
	split, ok = splitNames[name]
	return split, ok
}

// splitFolder returns the folder that holds a split, or "" if there is none. Two such folders are
// an error.
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

// readSplitFolders reads the class folders of every split. train is the name of the training
// folder.
func readSplitFolders(ctx context.Context, root string, folders []string, train string) (g contents, err error) {
	if g.train, err = g.readClassFolders(ctx, root, train); err == nil {
		err = g.countStray(root, folders)
	}
	if err != nil {
		return contents{}, err
	}
	for i, samples := range []*[]Sample{&g.val, &g.test} {
		folder, err := splitFolder(folders, i+1)
		if err == nil && folder != "" {
			*samples, err = g.readClassFolders(ctx, root, folder)
		}
		if err != nil {
			return contents{}, err
		}
	}
	return g, nil
}

// TakesForClass reports whether [Open] would read folder, or a new folder in it, as a class or a
// part of a class. Callers use it to avoid writing results into a data set. The folder need not
// exist yet. The result is false in every layout except imagefolder.
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

// realPath returns the absolute path without symbolic links. The last elements of the path need not
// exist.
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

// readClassFolders reads the class folders in root/splitFolder. The first call is for the training
// split and sets g.classes.
func (g *contents) readClassFolders(ctx context.Context, root, splitFolder string) ([]Sample, error) {
	folder := filepath.Join(root, splitFolder)
	folders, err := subfolders(folder)
	if err != nil {
		return nil, err
	}
	if len(folders) == 0 {
		return nil, fmt.Errorf("folder %s has no class folders: put the images of each class into %s%s", folder, filepath.Join(folder, "<class>"), g.trainHint(root))
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
			return nil, fmt.Errorf("class folder %s has no images (looked for %s%s): add images or delete the folder", where, strings.Join(imageExtensions, " "), foundExtensions(other))
		}
		for _, p := range images {
			samples = append(samples, Sample{Path: p, Target: Class(label), Where: where})
		}
	}
	return samples, nil
}

// trainHint returns the end of an error message about the val or test folder: it says how to open
// the training images alone. Test images without labels, as in Kaggle competitions, cannot be read.
// It returns "" before the training images are known.
func (g *contents) trainHint(root string) string {
	if len(g.train) == 0 {
		return ""
	}
	return fmt.Sprintf("; or give %s to take all splits from the training images", filepath.Join(root, filepath.Dir(g.train[0].Where)))
}

// foundExtensions returns a part of an error message: the extensions of the files that were found
// instead of images. It returns "" if there are none.
func foundExtensions(ignored map[string]int) string {
	if len(ignored) == 0 {
		return ""
	}
	return ", found " + strings.TrimSpace(strings.Join(slices.Sorted(maps.Keys(ignored)), " "))
}

// countStray adds to g.stray the number of images that lie directly in folder. folders are the
// names of its subfolders, which may end like images.
func (g *contents) countStray(folder string, folders []string) error {
	entries, err := os.ReadDir(folder)
	for _, e := range entries {
		if IsImageName(e.Name()) && !slices.Contains(folders, e.Name()) {
			g.stray++
		}
	}
	return err
}

// imagesBelow returns the image files in a folder and in all folders below it. The order is that of
// torchvision: folders sorted by path, files sorted by name. imagesBelow follows links and skips
// hidden names. If ignored is not nil, imagesBelow adds the number of other files to it, by
// extension.
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

// collectImages adds the image files of folder, and of every folder below it, to files. The keys of
// files are folders, and the images of each folder are sorted by name. ancestors holds the real
// paths of the folders above this one. If folder is one of them, its link makes a loop.
func collectImages(ctx context.Context, folder string, ancestors []string, files map[string][]string, ignored map[string]int) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	real, err := filepath.EvalSymlinks(folder)
	if err != nil {
		return fmt.Errorf("following %s: %w", folder, err)
	}
	if slices.Contains(ancestors, real) {
		return fmt.Errorf("folder %s is a link that leads back to %s: remove the link", folder, real)
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

// subfolders returns the names of the folders in a folder, including links to folders. It skips
// hidden names. The names are sorted by their bytes, as by Python's sorted.
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

// leadsToFolder reports whether an entry is a folder or a link to a folder. It returns false for a
// dead link.
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

// imageExtensions lists the extensions of image files. torchvision's ImageFolder does not read
// .gif, .pnm and .jfif; the last is another extension of JPEG files.
var imageExtensions = []string{".jpg", ".jpeg", ".png", ".gif", ".webp", ".bmp", ".tif", ".tiff", ".pgm", ".ppm", ".pnm", ".jfif"}

// IsImageName reports whether the name of a file has the extension of an image, in upper or lower
// case. It returns false for hidden files, because macOS writes a file "._x.jpg" for "x.jpg" on
// some file systems.
func IsImageName(path string) bool {
	name := filepath.Base(path)
	return !strings.HasPrefix(name, ".") && slices.Contains(imageExtensions, strings.ToLower(filepath.Ext(name)))
}

// ImageFiles returns the image files at the given paths. If a path is a file, ImageFiles returns
// the path, whatever its extension. If a path is a folder, ImageFiles returns all images in it and
// below it, in the order of the layout imagefolder. It returns an error if a path does not exist,
// if a folder holds no image, or if ctx is done.
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
			return nil, fmt.Errorf("looking for images: no images in folder %s (looked for %s)", p, strings.Join(imageExtensions, " "))
		}
		files = append(files, images...)
	}
	return files, nil
}
