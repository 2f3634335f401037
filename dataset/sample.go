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
// an archive or a parquet file, or in memory.
type Sample struct {
	// Path identifies the image. It is the path of an image file. The path of a file in an archive
	// begins with the path of the archive, as if the archive were a folder. For a row of a parquet
	// file, it is the path of that file, "#", and the row, from 0. It is "" for an image in memory.
	Path string

	// Image is an image in memory, which replaces the image at Path. It must not change while the
	// sample is in use. Default: nil, and the image is read from Path.
	Image *RGB

	// Target is the annotation of the image, such as a [Class] for an image with one label. It may
	// be nil only for images whose target is to be predicted.
	Target Target

	// Group names the group that the image belongs to, such as a patient or an object that several
	// images show. [Open] keeps the images of a group in one split, if it makes the splits. It is
	// "" for an image that is a group of its own.
	Group string

	// Where is the place that lists the sample. Error messages show it. Examples:
	// "train800.txt:17", "train/dress", `train.json: "a.jpg"`.
	Where string

	// stored reads an image inside another file. It is nil for an image file or an image in memory.
	stored stored
}

// stored is an encoded image inside another file, for example in a row of a parquet file.
type stored interface {
	// encoded returns the bytes of the image, which are the contents of an image file. Several
	// goroutines may call it at the same time. Errors name the image.
	encoded() ([]byte, error)
	// size returns the number of these bytes if it is known without reading the image. Otherwise it
	// returns a negative number.
	size() int64
	// file returns the path of the file that the image is in.
	file() string
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
	m, _, encoded, err = s.readReduced(0)
	return m, encoded, err
}

// readReduced does the same as read for an image that is then resized to a shorter side of short
// pixels; see [decodeReduced].
func (s Sample) readReduced(short int) (m *RGB, part frame, encoded []byte, err error) {
	if s.Image != nil {
		if err := s.Image.check(); err != nil {
			return nil, frame{}, nil, &ImageError{Err: err}
		}
		return s.Image, whole(s.Image), nil, nil
	}
	if encoded, err = s.source().encoded(); err != nil {
		return nil, frame{}, nil, &ImageError{s.Path, err}
	}
	if m, part, err = decodeReduced(encoded, short); err != nil {
		return nil, frame{}, encoded, &ImageError{s.Path, fmt.Errorf("decoding image %s: %w", s.Path, err)}
	}
	return m, part, encoded, nil
}

// encoded returns the contents of the file. It returns an error if the file is not regular or has
// more than maxEncodedBytes.
func (f imageFile) encoded() (data []byte, err error) {
	err = f.reading(func(file *os.File, size int64) error {
		// The buffer is allocated once with the right size. io.ReadAll would grow it in steps.
		data = make([]byte, size)
		_, err := io.ReadFull(file, data)
		return err
	})
	if err != nil {
		return nil, err
	}
	return data, nil
}

// ends implements partial.
func (f imageFile) ends(n int) (first, last []byte, size int64, err error) {
	err = f.reading(func(file *os.File, bytes int64) (err error) {
		size = bytes
		first, last, err = endsOf(file, size, n)
		return err
	})
	return first, last, size, err
}

// endsOf returns the first and the last bytes of a file of the given size, at most n of each.
func endsOf(r io.ReaderAt, size int64, n int) (first, last []byte, err error) {
	first = make([]byte, min(int64(n), size))
	if size == 0 { // a SectionReader returns io.EOF
		return first, first, nil
	}
	if _, err := r.ReadAt(first, 0); err != nil {
		return nil, nil, noEOF(err)
	}
	if size <= int64(n) {
		return first, first, nil
	}
	last = make([]byte, n)
	_, err = r.ReadAt(last, size-int64(n))
	return first, last, noEOF(err)
}

// noEOF returns io.ErrUnexpectedEOF for io.EOF, and other errors as they are.
func noEOF(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}

// reading calls read with the open file and its size in bytes. It returns an error if the file is
// not regular or has more than maxEncodedBytes.
func (f imageFile) reading(read func(file *os.File, size int64) error) error {
	path := string(f)
	info, err := findFile(disk{}, path)
	if err != nil {
		return err
	}
	size := info.Size()
	if size > maxEncodedBytes {
		return fmt.Errorf("image %s has %d bytes, more than the limit of %d bytes", path, size, maxEncodedBytes)
	}
	file, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("opening image: %w", err)
	}
	defer file.Close()
	if err := read(file, size); err != nil {
		return fmt.Errorf("reading image %s: %w", path, err)
	}
	return nil
}

// size returns the size of a regular file.
func (f imageFile) size() int64 {
	info, err := os.Stat(string(f))
	if err != nil || !info.Mode().IsRegular() {
		return -1
	}
	return info.Size()
}

func (f imageFile) file() string { return string(f) }

// findFile checks that an image file exists and is a regular file. It does not open the file,
// because opening a pipe waits for its writer. Errors are of type *[ImageError].
func findFile(at files, path string) (fs.FileInfo, error) {
	info, err := at.stat(path)
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
	return f.dimensions(data)
}
