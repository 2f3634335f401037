package vector

import (
	"math"
	"math/rand/v2"
	"testing"
)

// small returns the number with the bits h in a 16-bit format with the given numbers of exponent
// and mantissa bits. It follows the definition of the format.
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

// TestNarrowFloats converts all numbers of the two 16-bit formats. The portable version and the
// assembly must give the same bits, also for NaN.
func TestNarrowFloats(t *testing.T) {
	for _, format := range []struct {
		name               string
		from               func(dst []float32, src []uint16)
		exponent, mantissa int
	}{
		{"float16", FromFloat16, 5, 10},
		{"bfloat16", FromBFloat16, 8, 7},
	} {
		all := make([]uint16, 1<<16)
		for i := range all {
			all[i] = uint16(i)
		}
		var first []float32 // results of the portable version
		eachLevel(func() {
			wide := make([]float32, len(all))
			format.from(wide, all)
			if first == nil {
				first = wide
			}
			for i, h := range all {
				want := small(h, format.exponent, format.mantissa)
				if !same(wide[i], float32(want)) {
					t.Fatalf("%s from %s %#04x: got %g, want %g", levelName(), format.name, h, wide[i], want)
				}
				if got, want := math.Float32bits(wide[i]), math.Float32bits(first[i]); got != want {
					t.Fatalf("%s from %s %#04x: bits %#08x, in Go %#08x", levelName(), format.name, h, got, want)
				}
			}
		})
	}
}

// TestIntegers compares with the conversions of Go, for lengths that end in every possible partial
// vector.
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
						t.Fatalf("%s %s: element %d of %d is %g, want %g", levelName(), name, i, n, got, want(i))
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
			FromFloat16(dst, halves)
			check("FromFloat16", func(i int) float32 { return float32(small(halves[i], 5, 10)) })
		}
	})
}
