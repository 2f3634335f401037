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
)

// residentBytes bounds the images of a data set that are kept on a device: those of
// VTAB-1k take 0.15 GB.
const residentBytes = 4 << 30

// resident is a data set on a device: decoded once, cropped and mirrored there, so
// that a step sends a few numbers for each image instead of its pixels.
type resident struct {
	be             backend.Backend
	pixels, labels *tensors.Tensor     // uint8 [N, side, side, 3] or features float32 [N, D], int32 [N]
	copies         [][]*tensors.Tensor // of both, on further devices
	first          int                 // where the samples begin there, of a part
	host           []int32             // the samples' labels
	size           int                 // of images, once cropped
	batch          *backend.Program
}

// resident is what of d is kept on be, from the first call on; nil if nothing is:
// on the processor, and where d does not fit.
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
			part.first, part.host = d.first, r.host[d.first:d.first+d.Len()]
			r = &part
		}
	}
	if r == nil && err == nil {
		r, err = d.reside(ctx, be)
	}
	if err == nil {
		d.kept[be] = r
	}
	return r, err
}

// reside places the images of d, or its features, on be; nil if they do not fit, or
// cannot be squares before they are cropped.
func (d *Data) reside(ctx context.Context, be backend.Backend) (r *resident, err error) {
	r = &resident{be: be, size: d.size, host: d.labels}
	if d.loader == nil {
		if float64(len(d.features))*4 > residentBytes {
			return nil, nil
		}
		r.pixels, err = backend.Tensor(be, d.features, len(d.labels), d.width)
	} else {
		fixed, ok := d.loader.Fixed()
		side := fixed.Transform().Size
		n := d.loader.Len()
		if bytes := float64(n) * float64(side*side*3); !ok || bytes > residentBytes || float64(n)*float64(side*side) > math.MaxInt32 {
			return nil, nil
		}
		pixels := make([]uint8, 0, n*side*side*3)
		for b, err := range fixed.Batches(ctx, nil, 64, false, 0, 0) {
			if err != nil {
				return nil, err
			}
			pixels, r.host = append(pixels, b.Pixels...), append(r.host, classIDs(b.Targets)...)
		}
		r.pixels, err = backend.Uint8(be, pixels, n, side, side, 3)
	}
	if err != nil {
		return nil, fmt.Errorf("keeping the images on the device: %w", err)
	}
	if r.labels, err = backend.Int32(be, r.host, len(r.host)); err != nil {
		return nil, fmt.Errorf("keeping the labels on the device: %w", err)
	}
	if r.copies, err = backend.Replicate(be, []*tensors.Tensor{r.pixels, r.labels}); err != nil {
		return nil, fmt.Errorf("keeping the images on all devices: %w", err)
	}
	r.batch, err = backend.NewProgram(be, "batch", func(_ *Graph, in []*Node) []*Node {
		images, labels := cut(in[0], in[1], in[2:], r.size)
		return []*Node{images, labels}
	})
	return r, err
}

// cut is a batch of what a resident keeps: the images or features at the positions
// lists[0], int32 [B], and their labels. Three more lists say where images are
// cropped, and which are mirrored.
func cut(pixels, labels *Node, lists []*Node, size int) (images, chosen *Node) {
	index := ExpandDims(lists[0], -1)
	if len(lists) == 1 {
		return Gather(pixels, index), Gather(labels, index)
	}
	return cropped(pixels, lists[0], lists[1], lists[2], lists[3], size), Gather(labels, index)
}

// cropped are squares of pixels [N, side, side, 3]: of image index, from column x0 and
// row y0 on, from right to left where flip is 1; all int32 [B].
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

// batches is Data.batches of what is on the device.
func (r *resident) batches(ctx context.Context, d *Data, order []int, size int, dropLast bool, seed uint64, epoch int, yield func(batch, error) bool) {
	if order == nil {
		for i := range r.host {
			order = append(order, i)
		}
	}
	if dropLast {
		order = order[:len(order)-len(order)%size]
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

// lists are what cut takes for these samples of d, in a pass of that seed and epoch.
func (r *resident) lists(d *Data, samples []int, seed uint64, epoch int) [][]int32 {
	out := make([][]int32, 1, 4)
	if d.augments() {
		out = out[:4]
	}
	for _, index := range samples {
		out[0] = append(out[0], int32(r.first+index))
		if d.augments() {
			x0, y0, flip := d.loader.Transform().Place(seed, epoch, index)
			mirrored := int32(0)
			if flip {
				mirrored = 1
			}
			out[1], out[2], out[3] = append(out[1], int32(x0)), append(out[2], int32(y0)), append(out[3], mirrored)
		}
	}
	return out
}

// take makes the batch of these samples, in a pass of that seed and epoch, with
// copies of the first sample up to size.
func (r *resident) take(ctx context.Context, d *Data, samples []int, size int, seed uint64, epoch int) (out batch, err error) {
	for _, index := range samples {
		out.host = append(out.host, r.host[index])
	}
	full := slices.Clone(samples)
	for len(full) < size {
		full = append(full, samples[0])
	}
	args := []any{r.pixels, r.labels}
	var sent []*tensors.Tensor
	defer func() { backend.Free(sent...) }()
	for _, l := range r.lists(d, full, seed, epoch) {
		t, err := backend.Int32(r.be, l, size)
		if err != nil {
			return out, err
		}
		sent, args = append(sent, t), append(args, t)
	}
	made, err := r.batch.Run(ctx, args...)
	if err != nil {
		return out, err
	}
	out.images, out.labels = made[0], made[1]
	return out, nil
}
