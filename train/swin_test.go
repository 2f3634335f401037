package train_test

import (
	"math"
	"strings"
	"testing"

	"github.com/sptune/spt/backbone"
	"github.com/sptune/spt/backend"
	"github.com/sptune/spt/checkpoint"
	"github.com/sptune/spt/internal/fixtures"
	"github.com/sptune/spt/internal/program"
	"github.com/sptune/spt/objective"
	"github.com/sptune/spt/peft"
	"github.com/sptune/spt/train"
)

// TestSwinTraces repeats two trainings of timm, which internal/fixtures/swin_trace.py recorded. One
// tunes LoRA on every matrix, single entries and whole vectors. The other is full fine-tuning, with
// relative position tables and padded windows.
func TestSwinTraces(t *testing.T) {
	be, _, err := backend.Open("cpu", 1)
	if err != nil {
		t.Fatal(err)
	}
	for name, variant := range map[string]string{"lora": "swin-even-timm", "full": "swin-padded-timm"} {
		t.Run(name, func(t *testing.T) {
			f := fixtures.File(t, "swin/"+name+".safetensors")
			read := func(name string) checkpoint.Tensor {
				t.Helper()
				x, err := f.Float32(name)
				if err != nil {
					t.Fatal(err)
				}
				return x
			}
			model, _, err := backbone.Load(fixtures.Backbone(t, variant).Path(), backbone.LoadOptions{})
			if err != nil {
				t.Fatal(err)
			}
			selection := peft.Full(model.Config)
			if name == "lora" {
				selection = peft.Uniform(model.Config, "lora", 2)
				selection.Entries = map[string][]int32{}
				for _, p := range model.Config.Params() {
					switch {
					case p.EntriesOnly:
						for _, i := range read("index." + p.Name).Data {
							selection.Entries[p.Name] = append(selection.Entries[p.Name], int32(i))
						}
					case p.Norm && p.Role == backbone.Scored, p.Name == "layers.1.blocks.1.mlp.fc1.bias":
						selection.Whole = append(selection.Whole, p.Name)
					}
				}
			}
			tuning, err := peft.New(model.Config, selection)
			if err != nil {
				t.Fatal(err)
			}
			initial := tuning.Init(0, peft.PaperScheme, model.Weights)
			for _, p := range tuning.Params {
				if strings.HasSuffix(p.Name, "lora_A") {
					initial[p.Name] = read("init." + p.Name)
				}
			}
			for _, p := range []string{"head.fc.weight", "head.fc.bias"} { // the head of the model
				initial[p] = model.Weights[p]
			}
			stepper, err := train.NewStepper(be, model, objective.SingleLabel, tuning, initial, train.StepOptions{WeightDecay: 1e-4})
			if err != nil {
				t.Fatal(err)
			}
			defer stepper.Close()
			pixels, shape, err := f.Uint8("pixels")
			if err != nil {
				t.Fatal(err)
			}
			labels, worst := read("labels").Data, 0.0
			for i, want := range read("losses").Data {
				const batch = 3
				at := i % 2 * batch
				size := len(pixels) / shape[0]
				x, err := program.Tensor(be, pixels[at*size:(at+batch)*size], batch, shape[1], shape[2], 3)
				if err != nil {
					t.Fatal(err)
				}
				var classes []int32
				for _, l := range labels[at : at+batch] {
					classes = append(classes, int32(l))
				}
				y, err := program.Tensor(be, classes, batch)
				if err != nil {
					t.Fatal(err)
				}
				loss, _, err := stepper.Step(t.Context(), x, y, 1e-2, 0)
				if err != nil {
					t.Fatal(err)
				}
				d := math.Abs(loss-float64(want)) / float64(want)
				worst = max(worst, d)
				if !(d <= 1e-3) {
					t.Errorf("step %d: loss %.6f, expected %.6f", i, loss, want)
				}
			}
			final, err := stepper.Tuned()
			if err != nil {
				t.Fatal(err)
			}
			tensors, compared := 0.0, 0
			for _, x := range f.Tensors() {
				given, ok := strings.CutPrefix(x.Name, "final.")
				if !ok {
					continue
				}
				// A vector that is added to all keys changes no attention, so its gradient is
				// noise.
				if strings.Contains(given, ".attn.k.") && strings.HasSuffix(given, "bias") {
					continue
				}
				got, ok := final[given]
				want := read(x.Name)
				if !ok || len(got.Data) != len(want.Data) {
					t.Errorf("%s is not tuned, or has %d values, expected %d", given, len(got.Data), len(want.Data))
					continue
				}
				compared++
				largest := 0.0
				for i, w := range want.Data {
					largest = max(largest, math.Abs(float64(got.Data[i]-w)))
				}
				if tensors = max(tensors, largest); !(largest <= 1e-3) {
					t.Errorf("%s differs by up to %.2g, expected at most 1e-3", given, largest)
				}
			}
			if name == "lora" && compared != len(tuning.Params) {
				t.Errorf("%d tensors compared, %d are tuned", compared, len(tuning.Params))
			}
			t.Logf("losses: largest relative difference %.2g; %d final tensors: %.2g", worst, compared, tensors)
		})
	}
}
