// Package microbatch cuts a mini-batch of images into micro-batches, which a backend computes
// separately. Smaller micro-batches need less memory for activations. [Sizes] chooses the numbers
// of images, and the program of [NewCut] cuts the tensors.
package microbatch

import (
	. "github.com/gomlx/gomlx/core/graph"

	"github.com/gomlx/compute/shapes"

	"github.com/sptune/spt/backbone"
	"github.com/sptune/spt/backend"
	"github.com/sptune/spt/internal/program"
)

// Sizes returns the number of images of each micro-batch for a mini-batch with the shape
// [B, S, S, 3], or with the shape [B, N, D] of the tokens that enter a block. tokens is the largest
// number of tokens of a micro-batch: the backbone c turns each image into c.Tokens() tokens. A
// micro-batch has at least one image. All micro-batches have the same number of images, except that
// the last one may be smaller. With tokens = 0, the result is one micro-batch of B images. The same
// holds for features with the shape [B, D].
func Sizes(c backbone.Config, images shapes.Shape, tokens int) (sizes []int) {
	n := images.Dim(0)
	most := n
	if tokens > 0 && images.Rank() > 2 {
		most = max(1, tokens/c.Tokens())
	}
	if n <= most {
		return []int{n}
	}
	// Prefer a divisor of n. A smaller last micro-batch would have to be compiled separately.
	size := most
	for d := most; d > most/2; d-- {
		if n%d == 0 {
			size = d
			break
		}
	}
	for ; n > 0; n -= size {
		sizes = append(sizes, min(size, n))
	}
	return sizes
}

// NewCut returns a program that cuts tensors along their first axis into micro-batches with the
// numbers of images that [Sizes] returns. The first input of the program holds the images. The
// outputs are the micro-batches of the first tensor, then the micro-batches of the second tensor,
// and so on.
func NewCut(be backend.Backend, c backbone.Config, tokens int) (*program.Program, error) {
	return program.New(be, "cutting a mini-batch into micro-batches", func(_ *Graph, in []*Node) (out []*Node) {
		sizes := Sizes(c, in[0].Shape(), tokens)
		for _, x := range in {
			at := 0
			for _, size := range sizes {
				out = append(out, SliceAxis(x, 0, AxisRange(at, at+size)))
				at += size
			}
		}
		return out
	})
}
