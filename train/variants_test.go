package train

import (
	"math"
	"testing"

	"github.com/gomlx/compute/gobackend"

	"github.com/sptune/spt/backbone"
	"github.com/sptune/spt/backend"
	"github.com/sptune/spt/checkpoint"
	"github.com/sptune/spt/dataset"
	"github.com/sptune/spt/internal/colours"
	"github.com/sptune/spt/objective"
	"github.com/sptune/spt/peft"
)

// TestStepVariants compares the results of trainings that compute a step in different ways: with
// the gradient of single entries by strips, with activation checkpointing, in bfloat16, and on the
// Go backend of GoMLX. Activation checkpointing must draw the same random numbers for dropout and
// drop-path again. Each backend is compared with itself, because the backends draw different random
// numbers.
func TestStepVariants(t *testing.T) {
	own, _, err := backend.Open("cpu", 1)
	if err != nil {
		t.Fatal(err)
	}
	plain, err := gobackend.New("ops_sequential") // parallel operations may deadlock
	if err != nil {
		t.Fatal(err)
	}
	vit := backbone.Config{ImageSize: 16, NumClasses: 3, NumHeads: 2, LayerNormEps: 1e-6,
		Form: backbone.ViT{PatchSize: 4, EmbedDim: 16, Depth: 2, HiddenDim: 32}}
	swin := backbone.Config{ImageSize: 16, NumClasses: 3, LayerNormEps: 1e-5,
		Form: backbone.Swin{PatchSize: 2, EmbedDim: 8, HiddenDim: 16, Depths: []int{2, 1}, StageHeads: []int{2, 2}, WindowSize: 4}}
	convnext := backbone.Config{ImageSize: 16, NumClasses: 3, LayerNormEps: 1e-6,
		Form: backbone.ConvNeXt{PatchSize: 2, EmbedDim: 8, Depths: []int{1, 1}, Dims: []int{8, 16}}}
	for _, c := range []backbone.Config{vit, swin, convnext} {
		s := peft.Selection{Module: "lora", Rank: 2, Entries: map[string][]int32{}}
		for i, p := range c.Params() {
			switch {
			case p.Matrix() && i%3 == 0:
				s.Structured = append(s.Structured, p.Name)
			case p.Role == backbone.Scored && len(p.Shape) > 1:
				s.Entries[p.Name] = []int32{1, 7, int32(p.Size()/2 + 1), int32(p.Size() - 1)}
			case p.Role == backbone.ClassToken || p.Norm && p.Role == backbone.Scored:
				s.Whole = append(s.Whole, p.Name)
			}
		}
		tuning, err := peft.New(c, s)
		if err != nil {
			t.Fatal(err)
		}
		gather := *tuning
		gather.EntryGradient = peft.StripGradient
		model := colours.Model(c)
		tuned := func(be backend.Backend, m *backbone.Model, tuning *peft.Tuning) checkpoint.StateDict {
			run := Run{Backend: be, Model: m, Tuning: tuning,
				Train:   Images(dataset.NewLoader(colours.Samples(12, c.ImageSize, 0), dataset.Transform{Size: c.ImageSize}, nil, dataset.LoaderOptions{}), objective.SingleLabel, c),
				Options: Options{Epochs: 3, BatchSize: 6, LR: 1e-3, DropPath: 0.3, Dropout: 0.2, ModuleDropPath: 0.2, Seed: 5}}
			result, err := run.Do(t.Context())
			if err != nil {
				t.Fatalf("%s: %v", c, err)
			}
			return result.Tuned
		}
		start := tuning.Init(5, peft.PaperScheme, model.Weights)
		want, other := tuned(own, model, tuning), tuned(plain, model, tuning)
		for _, variant := range []struct {
			name      string
			got, want checkpoint.StateDict
			bound     float64 // largest difference, as a share of how far training moved the values
		}{
			{"entries in strips", tuned(own, model, &gather), want, 2e-3},
			{"bfloat16", tuned(own, model.In(backend.BF16, false), tuning), want, 0.2},
			{"GoMLX backend, entries in strips", tuned(plain, model, &gather), other, 2e-3},
			{"GoMLX backend, activation checkpointing", tuned(plain, model.In(backend.F32, true), tuning), other, 2e-3},
			{"GoMLX backend, strips, checkpointing and bfloat16", tuned(plain, model.In(backend.BF16, true), &gather), other, 0.2},
		} {
			var difference, moved float64
			for name, w := range variant.want {
				for i, v := range w.Data {
					difference += math.Pow(float64(variant.got[name].Data[i]-v), 2)
					moved += math.Pow(float64(v-start[name].Data[i]), 2)
				}
			}
			if share := math.Sqrt(difference / moved); !(share <= variant.bound) {
				t.Errorf("%s, %s: the difference of the tuned values is %.2g of their movement, expected at most %g", c, variant.name, share, variant.bound)
			} else {
				t.Logf("%s, %s: %.2g", c, variant.name, share)
			}
		}
	}
}
