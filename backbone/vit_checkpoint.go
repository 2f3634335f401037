package backbone

import (
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"

	"github.com/sptune/spt/checkpoint"
)

// publishedHeads gives the number of attention heads by the width of the model. It lists the widths
// at which the published ViTs do not have heads of width 64: So400m, H, g and G. The numbers hold
// for all models of these widths in timm's vision_transformer.py.
var publishedHeads = map[int]int{1152: 16, 1280: 16, 1408: 16, 1664: 16}

// namedHeads gives the number of attention heads by the name of the model in timm. It lists the
// models that do not have the usual number of heads for their width.
var namedHeads = map[string]int{"vit_base_patch16_gap_224": 16, "test_vit": 2, "test_vit2": 2, "test_vit3": 3, "test_vit4": 3}

// configureViT implements Architecture.Configure. It derives most fields from the names and shapes
// of the tensors. Other fields come from the user, from the metadata of the checkpoint, from the
// files beside it, or from the published models.
func configureViT(s *Source) (c Config, err error) {
	patch, err := s.Shape("patch_embed.proj.weight", 4)
	if err != nil {
		return c, err
	}
	s.holdCard(map[string]int{"hidden_size": patch[0], "embed_dim": patch[0], "num_features": patch[0]})
	// these variants have the same tensors, but another graph
	name := s.side.name()
	for _, form := range []string{"rope", "rpn"} {
		if slices.Contains(strings.Split(name, "_"), form) {
			return c, fmt.Errorf("config.json or the file name says that the model is timm's %s, a variant (%s) that is not supported", name, form)
		}
	}
	pos, err := s.Shape("pos_embed", 3)
	if err != nil {
		return c, err
	}
	fc1, err := s.Shape("blocks.0.mlp.fc1.weight", 2)
	if err != nil {
		return c, err
	}
	fc2, err := s.Shape("blocks.0.mlp.fc2.weight", 2)
	if err != nil {
		return c, err
	}
	v := ViT{
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
		v.SwiGLU, v.HiddenDim = true, fc2[1]
	}
	if s.has("reg_token") {
		registers, err := s.Shape("reg_token", 3)
		if err != nil {
			return c, err
		}
		if v.Registers = registers[1]; v.Registers > maxRegisters {
			return c, fmt.Errorf("tensor \"reg_token\" has %d register tokens, expected at most %d", v.Registers, maxRegisters)
		}
	}
	if v.Depth, err = s.Count("blocks"); err != nil {
		return c, err
	}
	grid, err := v.positions(pos[1])
	if err != nil {
		return c, err
	}
	if err := v.holdGrid(s, grid); err != nil {
		return c, err
	}
	if err := v.activation(s); err != nil {
		return c, err
	}
	if v.Pooling, err = v.pooling(s); err != nil {
		return c, err
	}
	if c.NumHeads, err = v.heads(s); err != nil {
		return c, err
	}
	eps := 1e-6
	switch {
	case v.PreNorm: // the image towers of CLIP in timm
		eps = 1e-5
	case strings.HasPrefix(s.naming.Source, "Hugging Face") && !v.LayerScale:
		// ViT and DeiT, not DINOv2
		eps = 1e-12
	}
	c.ImageSize, c.LayerNormEps, c.Form = grid*v.PatchSize, s.LayerNormEps(eps), v
	return c, v.joinHeads(s)
}

// positions returns the side length of the grid of patches, and sets PatchPositions. n is the
// number of position embeddings. They belong to all tokens, or only to the patch tokens (DeiT III,
// DINOv2 with registers, big_vision). For a tiny grid, both readings can give a square. positions
// then prefers the usual reading: only the patch tokens if there are registers, otherwise all
// tokens.
func (v *ViT) positions(n int) (grid int, err error) {
	forms := []bool{false, true} // values of PatchPositions, in order of preference
	if v.Registers > 0 {
		forms = []bool{true, false}
	}
	for _, v.PatchPositions = range forms {
		patches := n
		if !v.PatchPositions {
			patches -= v.prefixTokens()
		}
		grid := int(math.Round(math.Sqrt(float64(max(patches, 0)))))
		if grid > 0 && grid*grid == patches {
			v.PatchPositions = v.PatchPositions && v.prefixTokens() > 0
			return grid, nil
		}
	}
	return 0, fmt.Errorf("tensor \"pos_embed\" has %d positions, expected the positions of a square grid of patches, with or without %d prefix tokens (class token, distillation token, registers)", n, v.prefixTokens())
}

// holdGrid compares the image size that config.json states with the grid of patches, whose side
// length is grid. It returns an error if the images are not square but have as many patches as the
// grid: the position embedding then belongs to another grid. Otherwise the tensors decide.
func (v ViT) holdGrid(s *Source, grid int) error {
	size := s.side.card.size
	rows, columns := size[0]/v.PatchSize, size[1]/v.PatchSize
	switch {
	case s.Config != nil || size[0] == 0 || size[0] == grid*v.PatchSize && size[0] == size[1]:
		return nil
	case rows != columns && rows*columns == grid*grid:
		return fmt.Errorf("config.json says that the images have %d × %d px (height × width), so the position embedding is for %d × %d patches; only square images are supported; use a checkpoint for square images", size[0], size[1], rows, columns)
	}
	s.side.note("config.json: the image size of %d × %d px is not used: the position embedding is for %d × %d px", size[0], size[1], grid*v.PatchSize, grid*v.PatchSize)
	return nil
}

// activation sets QuickGELU. It returns an error if a file beside the checkpoint names an
// activation that is not supported.
func (v *ViT) activation(s *Source) error {
	if own := s.Config; own != nil {
		v.QuickGELU = own.Form.(ViT).QuickGELU
		return nil
	}
	switch activation := s.side.activation(); activation {
	case "", "gelu":
	case "silu", "swish":
		if !v.SwiGLU {
			return fmt.Errorf("config.json says that the MLP's activation is %q, which is supported only in a gated MLP; supported in this model: gelu, quick_gelu", activation)
		}
	case "quick_gelu":
		v.QuickGELU = true
	default:
		return fmt.Errorf("config.json says that the MLP's activation is %q; supported: gelu, quick_gelu", activation)
	}
	return nil
}

// pooling returns the value of ViT.Pooling for a checkpoint: what the input of its head is. A new
// head gets the same input, so that the model does not depend on whether the head was kept. A
// distilled DeiT has two heads, one for the class token and one for the distillation token. A new
// head gets both tokens.
func (v ViT) pooling(s *Source) (string, error) {
	if own := s.Config; own != nil {
		return own.Form.(ViT).Pooling, nil
	}
	head := s.Weights["head.weight"]
	wide := len(head.Shape) == 2 && head.Shape[1] == 2*v.EmbedDim
	switch {
	case v.DistToken && !v.NoClassToken:
		if s.has("head.weight") && !s.has("head_dist.weight") && !wide {
			return poolToken, nil // Hugging Face's DeiTForImageClassification
		}
		return poolTokenDist, nil
	case wide:
		return poolTokenAvg, nil
	}
	form := s.side.card.pool
	for _, name := range s.naming.Unused {
		if strings.HasPrefix(name, "attn_pool.") || strings.Contains(name, "MAPHead_0/") {
			form = "map"
		}
	}
	switch {
	case form == "token" && !v.NoClassToken, form == "" && !v.NoClassToken && !v.FCNorm:
		return poolToken, nil
	case form == "" || form == "avg" || s.Options.NumClasses > 0 || !s.has("head.weight"):
		return poolAvg, nil
	}
	return "", fmt.Errorf("the head of the checkpoint uses the pooling %q; supported: token, avg; give the number of classes to create a new head on the mean of the patches", form)
}

// heads returns the number of attention heads. The sources are, in this order: the user, the
// metadata, the shape of an npz kernel, a file beside the checkpoint, the shape of a query norm,
// and the name of the model. If none of them determines the number, heads returns the number of
// published models with the same width and sets headsAssumed.
func (v ViT) heads(s *Source) (int, error) {
	if s.Options.NumHeads > 0 {
		return s.Options.NumHeads, nil
	}
	if own := s.Config; own != nil && own.NumHeads > 0 {
		return own.NumHeads, nil
	}
	if s.naming.Source == googleSource || s.naming.Source == bigVisionSource {
		if n := npzHeads(s.naming.Origin("blocks.0.attn.q.weight")); n != 0 {
			return n, nil
		}
	}
	stated, normed := s.side.card.heads, 0
	if w := s.Weights["blocks.0.attn.q_norm.weight"]; len(w.Shape) == 1 && w.Shape[0] > 0 {
		normed = v.EmbedDim / w.Shape[0]
	}
	switch {
	case stated == 0:
	case normed != 0 && stated != normed:
		s.side.note("config.json: %d attention heads are not used: the norms of the queries are for %d heads", stated, normed)
	case v.EmbedDim%stated != 0:
		s.side.note("config.json: %d attention heads are not used: the width %d cannot be divided into heads of equal width", stated, v.EmbedDim)
	default:
		return stated, nil
	}
	if normed != 0 {
		return normed, nil
	}
	if s.naming.Source == "MoCo v3" && v.EmbedDim == 384 {
		return 12, nil // the ViT-S of MoCo v3 (vits.py) has twice the usual number of heads
	}
	if n := namedHeads[s.side.name()]; n != 0 {
		return n, nil
	}
	// A model that timm names and that is not in namedHeads has the usual number for its width.
	s.headsAssumed = s.side.card.architecture == ""
	if n := publishedHeads[v.EmbedDim]; n != 0 {
		return n, nil
	}
	if v.EmbedDim == 1536 && v.NoClassToken {
		// the g-opt model of SigLIP; DINOv2's g has the same width, but heads of width 64
		return 16, nil
	}
	if v.EmbedDim%64 != 0 {
		return 0, fmt.Errorf("the number of attention heads is unknown: the checkpoint does not state it, and its width %d is not a multiple of 64, the usual width of a head; give the number of heads", v.EmbedDim)
	}
	return v.EmbedDim / 64, nil
}

// joinHeads replaces the two heads [C, D] of a distilled DeiT by one head [C, 2D], whose input is
// the class token followed by the distillation token. The new head gives the mean of the logits of
// the two heads. If there will be a new head, joinHeads leaves the two heads in place, and they are
// reported as unused.
func (v ViT) joinHeads(s *Source) error {
	w := s.Weights
	if v.Pooling != poolTokenDist || s.Options.NumClasses > 0 || !s.has("head_dist.weight") {
		return nil
	}
	first, err := s.Shape("head.weight", 2)
	if err != nil {
		return err
	}
	n, d := first[0], v.EmbedDim
	for name, shape := range map[string][]int{"head.weight": {n, d}, "head_dist.weight": {n, d}, "head.bias": {n}, "head_dist.bias": {n}} {
		if !slices.Equal(w[name].Shape, shape) {
			return fmt.Errorf("tensor %q has shape %v, expected %v: the two heads of a distilled ViT have the same shapes", name, w[name].Shape, shape)
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

// splitHeads implements Architecture.Export. It reverses joinHeads. Both heads get the same bias.
func splitHeads(m *Model) checkpoint.StateDict {
	v, w, b := m.Config.Form.(ViT), m.Weights["head.weight"], m.Weights["head.bias"]
	if v.Pooling != poolTokenDist || len(w.Data) == 0 {
		return m.Weights
	}
	n, d := m.Config.NumClasses, v.EmbedDim
	out := maps.Clone(m.Weights)
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

// fitViT implements Architecture.Fit. It resizes the position embedding.
func fitViT(from, to Config, weights checkpoint.StateDict) (err error) {
	if err := refuseUnknown(weights, to.Form.(ViT).params(to), "blocks."); err != nil {
		return err
	}
	v := from.Form.(ViT)
	old, grid := v.grid(from), v.grid(to)
	if old == grid {
		return nil
	}
	apart := v.prefixTokens()
	if v.PatchPositions {
		apart = 0
	}
	weights["pos_embed"], err = resizePosEmbed(weights["pos_embed"], apart, [2]int{old, old}, [2]int{grid, grid})
	return err
}

// vitPreprocessing implements Architecture.Preprocessing. The file name of a timm checkpoint can
// reveal the normalisation of pixels.
func vitPreprocessing(fileName string) Preprocessing {
	name := strings.ToLower(fileName)
	for _, tag := range []string{"deit", "mae", "dino", "moco"} {
		if strings.Contains(name, tag) {
			p := imageNet
			p.Source = fmt.Sprintf("%q in the file name: ImageNet mean and std", tag)
			return p
		}
	}
	p := inception
	p.Source = "assumed: nothing in or beside the checkpoint states it; mean 0.5 and std 0.5"
	return p
}
