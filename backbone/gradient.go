package backbone

import . "github.com/gomlx/gomlx/core/graph"

// withGradient is forward() with the gradient of carrier, of the same shape. It
// takes the form in which GoMLX has fused operations: the way forward computes
// the first, the way back differentiates the second, and no backend computes what
// only the second needs. Where fusion is switched off, the second has the right
// value too.
func withGradient(forward func() *Node, carrier *Node) *Node {
	y, _ := InternalFusedOpCaller(forward, func() *Node { return Add(StopGradient(forward()), Sub(carrier, StopGradient(carrier))) }, true)
	return y
}

// WithGradients is forward(), of like's shape and type, with gradients of its own: that
// of each input is what its function makes of the gradient dy of the result. Each is
// computed only where it is wanted.
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
