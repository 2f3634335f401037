package dataset

import (
	"bytes"
	"context"
	"encoding/csv"
	"errors"
	"fmt"
	"io"
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

// TableImages returns the paths of the images that a table lists, in the order of its rows. The
// paths in the table are relative to its folder and stay inside the folder, as in the layout table.
// column is the name of the column of images; "" means the first column with a usual name. The
// table needs no labels. TableImages does not check that the images exist.
func TableImages(path, column string) ([]string, error) {
	info, err := os.Stat(path)
	if err == nil && !info.Mode().IsRegular() {
		err = fmt.Errorf("it is not a regular file (mode %s)", info.Mode())
	}
	var text []byte
	if err == nil {
		text, err = readText(path)
	}
	var cells []string
	if err == nil {
		if strings.EqualFold(filepath.Ext(path), ".jsonl") {
			cells, err = jsonCells(text, column)
		} else {
			cells, err = csvCells(text, strings.EqualFold(filepath.Ext(path), ".tsv"), column)
		}
	}
	if err == nil && len(cells) == 0 {
		err = errors.New("it lists no images")
	}
	if err != nil {
		return nil, fmt.Errorf("reading the table %s: %w", path, err)
	}
	for i, cell := range cells {
		cell = strings.TrimSpace(cell)
		if !strings.Contains(cell, "/") { // from Windows
			cell = strings.ReplaceAll(cell, `\`, "/")
		}
		local, err := localPath(cell)
		if err != nil {
			return nil, fmt.Errorf("reading the table %s: image %d: %w", path, i+1, err)
		}
		cells[i] = filepath.Join(filepath.Dir(path), filepath.FromSlash(local))
	}
	return cells, nil
}

// csvCells returns the cells of the column of images of a CSV table, or of a TSV table if tabs is
// true. The separators are those of parseCSV.
func csvCells(text []byte, tabs bool, column string) (cells []string, err error) {
	r := csv.NewReader(bytes.NewReader(text))
	r.ReuseRecord = true
	if first, _, _ := bytes.Cut(bytes.TrimLeft(text, "\r\n"), []byte("\n")); tabs {
		r.Comma, r.LazyQuotes = '\t', true
	} else if !bytes.ContainsRune(first, ',') && bytes.ContainsRune(first, ';') {
		r.Comma = ';'
	}
	header, err := r.Read()
	if errors.Is(err, io.EOF) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	image, err := columnOfImages(header, column)
	for err == nil {
		var record []string
		if record, err = r.Read(); err == nil {
			cells = append(cells, record[image])
		}
	}
	if errors.Is(err, io.EOF) {
		err = nil
	}
	return cells, err
}

// jsonCells returns the values of the key of images in a table of JSON lines.
func jsonCells(text []byte, column string) (cells []string, err error) {
	line, key := 0, ""
	for s := range bytes.Lines(text) {
		line++
		if s = bytes.TrimSpace(s); len(s) == 0 {
			continue
		}
		keys, values, err := jsonObject(s)
		if err == nil && cells == nil {
			var image int
			if image, err = columnOfImages(keys, column); err == nil {
				key = keys[image]
			}
		}
		var cell string
		if err == nil {
			cell, err = jsonScalar(values[key])
		}
		if err != nil {
			return nil, fmt.Errorf("line %d: %w", line, err)
		}
		cells = append(cells, cell)
	}
	return cells, nil
}

// columnOfImages returns the index of the column of images: the column called want or, if want is
// "", the first one of pathColumns.
func columnOfImages(header []string, want string) (int, error) {
	known := pathColumns
	if want != "" {
		known = []string{want}
	}
	for _, k := range known {
		for i, name := range header {
			if want != "" && name == want || want == "" && strings.ToLower(strings.TrimSpace(name)) == k {
				return i, nil
			}
		}
	}
	var quoted []string
	for _, name := range header {
		quoted = append(quoted, fmt.Sprintf("%q", abbreviate(name)))
	}
	return 0, fmt.Errorf("there is no column of images (looked for %s) among %s: name the image column", strings.Join(known, ", "), abbreviateList(quoted))
}
