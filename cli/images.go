package cli

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/sptune/spt"
	"github.com/sptune/spt/dataset"
	"github.com/sptune/spt/internal/jsonfile"
	"github.com/sptune/spt/internal/wording"
)

// maxPathBytes is the largest size of the list of paths that predict reads from standard input, in
// bytes.
const maxPathBytes = 256 << 20

// imageList holds the images that the arguments of a command name.
type imageList struct {
	stdin  io.Reader
	column string // the column of images in tables; "" means a column with a usual name

	samples  []dataset.Sample           // the images
	unusable []spt.Prediction           // paths that lead to no image, with the reasons
	leftOut  []dataset.UnsupportedImage // files in folders, in formats that are not supported
	ignored  []ignoredFiles             // other files in folders
	tables   []string                   // tables that were read
}

// ignoredFiles counts the files in a folder that are not images, by extension.
type ignoredFiles struct {
	Path    string         `json:"path"`
	Ignored map[string]int `json:"ignored"`
}

// addArgument adds the images of one argument: a path, a pattern that the shell has not expanded,
// or "-" for paths in the lines of standard input.
func (l *imageList) addArgument(ctx context.Context, arg string) error {
	if arg == "-" {
		return l.addLines(ctx)
	}
	if _, err := os.Stat(arg); errors.Is(err, fs.ErrNotExist) && strings.ContainsAny(arg, "*?[") && !url.MatchString(arg) {
		matches, err := filepath.Glob(arg)
		switch {
		case err != nil:
			err = fmt.Errorf("pattern %s: %w", arg, err)
		case strings.Contains(arg, "**"):
			err = fmt.Errorf("pattern %s: ** is not supported; give the folder, whose subfolders are read too", arg)
		case matches == nil:
			err = fmt.Errorf("no file matches the pattern %s", arg)
		}
		if err != nil {
			l.refuse(arg, err)
			return ctx.Err()
		}
		for _, path := range matches {
			if err := l.addPath(ctx, path); err != nil {
				return err
			}
		}
		return nil
	}
	return l.addPath(ctx, arg)
}

// addLines adds the images of the paths in standard input, one path in each line.
func (l *imageList) addLines(ctx context.Context) error {
	in := &io.LimitedReader{R: l.stdin, N: maxPathBytes}
	lines := bufio.NewScanner(in)
	paths := 0
	for lines.Scan() {
		path := strings.TrimSuffix(lines.Text(), "\r")
		if path == "" {
			continue
		}
		paths++
		if err := l.addPath(ctx, path); err != nil {
			return err
		}
	}
	err := lines.Err()
	switch {
	case err != nil:
		err = fmt.Errorf("reading paths from standard input: %w; give one path in each line", err)
	case in.N == 0:
		err = fmt.Errorf("standard input has more than %d bytes of paths; divide the list", maxPathBytes)
	case paths == 0:
		err = errors.New("standard input has no paths; give one path in each line")
	}
	if err != nil {
		l.refuse("-", err)
	}
	return nil
}

// url matches the beginning of a URL.
var url = regexp.MustCompile(`^[A-Za-z][A-Za-z0-9+.-]+:/`)

// addPath adds the images at one path: an image, a folder, an archive or a table. The only error
// that it returns is that of a cancelled ctx.
func (l *imageList) addPath(ctx context.Context, path string) error {
	_, missing := os.Stat(path)
	switch {
	case missing != nil && url.MatchString(path):
		l.refuse(path, fmt.Errorf("%s is a URL, but only files are read; download the image first", path))
	case strings.EqualFold(filepath.Ext(path), ".parquet"):
		l.refuse(path, fmt.Errorf("%s is a parquet file, which predict does not read; write its images to files, or measure a labelled one with 'spt eval --data %s'", path, path))
	case dataset.IsTableName(path) && missing == nil:
		images, err := dataset.TableImages(ctx, path, l.column)
		if err != nil {
			l.refuse(path, err)
		}
		for _, image := range images {
			l.samples = append(l.samples, dataset.Sample{Path: image})
		}
		l.tables = append(l.tables, path)
	default:
		found, err := dataset.FindImages(ctx, path)
		if err != nil {
			l.refuse(path, err)
		}
		l.samples = append(l.samples, found.Images...)
		l.leftOut = append(l.leftOut, found.Unsupported...)
		if len(found.Ignored) > 0 {
			l.ignored = append(l.ignored, ignoredFiles{path, found.Ignored})
		}
	}
	return ctx.Err()
}

// refuse adds a path that leads to no image.
func (l *imageList) refuse(path string, err error) {
	l.unusable = append(l.unusable, spt.Prediction{Path: path, Err: err})
}

// len returns the number of images, with the paths that lead to no image.
func (l *imageList) len() int { return len(l.samples) + len(l.unusable) }

// leftOutImage is an image in a format that is not supported, in a JSON document.
type leftOutImage struct {
	Path    string `json:"path"`
	LeftOut string `json:"left_out"` // the reason
}

func (l *imageList) leftOutImages() (images []leftOutImage) {
	for _, image := range l.leftOut {
		images = append(images, leftOutImage{jsonfile.Text(image.Path), unsupported(image)})
	}
	return images
}

// writeLeftOut writes the files that predict leaves out to standard output, each as a line of JSON.
func (a *app) writeLeftOut(l *imageList) error {
	for _, image := range l.leftOutImages() {
		if err := a.writeLine(image); err != nil {
			return err
		}
	}
	for _, files := range l.ignored {
		if err := a.writeLine(files); err != nil {
			return err
		}
	}
	return nil
}

// noteLeftOut names the files that predict leaves out on standard error.
func (a *app) noteLeftOut(l *imageList) {
	var images []string
	for _, image := range l.leftOut {
		images = append(images, fmt.Sprintf("%s (%s)", printable(image.Path), image.Format))
	}
	if n := len(images); n > 10 {
		images = append(slices.Clone(images[:10]), fmt.Sprintf("and %d more, which --json lists", n-10))
	}
	if images != nil {
		a.message("note: left out %s in formats that are not supported; convert to JPEG or PNG: %s", wording.Plural(len(l.leftOut), "image"), comma(images))
	}
	for _, files := range l.ignored {
		a.message("note: left out of %s: %s", printable(files.Path), describeIgnored(files.Ignored))
	}
}

// unsupported returns the reason why an image is left out.
func unsupported(image dataset.UnsupportedImage) string {
	return fmt.Sprintf("%s is not supported; convert the image to JPEG or PNG", image.Format)
}
