package evaluate

import (
	"encoding/json"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"reflect"
	"runtime"
	"slices"
	"strings"
	"testing"
)

// reference is the content of testdata/metrics.json, which testdata/make.py computes with
// scikit-learn and SciPy.
type reference struct {
	Cases   []referenceCase
	Wilson  [][5]float64 // correct, images, level, low, high
	McNemar [][3]float64 // counts of two kinds of discordant images, p-value
}

type referenceCase struct {
	Name                             string
	Seed                             uint64
	Images, Classes, Steps, Exponent int
	ClassesUsed                      int `json:"classes_used"`
	Bonus                            float32
	Never                            []int
	Temperature                      float64
	Expected                         struct {
		Correct          int
		Top1, Top5       float64
		Interval         [2]float64
		BalancedAccuracy float64 `json:"balanced_accuracy"`
		Kappa            *float64
		LogLoss          float64 `json:"log_loss"`
		Macro, Weighted  [3]float64
		Classes          [][7]float64 // class, support, predicted, correct, precision, recall, F1
		Cells            int
		Confusion        [][3]int
		Bins             []int
		BinAccuracy      []float64 `json:"bin_accuracy"`
		BinConfidence    []float64 `json:"bin_confidence"`
		ECE, MCE         float64
		Coverage         []int
		CoveredAccuracy  []float64 `json:"covered_accuracy"`
		Temperature      float64
	}
}

func readReference(t *testing.T) (r reference) {
	t.Helper()
	data, err := os.ReadFile(filepath.Join("testdata", "metrics.json"))
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(data, &r); err != nil {
		t.Fatal(err)
	}
	return r
}

// generate returns the predictions that the function of the same name in make.py generates.
func (c referenceCase) generate(t *testing.T) *Predictions {
	t.Helper()
	state := c.Seed
	draw := func() int {
		state = state*6364136223846793005 + 1442695040888963407
		return int(state >> 40)
	}
	power := func(e int) float32 { return float32(math.Ldexp(1, e)) }
	p := &Predictions{Classes: make([]string, c.Classes)}
	for i := range p.Classes {
		p.Classes[i] = fmt.Sprintf("class %d", i)
	}
	for i := range c.Images {
		target := draw() % c.ClassesUsed
		row := make([]float32, c.Classes)
		for j := range row {
			v := draw() - 1<<23
			if c.Steps > 0 {
				v = v >> (24 - c.Steps) << (24 - c.Steps)
			}
			row[j] = float32(v) * power(c.Exponent)
		}
		row[target] += c.Bonus
		for _, j := range c.Never {
			row[j] = -power(23+c.Exponent) - max(c.Bonus, -c.Bonus) - 1
		}
		if err := p.Add([]string{fmt.Sprintf("%d.png", i)}, []int32{int32(target)}, row); err != nil {
			t.Fatal(err)
		}
	}
	return p
}

// near fails the test if got is not want within 1e-12.
func near(t *testing.T, what string, got, want float64) {
	t.Helper()
	if !(math.Abs(got-want) <= 1e-12*max(1, math.Abs(want))) {
		t.Errorf("%s is %v, want %v", what, got, want)
	}
}

// TestMetrics compares all metrics with those of scikit-learn, within 1e-12.
func TestMetrics(t *testing.T) {
	cases := readReference(t).Cases
	if len(cases) < 20 {
		t.Fatalf("found %d cases", len(cases))
	}
	for _, c := range cases {
		t.Run(c.Name, func(t *testing.T) {
			p, want := c.generate(t), c.Expected
			m, err := p.Metrics(c.Temperature)
			if err != nil {
				t.Fatal(err)
			}
			if m.Images != c.Images || m.Correct != want.Correct || m.Temperature != c.Temperature || len(m.Classes) != c.Classes || len(m.Confusion) != want.Cells {
				t.Errorf("%d images, %d correct, temperature %v, %d classes, %d cells; want %d, %d, %v, %d, %d", m.Images, m.Correct, m.Temperature, len(m.Classes), len(m.Confusion), c.Images, want.Correct, c.Temperature, c.Classes, want.Cells)
			}
			near(t, "top1", m.Top1, want.Top1)
			near(t, "low", m.Interval.Low, want.Interval[0])
			near(t, "high", m.Interval.High, want.Interval[1])
			near(t, "top5", m.Top5, want.Top5)
			near(t, "balanced accuracy", m.BalancedAccuracy, want.BalancedAccuracy)
			if want.Kappa == nil {
				want.Kappa = new(float64) // scikit-learn returns NaN
			}
			near(t, "kappa", m.Kappa, *want.Kappa)
			near(t, "log loss", m.LogLoss, want.LogLoss)
			if c.Temperature == 1 {
				losses, err := p.Losses()
				if err != nil || len(losses) != c.Images {
					t.Fatalf("%d losses, %v", len(losses), err)
				}
				near(t, "mean of the losses", mean(losses), want.LogLoss)
			}
			for name, means := range map[string][2]Means{
				"macro":    {m.Macro, {want.Macro[0], want.Macro[1], want.Macro[2]}},
				"weighted": {m.Weighted, {want.Weighted[0], want.Weighted[1], want.Weighted[2]}},
			} {
				near(t, name+" precision", means[0].Precision, means[1].Precision)
				near(t, name+" recall", means[0].Recall, means[1].Recall)
				near(t, name+" F1", means[0].F1, means[1].F1)
			}
			for _, row := range want.Classes {
				class := m.Classes[int(row[0])]
				for i, got := range []float64{float64(class.Support), float64(class.Predicted), float64(class.Correct), class.Precision, class.Recall, class.F1} {
					near(t, fmt.Sprintf("number %d of class %v", i, row[0]), got, row[1+i])
				}
			}
			for _, row := range want.Confusion {
				if !slices.Contains(m.Confusion, Cell{row[0], row[1], row[2]}) {
					t.Errorf("the confusion has no cell %v", row)
				}
			}
			if !slices.IsSortedFunc(m.Confusion, compareCells) {
				t.Error("the cells are not sorted")
			}
			near(t, "ECE", m.Calibration.ECE, want.ECE)
			near(t, "MCE", m.Calibration.MCE, want.MCE)
			filled := 0
			for i, b := range m.Calibration.Bins {
				if b.Images != want.Bins[i] {
					t.Errorf("bin %d has %d images, want %d", i, b.Images, want.Bins[i])
				}
				if b.Images > 0 {
					near(t, "accuracy of a bin", b.Accuracy, want.BinAccuracy[filled])
					near(t, "confidence of a bin", b.Confidence, want.BinConfidence[filled])
					filled++
				}
			}
			for i, c := range m.Calibration.Coverage {
				if c.Threshold != float64(i)/100 || c.Images != want.Coverage[i] {
					t.Errorf("%d images reach the threshold %v, want %d the threshold %v", c.Images, c.Threshold, want.Coverage[i], float64(i)/100)
				}
				near(t, "share of answers", c.Share, float64(want.Coverage[i])/float64(p.Len()))
				near(t, "accuracy of answers", c.Accuracy, want.CoveredAccuracy[i])
			}
			if len(m.Calibration.Coverage) != len(want.Coverage) {
				t.Errorf("%d thresholds, want %d", len(m.Calibration.Coverage), len(want.Coverage))
			}
			if _, err := json.Marshal(m); err != nil {
				t.Error(err)
			}
			temperature, err := p.Temperature()
			if err != nil || math.Abs(temperature-want.Temperature) > 1e-7*want.Temperature {
				t.Errorf("the best temperature is %v, %v, want %v", temperature, err, want.Temperature)
			}
		})
	}
}

// TestBinEdges checks that a confidence on the edge of a bin belongs to the bin below: 15 equal
// logits have the confidence 1/15, and 3 have 5/15.
func TestBinEdges(t *testing.T) {
	for classes, bin := range map[int]int{15: 0, 3: 4, 5: 2} {
		p := &Predictions{Classes: make([]string, classes)}
		if err := p.Add([]string{"a"}, []int32{0}, make([]float32, classes)); err != nil {
			t.Fatal(err)
		}
		m, err := p.Metrics(1)
		if err != nil {
			t.Fatal(err)
		}
		if m.Calibration.Bins[bin].Images != 1 {
			t.Errorf("%d equal logits: bins %v, want an image in bin %d", classes, m.Calibration.Bins, bin)
		}
	}
}

// TestTemperature checks that the result minimises the log loss, which a search confirms, and that
// it undoes the scale of the logits.
func TestTemperature(t *testing.T) {
	for _, c := range readReference(t).Cases {
		if c.Name != "random" && c.Name != "few logits" {
			continue
		}
		p := c.generate(t)
		best, err := p.Temperature()
		if err != nil {
			t.Fatal(err)
		}
		loss := func(temperature float64) float64 {
			m, err := p.Metrics(temperature)
			if err != nil {
				t.Fatal(err)
			}
			return m.LogLoss
		}
		least := loss(best)
		for _, factor := range []float64{0.5, 0.9, 0.999, 1.001, 1.1, 2} {
			if loss(best*factor) <= least {
				t.Errorf("%s: temperature %v has a lower loss than %v", c.Name, best*factor, best)
			}
		}
		for i := range p.Logits {
			p.Logits[i] *= 2
		}
		if scaled, err := p.Temperature(); err != nil || math.Abs(scaled-2*best) > 1e-9*best {
			t.Errorf("%s: logits ×2 have temperature %v, %v, want %v", c.Name, scaled, err, 2*best)
		}
	}
}

func TestWilson(t *testing.T) {
	rows := readReference(t).Wilson
	for _, w := range rows {
		low, high := Wilson(int(w[0]), int(w[1]), w[2])
		near(t, fmt.Sprint("the lower end for ", w), low, w[3])
		near(t, fmt.Sprint("the upper end for ", w), high, w[4])
	}
	if low, high := Wilson(0, 0, 0.95); len(rows) < 20 || low != 0 || high != 1 {
		t.Errorf("%d rows; without images the interval is %v to %v", len(rows), low, high)
	}
}

// TestProbabilities compares probabilities with the formula in extended range, and checks that they
// add up to 1.
func TestProbabilities(t *testing.T) {
	p := &Predictions{Classes: make([]string, 4)}
	if err := p.Add([]string{"a", "b"}, []int32{Unknown, 1}, []float32{1, 2, 3, 2, 1e4, -1e4, 1e4, 0}); err != nil {
		t.Fatal(err)
	}
	dst := make([]float64, 1, 9)
	got := p.Probabilities(0, 2, dst)
	if &got[0] != &dst[0] || len(got) != 4 {
		t.Error("the result is not in dst")
	}
	sum := math.Exp(.5) + 2*math.Exp(1) + math.Exp(1.5)
	for i, want := range []float64{math.Exp(.5) / sum, math.Exp(1) / sum, math.Exp(1.5) / sum, math.Exp(1) / sum} {
		near(t, "a probability", got[i], want)
	}
	if got := p.Probabilities(1, 0.05, nil); !slices.Equal(got, []float64{0.5, 0, 0.5, 0}) {
		t.Errorf("extreme logits have the probabilities %v", got)
	}
	if a, b := p.Predicted(0), p.Predicted(1); a != 2 || b != 0 {
		t.Errorf("predicted %d and %d, want 2 and the first of equals, 0", a, b)
	}
}

// TestThreads checks that the number of threads changes no bit of a result.
func TestThreads(t *testing.T) {
	p := random(3*blockImages+17, 9)
	results := func() [3]any {
		m, err := p.Metrics(1.25)
		if err != nil {
			t.Fatal(err)
		}
		temperature, err := p.Temperature()
		if err != nil {
			t.Fatal(err)
		}
		return [3]any{m, temperature, p.Ranked(3, 1.25)}
	}
	many := results()
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
	if one := results(); !reflect.DeepEqual(one, many) {
		t.Error("the results differ")
	}
}

// random returns random predictions.
func random(images, classes int) *Predictions {
	r := rand.New(rand.NewPCG(1, 2))
	p := &Predictions{Classes: make([]string, classes), Paths: make([]string, images), Targets: make([]int32, images), Logits: make([]float32, images*classes)}
	for i := range p.Classes {
		p.Classes[i] = fmt.Sprintf("n%08d", i)
	}
	for i := range p.Logits {
		p.Logits[i] = float32(r.NormFloat64())
	}
	for i := range p.Targets {
		p.Paths[i] = fmt.Sprintf("val/n%08d/ILSVRC2012_val_%08d.JPEG", i%classes, i)
		p.Targets[i] = int32(r.IntN(classes))
		p.Logits[i*classes+int(p.Targets[i])] += 3
	}
	return p
}

func TestAddErrors(t *testing.T) {
	nan, inf := float32(math.NaN()), float32(math.Inf(-1))
	for _, test := range []struct {
		classes []string
		paths   []string
		targets []int32
		logits  []float32
		want    string
	}{
		{nil, nil, nil, nil, "found no classes"},
		{[]string{"x", "y"}, []string{"a"}, []int32{0, 1}, make([]float32, 4), "found 2 targets and 4 logits for 1 images, expected 1 and 2: 1 and 2 for each image"},
		{[]string{"x", "y"}, []string{"a"}, []int32{0}, make([]float32, 3), "found 1 targets and 3 logits for 1 images"},
		{[]string{"x", "y"}, []string{"a"}, []int32{2}, make([]float32, 2), "image a has target 2, expected 0 to 1"},
		{[]string{"x", "y"}, []string{"a"}, []int32{-2}, make([]float32, 2), "image a has target -2"},
		{[]string{"x", "y"}, []string{"a", "b"}, []int32{0, 1}, []float32{0, 0, 0, nan}, "image b has logit NaN for class y"},
		{[]string{"x", "y"}, []string{"a", "b"}, []int32{0, 1}, []float32{0, 0, inf, 0}, "image b has logit -Inf for class x"},
	} {
		p := &Predictions{Classes: test.classes}
		if err := p.Add(test.paths, test.targets, test.logits); err == nil || !strings.Contains(err.Error(), test.want) || p.Len() != 0 {
			t.Errorf("error %v, want %q", err, test.want)
		}
	}
	p := &Predictions{Classes: []string{"x", "y"}}
	if _, err := p.Metrics(1); err == nil || !strings.Contains(err.Error(), "no images") {
		t.Errorf("metrics of no images: %v", err)
	}
	if err := p.Add([]string{"a"}, []int32{Unknown}, make([]float32, 2)); err != nil {
		t.Error(err)
	}
	for _, err := range []error{second(p.Metrics(1)), second(p.Temperature()), second(Compare(p, p))} {
		if err == nil || !strings.Contains(err.Error(), "image a has no target") {
			t.Errorf("an unknown target: %v", err)
		}
	}
	p.Targets[0] = 1
	for _, temperature := range []float64{0, -1, math.NaN(), math.Inf(1)} {
		if _, err := p.Metrics(temperature); err == nil || !strings.Contains(err.Error(), "temperature") {
			t.Errorf("temperature %v: %v", temperature, err)
		}
	}
}

func second[T any](_ T, err error) error { return err }

func TestConfused(t *testing.T) {
	m := Metrics{Confusion: []Cell{{0, 0, 9}, {0, 1, 2}, {1, 0, 3}, {1, 2, 2}, {2, 2, 5}}}
	if got := m.Confused(2); !slices.Equal(got, []Cell{{1, 0, 3}, {0, 1, 2}}) {
		t.Errorf("found %v", got)
	}
	if got := m.Confused(9); len(got) != 3 || m.Confusion[0].Images != 9 {
		t.Errorf("found %v", got)
	}
}

func BenchmarkMetrics(b *testing.B) {
	p := random(50000, 1000)
	b.Run("metrics", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if _, err := p.Metrics(1); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("temperature", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if _, err := p.Temperature(); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("ranked", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			p.Ranked(5, 1)
		}
	})
	path := filepath.Join(b.TempDir(), "predictions.jsonl")
	ranked := p.Ranked(5, 1)
	if err := SaveRanked(path, p.Classes, ranked); err != nil {
		b.Fatal(err)
	}
	b.Run("save", func(b *testing.B) {
		for b.Loop() {
			if err := SaveRanked(path, p.Classes, ranked); err != nil {
				b.Fatal(err)
			}
		}
		info, err := os.Stat(path)
		if err != nil {
			b.Fatal(err)
		}
		b.ReportMetric(float64(info.Size())/1e6, "MB")
	})
	b.Run("load", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if _, _, err := LoadRanked(path); err != nil {
				b.Fatal(err)
			}
		}
	})
	for _, extension := range Formats() {
		b.Run(extension, func(b *testing.B) {
			b.ReportAllocs()
			path := filepath.Join(b.TempDir(), "all"+extension)
			for b.Loop() {
				if err := p.Write(path, WriteOptions{}); err != nil {
					b.Fatal(err)
				}
			}
			info, err := os.Stat(path)
			if err != nil {
				b.Fatal(err)
			}
			b.ReportMetric(float64(info.Size())/1e6, "MB")
		})
	}
}

// mean returns the mean of v.
func mean(v []float64) (m float64) {
	for _, x := range v {
		m += x / float64(len(v))
	}
	return m
}
