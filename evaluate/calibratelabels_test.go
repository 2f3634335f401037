package evaluate

import (
	"encoding/json"
	"fmt"
	"math"
	"os"
	"slices"
	"strings"
	"testing"
)

// TestCalibration compares calibrations of labels with the minima that SciPy finds. The shared
// scaling is that of scikit-learn.
func TestCalibration(t *testing.T) {
	data, err := os.ReadFile("testdata/labelcalibration.json")
	if err != nil {
		t.Fatal(err)
	}
	var cases []struct {
		Labels  int
		Weights []float64
		Targets []int32
		Logits  []float32
		Shared  [2]float64
		Each    [][2]float64
	}
	if err := json.Unmarshal(data, &cases); err != nil || len(cases) != 2 {
		t.Fatal(err, len(cases))
	}
	for _, c := range cases {
		p := labelPredictions(t, c.Labels, c.Targets, c.Logits)
		got := p.Calibration(c.Weights)
		for label, want := range c.Each {
			if math.Abs(got[label].Scale-want[0]) > 1e-6 || math.Abs(got[label].Offset-want[1]) > 1e-6 {
				t.Errorf("%d labels: calibration %+v of label %d, SciPy has %v", c.Labels, got[label], label, want)
			}
		}
		calibrated, err := p.Calibrated(got)
		if err != nil {
			t.Fatal(err)
		}
		before, _ := p.Metrics(nil)
		after, _ := calibrated.Metrics(nil)
		if after.Loss >= before.Loss || after.Calibration.ECE >= before.Calibration.ECE || after.MAP != before.MAP {
			t.Errorf("%d labels: loss %g, calibration error %g, mAP %g; before %g, %g, %g", c.Labels, after.Loss, after.Calibration.ECE, after.MAP, before.Loss, before.Calibration.ECE, before.MAP)
		}
	}
}

// TestCalibrationExtremes calibrates labels that no image or every image has, labels that a
// threshold separates, and logits that say nothing or the opposite.
func TestCalibrationExtremes(t *testing.T) {
	var targets []int32
	var logits []float32
	for i := range 40 {
		has := int32(i % 2)
		targets = append(targets, has, 0, 1, has)
		logits = append(logits, 1000*float32(has)-500, -3, 3, float32(has)+float32(i%5))
	}
	p := labelPredictions(t, 4, targets, logits)
	got := p.Calibration(nil)
	if err := CheckCalibration(got, 4); err != nil || got == nil {
		t.Fatalf("calibration %v: %v", got, err)
	}
	for name, c := range map[string][2]func(i int) float32{
		"no label":   {func(int) float32 { return 0 }, func(i int) float32 { return float32(i) }},
		"all labels": {func(int) float32 { return 1 }, func(i int) float32 { return float32(i) }},
		"opposite":   {func(i int) float32 { return float32(i % 2) }, func(i int) float32 { return -float32(i % 2) }},
	} {
		p := &LabelPredictions{Classes: []string{"x"}}
		for i := range 30 {
			if err := p.Add([]string{fmt.Sprint(i)}, []int32{int32(c[0](i))}, []float32{c[1](i)}); err != nil {
				t.Fatal(err)
			}
		}
		if got := p.Calibration(nil); got != nil {
			t.Errorf("%s: calibration %v", name, got)
		}
	}
	for want, c := range map[string][]LabelCalibration{
		"of 1 labels, expected one for each of the 4": {{1, 0}},
		"calibration 1 has scale 0":                   {{1, 0}, {0, 0}, {1, 0}, {1, 0}},
		"offset NaN":                                  slices.Repeat([]LabelCalibration{{1, math.NaN()}}, 4),
	} {
		if _, err := p.Calibrated(c); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v, want %q", err, want)
		}
	}
}
