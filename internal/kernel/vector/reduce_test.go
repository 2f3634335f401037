package vector

import (
	"math"
	"math/rand/v2"
	"testing"
)

func random(t testing.TB, n int, r *rand.Rand) []float32 {
	x := guarded(t, n)
	for i := range x {
		x[i] = float32(r.NormFloat64())
	}
	return x
}

// TestReductions compares with float64 sums. The error bound follows from the longest chain of
// additions: the additions to one lane and then the tree of 64 lanes.
func TestReductions(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 1))
	for n := range 300 {
		n += n / 200 * 1000
		x, y := random(t, n, r), random(t, n, r)
		const mean = 0.75
		type sums struct{ sum, dot, centered, centeredDot float64 }
		var want, size sums
		add := func(want, size *float64, v float64) { *want += v; *size += math.Abs(v) }
		for i := range x {
			x, y := float64(x[i]), float64(y[i])
			add(&want.sum, &size.sum, x)
			add(&want.dot, &size.dot, x*y)
			add(&want.centered, &size.centered, (x-mean)*(x-mean))
			add(&want.centeredDot, &size.centeredDot, x*(y-mean))
		}
		var first []float32 // results of the AVX2 version
		var sum float32     // sum of the portable version
		eachLevel(func() {
			all := []float32{Sum(x), Dot(x, y), sumCentered2(x, mean), centeredDot(x, y, mean)}
			check := func(name string, got float32, want, size float64) {
				if e := math.Abs(float64(got) - want); e > 0x1p-24*float64(n/lanes+9)*size {
					t.Errorf("%s %s of %d: got %g, want %g", levelName(), name, n, got, want)
				}
			}
			check("Sum", all[0], want.sum, size.sum)
			check("Dot", all[1], want.dot, size.dot)
			check("sumCentered2", all[2], want.centered, size.centered)
			check("centeredDot", all[3], want.centeredDot, size.centeredDot)
			switch {
			case level == portable:
				sum = all[0]
			case first == nil:
				first = all
			}
			if all[0] != sum {
				t.Errorf("%s: sum of %d is %g, in Go %g", levelName(), n, all[0], sum)
			}
			for i := range first {
				if all[i] != first[i] {
					t.Errorf("%s: reduction %d of %d is %g, by AVX2 %g", levelName(), i, n, all[i], first[i])
				}
			}
		})
	}
}

// TestReductionsSpread checks that an infinity or a NaN at any position reaches the result. It also
// checks that the lanes after the end of a slice add nothing if the mean is infinite or very large.
func TestReductionsSpread(t *testing.T) {
	eachLevel(func() {
		for _, n := range []int{1, 7, 16, 63, 64, 65, 100, 130} {
			for i := range n {
				x := guarded(t, n)
				x[i] = inf
				if s, d := Sum(x), Dot(x, x); s != inf || d != inf {
					t.Errorf("%s: Inf at %d of %d: Sum %g, Dot %g", levelName(), i, n, s, d)
				}
				x[i] = nan
				if s, d := Sum(x), Dot(x, x); s == s || d == d {
					t.Errorf("%s: NaN at %d of %d: Sum %g, Dot %g", levelName(), i, n, s, d)
				}
			}
		}
		if got := sumCentered2([]float32{1, 2, 3}, inf); got != inf {
			t.Errorf("%s: sumCentered2 with mean Inf = %g", levelName(), got)
		}
		if got := sumCentered2([]float32{1, 2, 3}, 0x1p100); got != inf {
			t.Errorf("%s: sumCentered2 with mean 2^100 = %g", levelName(), got)
		}
	})
}

func TestMaxOf(t *testing.T) {
	r := rand.New(rand.NewPCG(2, 2))
	eachLevel(func() {
		if a, b := MaxOf(nil), MinOf(nil); a != -inf || b != inf {
			t.Errorf("%s: empty slice: MaxOf %g, MinOf %g", levelName(), a, b)
		}
		for n := 1; n < 200; n++ {
			x := random(t, n, r)
			if n%3 == 0 { // the zeros that fill the last vector must not affect the result
				for i := range x {
					x[i] = x[i] - 100
				}
			} else if n%3 == 1 {
				for i := range x {
					x[i] = x[i] + 100
				}
			}
			top, bottom := x[0], x[0]
			for _, v := range x {
				top, bottom = max(top, v), min(bottom, v)
			}
			if a, b := MaxOf(x), MinOf(x); a != top || b != bottom {
				t.Errorf("%s: of %d: MaxOf %g, want %g, MinOf %g, want %g", levelName(), n, a, top, b, bottom)
			}
			x[r.IntN(n)] = nan
			if a, b := MaxOf(x), MinOf(x); a == a || b == b {
				t.Errorf("%s: of %d with NaN: MaxOf %g, MinOf %g", levelName(), n, a, b)
			}
		}
	})
}

// TestAddRows checks that rows are added one after the other, so the result has the same bits as a
// loop over the rows.
func TestAddRows(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 3))
	eachLevel(func() {
		for range 200 {
			rows, cols := r.IntN(12), r.IntN(80)
			stride := cols + r.IntN(3)
			x, dst := random(t, max(0, (rows-1)*stride+cols), r), random(t, cols, r)
			want := append([]float32(nil), dst...)
			for i := range rows {
				for j := range want {
					want[j] += x[i*stride+j]
				}
			}
			AddRows(dst, x, rows, cols, stride)
			for j := range want {
				if dst[j] != want[j] {
					t.Fatalf("%s: %d rows of %d: column %d is %g, want %g", levelName(), rows, cols, j, dst[j], want[j])
				}
			}
		}
	})
}
