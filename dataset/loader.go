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

// Batch is N images of one size with their labels. It belongs to whoever received it.
type Batch struct {
	Pixels  []uint8  // [N, Size, Size, 3], RGB, 0…255
	Targets []Target // [N]
	N       int
}

// LoaderOptions say how far and how wide a Loader works ahead. Neither changes what it yields.
type LoaderOptions struct {
	Workers  int // images decoded at once; 0 means GOMAXPROCS
	Prefetch int // batches finished or in work ahead of the consumer; 0 means 2
	// Root is where the paths of samples begin for Fingerprint, which then does not change when the data set is moved; empty: they
	// are taken as they are.
	Root string
}

// Loader turns samples into batches of pixels.
type Loader struct {
	samples   []Sample
	transform Transform
	cache     *Cache
	options   LoaderOptions
}

// NewLoader returns a loader of samples, which nobody may change afterwards. cache may be nil, which means none, or shared
// with other loaders. An invalid transform is the error of the first batch.
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

// Part is a loader of n of the samples, from first on.
func (l *Loader) Part(first, n int) *Loader {
	return &Loader{l.samples[first : first+n], l.transform, l.cache, l.options}
}

// Fingerprint is a SHA-256, in hex, of what the loader reads and how: the transform, and of each sample its path, label, where
// it is listed, and the pixels of an image in memory. Two loaders with the same yield the same batches while the files stay as
// they are.
func (l *Loader) Fingerprint() string {
	h := sha256.New() // which never fails
	fmt.Fprintf(h, "%+v\n", l.transform)
	for _, s := range l.samples {
		fmt.Fprintf(h, "%q %s %q\n", relative(l.options.Root, s.Path), s.Target, s.Where)
		if s.Image != nil {
			h.Write(s.Image.Pix)
		}
	}
	return hex.EncodeToString(h.Sum(nil))
}

// Shuffle returns a permutation of 0 … n-1 that depends on seed and epoch only.
func Shuffle(n int, seed uint64, epoch int) []int {
	return rand.New(rand.NewPCG(seed, uint64(epoch))).Perm(n)
}

// pending is a batch in work.
type pending struct {
	batch *Batch
	errs  []error      // [N]
	left  atomic.Int64 // images not yet done
	done  chan struct{}
}

// task is one image of a batch: sample index into slot.
type task struct {
	to          *pending
	slot, index int
}

// Batches yields the batches of one pass. order are indices of the samples; nil means all in list order. The last batch may
// have fewer than batchSize images; dropLast leaves such a one out.
//
// Random crops and flips depend on seed, epoch and the sample's index, never on workers, order or batch size.
//
// An image that cannot be decoded ends the pass with an error that names the file and where it is listed; so does the end
// of ctx. When the loop over the batches ends, early or not, all of the loader's goroutines have returned. Several passes
// may run at once.
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

// produce hands every batch to the consumer before it hands its images to the workers: the consumer waits for done.
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

// work loads one image into its place in the batch.
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

// Transform is what the loader makes of images.
func (l *Loader) Transform() Transform { return l.transform }

// Fixed is a loader of the same samples as [Transform.Fixed] has them; ok as there.
func (l *Loader) Fixed() (fixed *Loader, ok bool) {
	t, ok := l.transform.Fixed()
	return &Loader{l.samples, t, l.cache, l.options}, ok
}

// Augments reports whether two passes over the same samples can differ: whether the transform crops or flips at random.
func (l *Loader) Augments() bool { return l.transform.RandomCrop || l.transform.HorizontalFlip }
