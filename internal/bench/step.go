package bench

import (
	"context"
	"slices"

	"github.com/gomlx/gomlx/core/tensors"
	"github.com/sptune/spt/backbone"
	"github.com/sptune/spt/backend"
	"github.com/sptune/spt/dataset"
	"github.com/sptune/spt/internal/program"
	"github.com/sptune/spt/objective"
	"github.com/sptune/spt/peft"
	"github.com/sptune/spt/sensitivity"
	"github.com/sptune/spt/train"
)

// batch holds a mini-batch in the two forms that train.Stepper takes: as tensors on the backend for
// one step, and as a data set for a loop of steps.
type batch struct {
	images, labels *tensors.Tensor
	data           *train.Data
}

// free frees the tensors on the backend.
func (b batch) free() { program.Free(b.images, b.labels) }

// noise returns a mini-batch of n images of random pixels. It always returns the same images. The
// labels are the classes in turn.
func noise(be backend.Backend, c backbone.Config, n int) (b batch, err error) {
	random := generator(imageStream)
	pixels, labels := make([]uint8, n*c.ImageSize*c.ImageSize*3), make([]int32, n)
	for i := range pixels {
		pixels[i] = uint8(random.Uint32())
	}
	for i := range labels {
		labels[i] = int32(i % c.NumClasses)
	}
	size := c.ImageSize * c.ImageSize * 3
	var samples []dataset.Sample
	for i := range n {
		samples = append(samples, dataset.Sample{Image: &dataset.RGB{Width: c.ImageSize, Height: c.ImageSize, Pix: pixels[i*size : (i+1)*size]}, Target: dataset.Class(labels[i])})
	}
	b.data = train.Images(dataset.NewLoader(samples, dataset.Transform{Size: c.ImageSize}, nil, dataset.LoaderOptions{}), objective.SingleLabel, c)
	if b.images, err = program.Tensor(be, pixels, n, c.ImageSize, c.ImageSize, 3); err == nil {
		b.labels, err = program.Tensor(be, labels, n)
	}
	return b, err
}

// step runs steps of a method, which [newStep] prepares.
type step struct {
	// enqueue starts a number of steps, which the field steps holds.
	enqueue func(ctx context.Context, b batch) error
	steps   int
	// finish waits until all started steps are done.
	finish func() error
	// close frees the resources.
	close func()
	// state is the size in bytes of the optimizer state, or of the sums of squared gradients.
	state int
	// scorer is set for the method score only.
	scorer *sensitivity.Scorer
}

// loopSteps is the number of training steps that one program runs on a device.
const loopSteps = 10

// run calls enqueue n times with the same mini-batch and waits until the steps are done.
func (s *step) run(ctx context.Context, b batch, n int) error {
	for range n {
		if err := s.enqueue(ctx, b); err != nil {
			return err
		}
	}
	return s.finish()
}

// newStep prepares steps of a method on a backend. Call close after the last step.
func newStep(be backend.Backend, m *backbone.Model, tuning *peft.Tuning, method Method) (*step, error) {
	tuned := tuning.Init(0, peft.PaperScheme, m.Weights)
	s := &step{steps: 1, finish: func() error { return nil }}
	switch method {
	case Forward:
		p, err := train.NewPredictor(be, m, objective.SingleLabel, tuning, tuned)
		if err != nil {
			return nil, err
		}
		s.close = p.Close
		s.enqueue = func(ctx context.Context, b batch) error {
			_, err := p.Logits(ctx, b.images)
			return err
		}
	case score:
		scorer, err := sensitivity.NewScorer(be, m, objective.SingleLabel, tuned)
		if err != nil {
			return nil, err
		}
		for _, p := range m.Config.Params() {
			if p.Role == backbone.Scored {
				s.state += 4 * p.Size()
			}
		}
		s.scorer, s.close = scorer, scorer.Close
		s.enqueue = func(ctx context.Context, b batch) error {
			_, err := scorer.Add(ctx, b.images, b.labels)
			return err
		}
	default:
		recipe := train.VTAB()
		rates := peft.Rates{DropPath: recipe.DropPath, Dropout: recipe.Dropout, ModuleDropPath: recipe.ModuleDropPath}
		stepper, err := train.NewStepper(be, m, objective.SingleLabel, tuning, tuned, train.StepOptions{Rates: rates, WeightDecay: recipe.WeightDecay})
		if err != nil {
			return nil, err
		}
		for _, p := range tuning.Params {
			s.state += 2 * 4 * p.Size()
		}
		s.close = stepper.Close
		s.enqueue = func(ctx context.Context, b batch) error {
			// The warm-up learning rate of the recipe is small enough that training on noise does
			// not diverge.
			return stepper.Enqueue(ctx, b.images, b.labels, recipe.WarmupLR, 0)
		}
		if backend.OnDevice(be) { // train.Run does the same
			s.steps = loopSteps
			lrs := slices.Repeat([]float64{recipe.WarmupLR}, loopSteps)
			s.enqueue = func(ctx context.Context, b batch) error {
				order := make([]int, 0, loopSteps*b.data.Len())
				for range loopSteps {
					for i := range b.data.Len() {
						order = append(order, i)
					}
				}
				_, err := stepper.EnqueueLoop(ctx, b.data, order, lrs, 0, 0)
				return err
			}
		}
		s.finish = func() error {
			_, err := stepper.Read()
			return err
		}
	}
	return s, nil
}
