package evaluate

import (
	"fmt"
	"math"
	"strings"
	"testing"
)

func TestMcNemar(t *testing.T) {
	rows := readReference(t).McNemar
	for _, row := range rows {
		got := mcNemar(int(row[0]), int(row[1]))
		if math.Abs(got-row[2]) > 1e-11*row[2] {
			t.Errorf("%v and %v discordant images: p = %v, want %v", row[0], row[1], got, row[2])
		}
	}
	if len(rows) < 10 {
		t.Errorf("found %d rows", len(rows))
	}
}

// pair returns predictions of two classifiers with the given numbers of outcomes.
func pair(bothRight, onlyFirst, onlySecond, bothWrong int) (first, second *Predictions) {
	first, second = &Predictions{Classes: []string{"x", "y"}}, &Predictions{Classes: []string{"x", "y"}}
	for kind, n := range []int{bothRight, onlyFirst, onlySecond, bothWrong} {
		for range n {
			path := []string{fmt.Sprint(first.Len())}
			row := [2][]float32{{0, 1}, {1, 0}} // wrong, right
			right := [4][2]int{{1, 1}, {1, 0}, {0, 1}, {0, 0}}[kind]
			if first.Add(path, []int32{0}, row[right[0]]) != nil || second.Add(path, []int32{0}, row[right[1]]) != nil {
				panic("the prediction cannot be added")
			}
		}
	}
	return first, second
}

// TestCompare compares an interval with the one that the R package contingencytables of Fagerland,
// Lydersen and Laake prints for the data of Cavo et al. (2012), and the p-value with SciPy's
// binomtest(6, 22).
func TestCompare(t *testing.T) {
	first, second := pair(59, 16, 6, 80)
	c, err := Compare(first, second)
	if err != nil {
		t.Fatal(err)
	}
	if c.Images != 161 || c.BothRight != 59 || c.OnlyFirst != 16 || c.OnlySecond != 6 || c.BothWrong != 80 {
		t.Errorf("the counts are %+v", c)
	}
	if got, want := fmt.Sprintf("%.4f %.4f %.4f", c.Difference, c.Interval.Low, c.Interval.High), "-0.0621 -0.1195 -0.0032"; got != want {
		t.Errorf("the difference and its interval are %s, want %s", got, want)
	}
	near(t, "p", c.P, 0.052478790283203125)
	back, err := Compare(second, first)
	if err != nil || back.Difference != -c.Difference || back.P != c.P || math.Abs(back.Interval.Low+c.Interval.High) > 1e-15 {
		t.Errorf("the reverse comparison is %+v, %v", back, err)
	}
	ranked, err := CompareRanked(first.Classes, first.Ranked(1, 1), second.Classes, second.Ranked(2, 1))
	if err != nil || *ranked != *c {
		t.Errorf("ranked predictions compare as %+v, %v", ranked, err)
	}
}

// TestCompareClassOrder checks that targets are compared by the name of the class.
func TestCompareClassOrder(t *testing.T) {
	first, second := &Predictions{Classes: []string{"x", "y"}}, &Predictions{Classes: []string{"z", "y", "x"}}
	if err := first.Add([]string{"a", "b"}, []int32{0, 1}, []float32{1, 0, 1, 0}); err != nil {
		t.Fatal(err)
	}
	if err := second.Add([]string{"a", "b"}, []int32{2, 1}, []float32{0, 1, 2, 0, 1, 0}); err != nil {
		t.Fatal(err)
	}
	c, err := Compare(first, second)
	if err != nil || c.BothRight != 1 || c.OnlySecond != 1 || c.P != 1 {
		t.Errorf("found %+v, %v", c, err)
	}
}

func TestCompareErrors(t *testing.T) {
	set := func(classes string, paths string, targets ...int32) *Predictions {
		p := &Predictions{Classes: strings.Split(classes, "")}
		if err := p.Add(strings.Split(paths, ""), targets, make([]float32, len(targets)*len(p.Classes))); err != nil {
			t.Fatal(err)
		}
		return p
	}
	first := set("xy", "abc", 0, 1, 0)
	for want, other := range map[string]*Predictions{
		"image 2 is b in the first and d in the second":             set("xy", "adc", 0, 1, 0),
		`image c has target "x" in the first and "y" in the second`: set("xy", "abc", 0, 1, 1),
		`image a has target "x" in the first and "y" in the second`: set("yx", "abc", 0, 1, 0),
		"the first has 3 images and the second 2":                   set("xy", "ab", 0, 1),
		"the first has 3 images and the second 4":                   set("xy", "abcd", 0, 1, 0, 1),
		"image c has no target":                                     set("xy", "abc", 0, 1, Unknown),
		"found no images":                                           {Classes: []string{"x", "y"}},
	} {
		if _, err := Compare(first, other); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v, want %q", err, want)
		}
	}
}
