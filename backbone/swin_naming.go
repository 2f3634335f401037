package backbone

import (
	"strings"

	"github.com/sptune/spt/checkpoint"
)

// swinTimm holds timm's names of all tensors except the patch-merging layers, whose position
// differs between versions.
var swinTimm = checkpoint.Union(checkpoint.Keeps(
	"patch_embed.proj.*", "patch_embed.norm.*", "norm.*", "head.fc.*",
	"layers.#.blocks.#.norm1.*", "layers.#.blocks.#.attn.qkv.*", "layers.#.blocks.#.attn.q.*", "layers.#.blocks.#.attn.k.*",
	"layers.#.blocks.#.attn.v.*", "layers.#.blocks.#.attn.proj.*", "layers.#.blocks.#.attn.relative_position_bias_table",
	"layers.#.blocks.#.norm2.*", "layers.#.blocks.#.mlp.fc1.*", "layers.#.blocks.#.mlp.fc2.*",
), checkpoint.Renames(
	"head.*", "head.fc.*",
	"layers.#.blocks.#.attn_mask", "",
	"layers.#.blocks.#.attn.relative_position_index", "",
))

// swinPrefixes are prefixes that Hugging Face models put before the tensor names of a Swin.
var swinPrefixes = []string{"swin."}

// swinNamings are the naming schemes of Swin checkpoints: timm, the authors of Swin, and two
// versions of Hugging Face transformers.
var swinNamings = []checkpoint.Naming{{
	Source:   "timm",
	Marks:    []string{"layers.#.blocks.#.attn.relative_position_bias_table"},
	Whole:    []string{"patch_embed.proj.weight"},
	Rules:    checkpoint.Union(swinTimm, checkpoint.Keeps("layers.#.downsample.norm.*", "layers.#.downsample.reduction.weight")),
	Strict:   swinStrict,
	Prefixes: swinPrefixes, Finish: checkMerging,
	Refine: func(n checkpoint.Naming, has func(pattern string) bool) checkpoint.Naming {
		// The first stage has a patch-merging layer only if these layers stand at the end of the
		// stages. For a model of one stage, the name of the head decides.
		ends := has("layers.0.downsample.reduction.weight") || has("layers.0.downsample.norm.*")
		if ends || !has("layers.#.downsample.reduction.weight") && has("head.*") {
			n.Source, n.Rules = "the Swin authors, or timm before 0.9", checkpoint.Union(swinTimm, checkpoint.Renames(
				"layers.#.downsample.norm.*", "layers.#+.downsample.norm.*",
				"layers.#.downsample.reduction.weight", "layers.#+.downsample.reduction.weight",
			))
		}
		return n
	},
}, {
	Source:   "Hugging Face transformers before 5",
	Marks:    []string{"encoder.layers.#.blocks.#.attention.self.query.*"},
	Whole:    []string{"embeddings.patch_embeddings.projection.weight"},
	Rules:    swinHuggingFace4,
	Strict:   swinStrict,
	Prefixes: swinPrefixes, Finish: checkMerging,
}, {
	Source: "Hugging Face transformers from 5",
	Marks:  []string{"encoder.layers.#.blocks.#.attention.q_proj.*"},
	Whole:  []string{"embeddings.patch_embeddings.projection.weight"},
	Rules: checkpoint.Union(swinHuggingFace, checkpoint.Renames(
		"encoder.layers.#.blocks.#.attention.q_proj.*", "layers.#.blocks.#.attn.q.*",
		"encoder.layers.#.blocks.#.attention.k_proj.*", "layers.#.blocks.#.attn.k.*",
		"encoder.layers.#.blocks.#.attention.v_proj.*", "layers.#.blocks.#.attn.v.*",
		"encoder.layers.#.blocks.#.attention.relative_position_bias.relative_position_bias_table", "layers.#.blocks.#.attn.relative_position_bias_table",
		"encoder.layers.#.blocks.#.attention.relative_position_bias.relative_position_index", "",
		"encoder.layers.#.blocks.#.attention.o_proj.*", "layers.#.blocks.#.attn.proj.*",
		"encoder.layers.#.blocks.#.mlp.fc1.*", "layers.#.blocks.#.mlp.fc1.*",
		"encoder.layers.#.blocks.#.mlp.fc2.*", "layers.#.blocks.#.mlp.fc2.*",
	)),
	Strict:   swinStrict,
	Prefixes: swinPrefixes, Finish: checkMerging,
}}

// swinStrict holds the prefixes below which every tensor name must be known. They include the
// absolute position embeddings, which are an option of the authors' code that no published model
// uses.
var swinStrict = []string{"layers.", "encoder.layers.", "patch_embed.", "embeddings.", "absolute_pos_embed"}

// swinHuggingFace holds the rules for the names that are the same in all versions of Hugging Face
// transformers.
var swinHuggingFace = checkpoint.Renames(
	"embeddings.patch_embeddings.projection.*", "patch_embed.proj.*",
	"embeddings.norm.*", "patch_embed.norm.*",
	"embeddings.mask_token", "",
	"encoder.layers.#.blocks.#.layernorm_before.*", "layers.#.blocks.#.norm1.*",
	"encoder.layers.#.blocks.#.layernorm_after.*", "layers.#.blocks.#.norm2.*",
	"encoder.layers.#.downsample.norm.*", "layers.#+.downsample.norm.*",
	"encoder.layers.#.downsample.reduction.weight", "layers.#+.downsample.reduction.weight",
	"layernorm.*", "norm.*",
	"classifier.*", "head.fc.*",
)

// swinHuggingFace4 holds the rules for the names before version 5 of Hugging Face transformers. All
// versions read them.
var swinHuggingFace4 = checkpoint.Union(swinHuggingFace, checkpoint.Renames(
	"encoder.layers.#.blocks.#.attention.self.query.*", "layers.#.blocks.#.attn.q.*",
	"encoder.layers.#.blocks.#.attention.self.key.*", "layers.#.blocks.#.attn.k.*",
	"encoder.layers.#.blocks.#.attention.self.value.*", "layers.#.blocks.#.attn.v.*",
	"encoder.layers.#.blocks.#.attention.self.relative_position_bias_table", "layers.#.blocks.#.attn.relative_position_bias_table",
	"encoder.layers.#.blocks.#.attention.self.relative_position_index", "",
	"encoder.layers.#.blocks.#.attention.output.dense.*", "layers.#.blocks.#.attn.proj.*",
	"encoder.layers.#.blocks.#.intermediate.dense.*", "layers.#.blocks.#.mlp.fc1.*",
	"encoder.layers.#.blocks.#.output.dense.*", "layers.#.blocks.#.mlp.fc2.*",
))

// checkMerging returns an error if a patch-merging layer belongs to a stage without blocks. This
// happens if the checkpoint has such layers both at the start of some stages and at the end of
// others.
func checkMerging(r *checkpoint.Renaming) error {
	stages := map[string]bool{}
	for _, name := range r.Names() {
		if stage, _, ok := strings.Cut(name, ".blocks."); ok {
			stages[stage] = true
		}
	}
	for _, name := range r.Names() {
		if stage, _, ok := strings.Cut(name, ".downsample."); ok && !stages[stage] {
			return r.ErrorAt(r.Origin(name).Name, "this patch-merging layer belongs to a stage that has no blocks; expected one at the end of every stage but the last, or one at the start of every stage but the first")
		}
	}
	return nil
}
