package dataset

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

const (
	// locateRows is the number of rows of a table whose images locateImages looks for.
	locateRows = 20
	// locateFolders limits the number of folders in which locateImages looks for the images.
	locateFolders = 1000
)

// imagePlace completes the paths of a table to the paths of files.
type imagePlace struct {
	at     files
	folder string
	suffix string // the end of the name of the file, such as ".jpg"
}

// path returns the path of a file. p is a path in a table, with slashes. The folder does not apply
// to an absolute path.
func (l imagePlace) path(p string) string {
	if local := filepath.FromSlash(p); filepath.IsAbs(local) {
		return local + l.suffix
	}
	return filepath.Join(l.folder, filepath.FromSlash(p)) + l.suffix
}

// locateImages returns the place of the images of a table. It is the folder of the table, or
// OpenOptions.ImageRoot, and OpenOptions.ImageSuffix. If no image is there, locateImages looks for
// the only folder below, and the only extension, that complete the paths to existing files. note
// then describes the place that was found. split is the split of the table, or -1.
func locateImages(ctx context.Context, src source, folder string, split int, t *tableData) (place imagePlace, note string, err error) {
	at := src.at
	if src.ImageRoot != "" {
		folder = src.ImageRoot
		at = disk{}
	}
	place = imagePlace{at, folder, src.ImageSuffix}
	rows := t.rows[:min(locateRows, len(t.rows))]
	if src.ImageRoot != "" && src.ImageSuffix != "" || slices.ContainsFunc(rows, func(r labelled) bool { return place.holds(r) }) {
		return place, "", nil
	}
	folders := []string{folder}
	if src.ImageRoot == "" {
		for i := 0; i < len(folders) && len(folders) < locateFolders && strings.Count(relative(folder, folders[i]), "/") < 1; i++ {
			if err := ctx.Err(); err != nil {
				return imagePlace{}, "", err
			}
			inner, err := subfolders(at, folders[i])
			if err != nil {
				return imagePlace{}, "", err
			}
			for _, f := range inner {
				folders = append(folders, filepath.Join(folders[i], f))
			}
		}
		folders = folders[:min(len(folders), locateFolders)]
	}
	var found []imagePlace
	for _, row := range rows {
		suffixes := []string{src.ImageSuffix}
		if src.ImageSuffix == "" && !IsImageName(row.Path) {
			for _, e := range imageExtensions {
				suffixes = append(suffixes, e, strings.ToUpper(e))
			}
		}
		for _, f := range folders {
			if err := ctx.Err(); err != nil {
				return imagePlace{}, "", err
			}
			for _, s := range suffixes {
				// On a file system that ignores case, .jpg and .JPG are the same file.
				if p := (imagePlace{at, f, s}); p.holds(row) && !slices.ContainsFunc(found, func(other imagePlace) bool { return sameFile(at, p.path(row.Path), other.path(row.Path)) }) {
					found = append(found, p)
				}
			}
		}
		if found != nil {
			break
		}
	}
	if len(found) > 1 && split >= 0 { // train.csv lists the images in train, not those in test
		own := slices.DeleteFunc(slices.Clone(found), func(p imagePlace) bool {
			s, ok := splitOf(relative(folder, p.folder))
			return !ok || s != split
		})
		if len(own) > 0 {
			found = own
		}
	}
	if len(found) > 1 { // other rows may decide
		all := slices.DeleteFunc(slices.Clone(found), func(p imagePlace) bool {
			return slices.ContainsFunc(rows, func(r labelled) bool { return !p.holds(r) })
		})
		if len(all) == 1 {
			found = all
		}
	}
	example := rows[0]
	for _, r := range rows {
		if found != nil && found[0].holds(r) {
			example = r
			break
		}
	}
	switch {
	case len(found) == 1:
		return found[0], fmt.Sprintf("%s: the path %q stands for the image %s; all paths of the table are completed in this way", t.name, abbreviate(example.Path), relative(folder, found[0].path(example.Path))), nil
	case len(found) > 1:
		return imagePlace{}, "", fmt.Errorf("%s: the path %q may stand for %s or %s: set the image root and the image suffix", example.Where, abbreviate(example.Path), relative(folder, found[0].path(example.Path)), relative(folder, found[1].path(example.Path)))
	case place.suffix == "" && !IsImageName(example.Path) && !src.SkipBadImages:
		return imagePlace{}, "", fmt.Errorf("%s: there is no image %q in %s and its subfolders, also not with an extension such as .jpg: set the image root, which is the folder of the images, and the image suffix", example.Where, abbreviate(example.Path), folder)
	}
	return place, "", nil // the check of all images reports the missing files
}

// holds reports whether the image of a row is at the place.
func (l imagePlace) holds(r labelled) bool {
	info, err := l.at.stat(l.path(r.Path))
	return err == nil && info.Mode().IsRegular()
}

// sameFile reports whether two paths lead to the same file.
func sameFile(at files, a, b string) bool {
	x, err := at.stat(a)
	if err != nil {
		return false
	}
	y, err := at.stat(b)
	return err == nil && (x == y || os.SameFile(x, y))
}
