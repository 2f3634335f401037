package vector

import (
	"flag"
	"math"
	"testing"
)

var exhaustive = flag.Bool("exhaustive", false, "measure the error of the elementary functions on all float32 numbers")

// ulp is the distance between the float32 numbers around want.
func ulp(want float64) float64 {
	_, e := math.Frexp(want) // |want| < 2^e
	return math.Ldexp(1, max(e, -125)-24)
}

// ulps is the error of got in ulp; infinite where one is NaN or infinite and
// the other is not.
func ulps(got float32, want float64) float64 {
	switch {
	case math.IsNaN(want) && got != got:
		return 0
	case math.IsInf(float64(got), 0) && !math.IsInf(want, 0) && math.Abs(want) > math.MaxFloat32:
		return 0
	case float64(got) == want:
		return 0
	}
	e := math.Abs(float64(got)-want) / ulp(want)
	if math.IsNaN(e) {
		return math.Inf(1)
	}
	return e
}

func phi(x float64) float64 { return math.Exp(-x*x/2) / math.Sqrt(2*math.Pi) }

// cdf is Φ(x), the tail included.
func cdf(x float64) float64 { return 0.5 * math.Erfc(-x/math.Sqrt2) }

// tanhGate is the factor (1+tanh(u))/2 of GELU's tanh form, without the
// cancellation, and the derivative of 2u.
func tanhGate(x float64) (gate, slope float64) {
	c := 2 * math.Sqrt(2/math.Pi)
	return 1 / (1 + math.Exp(-c*(x+0.044715*x*x*x))), c * (1 + 3*0.044715*x*x)
}

func dyOne(f func(dst, x, dy []float32)) func(dst, x []float32) {
	return func(dst, x []float32) {
		dy := make([]float32, len(x))
		Fill(dy, 1)
		f(dst, x, dy)
	}
}

// TestAccuracy measures the largest error over numbers of all exponents: every
// 4099th float32, or all of them with -exhaustive.
func TestAccuracy(t *testing.T) {
	// tail and negligible make a bound that is relative, but absolute for
	// results below it
	tests := []struct {
		name  string
		f     func(dst, x []float32)
		exact func(x float64) float64
		err   func(x float32, got float32, want float64) float64 // nil: ulp
		bound float64
	}{
		{name: "Sqrt", f: Sqrt, exact: math.Sqrt, bound: 0.5},
		{name: "Reciprocal", f: Reciprocal, exact: func(x float64) float64 { return 1 / x }, bound: 0.5},
		{name: "Rsqrt", f: Rsqrt, exact: func(x float64) float64 { return 1 / math.Sqrt(x) }, bound: 1.5},
		{name: "Exp", f: Exp, exact: math.Exp, bound: 1},
		{name: "Log", f: Log, exact: math.Log, bound: 1},
		{name: "Tanh", f: Tanh, exact: math.Tanh, bound: 3},
		{name: "Erf", f: Erf, exact: math.Erf, bound: 3},
		{name: "Logistic", f: Logistic, exact: func(x float64) float64 { return 1 / (1 + math.Exp(-x)) }, bound: 3},
		{name: "GELU", f: GELU, exact: func(x float64) float64 { return x * cdf(x) }, err: normal, bound: 3},
		{name: "GELUTanh", f: GELUTanh, exact: func(x float64) float64 {
			gate, _ := tanhGate(x)
			return x * gate
		}, bound: 3},
		{name: "GELUGrad", f: dyOne(GELUGrad), exact: func(x float64) float64 { return cdf(x) + x*phi(x) }, err: absolute, bound: 1e-6},
		{name: "GELUTanhGrad", f: dyOne(GELUTanhGrad), exact: func(x float64) float64 {
			s, slope := tanhGate(x)
			return s + x*s*(1-s)*slope
		}, err: absolute, bound: 1e-6},
	}
	stride := uint64(4099)
	if *exhaustive {
		stride = 1
	}
	const chunk = 1 << 16
	x, got, want := make([]float32, 0, chunk), make([]float32, chunk), make([]float64, chunk)
	worst := make([]struct {
		err float64
		x   float32
	}, len(tests)*3)
	_ = worst
	for _, test := range tests {
		measure := test.err
		if measure == nil {
			measure = func(_, got float32, want float64) float64 { return ulps(got, want) }
		}
		var largest [3]float64
		var at [3]float32
		for bits := uint64(0); bits < 1<<32; {
			for x = x[:0]; len(x) < chunk && bits < 1<<32; bits += stride {
				x = append(x, math.Float32frombits(uint32(bits)))
			}
			for i, v := range x {
				want[i] = test.exact(float64(v))
			}
			eachLevelQuietly(func(l int) {
				test.f(got[:len(x)], x)
				for i, v := range x {
					if e := measure(v, got[i], want[i]); e > largest[l] {
						largest[l], at[l] = e, v
					}
				}
			})
		}
		t.Log(test.name, largest, at)
	}
}

// normal is the error in ulp, but of 2^-120 for smaller results.
func normal(_, got float32, want float64) float64 {
	if math.Abs(want) < 0x1p-120 {
		return math.Abs(float64(got)-want) / ulp(0x1p-120)
	}
	return ulps(got, want)
}

func absolute(_ float32, got float32, want float64) float64 {
	if got != got || want != want {
		return 0
	}
	return math.Abs(float64(got) - want)
}
func eachLevelQuietly(f func(l int)) {
	best := level
	defer func() { level = best }()
	for level = portable; level <= best; level++ {
		f(level)
	}
}
