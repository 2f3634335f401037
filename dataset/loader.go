package dataset

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"iter"
	"math/rand/v2"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
)

// Batch is a mini-batch: N images of the same size and their targets. The receiver may change it.
type Batch struct {
	Pixels  []uint8  // [N, Size, Size, 3]; the channels are red, green and blue, from 0 to 255
	Targets []Target // [N]
	N       int      // number of images
	// Others holds the target of the image that is mixed into each image. Nil without mixing.
	Others []Target
	// Shares[i] is the weight of Targets[i] in the loss of image i, from 0 to 1; Others[i] has the
	// rest. Nil without mixing.
	Shares []float32
}

// LoaderOptions configures a [Loader]. The options do not change the contents of the mini-batches.
type LoaderOptions struct {
	// Workers is the number of images that are decoded at the same time. Zero means GOMAXPROCS.
	Workers int

	// Prefetch is the number of mini-batches that are loaded ahead of the consumer. Default: 2.
	Prefetch int

	// Root is the folder of the data set, usually Dataset.Root. [Loader.Fingerprint] uses the paths
	// of the samples relative to Root, so moving the data set does not change the fingerprint.
	// Default: "", which uses the whole paths.
	Root string
}

// Loader loads the images of a list of samples. It decodes and transforms the images and yields
// them in mini-batches.
type Loader struct {
	samples   []Sample
	transform Transform
	cache     *Cache
	options   LoaderOptions
}

// NewLoader returns a loader of samples, which must not change afterwards. Several loaders may
// share cache; nil means no cache. If t is invalid, [Loader.Batches] yields only an error.
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

// Part returns a loader of the n samples that begin with sample number first. It panics if there
// are fewer samples.
func (l *Loader) Part(first, n int) *Loader {
	return &Loader{l.samples[first : first+n], l.transform, l.cache, l.options}
}

// Fingerprint returns a SHA-256 hash, in hex, of the transform and the samples. For every sample,
// the hash covers the path, the target, the place that lists the sample, and the pixels of an image
// in memory. Two loaders with the same fingerprint yield the same mini-batches as long as the image
// files do not change.
func (l *Loader) Fingerprint() string {
	h := sha256.New() // its Write never fails
	// The fields that every version of the program has had. TestFlip changes no mini-batch.
	t := struct {
		Size                       int
		Resize                     string
		ResizeTo                   int
		RandomCrop, HorizontalFlip bool
	}{l.transform.Size, l.transform.Resize, l.transform.ResizeTo, l.transform.RandomCrop, l.transform.HorizontalFlip}
	fmt.Fprintf(h, "%+v\n", t)
	if a := l.transform.Augment; a != (Augment{}) {
		text, _ := json.Marshal(a.WithDefaults()) // fails only for NaN, which Validate refuses
		fmt.Fprintf(h, "%s %v\n", text, a.Fill)
	}
	for _, s := range l.samples {
		fmt.Fprintf(h, "%q %s %q\n", relative(l.options.Root, s.Path), s.Target, s.Where)
		if s.Image != nil {
			h.Write(s.Image.Pix)
		}
	}
	return hex.EncodeToString(h.Sum(nil))
}

// Shuffle returns a random permutation of 0 … n-1. It depends only on n, seed and epoch.
func Shuffle(n int, seed uint64, epoch int) []int {
	return rand.New(rand.NewPCG(seed, uint64(epoch))).Perm(n)
}

// pending is a mini-batch that is being loaded.
type pending struct {
	batch *Batch
	first int           // index of the first sample
	errs  []error       // [N]
	left  atomic.Int64  // number of images that are still to be loaded
	done  chan struct{} // closed when all images are loaded
}

// task asks a worker to load one sample into one place of a mini-batch.
type task struct {
	to    *pending
	slot  int // place in the mini-batch
	index int // index of the sample
}

// Batches yields the mini-batches of one pass over the samples. order holds the indices of the
// samples to load; nil means all samples in their order. The last mini-batch may have fewer than
// batchSize images. An index of [Loader.Len] or more stands for the sample index mod Len, with
// other random crops and flips, so that a pass can repeat samples.
//
// The augmentation of an image depends only on seed, epoch and the index of the sample. The number
// of workers, the order and the batch size do not change it. How Mixup and CutMix mix a mini-batch
// depends only on seed, epoch and its samples, so a pass over the rest of an order, as after an
// interruption, gives the same mini-batches.
//
// The pass ends with an error if an argument or the transform is invalid, if an image cannot be
// decoded, or if ctx is done. The error names the image and the place that lists it. When the loop
// over the mini-batches ends, early or not, all goroutines of the pass have returned. If ctx is
// done, they return after the images that they read, for which the loop does not wait: a disk may
// not deliver an image. Several passes may run at the same time.
func (l *Loader) Batches(ctx context.Context, order []int, batchSize int, seed uint64, epoch int) iter.Seq2[*Batch, error] {
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

		outer := ctx
		ctx, cancel := context.WithCancel(ctx)
		var running sync.WaitGroup
		defer func() {
			cancel()
			if outer.Err() == nil {
				running.Wait()
			}
		}()

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

// checkPass returns an error if the transform or an argument of Batches is invalid.
func (l *Loader) checkPass(order []int, batchSize int) error {
	if err := l.transform.Validate(); err != nil {
		return err
	}
	if batchSize < 1 {
		return fmt.Errorf("loading images: batch size %d is not positive; give 1 or more", batchSize)
	}
	for i, index := range order {
		if index < 0 || len(l.samples) == 0 {
			return fmt.Errorf("loading images: order[%d] is %d, but there are %d samples, with indices from 0", i, index, len(l.samples))
		}
	}
	return nil
}

// produce sends every mini-batch to the consumer and then its images to the workers. The consumer
// waits until the mini-batch is loaded. The capacity of ahead limits the prefetch.
func (l *Loader) produce(ctx context.Context, order []int, batchSize int, ahead chan<- *pending, tasks chan<- task) {
	size := l.transform.Size
	for indices := range slices.Chunk(order, batchSize) {
		n := len(indices)
		p := &pending{
			batch: &Batch{Pixels: make([]uint8, n*size*size*3), Targets: make([]Target, n), N: n},
			first: indices[0],
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

// work loads one image into its place in the mini-batch. The worker that loads the last image mixes
// the images.
func (l *Loader) work(t task, seed uint64, epoch int) {
	s := l.samples[t.index%len(l.samples)]
	m, err := l.transform.load(s, l.cache)
	if err == nil {
		imageBytes := 3 * l.transform.Size * l.transform.Size
		if err = l.transform.finish(t.to.batch.Pixels[t.slot*imageBytes:][:imageBytes], m, seed, epoch, t.index); err != nil {
			err = &ImageError{s.Path, fmt.Errorf("%s: %w", s.name(), err)}
		}
		t.to.batch.Targets[t.slot] = s.Target
	}
	if err != nil {
		t.to.errs[t.slot] = fmt.Errorf("%s: %w", s.Where, err)
	}
	if t.to.left.Add(-1) > 0 {
		return
	}
	if a := l.transform.Augment; a.Mixes() {
		a.mix(t.to.batch, l.transform.Size, stream(mixStream, seed, epoch, t.to.first))
	}
	close(t.to.done)
}

// Transform returns the transform of the images.
func (l *Loader) Transform() Transform { return l.transform }

// Fixed returns a loader of the same samples without the random part of the transform. Its images
// are squares and are the same in every pass. A caller can store them, for example on a GPU, and
// crop and flip them in each pass as [Transform.Place] returns.
//
// ok is false for a random crop with Resize "crop". The images then keep their aspect ratio, and no
// square contains every possible crop. ok is also false with a Transform.Augment, whose random part
// is more than a crop and a flip.
func (l *Loader) Fixed() (fixed *Loader, ok bool) {
	t, ok := l.transform.fixed()
	return &Loader{l.samples, t, l.cache, l.options}, ok
}
