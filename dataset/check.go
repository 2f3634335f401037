package dataset

import (
	"bytes"
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"sync"

	"github.com/sptune/spt/progress"
)

// CheckOptions configures [Dataset.CheckImages]. With the zero value, CheckImages decodes the
// images and keeps none of them.
type CheckOptions struct {
	// Quick decodes no image only to check it: CheckImages decodes the images that Cache has room
	// for. Of all others it reads the first and the last bytes, if they can be read alone, as in
	// image files and in archives without compression. They show missing and empty files, files
	// that are no images, and images that are cut short. An image whose bytes look wrong is decoded
	// to be certain. Damage inside an image shows when a loader reads it first. Default: false, and
	// CheckImages decodes all images.
	Quick bool

	// Splits holds the names of the splits to check: "train", "val" and "test". Default: nil, which
	// checks all splits.
	Splits []string

	// Cache receives the resized images, so that loaders that share the cache need not decode them
	// again. Default: nil, which keeps no images.
	Cache *Cache

	// Transform resizes the images for Cache. It has no effect if Cache is nil.
	Transform Transform

	// TrainTransform resizes the images of the train split for Cache. Default: Transform.
	TrainTransform Transform

	// Workers is the number of images that are decoded at the same time. Zero means GOMAXPROCS.
	Workers int

	// Progress receives an event of stage progress.Images after every image. Calls do not overlap.
	// Default: nil, which reports no progress.
	Progress progress.Func
}

// CheckImages reads every image once and finds the broken images. If d was opened with
// OpenOptions.SkipBadImages, CheckImages removes the broken images from their splits and lists them
// in d.Skipped. Otherwise it returns an error that names the first ten of them. After a check that
// is not quick, every pass over the data reads the same images.
//
// Call CheckImages before making loaders from d. CheckImages also returns an error if ctx is done,
// if a transform is invalid, if no training image is left, or if a class of val or test has no
// training image left. An error leaves the splits unchanged.
func (d *Dataset) CheckImages(ctx context.Context, o CheckOptions) error {
	o.TrainTransform = cmp.Or(o.TrainTransform, o.Transform)
	if o.Cache != nil {
		for _, t := range []Transform{o.Transform, o.TrainTransform} {
			if err := t.Validate(); err != nil {
				return fmt.Errorf("checking the images of data set %s: %w", d.Name, err)
			}
		}
	}
	total := 0
	var checked []split
	for _, s := range d.splits() {
		if o.Splits == nil || slices.Contains(o.Splits, s.name) {
			checked = append(checked, s)
			total += len(*s.samples)
		}
	}
	done := counter(total, progress.Images, o.Progress)
	bad := make(map[string][]error)
	for _, s := range checked {
		samples, transform := *s.samples, o.Transform
		if s.samples == &d.Train {
			transform = o.TrainTransform
		}
		errs := make([]error, len(samples))
		err := parallel(ctx, len(samples), o.Workers, func(i int) {
			errs[i] = o.check(samples[i], transform)
			done()
		})
		if err != nil {
			return fmt.Errorf("checking the images of data set %s: %w", d.Name, err)
		}
		bad[s.name] = errs
	}
	return d.skip(bad)
}

// check reads an image that t resizes.
func (o CheckOptions) check(s Sample, t Transform) (err error) {
	switch {
	case o.Quick && !o.Cache.hasRoom(t.cacheKey(s)):
		return s.checkEnds()
	case o.Cache != nil:
		_, err = t.load(s, o.Cache)
	default:
		_, _, err = s.read()
	}
	return err
}

// skip removes the images that have an error from their splits, if d skips bad images, and returns
// an error otherwise. bad[name][i] is the error of sample i of a split.
func (d *Dataset) skip(bad map[string][]error) error {
	checked := *d
	var broken []SkippedImage
	for _, s := range checked.splits() {
		if errs := bad[s.name]; slices.ContainsFunc(errs, func(err error) bool { return err != nil }) {
			broken = append(broken, checked.remove(s, errs)...)
		}
	}
	if len(broken) == 0 {
		return nil
	}
	if !d.Options.SkipBadImages {
		return fmt.Errorf("%s of data set %s cannot be decoded; repair or remove the broken images, or skip bad images: %w",
			countImages(len(broken), ""), d.Name, joinSkipped(broken))
	}
	if err := checked.check(); err != nil {
		return fmt.Errorf("data set %s: %w after skipping %s: %w", d.Name, err, countImages(len(broken), "broken "), joinSkipped(broken))
	}
	checked.Skipped = append(checked.Skipped[:len(checked.Skipped):len(checked.Skipped)], broken...)
	if d.opened == nil {
		before := *d
		checked.opened = &before
	}
	*d = checked
	return nil
}

// SkipImages removes images that an earlier check found broken from their splits and lists them in
// d.Skipped, without reading them. reason returns why the image with a name cannot be read, and ""
// for all other images; see [Dataset.NameOf]. SkipImages returns an error if d was opened without
// OpenOptions.SkipBadImages; other errors are as for [Dataset.CheckImages].
func (d *Dataset) SkipImages(reason func(name string) string) error {
	bad := make(map[string][]error)
	for _, s := range d.splits() {
		errs := make([]error, len(*s.samples))
		for i, sample := range *s.samples {
			if sample.Path == "" {
				continue
			}
			if why := reason(d.NameOf(sample)); why != "" {
				errs[i] = &ImageError{sample.Path, errors.New(why)}
			}
		}
		bad[s.name] = errs
	}
	return d.skip(bad)
}

// endBytes is the number of the first and of the last bytes of an image that a quick check reads.
// The first bytes hold the size of the image, unless a large colour profile or thumbnail comes
// before it.
const endBytes = 16 << 10

// partial is a stored image whose bytes may be read in part.
type partial interface {
	// ends returns the first and the last bytes of the encoded image, at most n of each, and the
	// number of all bytes. first is nil if the bytes cannot be read in part.
	ends(n int) (first, last []byte, size int64, err error)
}

// checkEnds checks an image by its first and last bytes; see CheckOptions.Quick.
func (s Sample) checkEnds() error {
	if s.Image != nil {
		_, _, err := s.read()
		return err
	}
	in, ok := s.source().(partial)
	if !ok {
		return nil
	}
	first, last, size, err := in.ends(endBytes)
	switch {
	case err != nil:
		return &ImageError{s.Path, err}
	case first == nil || seemsWhole(first, last, size):
		return nil
	}
	encoded, err := s.source().encoded()
	if err != nil {
		return &ImageError{s.Path, err}
	}
	if seemsWhole(encoded, last, size) {
		return nil
	}
	if _, err := decodeImage(encoded); err != nil {
		return &ImageError{s.Path, fmt.Errorf("decoding image %s: %w", s.Path, err)}
	}
	return nil
}

// seemsWhole reports whether the first and the last bytes of an image file of the given size state
// the format and a possible size of the image, and the end of the file, as far as the format does.
func seemsWhole(first, last []byte, size int64) bool {
	f, err := sniff(first)
	if err != nil {
		return false
	}
	width, height, err := f.dimensions(first)
	if err != nil || checkSize(f.name, width, height) != nil {
		return false
	}
	switch f.name {
	case "jpeg": // a marker does not occur in the pixels
		return bytes.Contains(last, []byte("\xff\xd9"))
	case "png":
		return bytes.Contains(last, []byte("IEND"))
	case "webp":
		return int64(binary.LittleEndian.Uint32(first[4:]))+8 <= size
	}
	return true
}

// counter returns a function that adds one to a count of images and reports the count in events of
// a stage. Total is the final count. Several goroutines may call the function at the same time.
func counter(total int, stage progress.Stage, report progress.Func) func() {
	if report == nil {
		return func() {}
	}
	var mu sync.Mutex
	done := int64(0)
	return func() {
		mu.Lock()
		defer mu.Unlock()
		done++
		report(progress.Event{Stage: stage, Done: done, Total: int64(total)})
	}
}
