package train

import (
	"math/rand/v2"
	"slices"

	"github.com/gomlx/compute/dtypes"
	"github.com/gomlx/compute/shapes"
	"github.com/gomlx/gomlx/core/tensors"

	"github.com/sptune/spt/backbone"
	"github.com/sptune/spt/backend"
	"github.com/sptune/spt/internal/program"
	"github.com/sptune/spt/objective"
	"github.com/sptune/spt/peft"
)

// Footprint is the memory that a training needs on the CPU, beside the weights of the backbone and
// the images. All fields are bytes.
type Footprint struct {
	// State is the size of the tuned tensors, the moments and the gradients, and of the copies that
	// are made when the training state is saved.
	State int64
	// Activations is the size of the intermediate results of all micro-batches that are computed at
	// the same time.
	Activations int64
	// Packed is the size of the copies of the weights in the layout of the matrix kernel.
	Packed int64
}

// FootprintOf foresees the memory of a training of the tuned tensors t on the backbone m, in
// mini-batches of the given number of images. It compiles the programs of the training, which takes
// a few tenths of a second, and runs none. be must be the CPU; on another backend the footprint is
// zero.
func FootprintOf(be backend.Backend, m *backbone.Model, o objective.Objective, t *peft.Tuning, step StepOptions, batch int) (f Footprint, err error) {
	if backend.OnDevice(be) {
		return f, nil
	}
	net, err := newNetwork(be, m, o, t)
	if err != nil {
		return f, err
	}
	s := &Stepper{be: be, tuning: t, net: net, o: step, packs: pack(be, t.Params, step.Factors)}
	p := &Predictor{be: be, net: net, packs: s.packs, tuned: make([]*tensors.Tensor, len(s.packs.packs)), borrowed: true}
	defer net.close()
	defer p.Close()
	if err := p.prepare(); err != nil {
		return f, err
	}
	rng, err := program.RandomState(be, rand.New(rand.NewPCG(0, 0)))
	if err != nil {
		return f, err
	}
	defer program.Free(rng)

	size := m.Config.ImageSize
	images := func(n int) shapes.Shape { return shapes.Make(dtypes.Uint8, n, size, size, 3) }
	targets := func(n int) shapes.Shape {
		return shapes.Make(dtypes.Int32, append([]int{n}, o.TargetShape(m.Config)...)...)
	}
	scalar := shapes.Make(dtypes.Float32)
	var tuned, frozen []shapes.Shape
	tunedBytes := int64(0)
	for i := range s.packs.packs {
		shape := shapes.Make(dtypes.Float32, s.packs.shape(i)...)
		tuned = append(tuned, shape)
		tunedBytes += int64(shape.ByteSize())
	}
	for _, x := range net.values {
		frozen = append(frozen, x.Shape())
	}
	// The tuned tensors and both moments, and the copy of the three that is being saved.
	f.State = 6 * tunedBytes

	sizes := microBatchSizes(be, m.Config, images(batch))
	running := min(concurrency(be, m.Config, sizes[0]), len(sizes))
	forward, _, err := p.logits.Footprint(slices.Concat(tuned, frozen, []shapes.Shape{images(sizes[0])})...)
	if err != nil {
		return f, err
	}
	f.Activations, f.Packed = int64(running)*forward.Arena, forward.Packed
	if t.Counts.Tuned() == 0 {
		return f, nil // the head is trained on features
	}
	build, in := s.buildGradients, slices.Concat(tuned, frozen, []shapes.Shape{images(sizes[0]), targets(sizes[0]), rng.Shape(), scalar})
	if len(sizes) == 1 {
		build, in = s.build, slices.Concat(tuned, tuned, tuned, frozen, []shapes.Shape{images(batch), targets(batch), rng.Shape(), scalar, scalar, scalar})
	} else {
		// One gradient for each run, one that is being added, and the sum.
		f.State += int64(min(running+1, len(sizes))+1) * tunedBytes
	}
	training, err := program.New(be, "training step", build)
	if err != nil {
		return f, err
	}
	defer training.Close()
	one, _, err := training.Footprint(in...)
	if err != nil {
		return f, err
	}
	f.Activations, f.Packed = max(f.Activations, int64(running)*one.Arena), max(f.Packed, one.Packed)
	return f, nil
}
