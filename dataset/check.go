package dataset

import (
	"cmp"
	"context"
	"fmt"
	"sync"

	"github.com/sptune/spt/progress"
)

// CheckOptions configures [Dataset.CheckImages]. With the zero value, CheckImages decodes the
// images and keeps none of them.
type CheckOptions struct {
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

// CheckImages decodes every image of the three splits once and finds the broken images. If d was
// opened with OpenOptions.SkipBadImages, CheckImages removes the broken images from their splits
// and lists them in d.Skipped. Otherwise it returns an error that names the first ten of them.
// After the check, every pass over the data reads the same images.
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
	checked := *d
	done := counter(len(d.Train)+len(d.Val)+len(d.Test), o.Progress)
	var broken []SkippedImage
	for _, s := range checked.splits() {
		samples, transform := *s.samples, o.Transform
		if s.samples == &checked.Train {
			transform = o.TrainTransform
		}
		bad := make([]error, len(samples))
		err := parallel(ctx, len(samples), o.Workers, func(i int) {
			if o.Cache != nil {
				_, bad[i] = transform.load(samples[i], o.Cache)
			} else {
				_, _, bad[i] = samples[i].read()
			}
			done()
		})
		if err != nil {
			return fmt.Errorf("checking the images of data set %s: %w", d.Name, err)
		}
		broken = append(broken, checked.remove(s, bad)...)
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

// counter returns a function that adds one to a count of images and reports the count. Total is the
// final count. Several goroutines may call the function at the same time.
func counter(total int, report progress.Func) func() {
	if report == nil {
		return func() {}
	}
	var mu sync.Mutex
	done := int64(0)
	return func() {
		mu.Lock()
		defer mu.Unlock()
		done++
		report(progress.Event{Stage: progress.Images, Done: done, Total: int64(total)})
	}
}
