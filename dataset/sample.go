package dataset

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
)

// Sample is one image and its target. The image is in a file of its own, inside another file such
// as a parquet file, or in memory.
type Sample struct {
	// Path identifies the image: the image file, or the file that holds the image followed by "#"
	// and its place there, such as the row of a parquet file, from 0. It is "" for an image in
	// memory.
	Path string

	// Image is an image in memory, which is used instead of Path. It must not change afterwards.
	// Default nil: the image is read from Path.
	Image *RGB

	// Target is the annotation: [Class] for an image with one label. It may be nil only for images
	// that are predicted.
	Target Target

	// Where names the place that lists the sample, for messages: "train800.txt:17", "train/dress",
	// `train.json: "a.jpg"`.
	Where string

	stored stored // image inside another file; nil: the image is in its own file or in memory
}

// stored is an encoded image that lies inside another file: in a row of a parquet file, for
// example.
type stored interface {
	// encoded reads the image as it would be in a file of its own. It may be called from several
	// goroutines at once.
	encoded() ([]byte, error)
}

// imageFile is an encoded image in a file of its own: the path of the file.
type imageFile string

// name returns how messages call the image.
func (s Sample) name() string {
	if s.Image != nil {
		return "image in memory"
	}
	return s.Path
}

// stratum returns the class by which the sample is counted; see [Target].
func (s Sample) stratum() int { return s.Target.Stratum() }

// read returns the image and the bytes that it was decoded from, nil for an image in memory. If the
// bytes cannot be decoded, they are returned beside the error. The error is an *[ImageError].
func (s Sample) read() (m *RGB, encoded []byte, err error) {
	if s.Image != nil {
		if err := s.Image.check(); err != nil {
			return nil, nil, &ImageError{Err: err}
		}
		return s.Image, nil, nil
	}
	from := s.stored
	if from == nil {
		from = imageFile(s.Path)
	}
	if encoded, err = from.encoded(); err != nil {
		return nil, nil, &ImageError{s.Path, err}
	}
	if m, err = decodeImage(encoded); err != nil {
		return nil, encoded, &ImageError{s.Path, fmt.Errorf("decoding image %s: %w", s.Path, err)}
	}
	return m, encoded, nil
}

// encoded reads a regular file of bounded size.
func (f imageFile) encoded() ([]byte, error) {
	path := string(f)
	info, err := findFile(path)
	if err != nil {
		return nil, err
	}
	size := info.Size()
	if size > maxEncodedBytes {
		return nil, fmt.Errorf("image %s has %d bytes: more than the limit of %d", path, size, maxEncodedBytes)
	}
	file, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("opening image: %w", err)
	}
	defer file.Close()
	// One allocation of the right size: io.ReadAll would grow its buffer step by step.
	data := make([]byte, size)
	if _, err := io.ReadFull(file, data); err != nil {
		return nil, fmt.Errorf("reading image %s: %w", path, err)
	}
	return data, nil
}

// findFile makes sure that an image file exists. It does not open the file, because opening a pipe
// waits for its writer. The error is an *[ImageError].
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

// ImageError reports an image that is missing, unreadable or broken. All errors of this package
// that come from an image wrap an ImageError, so errors.As tells them from errors of lists and
// options.
type ImageError struct {
	Path string // Sample.Path; "" for an image in memory
	Err  error  // cause; its text names the image
}

// Error returns the text of the cause.
func (e *ImageError) Error() string { return e.Err.Error() }

// Unwrap returns the cause.
func (e *ImageError) Unwrap() error { return e.Err }

// countImages returns "1 image", "2 images" or, with a kind, "2 broken images".
func countImages(n int, kind string) string {
	if n == 1 {
		return fmt.Sprintf("1 %simage", kind)
	}
	return fmt.Sprintf("%d %simages", n, kind)
}
