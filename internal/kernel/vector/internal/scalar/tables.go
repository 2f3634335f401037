package scalar

import (
	"math"
	"sync"
)

// A function of a float32 number costs least in Go if a table divides the numbers into short cells,
// and a short polynomial approximates the function in each cell. The division and the exponential
// of a formula for all numbers would cost more than the loads. The loop over the elements has no
// branches that depend on the numbers.

const (
	// cells is the number of cells of a table. A cell is 1/32 wide. Cell i is centred at i/32, or
	// at (i-cells)/32 for i >= cells/2.
	cells = 1024
	// tableEnd is the largest number that a table covers. The functions are constant in float32
	// after it and before -tableEnd.
	tableEnd = 15
	// shift is a number whose last bit is 1/32. A sum with shift is rounded to a multiple of 1/32.
	// The low bits of the sum are the number of the cell.
	shift = 0x1.8p18
)

// Quartic holds the coefficients of a polynomial of degree 4 for each cell, in ascending order. The
// variable is the distance from the centre of the cell.
type Quartic [cells][5]float32

// Cubic is as [Quartic], with polynomials of degree 3.
type Cubic [cells][4]float32

// At returns the function of x. The method is short enough to be inlined.
func (q *Quartic) At(x float32) float32 {
	if x > tableEnd {
		x = tableEnd
	}
	if x < -tableEnd {
		x = -tableEnd
	}
	t := x + shift
	c := &q[math.Float32bits(t)%cells]
	d := x - (t - shift)
	return c[0] + d*(c[1]+d*(c[2]+d*(c[3]+d*c[4])))
}

// At returns the function of x. The method is short enough to be inlined.
func (q *Cubic) At(x float32) float32 {
	if x > tableEnd {
		x = tableEnd
	}
	if x < -tableEnd {
		x = -tableEnd
	}
	t := x + shift
	c := &q[math.Float32bits(t)%cells]
	d := x - (t - shift)
	return c[0] + d*(c[1]+d*(c[2]+d*c[3]))
}

// The tables are made when they are used for the first time, which takes less than a millisecond.
// Programs on processors with assembly do not need them.
var (
	// NormalCDF returns the table of Φ(x). The polynomials have degree 4, because the tail falls by
	// a factor of up to e^(1/2) in one cell.
	NormalCDF = sync.OnceValue(func() *Quartic {
		q := new(Quartic)
		for i := range q {
			fit(q[i][:], i, cdf)
		}
		return q
	})
	// GELUSlope returns the table of Φ(x) + x·φ(x), the derivative of [GELU].
	GELUSlope = cubic(func(x float64) float64 { return cdf(x) + x*math.Exp(-x*x/2)/math.Sqrt(2*math.Pi) })

	tanhTable = cubic(math.Tanh)
	erfTable  = cubic(math.Erf)
)

// cdf returns Φ(x). It is exact in the tail too.
func cdf(x float64) float64 { return 0.5 * math.Erfc(-x/math.Sqrt2) }

// cubic returns a function that returns the table of f.
func cubic(f func(x float64) float64) func() *Cubic {
	return sync.OnceValue(func() *Cubic {
		q := new(Cubic)
		for i := range q {
			fit(q[i][:], i, f)
		}
		return q
	})
}

// fit sets c to the coefficients of the polynomial that interpolates f in a cell at the nodes of
// Chebyshev. c[0] is the value at the centre, so that an odd function stays 0 at 0.
func fit(c []float32, cell int, f func(x float64) float64) {
	if cell >= cells/2 {
		cell -= cells
	}
	centre, n := float64(cell)/32, len(c)
	// The divided differences of Newton's form, then its expansion by powers.
	var x, d, p [5]float64
	for i := range n {
		x[i] = math.Cos((float64(i)+0.5)*math.Pi/float64(n)) / 64
		d[i] = f(centre + x[i])
	}
	for k := 1; k < n; k++ {
		for i := n - 1; i >= k; i-- {
			d[i] = (d[i] - d[i-1]) / (x[i] - x[i-k])
		}
	}
	for i := n - 1; i >= 0; i-- {
		for k := n - 1; k > 0; k-- {
			p[k] = p[k-1] - x[i]*p[k]
		}
		p[0] = d[i] - x[i]*p[0]
	}
	for k := range c {
		c[k] = float32(p[k])
	}
	c[0] = float32(f(centre))
}
