package cpu

import (
	"fmt"
	"maps"
	"strings"
	"testing"

	. "github.com/gomlx/gomlx/core/graph"

	"github.com/gomlx/compute"
)

// roll moves x by n along an axis, around its end, as torch.roll. GoMLX's gradient of the slices
// would be two padded tensors and their sum; this one is a roll back.
func roll(x *Node, axis, n int) *Node {
	size := x.Shape().Dim(axis)
	rolled := func(x *Node, n int) *Node {
		n = (n%size + size) % size
		if n == 0 {
			return x
		}
		return Concatenate([]*Node{SliceAxis(x, axis, AxisRange(size-n, size)), SliceAxis(x, axis, AxisRange(0, size-n))}, axis)
	}
	return withGradient(func() *Node { return rolled(x, n) },
		IdentityWithCustomGradient(x, func(_, v *Node) *Node { return rolled(v, -n) }))
}

// windows cuts x, [images, height, width, channels], into windows of size × size:
// [images·windows, size², channels]; merged puts them together again.
func windows(x *Node, size int) *Node {
	d := x.Shape().Dimensions
	x = Reshape(x, d[0], d[1]/size, size, d[2]/size, size, d[3])
	return Reshape(TransposeAllAxes(x, 0, 1, 3, 2, 4, 5), d[0]*d[1]*d[2]/(size*size), size*size, d[3])
}

func merged(x *Node, height, width, size int) *Node {
	c := x.Shape().Dim(2)
	images := x.Shape().Size() / (height * width * c)
	x = Reshape(x, images, height/size, width/size, size, size, c)
	return Reshape(TransposeAllAxes(x, 0, 1, 3, 2, 4, 5), images, height, width, c)
}

// patches sets neighbouring 2×2 pixels side by side, those of a column first, as Swin's patch
// merging does: [images, height/2, width/2, 4·channels].
func patches(x *Node) *Node {
	d := x.Shape().Dimensions
	x = Reshape(x, d[0], d[1]/2, 2, d[2]/2, 2, d[3])
	return Reshape(TransposeAllAxes(x, 0, 1, 3, 4, 2, 5), d[0], d[1]/2, d[2]/2, 4*d[3])
}

// responseNorm is ConvNeXt V2's: each channel's norm over the positions, over the mean of all
// channels' norms, times gamma, scales it beside 1. All that can be is done on
// [images, 1, 1, channels].
func responseNorm(x, gamma, beta *Node) *Node {
	norm := Sqrt(ReduceAndKeep(Square(x), ReduceSum, 1, 2))
	by := Div(norm, AddScalar(ReduceAndKeep(norm, ReduceMean, 3), 1e-6))
	return Add(Mul(x, OnePlus(Mul(by, ExpandLeftToRank(gamma, 4)))), ExpandLeftToRank(beta, 4))
}

// TestMoves: what Swin and ConvNeXt do between products, with gradients, in as many steps as are
// needed and none delegated.
func TestMoves(t *testing.T) {
	const b, h, c = 3, 14, 80
	x := []int{b, h, h, c}
	for name, test := range map[string]struct {
		graph graphFunc // of x, gamma and beta
		plain graphFunc // nil: the same
		of    int       // how many inputs it has
		steps map[string]int
	}{
		"shifted windows": {func(in []*Node) []*Node {
			return []*Node{windows(roll(roll(in[0], 1, -3), 2, -3), 7)}
		}, func(in []*Node) []*Node {
			x := in[0]
			for _, axis := range []int{1, 2} {
				x = Concatenate([]*Node{SliceAxis(x, axis, AxisRange(3)), SliceAxis(x, axis, AxisRange(0, 3))}, axis)
			}
			return []*Node{windows(x, 7)}
		}, 1, map[string]int{"copies": 6}},
		"there and back": {func(in []*Node) []*Node { return []*Node{merged(windows(in[0], 7), h, h, 7)} }, nil, 1, map[string]int{"copies": 4}},
		"patches": {func(in []*Node) []*Node { return []*Node{patches(in[0])} }, func(in []*Node) []*Node {
			at := func(i, j int) *Node { return Slice(in[0], AxisRange(), AxisRange(i).Stride(2), AxisRange(j).Stride(2)) }
			return []*Node{Concatenate([]*Node{at(0, 0), at(1, 0), at(0, 1), at(1, 1)}, 3)}
		}, 1, map[string]int{"copies": 2}},
		"response norm": {func(in []*Node) []*Node { return []*Node{responseNorm(in[0], in[1], in[2])} }, func(in []*Node) []*Node {
			x := in[0]
			norm := Sqrt(ReduceAndKeep(Square(x), ReduceSum, 1, 2))
			by := Div(norm, AddScalar(ReduceAndKeep(norm, ReduceMean, 3), 1e-6))
			return []*Node{Add(Add(Mul(Mul(x, by), ExpandLeftToRank(in[1], 4)), ExpandLeftToRank(in[2], 4)), x)}
		}, 3, map[string]int{}},
		"layer scale": {func(in []*Node) []*Node { return []*Node{Add(in[0], Mul(Tanh(in[0]), ExpandLeftToRank(in[1], 4)))} }, nil, 2, map[string]int{}},
	} {
		t.Run(name, func(t *testing.T) {
			be := newBackend(t)
			run := func(b compute.Backend, graph graphFunc) [][]float32 {
				return execute(t, compiled(t, b, func(in []*Node) []*Node {
					y := graph(in)[0]
					return append([]*Node{y}, Gradient(ReduceAllSum(Mul(Tanh(y), y)), in[:test.of]...)...)
				}, x, []int{c}, []int{c}), []compute.Buffer{upload(t, b, normal(shapeOf(x).Size(), 1), x...), upload(t, b, normal(c, 2), c), upload(t, b, normal(c, 3), c)}, nil)
			}
			be.startTimings()
			got := run(be, test.graph)
			calls := map[string]int{}
			var names strings.Builder
			for _, s := range be.stopTimings() {
				calls[s.Kind] += s.Calls
				fmt.Fprintln(&names, s.Kind, s.Detail, s.Calls)
			}
			delete(calls, "element-wise")
			if !maps.Equal(calls, test.steps) {
				t.Errorf("steps beside element-wise ones: %v, expected %v\n%s", calls, test.steps, names.String())
			}
			if test.plain == nil {
				test.plain = test.graph
			}
			for i, want := range run(be.plain, test.plain) {
				near(t, fmt.Sprint("output ", i), got[i], want, 1e-5)
			}
		})
	}
}
