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

// lbfgs minimises a convex function by L-BFGS (Nocedal, Mathematics of Computation 35, 1980; Nocedal
// and Wright, Numerical Optimization, 2nd ed., algorithm 7.4).
type lbfgs struct {
	// at returns the value and sets the gradient.
	at func(ctx context.Context, point, gradient []float64) (float64, error)
	// tolerance stops the iterations: gᵀHg/2, the estimate of the distance to the minimum, is at
	// most tolerance times the value. H is the approximation of the inverse Hessian.
	tolerance float64
	// iterations is the greatest number of iterations.
	iterations int
}

// pair is a step s and the change y of the gradient.
type pair struct {
	s, y []float64
	rho  float64 // 1/sᵀy
}

// outcome describes how a minimisation ended.
type outcome struct {
	value       float64
	iterations  int
	evaluations int
	converged   bool
}

// minimise moves point to the minimum. It changes point in place.
func (l *lbfgs) minimise(ctx context.Context, point []float64) (outcome, error) {
	n := len(point)
	g, next, nextG, d := make([]float64, n), make([]float64, n), make([]float64, n), make([]float64, n)
	var pairs []pair
	var alphas [history]float64
	value, err := l.at(ctx, point, g)
	if err != nil {
		return outcome{}, err
	}
	out := outcome{value: value, evaluations: 1}
	scale := min(1, 1/math.Sqrt(dot(g, g))) // sᵀy/yᵀy of the last pair
	small := 0                              // iterations in a row with a small estimate
	for {
		// d = -H·g by the two loops over the pairs.
		copy(d, g)
		for i := len(pairs) - 1; i >= 0; i-- {
			alphas[i] = pairs[i].rho * dot(pairs[i].s, d)
			axpy(d, -alphas[i], pairs[i].y)
		}
		for i := range d {
			d[i] *= scale
		}
		for i, p := range pairs {
			axpy(d, alphas[i]-p.rho*dot(p.y, d), p.s)
		}
		for i := range d {
			d[i] = -d[i]
		}
		slope := dot(g, d)
		// One small estimate may come from a poor H.
		if -slope/2 <= l.tolerance*out.value {
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
				next[i] = point[i] + t*v
			}
			value, err = l.at(ctx, next, nextG)
			if err != nil {
				return out, err
			}
			out.evaluations++
			at := dot(nextG, d)
			if math.Abs(at) <= 0.9*-slope && (at <= 0 || value <= out.value+noise*(1+math.Abs(out.value))) {
				found = true
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
			out.converged = -slope <= noise*(1+out.value)
			return out, nil
		}
		var p pair
		if len(pairs) == history {
			p = pairs[0]
			copy(pairs, pairs[1:])
			pairs = pairs[:history-1]
		} else {
			p = pair{s: make([]float64, n), y: make([]float64, n)}
		}
		for i := range p.s {
			p.s[i], p.y[i] = next[i]-point[i], nextG[i]-g[i]
		}
		if sy := dot(p.s, p.y); sy > 0 {
			p.rho = 1 / sy
			scale = sy / dot(p.y, p.y)
			pairs = append(pairs, p)
		}
		copy(point, next)
		g, nextG = nextG, g
		out.value = value
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
