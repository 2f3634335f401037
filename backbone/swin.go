package backbone

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	. "github.com/gomlx/gomlx/core/graph"

	"github.com/sptune/spt/checkpoint"
)

// swin is the Swin Transformer (Liu et al. 2021, "Swin Transformer: Hierarchical
// Vision Transformer using Shifted Windows", arXiv 2103.14030; timm's
// SwinTransformer, and where they differ Hugging Face's). Its map of tokens
// [B, side, side, width] is halved and widened from stage to stage; every other
// block's windows are shifted by half a window. Heads see the mean of all tokens.
type swin struct{}

// Bounds of a configuration: each window of t tokens has a bias of t² values for
// each head.
const (
	maxWindow = 64
	maxGrid   = 4096
)

// configure derives the configuration from the tensors' shapes, those of the
// relative position tables for heads and windows. The image size is in no shape:
// it comes from the checkpoint's metadata, the files beside it, or the rule of all
// published models that the last stage is one window.
func (swin) configure(s source) (c Config, err error) {
	if s.options.NumHeads != 0 {
		return c, fmt.Errorf("%d attention heads are given, but a swin's checkpoint says how many each stage has; leave them out", s.options.NumHeads)
	}
	patch, err := s.shape("patch_embed.proj.weight", 4)
	if err != nil {
		return c, err
	}
	fc1, err := s.shape("layers.0.blocks.0.mlp.fc1.weight", 2)
	if err != nil {
		return c, err
	}
	c = Config{PatchSize: patch[2], EmbedDim: patch[0], HiddenDim: fc1[0], LayerNormEps: s.layerNormEps(1e-5)}
	stages, err := s.count("layers")
	if err != nil {
		return c, err
	}
	var windows []int // of the stages
	for stage := range stages {
		layer := fmt.Sprintf("layers.%d.blocks", stage)
		depth, err := s.count(layer)
		if err != nil {
			return c, err
		}
		name := layer + ".0.attn." + positionTable
		table, err := s.shape(name, 2)
		if err != nil {
			return c, err
		}
		window, err := tableWindow(name, table)
		if err != nil {
			return c, err
		}
		windows = append(windows, window)
		c.Depths, c.StageHeads, c.WindowSize = append(c.Depths, depth), append(c.StageHeads, table[1]), max(c.WindowSize, window)
	}
	if err := s.onlyGELU(); err != nil {
		return c, err
	}
	c.PadsBeforeShift = strings.HasPrefix(s.naming.Source, "Hugging Face")
	c.ImageSize = s.side.imageSize
	if own := s.side.config; own != nil {
		c.ImageSize, c.WindowSize, c.PadsBeforeShift = own.ImageSize, own.WindowSize, own.PadsBeforeShift
	}
	if last := stages - 1; c.ImageSize == 0 && 0 <= last && last <= 15 && windows[last] < c.WindowSize { // the last map is smaller than a window: this tells the size
		c.ImageSize = c.madeAt(windows)
	}
	// More stages are refused below, before anything is made of the size.
	c.ImageSize = cmp.Or(c.ImageSize, c.WindowSize*c.PatchSize<<min(len(c.Depths)-1, 16))
	return c, nil
}

// fit resizes the relative position tables of the stages whose windows have
// another size than the tables were made for. It refuses tables that are those of no
// image size: of a model whose stages have windows of their own they would be resized too.
func (v swin) fit(from, to Config, weights checkpoint.StateDict) error {
	if err := allKnown(weights, v.params(to), "layers.", "patch_embed."); err != nil {
		return err
	}
	var windows []int
	for stage := range to.Depths {
		name := fmt.Sprintf("layers.%d.blocks.0.attn.%s", stage, positionTable)
		window, err := tableWindow(name, weights[name].Shape) // configure has found it there
		if err != nil {
			return err
		}
		windows = append(windows, window)
	}
	if from.madeAt(windows) == 0 {
		return fmt.Errorf("the stages have windows of %s patches, which are not those of images of %d px and windows of %d: give the size of the images that it was made for (--image-size); models whose stages have windows of their own, as timm's swin_s3, or whose maps are halved without padding are not supported", joined(windows), from.ImageSize, from.WindowSize)
	}
	for stage, depth := range to.Depths {
		for n := range depth {
			name := fmt.Sprintf("layers.%d.blocks.%d.attn.%s", stage, n, positionTable)
			table, ok := weights[name]
			if !ok || len(table.Shape) != 2 {
				continue // is reported when names and shapes are compared
			}
			window, err := tableWindow(name, table.Shape)
			if err != nil {
				return err
			}
			if to := to.stage(stage).window; window != to {
				weights[name] = resizeTable(table, window, to)
			}
		}
	}
	return nil
}

// madeAt is the largest image size at which c's stages have these windows, 0 if none is.
func (c Config) madeAt(windows []int) int {
	for grid := maxGrid; grid > 0; grid-- {
		c.ImageSize = grid * c.PatchSize
		stage := 0
		for stage < len(windows) && c.stage(stage).window == windows[stage] {
			stage++
		}
		if stage == len(windows) {
			return c.ImageSize
		}
	}
	return 0
}

func (swin) describe(c Config) string {
	return fmt.Sprintf("Swin %s×%d, window %d, patch %d", joined(c.Depths), c.EmbedDim, c.WindowSize, c.PatchSize)
}

// joined is the numbers as model cards write them: "2-2-6-2".
func joined(numbers []int) string {
	return strings.ReplaceAll(strings.Trim(fmt.Sprint(numbers), "[]"), " ", "-")
}

// maxPairs bounds what a stage's attention holds for pairs of tokens: a mask for each
// window, a bias for each head. On images of 1536 px windows of 24 make 87 million.
const maxPairs = 1 << 27

func (swin) validate(c Config) error {
	last := len(c.Depths) - 1
	switch {
	case last < 0 || len(c.StageHeads) != len(c.Depths):
		return fmt.Errorf("%d stages of blocks and %d of attention heads: expected as many, at least one", len(c.Depths), len(c.StageHeads))
	case last > 15 || c.EmbedDim<<last > maxWidth || c.HiddenDim <= 0 || c.HiddenDim > maxWidth || c.HiddenDim<<last > 4*maxWidth:
		return fmt.Errorf("width %d and MLP width %d, doubled %d times: expected positive numbers that end at most at %d and %d", c.EmbedDim, c.HiddenDim, last, maxWidth, 4*maxWidth)
	case c.WindowSize < 1 || c.WindowSize > maxWindow:
		return fmt.Errorf("windows of %d patches a side: expected 1 to %d", c.WindowSize, maxWindow)
	case c.ImageSize%c.PatchSize != 0 || c.Grid() > maxGrid:
		return fmt.Errorf("image size %d is not a multiple of patch size %d of up to %d patches", c.ImageSize, c.PatchSize, maxGrid)
	}
	for i, heads := range c.StageHeads {
		if heads <= 0 || c.EmbedDim<<i%heads != 0 {
			return fmt.Errorf("stage %d: width %d does not divide into %d attention heads", i, c.EmbedDim<<i, heads)
		}
		if c.Depths[i] <= 0 || c.Depths[i] > maxDepth {
			return fmt.Errorf("stage %d has %d blocks, expected 1 to %d", i, c.Depths[i], maxDepth)
		}
		s := c.stage(i)
		windows := (s.side + s.window - 1) / s.window
		if n := (windows*windows + heads) * s.window * s.window * s.window * s.window; n > maxPairs {
			return fmt.Errorf("stage %d attends within windows of %d patches a side on a map of %d, with %d heads: masks and biases have %d numbers, expected at most %d", i, s.window, s.side, heads, n, maxPairs)
		}
	}
	return nil
}

// swinStage are the sizes of a stage of a Swin Transformer.
type swinStage struct {
	width, heads, hidden int
	side                 int // of the map, tokens
	window               int // side of a window, tokens
}

func (c Config) stage(i int) swinStage {
	side := (c.Grid() + 1<<i - 1) >> i // an odd side is padded before it is halved
	return swinStage{width: c.EmbedDim << i, heads: c.StageHeads[i], hidden: c.HiddenDim << i, side: side, window: min(c.WindowSize, side)}
}

// tokens is the number of tokens of the stage that does the most work: as a map
// gets smaller its channels get wider, so the deepest stage's.
func (swin) tokens(c Config) int {
	side := c.stage(slices.Index(c.Depths, slices.Max(c.Depths))).side
	return side * side
}

func (swin) blocks(c Config) (n int) {
	for _, depth := range c.Depths {
		n += depth
	}
	return n
}

func (swin) numFeatures(c Config) int { return c.EmbedDim << (len(c.Depths) - 1) }
func (swin) head(Config) string       { return "head.fc" }

func (swin) params(c Config) []Param {
	d, p := c.EmbedDim, c.PatchSize
	out := []Param{
		{Name: "patch_embed.proj.weight", Shape: []int{d, 3, p, p}, Role: Frozen},
		{Name: "patch_embed.proj.bias", Shape: []int{d}, Role: Frozen},
		{Name: "patch_embed.norm.weight", Shape: []int{d}, Role: Frozen, Norm: true},
		{Name: "patch_embed.norm.bias", Shape: []int{d}, Role: Frozen, Norm: true},
	}
	for i, depth := range c.Depths {
		s, layer := c.stage(i), fmt.Sprintf("layers.%d.", i)
		if i > 0 {
			out = append(out, norm(layer+"downsample.norm", 2*s.width)...)
			out = append(out, Param{Name: layer + "downsample.reduction.weight", Shape: []int{s.width, 2 * s.width}, Role: Scored, EntriesOnly: true})
		}
		for n := range depth {
			b := fmt.Sprintf("%sblocks.%d.", layer, n)
			out = append(out, norm(b+"norm1", s.width)...)
			out = append(out, Param{Name: b + "attn." + positionTable, Shape: []int{(2*s.window - 1) * (2*s.window - 1), s.heads}, Role: Frozen})
			for _, operation := range []string{"q", "k", "v", "proj"} {
				out = append(out, linear(b+"attn."+operation, s.width, s.width, Scored)...)
			}
			out = append(out, norm(b+"norm2", s.width)...)
			out = append(out, linear(b+"mlp.fc1", s.hidden, s.width, Scored)...)
			out = append(out, linear(b+"mlp.fc2", s.width, s.hidden, Scored)...)
		}
	}
	return append(out, norm("norm", c.NumFeatures())...)
}

// features is the mean of all tokens after the final norm.
func (w swin) features(c Config, l Layers, images *Node) *Node {
	x := l.Output("patch_embed.proj", patches(l, "patch_embed.proj", images, c.PatchSize))
	x = c.layerNorm(l, "patch_embed.norm", x)
	block := 0
	for i, depth := range c.Depths {
		s, layer := c.stage(i), fmt.Sprintf("layers.%d.", i)
		if i > 0 {
			x = c.layerNorm(l, layer+"downsample.norm", neighbours(padded(x, 2)))
			x = l.Linear(layer+"downsample.reduction", x)
		}
		attention := w.attention(c, s, l, x.Graph())
		for n := range depth {
			b := fmt.Sprintf("%sblocks.%d.", layer, n)
			x = entering(l, x)
			y := attention(b+"attn.", c.layerNorm(l, b+"norm1", x), n%2 == 1)
			x = Add(x, l.Branch(b+"attn", block, x, y))
			y = l.Linear(b+"mlp.fc1", c.layerNorm(l, b+"norm2", x))
			y = l.Linear(b+"mlp.fc2", GELU(y))
			x = Add(x, l.Branch(b+"mlp", block, x, y))
			block++
		}
	}
	return ReduceMean(c.layerNorm(l, "norm", leaving(l, x)), 1, 2)
}

// attention is multi-head self-attention within windows, for the blocks of one
// stage: what the tokens of x [B, side, side, width] gather from those of their
// window. A map that is one window is not shifted.
func (swin) attention(c Config, s swinStage, l Layers, g *Graph) func(name string, x *Node, shifted bool) *Node {
	whole := (s.side + s.window - 1) / s.window * s.window // side of the padded map
	tokens := s.window * s.window
	index := Const(g, positionIndex(s.window, s.heads))
	var mask *Node // of all shifted blocks
	return func(name string, x *Node, shifted bool) *Node {
		shift := 0
		if shifted && s.side > s.window {
			if shift = s.window / 2; mask == nil && shift > 0 {
				mask = Const(g, shiftMask(whole, s.window, shift))
			}
		}
		// Padding lies beside the map's last row and column. Windows see it: its keys
		// and values are the biases.
		if c.PadsBeforeShift {
			x = rolled(padded(x, s.window), -shift)
		} else {
			x = padded(rolled(x, -shift), s.window)
		}
		x = windows(x, s.window)
		split := func(operation string) *Node {
			return Reshape(l.Linear(name+operation, x), x.Shape().Dim(0), tokens, s.heads, s.width/s.heads)
		}
		bias := Reshape(Gather(Reshape(exact(l, name+positionTable), -1), index), 1, s.heads, tokens, tokens)
		m := mask
		if shift == 0 {
			m = nil
		}
		y := windowAttention(split("q"), split("k"), split("v"), bias, m)
		y = l.Linear(name+"proj", Reshape(y, x.Shape().Dimensions...))
		y = merged(y, whole, s.window)
		if c.PadsBeforeShift {
			return cropped(rolled(y, shift), s.side)
		}
		return rolled(cropped(y, s.side), shift)
	}
}
