package checkpoint

import (
	"maps"
	"slices"
	"strings"
)

var vitNamings = []naming{{
	family: "vit", source: "timm",
	marks: []string{"blocks.#.norm1.*", "blocks.#.attn.qkv.*", "blocks.#.attn.q.*"},
	rules: union(unchanged(
		"cls_token", "dist_token", "reg_token", "pos_embed", "patch_embed.proj.*", "norm_pre.*", "norm.*", "fc_norm.*", "head.*", "head_dist.*",
		"blocks.#.norm1.*", "blocks.#.attn.qkv.*", "blocks.#.attn.q.*", "blocks.#.attn.k.*", "blocks.#.attn.v.*", "blocks.#.attn.q_norm.*",
		"blocks.#.attn.k_norm.*", "blocks.#.attn.proj.*", "blocks.#.ls1.gamma", "blocks.#.norm2.*", "blocks.#.mlp.fc1.*", "blocks.#.mlp.fc2.*", "blocks.#.ls2.gamma",
	), renames(
		// DeiT III and DINOv2 as their authors wrote them, else in timm's names; so are DeiT, MAE, MoCo v3 and DINO.
		"blocks.#.gamma_1", "blocks.#.ls1.gamma",
		"blocks.#.gamma_2", "blocks.#.ls2.gamma",
		"blocks.#.mlp.w12.*", "blocks.#.mlp.fc1.*",
		"blocks.#.mlp.w3.*", "blocks.#.mlp.fc2.*",
		"register_tokens", registers,
	)),
	strict: []string{"blocks.", "patch_embed.", "rope."},
	refine: func(n naming, seen map[string]string) naming {
		for _, tell := range []struct{ pattern, source string }{
			{"register_tokens", "the DINOv2 authors"},
			{"blocks.#.mlp.w12.*", "the DINOv2 authors"},
			{"decoder_embed.*", "MAE"},
			{"predictor.#.*", "MoCo v3"},
			{"head.last_layer.weight_v", "DINO"},
			{"blocks.#.gamma_1", "the DeiT III authors"},
			{"mask_token", "the DINOv2 authors"}, // MAE has one too, but with its decoder
		} {
			if seen[tell.pattern] != "" {
				n.source = tell.source
				return n
			}
		}
		return n
	},
}, {
	family: "vit", source: "Hugging Face transformers before 5",
	marks: []string{"encoder.layer.#.attention.attention.query.*"},
	rules: union(huggingFaceVIT("encoder.layer.#."), renames(
		"encoder.layer.#.attention.attention.query.*", "blocks.#.attn.q.*",
		"encoder.layer.#.attention.attention.key.*", "blocks.#.attn.k.*",
		"encoder.layer.#.attention.attention.value.*", "blocks.#.attn.v.*",
		"encoder.layer.#.attention.output.dense.*", "blocks.#.attn.proj.*",
		"encoder.layer.#.intermediate.dense.*", "blocks.#.mlp.fc1.*",
		"encoder.layer.#.output.dense.*", "blocks.#.mlp.fc2.*",
		"encoder.layer.#.mlp.weights_in.*", "blocks.#.mlp.fc1.*",
		"encoder.layer.#.mlp.weights_out.*", "blocks.#.mlp.fc2.*",
	)),
	strict: []string{"encoder.layer.", "embeddings."},
}, {
	family: "vit", source: "Hugging Face transformers from 5",
	marks: []string{"layers.#.attention.q_proj.*", "encoder.layer.#.attention.q_proj.*"},
	// ViT and DeiT have lost "encoder.layer", DINOv2 has kept it.
	rules:  union(huggingFaceVIT("layers.#."), huggingFaceVIT5("layers.#."), huggingFaceVIT("encoder.layer.#."), huggingFaceVIT5("encoder.layer.#.")),
	strict: []string{"layers.", "encoder.layer.", "embeddings."},
}}

// huggingFaceVIT are the names of ViT, DeiT and DINOv2 that version 5 has left alone; block is the pattern before a
// block's own names.
func huggingFaceVIT(block string) map[string]rule {
	return renames(
		"embeddings.cls_token", "cls_token",
		"embeddings.distillation_token", "dist_token",
		"embeddings.register_tokens", registers,
		"embeddings.mask_token", "",
		"embeddings.position_embeddings", "pos_embed",
		"embeddings.patch_embeddings.projection.*", "patch_embed.proj.*",
		block+"layernorm_before.*", "blocks.#.norm1.*",
		block+"layernorm_after.*", "blocks.#.norm2.*",
		block+"norm1.*", "blocks.#.norm1.*",
		block+"norm2.*", "blocks.#.norm2.*",
		block+"layer_scale1.lambda1", "blocks.#.ls1.gamma",
		block+"layer_scale2.lambda1", "blocks.#.ls2.gamma",
		block+"mlp.fc1.*", "blocks.#.mlp.fc1.*",
		block+"mlp.fc2.*", "blocks.#.mlp.fc2.*",
		"layernorm.*", "norm.*",
		"classifier.*", "head.*",
		"cls_classifier.*", "head.*",
		"distillation_classifier.*", "head_dist.*",
	)
}

func huggingFaceVIT5(block string) map[string]rule {
	return renames(
		block+"attention.q_proj.*", "blocks.#.attn.q.*",
		block+"attention.k_proj.*", "blocks.#.attn.k.*",
		block+"attention.v_proj.*", "blocks.#.attn.v.*",
		block+"attention.o_proj.*", "blocks.#.attn.proj.*",
		block+"mlp.gate_proj.*", "blocks.#.mlp.gate.*",
		block+"mlp.up_proj.*", "blocks.#.mlp.up.*",
		block+"mlp.down_proj.*", "blocks.#.mlp.fc2.*",
	)
}

// registers is the name of DINOv2's register tokens until foldClassPosition has moved the class token's position.
const registers = "register_tokens"

// packGates makes timm's packed fc1 [2H, D] of a SwiGLU's gate [H, D] and up [H, D].
func (t *translation) packGates() error {
	for _, name := range slices.Sorted(maps.Keys(t.out)) {
		block, rest, _ := strings.Cut(name, ".mlp.")
		part, kind, _ := strings.Cut(rest, ".")
		if _, ok := t.out[name]; !ok || part != "gate" && part != "up" {
			continue // ok is false for an up that was packed with its gate
		}
		gate, up := block+".mlp.gate."+kind, block+".mlp.up."+kind
		a, b := t.out[gate], t.out[up]
		if len(a.Shape) == 0 || !slices.Equal(a.Shape, b.Shape) {
			return nameErrorf(t.out[name].source, "a gated MLP has a gate_proj and an up_proj of equal shapes, found %v and %v", a.Shape, b.Shape)
		}
		delete(t.out, gate)
		delete(t.out, up)
		shape := slices.Clone(a.Shape)
		shape[0] *= 2
		if err := put(t.out, block+".mlp.fc1."+kind, named{Tensor{Shape: shape, Data: slices.Concat(a.Data, b.Data)}, a.source}); err != nil {
			return err
		}
	}
	return nil
}

// foldClassPosition does for DINOv2's models with registers what timm does: the class token takes its position
// [1, 1, D] in, so that pos_embed [1, N, D] is of the patches alone.
func (t *translation) foldClassPosition() error {
	tokens, ok := t.out[registers]
	if !ok {
		return nil
	}
	delete(t.out, registers)
	if err := put(t.out, "reg_token", tokens); err != nil {
		return err
	}
	cls, hasClass := t.out["cls_token"]
	pos, hasPos := t.out["pos_embed"]
	if !hasClass || !hasPos {
		return nil // whoever builds the model reports it
	}
	c, p := cls.Shape, pos.Shape
	if len(c) != 3 || len(p) != 3 || c[0] != 1 || c[1] != 1 || p[0] != 1 || p[1] < 2 || p[2] != c[2] {
		return nameErrorf(pos.source, "shape %v beside a class token of %v, expected [1, 1+N, D] and [1, 1, D]", p, c)
	}
	sum := NewTensor(c...)
	for i := range sum.Data {
		sum.Data[i] = cls.Data[i] + pos.Data[i]
	}
	t.out["cls_token"] = named{sum, cls.source}
	t.out["pos_embed"] = named{Tensor{Shape: []int{1, p[1] - 1, p[2]}, Data: pos.Data[p[2]:]}, pos.source}
	return nil
}
