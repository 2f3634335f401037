package dataset

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
)

// ImageError is an image that is missing, unreadable or broken. The errors of this package that come from images wrap it, so
// that errors.As tells them from those of lists and options.
type ImageError struct {
	Path string // "" for an image in memory
	Err  error  // names the file
}

func (e *ImageError) Error() string { return e.Err.Error() }

// Unwrap returns the cause.
func (e *ImageError) Unwrap() error { return e.Err }

// findFile makes sure that an image file is there, without opening it: opening a pipe waits for its writer.
func findFile(path string) (fs.FileInfo, error) {
	info, err := os.Stat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		err = fmt.Errorf("image %s does not exist", path)
	case err != nil:
		err = fmt.Errorf("looking for image %s: %w", path, err)
	case !info.Mode().IsRegular():
		err = fmt.Errorf("image %s is not a regular file (mode %s)", path, info.Mode())
	}
	if err != nil {
		return nil, &ImageError{path, err}
	}
	return info, nil
}

// countImages is "1 image", "2 images", "2 broken images".
func countImages(n int, kind string) string {
	if n == 1 {
		return fmt.Sprintf("1 %simage", kind)
	}
	return fmt.Sprintf("%d %simages", n, kind)
}
