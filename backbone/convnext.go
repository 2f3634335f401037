package backbone

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"

	. "github.com/gomlx/gomlx/core/graph"

	"github.com/gomlx/compute/dtypes"

	"github.com/sptune/spt/checkpoint"
	"github.com/sptune/spt/internal/graph"
)

// ConvNeXt is the [Config].Form of a ConvNeXt (Liu et al. 2022, "A ConvNet for the 2020s", arXiv
// 2201.03545) or a ConvNeXt V2 (Woo et al. 2023, arXiv 2301.00808), as timm's ConvNeXt with a patch
// stem. Channels are last throughout.
type ConvNeXt struct {
	// side and stride of the stem's kernel, px
	PatchSize int   `json:"patch_size"`
	EmbedDim  int   `json:"embed_dim"` // width of the stem, the first of Dims
	Depths    []int `json:"depths"`    // number of blocks of each stage
	Dims      []int `json:"dims"`      // channels of each stage
	// V2: has global response normalisation in the MLP instead of layer scale
	ResponseNorm bool `json:"response_norm,omitempty"`
	// eps of the last norm; 0: Config.LayerNormEps
	FinalNormEps float64 `json:"final_norm_eps,omitempty"`
}

// convnext is the architecture of ConvNeXt and ConvNeXt V2. Its tensors have timm's names:
// stem.{0,1}, stages.i.downsample.{0,1}, stages.i.blocks.j.{conv_dw [C,1,7,7], norm, mlp.fc1 [H,C],
// mlp.fc2 [C,H], mlp.grn.{weight,bias} [H], gamma}, head.norm, head.fc.
var convnext = Architecture[ConvNeXt]{
	Name: "convnext", Namings: convnextNamings, Head: "head.fc",
	Configure: configureConvNeXt, Validate: ConvNeXt.validate, Describe: ConvNeXt.describe, Params: ConvNeXt.params,
	Features: ConvNeXt.features, FeatureMap: ConvNeXt.featureMap,
	NumFeatures: ConvNeXt.numFeatures, Blocks: ConvNeXt.blocks, Tokens: ConvNeXt.tokens,
	Fit: fitConvNeXt, Export: exportConvNeXt,
}

// Sides of the kernels, px; the same in all published models.
const (
	depthwiseSide  = 7
	downsampleSide = 2
)

// convnextImageSize is the image size, px, at which most published models were pretrained.
const convnextImageSize = 224

// maxImageSize bounds the image size, px, that a file beside the weights names.
const maxImageSize = 1 << 13

// configureConvNeXt implements Architecture.Configure. Names and shapes tell depths and widths. The
// image size, which no shape tells, and eps come from the user, the checkpoint's metadata or the
// files beside it, or are those of the published models.
func configureConvNeXt(s *Source) (c Config, err error) {
	var v ConvNeXt
	stem, err := s.Shape("stem.0.weight", 4)
	if err != nil {
		return c, err
	}
	stages, err := s.Count("stages")
	if err != nil {
		return c, err
	}
	for i := range stages {
		depth, err := s.Count(fmt.Sprintf("stages.%d.blocks", i))
		if err != nil {
			return c, err
		}
		kernel, err := s.Shape(fmt.Sprintf("stages.%d.blocks.0.conv_dw.weight", i), 4)
		if err != nil {
			return c, err
		}
		v.Depths, v.Dims = append(v.Depths, depth), append(v.Dims, kernel[0])
	}
	if err := s.onlyGELU(); err != nil {
		return c, err
	}
	v.PatchSize, v.EmbedDim = stem[2], stem[0]
	v.ResponseNorm = s.has("stages.0.blocks.0.mlp.grn.weight")
	s.convMLP = len(s.naming.Origin("stages.0.blocks.0.mlp.fc1.weight").Shape) == 4
	eps := 1e-6
	if v.EmbedDim == 384 {
		eps = 1e-5 // timm's convnext_xxlarge, the only one of this width and of this eps
	}
	switch own := s.Config; {
	case own != nil:
		v.FinalNormEps = own.Form.(ConvNeXt).FinalNormEps
	case strings.HasPrefix(s.naming.Source, "Hugging Face"):
		// There the configuration's eps is that of the last norm alone.
		v.FinalNormEps = cmp.Or(s.side.eps, 1e-12)
		s.side.eps = 1e-6
	}
	return Config{ImageSize: s.ImageSize(convnextImageSize), LayerNormEps: s.LayerNormEps(eps), Form: v}, nil
}

// fitConvNeXt implements Architecture.Fit. Convolutions fit every image size.
func fitConvNeXt(_, to Config, weights checkpoint.StateDict) error {
	return refuseUnknown(weights, to.Form.(ConvNeXt).params(to), "stages.", "stem.")
}

// exportConvNeXt implements Architecture.Export: the MLPs of timm's small models are 1×1
// convolutions.
func exportConvNeXt(m *Model) checkpoint.StateDict {
	if !m.convMLP {
		return m.Weights
	}
	out := maps.Clone(m.Weights)
	for name, x := range out {
		if strings.HasSuffix(name, ".mlp.fc1.weight") || strings.HasSuffix(name, ".mlp.fc2.weight") {
			x.Shape = append(slices.Clone(x.Shape), 1, 1)
			out[name] = x
		}
	}
	return out
}

// describe returns a short description for people.
func (v ConvNeXt) describe(Config) string {
	version := ""
	if v.ResponseNorm {
		version = " V2"
	}
	return fmt.Sprintf("ConvNeXt%s %s×%s, patch %d", version, joined(v.Depths), joined(v.Dims), v.PatchSize)
}

// validate returns an error about the first field that is out of range or does not fit c.
func (v ConvNeXt) validate(c Config) error {
	if err := c.validatePatches(v.PatchSize, v.EmbedDim); err != nil {
		return err
	}
	n := len(v.Depths)
	blocks := 0
	for _, d := range v.Depths {
		if d <= 0 || d > maxDepth {
			return fmt.Errorf("depths %v: expected positive numbers up to %d", v.Depths, maxDepth)
		}
		blocks += d
	}
	switch {
	case c.NumHeads != 0:
		return fmt.Errorf("%d attention heads, but a ConvNeXt has no attention; leave the number out", c.NumHeads)
	case n == 0 || n != len(v.Dims) || blocks > maxDepth:
		return fmt.Errorf("depths %v and widths %v of the stages: expected equally many, and at most %d blocks in all", v.Depths, v.Dims, maxDepth)
	case v.EmbedDim != v.Dims[0]:
		return fmt.Errorf("the stem has width %d, the first stage %d; expected the same", v.EmbedDim, v.Dims[0])
	case slices.ContainsFunc(v.Dims, func(d int) bool { return d <= 0 || d > maxWidth }):
		return fmt.Errorf("widths %v of the stages: expected positive numbers up to %d", v.Dims, maxWidth)
	case c.ImageSize > maxImageSize || v.side(c, n-1) == 0:
		return fmt.Errorf("image size %d: expected %d to %d for patches of %d px and %d stages, each of half the side", c.ImageSize, v.PatchSize<<(n-1), maxImageSize, v.PatchSize, n)
	case v.FinalNormEps < 0:
		return fmt.Errorf("eps %g of the last norm must be positive", v.FinalNormEps)
	}
	return nil
}

// side returns the side of the map of a stage. Where patches do not cover a map, its last rows and
// columns are left out.
func (v ConvNeXt) side(c Config, stage int) int { return c.ImageSize / v.PatchSize >> stage }

// tokens returns the number of positions of the stage that does the most work.
func (v ConvNeXt) tokens(c Config) (n int) {
	most := 0
	for i, depth := range v.Depths {
		positions := v.side(c, i) * v.side(c, i)
		if work := depth * positions * v.Dims[i] * v.Dims[i]; work > most {
			n, most = positions, work
		}
	}
	return n
}

// blocks returns the number of residual blocks of all stages.
func (v ConvNeXt) blocks() (n int) {
	for _, d := range v.Depths {
		n += d
	}
	return n
}

// numFeatures returns the width of the last stage.
func (v ConvNeXt) numFeatures() int { return v.Dims[len(v.Dims)-1] }

// params lists the tensors of the backbone without its head.
func (v ConvNeXt) params(Config) []Param {
	// convolution returns the weight [out, in, side, side] and the bias [out].
	convolution := func(name string, out, in, side int, role Role) []Param {
		return []Param{
			{Name: name + ".weight", Shape: []int{out, in, side, side}, Role: role, EntriesOnly: role == Scored},
			{Name: name + ".bias", Shape: []int{out}, Role: role},
		}
	}
	out := append(convolution("stem.0", v.EmbedDim, 3, v.PatchSize, Frozen), NormParams("stem.1", v.EmbedDim)...)
	for i := range out {
		out[i].Role = Frozen
	}
	for i, depth := range v.Depths {
		d := v.Dims[i]
		s := fmt.Sprintf("stages.%d.", i)
		if i > 0 {
			out = append(out, NormParams(s+"downsample.0", v.Dims[i-1])...)
			out = append(out, convolution(s+"downsample.1", d, v.Dims[i-1], downsampleSide, Scored)...)
		}
		for j := range depth {
			b := fmt.Sprintf("%sblocks.%d.", s, j)
			if !v.ResponseNorm {
				out = append(out, Param{Name: b + "gamma", Shape: []int{d}, Role: Scored})
			}
			out = append(out, convolution(b+"conv_dw", d, 1, depthwiseSide, Scored)...)
			out = append(out, NormParams(b+"norm", d)...)
			out = append(out, LinearParams(b+"mlp.fc1", 4*d, d, Scored)...)
			if v.ResponseNorm {
				out = append(out, Param{Name: b + "mlp.grn.weight", Shape: []int{4 * d}, Role: Scored}, Param{Name: b + "mlp.grn.bias", Shape: []int{4 * d}, Role: Scored})
			}
			out = append(out, LinearParams(b+"mlp.fc2", d, 4*d, Scored)...)
		}
	}
	return append(out, NormParams("head.norm", v.Dims[len(v.Dims)-1])...)
}

// features computes the mean over all positions, normalised.
func (v ConvNeXt) features(c Config, l Layers, images *Node) *Node {
	return v.finalNorm(c, l, ReduceMean(v.encode(c, l, images), 1, 2))
}

// featureMap computes the last map. Every position is normalised by itself, so that features is not
// quite its mean.
func (v ConvNeXt) featureMap(c Config, l Layers, images *Node) *Node {
	return v.finalNorm(c, l, v.encode(c, l, images))
}

// finalNorm computes the last norm over the channels of x [..., D].
func (v ConvNeXt) finalNorm(c Config, l Layers, x *Node) *Node {
	c.LayerNormEps = cmp.Or(v.FinalNormEps, c.LayerNormEps)
	return c.LayerNorm(l, "head.norm", x)
}

// encode returns the map [B, H, W, D] that leaves the last block.
func (v ConvNeXt) encode(c Config, l Layers, images *Node) *Node {
	// convolved computes the named convolution of stride p.
	convolved := func(name string, x *Node, p int) *Node { return l.Output(name, PatchEmbed(l, name, whole(x, p), p)) }
	x := c.LayerNorm(l, "stem.1", convolved("stem.0", images, v.PatchSize))
	block := 0
	for i, depth := range v.Depths {
		s := fmt.Sprintf("stages.%d.", i)
		if i > 0 {
			x = convolved(s+"downsample.1", c.LayerNorm(l, s+"downsample.0", x), downsampleSide)
		}
		for j := range depth {
			name := fmt.Sprintf("%sblocks.%d", s, j)
			x = entering(l, x)
			x = Add(x, l.Branch(name, block, x, v.block(c, l, name+".", x)))
			block++
		}
	}
	return leaving(l, x)
}

// block computes the branch of a block for x [B, H, W, C].
func (v ConvNeXt) block(c Config, l Layers, b string, x *Node) *Node {
	y := depthwise(x, l.Param(b+"conv_dw.weight"))
	y = Add(y, graph.Everywhere(exact(l, b+"conv_dw.bias"), y))
	y = c.LayerNorm(l, b+"norm", l.Output(b+"conv_dw", y))
	y = GELU(l.Linear(b+"mlp.fc1", y))
	if v.ResponseNorm {
		y = l.Output(b+"mlp.grn", responseNorm(y, exact(l, b+"mlp.grn.weight"), exact(l, b+"mlp.grn.bias")))
	}
	y = l.Linear(b+"mlp.fc2", y)
	if !v.ResponseNorm {
		y = Mul(y, graph.Everywhere(exact(l, b+"gamma"), y))
	}
	return y
}

// whole leaves out the last rows and columns of x [B, H, W, C] that fill no patch of p px.
func whole(x *Node, p int) *Node {
	h, w := x.Shape().Dim(1), x.Shape().Dim(2)
	if h%p == 0 && w%p == 0 {
		return x
	}
	return Slice(x, AxisRange(), AxisRange(0, h/p*p), AxisRange(0, w/p*p))
}

// responseNorm computes ConvNeXt V2's global response normalisation of x [B, H, W, C]. The norm of
// each channel over the positions is divided by the mean of all channels' norms and multiplied by
// weight [C]; one plus this scales the channel. All but the last two operations work on
// [B, 1, 1, C].
func responseNorm(x, weight, bias *Node) *Node {
	norm := Sqrt(ReduceAndKeep(Square(ConvertDType(x, dtypes.Float32)), ReduceSum, 1, 2))
	by := Mul(Div(norm, AddScalar(ReduceAndKeep(norm, ReduceMean, 3), 1e-6)), ExpandLeftToRank(weight, 4))
	return Add(Mul(x, ConvertDType(OnePlus(by), x.DType())), graph.Everywhere(bias, x))
}
