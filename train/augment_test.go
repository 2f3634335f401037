package train

import (
	"errors"
	"math"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/gomlx/gomlx/core/graph"

	"github.com/sptune/spt/backbone"
	"github.com/sptune/spt/backend"
	"github.com/sptune/spt/dataset"
	"github.com/sptune/spt/internal/colours"
	"github.com/sptune/spt/internal/program"
	"github.com/sptune/spt/objective"
	"github.com/sptune/spt/peft"
	"github.com/sptune/spt/progress"
)

// augmentConfig returns a small backbone for the tests of augmentation.
func augmentConfig() backbone.Config {
	return backbone.Config{ImageSize: 8, NumClasses: 3, NumHeads: 2, LayerNormEps: 1e-6,
		Form: backbone.ViT{PatchSize: 4, EmbedDim: 8, Depth: 2, HiddenDim: 16}}
}

// mapped is an objective whose logits are a map.
type mapped struct{ objective.Objective }

func (m mapped) Logits(c backbone.Config, l backbone.Layers, features *graph.Node) *graph.Node {
	return graph.InsertAxes(m.Objective.Logits(c, l, features), 1)
}

// TestResumeAugmented checks that a training with augmentation that is killed within an epoch
// continues with the same bits, with another number of workers. A training with another
// augmentation must not continue from its state.
func TestResumeAugmented(t *testing.T) {
	be, _, err := backend.Open("cpu", 1)
	if err != nil {
		t.Fatal(err)
	}
	c := augmentConfig()
	tuning, err := peft.New(c, peft.Selection{Module: "lora", Rank: 2, Structured: []string{"blocks.0.attn.q.weight"}})
	if err != nil {
		t.Fatal(err)
	}
	light := dataset.Augment{CropScale: [2]float64{0.5, 1}}
	strong := light
	strong.RandAugment, strong.Erasing, strong.Mixup, strong.CutMix = 2, 0.25, 0.8, 1
	for name, a := range map[string]dataset.Augment{"light": light, "strong": strong} {
		dir := t.TempDir()
		newRun := func(file string, a dataset.Augment, workers int) *Run {
			transform := dataset.Transform{Size: 8, HorizontalFlip: true, Augment: a}
			return &Run{Backend: be, Model: colours.Model(c), Tuning: tuning, Checkpoint: filepath.Join(dir, file),
				Train:   Images(dataset.NewLoader(colours.Samples(20, 13, 0), transform, nil, dataset.LoaderOptions{Workers: workers}), objective.SingleLabel, c),
				Options: Options{Epochs: 3, BatchSize: 4, LR: 1e-2, DropPath: 0.1, Seed: 1}}
		}
		first := newRun("first", a, 1)
		var killed []byte
		first.Progress = func(e progress.Event) {
			if e.Stage != progress.Train || e.Epoch != 1 {
				return
			}
			if e.Done == 3 {
				first.saveAt = time.Time{} // the state is saved after this step
			}
			if e.Done == 4 {
				if killed, err = os.ReadFile(first.Checkpoint); err != nil {
					t.Fatal(err)
				}
			}
		}
		want, err := first.Do(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		second := newRun("second", a, 4)
		if err := os.WriteFile(second.Checkpoint, killed, 0o666); err != nil {
			t.Fatal(err)
		}
		got, err := second.Do(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for p, w := range want.Tuned {
			if !slices.EqualFunc(got.Tuned[p].Data, w.Data, func(x, y float32) bool { return math.Float32bits(x) == math.Float32bits(y) }) {
				t.Errorf("%s: %s differs after an interruption", name, p)
			}
		}
		for i, e := range want.Epochs {
			if got.Epochs[i].TrainLoss != e.TrainLoss {
				t.Errorf("%s: epoch %d has the loss %v, want %v", name, i+1, got.Epochs[i].TrainLoss, e.TrainLoss)
			}
		}
		other := a
		other.Erasing += 0.01
		third := newRun("third", other, 1)
		if err := os.WriteFile(third.Checkpoint, killed, 0o666); err != nil {
			t.Fatal(err)
		}
		if _, err := third.Do(t.Context()); !errors.As(err, new(*StateError)) {
			t.Errorf("%s: a training with another augmentation continues, error %v", name, err)
		}
	}
}

// TestTestFlip checks that an evaluation with TestFlip averages the logits of each image and its
// mirror image, also from cached features, and that objectives with maps refuse it.
func TestTestFlip(t *testing.T) {
	be, _, err := backend.Open("cpu", 1)
	if err != nil {
		t.Fatal(err)
	}
	c := augmentConfig()
	tuning, err := peft.New(c, peft.Selection{})
	if err != nil {
		t.Fatal(err)
	}
	samples := colours.Samples(10, 8, 3)
	data := func(samples []dataset.Sample, flip bool) *Data {
		return Images(dataset.NewLoader(samples, dataset.Transform{Size: 8, TestFlip: flip}, nil, dataset.LoaderOptions{}), objective.SingleLabel, c)
	}
	run := &Run{Backend: be, Model: colours.Model(c), Tuning: tuning, Train: data(samples, true).Part(0, 7), Val: data(samples, true),
		Options: Options{Epochs: 2, BatchSize: 4, LR: 1e-2, Seed: 1}, Keep: true}
	defer run.Close()
	var cached []float32 // logits from cached features
	run.ValSink = func(logits []float32, _ []int32) error {
		cached = append(cached, logits...)
		return nil
	}
	result, err := run.Do(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	logits := func(samples []dataset.Sample, flip bool) (all []float32) {
		_, err := run.Evaluate(t.Context(), data(samples, flip), func(logits []float32, _ []int32) error {
			all = append(all, logits...)
			return nil
		}, nil)
		if err != nil {
			t.Fatal(err)
		}
		return all
	}
	mirrored := slices.Clone(samples)
	for i, s := range mirrored {
		m := &dataset.RGB{Width: 8, Height: 8, Pix: slices.Clone(s.Image.Pix)}
		for y := range 8 {
			for x := range 8 {
				copy(m.Pix[3*(8*y+x):][:3], s.Image.Pix[3*(8*y+7-x):])
			}
		}
		mirrored[i].Image = m
	}
	got, plain, other := logits(samples, true), logits(samples, false), logits(mirrored, false)
	different := false
	for i, v := range got {
		if want := (plain[i] + other[i]) / 2; math.Abs(float64(v-want)) > 1e-6 {
			t.Errorf("logit %d is %g, want %g, the mean of %g and %g", i, v, want, plain[i], other[i])
		}
		if math.Abs(float64(v-cached[i])) > 1e-5 {
			t.Errorf("logit %d is %g from cached features, want %g", i, cached[i], v)
		}
		different = different || math.Abs(float64(plain[i]-other[i])) > 1e-3
	}
	if !different || len(got) != 30 || len(cached) != 30 {
		t.Errorf("%d logits, %d from features; those of images and mirror images differ: %v", len(got), len(cached), different)
	}
	p, err := NewPredictor(be, colours.Model(c), mapped{objective.SingleLabel}, tuning, result.Tuned)
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	images, err := program.Tensor(be, samples[0].Image.Pix, 1, 8, 8, 3)
	if err != nil {
		t.Fatal(err)
	}
	defer program.Free(images)
	if _, err := p.MirroredLogits(t.Context(), images); err == nil {
		t.Error("logits of a map are averaged")
	}
}

// TestAugmentLeavesDevice checks that a device does not keep images that the loader augments, and
// that it keeps images with only a crop and a flip.
func TestAugmentLeavesDevice(t *testing.T) {
	be, _, err := backend.Open("cpu", 1)
	if err != nil {
		t.Fatal(err)
	}
	store := func(transform dataset.Transform) *Data {
		d := Images(dataset.NewLoader(colours.Samples(4, 8, 0), transform, nil, dataset.LoaderOptions{}), objective.SingleLabel, augmentConfig())
		r, err := d.store(t.Context(), be)
		if plain := (transform.Augment == dataset.Augment{}); err != nil || (r != nil) != plain || d.augments() != (transform.HorizontalFlip || !plain) {
			t.Errorf("%+v: stored %v, augments %v, error %v", transform, r != nil, d.augments(), err)
		}
		return d
	}
	store(dataset.Transform{Size: 8})
	store(dataset.Transform{Size: 8, HorizontalFlip: true, TestFlip: true})
	store(dataset.Transform{Size: 8, Augment: dataset.Augment{VerticalFlip: true}})
	store(dataset.Transform{Size: 8, HorizontalFlip: true, Augment: dataset.Augment{Mixup: 0.2}})
}
