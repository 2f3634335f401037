package plan

import (
	"encoding/json"
	"math/rand/v2"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/sptune/spt/internal/option"
	"github.com/sptune/spt/sensitivity"
)

// TestFromBlock compares plans that begin with a block with plans from scores that are zero before
// this block, on a backbone without a class token. It also checks the file and the errors.
func TestFromBlock(t *testing.T) {
	const depth = 4
	count := func(in, out, rank int) int { return rank * (in + out) }
	r := rand.New(rand.NewPCG(7, 7))
	scores := &sensitivity.Scores{Tensors: vitShapes(depth, 16), ClassToken: 16}
	for i := range scores.Tensors {
		size, err := sizeOf(scores.Tensors[i])
		if err != nil {
			t.Fatal(err)
		}
		scores.Tensors[i].Scores = make([]float32, size)
		for j := range scores.Tensors[i].Scores {
			scores.Tensors[i].Scores[j] = r.Float32() * r.Float32()
		}
	}
	for block := 1; block < depth; block++ {
		late := sensitivity.From(scores.Tensors, block)
		first := len(scores.Tensors) - len(late)
		if name, _ := late[0].Place(); name != "blocks."+string(rune('0'+block)) {
			t.Fatalf("block %d begins with %s", block, late[0].Name)
		}
		zeroed := &sensitivity.Scores{}
		for i, tensor := range scores.Tensors {
			if i < first {
				tensor.Scores = make([]float32, len(tensor.Scores))
			}
			zeroed.Tensors = append(zeroed.Tensors, tensor)
		}
		for _, only := range []string{"", Structured, Unstructured} {
			for _, budget := range []int{1, 150, 900, 4000} {
				o := Options{Module: "lora", Only: only, Rank: 2, FromBlock: block}
				got, err := New(t.Context(), scores, budget, o, count)
				if err != nil {
					t.Fatal(err)
				}
				o.FromBlock = 0
				want, err := New(t.Context(), zeroed, budget, o, count)
				if err != nil {
					t.Fatal(err)
				}
				if got.FromBlock != block || got.Cost.ClassToken != 0 {
					t.Errorf("block %d: the plan begins with block %d and has a class token of %d", block, got.FromBlock, got.Cost.ClassToken)
				}
				want.FromBlock = block
				if !reflect.DeepEqual(got, want) {
					t.Errorf("block %d, only %q, budget %d: the plan %+v, expected %+v", block, only, budget, got, want)
				}
				if err := got.Validate(scores.Tensors, count); err != nil {
					t.Error(err)
				}
				path := filepath.Join(t.TempDir(), "plan.json")
				if err := got.Save(path); err != nil {
					t.Fatal(err)
				}
				again, err := LoadFile(path)
				if err != nil || again.FromBlock != block {
					t.Errorf("read back block %d, %v", again.FromBlock, err)
				}
			}
		}
	}
	// The plan of all blocks spends a part of its budget on early blocks.
	whole, err := New(t.Context(), scores, 900, Options{Module: "lora", Rank: 2}, count)
	if err != nil {
		t.Fatal(err)
	}
	if text, _ := json.Marshal(whole); strings.Contains(string(text), "from_block") {
		t.Errorf("a plan of all blocks has the key from_block: %s", text)
	}
	whole.FromBlock, whole.Cost.Total, whole.Cost.ClassToken = 2, whole.Cost.Total-16, 0
	if err := whole.Validate(scores.Tensors, count); err == nil || !strings.Contains(err.Error(), "not among") {
		t.Errorf("a plan with tensors before its first block: %v", err)
	}
	for _, c := range []struct {
		o      Options
		scored int
		option string
	}{
		{Options{FromBlock: depth}, 0, "from-block"}, {Options{FromBlock: -1}, 0, "from-block"},
		{Options{FromBlock: 1}, 2, "from-block"}, {Options{}, 2, "from-block"},
		{Options{FromBlock: 1, Compat: CompatRelease}, 0, "compat"},
	} {
		c.o.Module, scores.FromBlock = "lora", c.scored
		if _, err := New(t.Context(), scores, 900, c.o, count); err == nil || option.Of(err) != c.option {
			t.Errorf("%+v with scores from block %d: %v", c.o, c.scored, err)
		}
	}
}
