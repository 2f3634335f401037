package export_test

import (
	"encoding/json"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/sptune/spt"
	"github.com/sptune/spt/evaluate"
	"github.com/sptune/spt/export"
	"github.com/sptune/spt/export/onnx"
	"github.com/sptune/spt/objective"
	"github.com/sptune/spt/peft"
)

// TestSeveralLabels exports a classifier of several labels. The probabilities of the ONNX model are
// the sigmoids of the logits, and all formats keep the objective and the thresholds.
func TestSeveralLabels(t *testing.T) {
	all := models(t)
	var names []string
	for name := range all {
		names = append(names, name)
	}
	slices.Sort(names)
	m := all[names[slices.IndexFunc(names, func(n string) bool { // a model that Transformers has
		_, err := all[n].Config.HuggingFace()
		return err == nil
	})]]
	c := tuned(t, m, "linear", peft.Selection{})
	c.Delta.Objective, c.Delta.Temperature, c.Delta.Thresholds = objective.MultiLabel.Name(), 0, []float64{0.5, 0.25, 0.75, 0.125, 1}
	c.Delta.LabelCalibration = slices.Repeat([]evaluate.LabelCalibration{{Scale: 0.5, Offset: 1}}, 5)
	var err error
	if c.Tuned, err = spt.Restore(m, c.Delta); err != nil {
		t.Fatal(err)
	}
	pixels := probes(m.Config.ImageSize, 2)
	want := classify(t, c, pixels)
	out := folder(t, "several")
	if _, err := export.Write(t.Context(), c, []string{"onnx"}, out, export.Options{Probes: pixels, Probabilities: true, Bound: 1e-4}); err != nil {
		t.Fatal(err)
	}
	read, err := onnx.Open(filepath.Join(out, "model.onnx"))
	if err != nil {
		t.Fatal(err)
	}
	got, err := read.Run(pixels, 2)
	if err != nil {
		t.Fatal(err)
	}
	for i, p := range got[onnx.Probabilities] {
		if math.Abs(float64(p)-evaluate.Sigmoid(want[i])) > 1e-4 {
			t.Errorf("probability %d is %g, expected %g", i, p, evaluate.Sigmoid(want[i]))
		}
	}
	for key, value := range map[string]string{"objective": "multi-label", "thresholds": "[0.5,0.25,0.75,0.125,1]",
		"label_calibration": "[" + strings.Repeat(`{"scale":0.5,"offset":1},`, 4) + `{"scale":0.5,"offset":1}]`} {
		if !slices.Contains(read.Metadata, onnx.Entry{Key: key, Value: value}) {
			t.Errorf("the metadata %v lack %s", read.Metadata, key)
		}
	}

	out = folder(t, "several-transformers")
	if _, err := export.Write(t.Context(), c, []string{"transformers"}, out, export.Options{Probes: pixels, Bound: 1e-4}); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(filepath.Join(out, "config.json"))
	var config struct {
		Problem    string `json:"problem_type"`
		Thresholds []float64
	}
	if err == nil {
		err = json.Unmarshal(text, &config)
	}
	if err != nil || config.Problem != "multi_label_classification" || !slices.Equal(config.Thresholds, c.Delta.Thresholds) {
		t.Errorf("config.json has %+v, error %v", config, err)
	}
	card, err := os.ReadFile(filepath.Join(out, "README.md"))
	if err != nil || !strings.Contains(string(card), "sigmoid() if p >=") && !strings.Contains(string(card), "sigmoid().tolist()") || strings.Contains(string(card), "argmax") {
		t.Errorf("the card is %s, error %v", card, err)
	}
}
