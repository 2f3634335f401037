package vector

import (
	"math"
	"math/rand/v2"
	"testing"
)

// operation is an element-wise function of up to two inputs, a mask and two scalars. exact computes
// one element of the result.
type operation struct {
	name  string
	run   func(dst, x, y []float32, m []bool, s, u float32)
	exact func(x, y float32, m bool, s, u float32) float32 // nil: TestAccuracy tests the function
}

func withScalar(name string, f func(dst, x []float32, s float32), exact func(x, s float32) float32) operation {
	return operation{name, func(dst, x, _ []float32, _ []bool, s, _ float32) { f(dst, x, s) },
		func(x, _ float32, _ bool, s, _ float32) float32 { return exact(x, s) }}
}

func one(b bool) float32 {
	if b {
		return 1
	}
	return 0
}

func ones(dst []float32, mask []bool) {
	for i, b := range mask {
		dst[i] = one(b)
	}
}

// operations lists the rows of the tables in package scalar and the other element-wise kernels.
func operations() (ops []operation) {
	for op, u := range Unaries {
		o := operation{name: op.String(), run: func(dst, x, _ []float32, _ []bool, _, _ float32) { u.Slice(dst, x) }}
		if u.ULP == 0 {
			o.exact = func(x, _ float32, _ bool, _, _ float32) float32 { return u.Number(x) }
		}
		ops = append(ops, o)
	}
	for op, b := range Binaries {
		ops = append(ops,
			operation{op.String(), func(dst, x, y []float32, _ []bool, _, _ float32) { b.Slices(dst, x, y) },
				func(x, y float32, _ bool, _, _ float32) float32 { return b.Numbers(x, y) }},
			withScalar(op.String()+" scalar", b.Scalar, b.Numbers),
			withScalar(op.String()+" from", b.From, func(x, s float32) float32 { return b.Numbers(s, x) }))
	}
	for op, c := range Comparisons {
		numbers := func(f func(dst []bool, x []float32, s float32)) func(dst, x []float32, s float32) {
			return func(dst, x []float32, s float32) {
				b := make([]bool, len(dst))
				f(b, x, s)
				ones(dst, b)
			}
		}
		ops = append(ops,
			operation{op.String(), func(dst, x, y []float32, _ []bool, _, _ float32) {
				b := make([]bool, len(dst))
				c.Slices(b, x, y)
				ones(dst, b)
			}, func(x, y float32, _ bool, _, _ float32) float32 { return one(c.Numbers(x, y)) }},
			withScalar(op.String()+" scalar", numbers(c.Scalar), func(x, s float32) float32 { return one(c.Numbers(x, s)) }),
			withScalar(op.String()+" from", numbers(c.From), func(x, s float32) float32 { return one(c.Numbers(s, x)) }))
	}
	return append(ops,
		withScalar("Fill", func(dst, _ []float32, s float32) { Fill(dst, s) }, func(_, s float32) float32 { return s }),
		operation{name: "Axpy", run: func(dst, x, y []float32, _ []bool, s, _ float32) {
			copy(dst, x)
			Axpy(dst, y, s)
		}},
		operation{name: "GELU", run: func(dst, x, _ []float32, _ []bool, _, _ float32) { GELU(dst, x) }},
		operation{name: "GELUTanh", run: func(dst, x, _ []float32, _ []bool, _, _ float32) { GELUTanh(dst, x) }},
		operation{name: "GELUGrad", run: func(dst, x, y []float32, _ []bool, _, _ float32) { GELUGrad(dst, x, y) }},
		operation{name: "ExpSubScalar", run: func(dst, x, _ []float32, _ []bool, s, u float32) { expSubScalar(dst, x, s, u) }},
		operation{"Where", func(dst, x, y []float32, m []bool, _, _ float32) { Where(dst, m, x, y) },
			func(x, y float32, m bool, _, _ float32) float32 { return choose(m, x, y) }},
		operation{"WhereElseScalar", func(dst, x, _ []float32, m []bool, s, _ float32) { WhereElseScalar(dst, m, x, s) },
			func(x, _ float32, m bool, s, _ float32) float32 { return choose(m, x, s) }},
		operation{"WhereThenScalar", func(dst, x, _ []float32, m []bool, s, _ float32) { WhereThenScalar(dst, m, x, s) },
			func(x, _ float32, m bool, s, _ float32) float32 { return choose(m, s, x) }},
		operation{"WhereScalars", func(dst, _, _ []float32, m []bool, s, u float32) { WhereScalars(dst, m, s, u) },
			func(_, _ float32, m bool, s, u float32) float32 { return choose(m, s, u) }})
}

func choose(m bool, x, y float32) float32 {
	if m {
		return x
	}
	return y
}

// same reports whether two numbers have the same bits. Any two NaN are the same.
func same(a, b float32) bool {
	return math.Float32bits(a) == math.Float32bits(b) || a != a && b != b
}

var inf = float32(math.Inf(1))
var nan = float32(math.NaN())

// special lists special numbers. Tests combine each with each.
var special = []float32{0, float32(math.Copysign(0, -1)), 1, -1, 0.5, -3, 7, inf, -inf, nan, -nan,
	math.SmallestNonzeroFloat32, -math.SmallestNonzeroFloat32, 0x1p-126, -0x1p-126, 0x1.fffffcp-127,
	math.MaxFloat32, -math.MaxFloat32, 88.72283, 88.7229, -87.34, -103.97, -104.1, 1e-10, 1e10, 16777217}

// mixed returns n numbers: special numbers and random numbers of moderate size.
func mixed(t testing.TB, n int, r *rand.Rand) []float32 {
	x := guarded(t, n)
	for i := range x {
		if r.IntN(4) == 0 {
			x[i] = special[r.IntN(len(special))]
		} else {
			x[i] = float32(r.NormFloat64()) * 3
		}
	}
	return x
}

func mixedMask(n int, r *rand.Rand) []bool {
	m := make([]bool, n)
	for i := range m {
		m[i] = r.IntN(2) == 0
	}
	return m
}

// TestElementwise compares each function that has an exact result with Go arithmetic, bit by bit.
// It covers lengths that end in every possible partial vector, and all pairs of special numbers.
func TestElementwise(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	pairs := len(special) * len(special)
	x, y := make([]float32, pairs), make([]float32, pairs)
	for i := range pairs {
		x[i], y[i] = special[i/len(special)], special[i%len(special)]
	}
	for _, op := range operations() {
		if op.exact == nil {
			continue
		}
		check := func(x, y []float32, m []bool, s, u float32) {
			t.Helper()
			eachLevel(func() {
				dst := guarded(t, len(x))
				op.run(dst, x, y, m, s, u)
				for i, got := range dst {
					if want := op.exact(x[i], y[i], m[i], s, u); !same(got, want) {
						t.Fatalf("%s %s: element %d of %d (x %g, y %g, s %g): got %g, want %g", op.name, levelName(), i, len(x), x[i], y[i], s, got, want)
					}
				}
			})
		}
		for n := range 70 {
			check(mixed(t, n, r), mixed(t, n, r), mixedMask(n, r), special[n%len(special)], float32(r.NormFloat64()))
		}
		check(x, y, mixedMask(pairs, r), 1, 2)
	}
}

// TestAxpy checks the rounding of s·a + dst. The assembly rounds once, the portable version once or
// twice.
func TestAxpy(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	a, c := make([]float32, 1000), make([]float32, 1000)
	for i := range a {
		a[i], c[i] = r.Float32()-0.5, r.Float32()-0.5
	}
	eachLevel(func() {
		for _, s := range a[:10] {
			dst := append([]float32(nil), c...)
			Axpy(dst, a, s)
			for i, got := range dst {
				exact := float64(s)*float64(a[i]) + float64(c[i])
				bound := 0.50001 * ulp(exact)
				if level == portable {
					bound += 0.5 * ulp(float64(s)*float64(a[i]))
				}
				if e := math.Abs(float64(got) - exact); e > bound {
					t.Fatalf("%s: %g·%g+%g: got %g, want %g", levelName(), s, a[i], c[i], got, exact)
				}
			}
		}
	})
}

// TestCut checks that an element gets the same bits in one call, in parts of odd lengths, and in
// place. It also checks that both assembly versions give the same bits.
func TestCut(t *testing.T) {
	r := rand.New(rand.NewPCG(5, 6))
	const n = 1237
	x, y, m := mixed(t, n, r), mixed(t, n, r), mixedMask(n, r)
	for _, op := range operations() {
		const s, u = 1.25, 2.5
		var first []float32 // result of the AVX2 version
		eachLevel(func() {
			whole := make([]float32, n)
			op.run(whole, x, y, m, s, u)
			if level != portable && first == nil {
				first = whole
			}
			cut := make([]float32, n)
			for from := 0; from < n; {
				to := min(n, from+r.IntN(40))
				op.run(cut[from:to], x[from:to], y[from:to], m[from:to], s, u)
				from = to
			}
			inPlace := append([]float32(nil), x...)
			op.run(inPlace, inPlace, y, m, s, u)
			for i, want := range whole {
				if !same(cut[i], want) {
					t.Fatalf("%s %s: element %d (x %g, y %g): %g in parts, %g in one call", op.name, levelName(), i, x[i], y[i], cut[i], want)
				}
				if !same(inPlace[i], want) {
					t.Fatalf("%s %s: element %d (x %g, y %g): %g in place, %g in another slice", op.name, levelName(), i, x[i], y[i], inPlace[i], want)
				}
				if first != nil && !same(first[i], want) {
					t.Fatalf("%s: element %d (x %g, y %g): %g by AVX2, %g by AVX-512", op.name, i, x[i], y[i], first[i], want)
				}
			}
		})
	}
}

// TestNoWriteBeyond checks that elements after the end of dst do not change. The inputs are longer
// than dst.
func TestNoWriteBeyond(t *testing.T) {
	r := rand.New(rand.NewPCG(7, 8))
	for _, op := range operations() {
		eachLevel(func() {
			for n := range 40 {
				x, y, m := mixed(t, 48, r), mixed(t, 48, r), mixedMask(48, r)
				dst := make([]float32, 48)
				for i := range dst {
					dst[i] = 42
				}
				op.run(dst[:n], x, y, m, 1, 2)
				for i, v := range dst[n:] {
					if v != 42 {
						t.Fatalf("%s %s: length %d wrote element %d", op.name, levelName(), n, n+i)
					}
				}
			}
		})
	}
}

// TestAllocations checks that no function allocates memory, also for slices of arrays on the stack.
func TestAllocations(t *testing.T) {
	eachLevel(func() {
		allocations := testing.AllocsPerRun(10, func() {
			var a, b [64]float32
			var m [64]bool
			var bits [64]uint32
			GELU(a[:], b[:])
			Less(m[:], a[:], b[:])
			Where(a[:], m[:], a[:], b[:])
			LayerNormRow(a[:], a[:], b[:], b[:], 1e-6)
			SoftmaxRow(a[:], a[:], 1)
			Philox(bits[:], [2]uint32{}, [4]uint32{})
			Dropout(a[:], a[:], 2, 1<<31, [2]uint32{}, [4]uint32{})
			Transpose(a[:], 8, b[:], 8, 8, 8)
		})
		if allocations != 0 {
			t.Errorf("%s: %v allocations", levelName(), allocations)
		}
	})
}
