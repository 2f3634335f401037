package backbone

import (
	"fmt"

	. "github.com/gomlx/gomlx/core/graph"

	"github.com/sptune/spt/internal/graph"
)

// ViT is the [Config].Form of a Vision Transformer (Dosovitskiy et al. 2021, "An Image is Worth
// 16x16 Words", arXiv 2010.11929). It computes the same as timm's VisionTransformer. The number of
// attention heads is [Config].NumHeads.
//
// If all fields except the sizes are zero, the model is the original ViT with a class token. The
// other fields describe these variants: DeiT (Touvron et al. 2021, arXiv 2012.12877), MAE (He et
// al. 2022, arXiv 2111.06377), the image tower of CLIP (Radford et al. 2021, arXiv 2103.00020),
// DINOv2 (Oquab et al. 2023, arXiv 2304.07193), registers (Darcet et al. 2024, arXiv 2309.16588),
// and the norms of queries and keys of ViT-22B (Dehghani et al. 2023, arXiv 2302.05442).
type ViT struct {
	// PatchSize is the side length of a patch, in pixels.
	PatchSize int `json:"patch_size"`
	// EmbedDim is the width D of the tokens.
	EmbedDim int `json:"embed_dim"`
	// Depth is the number of blocks.
	Depth int `json:"depth"`
	// HiddenDim is the width of the MLPs, usually 4·D.
	HiddenDim int `json:"hidden_dim"`

	// Pooling says what the input of the head is:
	//
	//   - "": the class token
	//   - "avg": the mean of the patch tokens
	//   - "token+avg": the class token followed by the mean of the patch tokens (DINOv2)
	//   - "token+dist": the class token followed by the distillation token (DeiT)
	Pooling string `json:"pooling,omitempty"`
	// Registers is the number of register tokens.
	Registers int `json:"registers,omitempty"`
	// DistToken reports whether there is a distillation token (DeiT).
	DistToken bool `json:"dist_token,omitempty"`
	// NoClassToken reports whether the class token is absent.
	NoClassToken bool `json:"no_class_token,omitempty"`
	// PatchPositions reports whether only the patch tokens have position embeddings. By default,
	// all tokens have one.
	PatchPositions bool `json:"patch_positions,omitempty"`
	// PreNorm reports whether there is a norm before the first block (CLIP).
	PreNorm bool `json:"pre_norm,omitempty"`
	// FCNorm reports whether the final norm comes after the pooling (MAE). By default, it comes
	// before the pooling.
	FCNorm bool `json:"fc_norm,omitempty"`
	// NoPatchBias reports whether the patch embedding has no bias.
	NoPatchBias bool `json:"no_patch_bias,omitempty"`
	// NoQKVBias reports whether the projections to queries, keys and values have no bias.
	NoQKVBias bool `json:"no_qkv_bias,omitempty"`
	// QKNorm reports whether there are norms of the queries and keys of each head.
	QKNorm bool `json:"qk_norm,omitempty"`
	// LayerScale reports whether each channel of a residual branch is multiplied by a learned
	// factor.
	LayerScale bool `json:"layer_scale,omitempty"`
	// SwiGLU reports whether the MLPs are gated. Then mlp.fc1 has 2·HiddenDim rows: first the rows
	// of the gate, then those of the up projection.
	SwiGLU bool `json:"swiglu,omitempty"`
	// QuickGELU reports whether the activation is x·σ(1.702·x) instead of GELU (OpenAI's CLIP).
	QuickGELU bool `json:"quick_gelu,omitempty"`
}

// vit is the architecture of the Vision Transformers. Its tensors have timm's names, with separate
// q, k and v: cls_token [1,1,D], dist_token, reg_token [1,R,D], pos_embed [1,P,D], patch_embed.proj
// [D,3,p,p], norm_pre, blocks.i.{norm1, attn.{q,k,v} [D,D], attn.{q_norm,k_norm}, attn.proj,
// ls1.gamma, norm2, mlp.fc1 [H,D], mlp.fc2 [D,H], ls2.gamma}, norm, fc_norm, head, head_dist.
//
// A SwiGLU is packed as in timm: mlp.fc1 is [2H,D], and the rows of the gate come first. In DINOv2
// models with registers, the position of the class token is already added to cls_token.
var vit = Architecture[ViT]{
	Name: "vit", Namings: vitNamings, Head: "head",
	Configure: configureViT, Validate: ViT.validate, Describe: ViT.describe, Params: ViT.params,
	Features: ViT.features, FeatureMap: ViT.featureMap,
	NumFeatures: ViT.numFeatures, Blocks: ViT.blocks, Tokens: ViT.tokens,
	Hidden: ViT.hidden, HiddenSize: func(v ViT, c Config, _ int) (tokens, width int) { return v.tokens(c), v.EmbedDim },
	Fit: fitViT, Export: splitHeads, BeyondTimm: ViT.beyondTimm, HuggingFace: ViT.huggingFace, Preprocessing: vitPreprocessing,
}

// The values of ViT.Pooling.
const (
	poolToken     = ""
	poolAvg       = "avg"
	poolTokenAvg  = "token+avg"
	poolTokenDist = "token+dist"
)

// maxRegisters bounds the number of register tokens. Published models have four.
const maxRegisters = 1024

// describe returns a short description for people.
func (v ViT) describe(c Config) string {
	text := fmt.Sprintf("ViT %d×%d, %d heads, patch %d", v.Depth, v.EmbedDim, c.NumHeads, v.PatchSize)
	if v.Registers > 0 {
		text += fmt.Sprintf(", registers %d", v.Registers)
	}
	if v.SwiGLU {
		text += ", SwiGLU"
	}
	switch v.Pooling {
	case poolAvg:
		text += ", mean of patches"
	case poolTokenAvg:
		text += ", class token and mean of patches"
	case poolTokenDist:
		text += ", class and distillation token"
	}
	return text
}

// validate returns an error about the first field that is out of range or does not fit c.
func (v ViT) validate(c Config) error {
	if err := c.validatePatches(v.PatchSize, v.EmbedDim); err != nil {
		return err
	}
	switch {
	case c.ImageSize%v.PatchSize != 0:
		return fmt.Errorf("image size %d px is not a multiple of patch size %d px", c.ImageSize, v.PatchSize)
	case c.NumHeads <= 0 || v.EmbedDim%c.NumHeads != 0:
		return fmt.Errorf("embedding width %d cannot be divided into %d attention heads of equal width; give the right number of heads", v.EmbedDim, c.NumHeads)
	case v.Depth <= 0 || v.Depth > maxDepth || v.HiddenDim <= 0 || v.HiddenDim > maxWidth:
		return fmt.Errorf("depth %d and MLP width %d: expected positive numbers up to %d and %d", v.Depth, v.HiddenDim, maxDepth, maxWidth)
	case v.Registers < 0 || v.Registers > maxRegisters:
		return fmt.Errorf("%d register tokens, expected 0 to %d", v.Registers, maxRegisters)
	}
	switch v.Pooling {
	case poolToken, poolTokenAvg, poolTokenDist:
		if v.NoClassToken || v.Pooling == poolTokenDist && !v.DistToken {
			return fmt.Errorf("the pooling %q needs a token that the backbone does not have", v.Pooling)
		}
	case poolAvg:
	default:
		return fmt.Errorf("unknown pooling %q; expected %q (class token), %q, %q or %q", v.Pooling, poolToken, poolAvg, poolTokenAvg, poolTokenDist)
	}
	if v.FCNorm && v.Pooling != poolToken && v.Pooling != poolAvg {
		return fmt.Errorf("the pooling %q cannot have the norm after it; put the norm before the pooling", v.Pooling)
	}
	return nil
}

// grid returns the number of patches along one side of the image.
func (v ViT) grid(c Config) int { return c.ImageSize / v.PatchSize }

// tokens returns the number of all tokens: the patch tokens and the prefix tokens.
func (v ViT) tokens(c Config) int { return v.prefixTokens() + v.grid(c)*v.grid(c) }

// blocks returns the number of residual blocks.
func (v ViT) blocks() int { return v.Depth }

// numFeatures returns the width of the input of the head.
func (v ViT) numFeatures() int {
	if v.Pooling == poolTokenAvg || v.Pooling == poolTokenDist {
		return 2 * v.EmbedDim
	}
	return v.EmbedDim
}

// prefixTokens returns the number of tokens before the patch tokens: class token, distillation
// token and register tokens.
func (v ViT) prefixTokens() int {
	n := v.Registers
	if !v.NoClassToken {
		n++
	}
	if v.DistToken {
		n++
	}
	return n
}

// tokensRead returns the range [from, to) of the tokens of the last block that the pooling reads.
func (v ViT) tokensRead(c Config) (from, to int) {
	switch v.Pooling {
	case poolAvg:
		return v.prefixTokens(), v.tokens(c)
	case poolTokenAvg:
		return 0, v.tokens(c)
	case poolTokenDist:
		return 0, 2
	}
	return 0, 1
}

// finalNorm returns the name of the final norm.
func (v ViT) finalNorm() string {
	if v.FCNorm {
		return "fc_norm"
	}
	return "norm"
}

// params lists the tensors of the backbone without its head.
func (v ViT) params(c Config) (out []Param) {
	d, h, p := v.EmbedDim, v.HiddenDim, v.PatchSize
	add := func(ps ...Param) { out = append(out, ps...) }
	vector := func(name string, role Role, n int) { add(Param{Name: name, Shape: []int{n}, Role: role}) }
	token := func(name string, role Role, n int) { add(Param{Name: name, Shape: []int{1, n, d}, Role: role}) }

	if !v.NoClassToken {
		token("cls_token", ClassToken, 1)
	}
	if v.Registers > 0 {
		token("reg_token", Position, v.Registers)
	}
	positions := v.grid(c) * v.grid(c)
	if !v.PatchPositions {
		positions += v.prefixTokens()
	}
	token("pos_embed", Position, positions)
	if v.DistToken {
		token("dist_token", ClassToken, 1)
	}
	add(Param{Name: "patch_embed.proj.weight", Shape: []int{d, 3, p, p}, Role: Frozen})
	if !v.NoPatchBias {
		vector("patch_embed.proj.bias", Frozen, d)
	}
	if v.PreNorm {
		for _, p := range NormParams("norm_pre", d) {
			p.Role = Frozen // the norm lies before the blocks
			add(p)
		}
	}
	for n := range v.Depth {
		b := fmt.Sprintf("blocks.%d.", n)
		add(NormParams(b+"norm1", d)...)
		for _, operation := range []string{"q", "k", "v"} {
			add(Param{Name: b + "attn." + operation + ".weight", Shape: []int{d, d}, Role: Scored})
			if !v.NoQKVBias {
				vector(b+"attn."+operation+".bias", Scored, d)
			}
		}
		if v.QKNorm {
			add(NormParams(b+"attn.q_norm", d/c.NumHeads)...)
			add(NormParams(b+"attn.k_norm", d/c.NumHeads)...)
		}
		add(LinearParams(b+"attn.proj", d, d, Scored)...)
		if v.LayerScale {
			vector(b+"ls1.gamma", Scored, d)
		}
		add(NormParams(b+"norm2", d)...)
		add(LinearParams(b+"mlp.fc1", v.fc1Rows(), d, Scored)...)
		add(LinearParams(b+"mlp.fc2", d, h, Scored)...)
		if v.LayerScale {
			vector(b+"ls2.gamma", Scored, d)
		}
	}
	add(NormParams(v.finalNorm(), d)...)
	return out
}

// fc1Rows returns the number of rows of the weight mlp.fc1.
func (v ViT) fc1Rows() int {
	if v.SwiGLU {
		return 2 * v.HiddenDim
	}
	return v.HiddenDim
}

// features computes the input of the head, [B, NumFeatures].
func (v ViT) features(c Config, l Layers, block int, x *Node) *Node {
	from, to := v.tokensRead(c)
	return v.pool(c, l, v.encode(c, l, block, x, from, to))
}

// featureMap returns the patch tokens after the final norm as a map, [B, H, W, D].
func (v ViT) featureMap(c Config, l Layers, block int, x *Node) *Node {
	x = v.encode(c, l, block, x, v.prefixTokens(), v.tokens(c))
	x = c.LayerNorm(l, v.finalNorm(), x)
	return Reshape(x, x.Shape().Dim(0), v.grid(c), v.grid(c), v.EmbedDim)
}

// hidden implements Architecture.Hidden.
func (v ViT) hidden(c Config, l Layers, block int, images *Node) *Node {
	x := v.embed(c, l, images)
	for n := range block {
		x = v.block(c, l, n, x, 0, v.tokens(c))
	}
	return lastBlockOutput(l, x)
}

// encode computes the blocks from the given one on, and returns the tokens [from, to) of the last
// block, [B, to−from, D]. x holds images for block 0, and tokens for a greater block.
func (v ViT) encode(c Config, l Layers, block int, x *Node, from, to int) *Node {
	if block == 0 {
		x = v.embed(c, l, x)
	}
	for n := block; n < v.Depth; n++ {
		x = v.block(c, l, n, x, from, to)
	}
	return lastBlockOutput(l, x)
}

// block computes block n for the tokens x [B, N, D]. The last block returns only the tokens [from,
// to).
//
// Nothing reads the other tokens of the last block, so for them the last block computes only keys
// and values. If the pooling reads only the class token, this saves almost one twelfth of the work
// of a model with twelve blocks, in the forward pass and in the backward pass.
func (v ViT) block(c Config, l Layers, n int, x *Node, from, to int) *Node {
	b := fmt.Sprintf("blocks.%d.", n)
	x = l.Tokens(n, blockInput(l, x))
	y := c.LayerNorm(l, b+"norm1", x)
	query := y
	if n == v.Depth-1 {
		x, query = tokens(x, from, to), tokens(y, from, to)
	}
	y = v.attention(c, l, b+"attn.", query, y)
	x = Add(x, l.Branch(b+"attn", n, x, v.layerScale(l, b+"ls1", y)))
	y = v.mlp(l, b+"mlp.", c.LayerNorm(l, b+"norm2", x))
	return Add(x, l.Branch(b+"mlp", n, x, v.layerScale(l, b+"ls2", y)))
}

// tokens returns the tokens [from, to) of x [B, N, D].
func tokens(x *Node, from, to int) *Node {
	if from == 0 && to == x.Shape().Dim(1) {
		return x
	}
	return Slice(x, AxisRange(), AxisRange(from, to), AxisRange())
}

// embed computes the input of the first block, [B, N, D]. It cuts the images into patches, projects
// the patches to tokens, puts the prefix tokens in front and adds the position embedding. The norm
// before the first block follows, if the backbone has one.
func (v ViT) embed(c Config, l Layers, images *Node) *Node {
	batch, d := images.Shape().Dim(0), v.EmbedDim
	x := PatchEmbed(l, "patch_embed.proj", images, v.PatchSize)
	x = l.Output("patch_embed.proj", Reshape(x, batch, v.grid(c)*v.grid(c), d))
	if v.PatchPositions {
		x = Add(x, graph.Everywhere(storedParam(l, "pos_embed"), x))
	}
	var all []*Node
	for _, name := range []string{"cls_token", "dist_token", "reg_token"} {
		if token := storedParam(l, name); token != nil {
			all = append(all, ConvertDType(BroadcastToDims(token, batch, token.Shape().Dim(1), d), x.DType()))
		}
	}
	if len(all) > 0 {
		x = Concatenate(append(all, x), 1)
	}
	if !v.PatchPositions {
		x = Add(x, graph.Everywhere(storedParam(l, "pos_embed"), x))
	}
	if v.PreNorm {
		x = c.LayerNorm(l, "norm_pre", x)
	}
	return x
}

// attention computes multi-head self-attention. The tokens of query [B, n, D] attend to the tokens
// of x [B, N, D]. name is the name of the attention and a dot.
func (v ViT) attention(c Config, l Layers, name string, query, x *Node) *Node {
	split := func(n string, x *Node) *Node {
		x = Reshape(l.Linear(name+n, x), x.Shape().Dim(0), x.Shape().Dim(1), c.NumHeads, v.EmbedDim/c.NumHeads)
		if v.QKNorm && n != "v" {
			x = c.LayerNorm(l, name+n+"_norm", x)
		}
		return x
	}
	y := scaledDotProductAttention(split("q", query), split("k", x), split("v", x))
	return l.Linear(name+"proj", Reshape(y, query.Shape().Dimensions...))
}

// mlp computes the MLP of a block.
func (v ViT) mlp(l Layers, name string, x *Node) *Node {
	y := l.Linear(name+"fc1", x)
	switch {
	case v.SwiGLU: // SiLU(gate)·up (Shazeer 2020, arXiv 2002.05202)
		gate := SliceAxis(y, -1, AxisRange(0, v.HiddenDim))
		up := SliceAxis(y, -1, AxisRange(v.HiddenDim))
		y = Mul(Mul(gate, Sigmoid(gate)), up)
	case v.QuickGELU:
		y = Mul(y, Sigmoid(MulScalar(y, 1.702)))
	default:
		y = GELU(y)
	}
	return l.Linear(name+"fc2", y)
}

// layerScale multiplies each channel of y by its learned factor if the backbone has layer scale.
func (v ViT) layerScale(l Layers, name string, y *Node) *Node {
	if !v.LayerScale {
		return y
	}
	return Mul(y, graph.Everywhere(storedParam(l, name+".gamma"), y))
}

// pool computes the input of the head, [B, NumFeatures], from the tokens [B, n, D] that tokensRead
// selects.
func (v ViT) pool(c Config, l Layers, x *Node) *Node {
	batch, d := x.Shape().Dim(0), v.EmbedDim
	switch v.Pooling {
	case poolAvg:
		if v.FCNorm {
			return c.LayerNorm(l, "fc_norm", ReduceMean(x, 1))
		}
		return ReduceMean(c.LayerNorm(l, "norm", x), 1)
	case poolTokenAvg:
		x = c.LayerNorm(l, "norm", x)
		class, patches := tokens(x, 0, 1), tokens(x, v.prefixTokens(), v.tokens(c))
		return Concatenate([]*Node{Reshape(class, batch, d), ReduceMean(patches, 1)}, 1)
	case poolTokenDist:
		return Reshape(c.LayerNorm(l, "norm", x), batch, 2*d)
	}
	return c.LayerNorm(l, v.finalNorm(), Reshape(x, batch, d))
}

// beyondTimm implements Architecture.BeyondTimm.
func (v ViT) beyondTimm(Config) string {
	switch {
	case v.Pooling == poolTokenAvg:
		return "the input of its head is the class token and the mean of the patches, as in Hugging Face transformers, but in timm it is only one of them"
	case v.DistToken && v.Pooling == poolToken:
		return "the input of its head is only the class token, as in Hugging Face transformers, but timm's distilled models have a second head for the distillation token"
	}
	return ""
}
