package train_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"image"
	"image/png"
	"math"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/sptune/spt/backbone"
	"github.com/sptune/spt/backend"
	"github.com/sptune/spt/checkpoint"
	"github.com/sptune/spt/dataset"
	"github.com/sptune/spt/internal/colours"
	"github.com/sptune/spt/internal/program"
	"github.com/sptune/spt/objective"
	"github.com/sptune/spt/peft"
	"github.com/sptune/spt/progress"
	"github.com/sptune/spt/train"
)

var config = backbone.Config{ImageSize: 8, NumClasses: 3, NumHeads: 2, LayerNormEps: 1e-6,
	Form: backbone.ViT{PatchSize: 4, EmbedDim: 8, Depth: 3, HiddenDim: 16}}

func images(n int, flip bool) *train.Data {
	return train.Images(dataset.NewLoader(colours.Samples(n, 8, 0), dataset.Transform{Size: 8, HorizontalFlip: flip}, nil, dataset.LoaderOptions{}), objective.SingleLabel, config)
}

// selection selects some tensors of each kind.
var selection = peft.Selection{Module: "lora", Rank: 2, Structured: []string{"blocks.0.attn.q.weight", "blocks.1.mlp.fc1.weight", "blocks.2.attn.proj.weight"},
	Whole: []string{"cls_token", "blocks.1.norm1.bias"}, Entries: map[string][]int32{"blocks.1.attn.v.weight": {0, 9, 63}, "blocks.2.norm2.weight": {1}}}

func newRun(t *testing.T, s peft.Selection) *train.Run {
	t.Helper()
	be, _, err := backend.Open("cpu", 1)
	if err != nil {
		t.Fatal(err)
	}
	tuning, err := peft.New(config, s)
	if err != nil {
		t.Fatal(err)
	}
	o := train.VTAB().WithEpochs(4)
	o.BatchSize, o.LR, o.Seed = 7, 1e-2, 5
	return &train.Run{Backend: be, Model: colours.Model(config), Tuning: tuning, Options: o, Train: images(24, true), Val: images(9, false)}
}

func equal(t *testing.T, what string, got, want checkpoint.StateDict) {
	t.Helper()
	if len(got) != len(want) {
		t.Fatalf("%s: %d tensors, expected %d", what, len(got), len(want))
	}
	for name, w := range want {
		for i, v := range w.Data {
			if math.Float32bits(got[name].Data[i]) != math.Float32bits(v) {
				t.Fatalf("%s: %s[%d] is %g, expected %g", what, name, i, got[name].Data[i], v)
			}
		}
	}
}

// TestResume stops a training at every step and resumes it. The tuned tensors and the figures of
// the epochs are the same as without the interruption, bit for bit.
//
// With 24 images in mini-batches of 7, an epoch has three steps; with Compat it has a fourth step
// on the remaining three images.
func TestResume(t *testing.T) {
	for compat, steps := range map[string]int{"": 3, train.CompatRelease: 4} {
		t.Run(compat, func(t *testing.T) {
			testResume(t, steps, func() *train.Run {
				r := newRun(t, selection)
				r.Options.Compat = compat
				return r
			})
		})
	}
}

func testResume(t *testing.T, perEpoch int, newRun func() *train.Run) {
	want, err := newRun().Do(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for stop := 1; stop < 4*perEpoch; stop++ {
		r := newRun()
		r.Checkpoint = filepath.Join(t.TempDir(), "training.safetensors")
		ctx, cancel := context.WithCancel(t.Context())
		steps := 0
		r.Progress = func(e progress.Event) {
			if e.Stage != progress.Train {
				return
			}
			if steps++; steps == stop {
				cancel()
			}
		}
		_, err := r.Do(ctx)
		if !errors.Is(err, context.Canceled) || !strings.Contains(err.Error(), fmt.Sprintf("stopped in epoch %d after %d of its steps", 1+stop/perEpoch, stop%perEpoch)) && stop%perEpoch > 0 {
			t.Fatalf("stopped at step %d: error %v", stop, err)
		}
		r.Progress = nil
		var finished [][]train.Epoch
		r.EpochDone = func(epochs []train.Epoch) error {
			finished = append(finished, epochs)
			return nil
		}
		got, err := r.Do(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		equal(t, "resumed", got.Tuned, want.Tuned)
		for i, epochs := range finished {
			if n := 4 - len(finished) + i + 1; len(epochs) != n || epochs[0].TrainLoss != want.Epochs[0].TrainLoss {
				t.Errorf("stopped at step %d: %d epochs at the end of epoch %d", stop, len(epochs), n)
			}
		}
		for i := range want.Epochs {
			g, w := got.Epochs[i], want.Epochs[i]
			if g.TrainLoss != w.TrainLoss || g.ValLoss != w.ValLoss || g.ValAccuracy != w.ValAccuracy || g.LR != w.LR {
				t.Errorf("stopped at step %d: epoch %+v, expected %+v", stop, g, w)
			}
		}
		r.Options.LR *= 2
		if _, err := r.Do(t.Context()); err == nil || !strings.Contains(err.Error(), "other options") {
			t.Errorf("resumed from a checkpoint with other options: error %v", err)
		}
		r.Options.LR /= 2
		r.Train = images(24, false)
		if _, err := r.Do(t.Context()); err == nil || !strings.Contains(err.Error(), "data") {
			t.Errorf("resumed from a checkpoint with another transform of the images: error %v", err)
		}
	}
}

// TestKeep checks that a Run that kept its programs can train on other data, with the same bits as
// a new Run, and can evaluate the result.
func TestKeep(t *testing.T) {
	r := newRun(t, selection)
	r.Keep = true
	all := images(24, true)
	r.Train = all.Part(0, 15)
	defer r.Close()
	if _, err := r.Evaluate(t.Context(), r.Val, nil, nil); err == nil || !strings.Contains(err.Error(), "Run.Keep") {
		t.Errorf("evaluated before the training: error %v", err)
	}
	first, err := r.Do(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	part := newRun(t, selection)
	part.Train = train.Images(dataset.NewLoader(colours.Samples(24, 8, 0)[:15], dataset.Transform{Size: 8, HorizontalFlip: true}, nil, dataset.LoaderOptions{}), objective.SingleLabel, config)
	want, err := part.Do(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	equal(t, "a part", first.Tuned, want.Tuned)
	r.Train, r.Val = all, nil
	second, err := r.Do(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if want, err = newRun(t, selection).Do(t.Context()); err != nil {
		t.Fatal(err)
	}
	equal(t, "once more, on all", second.Tuned, want.Tuned)
	got, err := r.Evaluate(t.Context(), images(9, false), nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	if part := all.Part(0, 15); part != all.Part(0, 15) || part == all.Part(0, 14) {
		t.Error("Part returned two values for the same arguments, or the same value for different arguments")
	}
	// Programs are compiled again for other options.
	for _, change := range []func(o *train.Options){func(o *train.Options) { o.WeightDecay = 5 }, func(o *train.Options) { o.Dropout = 0.5 }} {
		change(&r.Options)
		again, err := r.Do(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		anew := newRun(t, selection)
		anew.Options = r.Options
		if want, err := anew.Do(t.Context()); err != nil {
			t.Fatal(err)
		} else {
			equal(t, "with other options", again.Tuned, want.Tuned)
		}
		if again.Tuned["head.weight"].Data[0] == second.Tuned["head.weight"].Data[0] {
			t.Error("other options changed nothing")
		}
	}
	if last := want.Epochs[3]; got.Loss != last.ValLoss || got.Accuracy != last.ValAccuracy || got.Images != 9 {
		t.Errorf("evaluation %+v, expected the validation figures of %+v", got, last)
	}
}

// TestThreads checks that the bits of the result do not depend on the number of threads.
func TestThreads(t *testing.T) {
	want, err := newRun(t, selection).Do(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
	got, err := newRun(t, selection).Do(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	equal(t, "one thread", got.Tuned, want.Tuned)
}

// TestSeed checks that different seeds give different results.
func TestSeed(t *testing.T) {
	a, b := newRun(t, selection), newRun(t, selection)
	b.Options.Seed++
	ra, err := a.Do(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	rb, err := b.Do(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if ra.Tuned["head.weight"].Data[0] == rb.Tuned["head.weight"].Data[0] {
		t.Error("two seeds gave the same head")
	}
}

// TestFeatureCache compares a head trained on cached features with a head trained on images. The
// order of sums differs, so the bits may differ.
func TestFeatureCache(t *testing.T) {
	cached := newRun(t, peft.Selection{})
	cached.Train = images(24, false)
	got, err := cached.Do(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	stepper, err := train.NewStepper(cached.Backend, cached.Model, objective.SingleLabel, cached.Tuning, cached.Tuning.Init(cached.Options.Seed, peft.PaperScheme, cached.Model.Weights), train.StepOptions{WeightDecay: cached.Options.WeightDecay})
	if err != nil {
		t.Fatal(err)
	}
	defer stepper.Close()
	o := cached.Options
	for epoch := range o.Epochs {
		order := dataset.Shuffle(24, o.Seed, epoch)
		for step := range 3 {
			var pix []uint8
			var labels []int32
			for _, i := range order[step*7 : step*7+7] {
				pix = append(pix, colours.Pixels(i, 8, 0)...)
				labels = append(labels, int32(i%3))
			}
			x, err := program.Tensor(cached.Backend, pix, 7, 8, 8, 3)
			if err != nil {
				t.Fatal(err)
			}
			y, err := program.Tensor(cached.Backend, labels, 7)
			if err != nil {
				t.Fatal(err)
			}
			if _, _, err := stepper.Step(t.Context(), x, y, o.LearningRate(float64(epoch)+float64(step)/3), o.Seed); err != nil {
				t.Fatal(err)
			}
		}
	}
	want, err := stepper.Tuned()
	if err != nil {
		t.Fatal(err)
	}
	for name, w := range want {
		for i, v := range w.Data {
			if d := math.Abs(float64(got.Tuned[name].Data[i] - v)); d > 1e-5 {
				t.Errorf("%s[%d] differs by %g", name, i, d)
			}
		}
	}
}

// TestResumeInvalidPosition checks that a training state with an impossible position is an error.
func TestResumeInvalidPosition(t *testing.T) {
	r := newRun(t, selection)
	r.Checkpoint = filepath.Join(t.TempDir(), "training.safetensors")
	ctx, cancel := context.WithCancel(t.Context())
	r.Progress = func(progress.Event) { cancel() }
	if _, err := r.Do(ctx); err == nil {
		t.Fatal("the run was not stopped")
	}
	f, err := checkpoint.Open(r.Checkpoint)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var entries []checkpoint.Entry
	for _, x := range f.Tensors() {
		v, err := f.Float32(x.Name)
		if err != nil {
			t.Fatal(err)
		}
		entries = append(entries, checkpoint.Entry{Name: x.Name, DType: "F32", Shape: v.Shape, Data: v.Data})
	}
	meta := f.Metadata()
	changed := strings.Replace(meta["content"], `"step":1,`, `"step":63,`, 1)
	if changed == meta["content"] {
		t.Fatalf("no step 1 in %s", meta)
	}
	meta["content"] = changed
	if err := checkpoint.Save(r.Checkpoint, entries, meta); err != nil {
		t.Fatal(err)
	}
	if _, err := r.Do(t.Context()); err == nil || !strings.Contains(err.Error(), "step 63") {
		t.Errorf("step 63 of 3: %v", err)
	}
}

// TestPredictorErrors checks the errors for a batch without images, for labels outside the classes
// of the head, and for images of the wrong size.
func TestPredictorErrors(t *testing.T) {
	r := newRun(t, peft.Selection{})
	p, err := train.NewPredictor(r.Backend, r.Model, objective.SingleLabel, r.Tuning, r.Tuning.Init(0, peft.PaperScheme, r.Model.Weights))
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	none, err := program.Tensor(r.Backend, []uint8{}, 0, 8, 8, 3)
	if err != nil {
		t.Fatal(err)
	}
	defer program.Free(none)
	if logits, err := p.Logits(t.Context(), none); err == nil {
		t.Errorf("no images give logits %v, expected an error", logits)
	}
	samples := colours.Samples(4, 8, 0)
	samples[2].Target = dataset.Class(3)
	data := train.Images(dataset.NewLoader(samples, dataset.Transform{Size: 8}, nil, dataset.LoaderOptions{}), objective.SingleLabel, config)
	if _, err := p.Evaluate(t.Context(), data, 2, nil, nil); err == nil || !strings.Contains(err.Error(), "image 3 has label 3, expected 0 to 2") {
		t.Errorf("label 3 of 3 classes: %v", err)
	}
	if _, err := p.Evaluate(t.Context(), train.Images(dataset.NewLoader(samples, dataset.Transform{Size: 16}, nil, dataset.LoaderOptions{}), objective.SingleLabel, config), 2, nil, nil); err == nil {
		t.Error("images of 16 px were accepted by a backbone for 8 px")
	}
}

// TestDiverged checks that a loss that is not finite is an error.
func TestDiverged(t *testing.T) {
	r := newRun(t, peft.Selection{})
	tuned := r.Tuning.Init(0, peft.PaperScheme, r.Model.Weights)
	tuned["head.bias"].Data[1] = float32(math.NaN())
	p, err := train.NewPredictor(r.Backend, r.Model, objective.SingleLabel, r.Tuning, tuned)
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	if _, err := p.Evaluate(t.Context(), r.Val, 4, nil, nil); err == nil || !strings.Contains(err.Error(), "evaluating 9 images: the loss is NaN") {
		t.Errorf("evaluating with a NaN bias: error %v", err)
	}
}

// TestLearningRate compares the learning rate at whole epochs with CosineLRScheduler(t_initial=100,
// lr_min=1e-5, warmup_t=10, warmup_lr_init=1e-6) of timm.
func TestLearningRate(t *testing.T) {
	o := train.VTAB()
	for epoch, want := range map[float64]float64{0: 1e-6, 1: 0.0001009, 5: 0.0005005, 9: 0.0009001, 10: 0.0009757729755661011, 50: 0.000505, 99: 1.0244252618962858e-05} {
		if got := o.LearningRate(epoch); math.Abs(got-want) > 1e-12 {
			t.Errorf("epoch %g: %.10g, expected %.10g", epoch, got, want)
		}
	}
	if o := o.WithEpochs(20); o.Epochs != 20 || o.WarmupEpochs != 2 {
		t.Errorf("WithEpochs(20): %+v", o)
	}
}

// TestWeightDecay checks that the weight decay is decoupled and applies only to tensors of two or
// more dimensions. A tensor that does not influence the output has gradient zero, so only the decay
// changes it.
func TestWeightDecay(t *testing.T) {
	r := newRun(t, selection)
	tuned := r.Tuning.Init(1, peft.PaperScheme, r.Model.Weights)
	// B is zero at the first step, so the gradient of A is zero too.
	a := append([]float32(nil), tuned["blocks.0.attn.q.lora_A"].Data...)
	stepper, err := train.NewStepper(r.Backend, r.Model, objective.SingleLabel, r.Tuning, tuned, train.StepOptions{WeightDecay: 0.5})
	if err != nil {
		t.Fatal(err)
	}
	defer stepper.Close()
	x, err := program.Tensor(r.Backend, make([]uint8, 2*8*8*3), 2, 8, 8, 3)
	if err != nil {
		t.Fatal(err)
	}
	y, err := program.Tensor(r.Backend, []int32{0, 1}, 2)
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := stepper.Step(t.Context(), x, y, 0.1, 0); err != nil {
		t.Fatal(err)
	}
	got, err := stepper.Tuned()
	if err != nil {
		t.Fatal(err)
	}
	for i, v := range got["blocks.0.attn.q.lora_A"].Data {
		if want := a[i] * (1 - 0.1*0.5); math.Abs(float64(v-want)) > 1e-6 {
			t.Errorf("lora_A[%d] is %g, expected %g", i, v, want)
		}
	}
}

// TestInvalidOptions checks that options out of range are errors.
func TestInvalidOptions(t *testing.T) {
	for want, change := range map[string]func(*train.Options){
		"epochs":        func(o *train.Options) { o.Epochs = 0 },
		"batch size":    func(o *train.Options) { o.BatchSize = -1 },
		"learning rate": func(o *train.Options) { o.LR = math.NaN() },
		"weight decay":  func(o *train.Options) { o.WeightDecay = -1 },
		"minimum":       func(o *train.Options) { o.MinLR = math.Inf(1) },
		"warm-up":       func(o *train.Options) { o.WarmupEpochs = 5 },
		"dropout":       func(o *train.Options) { o.Dropout = 1 },
		"of the head":   func(o *train.Options) { o.HeadLR = 11 },
		"the factor 2":  func(o *train.Options) { o.HeadLR, o.LRFactors = 1, map[peft.Group]float64{peft.HeadGroup: 2} },
		`"norm"`:        func(o *train.Options) { o.LRFactors = map[peft.Group]float64{"norm": 2} },
		"factor 0 of":   func(o *train.Options) { o.LRFactors = map[peft.Group]float64{peft.NormGroup: 0} },
		"known: paper":  func(o *train.Options) { o.Init = "papers" },
		"compat mode":   func(o *train.Options) { o.Compat = "releases" },
		"contradict":    func(o *train.Options) { o.Compat, o.Init = train.CompatRelease, peft.PaperScheme },
	} {
		r := newRun(t, selection)
		change(&r.Options)
		if _, err := r.Do(t.Context()); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("expected an error with %q, got %v", want, err)
		}
	}
}

// TestLastMiniBatch checks how many steps an epoch has, which images the steps read, and that the
// figures of the epoch weight a smaller mini-batch by its images.
func TestLastMiniBatch(t *testing.T) {
	for _, c := range []struct {
		batch, images int
		compat        string
		steps, read   int
	}{
		{6, 24, "", 4, 24},
		{7, 24, "", 3, 21}, // three of seven images remain
		{7, 24, train.CompatRelease, 4, 24},
		{10, 24, "", 2, 20},
		{9, 24, "", 3, 24},  // six of nine images remain
		{16, 24, "", 2, 24}, // half a mini-batch remains
		{40, 24, "", 1, 24},
		{0, 24, "", 8, 24}, // by default, a mini-batch is an eighth of the images
		{0, 7, "", 7, 7},
		{0, 24, train.CompatRelease, 1, 24},
	} {
		what := fmt.Sprintf("%d images in mini-batches of %d, compat %q", c.images, c.batch, c.compat)
		r := newRun(t, selection)
		r.Options.BatchSize, r.Options.Compat = c.batch, c.compat
		r.Options = r.Options.WithEpochs(1)
		r.Train, r.Val = images(c.images, false), nil
		steps, sum := 0, 0.0
		size := r.Options.WithDefaults(c.images).BatchSize
		r.Progress = func(e progress.Event) {
			if e.Stage == progress.Train {
				sum += e.Loss * float64(min(size, c.read-steps*size))
				if steps++; e.Total != int64(c.steps) {
					t.Errorf("%s: an epoch of %d steps, expected %d", what, e.Total, c.steps)
				}
			}
		}
		result, err := r.Do(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if steps != c.steps {
			t.Errorf("%s: %d steps, expected %d", what, steps, c.steps)
		}
		if got, want := result.Epochs[0].TrainLoss, sum/float64(c.read); math.Abs(got-want) > 1e-9*want {
			t.Errorf("%s: the loss of the epoch is %g, expected the mean %g of %d images", what, got, want, c.read)
		}
		if got := result.Epochs[0].ImagesPerSecond * result.Epochs[0].Seconds; math.Abs(got-float64(c.read)) > 1e-6 {
			t.Errorf("%s: the steps read %g images, expected %d", what, got, c.read)
		}
	}
	if b := train.VTAB().WithDefaults(1000).BatchSize; b != 64 {
		t.Errorf("mini-batches of %d for VTAB-1k, expected 64", b)
	}
}

// TestWaitShare checks that an epoch says how long its steps wait for images: long for large files
// that a small network reads, and not at all for features that are computed once.
func TestWaitShare(t *testing.T) {
	path := filepath.Join(t.TempDir(), "large.png")
	var file bytes.Buffer
	if err := png.Encode(&file, image.NewGray(image.Rect(0, 0, 1500, 1500))); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, file.Bytes(), 0o666); err != nil {
		t.Fatal(err)
	}
	samples := slices.Repeat([]dataset.Sample{{Path: path, Target: dataset.Class(1)}}, 24)
	for _, s := range []peft.Selection{selection, {}} {
		r := newRun(t, s)
		r.Val = nil
		r.Options.Epochs, r.Options.BatchSize = 2, 8
		r.Train = train.Images(dataset.NewLoader(samples, dataset.Transform{Size: config.ImageSize}, nil, dataset.LoaderOptions{}), objective.SingleLabel, config)
		result, err := r.Do(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range result.Epochs {
			if share := e.WaitShare; s.Structured != nil && !(share > 0.5 && share <= 1) || s.Structured == nil && share != 0 {
				t.Errorf("epoch %d with %d structured matrices waited %v of its time", e.Epoch, len(s.Structured), share)
			}
		}
	}
}

// TestGroupRates checks that HeadLR and LRFactors train their groups at other rates and everything
// else at the same rate. The first step of AdamW moves a value by about the rate.
func TestGroupRates(t *testing.T) {
	for _, o := range []train.Options{
		{HeadLR: 2e-2},
		{LRFactors: map[peft.Group]float64{peft.HeadGroup: 20, peft.OutputGroup: 4, peft.EntryGroup: 3, peft.NormGroup: 0.5}},
	} {
		r := newRun(t, selection)
		r.Options = train.Options{Epochs: 1, BatchSize: 24, LR: 1e-3, HeadLR: o.HeadLR, LRFactors: o.LRFactors, Init: peft.ReleaseScheme, Seed: 5}
		r.Val = nil
		result, err := r.Do(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		start := r.Tuning.Init(5, peft.ReleaseScheme, r.Model.Weights)
		for _, p := range r.Tuning.Params {
			lr, most := 1e-3, 0.0
			if f, ok := o.LRFactors[p.Group]; ok {
				lr *= f
			}
			if p.Head {
				lr = 2e-2
			}
			for i, v := range result.Tuned[p.Name].Data {
				most = max(most, math.Abs(float64(v-start[p.Name].Data[i])))
			}
			if math.Abs(most-lr) > 0.02*lr {
				t.Errorf("%s of group %s moves by up to %g in the first step, expected about %g", p.Name, p.Group, most, lr)
			}
		}
	}
}
