package evaluate_test

import (
	"math"
	"strings"
	"testing"

	"github.com/sptune/spt/evaluate"
)

// TestMean compares the mean of three predictions with a naive one, with classes in another order.
func TestMean(t *testing.T) {
	a := &evaluate.Predictions{Classes: []string{"cat", "dog", "fox"}, Paths: []string{"1.png", "2.png"}, Targets: []int32{2, evaluate.Unknown}, Logits: []float32{1, 2, 3, 4, 5, 6}}
	b := &evaluate.Predictions{Classes: []string{"fox", "cat", "dog"}, Paths: a.Paths, Targets: []int32{0, evaluate.Unknown}, Logits: []float32{9, 7, 8, 0.5, 0.25, -1}}
	mean, err := evaluate.Mean([]*evaluate.Predictions{a, b, a})
	if err != nil {
		t.Fatal(err)
	}
	for i, want := range []float64{(1 + 7 + 1) / 3., (2 + 8 + 2) / 3., (3 + 9 + 3) / 3., (4 + 0.25 + 4) / 3., (5 - 1 + 5) / 3., (6 + 0.5 + 6) / 3.} {
		if math.Abs(float64(mean.Logits[i])-want) > 1e-6 {
			t.Errorf("logit %d is %v, want %v", i, mean.Logits[i], want)
		}
	}
	if mean.Targets[0] != 2 || mean.Classes[0] != "cat" {
		t.Errorf("the mean has targets %v and classes %v, want those of the first", mean.Targets, mean.Classes)
	}
	if a.Logits[0] != 1 {
		t.Error("Mean changed its input")
	}
}

// TestMeanRefuses averages predictions that do not belong together.
func TestMeanRefuses(t *testing.T) {
	good := evaluate.Predictions{Classes: []string{"cat", "dog"}, Paths: []string{"1.png"}, Targets: []int32{1}, Logits: []float32{0, 1}}
	for want, change := range map[string]func(p *evaluate.Predictions){
		"2.png":          func(p *evaluate.Predictions) { p.Paths = []string{"2.png"} },
		"another class":  func(p *evaluate.Predictions) { p.Targets = []int32{0} },
		`no class "dog"`: func(p *evaluate.Predictions) { p.Classes = []string{"cat", "cow"} },
		"0 images":       func(p *evaluate.Predictions) { p.Paths, p.Targets, p.Logits = nil, nil, nil },
	} {
		bad := good
		change(&bad)
		if _, err := evaluate.Mean([]*evaluate.Predictions{&good, &bad}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("Mean returned %v, want an error with %q", err, want)
		}
	}
	if _, err := evaluate.Mean(nil); err == nil {
		t.Error("Mean of nothing returned no error")
	}
}
