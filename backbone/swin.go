package backbone

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	. "github.com/gomlx/gomlx/core/graph"

	"github.com/sptune/spt/checkpoint"
)

// Swin is the [Config].Form of a Swin Transformer (Liu et al. 2021, "Swin Transformer: Hierarchical
// Vision Transformer using Shifted Windows", arXiv 2103.14030). It computes the same as timm's
// SwinTransformer, or the same as Hugging Face transformers if PadsBeforeShift is set.
//
// The map of tokens is [B, side, side, width]. From stage to stage, side is halved and width is
// doubled. Attention works within windows. In every second block, the windows are shifted by half a
// window. The input of the head is the mean of all tokens.
type Swin struct {
	// PatchSize is the side length of a patch, in pixels.
	PatchSize int `json:"patch_size"`
	// EmbedDim is the number of channels in the first stage. It doubles from stage to stage.
	EmbedDim int `json:"embed_dim"`
	// HiddenDim is the width of the MLPs in the first stage. It doubles from stage to stage.
	HiddenDim int `json:"hidden_dim"`
	// Depths holds the number of blocks of each stage.
	Depths []int `json:"depths"`
	// StageHeads holds the number of attention heads of each stage.
	StageHeads []int `json:"stage_heads"`
	// WindowSize is the side length of a window, in patches. A smaller map forms one window.
	WindowSize int `json:"window_size"`
	// PadsBeforeShift matters for a map whose side length is not a multiple of the window size. If
	// it is true, the map is padded and then shifted, as in Hugging Face transformers. If it is
	// false, the map is shifted and then padded, as in timm.
	PadsBeforeShift bool `json:"pads_before_shift,omitempty"`
}

// swin is the architecture of the Swin Transformers. Its tensors have timm's names, with separate
// q, k and v: patch_embed.{proj,norm}, layers.i.downsample.{norm,reduction} at the start of stage
// i, layers.i.blocks.j.{norm1, attn.{q,k,v,proj,relative_position_bias_table}, norm2,
// mlp.{fc1,fc2}}, norm, head.fc.
var swin = Architecture[Swin]{
	Name: "swin", Namings: swinNamings, Head: "head.fc",
	Configure: configureSwin, Validate: Swin.validate, Describe: Swin.describe, Params: Swin.params,
	Features: Swin.features, FeatureMap: Swin.featureMap,
	NumFeatures: Swin.numFeatures, Blocks: Swin.blocks, Tokens: Swin.tokens,
	Hidden: Swin.hidden, HiddenSize: Swin.hiddenSize,
	Fit: fitSwin, BeyondTimm: Swin.beyondTimm, HuggingFace: Swin.huggingFace,
}

// Upper bounds for a configuration. A window of t tokens has t² biases for each head.
const (
	maxWindow = 64   // side length of a window, in patches
	maxGrid   = 4096 // side length of an image, in patches
)

// configureSwin implements Architecture.Configure. The shapes of the relative-position tables
// determine the numbers of heads and the window sizes. The image size comes from the metadata of
// the checkpoint or from the files beside it. If neither states it, and the last table is smaller
// than the others, the image size follows from the tables. Otherwise the last stage is assumed to
// be one window, as in all published models.
func configureSwin(s *Source) (c Config, err error) {
	patch, err := s.Shape("patch_embed.proj.weight", 4)
	if err != nil {
		return c, err
	}
	fc1, err := s.Shape("layers.0.blocks.0.mlp.fc1.weight", 2)
	if err != nil {
		return c, err
	}
	w := Swin{PatchSize: patch[2], EmbedDim: patch[0], HiddenDim: fc1[0]}
	stages, err := s.Count("layers")
	if err != nil {
		return c, err
	}
	var windows []int // window size of each stage
	for stage := range stages {
		layer := fmt.Sprintf("layers.%d.blocks", stage)
		depth, err := s.Count(layer)
		if err != nil {
			return c, err
		}
		name := layer + ".0.attn." + positionTable
		table, err := s.Shape(name, 2)
		if err != nil {
			return c, err
		}
		window, err := tableWindow(name, table)
		if err != nil {
			return c, err
		}
		windows = append(windows, window)
		w.Depths, w.StageHeads, w.WindowSize = append(w.Depths, depth), append(w.StageHeads, table[1]), max(w.WindowSize, window)
	}
	s.holdCard(map[string]int{"embed_dim": w.EmbedDim, "hidden_size": w.numFeatures(), "num_features": w.numFeatures()})
	if err := s.onlyGELU(); err != nil {
		return c, err
	}
	w.PadsBeforeShift = strings.HasPrefix(s.naming.Source, "Hugging Face")
	if own := s.Config; own != nil {
		w.WindowSize, w.PadsBeforeShift = own.Form.(Swin).WindowSize, own.Form.(Swin).PadsBeforeShift
	}
	size := s.holdSize(func(size int) error { return w.validate(Config{ImageSize: size}) })
	c = Config{ImageSize: size, LayerNormEps: s.LayerNormEps(1e-5), Form: w}
	// The last map is smaller than a window, so the window sizes determine the image size.
	if last := stages - 1; c.ImageSize == 0 && 0 <= last && last <= 15 && windows[last] < w.WindowSize {
		c.ImageSize = w.imageSizeFor(windows)
	}
	// Validate rejects more than 16 stages before the size is used.
	c.ImageSize = cmp.Or(c.ImageSize, w.WindowSize*w.PatchSize<<min(len(w.Depths)-1, 16))
	return c, nil
}

// fitSwin implements Architecture.Fit. It resizes the relative-position tables of the stages whose
// windows change their size. It returns an error if no image size gives the stages the window sizes
// of their tables. Such a model has different windows in each stage, and resizing its tables would
// give wrong results.
func fitSwin(from, to Config, weights checkpoint.StateDict) error {
	w := to.Form.(Swin)
	if err := refuseUnknown(weights, w.params(to), "layers.", "patch_embed."); err != nil {
		return err
	}
	var windows []int
	for stage := range w.Depths {
		name := fmt.Sprintf("layers.%d.blocks.0.attn.%s", stage, positionTable)
		// configureSwin has checked that the tensor exists
		window, err := tableWindow(name, weights[name].Shape)
		if err != nil {
			return err
		}
		windows = append(windows, window)
	}
	if w.imageSizeFor(windows) == 0 {
		return fmt.Errorf("the tables of relative positions are for windows of %s patches in the stages, which do not fit images of %d px and windows of %d patches; give the image size that the checkpoint was trained at (models with a different window size in each stage, such as timm's swin_s3, and models that halve maps without padding are not supported)", joined(windows), from.ImageSize, w.WindowSize)
	}
	for stage, depth := range w.Depths {
		for n := range depth {
			name := fmt.Sprintf("layers.%d.blocks.%d.attn.%s", stage, n, positionTable)
			table, ok := weights[name]
			if !ok || len(table.Shape) != 2 {
				continue // FromFile reports it when it compares names and shapes
			}
			window, err := tableWindow(name, table.Shape)
			if err != nil {
				return err
			}
			if to := w.stage(to, stage).window; window != to {
				weights[name] = resizeTable(table, window, to)
			}
		}
	}
	return nil
}

// imageSizeFor returns the largest image size, in pixels, at which the stages have the given window
// sizes. It returns 0 if there is no such size.
func (w Swin) imageSizeFor(windows []int) int {
	for grid := maxGrid; grid > 0; grid-- {
		c := Config{ImageSize: grid * w.PatchSize}
		stage := 0
		for stage < len(windows) && w.stage(c, stage).window == windows[stage] {
			stage++
		}
		if stage == len(windows) {
			return c.ImageSize
		}
	}
	return 0
}

// describe returns a short description for people.
func (w Swin) describe(c Config) string {
	return fmt.Sprintf("Swin %s×%d, window %d, patch %d", joined(w.Depths), w.EmbedDim, w.WindowSize, w.PatchSize)
}

// joined joins numbers with hyphens, as model cards do: "2-2-6-2".
func joined(numbers []int) string {
	return strings.ReplaceAll(strings.Trim(fmt.Sprint(numbers), "[]"), " ", "-")
}

// maxPairs bounds the number of values that the attention of a stage holds for pairs of tokens: a
// mask for each window and a bias for each head. Images of 1536 px with windows of 24 patches need
// 87 million values.
const maxPairs = 1 << 27

// validate returns an error about the first field that is out of range or does not fit c.
func (w Swin) validate(c Config) error {
	if err := c.validatePatches(w.PatchSize, w.EmbedDim); err != nil {
		return err
	}
	last := len(w.Depths) - 1
	switch {
	case c.NumHeads != 0:
		return fmt.Errorf("%d attention heads are given for all blocks, but each stage of a Swin has its own number of heads; leave out the number of heads", c.NumHeads)
	case last < 0 || len(w.StageHeads) != len(w.Depths):
		return fmt.Errorf("numbers of blocks for %d stages and numbers of attention heads for %d stages: expected lists of the same length, and at least one stage", len(w.Depths), len(w.StageHeads))
	case last > 15 || w.EmbedDim<<last > maxWidth || w.HiddenDim <= 0 || w.HiddenDim > maxWidth || w.HiddenDim<<last > 4*maxWidth:
		return fmt.Errorf("width %d and MLP width %d, each doubled %d times: expected positive numbers, and widths of at most %d and %d in the last stage", w.EmbedDim, w.HiddenDim, last, maxWidth, 4*maxWidth)
	case w.WindowSize < 1 || w.WindowSize > maxWindow:
		return fmt.Errorf("windows of %d patches a side: expected 1 to %d patches", w.WindowSize, maxWindow)
	case c.ImageSize%w.PatchSize != 0 || w.grid(c) > maxGrid:
		return fmt.Errorf("image size %d px: expected a multiple of the patch size %d px, with at most %d patches a side", c.ImageSize, w.PatchSize, maxGrid)
	}
	for i, heads := range w.StageHeads {
		if heads <= 0 || w.EmbedDim<<i%heads != 0 {
			return fmt.Errorf("stage %d: width %d cannot be divided into %d attention heads of equal width", i, w.EmbedDim<<i, heads)
		}
		if w.Depths[i] <= 0 || w.Depths[i] > maxDepth {
			return fmt.Errorf("stage %d has %d blocks, expected 1 to %d", i, w.Depths[i], maxDepth)
		}
		s := w.stage(c, i)
		windows := (s.side + s.window - 1) / s.window
		if n := (windows*windows + heads) * s.window * s.window * s.window * s.window; n > maxPairs {
			return fmt.Errorf("stage %d has windows of %d patches a side on a map of %d patches a side, and %d heads: its masks and biases hold %d values, expected at most %d; choose a smaller image size", i, s.window, s.side, heads, n, maxPairs)
		}
	}
	return nil
}

// swinStage holds the sizes of a stage.
type swinStage struct {
	width, heads int // number of channels and of attention heads
	hidden       int // width of the MLPs
	side         int // side length of the map, in tokens
	window       int // side length of a window, in tokens
}

// grid returns the number of patches along one side of the image.
func (w Swin) grid(c Config) int { return c.ImageSize / w.PatchSize }

// stage returns the sizes of stage i.
func (w Swin) stage(c Config, i int) swinStage {
	side := (w.grid(c) + 1<<i - 1) >> i // an odd side is padded before it is halved
	return swinStage{width: w.EmbedDim << i, heads: w.StageHeads[i], hidden: w.HiddenDim << i, side: side, window: min(w.WindowSize, side)}
}

// tokens returns the number of tokens of the stage that does the most work. From stage to stage,
// the map shrinks as the channels grow, so this is the stage with the most blocks.
func (w Swin) tokens(c Config) int {
	side := w.stage(c, slices.Index(w.Depths, slices.Max(w.Depths))).side
	return side * side
}

// blocks returns the number of residual blocks of all stages.
func (w Swin) blocks() (n int) {
	for _, depth := range w.Depths {
		n += depth
	}
	return n
}

// numFeatures returns the width of the last stage.
func (w Swin) numFeatures() int { return w.EmbedDim << (len(w.Depths) - 1) }

// params lists the tensors of the backbone without its head.
func (w Swin) params(c Config) []Param {
	d, p := w.EmbedDim, w.PatchSize
	out := []Param{
		{Name: "patch_embed.proj.weight", Shape: []int{d, 3, p, p}, Role: Frozen},
		{Name: "patch_embed.proj.bias", Shape: []int{d}, Role: Frozen},
		{Name: "patch_embed.norm.weight", Shape: []int{d}, Role: Frozen, Norm: true},
		{Name: "patch_embed.norm.bias", Shape: []int{d}, Role: Frozen, Norm: true},
	}
	for i, depth := range w.Depths {
		s, layer := w.stage(c, i), fmt.Sprintf("layers.%d.", i)
		if i > 0 {
			out = append(out, NormParams(layer+"downsample.norm", 2*s.width)...)
			out = append(out, Param{Name: layer + "downsample.reduction.weight", Shape: []int{s.width, 2 * s.width}, Role: Scored, EntriesOnly: true})
		}
		for n := range depth {
			b := fmt.Sprintf("%sblocks.%d.", layer, n)
			out = append(out, NormParams(b+"norm1", s.width)...)
			out = append(out, Param{Name: b + "attn." + positionTable, Shape: []int{(2*s.window - 1) * (2*s.window - 1), s.heads}, Role: Position})
			for _, operation := range []string{"q", "k", "v", "proj"} {
				out = append(out, LinearParams(b+"attn."+operation, s.width, s.width, Scored)...)
			}
			out = append(out, NormParams(b+"norm2", s.width)...)
			out = append(out, LinearParams(b+"mlp.fc1", s.hidden, s.width, Scored)...)
			out = append(out, LinearParams(b+"mlp.fc2", s.width, s.hidden, Scored)...)
		}
	}
	return append(out, NormParams("norm", w.numFeatures())...)
}

// features computes the mean of all tokens.
func (w Swin) features(c Config, l Layers, block int, x *Node) *Node {
	return ReduceMean(w.featureMap(c, l, block, x), 1, 2)
}

// featureMap computes the tokens of the last stage after the final norm.
func (w Swin) featureMap(c Config, l Layers, block int, x *Node) *Node {
	return c.LayerNorm(l, "norm", w.encode(c, l, block, w.blocks(), x))
}

// hidden implements Architecture.Hidden.
func (w Swin) hidden(c Config, l Layers, block int, images *Node) *Node {
	x := w.encode(c, l, 0, block, images)
	return Reshape(x, x.Shape().Dim(0), -1, x.Shape().Dim(3))
}

// hiddenSize implements Architecture.HiddenSize.
func (w Swin) hiddenSize(c Config, block int) (tokens, width int) {
	s := w.stage(c, stageOf(w.Depths, block))
	return s.side * s.side, s.width
}

// stageOf returns the stage of a block. depths holds the number of blocks of each stage.
func stageOf(depths []int, block int) (stage int) {
	for ; block >= depths[stage]; stage++ {
		block -= depths[stage]
	}
	return stage
}

// encode computes the blocks [from, to). x holds images if from is 0, otherwise tokens [B, N, D].
// The result is the input of block to, or the output of the last block, [B, side, side, width].
func (w Swin) encode(c Config, l Layers, from, to int, x *Node) *Node {
	if from == 0 {
		x = l.Output("patch_embed.proj", PatchEmbed(l, "patch_embed.proj", x, w.PatchSize))
		x = c.LayerNorm(l, "patch_embed.norm", x)
	} else {
		s := w.stage(c, stageOf(w.Depths, from))
		x = Reshape(x, x.Shape().Dim(0), s.side, s.side, s.width)
	}
	first := 0 // block of the stage
	for i, depth := range w.Depths {
		s, layer := w.stage(c, i), fmt.Sprintf("layers.%d.", i)
		if from < first && first <= to {
			x = c.LayerNorm(l, layer+"downsample.norm", mergePatches(pad(x, 2)))
			x = l.Linear(layer+"downsample.reduction", x)
		}
		attention := w.attention(s, l, x.Graph())
		for n := max(0, from-first); n < min(depth, to-first); n++ {
			b, block := fmt.Sprintf("%sblocks.%d.", layer, n), first+n
			x = blockInput(l, x)
			y := attention(b+"attn.", c.LayerNorm(l, b+"norm1", x), n%2 == 1)
			x = Add(x, l.Branch(b+"attn", block, x, y))
			y = l.Linear(b+"mlp.fc1", c.LayerNorm(l, b+"norm2", x))
			y = l.Linear(b+"mlp.fc2", GELU(y))
			x = Add(x, l.Branch(b+"mlp", block, x, y))
		}
		first += depth
	}
	return lastBlockOutput(l, x)
}

// attention returns a function that computes the multi-head self-attention of a block of one stage.
// The tokens of x [B, side, side, width] attend to the tokens of the same window. If the map is one
// window, the function does not shift it.
func (w Swin) attention(s swinStage, l Layers, g *Graph) func(name string, x *Node, shifted bool) *Node {
	whole := (s.side + s.window - 1) / s.window * s.window // side length of the padded map
	tokens := s.window * s.window
	index := Const(g, positionIndex(s.window, s.heads))
	var mask *Node // shared by all shifted blocks
	return func(name string, x *Node, shifted bool) *Node {
		shift := 0
		if shifted && s.side > s.window {
			if shift = s.window / 2; mask == nil && shift > 0 {
				mask = Const(g, shiftMask(whole, s.window, shift))
			}
		}
		// The padding lies after the last row and column of the map. Attention includes it, and its
		// keys and values are the biases.
		if w.PadsBeforeShift {
			x = roll(pad(x, s.window), -shift)
		} else {
			x = pad(roll(x, -shift), s.window)
		}
		x = splitWindows(x, s.window)
		split := func(operation string) *Node {
			return Reshape(l.Linear(name+operation, x), x.Shape().Dim(0), tokens, s.heads, s.width/s.heads)
		}
		bias := Reshape(Gather(Reshape(storedParam(l, name+positionTable), -1), index), 1, s.heads, tokens, tokens)
		m := mask
		if shift == 0 {
			m = nil
		}
		y := windowAttention(split("q"), split("k"), split("v"), bias, m)
		y = l.Linear(name+"proj", Reshape(y, x.Shape().Dimensions...))
		y = mergeWindows(y, whole, s.window)
		if w.PadsBeforeShift {
			return crop(roll(y, shift), s.side)
		}
		return roll(crop(y, s.side), shift)
	}
}

// beyondTimm implements Architecture.BeyondTimm.
func (w Swin) beyondTimm(c Config) string {
	for i := range w.Depths {
		if s := w.stage(c, i); w.PadsBeforeShift && s.side%s.window != 0 {
			return fmt.Sprintf("maps of %d patches a side are padded for windows of %d patches before the shift, as in Hugging Face transformers, but timm pads them after the shift; at an image size that needs no padding the results agree", s.side, s.window)
		}
	}
	return ""
}
