package backbone

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"

	. "github.com/gomlx/gomlx/core/graph"

	"github.com/sptune/spt/checkpoint"
)

// Config describes a backbone. Which fields count depends on Architecture; the
// others are zero.
type Config struct {
	Architecture string  `json:"architecture"`   // "vit", "swin", "convnext"
	ImageSize    int     `json:"image_size"`     // side of the square input, px
	PatchSize    int     `json:"patch_size"`     // side of a patch, px
	EmbedDim     int     `json:"embed_dim"`      // D, width of the tokens
	Depth        int     `json:"depth"`          // number of blocks
	NumHeads     int     `json:"num_heads"`      // attention heads; D is a multiple of it
	HiddenDim    int     `json:"hidden_dim"`     // width of the MLP, usually 4·D
	NumClasses   int     `json:"num_classes"`    // rows of the head
	LayerNormEps float64 `json:"layer_norm_eps"` // timm: 1e-6

	// The forms of a ViT; all zero is the plain one, whose head sees the class
	// token.

	// Pooling is what the head sees: "" the class token, "avg" the mean of the
	// patches, "token+avg" both, one after the other (DINOv2), "token+dist" class
	// and distillation token, one after the other (DeiT).
	Pooling        string `json:"pooling,omitempty"`
	Registers      int    `json:"registers,omitempty"`       // register tokens
	DistToken      bool   `json:"dist_token,omitempty"`      // DeiT's distillation token
	NoClassToken   bool   `json:"no_class_token,omitempty"`  // patches alone
	PatchPositions bool   `json:"patch_positions,omitempty"` // the position embedding is of the patches alone
	PreNorm        bool   `json:"pre_norm,omitempty"`        // a norm before the blocks (CLIP)
	FCNorm         bool   `json:"fc_norm,omitempty"`         // the final norm acts on what was pooled (MAE)
	NoPatchBias    bool   `json:"no_patch_bias,omitempty"`   // of the patch embedding
	NoQKVBias      bool   `json:"no_qkv_bias,omitempty"`
	QKNorm         bool   `json:"qk_norm,omitempty"`     // norms of each head's queries and keys
	LayerScale     bool   `json:"layer_scale,omitempty"` // a factor for each channel of a branch
	SwiGLU         bool   `json:"swiglu,omitempty"`      // gated MLP: fc1 has 2·HiddenDim rows, the gate's first
	QuickGELU      bool   `json:"quick_gelu,omitempty"`  // x·σ(1.702·x) in place of GELU (OpenAI's CLIP)

	Depths []int `json:"depths,omitempty"` // blocks of each stage of a Swin or ConvNeXt

	// Of ConvNeXt. EmbedDim is the first of Dims.
	Dims         []int   `json:"dims,omitempty"`           // channels of each stage
	ResponseNorm bool    `json:"response_norm,omitempty"`  // V2: global response normalisation in the MLP instead of layer scale
	FinalNormEps float64 `json:"final_norm_eps,omitempty"` // of the last norm; 0: LayerNormEps

	// Of Swin. EmbedDim and HiddenDim are the first stage's and double from stage to stage.
	StageHeads      []int `json:"stage_heads,omitempty"`       // attention heads of each stage
	WindowSize      int   `json:"window_size,omitempty"`       // side of a window, patches; a smaller map is one window
	PadsBeforeShift bool  `json:"pads_before_shift,omitempty"` // a map of no whole number of windows is padded and then shifted (Hugging Face); else shifted and then padded (timm)
}

// architecture is what a kind of backbone has to say of a configuration. Each
// is one file, whose Features reads top to bottom as data flows.
type architecture interface {
	// configure derives the configuration, but for architecture and number of
	// classes, from what a checkpoint says.
	configure(s source) (Config, error)
	// fit changes the weights of a checkpoint whose configuration is from where
	// another image size takes others.
	fit(from, to Config, weights checkpoint.StateDict) error
	// describe is c in a few words, without image size and number of classes.
	describe(c Config) string
	// validate says what is wrong with the fields of its own.
	validate(c Config) error
	// params is [Config.Params] without the head.
	params(c Config) []Param
	// features is [Config.Features].
	features(c Config, l Layers, images *Node) *Node
	// numFeatures is [Config.NumFeatures].
	numFeatures(c Config) int
	// blocks is [Config.Blocks].
	blocks(c Config) int
	// tokens is [Config.Tokens].
	tokens(c Config) int
	// head is [Config.Head].
	head(c Config) string
}

// Bounds of a configuration, far above any published backbone: what is derived
// from the numbers in a hostile file must neither overflow nor exhaust memory.
const (
	maxDepth = 1024    // blocks
	maxWidth = 1 << 16 // of tokens and of the MLP
)

// supported lists the architectures for an error.
func supported() string { return strings.Join(slices.Sorted(maps.Keys(architectures)), ", ") }

var architectures = map[string]architecture{"vit": vit{}, "swin": swin{}, "convnext": convnext{}}

// BeyondTimm says in what timm's model of the same names differs from c, so that its
// checkpoint gives the same results in this library alone; empty: in nothing.
func (c Config) BeyondTimm() string {
	switch {
	case c.Architecture == "vit" && c.Pooling == poolTokenAvg:
		return "its head sees the class token and the mean of the patches, as Hugging Face's, one of which timm's sees"
	case c.Architecture == "vit" && c.DistToken && c.Pooling == poolToken:
		return "its head sees the class token alone, as Hugging Face's, where timm's distilled models have a second head"
	case c.Architecture == "swin" && c.PadsBeforeShift:
		for i := range c.Depths {
			if s := c.stage(i); s.side%s.window != 0 {
				return fmt.Sprintf("maps of %d patches are padded for windows of %d before they are shifted, as Hugging Face's, and by timm after; images of a size that windows divide have none of it", s.side, s.window)
			}
		}
	}
	return ""
}

// Validate says what is wrong with c, if anything. A configuration that does not
// pass must not be asked for anything else.
func (c Config) Validate() error {
	a, ok := architectures[c.Architecture]
	switch {
	case !ok:
		return fmt.Errorf("backbone architecture %q is not supported; supported: %s", c.Architecture, supported())
	case c.ImageSize <= 0 || c.PatchSize <= 0 || c.EmbedDim <= 0 || c.NumClasses <= 0:
		return fmt.Errorf("image size %d, patch size %d, embedding width %d and number of classes %d must be positive", c.ImageSize, c.PatchSize, c.EmbedDim, c.NumClasses)
	case c.EmbedDim > maxWidth:
		return fmt.Errorf("embedding width %d: expected at most %d", c.EmbedDim, maxWidth)
	case !(c.LayerNormEps > 0):
		return fmt.Errorf("layer norm eps %g must be positive", c.LayerNormEps)
	}
	return a.validate(c)
}

// String is c in a few words: "ViT 12×192, 3 heads, patch 16, 224 px", or
// "ConvNeXt 3-3-9-3×96-192-384-768, patch 4, 224 px".
func (c Config) String() string {
	return fmt.Sprintf("%s, %d px", architectures[c.Architecture].describe(c), c.ImageSize)
}

// Grid is the number of patches along one side.
func (c Config) Grid() int { return c.ImageSize / c.PatchSize }

// Tokens is how many tokens an image is where most of the work is done.
func (c Config) Tokens() int { return architectures[c.Architecture].tokens(c) }

// Blocks is the number of residual blocks.
func (c Config) Blocks() int { return architectures[c.Architecture].blocks(c) }

// NumFeatures is the width of what [Config.Features] returns.
func (c Config) NumFeatures() int { return architectures[c.Architecture].numFeatures(c) }

// Head is the canonical name of the classification layer: "head", of a Swin or ConvNeXt
// "head.fc".
func (c Config) Head() string { return architectures[c.Architecture].head(c) }

// Features is what the head sees, [B, NumFeatures], for images [B, ImageSize,
// ImageSize, 3], float32 and normalised.
func (c Config) Features(l Layers, images *Node) *Node {
	return architectures[c.Architecture].features(c, l, images)
}

// Classify is [B, NumClasses] for features [B, NumFeatures].
func (c Config) Classify(l Layers, features *Node) *Node { return l.Linear(c.Head(), features) }

// Logits is [B, NumClasses] for images [B, ImageSize, ImageSize, 3], float32
// and normalised.
func (c Config) Logits(l Layers, images *Node) *Node { return c.Classify(l, c.Features(l, images)) }

// Role says what tuning may do with a tensor.
type Role int

// The roles: scored tensors are the weights and biases of the blocks, of what lies
// between them and of the final norm; patch and position embedding, or a stem, are frozen.
const (
	Frozen     Role = iota // patch embedding, position embedding, stem
	Scored                 // blocks, what lies between them, and final norm
	ClassToken             // always tuned by SPT
	Head                   // always tuned, never counted
)

// Param is one tensor of a backbone.
type Param struct {
	Name  string // canonical: timm's name, with separate q, k and v
	Shape []int  // PyTorch's order: a matrix is [out, in]
	Role  Role
	Norm  bool // weight or bias of a LayerNorm
	// EntriesOnly marks a scored tensor of two or more dimensions that takes no
	// structured module: a convolution, or a projection between blocks.
	EntriesOnly bool
}

// Size is the number of values of p.
func (p Param) Size() int {
	n := 1
	for _, d := range p.Shape {
		n *= d
	}
	return n
}

// Matrix reports whether p is the weight of one of the blocks' linear layers:
// where a structured module fits.
func (p Param) Matrix() bool { return p.Role == Scored && len(p.Shape) == 2 && !p.EntriesOnly }

// Params lists all tensors in the order in which PyTorch's named_parameters
// yields them; scores, plans and reports keep this order.
func (c Config) Params() []Param {
	out := architectures[c.Architecture].params(c)
	return append(out, linear(c.Head(), c.NumClasses, c.NumFeatures(), Head)...)
}

// linear is a linear layer's weight and bias.
func linear(name string, out, in int, role Role) []Param {
	return []Param{{Name: name + ".weight", Shape: []int{out, in}, Role: role}, {Name: name + ".bias", Shape: []int{out}, Role: role}}
}

// norm is a layer norm's weight and bias, over width channels.
func norm(name string, width int) []Param {
	return []Param{
		{Name: name + ".weight", Shape: []int{width}, Role: Scored, Norm: true},
		{Name: name + ".bias", Shape: []int{width}, Role: Scored, Norm: true},
	}
}

// Size is the number of the backbone's parameters without the head: what
// budgets in percent refer to.
func (c Config) Size() int {
	n := 0
	for _, p := range c.Params() {
		if p.Role != Head {
			n += p.Size()
		}
	}
	return n
}

// MaxRank is the greatest rank of a structured module that fits on every matrix:
// the shortest of their sides.
func (c Config) MaxRank() int {
	rank := 0
	for _, p := range c.Params() {
		if p.Matrix() {
			rank = min(cmp.Or(rank, p.Shape[0]), p.Shape[0], p.Shape[1])
		}
	}
	return rank
}

// ClassTokens are the names and the number of values of the tokens that SPT
// always tunes; none in a backbone that has no class token.
func (c Config) ClassTokens() (names []string, size int) {
	for _, p := range c.Params() {
		if p.Role == ClassToken {
			names, size = append(names, p.Name), size+p.Size()
		}
	}
	return names, size
}
