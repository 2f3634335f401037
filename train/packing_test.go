package train

import (
	"slices"
	"testing"

	. "github.com/gomlx/gomlx/core/graph"

	"github.com/sptune/spt/backend"
	"github.com/sptune/spt/internal/colours"
	"github.com/sptune/spt/internal/program"
	"github.com/sptune/spt/peft"

	"github.com/sptune/spt/backbone"
)

// TestPacking stores tensors in two vectors, as on a device. It checks that read, unpack and join
// return the original values.
func TestPacking(t *testing.T) {
	be, _, err := backend.Open("cpu", 1)
	if err != nil {
		t.Fatal(err)
	}
	c := backbone.Config{ImageSize: 8, NumClasses: 3, NumHeads: 2, LayerNormEps: 1e-6,
		Form: backbone.ViT{PatchSize: 4, EmbedDim: 8, Depth: 2, HiddenDim: 16}}
	tuning, err := peft.New(c, peft.Selection{Module: "lora", Rank: 2, Structured: []string{"blocks.0.attn.q.weight"}, Whole: []string{"cls_token", "blocks.0.norm1.bias"},
		Entries: map[string][]int32{"blocks.1.mlp.fc1.weight": {3, 90}}})
	if err != nil {
		t.Fatal(err)
	}
	p := newPacking(tuning.Params, nil, false)
	values := tuning.Init(1, peft.PaperScheme, colours.Model(c).Weights)
	for _, v := range values {
		for i := range v.Data {
			v.Data[i] += float32(i + 1) // no value is zero
		}
	}
	packs, err := p.place(be, values)
	if err != nil {
		t.Fatal(err)
	}
	defer program.Free(packs...)
	compiled, err := program.New(be, "packs", func(_ *Graph, in []*Node) []*Node {
		separate := p.unpack(in)
		return append(p.join(separate), separate...)
	})
	if err != nil {
		t.Fatal(err)
	}
	defer compiled.Close()
	out, err := compiled.Run(t.Context(), program.Lend(packs)...)
	if err != nil {
		t.Fatal(err)
	}
	defer program.Free(out...)
	got, err := p.read(out[:len(packs)])
	if err != nil {
		t.Fatal(err)
	}
	for i, q := range tuning.Params {
		separate, err := program.Float32s(out[len(packs)+i])
		if err != nil {
			t.Fatal(err)
		}
		if want := values[q.Name].Data; !slices.Equal(separate, want) || !slices.Equal(got[q.Name].Data, want) || !slices.Equal(got[q.Name].Shape, q.Shape) {
			t.Errorf("%s: unpack gives %v, read gives %v, expected %v", q.Name, separate, got[q.Name], want)
		}
	}
	// A and B of LoRA and the head weight; class token, norm, entries and head bias
	if len(packs) != 2 || p.decays(0) || !p.decays(1) {
		t.Errorf("%d packs %v, expected two, the second with weight decay", len(packs), p.packs)
	}
	factors := map[peft.Group]float64{peft.HeadGroup: 10, peft.OutputGroup: 4, peft.NormGroup: 3, peft.EntryGroup: 3}
	for i := range newPacking(tuning.Params, factors, false).packs {
		apart := newPacking(tuning.Params, factors, false)
		for _, j := range apart.packs[i] {
			if q := tuning.Params[j]; q.Decays != apart.decays(i) || factorOf(factors, q.Group) != apart.factor(i) {
				t.Errorf("%s of group %s is in a pack with the factor %g", q.Name, q.Group, apart.factor(i))
			}
		}
	}
	// A, B, class token, norm and entries, head weight and bias
	if n := len(newPacking(tuning.Params, factors, false).packs); n != 6 {
		t.Errorf("%d packs with factors, expected 6", n)
	}
	delete(values, "cls_token")
	if _, err := p.place(be, values); err == nil {
		t.Error("place accepted values without cls_token")
	}
	if alone := pack(be, tuning.Params, nil); len(alone.packs) != len(tuning.Params) {
		t.Errorf("%d packs on the CPU, expected one for each of %d tensors", len(alone.packs), len(tuning.Params))
	}
}
