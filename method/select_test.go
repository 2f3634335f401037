package method

import (
	"strings"
	"testing"

	"github.com/sptune/spt/backbone"
)

// TestRankFor finds the largest rank within a budget. The expected count is the published count of
// LoRA, r(in+out) for a matrix.
func TestRankFor(t *testing.T) {
	tiny := backbone.Config{ImageSize: 224, NumClasses: 10, NumHeads: 3, LayerNormEps: 1e-6,
		Form: backbone.ViT{PatchSize: 16, EmbedDim: 192, Depth: 12, HiddenDim: 768}}
	rank, cost, err := rankFor(tiny, "lora", 200_000, 0)
	if err != nil || rank != 4 || cost != 4*12*(4*384+2*960) {
		t.Errorf("rank %d, cost %d, %v", rank, cost, err)
	}
	rank, cost, err = rankFor(tiny, "lora", 200_000, 6) // half of the matrices
	if err != nil || rank != 9 || cost != 9*6*(4*384+2*960) {
		t.Errorf("from block 6: rank %d, cost %d, %v", rank, cost, err)
	}
	if _, _, err := rankFor(tiny, "lora", 1000, 0); err == nil {
		t.Error("a budget below rank 1 was accepted")
	}
}

// TestPartial checks that partial-1 tunes the last block and the final norm, and nothing else.
func TestPartial(t *testing.T) {
	config := backbone.Config{ImageSize: 8, NumClasses: 3, NumHeads: 2, LayerNormEps: 1e-6,
		Form: backbone.ViT{PatchSize: 4, EmbedDim: 8, Depth: 2, HiddenDim: 16}}
	s, err := partial(config, 1)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range s.Whole {
		if !strings.HasPrefix(name, "blocks.1.") && !strings.HasPrefix(name, "norm.") {
			t.Errorf("%s is tuned", name)
		}
	}
	// A weight and a bias each: four linear layers of the attention, two of the MLP, two norms of
	// the block and the final norm.
	if len(s.Whole) != 2*(4+2+2+1) {
		t.Errorf("%d tensors", len(s.Whole))
	}
	all, err := partial(config, 2)
	if err != nil || len(all.Whole) <= len(s.Whole) {
		t.Errorf("two blocks: %d tensors, %v", len(all.Whole), err)
	}
	for _, blocks := range []int{0, 3} {
		if _, err := partial(config, blocks); err == nil || !strings.Contains(err.Error(), "expected 1 to 2") {
			t.Errorf("the last %d blocks of two: %v", blocks, err)
		}
	}
}
