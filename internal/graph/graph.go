// Package graph holds operations for the graphs of backbones and modules that GoMLX's own graph
// functions lack.
package graph

import (
	. "github.com/gomlx/gomlx/core/graph"

	"github.com/sptune/spt/backend"
)

// Product computes DotGeneral for operands of one type. In half precision GoMLX would compute the
// products of the gradient in float32, about ten times slower on a GPU; on a device all products
// have operands of one type, and their sums are float32 in any case.
func Product(x *Node, xAxes, xBatch []int, y *Node, yAxes, yBatch []int) *Node {
	dot := Dot(x, y)
	if backend.OnDevice(x.Graph().Backend()) {
		dot = dot.WithAccumulatorDType(x.DType())
	}
	return dot.General(xAxes, xBatch, yAxes, yBatch)
}

// Everywhere returns v, which has the last axes of y, in the shape and type of y. Its gradient is
// summed over the other axes in v's own type, float32.
func Everywhere(v, y *Node) *Node {
	if v.DType() == y.DType() {
		return ExpandLeftToRank(v, y.Rank())
	}
	return ConvertDType(BroadcastToDims(ExpandLeftToRank(v, y.Rank()), y.Shape().Dimensions...), y.DType())
}

// WithGradientOf returns forward() with the gradient of carrier, which has the same shape. It has
// the form of GoMLX's fused operations: the forward pass computes the first, the backward pass
// differentiates the second, and no backend computes what only the second needs. Where fusion is
// switched off, the second has the right value too.
func WithGradientOf(forward func() *Node, carrier *Node) *Node {
	y, _ := InternalFusedOpCaller(forward, func() *Node { return Add(StopGradient(forward()), Sub(carrier, StopGradient(carrier))) }, true)
	return y
}

// WithGradients returns forward(), of like's shape and type, with gradients of its own: the
// gradient of each input is the result of its function for the gradient dy of the output. Each is
// computed only where it is needed.
func WithGradients(forward func() *Node, like *Node, inputs []*Node, gradients ...func(dy *Node) *Node) *Node {
	var dy *Node // once it is known
	var carrier *Node
	for i, x := range inputs {
		x = IdentityWithCustomGradient(x, func(_, _ *Node) *Node { return gradients[i](dy) })
		x = BroadcastToShape(ConvertDType(ReduceAllSum(x), like.DType()), like.Shape())
		if carrier == nil {
			carrier = x
		} else {
			carrier = Add(carrier, x)
		}
	}
	return WithGradientOf(forward, IdentityWithCustomGradient(carrier, func(_, v *Node) *Node {
		dy = v
		return v
	}))
}
