package bench

import (
	"fmt"
	"testing"

	"github.com/sptune/spt/backbone"
	"github.com/sptune/spt/method"
	"github.com/sptune/spt/peft"
)

// TestSwinWorkForward: Swin (Liu et al. 2021) gives 4.5 G multiply-adds for Swin-T
// at 224 px with 1000 classes.
func TestSwinWorkForward(t *testing.T) {
	if got := fmt.Sprintf("%.1f", Work(size(t, "swin-tiny", 1000), peft.Linear(), Forward, 1)/2e9); got != "4.5" {
		t.Errorf("%s GMACs, published are 4.5", got)
	}
	if got := size(t, "swin-tiny", 1000); got.Size() != 28_288_354-769_000 { // timm's, without the head's
		t.Errorf("%d parameters", got.Size())
	}
}

// TestSelectSwin: at the default budget some matrices have a module and entries of
// others are tuned one by one.
func TestSelectSwin(t *testing.T) {
	c := size(t, "swin-tiny", 10)
	s, err := Select(t.Context(), c, Method(method.SPTLoRA), DefaultBudget(c))
	if err != nil {
		t.Fatal(err)
	}
	tuning, err := peft.New(c, s)
	if err != nil {
		t.Fatal(err)
	}
	if n, used := len(s.Structured), float64(tuning.Counts.Tuned())/4e5; n < 18 || n > 54 || tuning.Counts.Entries < 1000 || used > 1 || used < 0.9 {
		t.Errorf("%d of 72 matrices have a module, %d entries, %.0f%% of the budget", n, tuning.Counts.Entries, 100*used)
	}
}

// TestSwinWorkIsTheGraphs compares with the graph, as TestWorkIsTheGraphs does.
func TestSwinWorkIsTheGraphs(t *testing.T) {
	// Maps of 20, 10 and 5: the last is one window.
	c := backbone.Config{ImageSize: 80, NumClasses: 5, LayerNormEps: 1e-5,
		Form: backbone.Swin{PatchSize: 4, EmbedDim: 4, HiddenDim: 12, Depths: []int{2, 1, 1}, StageHeads: []int{1, 2, 4}, WindowSize: 5}}
	const batch = 2
	for name, test := range map[string]struct {
		s peft.Selection
		m Method
	}{
		"forward":    {peft.Linear(), Forward},
		"linear":     {peft.Linear(), Method(method.Linear)},
		"full":       {peft.Full(c), Method(method.Full)},
		"score":      {peft.Linear(), Score},
		"lora":       {peft.Uniform(c, "lora", 2), Method(method.LoRA)},
		"adapter":    {peft.Uniform(c, "adapter", 2), Method(method.Adapter)},
		"table":      {peft.Selection{Whole: []string{"layers.1.blocks.0.attn.relative_position_bias_table"}}, Method(method.SPTLoRA)},
		"norm":       {peft.Selection{Whole: []string{"layers.1.downsample.norm.bias"}}, Method(method.SPTLoRA)},
		"reduction":  {peft.Selection{Whole: []string{"layers.2.downsample.reduction.weight"}}, Method(method.SPTLoRA)},
		"value only": {peft.Selection{Module: "lora", Rank: 2, Structured: []string{"layers.0.blocks.1.attn.v.weight"}}, Method(method.SPTLoRA)},
	} {
		if got, want := Work(c, test.s, test.m, batch), graphWork(t, c, test.s, test.m, batch); got != want {
			t.Errorf("%s: %.0f, the graph has %.0f", name, got, want)
		}
	}
	// Padding makes the graph larger than what is needed.
	padded := c
	form := c.Form.(backbone.Swin)
	form.WindowSize = 3
	padded.Form = form
	if got, graph := Work(padded, peft.Linear(), Forward, 1), graphWork(t, padded, peft.Linear(), Forward, 1); got >= graph {
		t.Errorf("with padding: %.0f, the graph has %.0f", got, graph)
	}
}
