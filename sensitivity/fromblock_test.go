package sensitivity

import (
	"path/filepath"
	"slices"
	"testing"

	"github.com/sptune/spt/backbone"
	"github.com/sptune/spt/backend"
	"github.com/sptune/spt/internal/colours"
	"github.com/sptune/spt/internal/option"
	"github.com/sptune/spt/internal/program"
	"github.com/sptune/spt/objective"
)

// TestScoreFromBlock checks that scores from a block on are those of all blocks, and zero before
// the block, with and without micro-batches.
func TestScoreFromBlock(t *testing.T) {
	be, _, err := backend.Open("cpu", 1)
	if err != nil {
		t.Fatal(err)
	}
	m := colours.Model(vit(3))
	for _, n := range []int{4, 47} { // 47 images are several micro-batches
		pixels, classes := colours.Noise(n, 8)
		images, err := program.Tensor(be, pixels, n, 8, 8, 3)
		if err != nil {
			t.Fatal(err)
		}
		labels, err := program.Tensor(be, classes, n)
		if err != nil {
			t.Fatal(err)
		}
		score := func(block int) *Scores {
			s, err := newScorer(be, m, objective.SingleLabel, m.Weights, Options{Criterion: SquaredGradient, FromBlock: block})
			if err != nil {
				t.Fatal(err)
			}
			defer s.Close()
			for range 2 {
				if _, err := s.Add(t.Context(), images, labels); err != nil {
					t.Fatal(err)
				}
			}
			out, err := s.Scores()
			if err != nil {
				t.Fatal(err)
			}
			return out
		}
		all, late := score(0), score(2)
		reached := false
		for i, want := range all.Tensors {
			reached = reached || backbone.Block(want.Name) == "blocks.2"
			got := late.Tensors[i]
			if got.Name != want.Name || len(got.Scores) != len(want.Scores) {
				t.Fatalf("%s has %d scores, expected %d of %s", got.Name, len(got.Scores), len(want.Scores), want.Name)
			}
			if reached && !slices.Equal(got.Scores, want.Scores) || !reached && slices.Max(got.Scores) != 0 {
				t.Errorf("%d images: %s has the scores %.6g, expected those of %.6g from block 2 on", n, want.Name, got.Scores[:4], want.Scores[:4])
			}
		}
		path := filepath.Join(t.TempDir(), "scores.safetensors")
		if err := late.Save(path); err != nil {
			t.Fatal(err)
		}
		again, err := Load(path)
		if err != nil || again.FromBlock != 2 {
			t.Fatalf("read back block %d, %v", again.FromBlock, err)
		}
		for block, valid := range []bool{false, false, true} {
			if err := again.CheckOptions(Options{FromBlock: block}, n); (err == nil) != valid || !valid && option.Of(err) != "from-block" {
				t.Errorf("a run from block %d: %v", block, err)
			}
		}
	}
}
