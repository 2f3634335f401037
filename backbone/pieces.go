package backbone

import (
	. "github.com/gomlx/gomlx/core/graph"

	"github.com/gomlx/compute/shapes"

	"github.com/sptune/spt/backend"
)

// Pieces returns the sizes of the pieces into which a batch of images [B, S, S, 3] is cut: equal
// numbers of images with at most tokens tokens in all, but at least one image, and if need be one
// smaller piece at the end. With tokens 0 the batch stays whole; so do features [B, D].
func (c Config) Pieces(images shapes.Shape, tokens int) (sizes []int) {
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

// NewCut prepares a program that cuts tensors, the first of which are images, along their first
// axis into [Config.Pieces]. It returns the pieces of the first tensor, then those of the second,
// and so on.
func (c Config) NewCut(be backend.Backend, tokens int) (*backend.Program, error) {
	return backend.NewProgram(be, "cutting a batch", func(_ *Graph, in []*Node) (out []*Node) {
		sizes := c.Pieces(in[0].Shape(), tokens)
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
