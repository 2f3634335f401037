package sensitivity

import (
	"context"
	"errors"
	"math"
	"strings"
	"testing"

	"github.com/sptune/spt/backbone"
	"github.com/sptune/spt/backend"
	"github.com/sptune/spt/dataset"
	"github.com/sptune/spt/internal/colours"
	"github.com/sptune/spt/internal/program"
	"github.com/sptune/spt/objective"
)

// TestMicroBatches checks that a batch that is scored by gradient accumulation gives the same
// scores as the whole batch, up to rounding. It checks criteria that also use the weights, that
// have two sums, and that need no gradient.
func TestMicroBatches(t *testing.T) {
	be, _, err := backend.Open("cpu", 1)
	if err != nil {
		t.Fatal(err)
	}
	m := colours.Model(vit(2))
	const n = 47
	pixels, classes := colours.Noise(n, 8)
	images, err := program.Tensor(be, pixels, n, 8, 8, 3)
	if err != nil {
		t.Fatal(err)
	}
	labels, err := program.Tensor(be, classes, n)
	if err != nil {
		t.Fatal(err)
	}
	for _, by := range []Criterion{SquaredGradient, Taylor, SplitHalf, SignalToNoise, Activation} {
		var scores [2]*Scores
		var losses [2]float64
		for i := range scores {
			s, err := newScorer(be, m, objective.SingleLabel, m.Weights, Options{Criterion: by})
			if err != nil {
				t.Fatal(err)
			}
			defer s.Close()
			if i == 0 {
				s.tokens = 0
			} else { // a batch that is cancelled changes nothing
				for checks := range 4 {
					if _, err := s.Add(&cancelled{t.Context(), checks}, images, labels); !errors.Is(err, context.Canceled) {
						t.Fatalf("cancelled at check %d: error %v", checks, err)
					}
				}
			}
			for range 2 {
				if losses[i], err = s.Add(t.Context(), images, labels); err != nil {
					t.Fatal(err)
				}
			}
			if scores[i], err = s.Scores(); err != nil {
				t.Fatal(err)
			}
		}
		if d := math.Abs(losses[0] - losses[1]); d > 1e-5 {
			t.Errorf("%s: loss %g of the whole batch, %g with micro-batches", by, losses[0], losses[1])
		}
		largest := 0.0
		for i, want := range scores[0].Tensors {
			if strings.HasSuffix(want.Name, "attn.k.bias") {
				continue // softmax does not change, so this gradient is rounding noise
			}
			scale := 0.0
			for _, v := range want.Scores {
				scale = max(scale, math.Abs(float64(v)))
			}
			for j, v := range want.Scores {
				if d := math.Abs(float64(v - scores[1].Tensors[i].Scores[j])); d > 1e-3*scale {
					t.Fatalf("%s: score of %s[%d] is %g with micro-batches, %g without", by, want.Name, j, scores[1].Tensors[i].Scores[j], v)
				}
			}
			largest = max(largest, scale)
		}
		if largest < 1e-9 {
			t.Errorf("%s: the largest score is %g, expected a larger one", by, largest)
		}
	}
}

// TestScoreImageSize checks the error for images that do not have the image size of the backbone.
func TestScoreImageSize(t *testing.T) {
	be, _, err := backend.Open("cpu", 1)
	if err != nil {
		t.Fatal(err)
	}
	c := backbone.Config{ImageSize: 8, NumClasses: 3, NumHeads: 2, LayerNormEps: 1e-6,
		Form: backbone.ViT{PatchSize: 4, EmbedDim: 8, Depth: 1, HiddenDim: 16}}
	m := colours.Model(c)
	for _, size := range []int{4, 16} {
		loader := dataset.NewLoader(colours.Samples(4, size, 0), dataset.Transform{Size: size}, nil, dataset.LoaderOptions{})
		in := Input{Backend: be, Model: m, Objective: objective.SingleLabel, Head: m.Weights, Images: loader}
		if _, err := Score(t.Context(), in, Options{BatchSize: 2}, nil); err == nil || !strings.Contains(err.Error(), "read the images at the backbone's image size") {
			t.Errorf("images of %d px for a backbone of 8 px: error %v", size, err)
		}
	}
}

// cancelled is a context that is cancelled after a number of calls of Err.
type cancelled struct {
	context.Context
	checks int
}

func (c *cancelled) Err() error {
	if c.checks--; c.checks < 0 {
		return context.Canceled
	}
	return nil
}
