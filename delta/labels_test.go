package delta_test

import (
	"path/filepath"
	"slices"
	"testing"

	"github.com/sptune/spt/checkpoint"
	"github.com/sptune/spt/delta"
	"github.com/sptune/spt/evaluate"
	"github.com/sptune/spt/objective"
	"github.com/sptune/spt/peft"
)

// TestThresholds checks that the thresholds of several labels are kept by a delta and by a merged
// checkpoint, the calibrations by a delta, and that wrong ones are refused.
func TestThresholds(t *testing.T) {
	m := tiny(tinyConfig, 1)
	d := result(t, m, "linear", peft.Selection{})
	d.Objective, d.Thresholds, d.Temperature = objective.MultiLabel.Name(), []float64{0.5, 0.25, 1}, 0
	d.LabelCalibration = []evaluate.LabelCalibration{{Scale: 1, Offset: -0.5}, {Scale: 0.7}, {Scale: 2, Offset: 3}}
	read, err := delta.Load(saved(t, d))
	if err != nil || !slices.Equal(read.Thresholds, d.Thresholds) || !slices.Equal(read.LabelCalibration, d.LabelCalibration) || read.Objective != d.Objective {
		t.Fatalf("read the thresholds %v and the calibrations %v of %s, error %v", read.Thresholds, read.LabelCalibration, read.Objective, err)
	}
	for want, change := range map[string]func(*delta.Delta){
		"found 2 thresholds for 3 labels":               func(d *delta.Delta) { d.Thresholds = d.Thresholds[:2] },
		"threshold 1 is 1.5":                            func(d *delta.Delta) { d.Thresholds = []float64{0.5, 1.5, 0.5} },
		"thresholds are for images with several labels": func(d *delta.Delta) { d.Objective = objective.SingleLabel.Name() },
		"calibrations of labels are for images with several labels": func(d *delta.Delta) {
			d.Objective, d.Thresholds = objective.SingleLabel.Name(), nil
		},
		"calibration 1 has scale -1": func(d *delta.Delta) {
			d.LabelCalibration = []evaluate.LabelCalibration{{Scale: 1}, {Scale: -1}, {Scale: 1}}
		},
		"a temperature calibrates the probabilities of images with one": func(d *delta.Delta) { d.Temperature = 2 },
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
