package train_test

import (
	"fmt"
	"math"
	"strings"
	"testing"

	"github.com/sptune/spt/backbone"
	"github.com/sptune/spt/backend"
	"github.com/sptune/spt/internal/golden/sptsmall"
	"github.com/sptune/spt/internal/program"
	"github.com/sptune/spt/objective"
	"github.com/sptune/spt/peft"
	"github.com/sptune/spt/train"
)

// TestGoldenTraining repeats four trainings of the reference implementation. It compares the losses
// of twelve steps, the final logits, and all tuned tensors.
func TestGoldenTraining(t *testing.T) {
	s := sptsmall.Open(t)
	be, _, err := backend.Open("cpu", 1)
	if err != nil {
		t.Fatal(err)
	}
	model := s.Model(t)
	images, labels := s.Data(t)
	for run, trace := range s.Training {
		t.Run(run, func(t *testing.T) {
			release := s.Run(t, model.Config, run)
			tuning, err := peft.New(model.Config, release.Selection)
			if err != nil {
				t.Fatal(err)
			}
			if len(tuning.Params) != release.Trainable {
				t.Errorf("%d tensors are tuned, the release tunes %d", len(tuning.Params), release.Trainable)
			}
			stepper, err := train.NewStepper(be, model, objective.SingleLabel, tuning, release.Initial, train.StepOptions{WeightDecay: trace.WeightDecay})
			if err != nil {
				t.Fatal(err)
			}
			defer stepper.Close()
			worst := 0.0
			for i, want := range trace.Losses {
				b := i % s.Batches
				x, err := program.Tensor(be, images[b], s.BatchSize, s.ImageSize, s.ImageSize, 3)
				if err != nil {
					t.Fatal(err)
				}
				y, err := program.Tensor(be, labels[b], s.BatchSize)
				if err != nil {
					t.Fatal(err)
				}
				loss, _, err := stepper.Step(t.Context(), x, y, trace.LR, 0)
				if err != nil {
					t.Fatal(err)
				}
				d := math.Abs(loss-want) / want
				worst = max(worst, d)
				if d > 1e-3 {
					t.Errorf("step %d: loss %.6f, expected %.6f", i, loss, want)
				}
			}
			final, err := stepper.Tuned()
			if err != nil {
				t.Fatal(err)
			}
			p, err := train.NewPredictor(be, model, objective.SingleLabel, tuning, final)
			if err != nil {
				t.Fatal(err)
			}
			defer p.Close()
			x, err := program.Tensor(be, images[0], s.BatchSize, s.ImageSize, s.ImageSize, 3)
			if err != nil {
				t.Fatal(err)
			}
			logits, err := p.Logits(t.Context(), x)
			if err != nil {
				t.Fatal(err)
			}
			largest := 0.0
			for i, want := range release.FinalLogits {
				largest = max(largest, math.Abs(float64(logits[i]-want)))
			}
			if largest > 1e-3 {
				t.Errorf("final logits differ by up to %g, expected at most 1e-3", largest)
			}
			// Softmax does not change if the same vector is added to all keys. So the gradient of a
			// key bias is rounding noise, which AdamW scales up to full steps.
			tensors := 0.0
			for _, p := range tuning.Params {
				if strings.Contains(p.Name, ".attn.k.") && strings.HasSuffix(p.Name, "bias") {
					continue
				}
				for i, want := range release.Final[p.Name].Data {
					tensors = max(tensors, math.Abs(float64(final[p.Name].Data[i]-want)))
				}
			}
			if tensors > 1e-3 {
				t.Errorf("tuned tensors differ by up to %g, expected at most 1e-3", tensors)
			}
			// The merged weights give the same logits without the modules.
			merged := "not mergeable"
			if len(tuning.Selection.Structured) == 0 || tuning.Module.Merge != nil {
				sd, err := tuning.Merge(model.Weights, final)
				if err != nil {
					t.Fatal(err)
				}
				m := backbone.NewModel(model.Config, model.Preprocessing, sd)
				linear, err := peft.New(m.Config, peft.Selection{})
				if err != nil {
					t.Fatal(err)
				}
				q, err := train.NewPredictor(be, m, objective.SingleLabel, linear, sd)
				if err != nil {
					t.Fatal(err)
				}
				defer q.Close()
				again, err := q.Logits(t.Context(), x)
				if err != nil {
					t.Fatal(err)
				}
				d := 0.0
				for i := range logits {
					d = max(d, math.Abs(float64(logits[i]-again[i])))
				}
				if d > 1e-4 {
					t.Errorf("merged logits differ by up to %g, expected at most 1e-4", d)
				}
				merged = fmt.Sprintf("%.2g", d)
			}
			t.Logf("losses: largest relative difference %.2g; final logits: %.2g; final tensors: %.2g; merged: %s", worst, largest, tensors, merged)
		})
	}
}
