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
// 2201.03545) or a ConvNeXt V2 (Woo et al. 2023, arXiv 2301.00808). It computes the same as timm's
// ConvNeXt with a patch stem. In all feature maps, the channels are the last axis.
type ConvNeXt struct {
	// PatchSize is the side length and the stride of the stem's kernel, in pixels.
	PatchSize int `json:"patch_size"`
	// EmbedDim is the number of channels of the stem. It equals Dims[0].
	EmbedDim int `json:"embed_dim"`
	// Depths holds the number of blocks of each stage.
	Depths []int `json:"depths"`
	// Dims holds the number of channels of each stage.
	Dims []int `json:"dims"`
	// ResponseNorm is set for ConvNeXt V2: the MLP has global response normalisation, and the
	// blocks have no layer scale.
	ResponseNorm bool `json:"response_norm,omitempty"`
	// FinalNormEps is the eps of the final norm. Zero means Config.LayerNormEps.
	FinalNormEps float64 `json:"final_norm_eps,omitempty"`
	// HiddenSize is the width of a linear layer and a GELU between the final norm and the head, as
	// in timm's convnext_*_mlp models. Zero means that there is no such layer.
	HiddenSize int `json:"hidden_size,omitempty"`
}

// convnext is the architecture of ConvNeXt and ConvNeXt V2. Its tensors have timm's names:
// stem.{0,1}, stages.i.downsample.{0,1}, stages.i.blocks.j.{conv_dw [C,1,7,7], norm, mlp.fc1 [H,C],
// mlp.fc2 [C,H], mlp.grn.{weight,bias} [H], gamma}, head.norm, head.pre_logits.fc [HiddenSize,D],
// head.fc.
var convnext = Architecture[ConvNeXt]{
	Name: "convnext", Namings: convnextNamings, Head: "head.fc",
	Configure: configureConvNeXt, Validate: ConvNeXt.validate, Describe: ConvNeXt.describe, Params: ConvNeXt.params,
	Features: ConvNeXt.features, FeatureMap: ConvNeXt.featureMap,
	NumFeatures: ConvNeXt.numFeatures, Blocks: ConvNeXt.blocks, Tokens: ConvNeXt.tokens,
	Hidden: ConvNeXt.hidden, HiddenSize: ConvNeXt.hiddenSize,
	Fit: fitConvNeXt, Export: exportConvNeXt, HuggingFace: ConvNeXt.huggingFace,
}

// Side lengths of the kernels, in positions. All published models have the same.
const (
	depthwiseSide  = 7
	downsampleSide = 2
)

// convnextImageSize is the assumed image size, in pixels, if no file states it. Most published
// models were pretrained at this size.
const convnextImageSize = 224

// maxImageSize bounds the image size, in pixels.
const maxImageSize = 1 << 13

// configureConvNeXt implements Architecture.Configure. It derives depths and widths from the names
// and shapes of the tensors. No shape determines the image size and eps: they come from the user,
// from the metadata of the checkpoint, from the files beside it, or from the published models.
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
	s.holdCard(map[string]int{"num_features": v.numFeatures()})
	if err := s.onlyGELU(); err != nil {
		return c, err
	}
	v.PatchSize, v.EmbedDim = stem[2], stem[0]
	v.ResponseNorm = s.has("stages.0.blocks.0.mlp.grn.weight")
	if s.has("head.pre_logits.fc.weight") {
		hidden, err := s.Shape("head.pre_logits.fc.weight", 2)
		if err != nil {
			return c, err
		}
		v.HiddenSize = hidden[0]
	}
	s.convMLP = len(s.naming.Origin("stages.0.blocks.0.mlp.fc1.weight").Shape) == 4
	eps := 1e-6
	if v.EmbedDim == 384 || strings.HasPrefix(s.side.name(), "test_convnext") {
		// timm's convnext_xxlarge, the only model with this width, and timm's models for tests
		eps = 1e-5
	}
	switch own := s.Config; {
	case own != nil:
		v.FinalNormEps = own.Form.(ConvNeXt).FinalNormEps
	case strings.HasPrefix(s.naming.Source, "Hugging Face"):
		// In Hugging Face configurations, layer_norm_eps is the eps of the final norm only.
		v.FinalNormEps = cmp.Or(s.side.card.eps, 1e-12)
		s.side.card.eps = 1e-6
	}
	size := s.holdSize(func(size int) error { return v.validate(Config{ImageSize: size}) })
	return Config{ImageSize: cmp.Or(size, convnextImageSize), LayerNormEps: s.LayerNormEps(eps), Form: v}, nil
}

// fitConvNeXt implements Architecture.Fit. Convolutions fit every image size, so it only checks
// names.
func fitConvNeXt(_, to Config, weights checkpoint.StateDict) error {
	return refuseUnknown(weights, to.Form.(ConvNeXt).params(to), "stages.", "stem.", hiddenLayer)
}

// exportConvNeXt implements Architecture.Export. In timm's small models the linear layers of the
// MLPs are 1×1 convolutions.
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
			return fmt.Errorf("numbers of blocks %v of the stages: expected positive numbers up to %d", v.Depths, maxDepth)
		}
		blocks += d
	}
	switch {
	case c.NumHeads != 0:
		return fmt.Errorf("%d attention heads are given, but a ConvNeXt has no attention; leave out the number of heads", c.NumHeads)
	case n == 0 || n != len(v.Dims) || blocks > maxDepth:
		return fmt.Errorf("numbers of blocks %v and widths %v of the stages: expected lists of the same length and at most %d blocks in total", v.Depths, v.Dims, maxDepth)
	case v.EmbedDim != v.Dims[0]:
		return fmt.Errorf("the stem has width %d and the first stage has width %d; expected the same width", v.EmbedDim, v.Dims[0])
	case slices.ContainsFunc(v.Dims, func(d int) bool { return d <= 0 || d > maxWidth }):
		return fmt.Errorf("widths %v of the stages: expected positive numbers up to %d", v.Dims, maxWidth)
	case c.ImageSize > maxImageSize || v.side(c, n-1) == 0:
		return fmt.Errorf("image size %d px: expected %d to %d px for patches of %d px and %d stages, each with half the side length of the stage before", c.ImageSize, v.PatchSize<<(n-1), maxImageSize, v.PatchSize, n)
	case v.HiddenSize < 0 || v.HiddenSize > maxWidth:
		return fmt.Errorf("width %d of the layer before the head: expected 1 to %d, or 0 for no such layer", v.HiddenSize, maxWidth)
	case v.FinalNormEps < 0:
		return fmt.Errorf("eps %g of the final norm must not be negative", v.FinalNormEps)
	}
	return nil
}

// side returns the side length of the feature map of a stage. If the size is not a multiple of the
// stride, the last rows and columns of the map are dropped.
func (v ConvNeXt) side(c Config, stage int) int { return c.ImageSize / v.PatchSize >> stage }

// tokens returns the number of positions of the feature map in the stage that does the most work.
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

// numFeatures returns the width of the layer before the head, or of the last stage.
func (v ConvNeXt) numFeatures() int { return cmp.Or(v.HiddenSize, v.Dims[len(v.Dims)-1]) }

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
	last := v.Dims[len(v.Dims)-1]
	out = append(out, NormParams("head.norm", last)...)
	if v.HiddenSize > 0 {
		out = append(out, LinearParams(hiddenLayer, v.HiddenSize, last, Frozen)...)
	}
	return out
}

// hiddenLayer is the name of the linear layer between the final norm and the head.
const hiddenLayer = "head.pre_logits.fc"

// features computes the mean of the feature map over all positions, and normalises it. In a model
// with a hidden layer before the head, the layer and its GELU follow.
func (v ConvNeXt) features(c Config, l Layers, block int, x *Node) *Node {
	x = v.finalNorm(c, l, ReduceMean(v.encode(c, l, block, v.blocks(), x), 1, 2))
	if v.HiddenSize > 0 {
		x = GELU(l.Linear(hiddenLayer, x))
	}
	return x
}

// featureMap computes the last feature map. It normalises every position on its own, so the mean of
// the map is not exactly the result of features.
func (v ConvNeXt) featureMap(c Config, l Layers, block int, x *Node) *Node {
	return v.finalNorm(c, l, v.encode(c, l, block, v.blocks(), x))
}

// hidden implements Architecture.Hidden.
func (v ConvNeXt) hidden(c Config, l Layers, block int, images *Node) *Node {
	x := v.encode(c, l, 0, block, images)
	return Reshape(x, x.Shape().Dim(0), -1, x.Shape().Dim(3))
}

// hiddenSize implements Architecture.HiddenSize.
func (v ConvNeXt) hiddenSize(c Config, block int) (tokens, width int) {
	i := stageOf(v.Depths, block)
	return v.side(c, i) * v.side(c, i), v.Dims[i]
}

// finalNorm computes the final norm over the channels of x [..., D].
func (v ConvNeXt) finalNorm(c Config, l Layers, x *Node) *Node {
	c.LayerNormEps = cmp.Or(v.FinalNormEps, c.LayerNormEps)
	return c.LayerNorm(l, "head.norm", x)
}

// encode computes the blocks [from, to). x holds images if from is 0, otherwise tokens [B, N, D].
// The result is the input of block to, or the output of the last block, [B, H, W, D].
func (v ConvNeXt) encode(c Config, l Layers, from, to int, x *Node) *Node {
	// convolved computes the named convolution. Its kernel size and stride are p.
	convolved := func(name string, x *Node, p int) *Node {
		return l.Output(name, PatchEmbed(l, name, cropToMultiple(x, p), p))
	}
	if from == 0 {
		x = c.LayerNorm(l, "stem.1", convolved("stem.0", x, v.PatchSize))
	} else {
		i := stageOf(v.Depths, from)
		x = Reshape(x, x.Shape().Dim(0), v.side(c, i), v.side(c, i), v.Dims[i])
	}
	first := 0 // block of the stage
	for i, depth := range v.Depths {
		s := fmt.Sprintf("stages.%d.", i)
		if from < first && first <= to {
			x = convolved(s+"downsample.1", c.LayerNorm(l, s+"downsample.0", x), downsampleSide)
		}
		for j := max(0, from-first); j < min(depth, to-first); j++ {
			name := fmt.Sprintf("%sblocks.%d", s, j)
			x = blockInput(l, x)
			x = Add(x, l.Branch(name, first+j, x, v.block(c, l, name+".", x)))
		}
		first += depth
	}
	return lastBlockOutput(l, x)
}

// block computes the residual branch of a block for x [B, H, W, C]. b is the name of the block and
// a dot.
func (v ConvNeXt) block(c Config, l Layers, b string, x *Node) *Node {
	y := depthwise(x, l.Param(b+"conv_dw.weight"))
	y = Add(y, graph.Everywhere(storedParam(l, b+"conv_dw.bias"), y))
	y = c.LayerNorm(l, b+"norm", l.Output(b+"conv_dw", y))
	y = GELU(l.Linear(b+"mlp.fc1", y))
	if v.ResponseNorm {
		y = l.Output(b+"mlp.grn", responseNorm(y, storedParam(l, b+"mlp.grn.weight"), storedParam(l, b+"mlp.grn.bias")))
	}
	y = l.Linear(b+"mlp.fc2", y)
	if !v.ResponseNorm {
		y = Mul(y, graph.Everywhere(storedParam(l, b+"gamma"), y))
	}
	return y
}

// cropToMultiple drops the last rows and columns of x [B, H, W, C], so that height and width are
// multiples of p.
func cropToMultiple(x *Node, p int) *Node {
	h, w := x.Shape().Dim(1), x.Shape().Dim(2)
	if h%p == 0 && w%p == 0 {
		return x
	}
	return Slice(x, AxisRange(), AxisRange(0, h/p*p), AxisRange(0, w/p*p))
}

// responseNorm computes the global response normalisation of ConvNeXt V2 for x [B, H, W, C]:
//
//	x·(1 + weight·norm/(mean(norm) + 1e-6)) + bias
//
// norm [B, 1, 1, C] is the Euclidean norm of each channel over all positions, and mean(norm) is its
// mean over the channels. weight and bias are [C].
func responseNorm(x, weight, bias *Node) *Node {
	norm := Sqrt(ReduceAndKeep(Square(ConvertDType(x, dtypes.Float32)), ReduceSum, 1, 2))
	by := Mul(Div(norm, AddScalar(ReduceAndKeep(norm, ReduceMean, 3), 1e-6)), ExpandLeftToRank(weight, 4))
	return Add(Mul(x, ConvertDType(OnePlus(by), x.DType())), graph.Everywhere(bias, x))
}
