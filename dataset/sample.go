package dataset

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
)

// Sample is one image and its target. The image is an image file, or a part of another file such as
// a parquet file, or in memory.
type Sample struct {
	// Path identifies the image. It is the path of an image file. For an image inside another file,
	// it is the path of that file, "#", and the place in the file, such as the row of a parquet
	// file, from 0. It is "" for an image in memory.
	Path string

	// Image is an image in memory, which replaces the image at Path. It must not change while the
	// sample is in use. Default: nil, and the image is read from Path.
	Image *RGB

	// Target is the annotation of the image, such as a [Class] for an image with one label. It may
	// be nil only for images whose target is to be predicted.
	Target Target

	// Where is the place that lists the sample. Error messages show it. Examples:
	// "train800.txt:17", "train/dress", `train.json: "a.jpg"`.
	Where string

	// stored reads an image inside another file. It is nil for an image file or an image in memory.
	stored stored
}

// stored is an encoded image inside another file, for example in a row of a parquet file.
type stored interface {
	// encoded returns the bytes of the image, which are the contents of an image file. Several
	// goroutines may call it at the same time.
	encoded() ([]byte, error)
}

// imageFile is the path of an image file. It implements stored.
type imageFile string

// name returns the name of the image in error messages.
func (s Sample) name() string {
	if s.Image != nil {
		return "image in memory"
	}
	return s.Path
}

// stratum returns the class that the sample counts as; see [Target].
func (s Sample) stratum() int { return s.Target.Stratum() }

// source returns the place of the encoded image, which is not in memory.
func (s Sample) source() stored {
	if s.stored != nil {
		return s.stored
	}
	return imageFile(s.Path)
}

// read returns the image and its encoded bytes, which are nil for an image in memory. If decoding
// fails, read returns the bytes together with the error. Errors are of type *[ImageError].
func (s Sample) read() (m *RGB, encoded []byte, err error) {
	if s.Image != nil {
		if err := s.Image.check(); err != nil {
			return nil, nil, &ImageError{Err: err}
		}
		return s.Image, nil, nil
	}
	if encoded, err = s.source().encoded(); err != nil {
		return nil, nil, &ImageError{s.Path, err}
	}
	if m, err = decodeImage(encoded); err != nil {
		return nil, encoded, &ImageError{s.Path, fmt.Errorf("decoding image %s: %w", s.Path, err)}
	}
	return m, encoded, nil
}

// encoded returns the contents of the file. It returns an error if the file is not regular or has
// more than maxEncodedBytes.
func (f imageFile) encoded() ([]byte, error) {
	path := string(f)
	info, err := findFile(path)
	if err != nil {
		return nil, err
	}
	size := info.Size()
	if size > maxEncodedBytes {
		return nil, fmt.Errorf("image %s has %d bytes, more than the limit of %d bytes", path, size, maxEncodedBytes)
	}
	file, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("opening image: %w", err)
	}
	defer file.Close()
	// The buffer is allocated once with the right size. io.ReadAll would grow its buffer in steps.
	data := make([]byte, size)
	if _, err := io.ReadFull(file, data); err != nil {
		return nil, fmt.Errorf("reading image %s: %w", path, err)
	}
	return data, nil
}

// findFile checks that an image file exists and is a regular file. It does not open the file,
// because opening a pipe waits for its writer. Errors are of type *[ImageError].
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
// about an image wrap an ImageError. Callers can use errors.As to distinguish them from errors
// about lists and options.
type ImageError struct {
	Path string // path of the image, as in Sample.Path; "" for an image in memory
	Err  error  // cause, whose text names the image
}

// Error returns the text of the cause, with escapes for characters that are not printable.
func (e *ImageError) Error() string { return e.Err.Error() }

// Unwrap returns the cause.
func (e *ImageError) Unwrap() error { return e.Err }

// countImages returns a count with its noun: "1 image", "2 images" or, with the kind "broken ", "2
// broken images".
func countImages(n int, kind string) string {
	if n == 1 {
		return fmt.Sprintf("1 %simage", kind)
	}
	return fmt.Sprintf("%d %simages", n, kind)
}

// countAre returns "1 image is" or a larger count with its noun and verb.
func countAre(n int) string {
	if n == 1 {
		return "1 image is"
	}
	return fmt.Sprintf("%d images are", n)
}

// ShorterSide returns the median of the shorter sides, in pixels, of at most 64 of the samples. It
// reads the headers of the images. Images whose size cannot be read do not count. It returns 0 if
// there are no others.
func ShorterSide(samples []Sample) int {
	const most = 64
	var sides []int
	for i := range min(most, len(samples)) {
		if w, h, err := samples[i*len(samples)/min(most, len(samples))].dimensions(); err == nil {
			sides = append(sides, min(w, h))
		}
	}
	if len(sides) == 0 {
		return 0
	}
	slices.Sort(sides)
	return sides[len(sides)/2]
}

// dimensions returns the width and the height of the image, in pixels, from its header. An
// orientation that the file states may exchange them.
func (s Sample) dimensions() (width, height int, err error) {
	if s.Image != nil {
		return s.Image.Width, s.Image.Height, nil
	}
	data, err := s.source().encoded()
	if err != nil {
		return 0, 0, err
	}
	f, err := sniff(data)
	if err != nil {
		return 0, 0, err
	}
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("broken %s: the decoder failed with %q", f.name, fmt.Sprint(p))
		}
	}()
	return f.size(data)
}
