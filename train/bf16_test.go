package train

import (
	"math"
	"runtime"
	"slices"
	"testing"

	"github.com/sptune/spt/backbone"
	"github.com/sptune/spt/backend"
	"github.com/sptune/spt/backend/cpu"
	"github.com/sptune/spt/checkpoint"
	"github.com/sptune/spt/dataset"
	"github.com/sptune/spt/internal/colours"
	"github.com/sptune/spt/objective"
	"github.com/sptune/spt/peft"
)

// TestProcessorBF16 compares trainings on the processor in bf16 and in f32: the tuned values differ
// by a small share of their movement. In bf16, any number of threads gives the same bits.
func TestProcessorBF16(t *testing.T) {
	if err := cpu.SupportsBF16(); err != nil {
		t.Skip(err)
	}
	c := backbone.Config{ImageSize: 16, NumClasses: 3, NumHeads: 1, LayerNormEps: 1e-6,
		Form: backbone.ViT{PatchSize: 2, EmbedDim: 64, Depth: 2, HiddenDim: 128}}
	s := peft.Selection{Module: "lora", Rank: 2, Structured: []string{"blocks.0.attn.q.weight", "blocks.1.mlp.fc1.weight"},
		Whole: []string{"blocks.1.norm1.weight"}, Entries: map[string][]int32{"blocks.0.mlp.fc2.weight": {0, 77, 8191}, "blocks.1.attn.v.weight": {5, 4000}}}
	tuning, err := peft.New(c, s)
	if err != nil {
		t.Fatal(err)
	}
	model := colours.Model(c)
	tuned := func(p backend.Precision) checkpoint.StateDict {
		be, _, err := backend.OpenIn("cpu", 1, p)
		if err != nil {
			t.Fatal(err)
		}
		run := Run{Backend: be, Model: model.In(p, false), Tuning: tuning,
			Train:   Images(dataset.NewLoader(colours.Samples(12, c.ImageSize, 0), dataset.Transform{Size: c.ImageSize}, nil, dataset.LoaderOptions{}), objective.SingleLabel, c),
			Options: Options{Epochs: 3, BatchSize: 6, LR: 1e-3, DropPath: 0.3, Dropout: 0.2, ModuleDropPath: 0.2, Seed: 5}}
		result, err := run.Do(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return result.Tuned
	}
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
	start, want, got := tuning.Init(5, peft.PaperScheme, model.Weights), tuned(backend.F32), tuned(backend.BF16)
	var difference, moved float64
	for name, w := range want {
		for i, v := range w.Data {
			difference += math.Pow(float64(got[name].Data[i]-v), 2)
			moved += math.Pow(float64(v-start[name].Data[i]), 2)
		}
	}
	if share := math.Sqrt(difference / moved); !(share > 1e-4 && share < 0.2) {
		t.Errorf("the difference of the tuned values is %.2g of their movement, expected 1e-4 to 0.2", share)
	}
	runtime.GOMAXPROCS(3)
	for name, w := range tuned(backend.BF16) {
		if !slices.Equal(w.Data, got[name].Data) {
			t.Errorf("%s: three threads give other bits than one thread", name)
		}
	}
}
