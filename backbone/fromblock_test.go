package backbone_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	. "github.com/gomlx/gomlx/core/graph"
	"github.com/gomlx/gomlx/core/tensors"

	"github.com/sptune/spt/backbone"
	"github.com/sptune/spt/backend"
	"github.com/sptune/spt/internal/fixtures"
	"github.com/sptune/spt/internal/program"
)

// TestFromBlock computes features and feature maps in two programs, split at each block, for every
// model of the fixtures in one naming. They must be those of one program. The second program must
// read the tensors that ParamsFrom lists, and no others.
func TestFromBlock(t *testing.T) {
	fast, _ := backends(t)
	worst := 0.0
	for _, f := range fixtures.Backbones(t) {
		if f.Naming != "timm" && f.Pooling != "token+avg" {
			continue // one checkpoint of each variant is enough
		}
		t.Run(f.Name, func(t *testing.T) {
			o := backbone.LoadOptions{ImageSize: f.ImageSize, NumClasses: 5}
			if f.Family == "vit" {
				o = options(f)
			}
			m, _, err := backbone.Load(f.Path(), o)
			if err != nil {
				t.Fatal(err)
			}
			c := m.Config
			outputs := func(m *backbone.Model, l backbone.Layers, x *Node) []*Node {
				return []*Node{m.Features(l, x), m.FeatureMap(l, x)}
			}
			images, err := program.Tensor(fast, normalised(t, f), 2, c.ImageSize, c.ImageSize, 3)
			if err != nil {
				t.Fatal(err)
			}
			defer images.FinalizeAll()
			want, _ := onModel(t, fast, m, images, func(l backbone.Layers, x *Node) []*Node { return outputs(m, l, x) })
			for block := 1; block < c.Blocks(); block++ {
				n, width, err := c.HiddenSize(block)
				if err != nil {
					t.Fatal(err)
				}
				hidden, early := onModel(t, fast, m, images, func(l backbone.Layers, x *Node) []*Node { return []*Node{m.Hidden(l, block, x)} })
				tokens, err := program.Tensor(fast, hidden[0], 2, n, width)
				if err != nil {
					t.Fatalf("block %d: %v", block, err)
				}
				got, late := onModel(t, fast, m, tokens, func(l backbone.Layers, x *Node) []*Node { return outputs(m.FromBlock(block), l, x) })
				tokens.FinalizeAll()
				for i := range want {
					d := difference(got[i], want[i])
					if worst = max(worst, d); !(d <= 2e-6) {
						t.Errorf("block %d: output %d differs by %.2g", block, i, d)
					}
				}
				var after, before []string
				for _, p := range c.ParamsFrom(block) {
					if p.Role != backbone.Head {
						after = append(after, p.Name)
					}
				}
				for _, p := range c.Params()[:len(c.Params())-len(c.ParamsFrom(block))] {
					before = append(before, p.Name)
				}
				slices.Sort(after)
				slices.Sort(before)
				if !slices.Equal(late, after) || !slices.Equal(early, before) {
					t.Errorf("block %d: the programs read %v and %v, expected %v and %v", block, early, late, before, after)
				}
			}
		})
	}
	t.Logf("largest relative difference %.2g", worst)
}

// reads records the names of the tensors that a graph function reads.
type reads struct {
	backbone.Layers
	names map[string]bool
}

func (r reads) Param(name string) *Node {
	n := r.Layers.Param(name)
	if n != nil {
		r.names[name] = true
	}
	return n
}

func (r reads) Linear(name string, x *Node) *Node {
	return backbone.Linear(x, r.Param(name+".weight"), r.Param(name+".bias"))
}

// onModel runs a graph function on one input. It returns the outputs and the sorted names of the
// tensors that the function read.
func onModel(t *testing.T, be backend.Backend, m *backbone.Model, x *tensors.Tensor, build func(l backbone.Layers, x *Node) []*Node) (out [][]float32, names []string) {
	t.Helper()
	placed, err := m.On(be)
	if err != nil {
		t.Fatal(err)
	}
	args := []any{x}
	for _, p := range m.Config.Params() {
		if placed[p.Name] != nil {
			names, args = append(names, p.Name), append(args, placed[p.Name])
		}
	}
	read := map[string]bool{}
	compiled, err := program.New(be, "test", func(_ *Graph, in []*Node) []*Node {
		byName := map[string]*Node{}
		for i, name := range names {
			byName[name] = in[1+i]
		}
		return build(reads{backbone.Untuned(byName), read}, in[0])
	})
	if err != nil {
		t.Fatal(err)
	}
	defer compiled.Close()
	results, err := compiled.Run(t.Context(), args...)
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range results {
		values, err := program.Float32s(r)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, values)
	}
	program.Free(results...)
	names = slices.DeleteFunc(names, func(name string) bool { return !read[name] })
	slices.Sort(names)
	return out, names
}

// TestHiddenSize checks the range of the blocks.
func TestHiddenSize(t *testing.T) {
	c := backbone.Config{ImageSize: 32, NumClasses: 2, NumHeads: 2, LayerNormEps: 1e-6, Form: backbone.ViT{PatchSize: 8, EmbedDim: 16, Depth: 3, HiddenDim: 32}}
	if n, width, err := c.HiddenSize(2); n != 17 || width != 16 || err != nil {
		t.Errorf("%d tokens of width %d, %v; expected 17 of width 16", n, width, err)
	}
	for _, block := range []int{-1, 0, 3} {
		if _, _, err := c.HiddenSize(block); err == nil || !strings.Contains(err.Error(), fmt.Sprintf("block %d: expected 1 to 2", block)) {
			t.Errorf("block %d: %v", block, err)
		}
	}
	if _, _, err := mixerConfig.HiddenSize(1); err == nil || !strings.Contains(err.Error(), "mixer cannot begin") {
		t.Errorf("an architecture without hidden tokens: %v", err)
	}
}
