package backbone

import (
	"cmp"
	"fmt"

	. "github.com/gomlx/gomlx/core/graph"
)

// Config holds the sizes and options of a backbone. Form holds the fields that only one
// architecture has, and the other fields are common to all architectures.
type Config struct {
	// ImageSize is the side length of the square input images, in pixels.
	ImageSize int
	// NumClasses is the number of classes, which is the number of rows of the head.
	NumClasses int
	// NumHeads is the number of attention heads of every block. It is 0 if the blocks have no
	// attention, or if the form holds a number of heads for each stage.
	NumHeads int
	// LayerNormEps is the value that layer norms add to the variance. It is 1e-6 in most of timm's
	// models.
	LayerNormEps float64
	// Form holds the fields that only one architecture has: a [ViT], a [Swin], a [ConvNeXt], or the
	// struct of an architecture that was added with [Register]. The type of Form determines the
	// architecture.
	Form any
}

// Upper bounds for the numbers of a configuration, far above any published backbone. They keep a
// damaged or malicious file from causing an overflow or exhausting memory.
const (
	maxDepth = 1024    // number of blocks
	maxWidth = 1 << 16 // channels of the tokens and of the MLP
)

// Architecture returns the name under which the architecture of c is registered, such as "vit". It
// returns "" if c has no form or if the architecture of its form is not registered.
func (c Config) Architecture() string {
	a, _ := architectureOf(c.Form)
	return a.Name
}

// BeyondTimm describes how the results of c differ from the results of timm's model with the same
// tensor names. If the text is not empty, a checkpoint of c gives the same results only in this
// library. The text is empty if the results do not differ.
func (c Config) BeyondTimm() string {
	a, err := architectureOf(c.Form)
	if err != nil {
		return ""
	}
	return a.BeyondTimm(c.Form, c)
}

// Validate returns an error about the first field that is out of range. Do not call any other
// method on an invalid configuration.
func (c Config) Validate() error {
	a, err := architectureOf(c.Form)
	switch {
	case err != nil:
		return err
	case c.ImageSize <= 0 || c.NumClasses <= 0:
		return fmt.Errorf("image size %d px and number of classes %d must be positive", c.ImageSize, c.NumClasses)
	case c.NumHeads < 0:
		return fmt.Errorf("number of attention heads %d must not be negative", c.NumHeads)
	case !(c.LayerNormEps > 0):
		return fmt.Errorf("layer norm eps %g must be positive", c.LayerNormEps)
	}
	return a.Validate(c.Form, c)
}

// validatePatches checks the fields that every form with a patch embedding has. It is a part of
// Validate.
func (c Config) validatePatches(patchSize, embedDim int) error {
	switch {
	case patchSize <= 0 || embedDim <= 0:
		return fmt.Errorf("patch size %d and embedding width %d must be positive", patchSize, embedDim)
	case embedDim > maxWidth:
		return fmt.Errorf("embedding width %d is too large; expected at most %d", embedDim, maxWidth)
	}
	return nil
}

// String returns a description of c for people: "ViT 12×192, 3 heads, patch 16, 224 px", or
// "ConvNeXt 3-3-9-3×96-192-384-768, patch 4, 224 px".
func (c Config) String() string {
	a, err := architectureOf(c.Form)
	if err != nil {
		return fmt.Sprintf("no architecture, %d px", c.ImageSize)
	}
	return fmt.Sprintf("%s, %d px", a.Describe(c.Form, c), c.ImageSize)
}

// architecture returns the architecture of c. It panics if c has no form, or a form that is not
// registered. This happens only if a program builds c by hand, because a Config from a file always
// has a registered form.
func (c Config) architecture() registered {
	a, err := architectureOf(c.Form)
	if err != nil {
		panic(err)
	}
	return a
}

// Tokens returns the number of tokens, or of positions of the feature map, in the part of the
// network that does most of the work for an image.
func (c Config) Tokens() int { return c.architecture().Tokens(c.Form, c) }

// Blocks returns the number of residual blocks.
func (c Config) Blocks() int { return c.architecture().Blocks(c.Form) }

// NumFeatures returns the width of the features that [Config.Features] computes.
func (c Config) NumFeatures() int { return c.architecture().NumFeatures(c.Form) }

// Head returns the canonical name of the classification layer: "head" for a ViT, "head.fc" for a
// Swin or a ConvNeXt.
func (c Config) Head() string { return c.architecture().Head }

// Features computes the input of the head, [B, NumFeatures]. With block 0, x holds images
// [B, ImageSize, ImageSize, 3], which are float32 and normalised. With a greater block, x holds the
// tokens [B, N, D] that enter this block. [Config.HiddenSize] returns N and D. [Model.Features]
// also accepts uint8 pixels.
func (c Config) Features(l Layers, block int, x *Node) *Node {
	return c.architecture().Features(c.Form, c, l, block, x)
}

// HiddenSize returns the number of tokens of an image that enter a block, and their width. These
// are the positions and channels of the feature map of a Swin or a ConvNeXt. HiddenSize returns an
// error unless the block is at least 1 and less than Blocks, and if the architecture cannot begin a
// forward pass at a block.
func (c Config) HiddenSize(block int) (tokens, width int, err error) {
	a := c.architecture()
	switch blocks := c.Blocks(); {
	case a.HiddenSize == nil:
		return 0, 0, fmt.Errorf("a backbone of the architecture %s cannot begin a forward pass at a block; train it from the images", a.Name)
	case block < 1 || block >= blocks:
		return 0, 0, fmt.Errorf("block %d: expected 1 to %d, because the backbone has %d blocks, numbered from 0", block, blocks-1, blocks)
	}
	tokens, width = a.HiddenSize(c.Form, c, block)
	return tokens, width, nil
}

// Classify computes the logits [B, NumClasses] from features [B, NumFeatures].
func (c Config) Classify(l Layers, features *Node) *Node { return l.Linear(c.Head(), features) }

// Role says what tuning may do with a tensor.
type Role int

// The roles of the tensors of a backbone.
const (
	// Frozen tensors are never selected by a plan: patch embedding, stem.
	Frozen Role = iota
	// Position is the role of position embeddings, tables of relative positions and register
	// tokens. A plan never selects them. Where another method tunes them, weight decay does not
	// apply, as in timm.
	Position
	// Scored tensors are tuned where a plan selects them: the blocks, the layers between stages,
	// and the final norm.
	Scored
	// ClassToken is the role of class and distillation tokens, which SPT always tunes. Weight decay
	// does not apply to them.
	ClassToken
	// Head is the role of the classification layer. It is always tuned and never counts towards a
	// budget.
	Head
)

// Param describes one tensor of a backbone.
type Param struct {
	// Name is the canonical name: timm's name, with separate q, k and v.
	Name string
	// Shape has the order of PyTorch: a matrix is [out, in].
	Shape []int
	// Role says what tuning may do with the tensor.
	Role Role
	// Norm reports whether the tensor is the weight or the bias of a layer norm.
	Norm bool
	// EntriesOnly reports whether a scored tensor of two or more dimensions can be tuned only entry
	// by entry, without a structured module: a convolution, or a projection between stages.
	EntriesOnly bool
}

// Decays reports whether weight decay applies to the tensor. It applies to tensors of two or more
// dimensions, except tokens and position embeddings: the roles ClassToken and Position.
func (p Param) Decays() bool {
	return len(p.Shape) >= 2 && p.Role != ClassToken && p.Role != Position
}

// Size returns the number of values of p.
func (p Param) Size() int {
	n := 1
	for _, d := range p.Shape {
		n *= d
	}
	return n
}

// Matrix reports whether p is the weight of a linear layer in a block. Such a weight can take a
// structured module, for example LoRA.
func (p Param) Matrix() bool { return p.Role == Scored && len(p.Shape) == 2 && !p.EntriesOnly }

// Params lists all tensors, with the head last, in the order of PyTorch's named_parameters. Scores,
// plans and reports keep this order.
func (c Config) Params() []Param {
	return append(c.architecture().Params(c.Form, c), LinearParams(c.Head(), c.NumClasses, c.NumFeatures(), Head)...)
}

// ParamsFrom lists the tensors that the forward pass reads from the input of a block on: those of
// this block and of all later layers, with the head last. ParamsFrom(0) lists all tensors.
func (c Config) ParamsFrom(block int) []Param {
	params := c.Params()
	seen, last := -1, ""
	for i, p := range params {
		if b := Block(p.Name); b != "" && b != last {
			seen, last = seen+1, b
		}
		if block > 0 && seen == block {
			return params[i:]
		}
	}
	return params
}

// LinearParams returns the weight NAME.weight [out, in] and the bias NAME.bias [out] of a linear
// layer.
func LinearParams(name string, out, in int, role Role) []Param {
	return []Param{{Name: name + ".weight", Shape: []int{out, in}, Role: role}, {Name: name + ".bias", Shape: []int{out}, Role: role}}
}

// NormParams returns the weight NAME.weight and the bias NAME.bias of a layer norm over width
// channels. Both have the role Scored.
func NormParams(name string, width int) []Param {
	return []Param{
		{Name: name + ".weight", Shape: []int{width}, Role: Scored, Norm: true},
		{Name: name + ".bias", Shape: []int{width}, Role: Scored, Norm: true},
	}
}

// Size returns the number of parameters of the backbone without the head. Budgets in percent are
// percentages of this number.
func (c Config) Size() int {
	n := 0
	for _, p := range c.Params() {
		if p.Role != Head {
			n += p.Size()
		}
	}
	return n
}

// MaxRank returns the greatest rank of a structured module that fits on every matrix. This is the
// shortest side of all matrices.
func (c Config) MaxRank() int {
	rank := 0
	for _, p := range c.Params() {
		if p.Matrix() {
			rank = min(cmp.Or(rank, p.Shape[0]), p.Shape[0], p.Shape[1])
		}
	}
	return rank
}

// ClassTokens returns the names of the tokens that SPT always tunes, and the total number of their
// values. It returns nil and 0 for a backbone without a class token.
func (c Config) ClassTokens() (names []string, size int) {
	for _, p := range c.Params() {
		if p.Role == ClassToken {
			names, size = append(names, p.Name), size+p.Size()
		}
	}
	return names, size
}
