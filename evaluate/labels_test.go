package evaluate

import (
	"encoding/json"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// labelPredictions returns the predictions of images with so many labels.
func labelPredictions(t *testing.T, labels int, targets []int32, logits []float32) *LabelPredictions {
	t.Helper()
	p := &LabelPredictions{}
	for c := range labels {
		p.Classes = append(p.Classes, fmt.Sprintf("label %d", c))
	}
	var paths []string
	for i := range len(logits) / labels {
		paths = append(paths, fmt.Sprintf("%d.png", i))
	}
	if err := p.Add(paths, targets, logits); err != nil {
		t.Fatal(err)
	}
	return p
}

// TestLabelMetrics compares the metrics with scikit-learn and the loss with PyTorch.
func TestLabelMetrics(t *testing.T) {
	type means struct {
		Macro, Micro       [3]float64
		SubsetAccuracy     float64 `json:"subset_accuracy"`
		HammingLoss        float64 `json:"hamming_loss"`
		Each               [][4]float64
		Together, Right    [][]int
		PredictedPositives [][]int `json:"predicted"`
	}
	var cases []struct {
		Labels      int
		Logits      []float32
		Targets     []int32
		Thresholds  []float64
		AP          []*float64
		MAP         float64
		MicroMAP    float64 `json:"micro_map"`
		Loss        float64
		Half, Given means
	}
	data, err := os.ReadFile("testdata/labels.json")
	if err == nil {
		err = json.Unmarshal(data, &cases)
	}
	if err != nil || len(cases) == 0 {
		t.Fatalf("reading the fixtures: %v", err)
	}
	for i, c := range cases {
		p := labelPredictions(t, c.Labels, c.Targets, c.Logits)
		for name, want := range map[string]means{"half": c.Half, "given": c.Given} {
			thresholds := c.Thresholds
			if name == "half" {
				thresholds = nil
			}
			m, err := p.Metrics(thresholds)
			if err != nil {
				t.Fatal(err)
			}
			near := func(what string, got, want float64) {
				t.Helper()
				if math.Abs(got-want) > 1e-12 {
					t.Errorf("case %d, %s: %s is %v, scikit-learn has %v", i, name, what, got, want)
				}
			}
			near("mAP", m.MAP, c.MAP)
			near("micro mAP", m.MicroMAP, c.MicroMAP)
			near("loss", m.Loss, c.Loss)
			near("mean of the losses", mean(p.Losses()), c.Loss)
			near("subset accuracy", m.SubsetAccuracy, want.SubsetAccuracy)
			near("Hamming loss", m.HammingLoss, want.HammingLoss)
			for k, got := range []float64{m.Macro.Precision, m.Macro.Recall, m.Macro.F1} {
				near(fmt.Sprint("macro mean ", k), got, want.Macro[k])
			}
			for k, got := range []float64{m.Micro.Precision, m.Micro.Recall, m.Micro.F1} {
				near(fmt.Sprint("micro mean ", k), got, want.Micro[k])
			}
			for k, l := range m.Labels {
				near("precision", l.Precision, want.Each[k][0])
				near("recall", l.Recall, want.Each[k][1])
				near("F1", l.F1, want.Each[k][2])
				near("support", float64(l.Support), want.Each[k][3])
				if (l.AP == nil) != (c.AP[k] == nil) {
					t.Fatalf("case %d: label %d has the average precision %v, scikit-learn has %v", i, k, l.AP, c.AP[k])
				}
				if l.AP != nil {
					near("average precision", *l.AP, *c.AP[k])
				} else if !slices.Contains(m.Unsupported(), k) {
					t.Errorf("case %d: label %d is not in %v", i, k, m.Unsupported())
				}
			}
			pairs := 0
			for a := range c.Labels {
				for b := a + 1; b < c.Labels; b++ {
					want := Pair{a, b, want.Together[a][b], want.PredictedPositives[a][b], want.Right[a][b]}
					if want.Images+want.Predicted == 0 {
						continue
					}
					pairs++
					if !slices.Contains(m.Pairs, want) {
						t.Errorf("case %d, %s: the pair %+v is missing in %v", i, name, want, m.Pairs)
					}
				}
			}
			if len(m.Pairs) != pairs || !slices.IsSortedFunc(m.Pairs, func(a, b Pair) int { return b.Images - a.Images }) {
				t.Errorf("case %d, %s: pairs %v, want %d", i, name, m.Pairs, pairs)
			}
		}
	}
}

// TestThresholds compares the chosen thresholds with a search over all of them.
func TestThresholds(t *testing.T) {
	rng := rand.New(rand.NewPCG(5, 6))
	for round := range 200 {
		n, labels := 5+rng.IntN(40), 1+rng.IntN(3)
		logits, targets := make([]float32, n*labels), make([]int32, n*labels)
		for i := range logits {
			targets[i] = int32(rng.IntN(2))
			logits[i] = float32(math.Round(8*(rng.NormFloat64()+float64(targets[i])-1))) / 4
		}
		p := labelPredictions(t, labels, targets, logits)
		chosen := p.Thresholds()
		m, err := p.Metrics(chosen)
		if err != nil {
			t.Fatal(err)
		}
		for c, threshold := range chosen {
			scores, has := p.column(c)
			f1 := func(threshold float64) float64 {
				tp, fp, positives := 0, 0, 0
				for i, v := range scores {
					positives += count(has[i])
					if Sigmoid(v) >= threshold {
						tp, fp = tp+count(has[i]), fp+count(!has[i])
					}
				}
				return ratio(2*tp, positives+tp+fp)
			}
			if m.Labels[c].Support < LeastPositives {
				if threshold != DefaultThreshold {
					t.Errorf("round %d: a label of %d images has the threshold %v", round, m.Labels[c].Support, threshold)
				}
				continue
			}
			best, nearest := 0.0, math.Inf(1)
			points := []float64{0}
			for _, v := range scores {
				points = append(points, Sigmoid(v))
			}
			slices.Sort(points)
			points = slices.Compact(points)
			for i, high := range points[1:] {
				low := points[i]
				candidate := (low + high) / 2
				if low < 0.5 && 0.5 <= high {
					candidate = 0.5
				}
				if v := f1(candidate); v > best {
					best, nearest = v, math.Abs(candidate-0.5)
				} else if v == best {
					nearest = min(nearest, math.Abs(candidate-0.5))
				}
			}
			if got := f1(threshold); got != best || math.Abs(math.Abs(threshold-0.5)-nearest) > 1e-15 || got != m.Labels[c].F1 {
				t.Errorf("round %d: threshold %v has F1 %v; the best is %v, at a distance of %v from 0.5", round, threshold, got, best, nearest)
			}
		}
	}
	// Probabilities at the bounds, which float64 rounds to 0 and 1.
	p := labelPredictions(t, 1, []int32{1, 1, 1, 1, 1, 0}, []float32{100, 90, -900, -800, -901, 80})
	if got := p.Thresholds(); CheckThresholds(got, 1) != nil {
		t.Errorf("thresholds %v", got)
	}
}

func TestLabelPredictionErrors(t *testing.T) {
	p := &LabelPredictions{Classes: []string{"a", "b"}}
	for want, add := range map[string]func() error{
		"found 1 targets":                    func() error { return p.Add([]string{"x"}, []int32{1}, []float32{0, 0}) },
		"has target 2 for label b":           func() error { return p.Add([]string{"x"}, []int32{1, 2}, []float32{0, 0}) },
		"logit NaN for class a":              func() error { return p.Add([]string{"x"}, []int32{1, 0}, []float32{float32(math.NaN()), 0}) },
		"found no classes":                   func() error { return (&LabelPredictions{}).Add([]string{"x"}, nil, nil) },
		"found no images":                    func() error { _, err := p.Metrics(nil); return err },
		"found 1 thresholds for 2 labels":    func() error { return CheckThresholds([]float64{1}, 2) },
		"threshold 1 is NaN":                 func() error { return CheckThresholds([]float64{1, math.NaN()}, 2) },
		"threshold 0 is 0":                   func() error { return CheckThresholds([]float64{0, 1}, 2) },
		"expected the extension of a table:": func() error { return p.Write("x.txt", nil, false) },
	} {
		if err := add(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v, want %q", err, want)
		}
	}
	if p.Len() != 0 {
		t.Errorf("%d images were added", p.Len())
	}
}

func TestWriteLabels(t *testing.T) {
	p := labelPredictions(t, 2, []int32{1, 0}, []float32{0, 1})
	path := filepath.Join(t.TempDir(), "p.csv")
	if err := p.Write(path, []float64{0.5, 0.9}, true); err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(path)
	want := "path,target_label 0,target_label 1,predicted_label 0,predicted_label 1,probability_label 0,probability_label 1,logit_label 0,logit_label 1\n" +
		"0.png,true,false,true,false,0.5,0.7310585786300049,0,1\n"
	if err != nil || string(got) != want {
		t.Errorf("wrote %q, error %v", got, err)
	}
}

// TestRankedLabels checks the order of labels, and that a calibration changes no predicted label.
func TestRankedLabels(t *testing.T) {
	logits, thresholds := []float32{1, -1, 3, 50, 60}, []float64{0.5, 0.2, 0.99, 1, 0.1}
	for _, calibration := range [][]LabelCalibration{nil, {{1, 0}, {0.1, 5}, {2, -30}, {1, 0}, {0.5, 0}}} {
		got := RankedLabels(logits, thresholds, calibration)
		order, want := []int{}, []int{4, 3, 2, 0, 1}
		if calibration != nil {
			want = []int{3, 4, 1, 0, 2}
		}
		for _, l := range got {
			order = append(order, l.Class)
			if l.Predicted != (l.Class != 2) || l.Predicted != (l.Probability >= l.Threshold) {
				t.Errorf("calibration %v: label %+v", calibration, l)
			}
			logit := float64(logits[l.Class])
			if calibration != nil {
				logit = calibration[l.Class].Scale*logit + calibration[l.Class].Offset
			}
			if want := 1 / (1 + math.Exp(-logit)); math.Abs(l.Probability-want) > 1e-12 {
				t.Errorf("calibration %v: label %+v, expected the probability %g", calibration, l, want)
			}
		}
		if !slices.Equal(order, want) {
			t.Errorf("calibration %v: order %v, expected %v", calibration, order, want)
		}
	}
	if got := RankedLabels([]float32{-1, 0}, nil, nil); got[0].Class != 1 || got[0].Probability != 0.5 || !got[0].Predicted || got[1].Predicted {
		t.Errorf("labels %+v", got)
	}
}
