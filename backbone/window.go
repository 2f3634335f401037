package backbone

import (
	"math"

	. "github.com/gomlx/gomlx/core/graph"

	"github.com/gomlx/compute"
	"github.com/gomlx/compute/dtypes"

	"github.com/sptune/spt/backend"
	"github.com/sptune/spt/internal/graph"
)

// splitWindows splits x [B, height, width, C] into windows of size × size: [B·windows, size², C].
// height and width must be multiples of size. The windows of one image are adjacent.
func splitWindows(x *Node, size int) *Node {
	d := x.Shape().Dimensions
	x = Reshape(x, d[0], d[1]/size, size, d[2]/size, size, d[3])
	return Reshape(TransposeAllAxes(x, 0, 1, 3, 2, 4, 5), d[0]*d[1]*d[2]/(size*size), size*size, d[3])
}

// mergeWindows reverses splitWindows for square maps: the result is [B, side, side, C].
func mergeWindows(x *Node, side, size int) *Node {
	c := x.Shape().Dim(2)
	images := x.Shape().Size() / (side * side * c)
	x = Reshape(x, images, side/size, side/size, size, size, c)
	return Reshape(TransposeAllAxes(x, 0, 1, 3, 2, 4, 5), images, side, side, c)
}

// mergePatches joins each 2×2 tokens of x [B, height, width, C] to one token:
// [B, height/2, width/2, 4·C]. The two tokens of a column are adjacent in the result.
func mergePatches(x *Node) *Node {
	d := x.Shape().Dimensions
	x = Reshape(x, d[0], d[1]/2, 2, d[2]/2, 2, d[3])
	return Reshape(TransposeAllAxes(x, 0, 1, 3, 4, 2, 5), d[0], d[1]/2, d[2]/2, 4*d[3])
}

// pad appends rows and columns of zeros to x [B, height, width, C], up to the next multiples of
// size. It does not use Pad, because Pad has no gradient.
func pad(x *Node, size int) *Node {
	for axis := 1; axis <= 2; axis++ {
		if rest := x.Shape().Dim(axis) % size; rest > 0 {
			zeros := x.Shape().Clone()
			zeros.Dimensions[axis] = size - rest
			x = Concatenate([]*Node{x, Zeros(x.Graph(), zeros)}, axis)
		}
	}
	return x
}

// crop returns the first side rows and columns of x [B, height, width, C].
func crop(x *Node, side int) *Node {
	if x.Shape().Dim(1) == side {
		return x
	}
	return Slice(x, AxisRange(), AxisRange(0, side), AxisRange(0, side))
}

// roll moves the map x [B, height, width, C] cyclically by n rows and n columns, like torch.roll.
// Its custom gradient is a roll by −n. GoMLX's gradient of the slices would be the sum of two
// padded tensors.
func roll(x *Node, n int) *Node {
	if n == 0 {
		return x
	}
	shift := func(x *Node, n int) *Node {
		for axis := 1; axis <= 2; axis++ {
			size := x.Shape().Dim(axis)
			cut := ((-n)%size + size) % size
			x = Concatenate([]*Node{SliceAxis(x, axis, AxisRange(cut, size)), SliceAxis(x, axis, AxisRange(0, cut))}, axis)
		}
		return x
	}
	return graph.WithGradientOf(func() *Node { return shift(x, n) },
		IdentityWithCustomGradient(x, func(_, v *Node) *Node { return shift(v, -n) }))
}

// windowAttention computes softmax(q·kᵀ/√width + bias + mask)·v within windows. q, k and v are
// [B·windows, tokens, heads, width] and bias is [1, heads, tokens, tokens]. mask is
// [windows, 1, tokens, tokens]. It has no gradient and may be nil. If the backend has a fused
// attention with a gradient, the scores of all windows exist at once only if the gradient of bias
// is needed.
func windowAttention(q, k, v, bias, mask *Node) *Node {
	// cuDNN's fused attention takes no mask, and windows are small
	if backend.OnDevice(q.Graph().Backend()) {
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
	// The fused operation has no gradient for the bias, so the gradient comes from the formula.
	forBias := plainWindowAttention(StopGradient(q), StopGradient(k), StopGradient(v), bias, mask)
	return graph.WithGradientOf(func() *Node { return Identity(y) }, Add(y, forBias))
}

// plainWindowAttention computes windowAttention by its formula, without a fused operation.
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

// shiftMask returns the mask for the scores of shifted windows, [windows, 1, size², size²]. It is
// −100 between tokens that are in one window only because a map of side × side was rolled by shift,
// and 0 elsewhere.
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
	row := side / size // number of windows in a row
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
