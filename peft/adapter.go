package peft

import (
	. "github.com/gomlx/gomlx/core/graph"

	"github.com/sptune/spt/backbone"
	"github.com/sptune/spt/internal/graph"
)

// adapter is the bottleneck of Houlsby et al. 2019 (arXiv 1902.00751) with the placement of SPT. It
// returns y + U·GELU(D·y + d) + u, where y is the output of the layer. On attn.proj it is parallel
// to the layer: D is applied to the input x of the layer, not to y. D starts Kaiming-uniform; d, U
// and u start at zero. Dropout is applied to the input of D, except on attn.proj. Drop-path is
// applied to the output U·GELU(D·y + d) + u. The module cannot be merged because of the GELU
// between D and U.
var adapter = adapterForm{upBias: true}.module("adapter")

// adapterNoBias is adapter without u. The bias of the layer does the same as u, so u is redundant
// where this bias is tuned.
var adapterNoBias = adapterForm{}.module("adapter-nobias")

// adapterScaled is adapter without u and with a learned factor s for each channel:
// y + s⊙U·GELU(D·y + d). s starts at one. The factor is that of Adapter+ (Steitz and Roth 2024).
var adapterScaled = adapterForm{scale: true}.module("adapter-scaled")

// adapterForm selects the parts of an adapter that some forms of it do not have.
type adapterForm struct {
	upBias bool // the bias u
	scale  bool // the factors s
}

// module returns the adapter of this form under the given name.
func (f adapterForm) module(name string) Module {
	return Module{
		Name: name,
		Count: func(in, out, rank int) int {
			n := 2*rank*out + rank
			if f.upBias {
				n += out
			}
			if f.scale {
				n += out
			}
			return n
		},
		Graph: func(s *Site, x, y *Node) *Node {
			from := x
			if !s.is("attn.proj") {
				from = s.Dropout(y)
			}
			// attn.proj has as many inputs as outputs, so D has the same shape in both cases.
			down := s.Param("adapter_down.weight", KaimingUniform, s.Rank, s.Out)
			downBias := s.Param("adapter_down.bias", Zero, s.Rank)
			up := s.Param("adapter_up.weight", Zero, s.Out, s.Rank)
			var upBias *Node
			if f.upBias {
				upBias = s.Param("adapter_up.bias", Zero, s.Out)
			}
			z := backbone.Linear(backbone.GELU(backbone.Linear(from, down, downBias)), up, upBias)
			if f.scale {
				z = Mul(z, graph.Everywhere(s.Param("adapter_scale", one, s.Out), z))
			}
			return Add(y, s.DropPath(z))
		},
	}
}

func init() {
	for _, m := range []Module{adapter, adapterNoBias, adapterScaled} {
		builtIn(m)
	}
}
