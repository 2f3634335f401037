// Package graph adds graph operations that GoMLX does not have. The packages backbone and peft
// build their graphs with it.
//
// [Product] and [Everywhere] keep computations in the number type of their operands, so that a
// network with bfloat16 activations is fast on a GPU. [WithGradientOf] and [WithGradients] give an
// operation its own gradient instead of the one that automatic differentiation derives.
package graph

import (
	. "github.com/gomlx/gomlx/core/graph"

	"github.com/sptune/spt/backend"
)

// Product returns the matrix product (DotGeneral) of two operands of the same type. xAxes and yAxes
// are the contracted axes, xBatch and yBatch are the batch axes. On a device, the products of the
// gradient have the same operand type too. Without this setting, GoMLX would compute them in
// float32 for operands in half precision, which is about ten times slower on a GPU. The GPU adds up
// products in float32 with both settings.
func Product(x *Node, xAxes, xBatch []int, y *Node, yAxes, yBatch []int) *Node {
	dot := Dot(x, y)
	if backend.OnDevice(x.Graph().Backend()) {
		dot = dot.WithAccumulatorDType(x.DType())
	}
	return dot.General(xAxes, xBatch, yAxes, yBatch)
}

// Everywhere broadcasts v to the shape of y and converts it to the type of y. v has the last axes
// of y. If both have the same type already, Everywhere adds only axes of size 1. The gradient of v
// is summed over the broadcast axes in the type of v, which is float32.
func Everywhere(v, y *Node) *Node {
	if v.DType() == y.DType() {
		return ExpandLeftToRank(v, y.Rank())
	}
	return ConvertDType(BroadcastToDims(ExpandLeftToRank(v, y.Rank()), y.Shape().Dimensions...), y.DType())
}

// WithGradientOf returns a node with the value of forward() and the gradient of carrier. Both have
// the same shape. The node has the form of the fused operations of GoMLX: the forward pass computes
// forward(), and the backward pass differentiates carrier. A backend does not compute operations
// that only the value of carrier needs. If fusion is switched off, the node computes an expression
// with the same value and the same gradient.
func WithGradientOf(forward func() *Node, carrier *Node) *Node {
	y, _ := InternalFusedOpCaller(forward, func() *Node { return Add(StopGradient(forward()), Sub(carrier, StopGradient(carrier))) }, true)
	return y
}

// WithGradients returns a node with the value of forward() and with custom gradients. The node has
// the shape and type of like. gradients[i] returns the gradient of inputs[i] for the gradient dy of
// the output. A gradient is computed only if the program needs it.
func WithGradients(forward func() *Node, like *Node, inputs []*Node, gradients ...func(dy *Node) *Node) *Node {
	var dy *Node // the gradient of the output; set in the backward pass
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
