package cpu

import (
	"fmt"
	"maps"
	"strings"
	"testing"

	. "github.com/gomlx/gomlx/core/graph"

	"github.com/gomlx/compute"
)

// roll rotates x by n along an axis, like torch.roll. The gradient that GoMLX derives would be the
// sum of two padded tensors. The gradient of this function is a rotation in the other direction.
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

// windows divides x [images, height, width, channels] into windows of size × size pixels. The
// result is [images·windows, size², channels]. The function merged is the inverse.
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

// patches concatenates the channels of neighbouring 2×2 pixels, column by column, like the patch
// merging of Swin. The result is [images, height/2, width/2, 4·channels].
func patches(x *Node) *Node {
	d := x.Shape().Dimensions
	x = Reshape(x, d[0], d[1]/2, 2, d[2]/2, 2, d[3])
	return Reshape(TransposeAllAxes(x, 0, 1, 3, 4, 2, 5), d[0], d[1]/2, d[2]/2, 4*d[3])
}

// responseNorm is the global response normalisation of ConvNeXt V2. It divides the norm of each
// channel over the positions by the mean norm of all channels, and scales the channel by 1 + gamma
// times this ratio. As many operations as possible have the shape [images, 1, 1, channels].
func responseNorm(x, gamma, beta *Node) *Node {
	norm := Sqrt(ReduceAndKeep(Square(x), ReduceSum, 1, 2))
	by := Div(norm, AddScalar(ReduceAndKeep(norm, ReduceMean, 3), 1e-6))
	return Add(Mul(x, OnePlus(Mul(by, ExpandLeftToRank(gamma, 4)))), ExpandLeftToRank(beta, 4))
}

// TestMoves checks the operations of Swin and ConvNeXt between the matrix products, with their
// gradients. They must compile to the expected number of steps, and no operation may be delegated.
func TestMoves(t *testing.T) {
	const b, h, c = 3, 14, 80
	x := []int{b, h, h, c}
	for name, test := range map[string]struct {
		graph graphFunc // its inputs are x, gamma and beta
		plain graphFunc // the reference; nil: graph
		of    int       // number of inputs
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
				t.Errorf("steps that are not element-wise: %v, expected %v\n%s", calls, test.steps, names.String())
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
