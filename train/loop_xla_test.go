//go:build xla && linux

package train

import (
	"fmt"
	"math"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/gomlx/gomlx/core/graph"

	"github.com/sptune/spt/backbone"
	"github.com/sptune/spt/backend"
	"github.com/sptune/spt/checkpoint"
	"github.com/sptune/spt/dataset"
	"github.com/sptune/spt/internal/colours"
	"github.com/sptune/spt/internal/devicetest"
	"github.com/sptune/spt/internal/program"
	"github.com/sptune/spt/objective"
	"github.com/sptune/spt/peft"
)

// TestLoop compares a training that runs many steps as one program with a training that runs the
// same steps one by one, with dropout, drop-path, crops and flips. It also compares the device with
// the CPU, without dropout and drop-path, because the random numbers differ between backends.
func TestLoop(t *testing.T) {
	device, name := devicetest.Open(t)
	host, _, err := backend.Open("cpu", 1)
	if err != nil {
		t.Fatal(err)
	}
	c := backbone.Config{ImageSize: 16, NumClasses: 3, NumHeads: 2, LayerNormEps: 1e-6,
		Form: backbone.ViT{PatchSize: 4, EmbedDim: 32, Depth: 2, HiddenDim: 64}}
	selection := peft.Selection{Module: "lora", Rank: 2, Structured: []string{"blocks.0.attn.q.weight", "blocks.1.mlp.fc2.weight"},
		Whole: []string{"cls_token", "blocks.0.norm1.weight"}, Entries: map[string][]int32{"blocks.1.attn.v.weight": {3, 40, 77}, "blocks.0.mlp.fc1.weight": {9, 2000}}}
	tuning, err := peft.New(c, selection)
	if err != nil {
		t.Fatal(err)
	}
	o, balanced := objective.SingleLabel, false
	tuned := func(be backend.Backend, transform dataset.Transform, kept bool, drop float64) checkpoint.StateDict {
		samples := colours.Samples(14, 20, 0)
		for i := range 5 { // 8, 3 and 3 images of the classes
			if balanced {
				samples[i].Target = dataset.Class(0)
			}
		}
		data := Images(dataset.NewLoader(samples, transform, nil, dataset.LoaderOptions{}), o, c)
		if !kept {
			data.kept[device] = nil
		}
		run := Run{Backend: be, Model: colours.Model(c), Tuning: tuning, Train: data,
			Options: Options{Epochs: 4, BatchSize: 4, LR: 1e-3, DropPath: drop, Dropout: drop, ModuleDropPath: drop, WeightDecay: 0.1, Seed: 3}}
		if balanced {
			run.Options.LabelSmoothing, run.Options.ClassWeightValues, run.Options.BalancedSampling = 0.1, []float64{0.2, 1, 3}, true
		}
		result, err := run.Do(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if n := len(result.Epochs); n != 4 || !(result.Epochs[3].TrainLoss > 0) {
			t.Fatalf("epochs %+v", result.Epochs)
		}
		return result.Tuned
	}
	start := tuning.Init(3, peft.PaperScheme, colours.Model(c).Weights)
	near := func(what string, got, want checkpoint.StateDict) {
		var difference, moved float64
		for name, w := range want {
			for i, v := range w.Data {
				difference += math.Pow(float64(got[name].Data[i]-v), 2)
				moved += math.Pow(float64(v-start[name].Data[i]), 2)
			}
		}
		if share := math.Sqrt(difference / moved); !(share < 1e-2) {
			t.Errorf("%s: the difference of the tuned values is %.2g of their movement", what, share)
		}
	}
	augmented := dataset.Transform{Size: 16, Resize: "direct-crop", ResizeTo: 20, RandomCrop: true, HorizontalFlip: true}
	near("augmented, with drops", tuned(device, augmented, true, 0.2), tuned(device, augmented, false, 0.2))
	plain := dataset.Transform{Size: 16}
	want := tuned(host, plain, true, 0)
	near("device and CPU", tuned(device, plain, true, 0), want)
	o = grid{objective.SingleLabel}
	near("targets of a shape", tuned(device, plain, true, 0), want)
	o, balanced = objective.SingleLabel, true
	near("balanced, augmented, with drops", tuned(device, augmented, true, 0.2), tuned(device, augmented, false, 0.2))
	wantBalanced := tuned(host, plain, true, 0)
	near("balanced, device and CPU", tuned(device, plain, true, 0), wantBalanced)
	balanced = false
	// A scalar constant in the body of the loop must not be a constant of the program around the
	// loop.
	late := peft.Selection{FromBlock: 1, Module: "lora", Rank: 2, Structured: []string{"blocks.1.mlp.fc2.weight"}, Whole: []string{"norm.bias"}}
	for _, s := range []peft.Selection{late, {MLPHead: 2}, {AdaptFormer: &peft.Bottleneck{Width: 4, Scale: 0.1}}, {Prompts: &peft.Prompts{Tokens: 2, Deep: true}}, {SSF: true}, {}} {
		if tuning, err = peft.New(c, s); err != nil {
			t.Fatal(err)
		}
		start = tuning.Init(3, peft.PaperScheme, colours.Model(c).Weights)
		near(fmt.Sprintf("%+v", s), tuned(device, plain, true, 0), tuned(host, plain, true, 0))
	}
	compiledOnce(t, device, c, selection)
	two, _, err := backend.Open(name, 2)
	if err != nil {
		t.Logf("two devices are not tested: %v", err)
		return
	}
	if tuning, err = peft.New(c, selection); err != nil {
		t.Fatal(err)
	}
	start = tuning.Init(3, peft.PaperScheme, colours.Model(c).Weights)
	near("two devices", tuned(two, plain, true, 0), want)
	balanced = true
	near("balanced, two devices", tuned(two, plain, true, 0), wantBalanced)
	balanced = false
	near("two devices, again", tuned(two, augmented, true, 0.2), tuned(two, augmented, true, 0.2))
	if tuning, err = peft.New(c, late); err != nil {
		t.Fatal(err)
	}
	start = tuning.Init(3, peft.PaperScheme, colours.Model(c).Weights)
	near("two devices, from block 1", tuned(two, plain, true, 0), tuned(host, plain, true, 0))
	data := Images(dataset.NewLoader(colours.Samples(14, 20, 0), plain, nil, dataset.LoaderOptions{}), objective.SingleLabel, c)
	run := Run{Backend: two, Model: colours.Model(c), Tuning: tuning, Train: data, Options: Options{Epochs: 1, BatchSize: 5, LR: 1e-3}}
	if _, err := run.Do(t.Context()); err == nil || !strings.Contains(err.Error(), "does not divide") {
		t.Errorf("a batch of 5 on two devices: %v", err)
	}
	run.Options.BatchSize, data.kept[two] = 4, nil
	if _, err := run.Do(t.Context()); err == nil || !strings.Contains(err.Error(), "must be stored on each") {
		t.Errorf("images that are not stored, on two devices: %v", err)
	}
}

// compiledOnce checks that the same compiled programs train on and predict a part of the images and
// then all images, in epochs of different lengths. Both divide evenly into mini-batches.
func compiledOnce(t *testing.T, device backend.Backend, c backbone.Config, selection peft.Selection) {
	tuning, err := peft.New(c, selection)
	if err != nil {
		t.Fatal(err)
	}
	m := colours.Model(c)
	all := Images(dataset.NewLoader(colours.Samples(14, 16, 0), dataset.Transform{Size: 16}, nil, dataset.LoaderOptions{}), objective.SingleLabel, c)
	run := Run{Backend: device, Model: m, Tuning: tuning, Train: all.Part(2, 8), Val: all.Part(0, 7), Keep: true, Options: Options{Epochs: 2, BatchSize: 2, LR: 1e-3, Seed: 3}}
	defer run.Close()
	if run.stepper, err = NewStepper(device, m, objective.SingleLabel, tuning, tuning.Init(3, peft.PaperScheme, m.Weights), StepOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := run.predict(); err != nil {
		t.Fatal(err)
	}
	var trainings, predictions atomic.Int32 // numbers of programs that were built
	counted := func(name string, to **program.Program, built *atomic.Int32, build program.Build) {
		(*to).Close()
		if *to, err = program.NewReplicated(device, name, func(g *graph.Graph, in []*graph.Node) []*graph.Node {
			built.Add(1)
			return build(g, in)
		}); err != nil {
			t.Fatal(err)
		}
	}
	net := run.stepper.net
	counted("training", &run.stepper.loop, &trainings, run.stepper.buildLoop)
	counted("prediction", &run.predictor.logits, &predictions, func(_ *graph.Graph, in []*graph.Node) []*graph.Node {
		tuned, frozen, images := run.predictor.inputs(in)
		return []*graph.Node{net.logits(tuned, frozen, images, nil, peft.Rates{})}
	})
	do := func() checkpoint.StateDict {
		result, err := run.Do(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return result.Tuned
	}
	part := do()
	run.Train, run.Val = all, nil
	whole := do()
	evaluated, err := run.Evaluate(t.Context(), all, nil, nil)
	if err != nil || evaluated.Images != 14 {
		t.Fatalf("evaluated %+v, %v", evaluated, err)
	}
	if trainings.Load() != 1 || predictions.Load() != 1 {
		t.Errorf("%d programs for training and %d for prediction were built, expected one of each", trainings.Load(), predictions.Load())
	}
	if _, err := run.stepper.EnqueueLoop(t.Context(), all, make([]int, 2*(loopSteps+1)), make([]float64, loopSteps+1), 0, 0); err == nil || !strings.Contains(err.Error(), "expected 1 to 50 steps") {
		t.Errorf("one step more than a program runs: error %v", err)
	}
	for n, want := range map[int]int{1: 4, 4: 4, 5: 8, 14: 16, 16: 16, 100: 16} {
		data := Images(dataset.NewLoader(make([]dataset.Sample, n), dataset.Transform{Size: 16}, nil, dataset.LoaderOptions{}), objective.SingleLabel, c)
		if got := run.predictor.batchSize(data, 4); got != want {
			t.Errorf("%d images are predicted in batches of %d, expected %d", n, got, want)
		}
	}
	run.Close()
	run.Train = Images(dataset.NewLoader(colours.Samples(14, 16, 0)[2:10], dataset.Transform{Size: 16}, nil, dataset.LoaderOptions{}), objective.SingleLabel, c)
	for i, want := range []checkpoint.StateDict{part, whole} {
		if i == 1 {
			run.Train = all
		}
		for name, got := range do() {
			for k, v := range got.Data {
				if w := want[name].Data[k]; !(math.Abs(float64(v-w)) <= 1e-5+1e-3*math.Abs(float64(w))) {
					t.Fatalf("training %d: %s[%d] is %g, trained anew %g", i, name, k, w, v)
				}
			}
		}
		run.Close()
	}
}
