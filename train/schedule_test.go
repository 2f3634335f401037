package train_test

import (
	"context"
	"errors"
	"fmt"
	"math"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sptune/spt/checkpoint"
	"github.com/sptune/spt/progress"
	"github.com/sptune/spt/train"
)

// TestResumeWithPatience stops a training with Steps and Patience at every step and resumes it. The
// last of its four epochs has two steps, or the training stops before it.
func TestResumeWithPatience(t *testing.T) {
	for _, patience := range []int{1, 4} {
		newPatient := func() *train.Run {
			r := newRun(t, selection)
			r.Options.Steps, r.Options.Patience = 11, patience
			r.Options.LR = 3 // the validation loss rises
			return r
		}
		want, err := newPatient().Do(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		losses := []float64{}
		for _, e := range want.Epochs {
			losses = append(losses, e.ValLoss)
		}
		if want.Best-1 != slices.Index(losses, slices.Min(losses)) || want.Best == len(losses) || len(losses) != min(4, want.Best+patience) {
			t.Errorf("patience %d: %d epochs, best epoch %d, validation losses %v", patience, len(losses), want.Best, losses)
		}
		for stop := 1; stop < 3*len(losses)-1; stop++ {
			r := newPatient()
			r.Checkpoint = filepath.Join(t.TempDir(), "training.safetensors")
			ctx, cancel := context.WithCancel(t.Context())
			steps := 0
			r.Progress = func(e progress.Event) {
				if e.Stage == progress.Train {
					if steps++; steps == stop {
						cancel()
					}
				}
			}
			if _, err := r.Do(ctx); !errors.Is(err, context.Canceled) {
				t.Fatalf("stopped at step %d: error %v", stop, err)
			}
			got, err := r.Do(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			equal(t, fmt.Sprintf("patience %d, stopped at step %d", patience, stop), got.Tuned, want.Tuned)
			if got.Best != want.Best || len(got.Epochs) != len(want.Epochs) {
				t.Errorf("patience %d, stopped at step %d: best epoch %d of %d, expected %d of %d", patience, stop, got.Best, len(got.Epochs), want.Best, len(want.Epochs))
			}
		}
	}
}

// TestPatienceReturnsBest checks that the result, the predictions of the validation images and a
// later evaluation all have the tuned tensors of the best epoch, also if there are too many
// predictions to keep them.
func TestPatienceReturnsBest(t *testing.T) {
	t.Run("kept", testPatience)
	defer train.SetMaxKept(0)()
	t.Run("predicted again", testPatience)
}

func testPatience(t *testing.T) {
	r := newRun(t, selection)
	r.Options.LR, r.Options.Patience, r.Keep = 3, 4, true
	var sent []float32
	r.ValSink = func(logits []float32, _ []int32) error {
		sent = append(sent, logits...)
		return nil
	}
	got, err := r.Do(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	var want []float32
	e, err := r.Evaluate(t.Context(), images(9, false), func(logits []float32, _ []int32) error {
		want = append(want, logits...)
		return nil
	}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(sent, want) {
		t.Errorf("predictions %v, expected those of the best epoch: %v", sent, want)
	}
	if want := got.Epochs[got.Best-1]; math.Abs(e.Loss-want.ValLoss) > 1e-6 || e.Accuracy != want.ValAccuracy {
		t.Errorf("loss %g, accuracy %g; expected those of epoch %d: %g, %g", e.Loss, e.Accuracy, got.Best, want.ValLoss, want.ValAccuracy)
	}
	// the same training without patience, up to the best epoch
	short := newRun(t, selection)
	short.Options.LR = 3
	short.EpochDone = func(epochs []train.Epoch) error {
		if len(epochs) == got.Best {
			return errStop
		}
		return nil
	}
	short.Keep = true
	defer short.Close()
	if _, err := short.Do(t.Context()); !errors.Is(err, errStop) {
		t.Fatal(err)
	}
	if s, err := short.Evaluate(t.Context(), images(9, false), nil, nil); err != nil || s.Loss != e.Loss {
		t.Errorf("loss %g (%v) after the best epoch, expected %g", s.Loss, err, e.Loss)
	}
}

var errStop = errors.New("stop")

// TestSteps checks the number of steps, the figures of a last epoch with fewer steps, and that the
// learning rate falls to its end within the steps.
func TestSteps(t *testing.T) {
	r := newRun(t, selection) // 3 steps in an epoch
	r.Options.Steps = 7
	r.Options = r.Options.WithDefaults(24)
	if r.Options.Epochs != 3 || math.Abs(r.Options.WarmupEpochs-0.3) > 1e-9 {
		t.Errorf("%d epochs, warm-up %g", r.Options.Epochs, r.Options.WarmupEpochs)
	}
	steps := 0
	r.Progress = func(e progress.Event) {
		if e.Stage == progress.Train {
			steps++
		}
	}
	got, err := r.Do(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if steps != 7 || len(got.Epochs) != 3 {
		t.Errorf("%d steps in %d epochs", steps, len(got.Epochs))
	}
	last := got.Epochs[2]
	if want := r.Options.LearningRate(3 * 6.0 / 7); math.Abs(last.LR-want) > 1e-12 {
		t.Errorf("last learning rate %g, expected %g", last.LR, want)
	}
	if last.TrainAccuracy > 1 || last.TrainLoss > 10 {
		t.Errorf("figures of the last epoch: %+v", last)
	}
}

// TestInitial checks that Initial replaces initial values, that a wrong one is refused, and that a
// training does not continue with other initial values.
func TestInitial(t *testing.T) {
	bias := func(v float32) checkpoint.StateDict {
		b := checkpoint.NewTensor(3)
		b.Data[1] = v
		return checkpoint.StateDict{"head.bias": b}
	}
	loss := func(initial checkpoint.StateDict) float64 {
		r := newRun(t, selection)
		r.Options = r.Options.WithEpochs(1)
		r.Options.WarmupEpochs, r.Options.LR, r.Initial = 0, 1e-9, initial
		got, err := r.Do(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return got.Epochs[0].ValLoss
	}
	if drawn, zero, far := loss(nil), loss(bias(0)), loss(bias(20)); drawn != zero || far < zero+5 {
		t.Errorf("losses %g with drawn values, %g with the same values, %g with a far bias", drawn, zero, far)
	}
	r := newRun(t, selection)
	r.Initial = checkpoint.StateDict{"head.bias": checkpoint.NewTensor(4)}
	if _, err := r.Do(t.Context()); err == nil || !strings.Contains(err.Error(), "head.bias has shape [4]") {
		t.Errorf("error %v", err)
	}
	r.Checkpoint, r.Initial = filepath.Join(t.TempDir(), "training.safetensors"), bias(1)
	ctx, cancel := context.WithCancel(t.Context())
	r.Progress = func(progress.Event) { cancel() }
	if _, err := r.Do(ctx); !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	r.Initial = bias(2)
	if _, err := r.Do(t.Context()); err == nil || !strings.Contains(err.Error(), "other options") {
		t.Errorf("error %v", err)
	}
}

// TestTimeLeft checks that a training with too little time takes fewer steps and ends its schedule,
// and that a training with enough time takes all steps, with the bits of a training without a
// limit.
func TestTimeLeft(t *testing.T) {
	free, err := newRun(t, selection).Do(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, limit := range []time.Duration{0, 700 * time.Millisecond, time.Hour} {
		r := newRun(t, selection)
		steps, began := 0, time.Now()
		r.Options = r.Options.WithEpochs(4)
		if limit < time.Hour {
			r.Options = r.Options.WithEpochs(4000)
		}
		r.TimeLeft = func() time.Duration { return limit - time.Since(began) }
		r.Progress = func(e progress.Event) {
			if e.Stage == progress.Train {
				steps++
			}
		}
		got, err := r.Do(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if limit == time.Hour {
			equal(t, "enough time", got.Tuned, free.Tuned)
			continue
		}
		last := got.Epochs[len(got.Epochs)-1]
		if steps < 1 || steps >= 12000 {
			t.Errorf("limit %v: %d steps", limit, steps)
		}
		if limit > 0 && (last.LR > 0.3*r.Options.LR || time.Since(began) > 3*limit) {
			t.Errorf("limit %v: %d steps in %v, last learning rate %g", limit, steps, time.Since(began), last.LR)
		}
	}
}
