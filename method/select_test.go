package method

import (
	"strings"
	"testing"

	"github.com/sptune/spt/backbone"
	"github.com/sptune/spt/peft"
)

// TestRankFor finds the largest rank within a budget. The expected count is the published count of
// LoRA, r(in+out) for a matrix.
func TestRankFor(t *testing.T) {
	tiny := backbone.Config{ImageSize: 224, NumClasses: 10, NumHeads: 3, LayerNormEps: 1e-6,
		Form: backbone.ViT{PatchSize: 16, EmbedDim: 192, Depth: 12, HiddenDim: 768}}
	lora, err := Lookup(LoRA)
	if err != nil {
		t.Fatal(err)
	}
	rank, cost, err := lora.rankFor(tiny, 200_000, 0)
	if err != nil || rank != 4 || cost != 4*12*(4*384+2*960) {
		t.Errorf("rank %d, cost %d, %v", rank, cost, err)
	}
	rank, cost, err = lora.rankFor(tiny, 200_000, 6) // half of the matrices
	if err != nil || rank != 9 || cost != 9*6*(4*384+2*960) {
		t.Errorf("from block 6: rank %d, cost %d, %v", rank, cost, err)
	}
	if _, _, err := lora.rankFor(tiny, 1000, 0); err == nil {
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

// TestPlacements checks the published counts of methods that put modules on some matrices, at rank
// 8 on a ViT-B/16, and that their budget counts what they tune. Zhang et al. 2022 and the SPT paper
// publish 156,768 for an adapter after the MLP. Their LoRA on q, k and v has 294,912 because q, k
// and v share A; with three times A it is 442,368.
func TestPlacements(t *testing.T) {
	base := backbone.Config{ImageSize: 224, NumClasses: 10, NumHeads: 12, LayerNormEps: 1e-6,
		Form: backbone.ViT{PatchSize: 16, EmbedDim: 768, Depth: 12, HiddenDim: 3072}}
	// all biases but that of the patch embedding, and the weights of 25 norms
	const loraEverywhere, vectors = 1_327_104, 102_912 - 768 + 25*768
	for m, want := range map[Method]int{
		"lora-qkv":     294_912 + 2*8*768*12,
		"adapter-mlp":  156_768,
		"houlsby":      2 * 156_768,
		"lora+vectors": loraEverywhere + vectors,
		"norm":         25 * 2 * 768,
	} {
		r, err := Lookup(m)
		if err != nil {
			t.Fatal(err)
		}
		o := Options{}
		if r.Takes("rank") {
			o.Rank = 8
		}
		s, err := r.Select(base, o)
		if err != nil {
			t.Fatal(err)
		}
		tuning, err := peft.New(base, s)
		if err != nil {
			t.Fatal(err)
		}
		if got := tuning.Counts.Tuned(); got != want {
			t.Errorf("%s tunes %d parameters, expected %d", m, got, want)
		}
		if r.Module == "" {
			continue
		}
		if rank, cost, err := r.rankFor(base, want, 0); err != nil || rank != 8 || cost != want {
			t.Errorf("%s within %d: rank %d with %d parameters (%v)", m, want, rank, cost, err)
		}
	}
	qkv, err := Lookup("lora-qkv")
	if err != nil {
		t.Fatal(err)
	}
	convnext := backbone.Config{ImageSize: 32, NumClasses: 3, LayerNormEps: 1e-6, Form: backbone.ConvNeXt{PatchSize: 4, EmbedDim: 8, Depths: []int{1, 1}, Dims: []int{8, 16}}}
	if _, err := qkv.Select(convnext, Options{Rank: 1}); err == nil || !strings.Contains(err.Error(), "attn.q, attn.k, attn.v") {
		t.Errorf("lora-qkv on a backbone without attention: error %v", err)
	}
}
