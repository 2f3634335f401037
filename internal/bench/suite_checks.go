package bench

import (
	"context"
	"fmt"
	"math"
	"slices"

	"github.com/sptune/spt/backbone"
	"github.com/sptune/spt/backbone/catalogue"
	"github.com/sptune/spt/backend"
	"github.com/sptune/spt/method"
	"github.com/sptune/spt/objective"
	"github.com/sptune/spt/peft"
	"github.com/sptune/spt/plan"
	"github.com/sptune/spt/train"
)

// checkConfigs returns one small backbone of each architecture, with fewer blocks than a published
// one. The ViT is the first.
func checkConfigs() (out []backbone.Config) {
	for _, name := range []string{"vit_tiny", "swin_tiny", "convnext_tiny"} {
		b, _ := catalogue.Find(name)
		c := b.Config
		c.NumClasses = 10
		switch form := c.Form.(type) {
		case backbone.ViT:
			form.Depth = 4
			c.Form = form
		case backbone.Swin:
			form.Depths = []int{2, 2, 2, 2}
			c.Form = form
		case backbone.ConvNeXt:
			form.Depths = []int{1, 1, 2, 1}
			c.Form = form
		}
		out = append(out, c)
	}
	return out
}

// bound returns the largest relative difference that passes a check. Results differ because the
// device adds up products in another order, and because bfloat16 has a precision of only eight
// bits.
func bound(p backend.Precision) float64 {
	if p == backend.BF16 {
		return 0.05
	}
	return 1e-3
}

// check compares got with want and adds the comparison to the report.
func (s *suite) check(what string, p backend.Precision, got, want []float32, bound float64) {
	var difference, size float64
	if len(got) != len(want) {
		difference = math.NaN()
		got = want
	}
	for i, w := range want {
		difference += math.Pow(float64(got[i]-w), 2)
		size += math.Pow(float64(w), 2)
	}
	d := math.Sqrt(difference / size)
	s.Checks = append(s.Checks, check{what, string(p), d, bound, d <= bound})
}

// onBoth runs f on the CPU backend in f32, and on the device in f32 and bf16. For each precision it
// calls each with the result of the device and the result of the CPU.
func (s *suite) onBoth(m *backbone.Model, f func(be backend.Backend, m *backbone.Model) ([]float32, error), each func(p backend.Precision, got, want []float32)) error {
	own, _, err := backend.Open("cpu", 1)
	if err != nil {
		return err
	}
	want, err := f(own, m)
	if err != nil {
		return err
	}
	for _, p := range []backend.Precision{backend.F32, backend.BF16} {
		got, err := f(s.Backend, m.In(p, false))
		if err != nil {
			return fmt.Errorf("in precision %s: %w", p, err)
		}
		each(p, got, want)
	}
	return nil
}

// checkFeatures checks the features of a backbone.
func (s *suite) checkFeatures(ctx context.Context, c backbone.Config) error {
	return s.onBoth(Model(c), func(be backend.Backend, m *backbone.Model) ([]float32, error) {
		tuning, err := peft.New(c, peft.Selection{})
		if err != nil {
			return nil, err
		}
		p, err := train.NewPredictor(be, m, objective.SingleLabel, tuning, tuning.Init(0, peft.PaperScheme, m.Weights))
		if err != nil {
			return nil, err
		}
		defer p.Close()
		b, err := noise(be, c, 4)
		if err != nil {
			return nil, err
		}
		defer b.free()
		return p.Features(ctx, b.images)
	}, func(p backend.Precision, got, want []float32) {
		s.check("features of "+c.String(), p, got, want, bound(p))
	})
}

// checkScores checks the absolute values of the gradients of all scored weights.
func (s *suite) checkScores(ctx context.Context, c backbone.Config) error {
	return s.onBoth(Model(c), func(be backend.Backend, m *backbone.Model) (out []float32, err error) {
		tuning, err := peft.New(c, peft.Selection{})
		if err != nil {
			return nil, err
		}
		step, err := newStep(be, m, tuning, score)
		if err != nil {
			return nil, err
		}
		defer step.close()
		b, err := noise(be, c, 8)
		if err != nil {
			return nil, err
		}
		defer b.free()
		if err := step.run(ctx, b, 1); err != nil {
			return nil, err
		}
		scores, err := step.scorer.Scores()
		if err != nil {
			return nil, err
		}
		for _, t := range scores.Tensors {
			for _, v := range t.Scores {
				// absolute values of the gradients
				out = append(out, float32(math.Sqrt(float64(v))))
			}
		}
		return out, nil
	}, func(p backend.Precision, got, want []float32) {
		s.check("absolute gradients", p, got, want, 4*bound(p))
	})
}

// checkTraining checks the losses of a few training steps of a plan. It uses no dropout and no
// drop-path, because backends draw different random numbers.
func (s *suite) checkTraining(ctx context.Context, c backbone.Config) error {
	const steps = 8
	selection, err := Select(ctx, c, Method(method.SPTLoRA), plan.MustParseBudget("60k"))
	if err != nil {
		return err
	}
	losses := func(be backend.Backend, m *backbone.Model, w stepVariant) (out []float32, err error) {
		tuning, err := peft.New(c, selection)
		if err != nil {
			return nil, err
		}
		if w.whole {
			tuning.EntryGradient = peft.WholeGradient
		}
		stepper, err := train.NewStepper(be, m.In(m.Precision, w.checkpoint), objective.SingleLabel, tuning, tuning.Init(0, peft.PaperScheme, m.Weights), train.StepOptions{WeightDecay: 1e-4})
		if err != nil {
			return nil, err
		}
		defer stepper.Close()
		b, err := noise(be, c, 8)
		if err != nil {
			return nil, err
		}
		defer b.free()
		if w.loop {
			order, lrs := make([]int, steps*8), slices.Repeat([]float64{1e-3}, steps)
			for i := range order {
				order[i] = i % 8
			}
			if _, err := stepper.EnqueueLoop(ctx, b.data, order, lrs, 0, 0); err != nil {
				return nil, err
			}
		} else {
			for range steps {
				if err := stepper.Enqueue(ctx, b.images, b.labels, 1e-3, 0); err != nil {
					return nil, err
				}
			}
		}
		metrics, err := stepper.Read()
		for _, m := range metrics {
			out = append(out, float32(m.Loss))
		}
		return out, err
	}
	var want []float32
	model := Model(c)
	err = s.onBoth(model, func(be backend.Backend, m *backbone.Model) ([]float32, error) { return losses(be, m, stepVariant{}) },
		func(p backend.Precision, got, w []float32) {
			want = w
			s.check("training losses", p, got, want, bound(p))
		})
	if err != nil {
		return err
	}
	for _, w := range []stepVariant{{what: "training losses, entries picked from whole gradients", whole: true}, {what: "training losses, activation checkpointing", checkpoint: true}, {what: "training losses, several steps in one program", loop: true}} {
		got, err := losses(s.Backend, model.In(backend.F32, false), w)
		if err != nil {
			return fmt.Errorf("%s: %w", w.what, err)
		}
		s.check(w.what, backend.F32, got, want, bound(backend.F32))
	}
	return nil
}
