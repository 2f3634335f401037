package dataset

import (
	"context"
	"fmt"
	"sync"

	"github.com/sptune/spt/progress"
)

// CheckOptions configures [Dataset.CheckImages]. The zero value only decodes.
type CheckOptions struct {
	// Cache receives the images, resized by Transform, for loaders that share the cache. Default
	// nil: the images are not kept and Transform has no effect.
	Cache     *Cache
	Transform Transform

	// Workers is the number of images that are decoded at once. Default 0: GOMAXPROCS.
	Workers int

	// Progress receives an event of stage progress.Images after every image, one event at a time.
	// Default nil: no events.
	Progress progress.Func
}

// CheckImages decodes every image of the three splits once and finds the broken ones. In a data set
// that was opened with SkipBadImages, CheckImages removes them from their splits and lists them in
// d.Skipped; otherwise the error names them. Because broken images are found before training, every
// pass over the data reads the same images.
//
// CheckImages must not run while loaders are made from d. It is an error if ctx is done, or if a
// class of val or test has no training image left; the splits are then unchanged.
func (d *Dataset) CheckImages(ctx context.Context, o CheckOptions) error {
	if o.Cache != nil {
		if err := o.Transform.Validate(); err != nil {
			return fmt.Errorf("checking the images of data set %s: %w", d.Name, err)
		}
	}
	checked := *d
	done := counter(len(d.Train)+len(d.Val)+len(d.Test), o.Progress)
	var broken []SkippedImage
	for _, s := range checked.splits() {
		samples := *s.samples
		bad := make([]error, len(samples))
		err := parallel(ctx, len(samples), o.Workers, func(i int) {
			if o.Cache != nil {
				_, bad[i] = o.Transform.load(samples[i], o.Cache)
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
		return fmt.Errorf("%s of data set %s cannot be decoded (the option to skip bad images leaves them out): %w",
			countImages(len(broken), ""), d.Name, joinSkipped(broken))
	}
	if err := checked.check(); err != nil {
		return fmt.Errorf("data set %s: %w without its %s: %w", d.Name, err, countImages(len(broken), "broken "), joinSkipped(broken))
	}
	checked.Skipped = append(checked.Skipped[:len(checked.Skipped):len(checked.Skipped)], broken...)
	if d.opened == nil {
		before := *d
		checked.opened = &before
	}
	*d = checked
	return nil
}

// counter returns a function that counts one of total images and reports the count. Several
// goroutines may call it at once.
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
