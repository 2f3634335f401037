package backbone

import (
	"slices"
	"strings"

	"github.com/sptune/spt/checkpoint"
)

// vitPrefixes are prefixes before the tensor names of a ViT. They come from Hugging Face models and
// from MoCo v3.
var vitPrefixes = []string{"vit.", "deit.", "dinov2.", "dinov2_with_registers.", "base_encoder."}

// vitNamings are the naming schemes of ViT checkpoints: timm and the authors that extend it, two
// versions of Hugging Face transformers, and the npz files of npzNamings.
var vitNamings = append([]checkpoint.Naming{{
	Source: "timm",
	Marks:  []string{"blocks.#.norm1.*", "blocks.#.attn.qkv.*", "blocks.#.attn.q.*", "blocks.#.#.norm1.*"},
	Whole:  []string{"patch_embed.proj.weight", "pos_embed"},
	Rules: chunked(checkpoint.Union(checkpoint.Keeps(
		"cls_token", "dist_token", "reg_token", "pos_embed", "patch_embed.proj.*", "norm_pre.*", "norm.*", "fc_norm.*", "head.*", "head_dist.*",
		"blocks.#.norm1.*", "blocks.#.attn.qkv.*", "blocks.#.attn.q.*", "blocks.#.attn.k.*", "blocks.#.attn.v.*", "blocks.#.attn.q_norm.*",
		"blocks.#.attn.k_norm.*", "blocks.#.attn.proj.*", "blocks.#.ls1.gamma", "blocks.#.norm2.*", "blocks.#.mlp.fc1.*", "blocks.#.mlp.fc2.*", "blocks.#.ls2.gamma",
	), checkpoint.Renames(
		// The authors of DeiT III and DINOv2 use these names in addition to timm's names. DeiT,
		// MAE, MoCo v3 and DINO use only timm's names.
		"blocks.#.gamma_1", "blocks.#.ls1.gamma",
		"blocks.#.gamma_2", "blocks.#.ls2.gamma",
		"blocks.#.mlp.w12.*", "blocks.#.mlp.fc1.*",
		"blocks.#.mlp.w3.*", "blocks.#.mlp.fc2.*",
		"register_tokens", registers,
	))),
	Strict:   []string{"blocks.", "patch_embed.", "rope."},
	Prefixes: vitPrefixes, Finish: finishViT,
	Refine: func(n checkpoint.Naming, has func(pattern string) bool) checkpoint.Naming {
		for _, tell := range []struct{ pattern, source string }{
			{"register_tokens", "the DINOv2 authors"},
			{"blocks.#.#.norm1.*", "the DINOv2 authors"},
			{"blocks.#.mlp.w12.*", "the DINOv2 authors"},
			{"decoder_embed.*", "MAE"},
			{"predictor.#.*", "MoCo v3"},
			{"head.last_layer.weight_v", "DINO"},
			{"blocks.#.gamma_1", "the DeiT III authors"},
			// MAE has a mask token too, but also decoder_embed
			{"mask_token", "the DINOv2 authors"},
		} {
			if has(tell.pattern) {
				n.Source = tell.source
				return n
			}
		}
		return n
	},
}, {
	Source:   "Hugging Face transformers before 5",
	Marks:    []string{"encoder.layer.#.attention.attention.query.*"},
	Whole:    []string{"embeddings.patch_embeddings.projection.weight"},
	Rules:    checkpoint.Union(hfViT, hfDINOv2, hfGatedDINOv2, hfTeacher),
	Strict:   []string{"encoder.layer.", "embeddings."},
	Prefixes: vitPrefixes, Finish: finishViT,
}, {
	Source: "Hugging Face transformers from 5",
	Marks:  []string{"layers.#.attention.q_proj.*", "encoder.layer.#.attention.q_proj.*"},
	Whole:  []string{"embeddings.patch_embeddings.projection.weight"},
	// In version 5, the names of DINOv2 contain "encoder.layer", those of ViT and DeiT "layers".
	Rules:    checkpoint.Union(hfTokens, hfHead, hfTeacher, hfBlock5("layers.#."), hfBlock5("encoder.layer.#.")),
	Strict:   []string{"layers.", "encoder.layer.", "embeddings."},
	Prefixes: vitPrefixes, Finish: finishViT,
}}, npzNamings...)

// chunked adds rules for the names of DINOv2 models that were trained with FSDP. Their blocks are
// divided into chunks, and the second number is the number of the block:
// "blocks.CHUNK.BLOCK.norm1.weight".
func chunked(rules checkpoint.Rules) checkpoint.Rules {
	all := checkpoint.Union(rules)
	for pattern, rule := range rules {
		if rest, ok := strings.CutPrefix(pattern, "blocks.#."); ok {
			rule.To = strings.Replace(rule.To, "blocks.#.", "blocks.##.", 1)
			all["blocks.#.#."+rest] = rule
		}
	}
	return all
}

// The rules for the names of Hugging Face transformers, in parts. ViT and DINOv2 differ in the
// names of their blocks, and a distilled DeiT has two heads.
var (
	hfTokens = checkpoint.Renames(
		"embeddings.cls_token", "cls_token",
		"embeddings.distillation_token", "dist_token",
		"embeddings.register_tokens", registers,
		"embeddings.mask_token", "",
		"embeddings.position_embeddings", "pos_embed",
		"embeddings.patch_embeddings.projection.*", "patch_embed.proj.*",
		"layernorm.*", "norm.*",
	)
	hfHead    = checkpoint.Renames("classifier.*", "head.*")
	hfTeacher = checkpoint.Renames("cls_classifier.*", "head.*", "distillation_classifier.*", "head_dist.*")

	// the names before version 5, which all versions read
	hfAttention = checkpoint.Renames(
		"encoder.layer.#.attention.attention.query.*", "blocks.#.attn.q.*",
		"encoder.layer.#.attention.attention.key.*", "blocks.#.attn.k.*",
		"encoder.layer.#.attention.attention.value.*", "blocks.#.attn.v.*",
		"encoder.layer.#.attention.output.dense.*", "blocks.#.attn.proj.*",
	)
	hfViTBlock = checkpoint.Renames(
		"encoder.layer.#.layernorm_before.*", "blocks.#.norm1.*",
		"encoder.layer.#.layernorm_after.*", "blocks.#.norm2.*",
		"encoder.layer.#.intermediate.dense.*", "blocks.#.mlp.fc1.*",
		"encoder.layer.#.output.dense.*", "blocks.#.mlp.fc2.*",
	)
	hfDINOv2Block = checkpoint.Renames(
		"encoder.layer.#.norm1.*", "blocks.#.norm1.*",
		"encoder.layer.#.norm2.*", "blocks.#.norm2.*",
		"encoder.layer.#.layer_scale1.lambda1", "blocks.#.ls1.gamma",
		"encoder.layer.#.layer_scale2.lambda1", "blocks.#.ls2.gamma",
	)
	hfMLP      = checkpoint.Renames("encoder.layer.#.mlp.fc1.*", "blocks.#.mlp.fc1.*", "encoder.layer.#.mlp.fc2.*", "blocks.#.mlp.fc2.*")
	hfGatedMLP = checkpoint.Renames("encoder.layer.#.mlp.weights_in.*", "blocks.#.mlp.fc1.*", "encoder.layer.#.mlp.weights_out.*", "blocks.#.mlp.fc2.*")

	hfViT         = checkpoint.Union(hfTokens, hfHead, hfAttention, hfViTBlock)
	hfDeiTTeacher = checkpoint.Union(hfTokens, hfTeacher, hfAttention, hfViTBlock)
	hfDINOv2      = checkpoint.Union(hfTokens, hfHead, hfAttention, hfDINOv2Block, hfMLP)
	hfGatedDINOv2 = checkpoint.Union(hfTokens, hfHead, hfAttention, hfDINOv2Block, hfGatedMLP)
)

// hfBlock5 returns the rules for the names of a block that transformers uses from version 5. block
// is the pattern of the prefix of a block, such as "layers.#.".
func hfBlock5(block string) checkpoint.Rules {
	return checkpoint.Renames(
		block+"layernorm_before.*", "blocks.#.norm1.*",
		block+"layernorm_after.*", "blocks.#.norm2.*",
		block+"norm1.*", "blocks.#.norm1.*",
		block+"norm2.*", "blocks.#.norm2.*",
		block+"layer_scale1.lambda1", "blocks.#.ls1.gamma",
		block+"layer_scale2.lambda1", "blocks.#.ls2.gamma",
		block+"attention.q_proj.*", "blocks.#.attn.q.*",
		block+"attention.k_proj.*", "blocks.#.attn.k.*",
		block+"attention.v_proj.*", "blocks.#.attn.v.*",
		block+"attention.o_proj.*", "blocks.#.attn.proj.*",
		block+"mlp.fc1.*", "blocks.#.mlp.fc1.*",
		block+"mlp.fc2.*", "blocks.#.mlp.fc2.*",
		block+"mlp.gate_proj.*", "blocks.#.mlp.gate.*",
		block+"mlp.up_proj.*", "blocks.#.mlp.up.*",
		block+"mlp.down_proj.*", "blocks.#.mlp.fc2.*",
	)
}

// registers is the temporary name of DINOv2's register tokens. foldClassPosition renames them to
// "reg_token".
const registers = "register_tokens"

// finishViT joins and changes the tensors that some naming schemes store in another form than timm.
func finishViT(r *checkpoint.Renaming) error {
	if err := packGates(r); err != nil {
		return err
	}
	return foldClassPosition(r)
}

// packGates replaces the gate [H, D] and the up projection [H, D] of a SwiGLU by timm's packed
// mlp.fc1 [2H, D].
func packGates(r *checkpoint.Renaming) error {
	for _, name := range r.Names() {
		block, rest, _ := strings.Cut(name, ".mlp.")
		part, kind, _ := strings.Cut(rest, ".")
		if _, ok := r.Tensor(name); !ok || part != "gate" && part != "up" {
			continue // ok is false for an up projection that was already packed with its gate
		}
		gate, up := block+".mlp.gate."+kind, block+".mlp.up."+kind
		a, _ := r.Tensor(gate)
		b, _ := r.Tensor(up)
		if len(a.Shape) == 0 || !slices.Equal(a.Shape, b.Shape) {
			return r.ErrorAt(r.Origin(name).Name, "a gated MLP needs a gate_proj and an up_proj of the same shape, found the shapes %v and %v", a.Shape, b.Shape)
		}
		origin := r.Origin(gate)
		r.Remove(gate)
		r.Remove(up)
		shape := slices.Clone(a.Shape)
		shape[0] *= 2
		if err := r.Put(block+".mlp.fc1."+kind, checkpoint.Tensor{Shape: shape, Data: slices.Concat(a.Data, b.Data)}, origin); err != nil {
			return err
		}
	}
	return nil
}

// foldClassPosition converts DINOv2 models with registers to the form of timm. It adds the position
// of the class token [1, 1, D] to the class token, so that pos_embed [1, N, D] holds only the
// positions of the patch tokens. It also renames the register tokens. Other models stay as they
// are.
func foldClassPosition(r *checkpoint.Renaming) error {
	tokens, ok := r.Tensor(registers)
	if !ok {
		return nil
	}
	origin := r.Origin(registers)
	r.Remove(registers)
	if err := r.Put("reg_token", tokens, origin); err != nil {
		return err
	}
	cls, hasClass := r.Tensor("cls_token")
	pos, hasPos := r.Tensor("pos_embed")
	if !hasClass || !hasPos {
		return nil // Load reports the missing tensor
	}
	c, p := cls.Shape, pos.Shape
	if len(c) != 3 || len(p) != 3 || c[0] != 1 || c[1] != 1 || p[0] != 1 || p[1] < 2 || p[2] != c[2] {
		return r.ErrorAt(r.Origin("pos_embed").Name, "the shape is %v and the class token has shape %v, expected [1, 1+N, D] and [1, 1, D]", p, c)
	}
	sum := checkpoint.NewTensor(c...)
	for i := range sum.Data {
		sum.Data[i] = cls.Data[i] + pos.Data[i]
	}
	replace(r, "cls_token", sum)
	replace(r, "pos_embed", checkpoint.Tensor{Shape: []int{1, p[1] - 1, p[2]}, Data: pos.Data[p[2]:]})
	return nil
}

// replace replaces the tensor with the given name by x.
func replace(r *checkpoint.Renaming, name string, x checkpoint.Tensor) {
	origin := r.Origin(name)
	r.Remove(name)
	_ = r.Put(name, x, origin) // cannot fail: the name was just removed
}
