package peft

import (
	"fmt"
	"math"
	"math/rand/v2"
	"strings"

	. "github.com/gomlx/gomlx/core/graph"

	"github.com/sptune/spt/backbone"
	"github.com/sptune/spt/checkpoint"
)

// Convpass configures Convpass (Jie and Deng 2022, "Convolutional Bypasses Are Better Vision
// Transformer Adapters", arXiv 2207.07039), which adds a small convolutional network in parallel to
// the attention branch and to the MLP branch of each block. It adds s·(U·φ(C∗φ(D·x + d) + c) + u)
// to the output of the branch, where x is the output of the norm of the branch. C is a convolution
// of 3×3 over the grid of patches. Each token that is no patch, such as the class token, is a grid
// of its own. φ is QuickGELU.
//
// D starts Xavier-uniform, C as the identity, and the other tensors at zero, so the output of the
// backbone is unchanged at first. Dropout is applied before U. Drop-path is that of the branch.
// Convpass needs the grid of patches, which a matrix does not know, so it is no [Module]. It cannot
// be merged.
type Convpass struct {
	// Width is the number of channels of C. It is at least 1. The paper uses 8.
	Width int `json:"width"`
	// Scale is the factor s. It is above 0. The paper chooses it for each task from 0.01 to 100.
	Scale float64 `json:"scale"`
}

// convpassTensors lists D, d, C, c, U and u. The names follow the name of the branch.
var convpassTensors = []struct {
	name  string
	init  Init
	shape func(width, d int) []int
}{
	{".convpass_down.weight", xavierUniform, func(width, d int) []int { return []int{width, d} }},
	{".convpass_down.bias", Zero, func(width, _ int) []int { return []int{width} }},
	{".convpass_conv.weight", identityKernel, func(width, _ int) []int { return []int{width, width, 3, 3} }},
	{".convpass_conv.bias", Zero, func(width, _ int) []int { return []int{width} }},
	{".convpass_up.weight", Zero, func(width, d int) []int { return []int{d, width} }},
	{".convpass_up.bias", Zero, func(_, d int) []int { return []int{d} }},
}

// identityKernel is the Init of C [w, w, 3, 3]: the convolution returns its input.
func identityKernel(p Param, _ *rand.Rand, _ checkpoint.StateDict) []float32 {
	v, width := make([]float32, p.Size()), p.Shape[0]
	for i := range width {
		v[(i*width+i)*9+4] = 1
	}
	return v
}

// declareConvpass adds the tensors of the bypasses to t.Params.
func (t *Tuning) declareConvpass(c backbone.Config, o *operations) error {
	s := t.Selection.Convpass
	switch {
	case s.Width < 1 || s.Width > maxExtra:
		return fmt.Errorf("Convpass: %d channels, expected 1 to %d", s.Width, maxExtra)
	case !(s.Scale > 0) || math.IsInf(s.Scale, 1):
		return fmt.Errorf("Convpass: a scale of %g, expected a positive number such as 1", s.Scale)
	case o.tokens == 0:
		return fmt.Errorf("Convpass needs a backbone of tokens, a ViT, but the backbone is %s; choose another method", c)
	case t.Selection.Prompts != nil:
		return fmt.Errorf("Convpass and visual prompts: prompts have no place in the grid of patches; choose one of them")
	}
	_, patch, err := patchEmbedding(c)
	if err != nil {
		return err
	}
	t.grid = c.ImageSize / int(math.Round(math.Sqrt(float64(patch)/3)))
	for _, op := range o.branches {
		for _, p := range convpassTensors {
			t.declare(Param{Name: op.name + p.name, Shape: p.shape(s.Width, op.width), Init: p.init})
		}
	}
	return nil
}

// convpassInput keeps the output of a norm for the bypass of its branch.
func (l *layers) convpassInput(name string, y *Node) {
	if l.Selection.Convpass == nil {
		return
	}
	for norm, branch := range map[string]string{"norm1": "attn", "norm2": "mlp"} {
		if block, ok := strings.CutSuffix(name, norm); ok {
			l.normed[block+branch] = y
		}
	}
}

// convpass returns y plus the output of the bypass of a branch with the given drop-path rate.
func (l *layers) convpass(name string, rate float64, y *Node) *Node {
	if l.Selection.Convpass == nil || l.tuned[name+convpassTensors[0].name] == nil {
		return y
	}
	var p []*Node
	for _, t := range convpassTensors {
		p = append(p, l.tuned[name+t.name])
	}
	x := l.normed[name]
	prefix, patches := l.apart(backbone.Linear(x, p[0], p[1]))
	kernel := ConvertDType(p[2], x.DType())
	var parts []*Node
	if prefix != nil { // a grid of one token meets only the centre of the kernel
		centre := Slice(kernel, AxisRange(), AxisRange(), AxisElem(1), AxisElem(1))
		parts = append(parts, backbone.Linear(quickGELU(prefix), Reshape(centre, kernel.Shape().Dim(0), kernel.Shape().Dim(1)), p[3]))
	}
	if patches != nil {
		h := Reshape(quickGELU(patches), patches.Shape().Dim(0), l.grid, l.grid, -1)
		h = Convolve(h, TransposeAllAxes(kernel, 2, 3, 1, 0)).PadSame().Done() // [3, 3, in, out]
		h = Add(h, ExpandLeftToRank(ConvertDType(p[3], h.DType()), h.Rank()))
		parts = append(parts, Reshape(h, patches.Shape().Dimensions...))
	}
	h := quickGELU(parts[0])
	if len(parts) == 2 {
		h = quickGELU(Concatenate(parts, 1))
	}
	// In the last block, y has only the tokens that the head reads.
	if n := y.Shape().Dim(1); n < h.Shape().Dim(1) {
		before, after := l.apart(h)
		if h = after; n <= before.Shape().Dim(1) {
			h = SliceAxis(before, 1, AxisRange(0, n))
		}
	}
	h = l.drop(h, l.rates.Dropout, h.Shape().Dimensions)
	return Add(y, MulScalar(l.dropPath(backbone.Linear(h, p[4], p[5]), rate), l.Selection.Convpass.Scale))
}

// apart divides the tokens x [B, N, C] into the tokens before the patches and the patches. One of
// them is nil if x, the tokens that the head reads, holds only the others.
func (l *layers) apart(x *Node) (prefix, patches *Node) {
	n, all := x.Shape().Dim(1), l.grid*l.grid
	switch before := l.Config.Tokens() - all; {
	case n == all:
		return nil, x
	case n <= before:
		return x, nil
	default:
		return SliceAxis(x, 1, AxisRange(0, before)), SliceAxis(x, 1, AxisRange(before))
	}
}

// quickGELU returns x·σ(1.702·x).
func quickGELU(x *Node) *Node { return Mul(x, Sigmoid(MulScalar(x, 1.702))) }
