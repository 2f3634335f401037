package checkpoint

import (
	"math"
	"testing"

	"github.com/gomlx/compute/dtypes/bfloat16"
	"github.com/gomlx/compute/dtypes/float16"
)

// value returns the number with the given bits, by the definition of IEEE 754 for a format with the
// given widths. It ignores the sign of NaN.
func value(bits uint16, exponentBits, fractionBits int) float64 {
	sign := 1 - 2*float64(bits>>15)
	exponent := int(bits>>fractionBits) & (1<<exponentBits - 1)
	fraction := float64(int(bits)&(1<<fractionBits-1)) / float64(int(1)<<fractionBits)
	bias := 1<<(exponentBits-1) - 1
	switch {
	case exponent == 1<<exponentBits-1 && fraction == 0:
		return math.Inf(int(sign))
	case exponent == 1<<exponentBits-1:
		return math.NaN()
	case exponent == 0:
		return math.Copysign(math.Ldexp(fraction, 1-bias), sign)
	}
	return sign * math.Ldexp(1+fraction, exponent-bias)
}

// TestHalfPrecisionExhaustive checks all 65536 values of both formats: that they widen to the right
// number, that this number narrows back to them, and that numbers between two neighbours round to
// the nearest.
func TestHalfPrecisionExhaustive(t *testing.T) {
	for _, format := range []struct {
		name               string
		exponent, fraction int
		widen              func(uint16) float32
		narrow             func(float32) uint16
	}{
		{"F16", 5, 10, func(h uint16) float32 { return float16.FromBits(h).Float32() }, ToFloat16},
		{"BF16", 8, 7, func(h uint16) float32 { return bfloat16.FromBits(h).Float32() }, toBFloat16},
	} {
		infinity := uint16(1<<format.exponent-1) << format.fraction
		for i := range 1 << 16 {
			h := uint16(i)
			got, want := format.widen(h), value(h, format.exponent, format.fraction)
			if math.IsNaN(want) {
				if !math.IsNaN(float64(got)) || !math.IsNaN(float64(format.widen(format.narrow(got)))) {
					t.Fatalf("%s %#04x: got %v, want NaN there and back", format.name, h, got)
				}
				continue
			}
			if float64(got) != want || math.Signbit(float64(got)) != math.Signbit(want) {
				t.Fatalf("%s %#04x: got %v, want %v", format.name, h, got, want)
			}
			if back := format.narrow(got); back != h {
				t.Fatalf("%s %#04x: %v narrows to %#04x", format.name, h, got, back)
			}
			if h&0x7fff >= infinity {
				continue
			}
			// next is the next value away from zero. After the largest finite value it is the power
			// of two that would follow.
			next := value(h+1, format.exponent, format.fraction)
			if h&0x7fff == infinity-1 {
				next = math.Copysign(math.Ldexp(1, 1<<(format.exponent-1)), want)
			}
			middle := float32((want + next) / 2)
			if float64(middle) != (want+next)/2 {
				t.Fatalf("%s %#04x: the middle to the next value is not a float32", format.name, h)
			}
			even := h + h&1
			below, above := math.Nextafter32(middle, 0), math.Nextafter32(middle, float32(math.Inf(sign(want))))
			for _, c := range []struct {
				f    float32
				want uint16
			}{{below, h}, {middle, even}, {above, h + 1}} {
				if got := format.narrow(c.f); got != c.want {
					t.Fatalf("%s: %v narrows to %#04x, want %#04x", format.name, c.f, got, c.want)
				}
			}
		}
		if got := format.narrow(math.Float32frombits(0x7f800001)); !math.IsNaN(float64(format.widen(got))) {
			t.Errorf("%s: a NaN with a payload in its lowest bit narrows to %#04x", format.name, got)
		}
	}
}

func sign(f float64) int {
	if math.Signbit(f) {
		return -1
	}
	return 1
}
