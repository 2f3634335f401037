package backbone

import (
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"

	"github.com/sptune/spt/checkpoint"
)

// publishedHeads gives the number of attention heads of published ViTs by their width, where a head
// does not have 64 values: So400m, H, g and G (timm's vision_transformer.py, all of its models of
// these widths).
var publishedHeads = map[int]int{1152: 16, 1280: 16, 1408: 16, 1664: 16}

// namedHeads gives the number of attention heads of timm's models that have another number than
// their width suggests.
var namedHeads = map[string]int{"vit_base_patch16_gap_224": 16, "test_vit": 2, "test_vit2": 2}

// configureViT implements Architecture.Configure. What no shape tells comes from the user, the
// checkpoint's metadata, the files beside it, or the published models.
func configureViT(s *Source) (c Config, err error) {
	for _, form := range []string{"rope", "rpn"} { // these have the same tensors and another graph
		if slices.Contains(strings.Split(s.side.name, "_"), form) {
			return c, fmt.Errorf("config.json or the file's name says that it is timm's %s, whose form (%s) is not supported", s.side.name, form)
		}
	}
	patch, err := s.Shape("patch_embed.proj.weight", 4)
	if err != nil {
		return c, err
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
	case v.PreNorm: // timm's image towers of CLIP
		eps = 1e-5
	case strings.HasPrefix(s.naming.Source, "Hugging Face") && !v.LayerScale:
		// ViT and DeiT, not DINOv2
		eps = 1e-12
	}
	c.ImageSize, c.LayerNormEps, c.Form = grid*v.PatchSize, s.LayerNormEps(eps), v
	return c, v.joinHeads(s)
}

// positions derives the side of the grid from the number of positions, and sets PatchPositions: the
// positions are of all tokens, or of the patches alone (DeiT III, DINOv2 with registers,
// big_vision). Where both would give a square, as tiny grids can, the usual one is taken: that of
// the patches alone if there are registers.
func (v *ViT) positions(n int) (grid int, err error) {
	forms := []bool{false, true} // of the patches alone
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
	return 0, fmt.Errorf("tensor \"pos_embed\" has %d positions, expected those of a square grid of patches, with or without %d before them (class token, distillation token, registers)", n, v.prefixTokens())
}

// activation sets QuickGELU, and returns an error if a file beside the checkpoint names an
// activation that the graph does not have.
func (v *ViT) activation(s *Source) error {
	if own := s.Config; own != nil {
		v.QuickGELU = own.Form.(ViT).QuickGELU
		return nil
	}
	switch s.side.activation {
	case "", "gelu":
	case "silu", "swish":
		if !v.SwiGLU {
			return fmt.Errorf("config.json says that the MLP's activation is %q, which is supported in a gated MLP only; supported: gelu, quick_gelu", s.side.activation)
		}
	case "quick_gelu":
		v.QuickGELU = true
	default:
		return fmt.Errorf("config.json says that the MLP's activation is %q; supported: gelu, quick_gelu", s.side.activation)
	}
	return nil
}

// pooling returns what the checkpoint's own head sees, or would see. A new head sees the same, so
// that a model does not depend on whether its head was kept. A distilled DeiT has two heads, one
// for each token; a new head sees both tokens.
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
	form := s.side.pool
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
	return "", fmt.Errorf("the checkpoint's head sees its tokens through the pooling %q; supported are token and avg: give the number of classes for a new head, which sees the mean of the patches", form)
}

// heads returns the number of attention heads.
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
	if s.side.heads != 0 {
		return s.side.heads, nil
	}
	if w := s.Weights["blocks.0.attn.q_norm.weight"]; len(w.Shape) == 1 && w.Shape[0] > 0 {
		return v.EmbedDim / w.Shape[0], nil
	}
	if s.naming.Source == "MoCo v3" && v.EmbedDim == 384 {
		return 12, nil // its ViT-S (vits.py) has twice the usual heads
	}
	if n := namedHeads[s.side.name]; n != 0 {
		return n, nil
	}
	// timm's models have those of published models of their widths
	s.headsAssumed = s.side.architecture == ""
	if n := publishedHeads[v.EmbedDim]; n != 0 {
		return n, nil
	}
	if v.EmbedDim == 1536 && v.NoClassToken {
		return 16, nil // SigLIP's g-opt; DINOv2's g, of the same width, has heads of 64
	}
	if v.EmbedDim%64 != 0 {
		return 0, fmt.Errorf("the number of attention heads is unknown: the checkpoint does not say it, and its width %d is no multiple of the usual 64; give the number of heads", v.EmbedDim)
	}
	return v.EmbedDim / 64, nil
}

// joinHeads replaces the two heads [C, D] of a distilled DeiT by one head [C, 2D] on class token
// and distillation token, one after the other: the mean of the two heads' logits is linear in both
// tokens. With a new head they stay as they are, to be reported as unused.
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

// splitHeads implements Architecture.Export: it undoes joinHeads. Both heads have the same bias.
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

// fitViT implements Architecture.Fit: it resizes the position embedding.
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

// vitPreprocessing implements Architecture.Preprocessing: the names of some of timm's checkpoints
// tell what was done to pixels.
func vitPreprocessing(fileName string) Preprocessing {
	name := strings.ToLower(fileName)
	for _, tag := range []string{"deit", "mae", "dino", "moco"} {
		if strings.Contains(name, tag) {
			p := imageNet
			p.Source = fmt.Sprintf("%q in the file's name: ImageNet mean and std", tag)
			return p
		}
	}
	p := inception
	p.Source = "assumed: nothing in or beside the checkpoint says it"
	return p
}
