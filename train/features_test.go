package train

import (
	"slices"
	"testing"

	"github.com/sptune/spt/backbone"
	"github.com/sptune/spt/backend"
	"github.com/sptune/spt/dataset"
	"github.com/sptune/spt/internal/colours"
	"github.com/sptune/spt/objective"
	"github.com/sptune/spt/peft"
)

// TestFeaturesOnce checks that trainings of a head compute the features of an image once: parts of
// the same images share them.
func TestFeaturesOnce(t *testing.T) {
	c := backbone.Config{ImageSize: 8, NumClasses: 3, NumHeads: 2, LayerNormEps: 1e-6,
		Form: backbone.ViT{PatchSize: 4, EmbedDim: 8, Depth: 1, HiddenDim: 16}}
	be, _, err := backend.Open("cpu", 1)
	if err != nil {
		t.Fatal(err)
	}
	tuning, err := peft.New(c, peft.Selection{})
	if err != nil {
		t.Fatal(err)
	}
	all := Images(dataset.NewLoader(colours.Samples(15, 8, 0), dataset.Transform{Size: 8}, nil, dataset.LoaderOptions{}), objective.SingleLabel, c)
	m := colours.Model(c)
	for lr := range 3 {
		run := Run{Backend: be, Model: m, Tuning: tuning, Options: Options{Epochs: 1, LR: 1e-2 * float64(lr+1)}, Train: all.Part(0, 12), Val: all.Part(12, 3)}
		if _, err := run.Do(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	kept := all.computed[computedKey{m, be, 0}]
	if kept == nil || len(kept.features) != 15*8 || len(all.Part(0, 12).computed) > 0 {
		t.Fatalf("the images keep the features %v", kept)
	}
	p, err := NewPredictor(be, m, objective.SingleLabel, tuning, tuning.Init(0, peft.PaperScheme, m.Weights))
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	for i := range kept.features {
		kept.features[i] = float32(i)
	}
	part, err := p.computed(t.Context(), all.Part(12, 3), 0, 4, nil)
	if err != nil || part.Len() != 3 || part.features[0] != 12*8 || !slices.Equal(part.targets, kept.targets[12:]) {
		t.Errorf("a part has the features %v and targets %v, %v; expected those of its images", part.features, part.targets, err)
	}
}
