package backbone

import (
	"math"

	. "github.com/gomlx/gomlx/core/graph"

	"github.com/gomlx/compute"
	"github.com/gomlx/compute/dtypes"

	"github.com/sptune/spt/backend"
	"github.com/sptune/spt/internal/graph"
)

// windows cuts x [B, height, width, C], which consists of whole windows, into windows of size ×
// size: [B·windows, size², C]. Images come first.
func windows(x *Node, size int) *Node {
	d := x.Shape().Dimensions
	x = Reshape(x, d[0], d[1]/size, size, d[2]/size, size, d[3])
	return Reshape(TransposeAllAxes(x, 0, 1, 3, 2, 4, 5), d[0]*d[1]*d[2]/(size*size), size*size, d[3])
}

// merged joins windows to maps again: [B, side, side, C].
func merged(x *Node, side, size int) *Node {
	c := x.Shape().Dim(2)
	images := x.Shape().Size() / (side * side * c)
	x = Reshape(x, images, side/size, side/size, size, size, c)
	return Reshape(TransposeAllAxes(x, 0, 1, 3, 2, 4, 5), images, side, side, c)
}

// neighbours joins 2×2 tokens of x [B, height, width, C] to one, those of a column first:
// [B, height/2, width/2, 4·C].
func neighbours(x *Node) *Node {
	d := x.Shape().Dimensions
	x = Reshape(x, d[0], d[1]/2, 2, d[2]/2, 2, d[3])
	return Reshape(TransposeAllAxes(x, 0, 1, 3, 4, 2, 5), d[0], d[1]/2, d[2]/2, 4*d[3])
}

// padded appends rows and columns of zeros to x [B, height, width, C] up to the next multiples of
// size. (Pad has no gradient.)
func padded(x *Node, size int) *Node {
	for axis := 1; axis <= 2; axis++ {
		if rest := x.Shape().Dim(axis) % size; rest > 0 {
			zeros := x.Shape().Clone()
			zeros.Dimensions[axis] = size - rest
			x = Concatenate([]*Node{x, Zeros(x.Graph(), zeros)}, axis)
		}
	}
	return x
}

// cropped returns the first side rows and columns of x [B, height, width, C].
func cropped(x *Node, side int) *Node {
	if x.Shape().Dim(1) == side {
		return x
	}
	return Slice(x, AxisRange(), AxisRange(0, side), AxisRange(0, side))
}

// rolled moves the map x [B, height, width, C] by n rows and n columns, around its ends, as
// torch.roll does. GoMLX's gradient of the slices would be two padded tensors and their sum; this
// one is a roll back.
func rolled(x *Node, n int) *Node {
	if n == 0 {
		return x
	}
	roll := func(x *Node, n int) *Node {
		for axis := 1; axis <= 2; axis++ {
			size := x.Shape().Dim(axis)
			cut := ((-n)%size + size) % size
			x = Concatenate([]*Node{SliceAxis(x, axis, AxisRange(cut, size)), SliceAxis(x, axis, AxisRange(0, cut))}, axis)
		}
		return x
	}
	return graph.WithGradientOf(func() *Node { return roll(x, n) },
		IdentityWithCustomGradient(x, func(_, v *Node) *Node { return roll(v, -n) }))
}

// windowAttention computes softmax(q·kᵀ/√width + bias + mask)·v for q, k and v
// [B·windows, tokens, heads, width], bias [1, heads, tokens, tokens] and mask
// [windows, 1, tokens, tokens], which has no gradient and may be nil. A backend with an attention
// gradient of its own holds the scores of all windows at once only where the gradient of the bias
// is needed.
func windowAttention(q, k, v, bias, mask *Node) *Node {
	if backend.OnDevice(q.Graph().Backend()) { // cuDNN's takes no mask, and windows are small
		return plainWindowAttention(q, k, v, bias, mask)
	}
	config := &compute.ScaledDotProductAttentionConfig{Bias: InternalBackendOutputs(bias)[0]}
	if mask != nil {
		count, tokens := mask.Shape().Dim(0), mask.Shape().Dim(2)
		images := q.Shape().Dim(0) / count
		all := BroadcastToDims(Reshape(mask, 1, count, 1, tokens, tokens), images, count, 1, tokens, tokens)
		config.Mask = InternalBackendOutputs(Reshape(all, images*count, 1, tokens, tokens))[0]
	}
	y := fusedAttention(q, k, v, config)
	if y == nil {
		return plainWindowAttention(q, k, v, bias, mask)
	}
	// The fused operation gives none to the bias.
	forBias := plainWindowAttention(StopGradient(q), StopGradient(k), StopGradient(v), bias, mask)
	return graph.WithGradientOf(func() *Node { return Identity(y) }, Add(y, forBias))
}

// plainWindowAttention computes windowAttention by its formula.
func plainWindowAttention(q, k, v, bias, mask *Node) *Node {
	q = MulScalar(q, 1/math.Sqrt(float64(q.Shape().Dim(3))))
	scores := ConvertDType(graph.Product(q, []int{3}, []int{0, 2}, k, []int{3}, []int{0, 2}), dtypes.Float32)
	scores = Add(scores, ConvertDType(bias, dtypes.Float32))
	if mask != nil {
		d, count := scores.Shape().Dimensions, mask.Shape().Dim(0)
		scores = Reshape(scores, d[0]/count, count, d[1], d[2], d[3])
		scores = Reshape(Add(scores, ExpandDims(mask, 0)), d...)
	}
	return TransposeAllAxes(graph.Product(ConvertDType(Softmax(scores), v.DType()), []int{3}, []int{0, 1}, v, []int{1}, []int{0, 2}), 0, 2, 1, 3)
}

// shiftMask returns what is added to the scores of shifted windows, [windows, 1, size², size²]:
// −100 between tokens that are neighbours only because the map of side × side was rolled by shift.
func shiftMask(side, size, shift int) [][][][]float32 {
	region := func(i int) int {
		switch {
		case i < side-size:
			return 0
		case i < side-shift:
			return 1
		}
		return 2
	}
	row := side / size // windows
	mask := make([][][][]float32, row*row)
	for w := range mask {
		of := func(token int) int {
			return 3*region(w/row*size+token/size) + region(w%row*size+token%size)
		}
		window := make([][]float32, size*size)
		for i := range window {
			window[i] = make([]float32, size*size)
			for j := range window[i] {
				if of(i) != of(j) {
					window[i][j] = -100
				}
			}
		}
		mask[w] = [][][]float32{window}
	}
	return mask
}
