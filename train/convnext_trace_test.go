package train_test

import (
	"encoding/json"
	"math"
	"path/filepath"
	"slices"
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

// TestConvNeXtTraining compares twelve training steps of ConvNeXt V1 and V2 with the same steps of
// PyTorch and timm, which internal/fixtures/convnext_trace.py recorded. It tunes LoRA modules,
// single entries of depth-wise and down-sampling kernels and of a matrix, vectors, and the head.
func TestConvNeXtTraining(t *testing.T) {
	for _, variant := range []string{"convnext-v1", "convnext-v2"} {
		t.Run(variant, func(t *testing.T) {
			fixture := fixtures.Backbone(t, variant+"-timm")
			path := filepath.Join(fixture.Dir, "..", "..", "traces", variant+".safetensors")
			f, err := checkpoint.Open(path)
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			var trace struct {
				LR          float64 `json:"lr"`
				WeightDecay float64 `json:"weight_decay"`
				Losses      []float64
				Parameters  []string
			}
			if err := json.Unmarshal([]byte(f.Metadata()["trace"]), &trace); err != nil {
				t.Fatal(err)
			}
			read := func(name string) checkpoint.Tensor {
				t.Helper()
				x, err := f.Float32(name)
				if err != nil {
					t.Fatal(err)
				}
				return x
			}
			m, _, err := backbone.Load(fixture.Path(), backbone.LoadOptions{})
			if err != nil {
				t.Fatal(err)
			}
			var names []string
			for _, p := range m.Config.Params() {
				names = append(names, p.Name)
			}
			if len(trace.Losses) != 12 || len(trace.Parameters) == 0 {
				t.Fatalf("%s: trace %+v", path, trace)
			}
			if !slices.Equal(names, trace.Parameters) {
				t.Errorf("parameters %v, timm has %v", names, trace.Parameters)
			}

			s := peft.Selection{Module: "lora", Rank: 2, Entries: map[string][]int32{}}
			initial, final := checkpoint.StateDict{}, checkpoint.StateDict{}
			for _, info := range f.Tensors() {
				if name, ok := strings.CutPrefix(info.Name, "initial."); ok {
					initial[name] = read(info.Name)
				}
				if name, ok := strings.CutPrefix(info.Name, "indices."); ok {
					for _, v := range read(info.Name).Data {
						s.Entries[name] = append(s.Entries[name], int32(v))
					}
				}
				if name, ok := strings.CutPrefix(info.Name, "final."); ok {
					final[name] = read(info.Name)
					if layer, ok := strings.CutSuffix(name, ".lora_A"); ok {
						s.Structured = append(s.Structured, layer+".weight")
					} else if slices.Contains(names, name) && !strings.HasPrefix(name, "head.fc.") {
						s.Whole = append(s.Whole, name)
					}
				}
			}
			tuning, err := peft.New(m.Config, s)
			if err != nil {
				t.Fatal(err)
			}
			if len(tuning.Params) != len(final) {
				t.Fatalf("%d tensors are tuned, expected %d", len(tuning.Params), len(final))
			}
			tuned := tuning.Init(0, peft.PaperScheme, m.Weights)
			for name, x := range initial {
				tuned[name] = x
			}

			be, _, err := backend.Open("cpu", 1)
			if err != nil {
				t.Fatal(err)
			}
			stepper, err := train.NewStepper(be, m, objective.SingleLabel, tuning, tuned, train.StepOptions{WeightDecay: trace.WeightDecay})
			if err != nil {
				t.Fatal(err)
			}
			defer stepper.Close()
			pixels, _, err := f.Uint8("pixels")
			if err != nil {
				t.Fatal(err)
			}
			labels := read("labels").Data
			worst := 0.0
			for i, want := range trace.Losses {
				x, err := program.Tensor(be, [][]uint8{fixture.Pixels(t), pixels}[i%2], 2, fixture.ImageSize, fixture.ImageSize, 3)
				if err != nil {
					t.Fatal(err)
				}
				y, err := program.Tensor(be, []int32{int32(labels[i%2*2]), int32(labels[i%2*2+1])}, 2)
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
			got, err := stepper.Tuned()
			if err != nil {
				t.Fatal(err)
			}
			tensors := 0.0
			for name, want := range final {
				for i, v := range want.Data {
					d := math.Abs(float64(got[name].Data[i] - v))
					tensors = max(tensors, d)
					if d > 1e-3 {
						t.Errorf("%s[%d] is %g, expected %g", name, i, got[name].Data[i], v)
						break
					}
				}
			}
			t.Logf("%d losses: largest relative difference %.2g; final tensors: %.2g", len(trace.Losses), worst, tensors)
		})
	}
}
