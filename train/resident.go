package train

import (
	"context"
	"fmt"
	"math"
	"slices"

	. "github.com/gomlx/gomlx/core/graph"
	"github.com/gomlx/gomlx/core/tensors"

	"github.com/gomlx/compute/dtypes"
	"github.com/gomlx/compute/shapes"

	"github.com/sptune/spt/backend"
	"github.com/sptune/spt/internal/program"
	"github.com/sptune/spt/objective"
)

// residentBytes is the largest size of a data set that is stored on a device, in bytes of its
// images and targets. The images of a VTAB-1k data set take 0.15 GB.
const residentBytes = 4 << 30

// resident holds a data set that is stored on a device. The images are decoded once, and the device
// crops and flips them. A step sends a few numbers for each image, not its pixels.
type resident struct {
	be backend.Backend
	// pixels holds the images, uint8 [N, side, side, 3], or their features, float32 [N, width], or
	// their tokens, float16 [N, tokens, width].
	pixels *tensors.Tensor
	// targets holds the encoded targets, int32 [N, TargetShape…].
	targets *tensors.Tensor
	// copies holds copies of pixels and targets on the other devices, if there are several.
	copies [][]*tensors.Tensor
	// first is the position in pixels of the first sample of a part.
	first int
	// host holds the encoded targets of the samples, row-major.
	host []int32
	// size is the side of the images after the crop, in pixels.
	size int
	// batch is the program that selects a batch.
	batch *program.Program
}

// resident returns d as it is stored on the backend. The first call stores it there. It returns nil
// on the CPU, and if d cannot be stored on the device.
func (d *Data) resident(ctx context.Context, be backend.Backend) (r *resident, err error) {
	if !backend.OnDevice(be) {
		return nil, nil
	}
	r, ok := d.kept[be]
	if ok {
		return r, nil
	}
	if d.whole != nil {
		if r, err = d.whole.resident(ctx, be); r != nil {
			part := *r
			part.first, part.host = d.first, r.host[d.first*d.targetSize:(d.first+d.Len())*d.targetSize]
			r = &part
		}
	}
	if r == nil && err == nil {
		r, err = d.store(ctx, be)
	}
	if err == nil {
		d.kept[be] = r
	}
	return r, err
}

// store stores the images, the features or the tokens of d on the device. It returns nil if they
// take more than residentBytes, or if the images have different shapes before they are cropped.
func (d *Data) store(ctx context.Context, be backend.Backend) (r *resident, err error) {
	r = &resident{be: be, size: d.config.ImageSize, host: d.targets}
	targetBytes := 4 * float64(d.Len()*d.targetSize)
	if d.loader == nil {
		if float64(len(d.features))*4+float64(len(d.tokens))*2+targetBytes > residentBytes {
			return nil, nil
		}
		shape := append([]int{d.Len()}, d.shape...)
		if d.tokens != nil {
			r.pixels, err = program.Tensor(be, d.tokens, shape...)
		} else {
			r.pixels, err = program.Tensor(be, d.features, shape...)
		}
	} else {
		fixed, ok := d.loader.Fixed()
		side := fixed.Transform().Size
		n := d.loader.Len()
		if bytes := float64(n)*float64(side*side*3) + targetBytes; !ok || bytes > residentBytes || float64(n)*float64(side*side) > math.MaxInt32 {
			return nil, nil
		}
		pixels := make([]uint8, 0, n*side*side*3)
		for b, err := range fixed.Batches(ctx, nil, 64, 0, 0) {
			if err != nil {
				return nil, err
			}
			targets, err := objective.Encode(d.objective, d.config, b.Targets)
			if err != nil {
				return nil, err
			}
			pixels, r.host = append(pixels, b.Pixels...), append(r.host, targets...)
		}
		r.pixels, err = program.Tensor(be, pixels, n, side, side, 3)
	}
	if err != nil {
		return nil, fmt.Errorf("storing the images on the device: %w", err)
	}
	if r.targets, err = d.place(be, r.host, d.Len()); err != nil {
		return nil, fmt.Errorf("storing the targets on the device: %w", err)
	}
	if r.copies, err = program.Replicate(be, []*tensors.Tensor{r.pixels, r.targets}); err != nil {
		return nil, fmt.Errorf("storing the images on all devices: %w", err)
	}
	r.batch, err = program.New(be, "batch", func(_ *Graph, in []*Node) []*Node {
		images, targets := selectBatch(in[0], in[1], in[2:], r.size)
		return []*Node{images, targets}
	})
	return r, err
}

// selectBatch returns one batch of a data set that is stored on a device. lists[0], int32 [B],
// holds the positions of the images, or of their features. With augmentation there are three more
// lists, int32 [B]: the column and the row at which each crop starts, and 1 for each image that is
// flipped.
func selectBatch(pixels, targets *Node, lists []*Node, size int) (images, chosen *Node) {
	index := ExpandDims(lists[0], -1)
	if len(lists) == 1 {
		return Gather(pixels, index), Gather(targets, index)
	}
	return cropped(pixels, lists[0], lists[1], lists[2], lists[3], size), Gather(targets, index)
}

// cropped returns the crops [B, size, size, 3] of images in pixels [N, side, side, 3]. The inputs
// index, x0, y0 and flip are int32 [B]. A crop is taken from the image at position index. It starts
// at column x0 and row y0. It is flipped from left to right where flip is 1.
func cropped(pixels, index, x0, y0, flip *Node, size int) *Node {
	g, n, side := pixels.Graph(), pixels.Shape().Dim(0), pixels.Shape().Dim(1)
	b := index.Shape().Dim(0)
	shape := shapes.Make(dtypes.Int32, b, size, size)
	all := func(v *Node) *Node { return BroadcastToDims(Reshape(v, b, 1, 1), b, size, size) }
	row, column := Iota(g, shape, 1), Iota(g, shape, 2)
	// flip ? size−1−column : column
	column = Add(column, Mul(all(flip), Sub(AddScalar(MulScalar(column, -1), float64(size-1)), column)))
	at := Add(MulScalar(Add(MulScalar(all(index), float64(side)), Add(all(y0), row)), float64(side)), Add(all(x0), column))
	return Gather(Reshape(pixels, n*side*side, 3), ExpandDims(at, -1))
}

// batches implements Data.batches for a data set that is stored on the device.
func (r *resident) batches(ctx context.Context, d *Data, order []int, size int, seed uint64, epoch int, yield func(batch, error) bool) {
	if order == nil {
		for i := range d.Len() {
			order = append(order, i)
		}
	}
	for samples := range slices.Chunk(order, size) {
		err := ctx.Err()
		var b batch
		if err == nil {
			b, err = r.take(ctx, d, samples, size, seed, epoch)
		}
		if !yield(b, err) || err != nil {
			return
		}
	}
}

// lists returns the lists of selectBatch for the given samples of d, as for dataset.Loader.Batches.
// seed and epoch decide the crops and flips.
func (r *resident) lists(d *Data, samples []int, seed uint64, epoch int) [][]int32 {
	out := make([][]int32, 1, 4)
	if d.augments() {
		out = out[:4]
	}
	for _, index := range samples {
		out[0] = append(out[0], int32(r.first+index%d.Len()))
		if d.augments() {
			x0, y0, flip := d.loader.Transform().Place(seed, epoch, index)
			flipped := int32(0)
			if flip {
				flipped = 1
			}
			out[1], out[2], out[3] = append(out[1], int32(x0)), append(out[2], int32(y0)), append(out[3], flipped)
		}
	}
	return out
}

// take returns a batch of the given samples. seed and epoch decide the crops and flips. If there
// are fewer samples than size, take fills the batch up with copies of the first sample.
func (r *resident) take(ctx context.Context, d *Data, samples []int, size int, seed uint64, epoch int) (out batch, err error) {
	out.n = len(samples)
	for _, index := range samples {
		index %= d.Len()
		out.host = append(out.host, r.host[index*d.targetSize:(index+1)*d.targetSize]...)
	}
	full := slices.Clone(samples)
	for len(full) < size {
		full = append(full, samples[0])
	}
	args := []any{r.pixels, r.targets}
	var sent []*tensors.Tensor
	defer func() { program.Free(sent...) }()
	for _, l := range r.lists(d, full, seed, epoch) {
		t, err := program.Tensor(r.be, l, size)
		if err != nil {
			return out, err
		}
		sent, args = append(sent, t), append(args, t)
	}
	made, err := r.batch.Run(ctx, args...)
	if err != nil {
		return out, err
	}
	out.images, out.targets = made[0], made[1]
	return out, nil
}
