package backbone

import (
	. "github.com/gomlx/gomlx/core/graph"

	"github.com/gomlx/compute"

	"github.com/sptune/spt/internal/graph"
)

// depthwise computes the depth-wise convolution of x [B, H, W, C] with w [C, 1, h, w], padded so
// that the result has the shape of x.
//
// It has a custom gradient, because GoMLX's gradient would convolve each channel separately. The
// custom gradient consists of two convolutions: one for x and one for w. Each is computed only if
// it is needed.
func depthwise(x, w *Node) *Node {
	c, kh, kw := w.Shape().Dim(0), w.Shape().Dim(2), w.Shape().Dim(3)
	axes := compute.ConvolveAxesConfig{
		InputBatch: 0, InputSpatial: []int{1, 2}, InputChannels: 3,
		KernelOutputChannels: 0, KernelInputChannels: 1, KernelSpatial: []int{2, 3},
		OutputBatch: 0, OutputSpatial: []int{1, 2}, OutputChannels: 3,
	}
	pad, back := [][2]int{{(kh - 1) / 2, kh / 2}, {(kw - 1) / 2, kw / 2}}, [][2]int{{kh / 2, (kh - 1) / 2}, {kw / 2, (kw - 1) / 2}}
	return graph.WithGradients(func() *Node { return ConvGeneral(x, w, axes, nil, pad, nil, nil, c, 1) }, x, []*Node{x, w},
		func(dy *Node) *Node { return ConvGeneral(dy, Reverse(w, 2, 3), axes, nil, back, nil, nil, c, 1) },
		func(dy *Node) *Node {
			// This convolution uses the channels as batch, with one group for each channel, and
			// sums over the images. The batch axis of the result has size 1.
			dw := ConvGeneral(x, dy, compute.ConvolveAxesConfig{
				InputBatch: 3, InputSpatial: []int{1, 2}, InputChannels: 0,
				KernelSpatial: []int{1, 2}, KernelInputChannels: 0, KernelOutputChannels: 3,
				OutputBatch: 3, OutputSpatial: []int{0, 1}, OutputChannels: 2,
			}, nil, pad, nil, nil, 1, c)
			return TransposeAllAxes(dw, 2, 3, 0, 1)
		})
}
