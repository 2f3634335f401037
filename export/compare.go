package export

import (
	"context"
	"fmt"
	"math"
	"slices"

	"github.com/sptune/spt"
	"github.com/sptune/spt/backbone"
	"github.com/sptune/spt/backend"
	"github.com/sptune/spt/internal/program"
	"github.com/sptune/spt/train"
)

// compareBatch is the number of probe images in one forward pass.
const compareBatch = 32

// compare compares the logits of the probe images with those of the model m, which was read back
// from an exported file and has its own head. It returns the number of images and the largest
// difference of a logit. A difference above the bound, or NaN, is an error.
func (c *Classifier) compare(ctx context.Context, o Options, m *backbone.Model) (images int, largest float64, err error) {
	own, err := spt.Restore(m, nil)
	if err != nil {
		return 0, 0, err
	}
	got, err := c.logitsOf(ctx, m, own, o.Probes)
	if err != nil {
		return 0, 0, err
	}
	return c.hold(ctx, o, got)
}

// hold compares the logits of the probe images, [n, classes] row-major, with those of the
// classifier. It returns the same as compare.
func (c *Classifier) hold(ctx context.Context, o Options, got []float32) (images int, largest float64, err error) {
	want, err := c.logits(ctx, o.Probes)
	if err != nil {
		return 0, 0, err
	}
	if len(got) != len(want) {
		return 0, 0, fmt.Errorf("the exported model has %d logits for the probe images, expected %d; the objective %s may not classify whole images", len(got), len(want), c.Tuned.Objective.Name())
	}
	for i := range want {
		largest = max(largest, math.Abs(float64(got[i])-float64(want[i]))) // max keeps NaN
	}
	// The negated comparison makes NaN an error too.
	if !(largest <= o.Bound) {
		return 0, 0, fmt.Errorf("the export moves a logit by %g, more than the bound of %g; keep the delta, or give a larger bound if this difference is acceptable", largest, o.Bound)
	}
	return len(o.Probes) / c.imageBytes(), largest, nil
}

// logits returns the logits of the classifier for the probe images, [n, classes] row-major. pixels
// is [n, Size, Size, 3].
func (c *Classifier) logits(ctx context.Context, pixels []uint8) ([]float32, error) {
	return c.logitsOf(ctx, c.Model, c.Tuned, pixels)
}

// imageBytes returns the number of bytes of the pixels of an image.
func (c *Classifier) imageBytes() int { return c.Model.Config.ImageSize * c.Model.Config.ImageSize * 3 }

// logitsOf returns the logits of the model m with its tuned parameters, as logits does.
func (c *Classifier) logitsOf(ctx context.Context, m *backbone.Model, tuned *spt.Trained, pixels []uint8) ([]float32, error) {
	size, image := c.Model.Config.ImageSize, c.imageBytes()
	if len(pixels) == 0 || len(pixels)%image != 0 {
		return nil, fmt.Errorf("the probe images have %d values, expected one or more images of %d×%d×3; give pixels at the image size of the delta", len(pixels), size, size)
	}
	be := c.Backend
	if be == nil {
		var err error
		if be, _, err = backend.Open("cpu", 1); err != nil {
			return nil, err
		}
	}
	p, err := train.NewPredictor(be, m, tuned.Objective, tuned.Tuning, tuned.Tuned)
	if err != nil {
		return nil, err
	}
	defer p.Close()
	if m != c.Model {
		defer m.Release(be)
	}
	var all []float32
	for batch := range slices.Chunk(pixels, compareBatch*image) {
		images, err := program.Tensor(be, batch, len(batch)/image, size, size, 3)
		if err != nil {
			return nil, err
		}
		logits, err := p.Logits(ctx, images)
		program.Free(images)
		if err != nil {
			return nil, err
		}
		all = append(all, logits...)
	}
	return all, nil
}
