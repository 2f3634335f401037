package vector

import (
	"flag"
	"math"
	"testing"
)

var stride = flag.Uint64("stride", 4099, "TestAccuracy tests every stride-th float32; 1 tests all float32 numbers")

// ulp returns the distance between the two float32 numbers next to want.
func ulp(want float64) float64 {
	_, e := math.Frexp(want) // |want| < 2^e
	return math.Ldexp(1, max(e, -125)-24)
}

// ulps returns the error of got in ulp. The error is infinite if only one of the numbers is NaN or
// infinite.
func ulps(_, got float32, want float64) float64 {
	switch {
	case got != got && want != want || float64(got) == want:
		return 0
	case math.IsInf(float64(got), 0) && math.Abs(want) > math.MaxFloat32:
		return 0
	}
	if e := math.Abs(float64(got)-want) / ulp(want); e == e {
		return e
	}
	return math.Inf(1)
}

// normal returns the error in ulp. For results below 2^-120 it uses the ulp of 2^-120.
func normal(x, got float32, want float64) float64 {
	if math.Abs(want) < 0x1p-120 {
		return math.Abs(float64(got)-want) / ulp(0x1p-120)
	}
	return ulps(x, got, want)
}

// absolute returns the absolute error, unless a result is NaN.
func absolute(x, got float32, want float64) float64 {
	if got == got && want == want {
		return math.Abs(float64(got) - want)
	}
	return ulps(x, got, want)
}

// from measures the error only for x >= limit and for NaN.
func from(limit float32, err func(x, got float32, want float64) float64) func(x, got float32, want float64) float64 {
	return func(x, got float32, want float64) float64 {
		if x < limit {
			return 0
		}
		return err(x, got, want)
	}
}

// below measures the error only for x < limit.
func below(limit float32, err func(x, got float32, want float64) float64) func(x, got float32, want float64) float64 {
	return func(x, got float32, want float64) float64 {
		if x < limit {
			return err(x, got, want)
		}
		return 0
	}
}

// cdf returns Φ(x). It is exact in the tail too.
func cdf(x float64) float64 { return 0.5 * math.Erfc(-x/math.Sqrt2) }

// derivative returns the gradient function f with an incoming gradient of 1.
func derivative(f func(dst, x, dy []float32)) func(dst, x []float32) {
	return func(dst, x []float32) {
		Fill(dst, 1)
		f(dst, x, dst)
	}
}

// TestAccuracy measures the largest errors against float64 arithmetic, over numbers of all
// exponents, infinities and NaN. The bounds are the errors that the comments of the functions
// state.
func TestAccuracy(t *testing.T) {
	geluExact := func(x float64) float64 { return x * cdf(x) }
	// This equals the formula x/2·(1+tanh(u)) but has no cancellation.
	geluTanhExact := func(x float64) float64 {
		return x / (1 + math.Exp(-2*math.Sqrt(2/math.Pi)*(x+0.044715*x*x*x)))
	}
	type accuracy struct {
		name     string
		f        func(dst, x []float32)
		exact    func(x float64) float64
		err      func(x, got float32, want float64) float64
		bound    float64 // largest error of the assembly
		portable float64 // largest error of the portable version
	}
	tests := []accuracy{
		{"GELU from 0", GELU, geluExact, from(0, ulps), 4, 3},
		{"GELU below 0", GELU, geluExact, below(0, normal), 7, 5},
		{"GELUGrad", derivative(GELUGrad), func(x float64) float64 { return cdf(x) + x*math.Exp(-x*x/2)/math.Sqrt(2*math.Pi) }, absolute, 2e-7, 2e-7},
		{"GELUTanh from -1", GELUTanh, geluTanhExact, from(-1, ulps), 4, 4},
		{"GELUTanh below -1", GELUTanh, geluTanhExact, below(-1, absolute), 1e-7, 1e-7},
	}
	for op, u := range Unaries {
		if u.ULP > 0 { // otherwise TestElementwise compares bits
			tests = append(tests, accuracy{op.String(), u.Slice, u.Exact, ulps, u.ULP, u.PortableULP})
		}
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			const chunk = 1 << 14
			x, got, want := make([]float32, 0, chunk), make([]float32, chunk), make([]float64, chunk)
			var largest [avx512 + 1]float64
			var at [avx512 + 1]float32
			for bits := uint64(0); bits < 1<<32; {
				for x = x[:0]; len(x) < chunk && bits < 1<<32; bits += *stride {
					x = append(x, math.Float32frombits(uint32(bits)))
				}
				for i, v := range x {
					want[i] = test.exact(float64(v))
				}
				eachLevel(func() {
					test.f(got[:len(x)], x)
					for i, v := range x {
						if e := test.err(v, got[i], want[i]); e > largest[level] {
							largest[level], at[level] = e, v
						}
					}
				})
			}
			t.Logf("portable, NEON, AVX2, AVX-512: %.3g at %v", largest, at)
			for l, e := range largest {
				bound := test.bound
				if l == portable {
					bound = test.portable
				}
				if e > bound {
					t.Errorf("level %d: error %g at %g, want at most %g", l, e, at[l], bound)
				}
			}
		})
	}
}

// TestSpecial checks the results for special numbers.
func TestSpecial(t *testing.T) {
	zero, minus := float32(0), float32(math.Copysign(0, -1))
	for _, test := range []struct {
		name string
		f    func(dst, x []float32)
		x, y []float32
	}{
		{"Exp", Exp, []float32{89, -104, inf, -inf, nan, zero, minus}, []float32{inf, 0, inf, 0, nan, 1, 1}},
		{"Log", Log, []float32{zero, minus, -1, inf, -inf, nan, 1}, []float32{-inf, -inf, nan, inf, nan, nan, 0}},
		{"Tanh", Tanh, []float32{zero, minus, inf, -inf, 20, nan}, []float32{0, minus, 1, -1, 1, nan}},
		{"Erf", Erf, []float32{zero, minus, inf, -inf, 5, nan}, []float32{0, minus, 1, -1, 1, nan}},
		{"Logistic", Logistic, []float32{zero, inf, -inf, nan}, []float32{0.5, 1, 0, nan}},
		{"GELU", GELU, []float32{zero, minus, inf, -inf, -20, nan, 20}, []float32{0, minus, inf, nan, minus, nan, 20}},
		{"GELUTanh", GELUTanh, []float32{zero, minus, inf, -inf, -20, nan, 20}, []float32{0, minus, inf, nan, minus, nan, 20}},
		{"Rsqrt", Rsqrt, []float32{zero, minus, inf, -1, nan}, []float32{inf, -inf, 0, nan, nan}},
	} {
		eachLevel(func() {
			dst := make([]float32, len(test.x))
			test.f(dst, test.x)
			for i, got := range dst {
				if !same(got, test.y[i]) {
					t.Errorf("%s %s(%g) = %g, want %g", levelName(), test.name, test.x[i], got, test.y[i])
				}
			}
		})
	}
}

// TestBounded checks that the results of tanh and erf are in [-1, 1], that both functions are odd,
// and that the results of the sigmoid are in [0, 1].
func TestBounded(t *testing.T) {
	var x []float32
	for bits := uint32(0); bits < 0x7f800000; bits += 997 {
		x = append(x, math.Float32frombits(bits))
	}
	minus, a, b := make([]float32, len(x)), make([]float32, len(x)), make([]float32, len(x))
	Neg(minus, x)
	eachLevel(func() {
		for i, f := range []func(dst, x []float32){Tanh, Erf, Logistic} {
			f(a, x)
			f(b, minus)
			if top, bottom := MaxOf(a), MinOf(b); top != 1 || i < 2 && bottom != -1 || i == 2 && bottom < 0 {
				t.Errorf("%s: function %d has values in [%v, %v]", levelName(), i, bottom, top)
			}
			for j := range a {
				if i < 2 && a[j] != -b[j] {
					t.Fatalf("%s: function %d is not odd at %g: %g and %g", levelName(), i, x[j], a[j], b[j])
				}
			}
		}
	})
}
