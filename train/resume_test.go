package train

import (
	"encoding/json"
	"math"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/sptune/spt/backbone"
	"github.com/sptune/spt/backend"
	"github.com/sptune/spt/dataset"
	"github.com/sptune/spt/internal/colours"
	"github.com/sptune/spt/objective"
	"github.com/sptune/spt/peft"
	"github.com/sptune/spt/progress"
)

// TestSaveInTime checks that the state is saved before the end of a long epoch. A training that is
// killed after this save continues from it and gives the same bits.
func TestSaveInTime(t *testing.T) {
	be, _, err := backend.Open("cpu", 1)
	if err != nil {
		t.Fatal(err)
	}
	c := backbone.Config{ImageSize: 8, NumClasses: 3, NumHeads: 2, LayerNormEps: 1e-6,
		Form: backbone.ViT{PatchSize: 4, EmbedDim: 8, Depth: 2, HiddenDim: 16}}
	tuning, err := peft.New(c, peft.Selection{Module: "lora", Rank: 2, Structured: []string{"blocks.0.attn.q.weight"}})
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	newRun := func(name string) *Run {
		return &Run{Backend: be, Model: colours.Model(c), Tuning: tuning, Checkpoint: filepath.Join(dir, name),
			Train:   Images(dataset.NewLoader(colours.Samples(20, 8, 0), dataset.Transform{Size: 8, HorizontalFlip: true}, nil, dataset.LoaderOptions{}), objective.SingleLabel, c),
			Options: Options{Epochs: 3, BatchSize: 4, LR: 1e-2, DropPath: 0.1, Seed: 1}}
	}
	first := newRun("first")
	var killed []byte // the state file in the second epoch
	first.Progress = func(e progress.Event) {
		if e.Stage != progress.Train {
			return
		}
		if e.Epoch == 1 && e.Done == 3 {
			first.saveAt = time.Time{} // the state is saved after this step
		}
		if e.Epoch == 1 && e.Done == 4 {
			if killed, err = os.ReadFile(first.Checkpoint); err != nil {
				t.Fatal(err)
			}
		}
	}
	want, err := first.Do(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	second := newRun("second")
	if err := os.WriteFile(second.Checkpoint, killed, 0o666); err != nil {
		t.Fatal(err)
	}
	steps := 0
	second.Progress = func(e progress.Event) {
		if e.Stage == progress.Train {
			steps++
		}
	}
	got, err := second.Do(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if steps != 2+5 {
		t.Errorf("%d steps were left, expected 2 of the second epoch and 5 of the third", steps)
	}
	for name, w := range want.Tuned {
		for i, v := range w.Data {
			if math.Float32bits(got.Tuned[name].Data[i]) != math.Float32bits(v) {
				t.Fatalf("%s[%d] is %g, expected %g", name, i, got.Tuned[name].Data[i], v)
			}
		}
	}
	for i, e := range want.Epochs {
		if g := got.Epochs[i]; g.TrainLoss != e.TrainLoss || g.TrainAccuracy != e.TrainAccuracy || !(g.Seconds > 0) {
			t.Errorf("epoch %+v, expected %+v", g, e)
		}
	}
}

// TestEpochWithoutTime checks the figures of an epoch that is shorter than a tick of the clock.
// They must be numbers that JSON can hold.
func TestEpochWithoutTime(t *testing.T) {
	p := position{LossSum: 6, Correct: 2, Step: 1, Total: 1}
	if _, err := json.Marshal(p.epochDone(Options{Epochs: 1}, 1, 4)); err != nil {
		t.Error(err)
	}
	p.Seconds = 2
	if e := p.epochDone(Options{Epochs: 1}, 1, 4); e.ImagesPerSecond != 2 {
		t.Errorf("%v images/s, want 2", e.ImagesPerSecond)
	}
}
