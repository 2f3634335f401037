package chart

import (
	"math"
	"slices"
	"strings"
	"testing"
)

// TestLinearTicks compares ticks with a table written by hand.
func TestLinearTicks(t *testing.T) {
	for _, test := range []struct {
		low, high float64
		whole     bool
		ticks     string
		first     float64
	}{
		{0, 1, false, "0.0 0.2 0.4 0.6 0.8 1.0", 0},
		{0, 10, false, "0 2 4 6 8 10", 0},
		{0, 3, true, "0 1 2 3", 0},
		{1, 3, true, "1 2 3", 1},
		{0, 0.3, false, "0.0 0.1 0.2 0.3", 0},
		{-1, 1, false, "−1.0 −0.5 0.0 0.5 1.0", -1},
		{3, 97, false, "20 40 60 80", 20},
		{0.7, 0.93, false, "0.70 0.75 0.80 0.85 0.90", 0.7},
		{0, 50000, true, "0 10,000 20,000 30,000 40,000 50,000", 0},
		{0, 2e8, true, "0 5e7 1e8 1.5e8 2e8", 0},
		{0, 1e-3, false, "0 2e-4 4e-4 6e-4 8e-4 1e-3", 0},
		{1e9, 1e9 + 2, true, "1e9 1.000000001e9 1.000000002e9", 1e9},
		{-1e300, 1e300, false, "−1e300 −5e299 0 5e299 1e300", -1e300},
		{0, 1e-290, false, "0 2e-291 4e-291 6e-291 8e-291 1e-290", 0},
	} {
		s := newScale(extent{test.low, test.high, true, !test.whole}, false, false, false, 5)
		if got := strings.Join(s.labels(), " "); got != test.ticks {
			t.Errorf("ticks from %g to %g: %q, want %q", test.low, test.high, got, test.ticks)
		}
		if s.ticks[0] != test.first {
			t.Errorf("first tick from %g to %g: %g, want %g", test.low, test.high, s.ticks[0], test.first)
		}
	}
	// Ticks are the float64 nearest to their text.
	if ticks, _ := linearTicks(0, 1, 10, false); ticks[3] != 0.3 || ticks[7] != 0.7 {
		t.Errorf("ticks are %v, want 0.3 and 0.7 exactly", ticks)
	}
}

func TestLogTicks(t *testing.T) {
	for _, test := range []struct {
		low, high float64
		ticks     string
	}{
		{1e-5, 1e-1, "1e-5 1e-4 1e-3 1e-2 1e-1"},
		{1, 1000, "1 2 5 10 20 50 100 200 500 1,000"},
		{1, 1e6, "1 10 100 1,000 10,000 100,000 1,000,000"},
		{1e-12, 1e12, "1e-10 1e-5 1 1e5 1e10"},
		{2, 3, "2.0 2.2 2.4 2.6 2.8 3.0"},
		{1e-300, 1e300, "1e-300 1e-200 1e-100 1 1e100 1e200 1e300"},
		{3, 40, "5 10 20"},
	} {
		s := newScale(extent{test.low, test.high, true, true}, true, false, true, 6)
		if got := strings.Join(s.labels(), " "); got != test.ticks {
			t.Errorf("ticks from %g to %g: %q, want %q", test.low, test.high, got, test.ticks)
		}
	}
}

func TestPercentTicks(t *testing.T) {
	for _, test := range []struct {
		low, high float64
		ticks     string
	}{
		{0.1, 0.98, "0% 20% 40% 60% 80% 100%"},
		{0.985, 0.998, "98.5% 99.0% 99.5% 100.0%"},
		{1, 1, "90% 95% 100%"}, // not above 100 %
		{-0.2, 0.4, "−20% 0% 20% 40%"},
		{0, 2e5, "0% 5e6% 1e7% 1.5e7% 2e7%"},
	} {
		s := newScale(extent{test.low, test.high, true, true}, false, true, true, 5)
		if got := strings.Join(s.labels(), " "); got != test.ticks {
			t.Errorf("ticks from %g to %g: %q, want %q", test.low, test.high, got, test.ticks)
		}
	}
}

// TestScales checks properties of scales between random ends: there are at least two ticks and not
// too many, they lie between the ends, they ascend, and their labels differ.
func TestScales(t *testing.T) {
	random := newRandom(1)
	for range 20000 {
		low := random.number()
		high := random.number()
		for _, log := range []bool{false, true} {
			var e extent
			for _, v := range []float64{low, high} {
				if log {
					v = math.Abs(v)
				}
				if drawable(v, log) {
					e.add(v)
				}
			}
			for _, round := range []bool{false, true} {
				s := newScale(e, log, random.IntN(2) == 0, round, 5)
				s.to = 100
				labels := s.labels()
				if len(s.ticks) < 2 && !log || len(s.ticks) == 0 || len(s.ticks) > 12 {
					t.Fatalf("%v, log %v: %d ticks, %v", e, log, len(s.ticks), labels)
				}
				for i, tick := range s.ticks {
					if at := s.at(tick); !(at > -0.01 && at < 100.01) || i > 0 && (tick <= s.ticks[i-1] || labels[i] == labels[i-1]) {
						t.Fatalf("%v, log %v, percent %v: ticks %v at %g, labels %q", e, log, s.percent, s.ticks, at, labels)
					}
				}
				if margin := 1e-8 * (s.high - s.low); e.any && (s.low > e.low+margin || s.high < e.high-margin) {
					t.Fatalf("%v, log %v: the scale from %g to %g leaves out values", e, log, s.low, s.high)
				}
			}
		}
	}
}

func TestNumbers(t *testing.T) {
	for _, test := range []struct {
		value                float64
		text, percent, short string
	}{
		{0, "0", "0%", "0"},
		{1234567, "1,234,567", "1.23e8%", "1.23M"},
		{-1234.6, "−1,235", "−123,460%", "−1.23k"},
		{9999, "9,999", "999,900%", "9999"},
		{10000, "10,000", "1,000,000%", "10k"},
		{86567656, "86,567,656", "8.66e9%", "86.6M"},
		{0.12345, "0.1235", "12.35%", "0.12"},
		{0.995, "0.995", "99.5%", "0.99"},
		{1e-4, "1e-4", "0.01%", "1e-4"},
		{2.5e-4, "2.5e-4", "0.03%", "2.5e-4"},
		{3e-7, "3e-7", "3e-5%", "3e-7"},
		{1.5e20, "1.5e20", "1.5e22%", "1.5e20"},
		{3.14159, "3.142", "314.16%", "3.14"},
		{math.NaN(), "not a number", "not a number", ""},
	} {
		got := []string{value(test.value, false), value(test.value, true), short(test.value, false)}
		if want := []string{test.text, test.percent, test.short}; !slices.Equal(got[:2], want[:2]) || want[2] != "" && got[2] != want[2] {
			t.Errorf("%g: %q, want %q", test.value, got, want)
		}
	}
}
