package spt

import (
	"errors"
	"math"
	"testing"
	"time"

	"github.com/sptune/spt/backbone"
	"github.com/sptune/spt/dataset"
	"github.com/sptune/spt/internal/colours"
	"github.com/sptune/spt/method"
	"github.com/sptune/spt/recipe"
	"github.com/sptune/spt/run"
)

// TestWithin checks what the recipe auto chooses for time limits from ample to too short, on a
// backbone that takes a second for each image.
func TestWithin(t *testing.T) {
	c := backbone.Config{ImageSize: 16, NumClasses: 3, NumHeads: 2, LayerNormEps: 1e-6,
		Form: backbone.ViT{PatchSize: 8, EmbedDim: 16, Depth: 2, HiddenDim: 32}}
	const images, val, test = 36, 9, 12
	data, err := dataset.New("colours", []string{"red", "green", "blue"}, colours.Samples(images, 16, 0), colours.Samples(val, 16, 7), colours.Samples(test, 16, 13))
	if err != nil {
		t.Fatal(err)
	}
	row, err := method.Lookup(method.LoRA)
	if err != nil {
		t.Fatal(err)
	}
	for _, limit := range []struct {
		seconds float64
		probe   bool
		method  method.Method // "" if the time is too short
		least   int           // steps
		most    int
	}{
		{1e6, true, method.LoRA, recipe.LeastSteps + 1, math.MaxInt},
		{500, true, method.LoRA, recipe.LeastSteps, 20},
		{100, true, method.Linear, 0, 0},
		{40, true, "", 0, 0},
		{100, false, method.LoRA, 1, recipe.LeastSteps - 1},
		{20, false, "", 0, 0},
	} {
		task, err := New(colours.Model(c), data)
		if err != nil {
			t.Fatal(err)
		}
		task.forward = time.Second
		o := run.RecipeOptions(row, run.RecipeAuto)
		o.Rank, o.TimeLimit, o.Probe, o.Began = 2, limit.seconds, limit.probe, time.Now()
		var choices Choices
		at, err := task.chooseWithin(t.Context(), task, false, &o, &choices, nil)
		if limit.method == "" {
			var short *run.OptionError
			if !errors.As(err, &short) || short.Option != "time" {
				t.Errorf("%g s: error %v", limit.seconds, err)
			}
			continue
		}
		if err != nil {
			t.Errorf("%g s: %v", limit.seconds, err)
			continue
		}
		if o.Method != limit.method || choices.Steps < limit.least || choices.Steps > limit.most || (choices.Tuning != "") != (o.Method != row.Method) {
			t.Errorf("%g s, probe %t: method %s, %d steps, instead of %q", limit.seconds, limit.probe, o.Method, choices.Steps, choices.Tuning)
		}
		if total := choices.Expected.Total().Seconds(); total > limit.seconds {
			t.Errorf("%g s: %g s expected", limit.seconds, total)
		}
		if _, err := at.Effective(o); err != nil {
			t.Errorf("%g s: %v", limit.seconds, err)
		}
	}
}
