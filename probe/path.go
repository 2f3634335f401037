package probe

import (
	"context"
	"fmt"
	"math"
	"slices"

	"github.com/sptune/spt/internal/kernel/vector"
	"github.com/sptune/spt/internal/workers"
)

// path fits one strength of L2 after the other. Each fit starts at the result of the one before.
type path struct {
	objective       *objective
	solver          lbfgs
	mean, deviation []float64 // of each feature
	present         []int     // the class ids with training images
	classes         int       // with and without training images
}

// newPath scales the training features and starts at W = 0. It keeps a scaled copy of the features.
func newPath(train Features, o Options) (*path, error) {
	share := make([]float64, o.Classes)
	for _, label := range train.Labels {
		share[label]++
	}
	p := &path{classes: o.Classes}
	id := make([]int32, o.Classes)
	total := 0.0
	for class, n := range share {
		if n == 0 {
			continue
		}
		id[class] = int32(len(p.present))
		p.present = append(p.present, class)
		if o.ClassWeights != nil {
			share[class] *= o.ClassWeights[class]
		}
		total += share[class]
	}
	if len(p.present) < 2 {
		return nil, fmt.Errorf("all %d training images have class %d; give images of at least two classes", train.Len(), p.present[0])
	}
	labels, weights := make([]int32, train.Len()), make([]float32, train.Len())
	for i, label := range train.Labels {
		labels[i], weights[i] = id[label], 1
		if o.ClassWeights != nil {
			weights[i] = float32(o.ClassWeights[label] * float64(train.Len()) / total)
		}
	}
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
	p.objective = newObjective(x, labels, weights, train.Width, len(p.present))
	p.solver = lbfgs{at: p.objective.at, tolerance: o.Tolerance, iterations: o.Iterations}
	// With W = 0, the best biases are the logarithms of the shares of the classes.
	p.solver.point = make([]float64, len(p.present)*(train.Width+1))
	for j, class := range p.present {
		p.solver.point[len(p.present)*train.Width+j] = math.Log(share[class] / total)
	}
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

// loss returns the mean loss of the training images after a step.
func (p *path) loss() float64 {
	w := p.solver.point[:len(p.present)*len(p.mean)]
	return p.solver.value - p.objective.l2/2*dot(w, w)
}

// head returns the head for raw features and all classes.
func (p *path) head(ctx context.Context) (weight, bias []float32, err error) {
	d := len(p.mean)
	weight, bias = make([]float32, p.classes*d), make([]float32, p.classes)
	if len(p.present) < p.classes {
		rare, err := p.rareBias(ctx)
		if err != nil {
			return nil, nil, err
		}
		for class := range bias {
			bias[class] = float32(rare)
		}
	}
	for j, class := range p.present {
		b := p.solver.point[len(p.present)*d+j]
		for k, v := range p.solver.point[j*d : (j+1)*d] {
			raw := v / p.deviation[k]
			weight[class*d+k] = float32(raw)
			b -= raw * p.mean[k]
		}
		bias[class] = float32(b)
	}
	return weight, bias, nil
}

// rareBias returns the bias of a class without training images, whose weight is 0. The mean of
// exp(bias − lse) over the n training images is 1/(2n), half an image. lse is the logarithm of the
// sum of the exponentials of the logits.
func (p *path) rareBias(ctx context.Context) (float64, error) {
	o := p.objective
	for i, v := range p.solver.point {
		o.point[i] = float32(v)
	}
	cut := len(p.present) * o.width
	lse := make([]float64, len(o.labels))
	err := forLogits(ctx, Features{Width: o.width, Values: o.x}, o.point[:cut], o.point[cut:], func(from int, logits []float32) {
		for i := range len(logits) / o.classes {
			row := logits[i*o.classes : (i+1)*o.classes]
			lse[from+i] = float64(vector.SoftmaxRow(row, row, 1))
		}
	})
	least, sum := slices.Min(lse), 0.0
	for _, v := range lse {
		sum += math.Exp(least - v)
	}
	// log(1/(2n)) − log(Σ exp(−lse)/n), where Σ exp(−lse) = sum·exp(−least)
	return least - math.Log(2*sum), err
}
