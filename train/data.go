package train

import (
	"context"
	"iter"
	"slices"

	"github.com/gomlx/gomlx/core/tensors"

	"github.com/sptune/spt/backend"
	"github.com/sptune/spt/dataset"
)

// Data is what training and evaluation read: images from a loader, or the
// features of images. On a device that is not the processor its images are kept
// there from the first pass on, if they fit. One goroutine may use it at a time.
type Data struct {
	loader *dataset.Loader
	size   int                           // side of the images, px
	kept   map[backend.Backend]*resident // nil for a device on which they do not fit
	whole  *Data                         // of which this is a part, from its sample first on; nil: of none
	first  int
	parts  map[[2]int]*Data // of this, by first sample and number

	features []float32 // [N, width]
	labels   []int32
	width    int
}

// Images is data read through a loader whose transform yields size px.
func Images(loader *dataset.Loader, size int) *Data {
	return &Data{loader: loader, size: size, kept: map[backend.Backend]*resident{}}
}

// Part is n samples of d, from first on, the same Data each time. A device keeps their images
// once, with those of d. d reads images, not features.
func (d *Data) Part(first, n int) *Data {
	key := [2]int{first, n}
	if d.parts[key] == nil {
		if d.parts == nil {
			d.parts = map[[2]int]*Data{}
		}
		d.parts[key] = &Data{loader: d.loader.Part(first, n), size: d.size, kept: map[backend.Backend]*resident{}, whole: d, first: first}
	}
	return d.parts[key]
}

// Len is the number of samples.
func (d *Data) Len() int {
	if d.loader == nil {
		return len(d.labels)
	}
	return d.loader.Len()
}

// batch is one batch on the backend, and its labels on the host too. What there is
// more on the backend than labels on the host fills up a last batch, so that it needs
// no program of its own.
type batch struct {
	images, labels *tensors.Tensor
	host           []int32
}

func (b batch) free() { backend.Free(b.images, b.labels) }

// augments reports whether two passes over the images differ.
func (d *Data) augments() bool {
	return d.loader != nil && d.loader.Augments()
}

// batches yields the samples in the given order (nil: as they are). seed and
// epoch decide random crops and flips.
func (d *Data) batches(ctx context.Context, be backend.Backend, order []int, size int, dropLast bool, seed uint64, epoch int) iter.Seq2[batch, error] {
	if d.loader == nil {
		return d.featureBatches(ctx, be, order, size, dropLast)
	}
	return func(yield func(batch, error) bool) {
		r, err := d.resident(ctx, be)
		if err != nil {
			yield(batch{}, err)
			return
		}
		if r != nil {
			r.batches(ctx, d, order, size, dropLast, seed, epoch, yield)
			return
		}
		for b, err := range d.loader.Batches(ctx, order, size, dropLast, seed, epoch) {
			if err != nil {
				yield(batch{}, err)
				return
			}
			labels := classIDs(b.Targets)
			out, n, pixels := batch{host: labels}, b.N, b.Pixels
			if backend.OnDevice(be) && n < size {
				pixels = append(pixels, make([]uint8, (size-n)*d.size*d.size*3)...)
				labels, n = append(slices.Clone(labels), make([]int32, size-n)...), size
			}
			if out.images, err = backend.Uint8(be, pixels, n, d.size, d.size, 3); err == nil {
				out.labels, err = backend.Int32(be, labels, n)
			}
			if !yield(out, err) || err != nil {
				return
			}
		}
	}
}

// classIDs returns the class id of each target.
func classIDs(targets []dataset.Target) []int32 {
	ids := make([]int32, len(targets))
	for i, t := range targets {
		ids[i] = int32(t.Stratum())
	}
	return ids
}

func (d *Data) featureBatches(ctx context.Context, be backend.Backend, order []int, size int, dropLast bool) iter.Seq2[batch, error] {
	return func(yield func(batch, error) bool) {
		n := len(d.labels)
		if order != nil {
			n = len(order)
		}
		for i := 0; i < n; i += size {
			if dropLast && i+size > n {
				return
			}
			var rows []float32
			var out batch
			for j := i; j < min(i+size, n); j++ {
				k := j
				if order != nil {
					k = order[j]
				}
				rows = append(rows, d.features[k*d.width:(k+1)*d.width]...)
				out.host = append(out.host, d.labels[k])
			}
			err := ctx.Err()
			if err == nil {
				out.images, err = backend.Tensor(be, rows, len(out.host), d.width)
			}
			if err == nil {
				out.labels, err = backend.Int32(be, out.host, len(out.host))
			}
			if !yield(out, err) || err != nil {
				return
			}
		}
	}
}
