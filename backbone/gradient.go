package backbone

import . "github.com/gomlx/gomlx/core/graph"

// withGradient returns forward() with the gradient of carrier, which has the same shape. It has the
// form of GoMLX's fused operations: the forward pass computes the first, the backward pass
// differentiates the second, and no backend computes what only the second needs. Where fusion is
// switched off, the second has the right value too.
func withGradient(forward func() *Node, carrier *Node) *Node {
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
	return withGradient(forward, IdentityWithCustomGradient(carrier, func(_, v *Node) *Node {
		dy = v
		return v
	}))
}
