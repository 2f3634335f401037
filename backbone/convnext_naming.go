package backbone

import (
	"slices"

	"github.com/sptune/spt/checkpoint"
)

// convnextPrefixes are prefixes that Hugging Face models put before the tensor names of a ConvNeXt.
var convnextPrefixes = []string{"convnext.", "convnextv2."}

// convnextNamings are the naming schemes of ConvNeXt checkpoints: timm, the authors of ConvNeXt,
// and Hugging Face transformers.
var convnextNamings = []checkpoint.Naming{{
	Source: "timm",
	Marks:  []string{"stages.#.blocks.#.conv_dw.*"},
	Whole:  []string{"stem.0.weight"},
	Rules: checkpoint.Union(checkpoint.Keeps(
		"stem.0.*", "stem.1.*", "stages.#.downsample.0.*", "stages.#.downsample.1.*", "head.norm.*", "head.pre_logits.fc.*", "head.fc.*",
		"stages.#.blocks.#.conv_dw.*", "stages.#.blocks.#.norm.*", "stages.#.blocks.#.gamma",
	), pointwise("stages.#.blocks.#.mlp.fc1.*", "stages.#.blocks.#.mlp.fc2.*"), grn("stages.#.blocks.#.mlp.grn.weight", "stages.#.blocks.#.mlp.grn.bias")),
	// norm_pre marks a variant that normalises before pooling, which is not supported.
	Strict:   []string{"stem.", "stages.", "norm_pre."},
	Prefixes: convnextPrefixes,
}, {
	Source: "the ConvNeXt authors",
	Marks:  []string{"stages.#.#.dwconv.*"},
	Whole:  []string{"downsample_layers.0.0.weight"},
	Rules: checkpoint.Union(checkpoint.Renames(
		"downsample_layers.0.0.*", "stem.0.*",
		"downsample_layers.0.1.*", "stem.1.*",
		"downsample_layers.#.0.*", "stages.#.downsample.0.*",
		"downsample_layers.#.1.*", "stages.#.downsample.1.*",
		"stages.#.#.dwconv.*", "stages.#.blocks.#.conv_dw.*",
		"stages.#.#.norm.*", "stages.#.blocks.#.norm.*",
		"stages.#.#.gamma", "stages.#.blocks.#.gamma",
		"norm.*", "head.norm.*",
		"head.*", "head.fc.*",
	), pointwise("stages.#.#.pwconv1.*", "stages.#.#.pwconv2.*"), grn("stages.#.#.grn.gamma", "stages.#.#.grn.beta")),
	Strict:   []string{"downsample_layers.", "stages."},
	Prefixes: convnextPrefixes,
}, {
	Source:   "Hugging Face transformers",
	Marks:    []string{"encoder.stages.#.layers.#.dwconv.*"},
	Whole:    []string{"embeddings.patch_embeddings.weight"},
	Rules:    convnextHuggingFace,
	Strict:   []string{"embeddings.", "encoder."},
	Prefixes: convnextPrefixes,
}}

// convnextHuggingFace holds the rules for the names of Hugging Face transformers.
var convnextHuggingFace = checkpoint.Union(checkpoint.Renames(
	"embeddings.patch_embeddings.*", "stem.0.*",
	"embeddings.layernorm.*", "stem.1.*",
	"encoder.stages.#.downsampling_layer.0.*", "stages.#.downsample.0.*",
	"encoder.stages.#.downsampling_layer.1.*", "stages.#.downsample.1.*",
	"encoder.stages.#.layers.#.dwconv.*", "stages.#.blocks.#.conv_dw.*",
	"encoder.stages.#.layers.#.layernorm.*", "stages.#.blocks.#.norm.*",
	"encoder.stages.#.layers.#.layer_scale_parameter", "stages.#.blocks.#.gamma",
	"layernorm.*", "head.norm.*",
	"classifier.*", "head.fc.*",
), pointwise("encoder.stages.#.layers.#.pwconv1.*", "encoder.stages.#.layers.#.pwconv2.*"),
	grn("encoder.stages.#.layers.#.grn.weight", "encoder.stages.#.layers.#.grn.bias"))

// pointwise returns the rules for the two linear layers of a block. A checkpoint may store their
// weights as 1×1 convolutions [out, in, 1, 1].
func pointwise(fc1, fc2 string) checkpoint.Rules {
	squeeze := func(x checkpoint.Tensor) (checkpoint.Tensor, error) {
		if s := x.Shape; len(s) == 4 && s[2] == 1 && s[3] == 1 {
			x.Shape = slices.Clone(s[:2])
		}
		return x, nil
	}
	return checkpoint.Rules{fc1: {To: "stages.#.blocks.#.mlp.fc1.*", Change: squeeze}, fc2: {To: "stages.#.blocks.#.mlp.fc2.*", Change: squeeze}}
}

// grn returns the rules for the global response normalisation of ConvNeXt V2. Some checkpoints
// store its tensors as [1, 1, 1, C].
func grn(weight, bias string) checkpoint.Rules {
	squeeze := func(x checkpoint.Tensor) (checkpoint.Tensor, error) {
		if s := x.Shape; len(s) == 4 && s[0] == 1 && s[1] == 1 && s[2] == 1 {
			x.Shape = slices.Clone(s[3:])
		}
		return x, nil
	}
	return checkpoint.Rules{weight: {To: "stages.#.blocks.#.mlp.grn.weight", Change: squeeze}, bias: {To: "stages.#.blocks.#.mlp.grn.bias", Change: squeeze}}
}
