package backbone

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	. "github.com/gomlx/gomlx/core/graph"

	"github.com/gomlx/compute/dtypes"

	"github.com/sptune/spt/checkpoint"
)

// convnext is ConvNeXt (Liu et al. 2022, "A ConvNet for the 2020s", arXiv
// 2201.03545) and ConvNeXt V2 (Woo et al. 2023, arXiv 2301.00808), as timm's
// ConvNeXt with a patch stem. Channels are last throughout.
type convnext struct{}

// Sides of the kernels, px: the same in all published models.
const (
	depthwiseSide  = 7
	downsampleSide = 2
)

// convnextImageSize is what the published models were pretrained at, most of them.
const convnextImageSize = 224

// maxImageSize bounds the image size that a file beside the weights names, px.
const maxImageSize = 1 << 13

// configure derives depths and widths from the tensors' names and shapes. The
// image size, which is in no shape, and eps come from the caller, the
// checkpoint's metadata or the files beside it, or are those of the published
// models.
func (convnext) configure(s source) (c Config, err error) {
	stem, err := s.shape("stem.0.weight", 4)
	if err != nil {
		return c, err
	}
	stages, err := s.count("stages")
	if err != nil {
		return c, err
	}
	for i := range stages {
		depth, err := s.count(fmt.Sprintf("stages.%d.blocks", i))
		if err != nil {
			return c, err
		}
		kernel, err := s.shape(fmt.Sprintf("stages.%d.blocks.0.conv_dw.weight", i), 4)
		if err != nil {
			return c, err
		}
		c.Depths, c.Dims = append(c.Depths, depth), append(c.Dims, kernel[0])
	}
	if err := s.onlyGELU(); err != nil {
		return c, err
	}
	c.PatchSize, c.EmbedDim = stem[2], stem[0]
	c.ResponseNorm = s.has("stages.0.blocks.0.mlp.grn.weight")
	own := s.side.config
	if own != nil {
		c.ImageSize, c.FinalNormEps = own.ImageSize, own.FinalNormEps
	}
	c.ImageSize = cmp.Or(c.ImageSize, s.side.imageSize, convnextImageSize)
	eps := 1e-6
	if c.EmbedDim == 384 {
		eps = 1e-5 // timm's convnext_xxlarge, alone in this and in its width
	}
	if own == nil && strings.HasPrefix(s.naming.Source, "Hugging Face") {
		// There the configuration's eps is that of the last norm alone.
		c.FinalNormEps = cmp.Or(s.side.eps, 1e-12)
		s.side.eps = 1e-6
	}
	c.LayerNormEps = s.layerNormEps(eps)
	return c, nil
}

// fit has nothing to change: convolutions fit any image size.
func (v convnext) fit(_, to Config, weights checkpoint.StateDict) error {
	return allKnown(weights, v.params(to), "stages.", "stem.")
}

func (convnext) describe(c Config) string {
	version := ""
	if c.ResponseNorm {
		version = " V2"
	}
	list := func(v []int) string { return strings.Trim(strings.ReplaceAll(fmt.Sprint(v), " ", "-"), "[]") }
	return fmt.Sprintf("ConvNeXt%s %s×%s, patch %d", version, list(c.Depths), list(c.Dims), c.PatchSize)
}

func (v convnext) validate(c Config) error {
	n := len(c.Depths)
	blocks := 0
	for _, d := range c.Depths {
		if d <= 0 || d > maxDepth {
			return fmt.Errorf("depths %v: expected positive numbers up to %d", c.Depths, maxDepth)
		}
		blocks += d
	}
	switch {
	case n == 0 || n != len(c.Dims) || blocks > maxDepth:
		return fmt.Errorf("depths %v and widths %v of the stages: expected as many of the one as of the other, and at most %d blocks in all", c.Depths, c.Dims, maxDepth)
	case c.EmbedDim != c.Dims[0]:
		return fmt.Errorf("the stem has width %d, the first stage %d; expected the same", c.EmbedDim, c.Dims[0])
	case slices.ContainsFunc(c.Dims, func(d int) bool { return d <= 0 || d > maxWidth }):
		return fmt.Errorf("widths %v of the stages: expected positive numbers up to %d", c.Dims, maxWidth)
	case c.ImageSize > maxImageSize || v.side(c, n-1) == 0:
		return fmt.Errorf("image size %d: expected %d to %d for patches of %d px and %d stages, each of half the side", c.ImageSize, c.PatchSize<<(n-1), maxImageSize, c.PatchSize, n)
	case c.FinalNormEps < 0:
		return fmt.Errorf("eps %g of the last norm must be positive", c.FinalNormEps)
	}
	return nil
}

// side is that of the map of a stage: where patches do not cover a map, the
// last rows and columns are left out.
func (convnext) side(c Config, stage int) int { return c.ImageSize / c.PatchSize >> stage }

// tokens is the number of positions of the stage that does the most work.
func (v convnext) tokens(c Config) (n int) {
	most := 0
	for i, depth := range c.Depths {
		positions := v.side(c, i) * v.side(c, i)
		if work := depth * positions * c.Dims[i] * c.Dims[i]; work > most {
			n, most = positions, work
		}
	}
	return n
}

func (convnext) blocks(c Config) (n int) {
	for _, d := range c.Depths {
		n += d
	}
	return n
}

func (convnext) numFeatures(c Config) int { return c.Dims[len(c.Dims)-1] }
func (convnext) head(Config) string       { return "head.fc" }

func (convnext) params(c Config) []Param {
	// convolution is weight and bias, [out, in, side, side] and [out].
	convolution := func(name string, out, in, side int, role Role) []Param {
		return []Param{
			{Name: name + ".weight", Shape: []int{out, in, side, side}, Role: role, EntriesOnly: role == Scored},
			{Name: name + ".bias", Shape: []int{out}, Role: role},
		}
	}
	out := append(convolution("stem.0", c.EmbedDim, 3, c.PatchSize, Frozen), norm("stem.1", c.EmbedDim)...)
	for i := range out {
		out[i].Role = Frozen
	}
	for i, depth := range c.Depths {
		d := c.Dims[i]
		s := fmt.Sprintf("stages.%d.", i)
		if i > 0 {
			out = append(out, norm(s+"downsample.0", c.Dims[i-1])...)
			out = append(out, convolution(s+"downsample.1", d, c.Dims[i-1], downsampleSide, Scored)...)
		}
		for j := range depth {
			b := fmt.Sprintf("%sblocks.%d.", s, j)
			if !c.ResponseNorm {
				out = append(out, Param{Name: b + "gamma", Shape: []int{d}, Role: Scored})
			}
			out = append(out, convolution(b+"conv_dw", d, 1, depthwiseSide, Scored)...)
			out = append(out, norm(b+"norm", d)...)
			out = append(out, linear(b+"mlp.fc1", 4*d, d, Scored)...)
			if c.ResponseNorm {
				out = append(out, Param{Name: b + "mlp.grn.weight", Shape: []int{4 * d}, Role: Scored}, Param{Name: b + "mlp.grn.bias", Shape: []int{4 * d}, Role: Scored})
			}
			out = append(out, linear(b+"mlp.fc2", d, 4*d, Scored)...)
		}
	}
	return append(out, norm("head.norm", c.Dims[len(c.Dims)-1])...)
}

// features is the mean over all positions, normalised.
func (v convnext) features(c Config, l Layers, images *Node) *Node {
	// convolved is the output of the named convolution of stride p.
	convolved := func(name string, x *Node, p int) *Node { return l.Output(name, patches(l, name, whole(x, p), p)) }
	x := c.layerNorm(l, "stem.1", convolved("stem.0", images, c.PatchSize))
	block := 0
	for i, depth := range c.Depths {
		s := fmt.Sprintf("stages.%d.", i)
		if i > 0 {
			x = convolved(s+"downsample.1", c.layerNorm(l, s+"downsample.0", x), downsampleSide)
		}
		for j := range depth {
			name := fmt.Sprintf("%sblocks.%d", s, j)
			x = entering(l, x)
			x = Add(x, l.Branch(name, block, x, v.block(c, l, name+".", x)))
			block++
		}
	}
	c.LayerNormEps = cmp.Or(c.FinalNormEps, c.LayerNormEps)
	return c.layerNorm(l, "head.norm", ReduceMean(leaving(l, x), 1, 2))
}

// block is the branch of a block for x [B, H, W, C].
func (convnext) block(c Config, l Layers, b string, x *Node) *Node {
	y := depthwise(x, l.Param(b+"conv_dw.weight"))
	y = Add(y, Everywhere(exact(l, b+"conv_dw.bias"), y))
	y = c.layerNorm(l, b+"norm", l.Output(b+"conv_dw", y))
	y = GELU(l.Linear(b+"mlp.fc1", y))
	if c.ResponseNorm {
		y = l.Output(b+"mlp.grn", responseNorm(y, exact(l, b+"mlp.grn.weight"), exact(l, b+"mlp.grn.bias")))
	}
	y = l.Linear(b+"mlp.fc2", y)
	if !c.ResponseNorm {
		y = Mul(y, Everywhere(exact(l, b+"gamma"), y))
	}
	return y
}

// whole is x [B, H, W, C] without the last rows and columns that fill no patch
// of p px.
func whole(x *Node, p int) *Node {
	h, w := x.Shape().Dim(1), x.Shape().Dim(2)
	if h%p == 0 && w%p == 0 {
		return x
	}
	return Slice(x, AxisRange(), AxisRange(0, h/p*p), AxisRange(0, w/p*p))
}

// responseNorm is ConvNeXt V2's global response normalisation of x [B, H, W, C]:
// each channel's norm over the positions, divided by the mean of all channels'
// norms and times weight [C], scales the channel beside 1. All that can
// be is done on [B, 1, 1, C].
func responseNorm(x, weight, bias *Node) *Node {
	norm := Sqrt(ReduceAndKeep(Square(ConvertDType(x, dtypes.Float32)), ReduceSum, 1, 2))
	by := Mul(Div(norm, AddScalar(ReduceAndKeep(norm, ReduceMean, 3), 1e-6)), ExpandLeftToRank(weight, 4))
	return Add(Mul(x, ConvertDType(OnePlus(by), x.DType())), Everywhere(bias, x))
}
