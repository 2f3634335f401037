package backbone

import (
	"cmp"
	"fmt"

	. "github.com/gomlx/gomlx/core/graph"
)

// Config describes a backbone: what every architecture has, and in Form what one architecture has.
type Config struct {
	// ImageSize is the side of the square input, px.
	ImageSize int
	// NumClasses is the number of rows of the head.
	NumClasses int
	// NumHeads is the number of attention heads of every block. It is 0 if the blocks have no
	// attention or if the form says how many heads each stage has.
	NumHeads int
	// LayerNormEps is added to the variance by layer norms; 1e-6 in most of timm's models.
	LayerNormEps float64
	// Form holds the fields that the architecture alone has: a [ViT], a [Swin], a [ConvNeXt], or
	// the struct of an architecture that [Register] has made known. Its type tells the
	// architecture.
	Form any
}

// Bounds of a configuration, far above any published backbone: what is derived from the numbers in
// a hostile file must neither overflow nor exhaust memory.
const (
	maxDepth = 1024    // blocks
	maxWidth = 1 << 16 // of tokens and of the MLP
)

// Architecture returns the name under which the architecture of c is registered, such as "vit"; ""
// if c has no form or one that is not registered.
func (c Config) Architecture() string {
	a, _ := architectureOf(c.Form)
	return a.Name
}

// BeyondTimm describes how the results of c differ from those of timm's model of the same names, so
// that its checkpoint gives the same results in this library alone. It is empty if they do not
// differ.
func (c Config) BeyondTimm() string {
	a, err := architectureOf(c.Form)
	if err != nil {
		return ""
	}
	return a.BeyondTimm(c.Form, c)
}

// Validate returns an error about the first field that is out of range. An invalid configuration
// must not be asked for anything else.
func (c Config) Validate() error {
	a, err := architectureOf(c.Form)
	switch {
	case err != nil:
		return err
	case c.ImageSize <= 0 || c.NumClasses <= 0:
		return fmt.Errorf("image size %d and number of classes %d must be positive", c.ImageSize, c.NumClasses)
	case c.NumHeads < 0:
		return fmt.Errorf("number of attention heads %d must not be negative", c.NumHeads)
	case !(c.LayerNormEps > 0):
		return fmt.Errorf("layer norm eps %g must be positive", c.LayerNormEps)
	}
	return a.Validate(c.Form, c)
}

// validatePatches is the part of Validate that all forms with a patch embedding have in common.
func (c Config) validatePatches(patchSize, embedDim int) error {
	switch {
	case patchSize <= 0 || embedDim <= 0:
		return fmt.Errorf("patch size %d and embedding width %d must be positive", patchSize, embedDim)
	case embedDim > maxWidth:
		return fmt.Errorf("embedding width %d: expected at most %d", embedDim, maxWidth)
	}
	return nil
}

// String describes c for people: "ViT 12×192, 3 heads, patch 16, 224 px", or "ConvNeXt
// 3-3-9-3×96-192-384-768, patch 4, 224 px".
func (c Config) String() string {
	a, err := architectureOf(c.Form)
	if err != nil {
		return fmt.Sprintf("no architecture, %d px", c.ImageSize)
	}
	return fmt.Sprintf("%s, %d px", a.Describe(c.Form, c), c.ImageSize)
}

// architecture returns the architecture of c. It panics if a program has made c without a form, or
// with one that is not registered; a Config from a file has a registered form.
func (c Config) architecture() registered {
	a, err := architectureOf(c.Form)
	if err != nil {
		panic(err)
	}
	return a
}

// Tokens returns the number of tokens, or positions of the map, of an image where most of the work
// is done.
func (c Config) Tokens() int { return c.architecture().Tokens(c.Form, c) }

// Blocks returns the number of residual blocks.
func (c Config) Blocks() int { return c.architecture().Blocks(c.Form) }

// NumFeatures returns the width of the result of [Config.Features].
func (c Config) NumFeatures() int { return c.architecture().NumFeatures(c.Form) }

// Head returns the canonical name of the classification layer: "head" for a ViT, "head.fc" for a
// Swin or a ConvNeXt.
func (c Config) Head() string { return c.architecture().Head }

// Features computes what the head sees, [B, NumFeatures], from images [B, ImageSize, ImageSize, 3],
// float32 and normalised.
func (c Config) Features(l Layers, images *Node) *Node {
	return c.architecture().Features(c.Form, c, l, images)
}

// featureMap computes the map of [Model.FeatureMap] from the same images as Features.
func (c Config) featureMap(l Layers, images *Node) *Node {
	return c.architecture().FeatureMap(c.Form, c, l, images)
}

// Classify computes the logits [B, NumClasses] from features [B, NumFeatures].
func (c Config) Classify(l Layers, features *Node) *Node { return l.Linear(c.Head(), features) }

// Role tells what tuning may do with a tensor.
type Role int

// The roles of the tensors of a backbone.
const (
	Frozen Role = iota // never tuned: patch embedding, position embedding, stem
	// tuned where a plan says so: blocks, what lies between them, and final norm
	Scored
	ClassToken // always tuned by SPT
	Head       // always tuned, never counted
)

// Param describes one tensor of a backbone.
type Param struct {
	Name  string // canonical: timm's name, with separate q, k and v
	Shape []int  // in PyTorch's order: a matrix is [out, in]
	Role  Role
	Norm  bool // whether it is the weight or bias of a LayerNorm
	// EntriesOnly marks a scored tensor of two or more dimensions that takes no structured module:
	// a convolution, or a projection between blocks.
	EntriesOnly bool
}

// Size returns the number of values of p.
func (p Param) Size() int {
	n := 1
	for _, d := range p.Shape {
		n *= d
	}
	return n
}

// Matrix reports whether p is the weight of one of the blocks' linear layers, which can take a
// structured module.
func (p Param) Matrix() bool { return p.Role == Scored && len(p.Shape) == 2 && !p.EntriesOnly }

// Params lists all tensors in the order of PyTorch's named_parameters. Scores, plans and reports
// keep this order.
func (c Config) Params() []Param {
	return append(c.architecture().Params(c.Form, c), LinearParams(c.Head(), c.NumClasses, c.NumFeatures(), Head)...)
}

// LinearParams returns the weight [out, in] and the bias [out] of a linear layer.
func LinearParams(name string, out, in int, role Role) []Param {
	return []Param{{Name: name + ".weight", Shape: []int{out, in}, Role: role}, {Name: name + ".bias", Shape: []int{out}, Role: role}}
}

// NormParams returns the weight and the bias of a layer norm over width channels, both scored.
func NormParams(name string, width int) []Param {
	return []Param{
		{Name: name + ".weight", Shape: []int{width}, Role: Scored, Norm: true},
		{Name: name + ".bias", Shape: []int{width}, Role: Scored, Norm: true},
	}
}

// Size returns the number of the backbone's parameters without the head, to which budgets in
// percent refer.
func (c Config) Size() int {
	n := 0
	for _, p := range c.Params() {
		if p.Role != Head {
			n += p.Size()
		}
	}
	return n
}

// MaxRank returns the greatest rank of a structured module that fits on every matrix: the shortest
// of their sides.
func (c Config) MaxRank() int {
	rank := 0
	for _, p := range c.Params() {
		if p.Matrix() {
			rank = min(cmp.Or(rank, p.Shape[0]), p.Shape[0], p.Shape[1])
		}
	}
	return rank
}

// ClassTokens returns the names of the tokens that SPT always tunes, and the number of their
// values. A backbone without a class token has none.
func (c Config) ClassTokens() (names []string, size int) {
	for _, p := range c.Params() {
		if p.Role == ClassToken {
			names, size = append(names, p.Name), size+p.Size()
		}
	}
	return names, size
}
