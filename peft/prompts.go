package peft

import (
	"fmt"
	"math"

	. "github.com/gomlx/gomlx/core/graph"

	"github.com/sptune/spt/backbone"
)

// Prompts configures VPT (Jia et al. 2022, "Visual Prompt Tuning", arXiv 2203.12119): learned
// tokens beside the tokens of the image. The prompts stand after the other tokens: attention does
// not depend on their order, and no position is added to them. The head reads the same tokens as
// without prompts. Only a backbone of tokens takes prompts. Prompts cannot be merged.
type Prompts struct {
	Tokens int `json:"tokens"` // p, the number of prompts before a block; at least 1
	// VPT-deep: new prompts before every block. Default: VPT-shallow, before the first block alone
	Deep bool `json:"deep,omitempty"`
}

// The names of the prompts: [1, p, D] before the first block, [blocks − 1, p, D] before the others.
const (
	promptsName     = "prompt_embeddings"
	deepPromptsName = "deep_prompt_embeddings"
)

func (t *Tuning) declarePrompts(c backbone.Config, o *operations) error {
	p := t.Selection.Prompts
	if p.Tokens < 1 || p.Tokens > maxExtra {
		return fmt.Errorf("visual prompts: %d tokens, expected 1 to %d", p.Tokens, maxExtra)
	}
	if o.tokens == 0 {
		return fmt.Errorf("visual prompts need a backbone of tokens without a grid, such as a ViT; %s is none: choose another method", c)
	}
	width, patch, err := patchEmbedding(c)
	if err != nil {
		return err
	}
	// Xavier's uniform for a layer from the pixels of a patch to the tokens.
	bound := math.Sqrt(6 / float64(patch+width))
	t.declare(Param{Name: promptsName, Shape: []int{1, p.Tokens, width}, Init: uniform(bound)})
	if p.Deep && o.tokens > 1 {
		t.declare(Param{Name: deepPromptsName, Shape: []int{o.tokens - 1, p.Tokens, width}, Init: uniform(bound)})
	}
	return nil
}

// patchEmbedding returns the width of the tokens and the number of values of a patch. Both follow
// from the kernel [D, 3, p, p] of the patch embedding.
func patchEmbedding(c backbone.Config) (width, patch int, err error) {
	for _, p := range c.Params() {
		if p.Role == backbone.Frozen && len(p.Shape) == 4 {
			return p.Shape[0], p.Size() / p.Shape[0], nil
		}
	}
	return 0, 0, fmt.Errorf("visual prompts need a patch embedding with a kernel [D, 3, p, p]; %s has none: choose another method", c)
}

func (l *layers) Tokens(block int, x *Node) *Node {
	p := l.Selection.Prompts
	if p == nil || block > 0 && !p.Deep {
		return x
	}
	prompts := l.tuned[promptsName]
	if block > 0 {
		// New prompts replace the output of the block before for its prompts.
		x = Slice(x, AxisRange(), AxisRange(0, x.Shape().Dim(1)-p.Tokens), AxisRange())
		prompts = SliceAxis(l.tuned[deepPromptsName], 0, AxisRange(block-1, block))
	}
	prompts = ConvertDType(BroadcastToDims(prompts, x.Shape().Dim(0), p.Tokens, x.Shape().Dim(2)), x.DType())
	return Concatenate([]*Node{x, l.drop(prompts, l.rates.Dropout, prompts.Shape().Dimensions)}, 1)
}
