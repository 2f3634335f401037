package train

import (
	"context"
	"errors"
	"testing"

	"github.com/gomlx/gomlx/core/tensors"

	"github.com/gomlx/compute"
	"github.com/gomlx/compute/shapes"

	"github.com/sptune/spt/backbone"
	"github.com/sptune/spt/backend/cpu"
	"github.com/sptune/spt/internal/colours"
	"github.com/sptune/spt/internal/program"
	"github.com/sptune/spt/objective"
	"github.com/sptune/spt/peft"
)

var errBroken = errors.New("the backend broke")

// breaking is a backend that fails after a number of calls that copy data or run a program. Its
// buffers return it as their backend, because a tensor asks its buffer for the backend.
type breaking struct {
	compute.Backend
	left int // number of calls until it fails; negative means that it never fails
}

func (b *breaking) use() error {
	if b.left == 0 {
		return errBroken
	}
	b.left--
	return nil
}

type breakingBuffer struct {
	compute.Buffer
	be *breaking
}

func (b *breaking) BufferFromFlatData(device compute.DeviceNum, flat any, shape shapes.Shape) (compute.Buffer, error) {
	if err := b.use(); err != nil {
		return nil, err
	}
	x, err := b.Backend.BufferFromFlatData(device, flat, shape)
	return &breakingBuffer{x, b}, err
}

func (b *breakingBuffer) Backend() compute.Backend { return b.be }

func (b *breakingBuffer) ToFlatData(flat any) error {
	if err := b.be.use(); err != nil {
		return err
	}
	return b.Buffer.ToFlatData(flat)
}

type breakingBuilder struct {
	compute.Builder
	be *breaking
}

func (b *breaking) Builder(name string) compute.Builder {
	return &breakingBuilder{b.Backend.Builder(name), b}
}

func (b *breakingBuilder) Compile() (compute.Executable, error) {
	x, err := b.Builder.Compile()
	return &breakingExecutable{x, b.be}, err
}

type breakingExecutable struct {
	compute.Executable
	be *breaking
}

func (x *breakingExecutable) Execute(in []compute.Buffer, donate []bool, device compute.DeviceNum) (out []compute.Buffer, err error) {
	theirs := make([]compute.Buffer, len(in))
	for i, b := range in {
		theirs[i] = b.(*breakingBuffer).Buffer
	}
	if err := x.be.use(); err != nil {
		for i, b := range theirs {
			if donate[i] {
				_ = b.Finalize() // never fails
			}
		}
		return nil, err
	}
	out, err = x.Executable.Execute(theirs, donate, device)
	for i, b := range out {
		out[i] = &breakingBuffer{b, x.be}
	}
	return out, err
}

// countdown is a context that is cancelled after a number of calls of Err.
type countdown struct {
	context.Context
	left int
}

func (c *countdown) Err() error {
	if c.left == 0 {
		return context.Canceled
	}
	c.left--
	return nil
}

// TestReleases checks that a closed Stepper leaves no memory allocated on the backend. Any
// operation of NewStepper or of a step can fail, with and without micro-batches.
func TestReleases(t *testing.T) {
	own, err := cpu.New("")
	if err != nil {
		t.Fatal(err)
	}
	defer own.Finalize()
	be := &breaking{own, -1}
	c := backbone.Config{ImageSize: 8, NumClasses: 3, NumHeads: 2, LayerNormEps: 1e-6,
		Form: backbone.ViT{PatchSize: 4, EmbedDim: 8, Depth: 1, HiddenDim: 16}}
	m := colours.Model(c)
	if _, err := m.On(be); err != nil {
		t.Fatal(err)
	}
	selection := peft.Uniform(c, "lora", 2)
	selection.Structured = selection.Structured[1:]
	selection.Entries = map[string][]int32{"blocks.0.attn.q.weight": {0, 9, 63}, "blocks.0.norm1.bias": {2}}
	tuning, err := peft.New(c, selection)
	if err != nil {
		t.Fatal(err)
	}
	images, err := program.Tensor(be, make([]uint8, 5*8*8*3), 5, 8, 8, 3)
	if err != nil {
		t.Fatal(err)
	}
	labels, err := program.Tensor(be, make([]int32, 5), 5)
	if err != nil {
		t.Fatal(err)
	}
	onBackend := func() int64 {
		memory, _ := cpu.MemoryOf(own)
		return memory.Buffers
	}
	held := onBackend()
	// attempt creates a Stepper, loads an optimiser state and runs one step. It returns the error
	// of the call that failed.
	attempt := func(microBatches bool, uses, checks int) (err error) {
		be.left = uses
		defer func() { be.left = -1 }()
		s, err := NewStepper(be, m, objective.SingleLabel, tuning, tuning.Init(0, peft.PaperScheme, m.Weights), StepOptions{Rates: peft.Rates{Dropout: 0.1}, WeightDecay: 1e-2})
		if err != nil {
			return err
		}
		defer s.Close()
		tuned, first, second, err := s.save()
		if err != nil {
			return err
		}
		if err := s.load(3, tuned, first, second); err != nil {
			be.left = -1
			if _, _, _, err := s.save(); err != nil {
				t.Errorf("broken after %d uses: the state is gone: %v", uses, err)
			}
			return err
		}
		step := s.Step
		if microBatches {
			step = func(ctx context.Context, images, labels *tensors.Tensor, lr float64, seed uint64) (float64, float64, error) {
				if err := s.enqueue(ctx, s.inMicroBatches, batch{images: images, targets: labels}, lr, seed); err != nil {
					return 0, 0, err
				}
				_, err := s.Read()
				return 0, 0, err
			}
		}
		_, _, err = step(&countdown{t.Context(), checks}, images, labels, 1e-3, 1)
		return err
	}
	for _, microBatches := range []bool{false, true} {
		for _, bound := range []struct {
			what string
			err  error
			try  func(n int) error
		}{
			{"broken after %d uses", errBroken, func(n int) error { return attempt(microBatches, n, -1) }},
			{"cancelled after %d checks", context.Canceled, func(n int) error { return attempt(microBatches, -1, n) }},
		} {
			for n := 0; ; n++ {
				err := bound.try(n)
				if err != nil && !errors.Is(err, bound.err) {
					t.Errorf(bound.what+": %v", n, err)
				}
				if now := onBackend(); now > held {
					t.Errorf(bound.what+", micro-batches %t: %d bytes stay allocated on the backend after error %v", n, microBatches, now-held, err)
					held = now
				}
				if err == nil {
					if n < 2 {
						t.Errorf("micro-batches %t: only %d attempts failed, expected at least 2", microBatches, n)
					}
					break
				}
				if n == 1000 {
					t.Fatal(err)
				}
			}
		}
	}
}
