package dataset

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// unsupportedFormats maps the extensions of image formats that this package does not decode to
// their names.
var unsupportedFormats = map[string]string{
	".heic": "HEIC", ".heif": "HEIF", ".avif": "AVIF", ".jxl": "JPEG XL", ".jp2": "JPEG 2000", ".j2k": "JPEG 2000", ".jpx": "JPEG 2000",
	".svg": "SVG", ".ico": "ICO", ".tga": "TGA", ".psd": "Photoshop", ".dng": "DNG", ".cr2": "CR2", ".cr3": "CR3", ".nef": "NEF", ".arw": "ARW",
}

// FoundImages holds the files that [FindImages] found.
type FoundImages struct {
	// Images holds the paths of the images.
	Images []string
	// Unsupported holds the files whose extension is that of an image format that this package does
	// not decode, such as HEIC.
	Unsupported []UnsupportedImage
	// Ignored counts the other files, by extension in lower case. The key is "" for files without
	// an extension. Hidden files and folders, and those of systems, such as Thumbs.db and @eaDir,
	// are neither read nor counted.
	Ignored map[string]int
}

// UnsupportedImage is a file in an image format that this package does not decode.
type UnsupportedImage struct {
	Path   string // path of the file
	Format string // name of the format, such as "HEIC"
}

// FindImages returns the images at a path as [ImageFiles] does, and the files of a folder that it
// leaves out. If a folder holds no image, FindImages returns an error and the files.
func FindImages(ctx context.Context, path string) (FoundImages, error) {
	images, err := ImageFiles(ctx, path)
	found := FoundImages{Images: images, Ignored: map[string]int{}}
	if info, statErr := os.Stat(path); statErr == nil && info.IsDir() {
		if walkErr := found.leaveOut(ctx, path, nil); err == nil {
			err = walkErr
		}
	}
	return found, err
}

// leaveOut adds the files in folder, and in every folder below it, that are not images. ancestors
// holds the real paths of the folders above this one; a link to one of them is not followed.
func (found *FoundImages) leaveOut(ctx context.Context, folder string, ancestors []string) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	real, err := filepath.EvalSymlinks(folder)
	if err != nil || slices.Contains(ancestors, real) {
		return err
	}
	ancestors = append(ancestors, real)
	entries, err := os.ReadDir(folder)
	if err != nil {
		return err
	}
	for _, e := range entries {
		name, full := e.Name(), filepath.Join(folder, e.Name())
		if hiddenName(name) != "" || IsImageName(name) {
			continue
		}
		isFolder, err := leadsToFolder(folder, e)
		if err == nil && isFolder {
			err = found.leaveOut(ctx, full, ancestors)
		}
		if err != nil {
			return err
		}
		if isFolder {
			continue
		}
		ext := strings.ToLower(filepath.Ext(name))
		if format, ok := unsupportedFormats[ext]; ok {
			found.Unsupported = append(found.Unsupported, UnsupportedImage{full, format})
		} else {
			found.Ignored[ext]++
		}
	}
	return nil
}

// IsTableName reports whether the name of a file has the extension of a table of the layout table,
// in upper or lower case.
func IsTableName(path string) bool {
	return slices.Contains(tableFormats, strings.ToLower(filepath.Ext(path)))
}

// TableFormats returns the extensions of tables, such as ".csv".
func TableFormats() []string { return slices.Clone(tableFormats) }

// TableImages returns the paths of the images that a table lists, in the order of its rows. It
// reads the table as the layout table does: the paths are relative to the folder of the table and
// stay inside it, and may lie in a folder below or lack the extension. column is the name of the
// column of images; "" means the first column with a usual name. The table needs no labels.
// TableImages does not check that the images exist.
func TableImages(ctx context.Context, path, column string) ([]string, error) {
	src := source{OpenOptions: OpenOptions{ImageColumn: column}, root: filepath.Dir(path), file: path}
	data, err := readTable(ctx, src, table{path: path, split: -1}, labelForm{defined: true})
	if err == nil && len(data.rows) == 0 {
		err = errors.New("it lists no images")
	}
	var place imagePlace
	if err == nil {
		place, _, err = locateImages(ctx, src, src.root, -1, data)
	}
	if err != nil {
		return nil, fmt.Errorf("reading the table %s: %w", path, err)
	}
	images := make([]string, len(data.rows))
	for i, row := range data.rows {
		images[i] = place.path(row.Path)
	}
	return images, nil
}
