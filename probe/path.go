package probe

import (
	"context"
	"math"

	"github.com/sptune/spt/internal/workers"
)

// path fits one strength of L2 after the other. Each fit starts at the result of the one before.
type path struct {
	objective       *objective
	solver          lbfgs
	mean, deviation []float64 // of each feature
	present         []int     // the ids of the classes that get weights
	classes         int       // number of all classes
}

// newPath scales the training features and starts at W = 0. It keeps a scaled copy of the features.
func newPath(train Features, o Options) (*path, error) {
	start, err := o.Problem.begin(train.Labels, o.Classes, o.ClassWeights)
	if err != nil {
		return nil, err
	}
	p := &path{present: start.present, classes: o.Classes}
	p.mean, p.deviation = moments(train)
	x := workers.Aligned(len(train.Values))
	parts := (train.Len() + chunkRows - 1) / chunkRows
	workers.Run(parts, func(part int, _ *workers.Scratch) {
		for i := part * chunkRows; i < min(train.Len(), (part+1)*chunkRows); i++ {
			row := train.Values[i*train.Width : (i+1)*train.Width]
			for j, v := range row {
				x[i*train.Width+j] = float32((float64(v) - p.mean[j]) / p.deviation[j])
			}
		}
	})
	p.objective = newObjective(x, start.loss, train.Len(), train.Width, len(p.present))
	p.solver = lbfgs{at: p.objective.at, tolerance: o.Tolerance, iterations: o.Iterations}
	p.solver.point = make([]float64, len(p.present)*(train.Width+1))
	copy(p.solver.point[len(p.present)*train.Width:], start.bias)
	return p, nil
}

// moments returns the mean and the standard deviation of each feature. A feature that is constant
// within the precision of float32 gets an infinite deviation, which makes the scaled feature and
// its weight 0.
func moments(f Features) (mean, deviation []float64) {
	mean, deviation = make([]float64, f.Width), make([]float64, f.Width)
	const columns = 16
	workers.Run((f.Width+columns-1)/columns, func(part int, _ *workers.Scratch) {
		from, to := part*columns, min(f.Width, (part+1)*columns)
		m, d := mean[from:to], deviation[from:to]
		for i := range f.Len() {
			for j, v := range f.Values[i*f.Width+from : i*f.Width+to] {
				m[j] += float64(v)
			}
		}
		for j := range m {
			m[j] /= float64(f.Len())
		}
		for i := range f.Len() {
			for j, v := range f.Values[i*f.Width+from : i*f.Width+to] {
				d[j] += (float64(v) - m[j]) * (float64(v) - m[j])
			}
		}
		for j := range d {
			d[j] = math.Sqrt(d[j] / float64(f.Len()))
			// 2⁻²² is four units in the last place of float32. The weights of features with a
			// deviation below 10⁻³⁰ could overflow.
			if d[j] <= math.Abs(m[j])/(1<<22) || d[j] < 1e-30 {
				d[j] = math.Inf(1)
			}
		}
	})
	return mean, deviation
}

// step fits the strength l2.
func (p *path) step(ctx context.Context, l2 float64) (outcome, error) {
	p.solver.addSquare(l2-p.objective.l2, len(p.present)*len(p.mean))
	p.objective.l2 = l2
	return p.solver.minimise(ctx)
}

// loss returns the loss of the training images after a step: the sum over images divided by their
// number. With several labels, it is the sum over labels.
func (p *path) loss() float64 {
	w := p.solver.point[:len(p.present)*len(p.mean)]
	return p.solver.value - p.objective.l2/2*dot(w, w)
}

// head returns the head for raw features and all classes. A class that gets no weights has only a
// bias.
func (p *path) head(ctx context.Context) (head, error) {
	d := len(p.mean)
	h := head{make([]float32, p.classes*d), make([]float32, p.classes)}
	if len(p.present) < p.classes {
		p.objective.set(p.solver.point)
		absent, err := p.objective.loss.absent(ctx, p.objective)
		if err != nil {
			return head{}, err
		}
		for class := range h.bias {
			h.bias[class] = float32(absent(class))
		}
	}
	for j, class := range p.present {
		b := p.solver.point[len(p.present)*d+j]
		for k, v := range p.solver.point[j*d : (j+1)*d] {
			raw := v / p.deviation[k]
			h.weight[class*d+k] = float32(raw)
			b -= raw * p.mean[k]
		}
		h.bias[class] = float32(b)
	}
	return h, nil
}
