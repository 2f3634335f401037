package dataset

import (
	"context"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"
)

// recogniseImageFolder reports whether a subfolder holds images.
func recogniseImageFolder(ctx context.Context, src source) (bool, error) {
	folders, err := subfolders(src.at, src.root)
	if err != nil {
		return false, err
	}
	if err := refuseFolderOfSets(ctx, src.at, src.root, folders); err != nil {
		return false, err
	}
	scanner := newFolderScanner(src.at, nil)
	for _, name := range folders {
		f, err := scanner.scan(ctx, filepath.Join(src.root, name))
		if err != nil || f.total > 0 {
			return err == nil, err
		}
	}
	return false, nil
}

// otherFiles counts the files in the subfolders that are not images, by extension.
func otherFiles(ctx context.Context, src source) (map[string]int, error) {
	tree, err := scanFolder(ctx, src.at, src.root, nil)
	if err != nil {
		return nil, err
	}
	other := map[string]int{}
	for _, f := range tree.folders {
		f.countOthers(other)
	}
	return other, nil
}

// readImageFolder reads class folders, which lie in root itself or in split folders; see
// readFolders. The class ids equal those of torchvision: a class id is the index of the class
// folder among the sorted training folders.
func readImageFolder(ctx context.Context, src source) (g contents, err error) {
	hidden := make(map[string]int)
	root, err := scanFolder(ctx, src.at, src.root, hidden)
	if err != nil {
		return contents{}, err
	}
	r, err := readFolders(root)
	if err != nil {
		return contents{}, err
	}
	g.base, g.splitFolders, g.ignored = r.base.path, r.given && !r.inside, make(map[string]int)
	for i, samples := range []*[]Sample{&g.train, &g.val, &g.test} {
		switch {
		case r.inside:
			err = g.readInside(root, r.base, i, samples)
		case r.splits[i] != nil:
			*samples, err = g.readClassFolders(root, r.splits[i])
		}
		if err != nil {
			return contents{}, err
		}
	}
	if !r.given && len(g.classes) == 1 {
		holds := r.base.filled()[0]
		for in := holds.filled(); len(in) == 1; in = in[0].filled() {
			holds = in[0]
		}
		return contents{}, fmt.Errorf("%w; if folder %[2]s holds the class folders, give %[2]s%[3]s", oneClass(g.classes[0]), holds.path, tableHint(src.at, src.root))
	}
	// findFiles has to find the images in an archive
	g.regular = root.links == 0 && src.at == files(disk{})
	g.stray = root.total - len(g.train) - len(g.val) - len(g.test)
	for _, u := range r.unread {
		g.stray -= u.folder.total
		g.addUnread(root, u)
	}
	g.notes = append(g.notes, unsupportedNotes(g.ignored)...)
	if text, n := countNames(hidden); n > 0 {
		g.notes = append(g.notes, fmt.Sprintf("%d hidden or system files and folders are not read: %s", n, text))
	}
	return g, nil
}

// addUnread adds a note about a folder that is not read.
func (g *contents) addUnread(root *folder, u unreadNote) {
	images := ""
	if u.folder.total > 0 {
		images = fmt.Sprintf(" with %s", countImages(u.folder.total, ""))
	}
	g.notes = append(g.notes, fmt.Sprintf("folder %s%s is not read: %s", relative(root.path, u.folder.path), images, u.reason))
}

// tableHint returns the end of an error message: it says how to open a table in the folder whose
// name findTables does not know. It returns "" if there is no table.
func tableHint(at files, root string) string {
	entries, _ := at.list(root) // the caller already reports another error
	for _, e := range entries {
		if !e.IsDir() && IsTableName(e.Name()) {
			return fmt.Sprintf("; if the table %s lists the images, give %s", e.Name(), filepath.Join(root, e.Name()))
		}
	}
	return ""
}

// TakesForClass reports whether [Open] would read folder, or a new folder in it, as a class or a
// part of a class. Callers use it to avoid writing results into a data set. The folder need not
// exist yet. The result is false in every layout except imagefolder.
func (d *Dataset) TakesForClass(folder string) bool {
	if !d.classFolders || len(d.Train) == 0 {
		return false
	}
	rel, err := filepath.Rel(realPath(d.base), realPath(folder))
	if err != nil || !filepath.IsLocal(rel) {
		return false
	}
	top, _, _ := strings.Cut(filepath.ToSlash(rel), "/")
	if d.splitFolders {
		_, ok := splitWord(top)
		return ok
	}
	return top == "." || hiddenName(top) == ""
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

// readClassFolders reads the class folders in a split folder. The first call is for the training
// split and sets g.classes.
func (g *contents) readClassFolders(root, split *folder) ([]Sample, error) {
	if len(split.folders) == 0 {
		return nil, fmt.Errorf("folder %s has no class folders: put the images of each class into %s%s", split.path, filepath.Join(split.path, "<class>"), g.trainHint(root.path))
	}
	first := g.classes == nil
	samples := make([]Sample, 0, split.total)
	for _, class := range split.folders {
		where := relative(root.path, class.path)
		if class.total == 0 {
			if !holdsAnnotations(class) {
				return nil, emptyFolder(where, class)
			}
			g.addUnread(root, unreadNote{class, "it has no images"})
			continue
		}
		if err := checkClassName(fmt.Sprintf("folder %q", where), class.name, "rename the folder"); err != nil {
			return nil, err
		}
		if first {
			g.classes = append(g.classes, class.name)
		}
		label, ok := slices.BinarySearch(g.classes, class.name)
		if !ok {
			return nil, fmt.Errorf("folder %s: the training split has no class %q%s", where, class.name, g.trainHint(root.path))
		}
		class.countOthers(g.ignored)
		for _, p := range class.all() {
			samples = append(samples, Sample{Path: p, Target: Class(label), Where: where})
		}
	}
	return samples, nil
}

// readInside reads the images of one split from the class folders in base. Every class folder has
// folders with the names of splits. The first call is for the training split and sets g.classes.
func (g *contents) readInside(root, base *folder, split int, samples *[]Sample) error {
	var classes []*folder
	for _, class := range base.folders {
		switch {
		case class.total > 0:
			classes = append(classes, class)
		case holdsAnnotations(class) && split == 0:
			g.addUnread(root, unreadNote{class, "it has no images"})
		case split == 0:
			return emptyFolder(relative(root.path, class.path), class)
		}
	}
	for label, class := range classes {
		if split == 0 {
			if err := checkClassName(fmt.Sprintf("folder %q", relative(root.path, class.path)), class.name, "rename the folder"); err != nil {
				return err
			}
			g.classes = append(g.classes, class.name)
			class.countOthers(g.ignored)
		}
		if sub := splitInside(class, split); sub != nil {
			for _, p := range sub.all() {
				*samples = append(*samples, Sample{Path: p, Target: Class(label), Where: relative(root.path, sub.path)})
			}
		}
	}
	return nil
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
	found := ", found " + strings.TrimSpace(strings.Join(slices.Sorted(maps.Keys(ignored)), " "))
	for _, note := range unsupportedNotes(ignored) {
		found += "; " + note
	}
	return found
}

// subfolders returns the names of the folders in a folder, including links to folders. It skips
// hidden and system names. The names are sorted by their bytes, as by Python's sorted.
func subfolders(at files, folder string) ([]string, error) {
	entries, err := at.list(folder)
	if err != nil {
		return nil, err
	}
	var names []string
	for _, e := range entries {
		if hiddenName(e.Name()) != "" {
			continue
		}
		isFolder, err := leadsToFolder(at, folder, e)
		if err != nil {
			return nil, err
		}
		if isFolder {
			names = append(names, e.Name())
		}
	}
	return names, nil
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
		found, _, err := imagesAt(ctx, disk{}, p)
		if err != nil {
			return nil, err
		}
		files = append(files, found...)
	}
	return files, nil
}

// imagesAt is [ImageFiles] for one path. f is the folder at path, also if it holds no image. It is
// nil for a file and for a folder that cannot be read.
func imagesAt(ctx context.Context, at files, path string) (files []string, f *folder, err error) {
	info, err := at.stat(path)
	if err != nil {
		return nil, nil, fmt.Errorf("looking for images: %w", err)
	}
	if !info.IsDir() {
		return []string{path}, nil, nil
	}
	if f, err = scanFolder(ctx, at, path, nil); err != nil {
		return nil, nil, fmt.Errorf("looking for images in %s: %w", path, err)
	}
	if f.total == 0 {
		return nil, f, fmt.Errorf("looking for images: no images in folder %s (looked for %s)", path, strings.Join(imageExtensions, " "))
	}
	return f.all(), f, nil
}
