// Package microbatch cuts a batch of images into pieces, which a backend computes separately.
package microbatch

import (
	. "github.com/gomlx/gomlx/core/graph"

	"github.com/gomlx/compute/shapes"

	"github.com/sptune/spt/backbone"
	"github.com/sptune/spt/backend"
	"github.com/sptune/spt/internal/program"
)

// Sizes returns the numbers of images of the pieces into which a batch of images [B, S, S, 3] is
// cut. All pieces have the same number of images, at least one, with at most the given number of
// tokens of the backbone; if need be, one smaller piece follows. With tokens 0 the batch stays
// whole; so do features [B, D].
func Sizes(c backbone.Config, images shapes.Shape, tokens int) (sizes []int) {
	n := images.Dim(0)
	most := n
	if tokens > 0 && images.Rank() == 4 {
		most = max(1, tokens/c.Tokens())
	}
	if n <= most {
		return []int{n}
	}
	// A divisor spares the smaller piece, which is compiled apart.
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

// NewCut prepares a program that cuts tensors along their first axis into pieces of [Sizes]. The
// first tensor holds the images. The program returns the pieces of the first tensor, then those of
// the second, and so on.
func NewCut(be backend.Backend, c backbone.Config, tokens int) (*program.Program, error) {
	return program.New(be, "cutting a batch", func(_ *Graph, in []*Node) (out []*Node) {
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
