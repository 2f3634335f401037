package export

import (
	"strings"
	"testing"

	"github.com/sptune/spt/evaluate"
	"github.com/sptune/spt/plan"
	"github.com/sptune/spt/run"
	"github.com/sptune/spt/train"
)

// TestCard checks that the card holds the facts of the run, and nothing else.
func TestCard(t *testing.T) {
	c := classifier(t, "vit-cls-timm", "lora", lora)
	c.Delta.Backbone.File = "hf:timm/vit_tiny@" + strings.Repeat("a", 40)
	c.Delta.Plan = nil
	short := string(timmCard(c))
	for _, absent := range []string{"## Data", "## Results", "## Training", "NaN", "%!"} {
		if strings.Contains(short, absent) {
			t.Errorf("the card of a delta alone has %q", absent)
		}
	}
	c.Delta.Plan = nil
	val := 0.75
	c.Config = &run.Config{Spt: "0.1.0", Data: run.DataConfig{Path: "/home/somebody/my|data", Train: 1234, Val: 100, Test: 50, Split: "given"}}
	c.Config.Tune.Train = train.Options{Epochs: 7, LR: 0.5, WarmupEpochs: 1, Seed: 11}
	c.Config.Tune.Budgets = []plan.Budget{}
	c.Result = &run.Result{Spt: "0.1.0", LR: 0.25, Val: &val, TrainedOn: "train+val", MetricsOf: "test",
		Metrics: &evaluate.Metrics{Images: 50, Correct: 40, Top1: 0.8, Interval: evaluate.Interval{Low: 0.67, High: 0.89}, BalancedAccuracy: 0.79, LogLoss: 0.5}}
	c.Delta.Temperature = 1.5
	card := string(timmCard(c))
	if !strings.HasPrefix(card, "---\nlibrary_name: timm\npipeline_tag: image-classification\n") {
		t.Errorf("the card begins with %.60q", card)
	}
	for _, want := range []string{
		"\nbase_model: timm/vit_tiny\n", "\n# license: ", "\n# my\\|data\n", "\n0. a \\& b\n", "\n1. c\\|d\n", "\n2. é\n",
		"| training images | 1234 |", "| accuracy | 80.00% (95 % interval 67.00% to 89.00%) |", "train and val",
		"| learning rate | 0.25, cosine schedule after 1 epochs of warm-up |", "| epochs | 7 |", "| seed | 11 |", "by 1.5 first", c.Delta.Backbone.Fingerprint,
	} {
		if !strings.Contains(card, want) {
			t.Errorf("the card lacks %q", want)
		}
	}
	for _, absent := range []string{"somebody", "NaN", "%!", "| budget |", "top-5"} {
		if strings.Contains(card, absent) {
			t.Errorf("the card has %q", absent)
		}
	}
}

func TestMarkdown(t *testing.T) {
	for text, want := range map[string]string{
		"plain text, é 青":  "plain text, é 青",
		"a|b`c`":           "a\\|b\\`c\\`",
		"<img src=x>":      "\\<img src=x\\>",
		"two\nlines\r\x00": "two lines  ",
		"[x](http://y)":    "\\[x\\]\\(http://y\\)",
		"_a_ *b* ~c~":      "\\_a\\_ \\*b\\* \\~c\\~",
	} {
		if got := markdown(text); got != want {
			t.Errorf("%q becomes %q, expected %q", text, got, want)
		}
	}
}

func TestPython(t *testing.T) {
	for text, want := range map[string]string{`a"b\c`: `"a\"b\\c"`, "é & <x>": `"é & <x>"`, "a\nb": `"a\nb"`} {
		if got := python(text); got != want {
			t.Errorf("%q becomes %s, expected %s", text, got, want)
		}
	}
}
