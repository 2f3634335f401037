package train

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"

	"github.com/gomlx/compute/dtypes/float16"
	"github.com/gomlx/gomlx/core/tensors"

	"github.com/sptune/spt/backbone"
	"github.com/sptune/spt/backend"
	"github.com/sptune/spt/dataset"
	"github.com/sptune/spt/internal/program"
	"github.com/sptune/spt/objective"
)

// Data provides the images and targets that training and evaluation read. The images come from a
// loader; an objective encodes the targets. Internally a Data can also hold the features of the
// images, or the tokens that enter a block.
//
// On a device such as a GPU, the first pass stores the images on the device if they fit. Later
// passes read them there. A Data must not be used by two goroutines at the same time.
type Data struct {
	// loader reads the images. It is nil if the Data holds features or tokens.
	loader    *dataset.Loader
	objective objective.Objective
	config    backbone.Config
	// strata holds the stratum of each sample; see dataset.Loader.Strata.
	strata []int
	// targetSize is the number of values in the encoded target of one image.
	targetSize int
	// kept holds the images on each device. A nil entry means that they do not fit.
	kept map[backend.Backend]*resident
	// computed holds the features of the images and the tokens that enter a block, by backbone,
	// backend and block. Several trainings read them.
	computed map[computedKey]*Data
	// whole is the Data of which this Data is a part, or nil.
	whole *Data
	// first is the position in whole of the first sample of this part.
	first int
	// parts holds the parts of this Data, by first sample and number of samples.
	parts map[[2]int]*Data

	// features holds the features, [N, width], and is nil if the Data holds tokens.
	features []float32
	// mirrored holds the features of the mirror images, [N, width]. It is empty unless the
	// transform of the images has TestFlip.
	mirrored []float32
	// tokens holds the tokens, [N, width]; see Predictor.computed.
	tokens []float16.Float16
	// shape is the shape of the values of one image: [width] of features, and
	// [tokens, width of a token] of tokens.
	shape []int
	// width is the number of values of one image.
	width int
	// targets holds the encoded targets of the features or tokens, [N, targetSize].
	targets []int32
}

// computedKey names the origin of features, with block 0, or of the tokens that enter a block.
type computedKey struct {
	model *backbone.Model
	be    backend.Backend
	block int
}

// Images returns a Data that reads its images with loader. The transform of the loader must yield
// images of the image size of the backbone c. The objective o encodes the targets.
func Images(loader *dataset.Loader, o objective.Objective, c backbone.Config) *Data {
	return &Data{loader: loader, objective: o, config: c, strata: loader.Strata(), targetSize: objective.TargetSize(o, c), kept: map[backend.Backend]*resident{}}
}

// newComputed returns a Data without values for the samples of images.
func newComputed(images *Data) *Data {
	return &Data{objective: images.objective, config: images.config, strata: images.strata, targetSize: images.targetSize, kept: map[backend.Backend]*resident{}}
}

// Part returns the n samples of d that start at position first. Calls with the same arguments
// return the same Data. A device stores the images of d only once and shares them with its parts.
func (d *Data) Part(first, n int) *Data {
	key := [2]int{first, n}
	if d.parts[key] == nil {
		if d.parts == nil {
			d.parts = map[[2]int]*Data{}
		}
		var part *Data
		if d.loader != nil {
			part = Images(d.loader.Part(first, n), d.objective, d.config)
		} else {
			part = newComputed(d)
			part.strata = d.strata[first : first+n]
			part.shape, part.width, part.targets = d.shape, d.width, d.targets[first*d.targetSize:(first+n)*d.targetSize]
			if d.tokens != nil {
				part.tokens = d.tokens[first*d.width : (first+n)*d.width]
			} else {
				part.features = d.features[first*d.width : (first+n)*d.width]
			}
			if len(d.mirrored) > 0 {
				part.mirrored = d.mirrored[first*d.width : (first+n)*d.width]
			}
		}
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

// batch holds one batch on the backend. It also holds the encoded targets on the host. On a device
// a smaller last batch of an evaluation is filled up, so that the program that is compiled for the
// others can be used.
type batch struct {
	images, targets *tensors.Tensor
	mirrored        *tensors.Tensor // features of the mirror images; nil if there are none
	n               int             // number of images without the images that fill up the batch
	host            []int32         // encoded targets of these n images, row-major
	// others and shares are dataset.Batch.Others, encoded, and dataset.Batch.Shares. Nil without
	// mixing.
	others, shares *tensors.Tensor
}

func (b batch) free() {
	program.Free(b.images, b.targets, b.mirrored)
	program.Free(b.mixed()...)
}

// mixed returns the inputs that a training step has only for mixed images.
func (b batch) mixed() []*tensors.Tensor {
	if b.others == nil {
		return nil
	}
	return []*tensors.Tensor{b.others, b.shares}
}

// augments reports whether the images are changed at random.
func (d *Data) augments() bool {
	if d.loader == nil {
		return false
	}
	t := d.loader.Transform()
	return t.RandomCrop || t.HorizontalFlip || t.Augment != dataset.Augment{}
}

// testFlip reports whether an evaluation predicts the mirror images too.
func (d *Data) testFlip() bool { return d.loader != nil && d.loader.Transform().TestFlip }

// place copies the encoded targets of n images to a backend.
func (d *Data) place(be backend.Backend, targets []int32, n int) (*tensors.Tensor, error) {
	return program.Tensor(be, targets, append([]int{n}, d.objective.TargetShape(d.config)...)...)
}

// batches yields the samples in batches of the given size. order lists the positions of the
// samples, as for dataset.Loader.Batches; nil means all samples in the order of the data. If fill
// is set, a smaller last batch is filled up on a device; this is for evaluation, so the images must
// not be mixed. seed and epoch decide random crops and flips.
func (d *Data) batches(ctx context.Context, be backend.Backend, order []int, size int, fill bool, seed uint64, epoch int) iter.Seq2[batch, error] {
	if d.loader == nil {
		return d.computedBatches(ctx, be, order, size)
	}
	return func(yield func(batch, error) bool) {
		r, err := d.resident(ctx, be)
		if err != nil {
			yield(batch{}, err)
			return
		}
		if r != nil {
			r.batches(ctx, d, order, size, seed, epoch, yield)
			return
		}
		for b, err := range d.loader.Batches(ctx, order, size, seed, epoch) {
			var out batch
			if err == nil && fill && b.Shares != nil {
				err = errors.New("evaluating images: the transform mixes images, which is for training only; evaluate without mixing")
			}
			if err == nil {
				full := b.N
				if fill && backend.OnDevice(be) {
					full = size
				}
				out, err = d.load(be, b, full)
			}
			if !yield(out, err) || err != nil {
				return
			}
		}
	}
}

// load copies a batch of the loader to a backend. It fills the batch up to size images, with zeros.
func (d *Data) load(be backend.Backend, b *dataset.Batch, size int) (out batch, err error) {
	targets, err := objective.Encode(d.objective, d.config, b.Targets)
	if err != nil {
		return out, err
	}
	out.host, out.n = targets, b.N
	n, side, pixels := b.N, d.config.ImageSize, b.Pixels
	if n < size {
		pixels = append(pixels, make([]uint8, (size-n)*side*side*3)...)
		targets, n = append(slices.Clone(targets), make([]int32, (size-n)*d.targetSize)...), size
	}
	if out.images, err = program.Tensor(be, pixels, n, side, side, 3); err != nil {
		return out, fmt.Errorf("copying a batch of %d images of %d×%d px to the backend: %w", n, side, side, err)
	}
	if out.targets, err = d.place(be, targets, n); err != nil || b.Shares == nil {
		return out, err
	}
	if targets, err = objective.Encode(d.objective, d.config, b.Others); err != nil {
		return out, err
	}
	if out.others, err = d.place(be, targets, n); err != nil {
		return out, err
	}
	out.shares, err = program.Tensor(be, b.Shares, n)
	return out, err
}

// computedBatches implements batches for a Data that holds features or tokens.
func (d *Data) computedBatches(ctx context.Context, be backend.Backend, order []int, size int) iter.Seq2[batch, error] {
	return func(yield func(batch, error) bool) {
		n := d.Len()
		if order != nil {
			n = len(order)
		}
		for i := 0; i < n; i += size {
			var rows, mirrored []float32
			var out batch
			for j := i; j < min(i+size, n); j++ {
				k := j
				if order != nil {
					k = order[j] % d.Len()
				}
				if d.tokens == nil {
					rows = append(rows, d.features[k*d.width:(k+1)*d.width]...)
				} else {
					rows = slices.Grow(rows, d.width)
					for _, v := range d.tokens[k*d.width : (k+1)*d.width] {
						rows = append(rows, v.Float32())
					}
				}
				if len(d.mirrored) > 0 {
					mirrored = append(mirrored, d.mirrored[k*d.width:(k+1)*d.width]...)
				}
				out.host = append(out.host, d.targets[k*d.targetSize:(k+1)*d.targetSize]...)
				out.n++
			}
			err := ctx.Err()
			if err == nil {
				out.images, err = program.Tensor(be, rows, append([]int{out.n}, d.shape...)...)
			}
			if err == nil && len(mirrored) > 0 {
				out.mirrored, err = program.Tensor(be, mirrored, out.n, d.width)
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
