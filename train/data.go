package train

import (
	"context"
	"fmt"
	"iter"
	"slices"

	"github.com/gomlx/gomlx/core/tensors"

	"github.com/sptune/spt/backbone"
	"github.com/sptune/spt/backend"
	"github.com/sptune/spt/dataset"
	"github.com/sptune/spt/internal/program"
	"github.com/sptune/spt/objective"
)

// Data is what training and evaluation read: images from a loader, or the features of images, with
// targets encoded by an objective. On a device other than the processor the images stay there from
// the first pass on, if they fit. One goroutine may use a Data at a time.
type Data struct {
	loader     *dataset.Loader // nil: the data is features
	objective  objective.Objective
	config     backbone.Config
	targetSize int                           // values in the encoded target of one image
	kept       map[backend.Backend]*resident // nil for a device on which the images do not fit
	whole      *Data                         // the data that this is a part of; nil: none
	first      int                           // first sample of the part in whole
	// parts of this data, by first sample and number of samples
	parts map[[2]int]*Data

	features []float32 // [N, width]
	targets  []int32   // encoded targets of the features, [N, targetSize]
	width    int       // values in the features of one image
}

// Images returns data that is read through a loader, whose transform yields images of the
// backbone's image size. The objective encodes the targets.
func Images(loader *dataset.Loader, o objective.Objective, c backbone.Config) *Data {
	return &Data{loader: loader, objective: o, config: c, targetSize: objective.TargetSize(o, c), kept: map[backend.Backend]*resident{}}
}

// Part returns n samples of d, starting with first; the same Data for the same arguments. A device
// keeps their images once, together with those of d. d must read images, not features.
func (d *Data) Part(first, n int) *Data {
	key := [2]int{first, n}
	if d.parts[key] == nil {
		if d.parts == nil {
			d.parts = map[[2]int]*Data{}
		}
		part := Images(d.loader.Part(first, n), d.objective, d.config)
		part.whole, part.first = d, first
		d.parts[key] = part
	}
	return d.parts[key]
}

// Len returns the number of samples.
func (d *Data) Len() int {
	if d.loader == nil {
		return len(d.targets) / d.targetSize
	}
	return d.loader.Len()
}

// batch is one batch on the backend, with its encoded targets on the host too. The tensors may hold
// more images than n: a device fills up the last batch, so that it needs no program of its own.
type batch struct {
	images, targets *tensors.Tensor
	n               int     // images of the data
	host            []int32 // targets of these n images, row-major
}

func (b batch) free() { program.Free(b.images, b.targets) }

// augments reports whether two passes over the images can differ.
func (d *Data) augments() bool {
	if d.loader == nil {
		return false
	}
	t := d.loader.Transform()
	return t.RandomCrop || t.HorizontalFlip
}

// place puts the encoded targets of n images on a backend.
func (d *Data) place(be backend.Backend, targets []int32, n int) (*tensors.Tensor, error) {
	return program.Tensor(be, targets, append([]int{n}, d.objective.TargetShape(d.config)...)...)
}

// batches yields the samples in the given order, or as they are listed if order is nil. seed and
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
			var out batch
			if err == nil {
				out, err = d.load(be, b, size)
			}
			if !yield(out, err) || err != nil {
				return
			}
		}
	}
}

// load puts a batch of the loader on a backend. On a device it is filled up to size images.
func (d *Data) load(be backend.Backend, b *dataset.Batch, size int) (out batch, err error) {
	targets, err := objective.Encode(d.objective, d.config, b.Targets)
	if err != nil {
		return out, err
	}
	out.host, out.n = targets, b.N
	n, side, pixels := b.N, d.config.ImageSize, b.Pixels
	if backend.OnDevice(be) && n < size {
		pixels = append(pixels, make([]uint8, (size-n)*side*side*3)...)
		targets, n = append(slices.Clone(targets), make([]int32, (size-n)*d.targetSize)...), size
	}
	if out.images, err = program.Tensor(be, pixels, n, side, side, 3); err != nil {
		return out, fmt.Errorf("placing a batch of images of %d px: %w", side, err)
	}
	out.targets, err = d.place(be, targets, n)
	return out, err
}

// featureBatches is batches for features.
func (d *Data) featureBatches(ctx context.Context, be backend.Backend, order []int, size int, dropLast bool) iter.Seq2[batch, error] {
	return func(yield func(batch, error) bool) {
		n := d.Len()
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
				out.host = append(out.host, d.targets[k*d.targetSize:(k+1)*d.targetSize]...)
				out.n++
			}
			err := ctx.Err()
			if err == nil {
				out.images, err = program.Tensor(be, rows, out.n, d.width)
			}
			if err == nil {
				out.targets, err = d.place(be, out.host, out.n)
			}
			if !yield(out, err) || err != nil {
				return
			}
		}
	}
}
