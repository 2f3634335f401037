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
// Vision Transformer using Shifted Windows", arXiv 2103.14030) as timm's SwinTransformer computes
// it, and where they differ Hugging Face's. Its map of tokens [B, side, side, width] is halved and
// widened from stage to stage. The windows of every second block are shifted by half a window. The
// head sees the mean of all tokens.
type Swin struct {
	PatchSize int `json:"patch_size"` // side of a patch, px
	// width of the first stage; it doubles from stage to stage
	EmbedDim int `json:"embed_dim"`
	// width of the MLP in the first stage; it doubles from stage to stage
	HiddenDim  int   `json:"hidden_dim"`
	Depths     []int `json:"depths"`      // number of blocks of each stage
	StageHeads []int `json:"stage_heads"` // number of attention heads of each stage
	WindowSize int   `json:"window_size"` // side of a window, patches; a smaller map is one window
	// PadsBeforeShift tells what happens to a map that windows do not divide: true pads it before
	// it is shifted, as Hugging Face does; false shifts it first, as timm does.
	PadsBeforeShift bool `json:"pads_before_shift,omitempty"`
}

// swin is the architecture of the Swin Transformers. Its tensors have timm's names, with q, k and v
// apart: patch_embed.{proj,norm}, layers.i.downsample.{norm,reduction} at the start of stage i,
// layers.i.blocks.j.{norm1, attn.{q,k,v,proj,relative_position_bias_table}, norm2, mlp.{fc1,fc2}},
// norm, head.fc.
var swin = Architecture[Swin]{
	Name: "swin", Namings: swinNamings, Head: "head.fc",
	Configure: configureSwin, Validate: Swin.validate, Describe: Swin.describe, Params: Swin.params,
	Features: Swin.features, FeatureMap: Swin.featureMap,
	NumFeatures: Swin.numFeatures, Blocks: Swin.blocks, Tokens: Swin.tokens,
	Fit: fitSwin, BeyondTimm: Swin.beyondTimm,
}

// Bounds of a configuration: each window of t tokens has a bias of t² values for each head.
const (
	maxWindow = 64
	maxGrid   = 4096
)

// configureSwin implements Architecture.Configure. The shapes of the relative-position tables tell
// heads and windows. No shape tells the image size: it comes from the checkpoint's metadata, the
// files beside it, or the rule of all published models that the last stage is one window.
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
	var windows []int // of the stages
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
	if err := s.onlyGELU(); err != nil {
		return c, err
	}
	w.PadsBeforeShift = strings.HasPrefix(s.naming.Source, "Hugging Face")
	if own := s.Config; own != nil {
		w.WindowSize, w.PadsBeforeShift = own.Form.(Swin).WindowSize, own.Form.(Swin).PadsBeforeShift
	}
	c = Config{ImageSize: s.ImageSize(0), LayerNormEps: s.LayerNormEps(1e-5), Form: w}
	// the last map is smaller than a window: this tells the size
	if last := stages - 1; c.ImageSize == 0 && 0 <= last && last <= 15 && windows[last] < w.WindowSize {
		c.ImageSize = w.madeAt(windows)
	}
	// Validate refuses more stages before the size is used.
	c.ImageSize = cmp.Or(c.ImageSize, w.WindowSize*w.PatchSize<<min(len(w.Depths)-1, 16))
	return c, nil
}

// fitSwin implements Architecture.Fit: it resizes the relative-position tables of the stages whose
// windows have another size than the tables. It refuses tables that belong to no image size: those
// of a model whose stages have windows of their own, which would be resized too.
func fitSwin(from, to Config, weights checkpoint.StateDict) error {
	w := to.Form.(Swin)
	if err := refuseUnknown(weights, w.params(to), "layers.", "patch_embed."); err != nil {
		return err
	}
	var windows []int
	for stage := range w.Depths {
		name := fmt.Sprintf("layers.%d.blocks.0.attn.%s", stage, positionTable)
		window, err := tableWindow(name, weights[name].Shape) // configureSwin has found it there
		if err != nil {
			return err
		}
		windows = append(windows, window)
	}
	if w.madeAt(windows) == 0 {
		return fmt.Errorf("the stages have windows of %s patches, which do not fit images of %d px and windows of %d: give the image size that the checkpoint was made for; models whose stages have windows of their own, such as timm's swin_s3, or whose maps are halved without padding are not supported", joined(windows), from.ImageSize, w.WindowSize)
	}
	for stage, depth := range w.Depths {
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
			if to := w.stage(to, stage).window; window != to {
				weights[name] = resizeTable(table, window, to)
			}
		}
	}
	return nil
}

// madeAt returns the largest image size at which the stages have these windows, 0 if there is none.
func (w Swin) madeAt(windows []int) int {
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

// joined writes numbers as model cards do: "2-2-6-2".
func joined(numbers []int) string {
	return strings.ReplaceAll(strings.Trim(fmt.Sprint(numbers), "[]"), " ", "-")
}

// maxPairs bounds the numbers that a stage's attention holds for pairs of tokens: a mask for each
// window, a bias for each head. Images of 1536 px with windows of 24 make 87 million.
const maxPairs = 1 << 27

// validate returns an error about the first field that is out of range or does not fit c.
func (w Swin) validate(c Config) error {
	if err := c.validatePatches(w.PatchSize, w.EmbedDim); err != nil {
		return err
	}
	last := len(w.Depths) - 1
	switch {
	case c.NumHeads != 0:
		return fmt.Errorf("%d attention heads in all blocks, but the stages of a Swin have their own; leave the number out", c.NumHeads)
	case last < 0 || len(w.StageHeads) != len(w.Depths):
		return fmt.Errorf("%d stages of blocks and %d of attention heads: expected equally many, at least one", len(w.Depths), len(w.StageHeads))
	case last > 15 || w.EmbedDim<<last > maxWidth || w.HiddenDim <= 0 || w.HiddenDim > maxWidth || w.HiddenDim<<last > 4*maxWidth:
		return fmt.Errorf("width %d and MLP width %d, doubled %d times: expected positive numbers that end at most at %d and %d", w.EmbedDim, w.HiddenDim, last, maxWidth, 4*maxWidth)
	case w.WindowSize < 1 || w.WindowSize > maxWindow:
		return fmt.Errorf("windows of %d patches a side: expected 1 to %d", w.WindowSize, maxWindow)
	case c.ImageSize%w.PatchSize != 0 || w.grid(c) > maxGrid:
		return fmt.Errorf("image size %d is not a multiple of patch size %d of up to %d patches", c.ImageSize, w.PatchSize, maxGrid)
	}
	for i, heads := range w.StageHeads {
		if heads <= 0 || w.EmbedDim<<i%heads != 0 {
			return fmt.Errorf("stage %d: width %d does not divide into %d attention heads", i, w.EmbedDim<<i, heads)
		}
		if w.Depths[i] <= 0 || w.Depths[i] > maxDepth {
			return fmt.Errorf("stage %d has %d blocks, expected 1 to %d", i, w.Depths[i], maxDepth)
		}
		s := w.stage(c, i)
		windows := (s.side + s.window - 1) / s.window
		if n := (windows*windows + heads) * s.window * s.window * s.window * s.window; n > maxPairs {
			return fmt.Errorf("stage %d attends within windows of %d patches a side on a map of %d, with %d heads: masks and biases have %d numbers, expected at most %d", i, s.window, s.side, heads, n, maxPairs)
		}
	}
	return nil
}

// swinStage holds the sizes of a stage.
type swinStage struct {
	width, heads, hidden int
	side                 int // of the map, tokens
	window               int // side of a window, tokens
}

// grid returns the number of patches along one side.
func (w Swin) grid(c Config) int { return c.ImageSize / w.PatchSize }

// stage returns the sizes of stage i.
func (w Swin) stage(c Config, i int) swinStage {
	side := (w.grid(c) + 1<<i - 1) >> i // an odd side is padded before it is halved
	return swinStage{width: w.EmbedDim << i, heads: w.StageHeads[i], hidden: w.HiddenDim << i, side: side, window: min(w.WindowSize, side)}
}

// tokens returns the number of tokens of the stage that does the most work. As a map gets smaller
// its channels get wider, so this is the deepest stage.
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
			out = append(out, Param{Name: b + "attn." + positionTable, Shape: []int{(2*s.window - 1) * (2*s.window - 1), s.heads}, Role: Frozen})
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
func (w Swin) features(c Config, l Layers, images *Node) *Node {
	return ReduceMean(w.featureMap(c, l, images), 1, 2)
}

// featureMap computes the tokens of the last stage after the final norm.
func (w Swin) featureMap(c Config, l Layers, images *Node) *Node {
	x := l.Output("patch_embed.proj", PatchEmbed(l, "patch_embed.proj", images, w.PatchSize))
	x = c.LayerNorm(l, "patch_embed.norm", x)
	block := 0
	for i, depth := range w.Depths {
		s, layer := w.stage(c, i), fmt.Sprintf("layers.%d.", i)
		if i > 0 {
			x = c.LayerNorm(l, layer+"downsample.norm", neighbours(padded(x, 2)))
			x = l.Linear(layer+"downsample.reduction", x)
		}
		attention := w.attention(s, l, x.Graph())
		for n := range depth {
			b := fmt.Sprintf("%sblocks.%d.", layer, n)
			x = entering(l, x)
			y := attention(b+"attn.", c.LayerNorm(l, b+"norm1", x), n%2 == 1)
			x = Add(x, l.Branch(b+"attn", block, x, y))
			y = l.Linear(b+"mlp.fc1", c.LayerNorm(l, b+"norm2", x))
			y = l.Linear(b+"mlp.fc2", GELU(y))
			x = Add(x, l.Branch(b+"mlp", block, x, y))
			block++
		}
	}
	return c.LayerNorm(l, "norm", leaving(l, x))
}

// attention returns multi-head self-attention within windows for the blocks of one stage: the
// tokens of x [B, side, side, width] attend to those of their window. A map that is one window is
// not shifted.
func (w Swin) attention(s swinStage, l Layers, g *Graph) func(name string, x *Node, shifted bool) *Node {
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
		// Padding lies after the map's last row and column. Attention sees it: its keys and values
		// are the biases.
		if w.PadsBeforeShift {
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
		if w.PadsBeforeShift {
			return cropped(rolled(y, shift), s.side)
		}
		return rolled(cropped(y, s.side), shift)
	}
}

// beyondTimm describes how timm's model of the same names differs.
func (w Swin) beyondTimm(c Config) string {
	for i := range w.Depths {
		if s := w.stage(c, i); w.PadsBeforeShift && s.side%s.window != 0 {
			return fmt.Sprintf("maps of %d patches are padded for windows of %d before they are shifted, as Hugging Face's, and by timm after; images of a size that windows divide have none of it", s.side, s.window)
		}
	}
	return ""
}
