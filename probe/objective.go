package probe

import (
	"context"
	"math"

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
//	f(W, b) = Σ loss_i(W·x_i + b) / n + l2/2·‖W‖².
//
// Its point is W, [classes, width], followed by b, [classes].
type objective struct {
	x                 []float32 // [n, width]
	loss              loss
	n, width, classes int
	l2                float64

	point, gradient []float32 // the point and the gradient in float32
	logits          []float32 // [blockRows, classes]
	losses          []float64 // of each chunk of a block
	columns         []float32 // [chunks of a block, classes]: sums of the gradient of the logits
}

// newObjective returns the objective for scaled features of n images.
func newObjective(x []float32, l loss, n, width, classes int) *objective {
	rows := min(n, blockRows(classes))
	chunks := (rows + chunkRows - 1) / chunkRows
	size := classes * (width + 1)
	return &objective{
		x: x, loss: l, n: n, width: width, classes: classes,
		point: workers.Aligned(size), gradient: workers.Aligned(size), logits: workers.Aligned(rows * classes),
		losses: make([]float64, chunks), columns: workers.Aligned(chunks * classes),
	}
}

// at returns the value of the objective at point and sets gradient.
func (o *objective) at(ctx context.Context, point, gradient []float64) (float64, error) {
	n, c, d := o.n, o.classes, o.width
	w, b := o.set(point)
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
		workers.Run(chunks, func(chunk int, s *workers.Scratch) { o.chunk(chunk, from, rows, s) })
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
func (o *objective) chunk(chunk, from, rows int, s *workers.Scratch) {
	c, first := o.classes, chunk*chunkRows
	logits := o.logits[first*c : min(rows, first+chunkRows)*c]
	o.losses[chunk] = o.loss.gradient(from+first, logits, s)
	sums := o.columns[chunk*c:][:c]
	clear(sums)
	for i := 0; i < len(logits); i += c {
		vector.Add(sums, sums, logits[i:i+c])
	}
}

// set sets o.point to the point in float32 and returns W and b.
func (o *objective) set(point []float64) (weight, bias []float32) {
	for i, v := range point {
		o.point[i] = float32(v)
	}
	cut := o.classes * o.width
	return o.point[:cut], o.point[cut:]
}

// measure is a sum over images or, with several labels, over pairs of an image and a label.
type measure struct{ weight, correct, loss float64 }

// add adds the sums of m to those of t.
func (t *measure) add(m measure) {
	t.weight += m.weight
	t.correct += m.correct
	t.loss += m.loss
}

// accuracy returns the weighted share of correct predictions.
func (t measure) accuracy() float64 { return t.correct / t.weight }

// mean returns the weighted mean loss.
func (t measure) mean() float64 { return t.loss / t.weight }

// head is a linear head: weight [classes, width] and bias [classes].
type head struct{ weight, bias []float32 }

// measure adds up the correct predictions and the losses of f under a head. Nil weights are ones.
func (h head) measure(ctx context.Context, p Problem, f Features, classWeights []float64) (measure, error) {
	var total measure
	c := len(h.bias)
	targets := p.targets(c)
	chunks := make([]measure, (blockRows(c)+chunkRows-1)/chunkRows)
	err := h.forLogits(ctx, f, func(from int, logits []float32) {
		rows := len(logits) / c
		used := chunks[:(rows+chunkRows-1)/chunkRows]
		workers.Run(len(used), func(chunk int, s *workers.Scratch) {
			first, to := chunk*chunkRows, min(rows, (chunk+1)*chunkRows)
			used[chunk] = p.measure(f.Labels[(from+first)*targets:(from+to)*targets], logits[first*c:to*c], c, classWeights, s)
		})
		for _, m := range used {
			total.add(m)
		}
	})
	return total, err
}

// logits returns the logits of f, [images, classes].
func (h head) logits(ctx context.Context, f Features) ([]float32, error) {
	out := make([]float32, 0, f.Len()*len(h.bias))
	err := h.forLogits(ctx, f, func(_ int, logits []float32) { out = append(out, logits...) })
	return out, err
}

// forLogits calls use for each block of images in order, with the first image and the logits.
func (h head) forLogits(ctx context.Context, f Features, use func(from int, logits []float32)) error {
	n, c, d := f.Len(), len(h.bias), f.Width
	step := blockRows(c)
	logits := workers.Aligned(min(n, step) * c)
	for from := 0; from < n; from += step {
		if err := ctx.Err(); err != nil {
			return err
		}
		rows := min(step, n-from)
		call := gemm.Call{M: rows, N: c, K: d, A: gemm.View{Data: f.Values[from*d:], Row: d, Col: 1},
			B: gemm.View{Data: h.weight, Row: d, Col: 1}.T(), C: logits, LDC: c, Alpha: 1, Bias: h.bias}
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
