package probe

import (
	"context"
	"math"
)

const (
	// history is the number of pairs of steps and changes of the gradient that L-BFGS keeps.
	history = 10
	// evaluations bounds the evaluations of one line search.
	evaluations = 20
	// noise is the relative error of an objective that is computed in float32.
	noise = 1e-6
)

// lbfgs minimises a convex function by L-BFGS (Nocedal, Mathematics of Computation 35, 1980;
// Nocedal and Wright, Numerical Optimization, 2nd ed., algorithm 7.4). It keeps the point and the
// gradient, so it can go on after a change of the function.
type lbfgs struct {
	// at returns the value and sets the gradient.
	at func(ctx context.Context, point, gradient []float64) (float64, error)
	// tolerance stops the iterations: gᵀHg/2, the estimate of the distance to the minimum, is at
	// most tolerance times the value. H is the approximation of the inverse Hessian.
	tolerance float64
	// iterations is the greatest number of iterations.
	iterations int

	point    []float64
	gradient []float64 // nil before the first evaluation
	value    float64
	pairs    []pair // from old to new
}

// pair is a step s and the change y of the gradient.
type pair struct{ s, y []float64 }

// outcome describes how a minimisation ended.
type outcome struct {
	iterations  int
	evaluations int
	converged   bool
}

// addSquare adds l2/2·Σ point_i² over the first n elements to the function, without an evaluation.
// l2 may be negative. The pairs are dropped: those of another strength slow the next fit down.
func (l *lbfgs) addSquare(l2 float64, n int) {
	if l.gradient == nil {
		return
	}
	l.value += l2 / 2 * dot(l.point[:n], l.point[:n])
	axpy(l.gradient[:n], l2, l.point[:n])
	l.pairs = nil
}

// minimise moves l.point to the minimum.
func (l *lbfgs) minimise(ctx context.Context) (outcome, error) {
	n := len(l.point)
	next, nextG, d := make([]float64, n), make([]float64, n), make([]float64, n)
	var out outcome
	var err error
	if l.gradient == nil {
		l.gradient = make([]float64, n)
		if l.value, err = l.at(ctx, l.point, l.gradient); err != nil {
			return out, err
		}
		out.evaluations++
	}
	var alphas, rhos [history]float64
	small := 0 // iterations in a row with a small estimate
	for {
		// d = -H·g by the two loops over the pairs.
		copy(d, l.gradient)
		for i := len(l.pairs) - 1; i >= 0; i-- {
			p := l.pairs[i]
			rhos[i] = 1 / dot(p.s, p.y)
			alphas[i] = rhos[i] * dot(p.s, d)
			axpy(d, -alphas[i], p.y)
		}
		scale := min(1, 1/math.Sqrt(dot(d, d)))
		if len(l.pairs) > 0 {
			last := l.pairs[len(l.pairs)-1]
			scale = 1 / (rhos[len(l.pairs)-1] * dot(last.y, last.y))
		}
		for i := range d {
			d[i] *= scale
		}
		for i, p := range l.pairs {
			axpy(d, alphas[i]-rhos[i]*dot(p.y, d), p.s)
		}
		for i := range d {
			d[i] = -d[i]
		}
		slope := dot(l.gradient, d)
		// One small estimate may come from a poor H.
		if -slope/2 <= l.tolerance*l.value {
			small++
		} else {
			small = 0
		}
		if small == 2 || slope == 0 {
			out.converged = true
			return out, nil
		}
		if out.iterations == l.iterations {
			return out, nil
		}
		// The derivative along d grows with the step t, because the function is convex. The search
		// keeps a bracket of its zero, and takes the first step that meets the strong Wolfe
		// conditions. A step with a derivative of at most 0 reduces the function for certain, so
		// only a step beyond the zero compares values.
		low, high, lowSlope, highSlope := 0.0, math.Inf(1), slope, 0.0
		t, found := 1.0, false
		for range evaluations {
			for i, v := range d {
				next[i] = l.point[i] + t*v
			}
			var value float64
			if value, err = l.at(ctx, next, nextG); err != nil {
				return out, err
			}
			out.evaluations++
			at := dot(nextG, d)
			if math.Abs(at) <= 0.9*-slope && (at <= 0 || value <= l.value+noise*(1+l.value)) {
				found, l.value = true, value
				break
			}
			if at < 0 {
				low, lowSlope = t, at
			} else {
				high, highSlope = t, at // also if it is not a number
			}
			if math.IsInf(high, 1) {
				t *= 4
				continue
			}
			t = low + (high-low)*lowSlope/(lowSlope-highSlope)
			if margin := (high - low) / 10; !(t > low+margin && t < high-margin) {
				t = (low + high) / 2
			}
		}
		if !found { // float32 cannot resolve a better point
			out.converged = -slope <= noise*(1+l.value)
			return out, nil
		}
		var p pair
		if len(l.pairs) == history {
			p = l.pairs[0]
			copy(l.pairs, l.pairs[1:])
			l.pairs = l.pairs[:history-1]
		} else {
			p = pair{s: make([]float64, n), y: make([]float64, n)}
		}
		for i := range p.s {
			p.s[i], p.y[i] = next[i]-l.point[i], nextG[i]-l.gradient[i]
		}
		if dot(p.s, p.y) > 0 {
			l.pairs = append(l.pairs, p)
		}
		l.point, next = next, l.point
		l.gradient, nextG = nextG, l.gradient
		out.iterations++
	}
}

// dot returns Σ a_i·b_i.
func dot(a, b []float64) float64 {
	b = b[:len(a)]
	var s0, s1, s2, s3 float64
	i := 0
	for ; i+4 <= len(a); i += 4 {
		s0 += a[i] * b[i]
		s1 += a[i+1] * b[i+1]
		s2 += a[i+2] * b[i+2]
		s3 += a[i+3] * b[i+3]
	}
	for ; i < len(a); i++ {
		s0 += a[i] * b[i]
	}
	return (s0 + s1) + (s2 + s3)
}

// axpy adds s·x to dst.
func axpy(dst []float64, s float64, x []float64) {
	x = x[:len(dst)]
	for i := range dst {
		dst[i] += s * x[i]
	}
}
