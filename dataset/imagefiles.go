package dataset

import (
	"context"
	"errors"
	"fmt"
	"maps"
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

// unsupportedNotes returns a sentence for each format of images that this package does not decode.
// ignored counts files by extension.
func unsupportedNotes(ignored map[string]int) (notes []string) {
	counts := map[string]int{}
	for ext, n := range ignored {
		if format := unsupportedFormats[ext]; format != "" {
			counts[format] += n
		}
	}
	for _, format := range slices.Sorted(maps.Keys(counts)) {
		notes = append(notes, fmt.Sprintf("%s in the format %s, which spt does not read: convert to PNG, such as with ImageMagick: magick FILE FILE.png", countAre(counts[format]), format))
	}
	return notes
}

// FoundImages holds the files that [FindImages] found.
type FoundImages struct {
	// Images holds the images. Their targets are nil.
	Images []Sample
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

// FindImages returns the images at a path as [ImageFiles] does, also those in an archive, and the
// files of a folder or an archive that it leaves out. If there is no image, FindImages returns an
// error and the files.
func FindImages(ctx context.Context, path string) (FoundImages, error) {
	var at files = disk{}
	if info, err := os.Stat(path); err == nil && info.Mode().IsRegular() && IsArchiveName(path) {
		a, err := openArchive(ctx, path)
		if err != nil {
			return FoundImages{}, fmt.Errorf("looking for images: %w", err)
		}
		at = a
	}
	images, f, err := imagesAt(ctx, at, path)
	found := FoundImages{Ignored: map[string]int{}}
	for _, p := range images {
		found.Images = append(found.Images, Sample{Path: p, stored: at.image(p)})
	}
	if f == nil {
		return found, err
	}
	for _, p := range slices.Sorted(slices.Values(f.allUnsupported())) {
		found.Unsupported = append(found.Unsupported, UnsupportedImage{p, unsupportedFormats[strings.ToLower(filepath.Ext(p))]})
	}
	f.countOthers(found.Ignored)
	maps.DeleteFunc(found.Ignored, func(ext string, _ int) bool { return unsupportedFormats[ext] != "" })
	return found, err
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
	src := source{OpenOptions: OpenOptions{ImageColumn: column}, at: disk{}, root: filepath.Dir(path), file: path}
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
