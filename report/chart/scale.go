package chart

import (
	"math"
	"strconv"
	"strings"
)

// Values outside these bounds are not drawn. So sums, percentages and rounded ends of axes never
// overflow.
const (
	greatest = 1e300
	smallest = 1e-300 // for values on a logarithmic axis, and for the length of a linear axis
)

// drawable reports whether an axis can place a value.
func drawable(v float64, log bool) bool {
	return math.Abs(v) <= greatest && (!log || v >= smallest)
}

// An extent is the range of the values that an axis shows.
type extent struct {
	low, high float64
	any       bool // at least one value was added
	fraction  bool // at least one value is not a whole number
}

func (e *extent) add(v float64) {
	if !e.any {
		e.low, e.high = v, v
	}
	e.low, e.high, e.any = min(e.low, v), max(e.high, v), true
	e.fraction = e.fraction || v != math.Trunc(v)
}

// addInterval adds a value and, if there is an error bar, its ends.
func (e *extent) addInterval(v float64, low, high *float64, log bool) {
	e.add(v)
	if bounded(low, high, log) {
		e.add(*low)
		e.add(*high)
	}
}

// bounded reports whether an error bar has two ends that an axis can place.
func bounded(low, high *float64, log bool) bool {
	return low != nil && high != nil && drawable(*low, log) && drawable(*high, log)
}

// A scale maps values to positions in the units of the SVG.
type scale struct {
	log, percent bool
	low, high    float64 // values at the ends
	from, to     float64 // positions of the ends
	ticks        []float64
	step         float64 // distance of the ticks; 0 if it is not constant
}

// newScale returns a scale for the extent with about n ticks. A linear scale ends at ticks if round
// is set. Otherwise it ends at the ends of the extent.
func newScale(e extent, log, percent, round bool, n int) scale {
	s := scale{log: log, percent: percent, low: e.low, high: e.high}
	if log {
		if !e.any {
			s.low, s.high = 1, 10
		} else if s.high/s.low < 1+1e-9 {
			s.low, s.high = s.low/2, s.high*2
		}
		s.ticks, s.step = logTicks(s.low, s.high, n)
		return s
	}
	whole := e.any && !e.fraction && !percent
	if !e.any {
		s.high = 1
	} else if size := max(math.Abs(s.low), math.Abs(s.high)); s.high-s.low <= max(1e-12*size, smallest) {
		margin := size / 10
		if margin < smallest || whole {
			margin = max(margin, 1)
		}
		s.low, s.high = s.low-margin, s.high+margin
	}
	s.ticks, s.step = linearTicks(s.low, s.high, n, whole)
	if round {
		s.low = math.Floor(s.low/s.step+1e-9) * s.step
		s.high = math.Ceil(s.high/s.step-1e-9) * s.step
		if percent && e.any { // a part of a whole does not exceed 0 to 100 %
			if e.low >= 0 {
				s.low = max(s.low, 0)
			}
			if e.high <= 1 {
				s.high = min(s.high, 1)
			}
		}
		s.ticks = multiples(s.low, s.high, s.step)
	}
	return s
}

// part returns the position of a value between the ends: 0 for the low end, 1 for the high end.
func (s *scale) part(v float64) float64 {
	low, high := s.low, s.high
	if s.log {
		v, low, high = math.Log10(max(v, smallest)), math.Log10(low), math.Log10(high)
	}
	return max(-20, min(20, (v-low)/(high-low)))
}

// at returns the position of a value in units of the SVG. Values far outside get a position
// outside, but not far, because renderers fail on huge coordinates.
func (s *scale) at(v float64) float64 { return s.from + s.part(v)*(s.to-s.from) }

// linearTicks returns the multiples of a round step from low to high, at most n + 1, and the step.
// A round step is 1, 2 or 5 times a power of ten. If whole is set, it is at least 1.
func linearTicks(low, high float64, n int, whole bool) (ticks []float64, step float64) {
	step = (high - low) / float64(n)
	power := math.Pow10(int(math.Floor(math.Log10(step))))
	for _, factor := range []float64{1, 2, 5, 10} {
		if step <= factor*power*(1+1e-9) {
			step = factor * power
			break
		}
	}
	if whole {
		step = max(step, 1)
	}
	return multiples(low, high, step), step
}

// multiples returns the multiples of a round step from low to high.
func multiples(low, high, step float64) []float64 {
	var ticks []float64
	// A quotient by a whole number is exact where the product with a fraction is not: 3/10, but not
	// 3 × 0.1, is the float64 of 0.3.
	inverse := math.Round(1 / step)
	first, last := math.Ceil(low/step-1e-9), math.Floor(high/step+1e-9)
	for i := range int(last-first) + 1 {
		if k := first + float64(i); step < 1 && inverse < 1e15 && math.Abs(inverse*step-1) < 1e-9 {
			ticks = append(ticks, k/inverse)
		} else {
			ticks = append(ticks, k*step)
		}
	}
	return ticks
}

// logTicks returns ticks of a logarithmic axis: powers of ten, with 2 and 5 times the powers if
// there is room for them, or every second or fifth power and so on if there are too many. On an
// axis that is shorter than a decade they can be multiples of a round step. Otherwise step is 0.
func logTicks(low, high float64, n int) (ticks []float64, step float64) {
	first, last := math.Floor(math.Log10(low)), math.Ceil(math.Log10(high))
	factors := []float64{1}
	if 3*(last-first) <= 2*float64(n) {
		factors = []float64{1, 2, 5}
	}
	powers, _ := linearTicks(first, last, n, true)
	for _, power := range powers {
		for _, factor := range factors {
			tick := factor * math.Pow10(int(power))
			if power < 0 {
				tick = factor / math.Pow10(-int(power))
			}
			if tick >= low*(1-1e-9) && tick <= high*(1+1e-9) {
				ticks = append(ticks, tick)
			}
		}
	}
	if len(ticks) < 3 && high/low < 10 {
		return linearTicks(low, high, n, false)
	}
	return ticks, 0
}

// labels returns the texts of the ticks, all in the same form.
func (s *scale) labels() []string {
	largest, least := 0., math.Inf(1)
	for _, tick := range s.ticks {
		largest = max(largest, math.Abs(tick))
		if tick != 0 {
			least = min(least, math.Abs(tick))
		}
	}
	exponents := largest >= 1e7 || largest > 0 && largest < 1e-2 || s.log && least < 1e-3
	texts := make([]string, len(s.ticks))
	for i, tick := range s.ticks {
		switch {
		case s.percent && s.step == 0:
			texts[i] = value(tick, true)
		case s.percent && largest >= 1e5:
			texts[i] = scientific(100*tick, 12) + "%"
		case s.percent:
			texts[i] = grouped(100*tick, decimals(100*s.step)) + "%"
		case exponents:
			texts[i] = scientific(tick, 12)
		case s.step == 0:
			texts[i] = value(tick, false)
		default:
			texts[i] = grouped(tick, decimals(s.step))
		}
	}
	return texts
}

// decimals returns the number of decimals that tell multiples of a round step apart.
func decimals(step float64) int {
	return max(0, int(-math.Floor(math.Log10(step)+1e-9)))
}

// value returns a number as text for readers: 1,234,567, 0.1235, 1.23e-5 or, as a percentage,
// 12.35%.
func value(v float64, percent bool) string {
	size := math.Abs(v)
	switch {
	case math.IsNaN(v) || math.IsInf(v, 0):
		return "not a number"
	case percent && size < 1e5 && (size >= 1e-4 || v == 0):
		return trimmed(grouped(100*v, 2)) + "%"
	case percent:
		return scientific(100*v, 2) + "%"
	case v == 0 || v == math.Trunc(v) && size < 1e7:
		return grouped(v, 0)
	case size >= 1e7 && v == math.Trunc(v) && size < 1e12:
		return grouped(v, 0)
	case size < 1e-3 || size >= 1e7:
		return scientific(v, 2)
	default:
		return trimmed(grouped(v, max(0, 3-int(math.Floor(math.Log10(size))))))
	}
}

// short returns a number as a text of at most six characters for a cell: 9999, 12.3k, 1.23M, 0.123,
// 1.2e-5.
func short(v float64, percent bool) string {
	size := math.Abs(v)
	if percent && size < 1e3 && (size >= 1e-3 || v == 0) {
		return fixed(100*v, 1) + "%"
	}
	for _, unit := range []struct {
		size float64
		name string
	}{{1e9, "G"}, {1e6, "M"}, {1e3, "k"}} {
		if size >= unit.size && size < 1e12 && (size >= 1e4 || v != math.Trunc(v)) {
			return fixed(v/unit.size, max(0, 2-int(math.Log10(size/unit.size)))) + unit.name
		}
	}
	switch {
	case v == math.Trunc(v) && size < 1e4:
		return fixed(v, 0)
	case size >= 1e-2 && size < 1e4:
		return fixed(v, 2+max(0, -int(math.Floor(math.Log10(size)))-1))
	}
	return scientific(v, 1)
}

// fixed returns v with at most the given number of decimals.
func fixed(v float64, decimals int) string {
	return strings.ReplaceAll(trimmed(grouped(v, decimals)), ",", "")
}

// grouped returns v with a fixed number of decimals and a comma between groups of three digits.
func grouped(v float64, decimals int) string {
	text := strconv.FormatFloat(v, 'f', decimals, 64)
	whole, fraction, _ := strings.Cut(text, ".")
	sign := ""
	if whole[0] == '-' {
		sign, whole = "−", whole[1:]
		if strings.Trim(text, "-0.") == "" {
			sign = ""
		}
	}
	for i := len(whole) - 3; i > 0; i -= 3 {
		whole = whole[:i] + "," + whole[i:]
	}
	if fraction != "" {
		fraction = "." + fraction
	}
	return sign + whole + fraction
}

// trimmed returns the text of a number without zeros at the end of its decimals.
func trimmed(text string) string {
	if strings.Contains(text, ".") {
		text = strings.TrimRight(strings.TrimRight(text, "0"), ".")
	}
	return text
}

// scientific returns v as text such as 1e-4 or 2.5e6, with at most the given number of decimals.
func scientific(v float64, decimals int) string {
	if v == 0 {
		return "0"
	}
	mantissa, exponent, _ := strings.Cut(strconv.FormatFloat(v, 'e', decimals, 64), "e")
	n, _ := strconv.Atoi(exponent) // written by FormatFloat
	mantissa = strings.Replace(trimmed(mantissa), "-", "−", 1)
	if n == 0 {
		return mantissa
	}
	return mantissa + "e" + strconv.Itoa(n)
}
