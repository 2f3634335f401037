package backbone

import (
	"fmt"

	. "github.com/gomlx/gomlx/core/graph"
)

// vit is the Vision Transformer (Dosovitskiy et al. 2021, "An Image is Worth
// 16x16 Words", arXiv 2010.11929) as timm's VisionTransformer computes it, in
// the forms that Config lists: those of DeiT (Touvron et al. 2021, arXiv
// 2012.12877), MAE (He et al. 2022, arXiv 2111.06377), CLIP's image tower
// (Radford et al. 2021, arXiv 2103.00020), DINOv2 (Oquab et al. 2023, arXiv
// 2304.07193) with registers (Darcet et al. 2024, arXiv 2309.16588), and
// ViT-22B's norms of queries and keys (Dehghani et al. 2023, arXiv 2302.05442).
type vit struct{}

// What the head sees: Config.Pooling.
const (
	poolToken     = ""
	poolAvg       = "avg"
	poolTokenAvg  = "token+avg"
	poolTokenDist = "token+dist"
)

// maxRegisters is far above any published ViT's four.
const maxRegisters = 1024

func (vit) describe(c Config) string {
	text := fmt.Sprintf("ViT %d×%d, %d heads, patch %d", c.Depth, c.EmbedDim, c.NumHeads, c.PatchSize)
	if c.Registers > 0 {
		text += fmt.Sprintf(", registers %d", c.Registers)
	}
	if c.SwiGLU {
		text += ", SwiGLU"
	}
	switch c.Pooling {
	case poolAvg:
		text += ", mean of patches"
	case poolTokenAvg:
		text += ", class token and mean of patches"
	case poolTokenDist:
		text += ", class and distillation token"
	}
	return text
}

func (vit) validate(c Config) error {
	switch {
	case c.ImageSize%c.PatchSize != 0:
		return fmt.Errorf("image size %d is not a multiple of patch size %d", c.ImageSize, c.PatchSize)
	case c.NumHeads <= 0 || c.EmbedDim%c.NumHeads != 0:
		return fmt.Errorf("embedding width %d does not divide into %d attention heads; give the right number of heads", c.EmbedDim, c.NumHeads)
	case c.Depth <= 0 || c.Depth > maxDepth || c.HiddenDim <= 0 || c.HiddenDim > maxWidth:
		return fmt.Errorf("depth %d and MLP width %d: expected positive numbers up to %d and %d", c.Depth, c.HiddenDim, maxDepth, maxWidth)
	case c.Registers < 0 || c.Registers > maxRegisters:
		return fmt.Errorf("%d register tokens, expected 0 to %d", c.Registers, maxRegisters)
	}
	switch c.Pooling {
	case poolToken, poolTokenAvg, poolTokenDist:
		if c.NoClassToken || c.Pooling == poolTokenDist && !c.DistToken {
			return fmt.Errorf("the head is to see a token (pooling %q) that the backbone does not have", c.Pooling)
		}
	case poolAvg:
	default:
		return fmt.Errorf("pooling %q, expected %q (class token), %q, %q or %q", c.Pooling, poolToken, poolAvg, poolTokenAvg, poolTokenDist)
	}
	if c.FCNorm && c.Pooling != poolToken && c.Pooling != poolAvg {
		return fmt.Errorf("pooling %q with a norm after it, expected one before", c.Pooling)
	}
	return nil
}

func (vit) tokens(c Config) int { return prefixTokens(c) + c.Grid()*c.Grid() }
func (vit) blocks(c Config) int { return c.Depth }
func (vit) head(Config) string  { return "head" }

func (vit) numFeatures(c Config) int {
	if c.Pooling == poolTokenAvg || c.Pooling == poolTokenDist {
		return 2 * c.EmbedDim
	}
	return c.EmbedDim
}

// prefixTokens is the number of tokens before the patches.
func prefixTokens(c Config) int {
	n := c.Registers
	if !c.NoClassToken {
		n++
	}
	if c.DistToken {
		n++
	}
	return n
}

// TokensRead is the range [from, to) of a ViT's tokens that the head sees;
// nothing reads the others once the last block has their keys and values.
func (c Config) TokensRead() (from, to int) {
	switch c.Pooling {
	case poolAvg:
		return prefixTokens(c), c.Tokens()
	case poolTokenAvg:
		return 0, c.Tokens()
	case poolTokenDist:
		return 0, 2
	}
	return 0, 1
}

// finalNorm is the name of the last norm.
func finalNorm(c Config) string {
	if c.FCNorm {
		return "fc_norm"
	}
	return "norm"
}

func (v vit) params(c Config) (out []Param) {
	d, h, p := c.EmbedDim, c.HiddenDim, c.PatchSize
	add := func(ps ...Param) { out = append(out, ps...) }
	vector := func(name string, role Role, n int) { add(Param{Name: name, Shape: []int{n}, Role: role}) }
	token := func(name string, role Role, n int) { add(Param{Name: name, Shape: []int{1, n, d}, Role: role}) }

	if !c.NoClassToken {
		token("cls_token", ClassToken, 1)
	}
	if c.Registers > 0 {
		token("reg_token", Frozen, c.Registers)
	}
	positions := c.Grid() * c.Grid()
	if !c.PatchPositions {
		positions += prefixTokens(c)
	}
	token("pos_embed", Frozen, positions)
	if c.DistToken {
		token("dist_token", ClassToken, 1)
	}
	add(Param{Name: "patch_embed.proj.weight", Shape: []int{d, 3, p, p}, Role: Frozen})
	if !c.NoPatchBias {
		vector("patch_embed.proj.bias", Frozen, d)
	}
	if c.PreNorm {
		for _, p := range norm("norm_pre", d) {
			p.Role = Frozen // of what lies before the blocks
			add(p)
		}
	}
	for n := range c.Depth {
		b := fmt.Sprintf("blocks.%d.", n)
		add(norm(b+"norm1", d)...)
		for _, operation := range []string{"q", "k", "v"} {
			add(Param{Name: b + "attn." + operation + ".weight", Shape: []int{d, d}, Role: Scored})
			if !c.NoQKVBias {
				vector(b+"attn."+operation+".bias", Scored, d)
			}
		}
		if c.QKNorm {
			add(norm(b+"attn.q_norm", d/c.NumHeads)...)
			add(norm(b+"attn.k_norm", d/c.NumHeads)...)
		}
		add(linear(b+"attn.proj", d, d, Scored)...)
		if c.LayerScale {
			vector(b+"ls1.gamma", Scored, d)
		}
		add(norm(b+"norm2", d)...)
		add(linear(b+"mlp.fc1", fc1Rows(c), d, Scored)...)
		add(linear(b+"mlp.fc2", d, h, Scored)...)
		if c.LayerScale {
			vector(b+"ls2.gamma", Scored, d)
		}
	}
	add(norm(finalNorm(c), d)...)
	return out
}

// fc1Rows is the width of what the MLP's first layer returns.
func fc1Rows(c Config) int {
	if c.SwiGLU {
		return 2 * c.HiddenDim
	}
	return c.HiddenDim
}

// features is what pool makes of the tokens.
//
// Nothing reads the other tokens of the last block, so there only those that
// pool reads are computed beyond the keys and values. Where that is the class
// token it saves a twelfth of a ViT's work but for those two matrices, on the
// way forward and back.
func (v vit) features(c Config, l Layers, images *Node) *Node {
	x := v.embed(c, l, images)
	if c.PreNorm {
		x = c.layerNorm(l, "norm_pre", x)
	}
	for n := range c.Depth {
		b := fmt.Sprintf("blocks.%d.", n)
		x = l.Tokens(n, entering(l, x))
		y := c.layerNorm(l, b+"norm1", x)
		query := y
		if n == c.Depth-1 {
			from, to := c.TokensRead()
			x, query = tokens(x, from, to), tokens(y, from, to)
		}
		y = v.attention(c, l, b+"attn.", query, y)
		x = Add(x, l.Branch(b+"attn", n, x, v.layerScale(c, l, b+"ls1", y)))
		y = v.mlp(c, l, b+"mlp.", c.layerNorm(l, b+"norm2", x))
		x = Add(x, l.Branch(b+"mlp", n, x, v.layerScale(c, l, b+"ls2", y)))
	}
	return v.pool(c, l, leaving(l, x))
}

// tokens is x [B, to−from, D] of x [B, N, D].
func tokens(x *Node, from, to int) *Node {
	if from == 0 && to == x.Shape().Dim(1) {
		return x
	}
	return Slice(x, AxisRange(), AxisRange(from, to), AxisRange())
}

// embed cuts the images into patches, projects them to tokens, puts the tokens
// that stand for no patch in front and adds the position embedding: [B, N, D].
func (vit) embed(c Config, l Layers, images *Node) *Node {
	batch, d := images.Shape().Dim(0), c.EmbedDim
	x := patches(l, "patch_embed.proj", images, c.PatchSize)
	x = l.Output("patch_embed.proj", Reshape(x, batch, c.Grid()*c.Grid(), d))
	if c.PatchPositions {
		x = Add(x, Everywhere(exact(l, "pos_embed"), x))
	}
	var all []*Node
	for _, name := range []string{"cls_token", "dist_token", "reg_token"} {
		if token := exact(l, name); token != nil {
			all = append(all, ConvertDType(BroadcastToDims(token, batch, token.Shape().Dim(1), d), x.DType()))
		}
	}
	if len(all) > 0 {
		x = Concatenate(append(all, x), 1)
	}
	if !c.PatchPositions {
		x = Add(x, Everywhere(exact(l, "pos_embed"), x))
	}
	return x
}

// attention is multi-head self-attention: what the tokens of query [B, n, D]
// gather from those of x [B, N, D].
func (vit) attention(c Config, l Layers, name string, query, x *Node) *Node {
	split := func(n string, x *Node) *Node {
		x = Reshape(l.Linear(name+n, x), x.Shape().Dim(0), x.Shape().Dim(1), c.NumHeads, c.EmbedDim/c.NumHeads)
		if c.QKNorm && n != "v" {
			x = c.layerNorm(l, name+n+"_norm", x)
		}
		return x
	}
	y := scaledDotProductAttention(split("q", query), split("k", x), split("v", x))
	return l.Linear(name+"proj", Reshape(y, query.Shape().Dimensions...))
}

// mlp is the block's MLP.
func (vit) mlp(c Config, l Layers, name string, x *Node) *Node {
	y := l.Linear(name+"fc1", x)
	switch {
	case c.SwiGLU: // SiLU(gate)·up (Shazeer 2020, arXiv 2002.05202)
		gate := SliceAxis(y, -1, AxisRange(0, c.HiddenDim))
		up := SliceAxis(y, -1, AxisRange(c.HiddenDim))
		y = Mul(Mul(gate, Sigmoid(gate)), up)
	case c.QuickGELU:
		y = Mul(y, Sigmoid(MulScalar(y, 1.702)))
	default:
		y = GELU(y)
	}
	return l.Linear(name+"fc2", y)
}

// layerScale is y times the factors of its channels, if the form has them.
func (vit) layerScale(c Config, l Layers, name string, y *Node) *Node {
	if !c.LayerScale {
		return y
	}
	return Mul(y, Everywhere(exact(l, name+".gamma"), y))
}

// pool is what the head sees, [B, NumFeatures], of the tokens that it reads,
// [B, n, D].
func (vit) pool(c Config, l Layers, x *Node) *Node {
	batch, d := x.Shape().Dim(0), c.EmbedDim
	switch c.Pooling {
	case poolAvg:
		if c.FCNorm {
			return c.layerNorm(l, "fc_norm", ReduceMean(x, 1))
		}
		return ReduceMean(c.layerNorm(l, "norm", x), 1)
	case poolTokenAvg:
		x = c.layerNorm(l, "norm", x)
		class, patches := tokens(x, 0, 1), tokens(x, prefixTokens(c), c.Tokens())
		return Concatenate([]*Node{Reshape(class, batch, d), ReduceMean(patches, 1)}, 1)
	case poolTokenDist:
		return Reshape(c.layerNorm(l, "norm", x), batch, 2*d)
	}
	return c.layerNorm(l, finalNorm(c), Reshape(x, batch, d))
}
