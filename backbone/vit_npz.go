package backbone

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/sptune/spt/checkpoint"
)

// Sources of JAX checkpoints. The parts of their tensor names are separated by slashes.
const (
	googleSource    = "google-research/vision_transformer (npz)"
	bigVisionSource = "big_vision (npz)"
)

// maxStackedBlocks bounds the number of blocks that one array may hold. It keeps a malicious file
// from creating a huge number of tiny tensors.
const maxStackedBlocks = 1024

// npzNamings are the naming schemes of Google's ViT and of big_vision. They differ in the numbers
// of the modules of a block.
var npzNamings = []checkpoint.Naming{{
	Source: googleSource, Rules: npzRules, Strict: []string{"Transformer.", "embedding."},
	Split: splitNPZ, Finish: checkNPZHeads,
}, {
	Source: bigVisionSource, Rules: npzRules, Strict: []string{"Transformer.", "embedding."},
	Split: splitNPZ, Finish: checkNPZHeads,
}}

// splitNPZ implements Naming.Split for both schemes. It puts dots between the parts of a name:
// "opt/target/Transformer/encoderblock_3/LayerNorm_0/scale" becomes
// "Transformer.encoderblock.3.LayerNorm_0.scale". If an array holds all blocks along its first
// axis, it is split into one tensor for each block.
func splitNPZ(n checkpoint.Naming, sd checkpoint.StateDict, r *checkpoint.Renaming) (found bool, err error) {
	names := slices.Sorted(maps.Keys(sd))
	prefix := ""
	for _, p := range []string{"", "opt/target/", "params/", "params/img/"} {
		i := slices.IndexFunc(names, func(name string) bool { return strings.HasPrefix(name, p+"Transformer/encoderblock") })
		if i < 0 {
			continue
		}
		if found {
			return true, r.ErrorAt(names[i], "there are also blocks under %q, so the checkpoint holds two models; keep one of them", prefix+"Transformer/")
		}
		found, prefix = true, p
	}
	bigVision := slices.ContainsFunc(names, func(name string) bool {
		return strings.HasPrefix(name, prefix+"Transformer/encoderblock") && strings.Contains(name, "/MultiHeadDotProductAttention_0/")
	})
	if !found || bigVision != (n.Source == bigVisionSource) {
		return false, nil
	}
	for _, name := range names {
		x := sd[name]
		origin := checkpoint.Origin{Name: name, Shape: x.Shape}
		short, ok := strings.CutPrefix(name, prefix)
		if !ok {
			r.Skip(name)
			continue
		}
		dotted := strings.ReplaceAll(strings.ReplaceAll(short, "encoderblock_", "encoderblock."), "/", ".")
		block, inBlock := strings.CutPrefix(dotted, "Transformer.encoderblock.")
		number, _, _ := strings.Cut(block, ".")
		if !inBlock || number != "" && strings.Trim(number, "0123456789") == "" {
			if err := r.Put(dotted, x, origin); err != nil {
				return true, err
			}
			continue
		}
		if !n.Rules.Has("Transformer.encoderblock.0."+block) || len(x.Shape) < 2 || x.Shape[0] < 1 || x.Shape[0] > maxStackedBlocks {
			return true, r.ErrorAt(name, "the array of shape %v is not a stack of blocks: expected a tensor that every block has, stacked along the first axis for 1 to %d blocks", x.Shape, maxStackedBlocks)
		}
		size := len(x.Data) / x.Shape[0]
		for i := range x.Shape[0] {
			one := checkpoint.Tensor{Shape: slices.Clone(x.Shape[1:]), Data: x.Data[i*size : (i+1)*size : (i+1)*size]}
			if err := r.Put(fmt.Sprintf("Transformer.encoderblock.%d.%s", i, block), one, origin); err != nil {
				return true, err
			}
		}
	}
	return true, nil
}

// npzHeads returns the number of attention heads, which is an axis of a query kernel
// [..., D, heads, D/heads] in JAX. It returns 0 if o has fewer than two axes.
func npzHeads(o checkpoint.Origin) int {
	if len(o.Shape) < 2 {
		return 0
	}
	return o.Shape[len(o.Shape)-2]
}

// checkNPZHeads returns an error if the blocks of a checkpoint have different numbers of attention
// heads.
func checkNPZHeads(r *checkpoint.Renaming) error {
	heads := 0
	for _, name := range r.Names() {
		if !strings.HasSuffix(name, ".attn.q.weight") {
			continue
		}
		o := r.Origin(name)
		if n := npzHeads(o); heads > 0 && n != heads {
			return r.ErrorAt(o.Name, "shape %v has %d attention heads, but another block has %d; expected the same number in all blocks", o.Shape, n, heads)
		}
		heads = npzHeads(o)
	}
	return nil
}

// npzRules holds the rules for both schemes. In a block, the modules have the numbers 0, 1, 3 and 2
// in Google's checkpoints and 0, 0, 0 and 1 in big_vision's. In big_vision, pos_embedding is at the
// top level.
var npzRules = func() checkpoint.Rules {
	rules := checkpoint.Renames(
		"embedding.bias", "patch_embed.proj.bias",
		"cls", "cls_token",
		"pos_embedding", "pos_embed",
		"Transformer.posembed_input.pos_embedding", "pos_embed",
		"Transformer.encoder_norm.scale", "norm.weight",
		"Transformer.encoder_norm.bias", "norm.bias",
		"head.bias", "head.bias",
	)
	rules["embedding.kernel"] = checkpoint.Rule{To: "patch_embed.proj.weight", Change: convolutionKernel}
	rules["head.kernel"] = checkpoint.Rule{To: "head.weight", Change: kernel(2, 1)}
	block := "Transformer.encoderblock.#."
	for module, to := range map[string]string{"LayerNorm_0": "norm1", "LayerNorm_1": "norm2", "LayerNorm_2": "norm2"} {
		rules[block+module+".scale"] = checkpoint.Rule{To: "blocks.#." + to + ".weight"}
		rules[block+module+".bias"] = checkpoint.Rule{To: "blocks.#." + to + ".bias"}
	}
	for _, module := range []string{"MultiHeadDotProductAttention_0.", "MultiHeadDotProductAttention_1."} {
		for part, to := range map[string]string{"query": "q", "key": "k", "value": "v"} {
			rules[block+module+part+".kernel"] = checkpoint.Rule{To: "blocks.#.attn." + to + ".weight", Change: kernel(3, 1)}
			rules[block+module+part+".bias"] = checkpoint.Rule{To: "blocks.#.attn." + to + ".bias", Change: flatBias}
		}
		rules[block+module+"out.kernel"] = checkpoint.Rule{To: "blocks.#.attn.proj.weight", Change: kernel(3, 2)}
		rules[block+module+"out.bias"] = checkpoint.Rule{To: "blocks.#.attn.proj.bias"}
	}
	for _, module := range []string{"MlpBlock_0.", "MlpBlock_3."} {
		for layer, to := range map[string]string{"Dense_0": "fc1", "Dense_1": "fc2"} {
			rules[block+module+layer+".kernel"] = checkpoint.Rule{To: "blocks.#.mlp." + to + ".weight", Change: kernel(2, 1)}
			rules[block+module+layer+".bias"] = checkpoint.Rule{To: "blocks.#.mlp." + to + ".bias"}
		}
	}
	return rules
}()

// kernel returns a function that converts a kernel of rank axes to a matrix [out, in]. The first
// split axes of the kernel are the inputs, and the others are the outputs.
func kernel(rank, split int) func(checkpoint.Tensor) (checkpoint.Tensor, error) {
	return func(x checkpoint.Tensor) (checkpoint.Tensor, error) {
		if len(x.Shape) != rank {
			return x, fmt.Errorf("shape %v, expected %d axes", x.Shape, rank)
		}
		in := checkpoint.Tensor{Shape: x.Shape[:split]}.Size()
		out := checkpoint.Tensor{Shape: x.Shape[split:]}.Size()
		y := checkpoint.NewTensor(out, in)
		if len(x.Data) == 0 {
			return y, nil // in or out may still be huge
		}
		for i := range in {
			for o := range out {
				y.Data[o*in+i] = x.Data[i*out+o]
			}
		}
		return y, nil
	}
}

// flatBias reshapes a bias [heads, D/heads] to [D].
func flatBias(x checkpoint.Tensor) (checkpoint.Tensor, error) {
	if len(x.Shape) != 2 {
		return x, fmt.Errorf("shape %v, expected [heads, D/heads]", x.Shape)
	}
	return checkpoint.Tensor{Shape: []int{len(x.Data)}, Data: x.Data}, nil
}

// convolutionKernel transposes a kernel [h, w, in, out] to [out, in, h, w].
func convolutionKernel(x checkpoint.Tensor) (checkpoint.Tensor, error) {
	if len(x.Shape) != 4 {
		return x, fmt.Errorf("shape %v, expected [h, w, in, out]", x.Shape)
	}
	h, w, in, out := x.Shape[0], x.Shape[1], x.Shape[2], x.Shape[3]
	y := checkpoint.NewTensor(out, in, h, w)
	if len(x.Data) == 0 {
		return y, nil
	}
	for at := range h * w {
		for i := range in {
			for o := range out {
				y.Data[(o*in+i)*h*w+at] = x.Data[(at*in+i)*out+o]
			}
		}
	}
	return y, nil
}
