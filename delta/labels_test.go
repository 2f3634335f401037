package delta_test

import (
	"path/filepath"
	"slices"
	"testing"

	"github.com/sptune/spt/checkpoint"
	"github.com/sptune/spt/delta"
	"github.com/sptune/spt/objective"
	"github.com/sptune/spt/peft"
)

// TestThresholds checks that the thresholds of several labels are kept by a delta and by a merged
// checkpoint, and that wrong ones are refused.
func TestThresholds(t *testing.T) {
	m := tiny(tinyConfig, 1)
	d := result(t, m, "linear", peft.Selection{})
	d.Objective, d.Thresholds, d.Temperature = objective.MultiLabel.Name(), []float64{0.5, 0.25, 1}, 0
	read, err := delta.Load(saved(t, d))
	if err != nil || !slices.Equal(read.Thresholds, d.Thresholds) || read.Objective != d.Objective {
		t.Fatalf("read the thresholds %v of %s, error %v", read.Thresholds, read.Objective, err)
	}
	for want, change := range map[string]func(*delta.Delta){
		"found 2 thresholds for 3 labels": func(d *delta.Delta) { d.Thresholds = d.Thresholds[:2] },
		"threshold 1 is 1.5":              func(d *delta.Delta) { d.Thresholds = []float64{0.5, 1.5, 0.5} },
		"predicts one label":              func(d *delta.Delta) { d.Objective = objective.SingleLabel.Name() },
		"temperature and thresholds":      func(d *delta.Delta) { d.Temperature = 2 },
	} {
		broken := *d
		change(&broken)
		refused(t, broken.Save(filepath.Join(t.TempDir(), "run")), want)
	}

	merged, err := d.Merge(t.Context(), be(t), m, probes(1), 0)
	if err != nil {
		t.Fatal(err)
	}
	objectiveOf := func(save func(path string) error) (objective.Objective, []float64, error) {
		t.Helper()
		path := filepath.Join(t.TempDir(), "merged.safetensors")
		if err := save(path); err != nil {
			t.Fatal(err)
		}
		f, err := checkpoint.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		return delta.ObjectiveOf(f, 3)
	}
	o, thresholds, err := objectiveOf(func(path string) error { return merged.Save(path, checkpoint.F32, d.Classes) })
	if err != nil || o != objective.MultiLabel || !slices.Equal(thresholds, d.Thresholds) {
		t.Errorf("the merged checkpoint has the objective %v with thresholds %v, error %v", o, thresholds, err)
	}
	merged.Objective = objective.SingleLabel.Name()
	if o, thresholds, err := objectiveOf(func(path string) error { return merged.Save(path, checkpoint.F32, d.Classes) }); err != nil || o != objective.SingleLabel || thresholds != nil {
		t.Errorf("another merged checkpoint has the objective %v with thresholds %v, error %v", o, thresholds, err)
	}
	for text, want := range map[string]string{`{`: "unexpected end", `{"thresholds": [1]}`: "the name is missing", `{"name": "none"}`: `"none" is unknown`, `{"name": "multi-label", "thresholds": [0.5]}`: "found 1 thresholds for 3 labels"} {
		_, _, err := objectiveOf(func(path string) error {
			return merged.Model.Save(path, checkpoint.F32, map[string]string{"spt_objective": text})
		})
		refused(t, err, want, "spt_objective")
	}
}
