package dataset

import (
	"context"
	"fmt"
	"sync"
)

// CheckOptions say what Dataset.CheckImages does besides decoding. The zero value only decodes.
type CheckOptions struct {
	// Cache keeps the images, resized by Transform, for loaders that share it. nil keeps none, and Transform is not used.
	Cache     *Cache
	Transform Transform

	// Workers is the number of images decoded at once; 0 means GOMAXPROCS.
	Workers int

	// Progress, if not nil, is called after every image, one call at a time.
	Progress func(done, total int)
}

// CheckImages decodes every image of the three splits once and finds those that are broken. In a data set opened with
// SkipBadImages they are removed from their split and listed in d.Skipped; otherwise they are the error, which names them.
// Doing this up front keeps the passes over the data the same from the first to the last. It must not run while loaders are
// made from d. It is an error if a class that val or test needs has no training image left, or if ctx is done; the splits
// are then as they were.
func (d *Dataset) CheckImages(ctx context.Context, o CheckOptions) error {
	if o.Cache != nil {
		if err := o.Transform.Validate(); err != nil {
			return fmt.Errorf("checking the images of data set %s: %w", d.Name, err)
		}
	}
	checked := *d
	total := len(d.Train) + len(d.Val) + len(d.Test)
	done := 0
	var mu sync.Mutex
	var broken []SkippedImage
	for _, s := range checked.splits() {
		samples := *s.samples
		bad := make([]error, len(samples))
		err := parallel(ctx, len(samples), o.Workers, func(i int) {
			if o.Cache != nil {
				_, bad[i] = o.Transform.load(samples[i], o.Cache)
			} else {
				_, bad[i] = samples[i].decode()
			}
			if o.Progress != nil {
				mu.Lock()
				defer mu.Unlock()
				done++
				o.Progress(done, total)
			}
		})
		if err != nil {
			return fmt.Errorf("checking the images of data set %s: %w", d.Name, err)
		}
		broken = append(broken, checked.remove(s, bad)...)
	}
	if len(broken) == 0 {
		return nil
	}
	if !d.skipBadImages {
		return fmt.Errorf("%s of data set %s cannot be decoded (opening with bad images skipped would leave them out): %w",
			countImages(len(broken), ""), d.Name, joinSkipped(broken))
	}
	if err := checked.check(); err != nil {
		return fmt.Errorf("data set %s: %w without its %s: %w", d.Name, err, countImages(len(broken), "broken "), joinSkipped(broken))
	}
	checked.Skipped = append(checked.Skipped[:len(checked.Skipped):len(checked.Skipped)], broken...)
	*d = checked
	return nil
}

// decode returns the sample's image.
func (s Sample) decode() (*RGB, error) {
	if s.Image != nil {
		if err := s.Image.check(); err != nil {
			return nil, &ImageError{Err: err}
		}
		return s.Image, nil
	}
	data, err := s.encoded()
	if err != nil {
		return nil, err
	}
	return s.decodeEncoded(data)
}

// encoded returns the image file of a sample that is not in memory. Its error is an *ImageError.
func (s Sample) encoded() (data []byte, err error) {
	if s.stored != nil {
		data, err = s.stored.encoded(s.row)
	} else {
		data, err = readImageFile(s.Path)
	}
	if err != nil {
		return nil, &ImageError{s.Path, err}
	}
	return data, nil
}

// decodeEncoded decodes what encoded returned. Its error is an *ImageError.
func (s Sample) decodeEncoded(data []byte) (*RGB, error) {
	m, err := decodeBytes(data)
	if err != nil {
		return nil, &ImageError{s.Path, fmt.Errorf("decoding image %s: %w", s.Path, err)}
	}
	return m, nil
}
