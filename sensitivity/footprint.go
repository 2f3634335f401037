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
	s := &Scorer{be: be, model: m, objective: loss, options: o, formula: o.Criterion.formula(), tokens: 2 * tokens}
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
	gradient := scored
	if !o.Criterion.Images() {
		return Footprint{Scores: scored}, nil
	}
	all := slices.Repeat(sums, s.formula.sums())
	scored *= int64(s.formula.sums())
	rng, err := program.RandomState(be, rand.New(rand.NewPCG(0, 0)))
	if err != nil {
		return f, err
	}
	defer program.Free(rng)
	n, batch := o.images(images)
	if o.Criterion == PerSample {
		n, batch = 1, 1
	}
	size := m.Config.ImageSize
	// compile returns the sizes of the arena and of the packed weights for a batch, and whether it
	// is cut into micro-batches.
	compile := func(batch int) (arena, packed int64, cut bool, err error) {
		sizes := microbatch.Sizes(m.Config, shapes.Make(dtypes.Uint8, batch, size, size, 3), s.tokens)
		build, first, place := s.build, all, []shapes.Shape{shapes.Make(dtypes.Float32), shapes.Make(dtypes.Float32)}
		if len(sizes) > 1 {
			build, first, place = s.buildGradients, sums, place[:1]
		}
		p, err := program.New(be, "stage 1", build)
		if err != nil {
			return 0, 0, false, err
		}
		defer p.Close()
		f, _, err := p.Footprint(slices.Concat(first, weights, []shapes.Shape{shapes.Make(dtypes.Uint8, sizes[0], size, size, 3),
			shapes.Make(dtypes.Int32, append([]int{sizes[0]}, loss.TargetShape(m.Config)...)...), rng.Shape()}, place)...)
		return f.Arena, f.Packed, len(sizes) > 1, err
	}
	arena, packed, cut, err := compile(batch)
	if err != nil {
		return f, err
	}
	// The sums, and the results of a program that become the new sums. Later the copy for Score
	// takes the place of these results.
	f.Scores, f.Activations, f.Packed = 2*scored, arena, packed
	if cut {
		f.Scores += gradient // the accumulated gradient
	}
	if rest := n % batch; rest > 0 {
		last, _, _, err := compile(rest)
		if err != nil {
			return f, err
		}
		if last > arena { // a larger arena replaces the first, which becomes garbage
			f.Activations += last
		}
	}
	return f, nil
}
