package evaluate

import (
	"encoding/json"
	"math"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"testing"
)

// TestCompareLabels compares differences with those of scikit-learn, and their intervals with those
// of SciPy's bootstrap. Both intervals come from random samples: the bound is a tenth of the width,
// about five times the standard error of their difference.
func TestCompareLabels(t *testing.T) {
	data, err := os.ReadFile("testdata/labelpairs.json")
	if err != nil {
		t.Fatal(err)
	}
	var c struct {
		Labels        int
		Targets       []int32
		First, Second []float32
		Differences   [][3]float64 // of the mean, then of each label: difference, low, high
	}
	if err := json.Unmarshal(data, &c); err != nil {
		t.Fatal(err)
	}
	first, second := labelPredictions(t, c.Labels, c.Targets, c.First), labelPredictions(t, c.Labels, c.Targets, c.Second)
	thresholds := []float64{0.4, 0.5, 0.6, 0.3}
	got, err := CompareLabels(first, second, nil, thresholds)
	if err != nil {
		t.Fatal(err)
	}
	all := []Difference{got.MAP}
	for _, l := range got.Labels {
		all = append(all, l.Difference)
	}
	if len(all) != len(c.Differences) {
		t.Fatalf("%d differences, expected %d", len(all), len(c.Differences))
	}
	for i, want := range c.Differences {
		bound := (want[2] - want[1]) / 10
		if d := all[i]; math.Abs(d.Difference-want[0]) > 1e-12 || math.Abs(d.Interval.Low-want[1]) > bound || math.Abs(d.Interval.High-want[2]) > bound || math.Abs(d.Second-d.First-d.Difference) > 1e-12 {
			t.Errorf("difference %d is %+v, expected %v", i, d, want)
		}
	}
	a, _ := first.Metrics(nil)
	b, _ := second.Metrics(thresholds)
	near(t, "mAP of the first", got.MAP.First, a.MAP)
	near(t, "mAP of the second", got.MAP.Second, b.MAP)
	near(t, "difference of exactly right images", got.Exact.Difference, b.SubsetAccuracy-a.SubsetAccuracy)
	if e := got.Exact; e.Images != first.Len() || e.BothRight+e.OnlyFirst != int(math.Round(a.SubsetAccuracy*float64(first.Len()))) || !(e.P > 0 && e.P <= 1) {
		t.Errorf("exactly right images: %+v", e)
	}
	same, err := CompareLabels(first, first, nil, nil)
	if err != nil || same.MAP.Interval != (Interval{}) || same.Exact.P != 1 {
		t.Errorf("a classifier beside itself: %+v, error %v", same, err)
	}
}

// TestPrecisionOfSample compares the average precision of a bootstrap sample with that of its
// images.
func TestPrecisionOfSample(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	for range 200 {
		n := 1 + rng.IntN(20)
		scores, targets, copies := make([]float32, n), make([]bool, n), make([]uint16, n)
		for i := range n {
			scores[i], targets[i] = float32(rng.IntN(8)), rng.IntN(3) == 0
		}
		var drawn []float32
		var has []bool
		for range n {
			i := rng.IntN(n)
			copies[i]++
			drawn, has = append(drawn, scores[i]), append(has, targets[i])
		}
		want, wantOK := AveragePrecision(drawn, has)
		got, ok := newRanking(scores, targets).precision(copies)
		if ok != wantOK || math.Abs(got-want) > 1e-12 {
			t.Fatalf("average precision %v %t, expected %v %t", got, ok, want, wantOK)
		}
	}
}

// TestCompareLabelNames checks that labels are compared by name, whatever their order, that a label
// without images may be unknown to one classifier, and the errors.
func TestCompareLabelNames(t *testing.T) {
	of := func(classes string, paths string, targets []int32, logits []float32) *LabelPredictions {
		p := &LabelPredictions{Classes: strings.Split(classes, "")}
		if err := p.Add(strings.Split(paths, ""), targets, logits); err != nil {
			t.Fatal(err)
		}
		return p
	}
	first := of("xyz", "ab", []int32{1, 0, 0, 1, 1, 0}, []float32{1, -1, 9, -1, 1, 9})
	second := of("wyx", "ab", []int32{0, 0, 1, 0, 1, 1}, []float32{9, -1, 1, 9, 1, 1})
	c, err := CompareLabels(first, second, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, l := range c.Labels {
		names = append(names, l.Label)
	}
	if !slices.Equal(names, []string{"x", "y"}) || c.Labels[0].Support != 2 || c.Exact.OnlySecond != 1 || c.Exact.BothRight != 1 {
		t.Errorf("comparison %+v", c)
	}
	for want, other := range map[string]*LabelPredictions{
		`image b has label "y", which the second classifier does not know`: of("x", "ab", []int32{1, 1}, []float32{1, 1}),
		`image a has label "w", which the first classifier does not know`:  of("wxy", "ab", []int32{1, 1, 0, 0, 1, 1}, make([]float32, 6)),
		`image b has target "x, y" in the first and "x" in the second`:     of("xy", "ab", []int32{1, 0, 1, 0}, make([]float32, 4)),
		"image 2 is b in the first and c in the second":                    of("xy", "ac", []int32{1, 0, 1, 1}, make([]float32, 4)),
		"the first has 2 images and the second 1":                          of("xy", "a", []int32{1, 0}, make([]float32, 2)),
		"found no classes": {},
	} {
		if _, err := CompareLabels(first, other, nil, nil); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v, want %q", err, want)
		}
	}
	if _, err := CompareLabels(first, second, []float64{1}, nil); err == nil || !strings.Contains(err.Error(), "found 1 thresholds for 3 labels") {
		t.Errorf("error %v", err)
	}
}
