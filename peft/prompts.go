package peft

import (
	"fmt"
	"math"

	. "github.com/gomlx/gomlx/core/graph"

	"github.com/sptune/spt/backbone"
)

// Prompts configures VPT (Jia et al. 2022, "Visual Prompt Tuning", arXiv 2203.12119), which adds
// trainable tokens, the prompts, to the tokens of the image. The prompts come after the other
// tokens. This order is not important, because attention does not depend on it and prompts have no
// position embedding. The head reads the same tokens as without prompts.
//
// Prompts need a backbone whose blocks process a plain list of tokens, such as a ViT. They cannot
// be merged.
type Prompts struct {
	// Tokens is the number of prompts of a block. It is at least 1.
	Tokens int `json:"tokens"`
	// Deep selects VPT-deep, with new prompts for each block. Default: VPT-shallow, with prompts
	// only for the first block. The first block is Selection.FromBlock.
	Deep bool `json:"deep,omitempty"`
}

// The names of the prompts. With p tokens of width D, the shape is [1, p, D] for the first block
// and [blocks − 1, p, D] for the other blocks.
const (
	promptsName     = "prompt_embeddings"
	deepPromptsName = "deep_prompt_embeddings"
)

// declarePrompts adds the prompts to t.Params.
func (t *Tuning) declarePrompts(c backbone.Config, o *operations) error {
	p := t.Selection.Prompts
	if p.Tokens < 1 || p.Tokens > maxExtra {
		return fmt.Errorf("visual prompts: %d tokens, expected 1 to %d", p.Tokens, maxExtra)
	}
	if o.tokens == 0 {
		return fmt.Errorf("visual prompts need a backbone of tokens without a grid, such as a ViT, but the backbone is %s; choose another method", c)
	}
	width, patch, err := patchEmbedding(c)
	if err != nil {
		return err
	}
	// This is the Xavier uniform bound of a layer from the pixels of a patch to a token.
	bound := math.Sqrt(6 / float64(patch+width))
	t.declare(Param{Name: promptsName, Shape: []int{1, p.Tokens, width}, Init: uniform(bound)})
	if p.Deep && o.tokens > 1 {
		t.declare(Param{Name: deepPromptsName, Shape: []int{o.tokens - 1, p.Tokens, width}, Init: uniform(bound)})
	}
	return nil
}

// patchEmbedding returns the width D of the tokens and the number of pixel values 3·p·p of a patch,
// from the shape [D, 3, p, p] of the kernel of the patch embedding.
func patchEmbedding(c backbone.Config) (width, patch int, err error) {
	for _, p := range c.Params() {
		if p.Role == backbone.Frozen && len(p.Shape) == 4 {
			return p.Shape[0], p.Size() / p.Shape[0], nil
		}
	}
	return 0, 0, fmt.Errorf("visual prompts need a patch embedding with a kernel [D, 3, p, p], but the backbone %s has none; choose another method", c)
}

// Tokens implements backbone.Layers. It appends the prompts to the input tokens x [B, tokens, D] of
// a block.
func (l *layers) Tokens(block int, x *Node) *Node {
	p, first := l.Selection.Prompts, l.Selection.FromBlock
	if p == nil || block < first || block > first && !p.Deep {
		return x
	}
	prompts := l.tuned[promptsName]
	if block > first {
		// x ends with the outputs of the previous block for its prompts. New prompts replace them.
		x = Slice(x, AxisRange(), AxisRange(0, x.Shape().Dim(1)-p.Tokens), AxisRange())
		prompts = SliceAxis(l.tuned[deepPromptsName], 0, AxisRange(block-first-1, block-first))
	}
	prompts = ConvertDType(BroadcastToDims(prompts, x.Shape().Dim(0), p.Tokens, x.Shape().Dim(2)), x.DType())
	return Concatenate([]*Node{x, l.drop(prompts, l.rates.Dropout, prompts.Shape().Dimensions)}, 1)
}
