package peft

import (
	. "github.com/gomlx/gomlx/core/graph"

	"github.com/sptune/spt/backbone"
)

// adapter is the bottleneck of Houlsby et al. 2019 (arXiv 1902.00751) with the placement of SPT. It
// returns y + U·GELU(D·y + d) + u, where y is the output of the layer. On attn.proj it is parallel
// to the layer: D is applied to the input x of the layer, not to y. D starts Kaiming-uniform; d, U
// and u start at zero. Dropout is applied to the input of D, except on attn.proj. Drop-path is
// applied to the output U·GELU(D·y + d) + u. The module cannot be merged because of the GELU
// between D and U.
var adapter = Module{
	Name:  "adapter",
	Count: func(in, out, rank int) int { return 2*rank*out + rank + out },
	Graph: func(s *Site, x, y *Node) *Node {
		from := x
		if !s.is("attn.proj") {
			from = s.Dropout(y)
		}
		// attn.proj has as many inputs as outputs, so D has the same shape in both cases.
		down := s.Param("adapter_down.weight", KaimingUniform, s.Rank, s.Out)
		downBias := s.Param("adapter_down.bias", Zero, s.Rank)
		up := s.Param("adapter_up.weight", Zero, s.Out, s.Rank)
		upBias := s.Param("adapter_up.bias", Zero, s.Out)
		return Add(y, s.DropPath(backbone.Linear(backbone.GELU(backbone.Linear(from, down, downBias)), up, upBias)))
	},
}

func init() { builtIn(adapter) }
