package sensitivity

import (
	"testing"

	"github.com/sptune/spt/backbone"
	"github.com/sptune/spt/backend/cpu"
	"github.com/sptune/spt/dataset"
	"github.com/sptune/spt/internal/colours"
	"github.com/sptune/spt/objective"
	"github.com/sptune/spt/peft"
)

// TestFootprint compares the footprint with the memory that the CPU backend uses. The batches are
// whole, cut into micro-batches, and cut with a last batch that is whole and needs more memory.
func TestFootprint(t *testing.T) {
	c := backbone.Config{ImageSize: 16, NumClasses: 3, NumHeads: 2, LayerNormEps: 1e-6, Form: backbone.ViT{PatchSize: 2, EmbedDim: 32, Depth: 3, HiddenDim: 64}}
	head, err := peft.New(c, peft.Selection{})
	if err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		images, batch int
		replaced      bool // a larger arena replaces the first
	}{{16, 8, false}, {80, 40, false}, {40 + 31, 40, true}} {
		be, err := cpu.New("") // no other test uses its memory
		if err != nil {
			t.Fatal(err)
		}
		m := colours.Model(c)
		o := Options{Batches: 9, BatchSize: test.batch}
		f, err := FootprintOf(be, m, objective.SingleLabel, o, test.images)
		if err != nil {
			t.Fatal(err)
		}
		if used, _ := cpu.MemoryOf(be); used.Arena != 0 || used.Packed != 0 {
			t.Errorf("FootprintOf has used %+v", used)
		}
		pixels, classes := colours.Noise(test.images, c.ImageSize)
		var samples []dataset.Sample
		size := c.ImageSize * c.ImageSize * 3
		for i := range test.images {
			samples = append(samples, dataset.Sample{Image: &dataset.RGB{Width: c.ImageSize, Height: c.ImageSize, Pix: pixels[i*size : (i+1)*size]}, Target: dataset.Class(classes[i])})
		}
		in := Input{Backend: be, Model: m, Objective: objective.SingleLabel, Head: head.Init(0, peft.PaperScheme, m.Weights),
			Images: dataset.NewLoader(samples, dataset.Transform{Size: c.ImageSize}, nil, dataset.LoaderOptions{})}
		if _, err := Score(t.Context(), in, o, nil); err != nil {
			t.Fatal(err)
		}
		used, _ := cpu.MemoryOf(be)
		if !test.replaced && used.Arena != f.Activations || test.replaced && (used.Arena >= f.Activations || used.Arena < f.Activations/2) {
			t.Errorf("%d images in batches of %d: activations of %d bytes, used %d", test.images, test.batch, f.Activations, used.Arena)
		}
		if used.Packed > f.Packed || used.Packed < f.Packed*99/100 { // the head may not be packed
			t.Errorf("%d images in batches of %d: packed weights of %d bytes, used %d", test.images, test.batch, f.Packed, used.Packed)
		}
	}
}
