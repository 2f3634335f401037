package train

import (
	"strings"
	"testing"

	"github.com/sptune/spt/backbone"
	"github.com/sptune/spt/backend/cpu"
	"github.com/sptune/spt/internal/colours"
	"github.com/sptune/spt/internal/program"
	"github.com/sptune/spt/objective"
	"github.com/sptune/spt/peft"
)

// TestFootprint compares the footprint with the memory that the CPU backend uses in training steps.
func TestFootprint(t *testing.T) {
	c := backbone.Config{ImageSize: 16, NumClasses: 3, NumHeads: 2, LayerNormEps: 1e-6, Form: backbone.ViT{PatchSize: 2, EmbedDim: 32, Depth: 3, HiddenDim: 64}}
	lora := peft.Uniform(c, "lora", 2)
	mixed := peft.Selection{Module: "lora", Rank: 2, Entries: map[string][]int32{}}
	full := peft.Selection{}
	for _, p := range c.Params() {
		if p.Role == backbone.Head {
			continue
		}
		full.Whole = append(full.Whole, p.Name)
		switch {
		case p.Matrix() && strings.Contains(p.Name, "attn"):
			mixed.Structured = append(mixed.Structured, p.Name)
		case p.Matrix():
			mixed.Entries[p.Name] = []int32{3, 40}
		}
	}
	for name, s := range map[string]peft.Selection{"lora": lora, "mixed": mixed, "full": full, "head": {}} {
		for _, batch := range []int{7, 40} { // one micro-batch, and three
			be, err := cpu.New("") // no other test uses its memory
			if err != nil {
				t.Fatal(err)
			}
			m := colours.Model(c)
			tuning, err := peft.New(c, s)
			if err != nil {
				t.Fatal(err)
			}
			o := StepOptions{Rates: peft.Rates{DropPath: 0.1, Dropout: 0.1}}
			f, err := FootprintOf(be, m, objective.SingleLabel, tuning, o, batch)
			if err != nil {
				t.Fatal(err)
			}
			if used, _ := cpu.MemoryOf(be); used.Arena != 0 || used.Packed != 0 {
				t.Errorf("%s: FootprintOf has used %+v", name, used)
			}
			pixels, classes := colours.Noise(batch, 16)
			images, err := program.Tensor(be, pixels, batch, 16, 16, 3)
			if err != nil {
				t.Fatal(err)
			}
			labels, err := program.Tensor(be, classes, batch)
			if err != nil {
				t.Fatal(err)
			}
			stepper, err := NewStepper(be, m, objective.SingleLabel, tuning, tuning.Init(0, peft.PaperScheme, m.Weights), o)
			if err != nil {
				t.Fatal(err)
			}
			for range 4 {
				if _, _, err := stepper.Step(t.Context(), images, labels, 1e-3, 0); err != nil {
					t.Fatal(err)
				}
			}
			used, _ := cpu.MemoryOf(be)
			running := int64(concurrency(be, c, microBatchSizes(be, c, images.Shape())[0]))
			if name != "head" && (used.Arena > f.Activations+f.Activations/20 || used.Arena < f.Activations/running*9/10) {
				t.Errorf("%s, %d images: activations of %d bytes, used %d", name, batch, f.Activations, used.Arena)
			}
			// The tuned matrices of full are packed in each step, and released.
			if used.Packed > f.Packed || name != "full" && name != "head" && used.Packed < f.Packed/2 {
				t.Errorf("%s, %d images: packed weights of %d bytes, used %d", name, batch, f.Packed, used.Packed)
			}
			stepper.Close()
			program.Free(images, labels)
		}
	}
}
