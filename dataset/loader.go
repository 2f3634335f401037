package dataset

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"iter"
	"math/rand/v2"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
)

// Batch holds N images of one size and their targets. The receiver may change it.
type Batch struct {
	Pixels  []uint8  // [N, Size, Size, 3], red green blue, 0…255
	Targets []Target // [N]
	N       int      // number of images
}

// LoaderOptions configures a [Loader]. No option changes the batches.
type LoaderOptions struct {
	// Workers is the number of images that are decoded at once. Default 0: GOMAXPROCS.
	Workers int

	// Prefetch is the number of batches that are loaded ahead of the consumer. Default 0: 2
	// batches.
	Prefetch int

	// Root is the folder in which the paths of the samples begin, usually Dataset.Root.
	// Loader.Fingerprint then does not change when the data set is moved. Default "": the whole
	// paths count.
	Root string
}

// Loader reads samples, decodes and transforms their images, and yields them in batches.
type Loader struct {
	samples   []Sample
	transform Transform
	cache     *Cache
	options   LoaderOptions
}

// NewLoader returns a loader of samples, which must not change afterwards. cache may be shared with
// other loaders; nil means no cache. If the transform is invalid, the first batch has the error.
func NewLoader(samples []Sample, t Transform, cache *Cache, o LoaderOptions) *Loader {
	if o.Workers <= 0 {
		o.Workers = runtime.GOMAXPROCS(0)
	}
	if o.Prefetch <= 0 {
		o.Prefetch = 2
	}
	return &Loader{samples, t, cache, o}
}

// Len returns the number of samples.
func (l *Loader) Len() int { return len(l.samples) }

// Part returns a loader of n of the samples, beginning with sample first.
func (l *Loader) Part(first, n int) *Loader {
	return &Loader{l.samples[first : first+n], l.transform, l.cache, l.options}
}

// Fingerprint returns a SHA-256, in hex, of the transform and of every sample: its path, target,
// where it is listed, and the pixels of an image in memory. Two loaders with the same fingerprint
// yield the same batches as long as the image files do not change.
func (l *Loader) Fingerprint() string {
	h := sha256.New() // its Write never fails
	fmt.Fprintf(h, "%+v\n", l.transform)
	for _, s := range l.samples {
		fmt.Fprintf(h, "%q %s %q\n", relative(l.options.Root, s.Path), s.Target, s.Where)
		if s.Image != nil {
			h.Write(s.Image.Pix)
		}
	}
	return hex.EncodeToString(h.Sum(nil))
}

// Shuffle returns a permutation of 0 … n-1 that depends on n, seed and epoch only.
func Shuffle(n int, seed uint64, epoch int) []int {
	return rand.New(rand.NewPCG(seed, uint64(epoch))).Perm(n)
}

// pending is a batch that is being loaded.
type pending struct {
	batch *Batch
	errs  []error       // [N]
	left  atomic.Int64  // number of images that are not loaded yet
	done  chan struct{} // closed when no image is left
}

// task loads sample index into slot of a batch.
type task struct {
	to          *pending
	slot, index int
}

// Batches yields the batches of one pass over the samples. order holds indices of samples; nil
// means all samples in their order. The last batch may have fewer than batchSize images; dropLast
// leaves such a batch out.
//
// Random crops and flips depend on seed, epoch and the index of the sample, never on the number of
// workers, the order or the batch size.
//
// The pass ends with an error if an image cannot be decoded, or if ctx is done. The error names the
// image and where it is listed. When the loop over the batches ends, early or not, all goroutines
// of the pass have returned. Several passes may run at once.
func (l *Loader) Batches(ctx context.Context, order []int, batchSize int, dropLast bool, seed uint64, epoch int) iter.Seq2[*Batch, error] {
	return func(yield func(*Batch, error) bool) {
		order := order
		if order == nil {
			order = make([]int, len(l.samples))
			for i := range order {
				order[i] = i
			}
		}
		if err := l.checkPass(order, batchSize); err != nil {
			yield(nil, err)
			return
		}
		if dropLast {
			order = order[:len(order)-len(order)%batchSize]
		}

		ctx, cancel := context.WithCancel(ctx)
		var running sync.WaitGroup
		defer running.Wait()
		defer cancel()

		tasks := make(chan task)
		ahead := make(chan *pending, l.options.Prefetch)
		running.Go(func() {
			defer close(ahead)
			defer close(tasks)
			l.produce(ctx, order, batchSize, ahead, tasks)
		})
		for range l.options.Workers {
			running.Go(func() {
				for t := range tasks {
					l.work(t, seed, epoch)
				}
			})
		}

		for p := range ahead {
			select {
			case <-p.done:
			case <-ctx.Done():
				yield(nil, fmt.Errorf("loading images: %w", ctx.Err()))
				return
			}
			for _, err := range p.errs {
				if err != nil {
					yield(nil, err)
					return
				}
			}
			if !yield(p.batch, nil) {
				return
			}
		}
		if ctx.Err() != nil {
			yield(nil, fmt.Errorf("loading images: %w", ctx.Err()))
		}
	}
}

// checkPass returns an error if a pass with these arguments is not possible.
func (l *Loader) checkPass(order []int, batchSize int) error {
	if err := l.transform.Validate(); err != nil {
		return err
	}
	if batchSize < 1 {
		return fmt.Errorf("loading images: batch size %d is not positive", batchSize)
	}
	for i, index := range order {
		if index < 0 || index >= len(l.samples) {
			return fmt.Errorf("loading images: order[%d] is %d, but there are %d samples", i, index, len(l.samples))
		}
	}
	return nil
}

// produce sends every batch to the consumer, which waits until it is loaded, and then the images of
// the batch to the workers.
func (l *Loader) produce(ctx context.Context, order []int, batchSize int, ahead chan<- *pending, tasks chan<- task) {
	size := l.transform.Size
	for indices := range slices.Chunk(order, batchSize) {
		n := len(indices)
		p := &pending{
			batch: &Batch{Pixels: make([]uint8, n*size*size*3), Targets: make([]Target, n), N: n},
			errs:  make([]error, n),
			done:  make(chan struct{}),
		}
		p.left.Store(int64(n))
		select {
		case ahead <- p:
		case <-ctx.Done():
			return
		}
		for slot, index := range indices {
			select {
			case tasks <- task{p, slot, index}:
			case <-ctx.Done():
				return
			}
		}
	}
}

// work loads one image into its slot of the batch.
func (l *Loader) work(t task, seed uint64, epoch int) {
	s := l.samples[t.index]
	m, err := l.transform.load(s, l.cache)
	if err != nil {
		t.to.errs[t.slot] = fmt.Errorf("%s: %w", s.Where, err)
	} else {
		imageBytes := 3 * l.transform.Size * l.transform.Size
		l.transform.finish(t.to.batch.Pixels[t.slot*imageBytes:][:imageBytes], m, seed, epoch, t.index)
		t.to.batch.Targets[t.slot] = s.Target
	}
	if t.to.left.Add(-1) == 0 {
		close(t.to.done)
	}
}

// Transform returns the transform of the images.
func (l *Loader) Transform() Transform { return l.transform }

// Fixed returns a loader of the same samples with the part of the transform that is the same in
// every pass. It yields squares, from which [Transform.Place] says what to crop and whether to
// mirror the crop. ok is false if no square holds everything that the transform may crop: a random
// crop from images that keep their shape.
func (l *Loader) Fixed() (fixed *Loader, ok bool) {
	t, ok := l.transform.fixed()
	return &Loader{l.samples, t, l.cache, l.options}, ok
}
