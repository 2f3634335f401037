package sensitivity

import (
	"strings"

	. "github.com/gomlx/gomlx/core/graph"

	"github.com/gomlx/compute/dtypes"
	"github.com/gomlx/compute/shapes"

	"github.com/sptune/spt/backbone"
)

// inputMeans is the Layers of a backbone that also computes, for the weights of its layers, the
// mean of |x| over images and tokens, where x is the value by which a weight is multiplied.
type inputMeans struct {
	backbone.Layers
	means map[string]*Node // by name of the tensor, float32: [in] for a matrix, [C] for a vector
}

// Linear implements backbone.Layers.
func (l *inputMeans) Linear(name string, x *Node) *Node {
	l.means[name+".weight"] = meanOfAbs(x)
	return l.Layers.Linear(name, x)
}

// Output implements backbone.Layers. The output of a norm is γ⊙x + β.
func (l *inputMeans) Output(name string, y *Node) *Node {
	scale, shift := l.Param(name+".weight"), l.Param(name+".bias")
	if scale != nil && scale.Rank() == 1 && !strings.HasSuffix(name, ".grn") { // not a convolution
		product := y
		if shift != nil {
			product = Sub(y, ExpandLeftToRank(ConvertDType(shift, y.DType()), y.Rank()))
		}
		l.means[name+".weight"] = perFactor(product, scale)
	}
	return l.Layers.Output(name, y)
}

// Branch implements backbone.Layers. The output of a branch with a layer scale is γ⊙x.
func (l *inputMeans) Branch(name string, block int, x, y *Node) *Node {
	scales := []string{name + ".gamma"} // ConvNeXt
	if before, ok := strings.CutSuffix(name, "attn"); ok {
		scales = append(scales, before+"ls1.gamma")
	}
	if before, ok := strings.CutSuffix(name, "mlp"); ok {
		scales = append(scales, before+"ls2.gamma")
	}
	for _, scale := range scales {
		if gamma := l.Param(scale); gamma != nil {
			l.means[scale] = perFactor(y, gamma)
		}
	}
	return l.Layers.Branch(name, block, x, y)
}

// of returns the means for the values of a scored tensor, in its shape. A bias is multiplied by 1.
// Tensors without known inputs have zeros.
func (l *inputMeans) of(g *Graph, p backbone.Param) *Node {
	shape := shapes.Make(dtypes.Float32, p.Shape...)
	switch mean := l.means[p.Name]; {
	case mean != nil:
		return BroadcastToDims(ExpandLeftToRank(mean, len(p.Shape)), p.Shape...)
	case strings.HasSuffix(p.Name, ".bias") && !strings.HasSuffix(p.Name, ".grn.bias"):
		return Ones(g, shape)
	}
	return Zeros(g, shape)
}

// meanOfAbs returns the mean of |x| over all axes but the last.
func meanOfAbs(x *Node) *Node {
	x = Abs(ConvertDType(x, dtypes.Float32))
	return ReduceMean(Reshape(x, x.Shape().Size()/x.Shape().Dim(-1), x.Shape().Dim(-1)), 0)
}

// perFactor returns the mean of |x| from the product γ⊙x. It is 0 where γ is 0; the score of such a
// weight is 0 anyway.
func perFactor(product, gamma *Node) *Node {
	size := Abs(ConvertDType(gamma, dtypes.Float32))
	return Div(meanOfAbs(product), MaxScalar(size, 1e-30))
}
