package vector

import (
	"math"
	"math/rand/v2"
	"testing"
)

// half is the number with the bits h by the definition of the format of the
// given exponent and mantissa bits.
func small(h uint16, exponentBits, mantissaBits int) float64 {
	sign := 1 - 2*float64(h>>15)
	e := int(h>>mantissaBits) & (1<<exponentBits - 1)
	m := float64(h & (1<<mantissaBits - 1))
	bias := 1<<(exponentBits-1) - 1
	switch e {
	case 0:
		return sign * math.Ldexp(m, 1-bias-mantissaBits)
	case 1<<exponentBits - 1:
		if m != 0 {
			return math.NaN()
		}
		return sign * math.Inf(1)
	}
	return sign * math.Ldexp(m+float64(int(1)<<mantissaBits), e-bias-mantissaBits)
}

// TestNarrowFloats goes through all numbers of the two 16-bit formats, and
// through the numbers around the middle between each and the next.
func TestNarrowFloats(t *testing.T) {
	for _, format := range []struct {
		name               string
		from               func(dst []float32, src []uint16)
		to                 func(dst []uint16, src []float32)
		exponent, mantissa int
	}{
		{"float16", FromFloat16, ToFloat16, 5, 10},
		{"bfloat16", FromBFloat16, ToBFloat16, 8, 7},
	} {
		all := make([]uint16, 1<<16)
		for i := range all {
			all[i] = uint16(i)
		}
		wide, back := make([]float32, len(all)), make([]uint16, len(all))
		infinite := uint16(1<<format.exponent-1) << format.mantissa
		eachLevel(func() {
			format.from(wide, all)
			format.to(back, wide)
			for i, h := range all {
				want := small(h, format.exponent, format.mantissa)
				if !same(wide[i], float32(want)) {
					t.Fatalf("%s from %s %#04x: got %g, want %g", Level(), format.name, h, wide[i], want)
				}
				if b := back[i]; b != h && !(want != want && b&0x7fff > infinite) {
					t.Fatalf("%s from %s %#04x and back: %#04x", Level(), format.name, h, b)
				}
			}
			var x []float32
			var want []uint16
			for h := range infinite {
				// above the greatest number, the next would be 2^(bias+1)
				low, high := small(h, format.exponent, format.mantissa), small(h+1, format.exponent, format.mantissa)
				if math.IsInf(high, 1) {
					high = 2*low - small(h-1, format.exponent, format.mantissa)
				}
				middle := float32((low + high) / 2)
				x = append(x, math.Nextafter32(middle, 0), middle, -middle, math.Nextafter32(middle, inf))
				want = append(want, h, h+h&1, h+h&1|0x8000, h+1)
			}
			got := make([]uint16, len(x))
			format.to(got, x)
			for i := range got {
				if got[i] != want[i] {
					t.Fatalf("%s to %s of %g: got %#04x, want %#04x", Level(), format.name, x[i], got[i], want[i])
				}
			}
		})
	}
}

// TestIntegers compares with Go's conversions on all lengths that end in a
// different partial vector.
func TestIntegers(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 1))
	eachLevel(func() {
		for n := range 70 {
			bytes, ints, words, bools := make([]uint8, n), make([]int32, n), make([]uint32, n), make([]bool, n)
			halves := make([]uint16, n)
			for i := range n {
				words[i] = r.Uint32() >> r.IntN(32)
				ints[i], bytes[i], bools[i] = int32(r.Uint32())>>r.IntN(32), uint8(r.Uint32()), r.IntN(2) == 0
				halves[i] = uint16(r.IntN(0x7c00))
			}
			if n > 2 {
				words[n-1], words[n-2] = math.MaxUint32, 1<<31
				ints[n-1], ints[n-2] = math.MinInt32, math.MaxInt32
			}
			dst := guarded(t, n)
			check := func(name string, want func(i int) float32) {
				t.Helper()
				for i, got := range dst {
					if !same(got, want(i)) {
						t.Fatalf("%s %s: element %d of %d is %g, want %g", Level(), name, i, n, got, want(i))
					}
				}
			}
			FromUint8(dst, bytes)
			check("FromUint8", func(i int) float32 { return float32(bytes[i]) })
			FromBool(dst, bools)
			check("FromBool", func(i int) float32 { return one(bools[i]) })
			FromInt32(dst, ints)
			check("FromInt32", func(i int) float32 { return float32(ints[i]) })
			FromUint32(dst, words)
			check("FromUint32", func(i int) float32 { return float32(words[i]) })
			UnitFromBits(dst, words)
			check("UnitFromBits", func(i int) float32 { return float32(float64(words[i]/256) / (1 << 24)) })
			FromFloat16(dst, halves)
			check("FromFloat16", func(i int) float32 { return float32(small(halves[i], 5, 10)) })
			back := make([]uint16, n+1)
			back[n] = 42
			ToFloat16(back[:n], dst)
			for i, h := range halves {
				if back[i] != h || back[n] != 42 {
					t.Fatalf("%s ToFloat16: element %d of %d is %#04x, want %#04x", Level(), i, n, back[i], h)
				}
			}
		}
	})
}
