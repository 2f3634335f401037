package backbone

import (
	"fmt"
	"math"

	. "github.com/gomlx/gomlx/core/graph"
	"github.com/gomlx/gomlx/ml/nn"

	"github.com/gomlx/compute"
	"github.com/gomlx/compute/dtypes"
)

// Config describes a Vision Transformer (Dosovitskiy et al. 2021, "An Image is
// Worth 16x16 Words"; timm's VisionTransformer with class-token pooling).
type Config struct {
	Architecture string  `json:"architecture"`   // always "vit"
	ImageSize    int     `json:"image_size"`     // side of the square input, px
	PatchSize    int     `json:"patch_size"`     // side of a patch, px
	EmbedDim     int     `json:"embed_dim"`      // D, width of the tokens
	Depth        int     `json:"depth"`          // number of blocks
	NumHeads     int     `json:"num_heads"`      // attention heads; D is a multiple of it
	HiddenDim    int     `json:"hidden_dim"`     // width of the MLP, usually 4·D
	NumClasses   int     `json:"num_classes"`    // rows of the head
	LayerNormEps float64 `json:"layer_norm_eps"` // timm: 1e-6
}

// Validate says what is wrong with c, if anything.
func (c Config) Validate() error {
	switch {
	case c.Architecture != "vit":
		return fmt.Errorf("backbone architecture %q is not supported; supported: vit", c.Architecture)
	case c.PatchSize <= 0 || c.ImageSize <= 0 || c.ImageSize%c.PatchSize != 0:
		return fmt.Errorf("image size %d is not a positive multiple of patch size %d", c.ImageSize, c.PatchSize)
	case c.EmbedDim <= 0 || c.NumHeads <= 0 || c.EmbedDim%c.NumHeads != 0:
		return fmt.Errorf("embedding width %d does not divide into %d attention heads; give the right number of heads", c.EmbedDim, c.NumHeads)
	case c.Depth <= 0 || c.HiddenDim <= 0 || c.NumClasses <= 0:
		return fmt.Errorf("depth %d, MLP width %d and number of classes %d must be positive", c.Depth, c.HiddenDim, c.NumClasses)
	case !(c.LayerNormEps > 0):
		return fmt.Errorf("layer norm eps %g must be positive", c.LayerNormEps)
	}
	return nil
}

// Grid is the number of patches along one side.
func (c Config) Grid() int { return c.ImageSize / c.PatchSize }

// Tokens is the length of the token sequence: the class token and the patches.
func (c Config) Tokens() int { return 1 + c.Grid()*c.Grid() }

// Role says what tuning may do with a tensor.
type Role int

// The roles of DESIGN: scored tensors are the weights and biases of the blocks
// and the final norm; patch and position embedding are frozen.
const (
	Frozen     Role = iota // patch embedding, position embedding
	Scored                 // blocks and final norm
	ClassToken             // always tuned by SPT
	Head                   // always tuned, never counted
)

// Param is one tensor of a backbone.
type Param struct {
	Name  string // canonical: timm's name, with separate q, k and v
	Shape []int  // PyTorch's order: a matrix is [out, in]
	Role  Role
	Norm  bool // weight or bias of a LayerNorm
}

// Size is the number of values of p.
func (p Param) Size() int {
	n := 1
	for _, d := range p.Shape {
		n *= d
	}
	return n
}

// Matrix reports whether p is the weight of one of the blocks' linear layers.
func (p Param) Matrix() bool { return p.Role == Scored && len(p.Shape) == 2 }

// Operations are a block's linear layers, in the order of the reference
// release: Param names them "blocks.N.OPERATION.weight".
var Operations = []string{"attn.q", "attn.k", "attn.v", "attn.proj", "mlp.fc1", "mlp.fc2"}

// Params lists all tensors in the order in which PyTorch's named_parameters
// yields them; scores, plans and reports keep this order.
func (c Config) Params() []Param {
	d, h, p := c.EmbedDim, c.HiddenDim, c.PatchSize
	out := []Param{
		{Name: "cls_token", Shape: []int{1, 1, d}, Role: ClassToken},
		{Name: "pos_embed", Shape: []int{1, c.Tokens(), d}, Role: Frozen},
		{Name: "patch_embed.proj.weight", Shape: []int{d, 3, p, p}, Role: Frozen},
		{Name: "patch_embed.proj.bias", Shape: []int{d}, Role: Frozen},
	}
	norm := func(name string) {
		out = append(out,
			Param{Name: name + ".weight", Shape: []int{d}, Role: Scored, Norm: true},
			Param{Name: name + ".bias", Shape: []int{d}, Role: Scored, Norm: true})
	}
	linear := func(name string, o, i int, role Role) {
		out = append(out,
			Param{Name: name + ".weight", Shape: []int{o, i}, Role: role},
			Param{Name: name + ".bias", Shape: []int{o}, Role: role})
	}
	for n := range c.Depth {
		b := fmt.Sprintf("blocks.%d.", n)
		norm(b + "norm1")
		linear(b+"attn.q", d, d, Scored)
		linear(b+"attn.k", d, d, Scored)
		linear(b+"attn.v", d, d, Scored)
		linear(b+"attn.proj", d, d, Scored)
		norm(b + "norm2")
		linear(b+"mlp.fc1", h, d, Scored)
		linear(b+"mlp.fc2", d, h, Scored)
	}
	norm("norm")
	linear("head", c.NumClasses, d, Head)
	return out
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

// Layers gives the graph its tensors. It is the hook through which tuning
// enters: the backbone asks for every tensor by its canonical name and does
// not know what is tuned.
type Layers interface {
	// Param is the tensor as the forward pass uses it.
	Param(name string) *Node
	// Linear is y = x·Wᵀ + b with NAME.weight [out,in] and NAME.bias [out], for
	// x [..., in], and whatever module is attached to the matrix.
	Linear(name string, x *Node) *Node
	// DropPath drops a residual branch [B, N, D] of the given block while training.
	DropPath(block int, branch *Node) *Node
}

// Weights is the backbone as it is: Layers with nothing tuned and nothing dropped.
type Weights map[string]*Node

// Param is the tensor of that name.
func (w Weights) Param(name string) *Node { return w[name] }

// Linear is x·Wᵀ + b.
func (w Weights) Linear(name string, x *Node) *Node {
	return Linear(x, w[name+".weight"], w[name+".bias"])
}

// DropPath is the branch itself.
func (w Weights) DropPath(_ int, branch *Node) *Node { return branch }

// Logits is [B, NumClasses] for images [B, ImageSize, ImageSize, 3], float32
// and normalised.
func (c Config) Logits(l Layers, images *Node) *Node {
	return l.Linear("head", c.Features(l, images))
}

// Features is the class token after the final norm, [B, D]: what the head sees.
//
// Nothing reads the other tokens of the last block, so there only the class
// token is computed beyond the keys and values: a twelfth of a ViT's work but
// for those two matrices, on the way forward and back.
func (c Config) Features(l Layers, images *Node) *Node {
	x := c.embed(l, images)
	for n := range c.Depth {
		b := fmt.Sprintf("blocks.%d.", n)
		y := c.layerNorm(l, b+"norm1", x)
		query := y
		if n == c.Depth-1 {
			x, query = classToken(x), classToken(y)
		}
		y = c.attention(l, b+"attn.", query, y)
		x = Add(x, l.DropPath(n, y))
		y = l.Linear(b+"mlp.fc1", c.layerNorm(l, b+"norm2", x))
		y = l.Linear(b+"mlp.fc2", GELU(y))
		x = Add(x, l.DropPath(n, y))
	}
	return c.layerNorm(l, "norm", Reshape(x, x.Shape().Dim(0), c.EmbedDim))
}

// classToken is [B, 1, D] of x [B, N, D].
func classToken(x *Node) *Node { return Slice(x, AxisRange(), AxisRange(0, 1), AxisRange()) }

// embed cuts the images into patches, projects them to tokens, puts the class
// token in front and adds the position embedding: [B, N, D].
func (c Config) embed(l Layers, images *Node) *Node {
	batch, grid, p, d := images.Shape().Dim(0), c.Grid(), c.PatchSize, c.EmbedDim
	// [B, gh, p, gw, p, 3] → [B, gh, gw, 3, p, p]: the order of proj.weight's axes.
	x := Reshape(images, batch, grid, p, grid, p, 3)
	x = Reshape(TransposeAllAxes(x, 0, 1, 3, 5, 2, 4), batch, grid*grid, 3*p*p)
	w := Reshape(l.Param("patch_embed.proj.weight"), d, 3*p*p)
	x = DotGeneral(x, []int{2}, nil, w, []int{1}, nil)
	x = Add(x, Reshape(l.Param("patch_embed.proj.bias"), 1, 1, d))
	class := BroadcastToDims(l.Param("cls_token"), batch, 1, d)
	return Add(Concatenate([]*Node{class, x}, 1), l.Param("pos_embed"))
}

// attention is multi-head self-attention: what the tokens of query [B, n, D]
// gather from those of x [B, N, D].
func (c Config) attention(l Layers, name string, query, x *Node) *Node {
	split := func(n string, x *Node) *Node {
		return Reshape(l.Linear(name+n, x), x.Shape().Dim(0), x.Shape().Dim(1), c.NumHeads, c.EmbedDim/c.NumHeads)
	}
	y := scaledDotProductAttention(split("q", query), split("k", x), split("v", x))
	return l.Linear(name+"proj", Reshape(y, query.Shape().Dimensions...))
}

// scaledDotProductAttention is softmax(q·kᵀ/√width)·v for q [B, n, heads,
// width], k and v [B, N, heads, width]. A backend with a gradient of its own for it never holds all
// scores [B, heads, N, N] at once.
func scaledDotProductAttention(q, k, v *Node) *Node {
	if q.Graph().Backend().Capabilities().Operations[compute.OpTypeFusedScaledDotProductAttentionVJP] {
		y, _ := BackendFusedScaledDotProductAttention(q, k, v, compute.AttentionAxesLayoutBSHD, nil)
		return y
	}
	// [B, N, heads, width] → [B, heads, N, width], once: forward and backward
	// products then find their operands in the order in which they run through them.
	for _, x := range []**Node{&q, &k, &v} {
		*x = TransposeAllAxes(*x, 0, 2, 1, 3)
	}
	q = MulScalar(q, 1/math.Sqrt(float64(q.Shape().Dim(3))))
	scores := DotGeneral(q, []int{3}, []int{0, 1}, k, []int{3}, []int{0, 1}) // [B, heads, N, N]
	y := DotGeneral(Softmax(scores), []int{3}, []int{0, 1}, v, []int{2}, []int{0, 1})
	return TransposeAllAxes(y, 0, 2, 1, 3)
}

func (c Config) layerNorm(l Layers, name string, x *Node) *Node {
	return nn.LayerNorm(x, []int{x.Rank() - 1}, c.LayerNormEps, l.Param(name+".weight"), l.Param(name+".bias"), nil)
}

// Linear is x·Wᵀ + b for x [..., in], w [out, in] and b [out].
func Linear(x, w, b *Node) *Node {
	y := DotGeneral(x, []int{x.Rank() - 1}, nil, w, []int{1}, nil)
	return Add(y, ExpandLeftToRank(b, y.Rank()))
}

// GELU is the exact form, x·Φ(x), as PyTorch's default.
func GELU(x *Node) *Node {
	y, _ := InternalFusedOpCaller(
		func() *Node { return BackendFusedGelu(x, true) },
		func() *Node { return MulScalar(Mul(x, OnePlus(Erf(MulScalar(x, math.Sqrt(0.5))))), 0.5) },
		true)
	return y
}

// Normalize maps pixels [B, H, W, 3] from uint8 to float32 (v/255 − mean)/std
// per channel.
func Normalize(pixels *Node, mean, std [3]float32) *Node {
	x := ConvertDType(pixels, dtypes.Float32)
	var scale, shift [3]float32
	for i := range 3 {
		scale[i] = 1 / (255 * std[i])
		shift[i] = -mean[i] / std[i]
	}
	g := pixels.Graph()
	channels := func(v [3]float32) *Node { return ExpandLeftToRank(Const(g, v[:]), 4) }
	return Add(Mul(x, channels(scale)), channels(shift))
}

// Images maps what reaches a graph as images to what Logits takes: uint8 pixels
// are normalised, float32 is taken as normalised already.
func (m *Model) Images(x *Node) *Node {
	if x.DType() == dtypes.Uint8 {
		return Normalize(x, m.Preprocessing.Mean, m.Preprocessing.Std)
	}
	return x
}
