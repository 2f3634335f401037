package backbone

import (
	"cmp"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"

	"github.com/sptune/spt/checkpoint"
)

// publishedHeads are the attention heads of those widths at which published
// ViTs do not have heads of 64 values: So400m, H, g and G (timm's
// vision_transformer.py, all of its models of these widths).
var publishedHeads = map[int]int{1152: 16, 1280: 16, 1408: 16, 1664: 16}

// namedHeads are those of timm's models that have others than their width has else.
var namedHeads = map[string]int{"vit_base_patch16_gap_224": 16, "test_vit": 2, "test_vit2": 2}

// configure derives the configuration from the tensors and their shapes. What is
// in no shape comes from the caller, the checkpoint's metadata, the files beside
// it, or what published models of the kind have.
func (v vit) configure(s source) (c Config, err error) {
	for _, form := range []string{"rope", "rpn"} { // other graphs, with the very tensors of these
		if slices.Contains(strings.Split(s.side.name, "_"), form) {
			return c, fmt.Errorf("by config.json or the file's name it is timm's %s, whose form (%s) is not supported", s.side.name, form)
		}
	}
	patch, err := s.shape("patch_embed.proj.weight", 4)
	if err != nil {
		return c, err
	}
	pos, err := s.shape("pos_embed", 3)
	if err != nil {
		return c, err
	}
	fc1, err := s.shape("blocks.0.mlp.fc1.weight", 2)
	if err != nil {
		return c, err
	}
	fc2, err := s.shape("blocks.0.mlp.fc2.weight", 2)
	if err != nil {
		return c, err
	}
	c = Config{
		PatchSize: patch[2], EmbedDim: patch[0], HiddenDim: fc1[0],
		DistToken:    s.has("dist_token"),
		NoClassToken: !s.has("cls_token"),
		PreNorm:      s.has("norm_pre.weight"),
		FCNorm:       s.has("fc_norm.weight") && !s.has("norm.weight"),
		NoPatchBias:  !s.has("patch_embed.proj.bias"),
		NoQKVBias:    !s.has("blocks.0.attn.q.bias") && !s.has("blocks.0.attn.k.bias") && !s.has("blocks.0.attn.v.bias"),
		QKNorm:       s.has("blocks.0.attn.q_norm.weight"),
		LayerScale:   s.has("blocks.0.ls1.gamma"),
	}
	if fc1[0] == 2*fc2[1] {
		c.SwiGLU, c.HiddenDim = true, fc2[1]
	}
	if s.has("reg_token") {
		registers, err := s.shape("reg_token", 3)
		if err != nil {
			return c, err
		}
		if c.Registers = registers[1]; c.Registers > maxRegisters {
			return c, fmt.Errorf("tensor \"reg_token\" has %d register tokens, expected at most %d", c.Registers, maxRegisters)
		}
	}
	if c.Depth, err = s.count("blocks"); err != nil {
		return c, err
	}
	if err := v.positions(&c, pos[1]); err != nil {
		return c, err
	}
	if err := v.activation(&c, s); err != nil {
		return c, err
	}
	if c.Pooling, err = v.pooling(c, s); err != nil {
		return c, err
	}
	if c.NumHeads, err = v.heads(c, s); err != nil {
		return c, err
	}
	eps := 1e-6
	switch {
	case c.PreNorm: // timm's image towers of CLIP
		eps = 1e-5
	case strings.HasPrefix(s.naming.Source, "Hugging Face") && !c.LayerScale: // ViT and DeiT, not DINOv2
		eps = 1e-12
	}
	c.LayerNormEps = s.layerNormEps(eps)
	return c, joinHeads(c, s)
}

// positions takes the grid from the number of positions: with one for each token,
// or of the patches alone (DeiT III, DINOv2 with registers, big_vision). Where both
// would give a square, as tiny grids can, the usual one is taken: alone beside registers.
func (vit) positions(c *Config, n int) error {
	forms := []bool{false, true} // patches alone
	if c.Registers > 0 {
		forms = []bool{true, false}
	}
	for _, c.PatchPositions = range forms {
		patches := n
		if !c.PatchPositions {
			patches -= prefixTokens(*c)
		}
		grid := int(math.Round(math.Sqrt(float64(max(patches, 0)))))
		if grid > 0 && grid*grid == patches {
			c.PatchPositions = c.PatchPositions && prefixTokens(*c) > 0
			c.ImageSize = grid * c.PatchSize
			return nil
		}
	}
	return fmt.Errorf("tensor \"pos_embed\" has %d positions, expected those of a square grid of patches, with or without %d before them (class token, distillation token, registers)", n, prefixTokens(*c))
}

// activation refuses what the graph does not have, where the files beside the
// checkpoint tell.
func (vit) activation(c *Config, s source) error {
	if own := s.side.config; own != nil {
		c.QuickGELU = own.QuickGELU
		return nil
	}
	switch s.side.activation {
	case "", "gelu":
	case "silu", "swish":
		if !c.SwiGLU {
			return fmt.Errorf("config.json says that the MLP's activation is %q, which is supported in a gated MLP only; supported: gelu, quick_gelu", s.side.activation)
		}
	case "quick_gelu":
		c.QuickGELU = true
	default:
		return fmt.Errorf("config.json says that the MLP's activation is %q; supported: gelu, quick_gelu", s.side.activation)
	}
	return nil
}

// pooling is what the checkpoint's own head sees, or would see: a new head sees
// the same, so that a model does not depend on whether its head was kept. A
// distilled DeiT has two heads, each on its token; a new one sees both tokens.
func (vit) pooling(c Config, s source) (string, error) {
	if own := s.side.config; own != nil {
		return own.Pooling, nil
	}
	head := s.weights["head.weight"]
	wide := len(head.Shape) == 2 && head.Shape[1] == 2*c.EmbedDim
	switch {
	case c.DistToken && !c.NoClassToken:
		if s.has("head.weight") && !s.has("head_dist.weight") && !wide {
			return poolToken, nil // Hugging Face's DeiTForImageClassification
		}
		return poolTokenDist, nil
	case wide:
		return poolTokenAvg, nil
	}
	form := s.side.pool
	for _, name := range s.naming.Unused {
		if strings.HasPrefix(name, "attn_pool.") || strings.Contains(name, "MAPHead_0/") {
			form = "map"
		}
	}
	switch {
	case form == "token" && !c.NoClassToken, form == "" && !c.NoClassToken && !c.FCNorm:
		return poolToken, nil
	case form == "" || form == "avg" || s.options.NumClasses > 0 || !s.has("head.weight"):
		return poolAvg, nil
	}
	return "", fmt.Errorf("the checkpoint's head sees its tokens through the pooling %q; supported are token and avg: give the number of classes for a new head, which sees the mean of the patches", form)
}

// heads is the number of attention heads.
func (vit) heads(c Config, s source) (int, error) {
	if s.options.NumHeads > 0 {
		return s.options.NumHeads, nil
	}
	if own := s.side.config; own != nil && own.NumHeads > 0 {
		return own.NumHeads, nil
	}
	if n := cmp.Or(s.naming.NumHeads, s.side.heads); n != 0 {
		return n, nil
	}
	if w := s.weights["blocks.0.attn.q_norm.weight"]; len(w.Shape) == 1 && w.Shape[0] > 0 {
		return c.EmbedDim / w.Shape[0], nil
	}
	if s.naming.Source == "MoCo v3" && c.EmbedDim == 384 {
		return 12, nil // its ViT-S (vits.py) has twice the usual heads
	}
	if n := namedHeads[s.side.name]; n != 0 {
		return n, nil
	}
	*s.assumed = s.side.architecture == "" // timm's models have those of their widths
	if n := publishedHeads[c.EmbedDim]; n != 0 {
		return n, nil
	}
	if c.EmbedDim == 1536 && c.NoClassToken {
		return 16, nil // SigLIP's g-opt; DINOv2's g, of this width too, has the usual ones
	}
	if c.EmbedDim%64 != 0 {
		return 0, fmt.Errorf("the checkpoint does not say how many attention heads it has, and its width %d is no multiple of the usual 64; give the number (--num-heads)", c.EmbedDim)
	}
	return c.EmbedDim / 64, nil
}

// joinHeads makes one head [C, 2D], on class and distillation token one after the
// other, of the two [C, D] of a distilled DeiT: the mean of their logits is linear
// in both tokens. With a new head they stay as they are, to be reported.
func joinHeads(c Config, s source) error {
	w := s.weights
	if c.Pooling != poolTokenDist || s.options.NumClasses > 0 || !s.has("head_dist.weight") {
		return nil
	}
	first, err := s.shape("head.weight", 2)
	if err != nil {
		return err
	}
	n, d := first[0], c.EmbedDim
	for name, shape := range map[string][]int{"head.weight": {n, d}, "head_dist.weight": {n, d}, "head.bias": {n}, "head_dist.bias": {n}} {
		if !slices.Equal(w[name].Shape, shape) {
			return fmt.Errorf("tensor %q has shape %v, expected %v: of the two heads of a distilled ViT, one is like the other", name, w[name].Shape, shape)
		}
	}
	weight, bias := checkpoint.NewTensor(n, 2*d), checkpoint.NewTensor(n)
	for k, head := range []string{"head", "head_dist"} {
		for i := range n {
			for j := range d {
				weight.Data[(2*i+k)*d+j] = w[head+".weight"].Data[i*d+j] / 2
			}
			bias.Data[i] += w[head+".bias"].Data[i] / 2
		}
		delete(w, head+".weight")
		delete(w, head+".bias")
	}
	w["head.weight"], w["head.bias"] = weight, bias
	return nil
}

// splitHeads undoes joinHeads for a checkpoint that other programs read. Both
// heads have the same bias.
func splitHeads(c Config, weights checkpoint.StateDict) checkpoint.StateDict {
	w, b := weights["head.weight"], weights["head.bias"]
	if c.Architecture != "vit" || c.Pooling != poolTokenDist || len(w.Data) == 0 {
		return weights
	}
	n, d := c.NumClasses, c.EmbedDim
	out := maps.Clone(weights)
	for k, head := range []string{"head", "head_dist"} {
		own := checkpoint.NewTensor(n, d)
		for i := range n {
			for j := range d {
				own.Data[i*d+j] = 2 * w.Data[(2*i+k)*d+j]
			}
		}
		out[head+".weight"], out[head+".bias"] = own, b
	}
	return out
}

// fit resizes the position embedding. It refuses a checkpoint whose blocks are
// not alike, since what only some have would not be computed.
func (v vit) fit(from, to Config, weights checkpoint.StateDict) (err error) {
	if err := allKnown(weights, v.params(to), "blocks."); err != nil {
		return err
	}
	if from.Grid() == to.Grid() {
		return nil
	}
	apart := prefixTokens(from)
	if from.PatchPositions {
		apart = 0
	}
	weights["pos_embed"], err = checkpoint.ResizePosEmbed(weights["pos_embed"], apart, [2]int{from.Grid(), from.Grid()}, [2]int{to.Grid(), to.Grid()})
	return err
}
