package probe

import (
	"context"
	"math"
	"slices"

	"github.com/sptune/spt/internal/kernel/gemm"
	"github.com/sptune/spt/internal/kernel/vector"
	"github.com/sptune/spt/internal/workers"
)

const (
	// blockLogits is the number of logits that are computed at a time. It bounds the memory: 8 MiB
	// per set of features.
	blockLogits = 1 << 21
	// chunkRows is the number of images of a part of a block. The sums of a chunk are added in
	// order, so results do not depend on the number of workers.
	chunkRows = 64
)

// blockRows returns the number of images of a block, a multiple of chunkRows.
func blockRows(classes int) int {
	return max(1, min(8192, blockLogits/classes)/chunkRows) * chunkRows
}

// objective is the function that a fit minimises. With the scaled features x of n images,
//
//	f(W, b) = Σ weight_i·CE(W·x_i + b, label_i) / Σ weight_i + l2/2·‖W‖².
//
// Its point is W, [classes, width], followed by b, [classes].
type objective struct {
	x              []float32 // [n, width]
	labels         []int32
	weights        []float32 // of each image, with a sum of n
	width, classes int
	l2             float64

	point, gradient []float32 // the point and the gradient in float32
	logits          []float32 // [blockRows, classes]
	losses          []float64 // of each chunk of a block
	columns         []float32 // [chunks of a block, classes]: sums of the gradient of the logits
}

// newObjective returns the objective for scaled features.
func newObjective(x []float32, labels []int32, weights []float32, width, classes int) *objective {
	rows := min(len(labels), blockRows(classes))
	chunks := (rows + chunkRows - 1) / chunkRows
	size := classes * (width + 1)
	return &objective{
		x: x, labels: labels, weights: weights, width: width, classes: classes,
		point: workers.Aligned(size), gradient: workers.Aligned(size), logits: workers.Aligned(rows * classes),
		losses: make([]float64, chunks), columns: workers.Aligned(chunks * classes),
	}
}

// at returns the value of the objective at point and sets gradient.
func (o *objective) at(ctx context.Context, point, gradient []float64) (float64, error) {
	n, c, d := len(o.labels), o.classes, o.width
	for i, v := range point {
		o.point[i] = float32(v)
	}
	w, b := o.point[:c*d], o.point[c*d:]
	bias := gradient[c*d:]
	clear(bias)
	loss := 0.0
	step := blockRows(c)
	for from := 0; from < n; from += step {
		if err := ctx.Err(); err != nil {
			return 0, err
		}
		rows := min(step, n-from)
		x := gemm.View{Data: o.x[from*d:], Row: d, Col: 1}
		forward := gemm.Call{M: rows, N: c, K: d, A: x, B: gemm.View{Data: w, Row: d, Col: 1}.T(), C: o.logits, LDC: c, Alpha: 1, Bias: b}
		forward.Run()
		chunks := (rows + chunkRows - 1) / chunkRows
		workers.Run(chunks, func(chunk int, _ *workers.Scratch) { o.chunk(chunk, from, rows) })
		for chunk := range chunks {
			loss += o.losses[chunk]
			for j, v := range o.columns[chunk*c:][:c] {
				bias[j] += float64(v)
			}
		}
		backward := gemm.Call{M: c, N: d, K: rows, A: gemm.View{Data: o.logits, Row: c, Col: 1}.T(), B: x, C: o.gradient, LDC: d, Alpha: 1, Beta: 1}
		if from == 0 {
			backward.Beta = 0
		}
		backward.Run()
	}
	scale, square := 1/float64(n), 0.0
	for i := range c * d {
		square += point[i] * point[i]
		gradient[i] = float64(o.gradient[i])*scale + o.l2*point[i]
	}
	for j := range c {
		bias[j] *= scale
	}
	return loss*scale + o.l2/2*square, nil
}

// chunk replaces the logits of one chunk of a block by the gradient of the loss. The block has rows
// images, and image from is its first.
func (o *objective) chunk(chunk, from, rows int) {
	c := o.classes
	sums := o.columns[chunk*c:][:c]
	clear(sums)
	loss := 0.0
	for i := chunk * chunkRows; i < min(rows, (chunk+1)*chunkRows); i++ {
		z, label, weight := o.logits[i*c:(i+1)*c], o.labels[from+i], o.weights[from+i]
		target := z[label]
		loss += float64(weight) * float64(vector.SoftmaxRow(z, z, 1)-target)
		z[label]--
		if weight != 1 {
			vector.MulScalar(z, z, weight)
		}
		vector.Add(sums, sums, z)
	}
	o.losses[chunk] = loss
}

// measure is a sum over images.
type measure struct{ weight, correct, loss float64 }

// add adds the sums of m to those of t.
func (t *measure) add(m measure) {
	t.weight += m.weight
	t.correct += m.correct
	t.loss += m.loss
}

// accuracy returns the weighted share of correct images.
func (t measure) accuracy() float64 { return t.correct / t.weight }

// mean returns the weighted mean loss.
func (t measure) mean() float64 { return t.loss / t.weight }

// measureHead adds up the correct images and the losses of f under a head. Nil weights are ones.
func measureHead(ctx context.Context, f Features, weight, bias []float32, classWeights []float64) (measure, error) {
	var total measure
	c := len(bias)
	chunks := make([]measure, (blockRows(c)+chunkRows-1)/chunkRows)
	err := forLogits(ctx, f, weight, bias, func(from int, logits []float32) {
		rows := len(logits) / c
		used := chunks[:(rows+chunkRows-1)/chunkRows]
		workers.Run(len(used), func(chunk int, s *workers.Scratch) {
			p := s.Float32s(c)
			var m measure
			for i := chunk * chunkRows; i < min(rows, (chunk+1)*chunkRows); i++ {
				z, label := logits[i*c:(i+1)*c], f.Labels[from+i]
				v := 1.0
				if classWeights != nil {
					v = classWeights[label]
				}
				m.weight += v
				if z[label] == vector.MaxOf(z) && slices.Index(z, z[label]) == int(label) {
					m.correct += v
				}
				m.loss += v * max(0, float64(vector.SoftmaxRow(p, z, 1))-float64(z[label]))
			}
			used[chunk] = m
		})
		for _, m := range used {
			total.add(m)
		}
	})
	return total, err
}

// forLogits calls use for each block of images in order, with the first image and the logits.
func forLogits(ctx context.Context, f Features, weight, bias []float32, use func(from int, logits []float32)) error {
	n, c, d := len(f.Values)/f.Width, len(bias), f.Width
	step := blockRows(c)
	logits := workers.Aligned(min(n, step) * c)
	for from := 0; from < n; from += step {
		if err := ctx.Err(); err != nil {
			return err
		}
		rows := min(step, n-from)
		call := gemm.Call{M: rows, N: c, K: d, A: gemm.View{Data: f.Values[from*d:], Row: d, Col: 1},
			B: gemm.View{Data: weight, Row: d, Col: 1}.T(), C: logits, LDC: c, Alpha: 1, Bias: bias}
		call.Run()
		use(from, logits[:rows*c])
	}
	return nil
}

// finite reports whether all values are finite.
func finite(x []float32) bool {
	for _, v := range x {
		if math.IsNaN(float64(v)) || math.IsInf(float64(v), 0) {
			return false
		}
	}
	return true
}
