package sensitivity

import (
	"math/rand/v2"
	"slices"

	"github.com/gomlx/compute/dtypes"
	"github.com/gomlx/compute/shapes"

	"github.com/sptune/spt/backbone"
	"github.com/sptune/spt/backend"
	"github.com/sptune/spt/internal/microbatch"
	"github.com/sptune/spt/internal/program"
	"github.com/sptune/spt/objective"
)

// Footprint is the memory that scoring needs on the CPU, beside the weights of the backbone and the
// images. All fields are bytes.
type Footprint struct {
	// Scores is the size of the scores, of the gradients, and of the copy that [Score] returns.
	Scores int64
	// Activations is the size of the intermediate results of a micro-batch.
	Activations int64
	// Packed is the size of the copies of the weights in the layout of the matrix kernel.
	Packed int64
}

// FootprintOf foresees the memory of [Score] with the options o on the backbone m. images is the
// number of training images. It compiles the program of a micro-batch, which takes a few tenths of
// a second, and does not run it. be must be the CPU; on another backend the footprint is zero.
func FootprintOf(be backend.Backend, m *backbone.Model, loss objective.Objective, o Options, images int) (f Footprint, err error) {
	if backend.OnDevice(be) {
		return f, nil
	}
	o = o.WithDefaults()
	tokens, _ := program.AtOnce(be)
	s := &Scorer{be: be, model: m, objective: loss, options: o, tokens: 2 * tokens}
	var sums, weights []shapes.Shape
	scored := int64(0)
	for _, p := range m.Config.Params() {
		shape := shapes.Make(dtypes.Float32, p.Shape...)
		s.order, weights = append(s.order, p.Name), append(weights, shape)
		if p.Role == backbone.Scored {
			s.params, sums = append(s.params, p), append(sums, shape)
			scored += int64(shape.ByteSize())
		}
	}
	if !o.Criterion.Images() {
		return Footprint{Scores: scored}, nil
	}
	rng, err := program.RandomState(be, rand.New(rand.NewPCG(0, 0)))
	if err != nil {
		return f, err
	}
	defer program.Free(rng)
	_, batch := o.images(images)
	if o.Criterion == PerSample {
		batch = 1
	}
	size := m.Config.ImageSize
	inputs := func(n int) []shapes.Shape {
		return slices.Concat(sums, weights, []shapes.Shape{shapes.Make(dtypes.Uint8, n, size, size, 3),
			shapes.Make(dtypes.Int32, append([]int{n}, loss.TargetShape(m.Config)...)...), rng.Shape(), shapes.Make(dtypes.Float32)})
	}
	sizes := microbatch.Sizes(m.Config, shapes.Make(dtypes.Uint8, batch, size, size, 3), s.tokens)
	build := s.build
	f.Scores = 2 * scored // the sums, and the copy of the result
	if len(sizes) > 1 {
		build = s.buildGradients
		f.Scores += scored
	}
	p, err := program.New(be, "stage 1", build)
	if err != nil {
		return f, err
	}
	defer p.Close()
	one, _, err := p.Footprint(inputs(sizes[0])...)
	if err != nil {
		return f, err
	}
	f.Activations, f.Packed = one.Arena, one.Packed
	return f, nil
}
