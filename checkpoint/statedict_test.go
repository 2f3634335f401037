package checkpoint

import (
	"math"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// testNamings holds the naming of a ViT in timm, with the names that these tests need.
var testNamings = []Naming{{
	Architecture: "vit", Source: "timm",
	Marks: []string{"blocks.#.attn.qkv.*", "blocks.#.attn.q.*"},
	Rules: Keeps("cls_token", "pos_embed", "patch_embed.proj.*", "norm.*", "head.*", "blocks.#.norm1.*", "blocks.#.norm2.*",
		"blocks.#.attn.qkv.*", "blocks.#.attn.q.*", "blocks.#.attn.k.*", "blocks.#.attn.v.*", "blocks.#.attn.proj.*",
		"blocks.#.mlp.fc1.*", "blocks.#.mlp.fc2.*"),
}}

// canonical reads the tensors of a file under canonical names.
func canonical(t testing.TB, f *File) StateDict {
	t.Helper()
	sd, _, err := f.Canonical(testNamings)
	if err != nil {
		t.Fatal(err)
	}
	return sd
}

// saved writes the float32 tensors of sd and more to a file and opens it.
func saved(t *testing.T, sd StateDict, more ...Entry) *File {
	t.Helper()
	for name, x := range sd {
		more = append(more, Entry{name, F32, x.Shape, x.Data})
	}
	path := filepath.Join(t.TempDir(), "x.safetensors")
	if err := Save(path, more, nil); err != nil {
		t.Fatal(err)
	}
	return mustOpen(t, path)
}

// counted returns a tensor with the values 0, 1, 2, ...
func counted(shape ...int) Tensor {
	x := NewTensor(shape...)
	for i := range x.Data {
		x.Data[i] = float32(i)
	}
	return x
}

// TestStateDictReal compares the parts of a real fused matrix, blocks.5.attn.qkv.weight, with
// Python: the sum of w[192*i:192*(i+1)].double() and the element [3, 7] of each part. It then
// checks that Fused returns exactly the tensors of the file.
func TestStateDictReal(t *testing.T) {
	for _, c := range []struct {
		model    string
		sum      [3]float64
		elements [3]float32
	}{
		{vitTiny, [3]float64{7.885311039849739, 9.637112399939895, 2.292121738862079},
			[3]float32{0.06428416073322296, 0.025517992675304413, -0.03404628485441208}},
		{deitTiny, [3]float64{-1.3093103766441345, -11.87081390619278, 2.531094789505005},
			[3]float32{0.0302734375, 0.01096343994140625, 0.042633056640625}},
	} {
		f := mustOpen(t, realModel(t, c.model))
		sd := canonical(t, f)
		if want := 152 + 12*2*2; len(sd) != want {
			t.Errorf("%d tensors, want %d", len(sd), want)
		}
		for i, part := range []string{"q", "k", "v"} {
			w, b := sd["blocks.5.attn."+part+".weight"], sd["blocks.5.attn."+part+".bias"]
			if !slices.Equal(w.Shape, []int{192, 192}) || !slices.Equal(b.Shape, []int{192}) || len(b.Data) != 192 {
				t.Fatalf("%s has shapes %v and %v", part, w.Shape, b.Shape)
			}
			sum := 0.0
			for _, v := range w.Data {
				sum += float64(v)
			}
			if math.Abs(sum-c.sum[i]) > 1e-9 || w.Data[3*192+7] != c.elements[i] {
				t.Errorf("%s sums to %v, want %v; [3,7] is %v, want %v", part, sum, c.sum[i], w.Data[3*192+7], c.elements[i])
			}
		}
		fused := sd.Fused()
		if len(fused) != 152 {
			t.Errorf("fused has %d tensors, want 152", len(fused))
		}
		for _, info := range f.Tensors() {
			want, err := f.Float32(info.Name)
			if err != nil {
				t.Fatal(err)
			}
			if got := fused[info.Name]; !slices.Equal(got.Shape, want.Shape) || !slices.Equal(got.Data, want.Data) {
				t.Errorf("%s differs from the tensor in the file", info.Name)
			}
		}
	}
}

// TestStateDictParts checks that an append to one part of a fused tensor does not overwrite the
// next part, which is in the same array.
func TestStateDictParts(t *testing.T) {
	parts := canonical(t, saved(t, StateDict{"blocks.0.attn.qkv.bias": counted(6)}))
	_ = append(parts["blocks.0.attn.q.bias"].Data, 99)
	if got := parts["blocks.0.attn.k.bias"].Data; !slices.Equal(got, []float32{2, 3}) {
		t.Errorf("k is %v after an append to q", got)
	}
}

// TestFusedIncomplete checks that Fused does not change an attention that it cannot fuse as a
// whole. Otherwise the file would have both forms.
func TestFusedIncomplete(t *testing.T) {
	for name, sd := range map[string]StateDict{
		"one missing":         {"b.attn.q.weight": counted(2, 2), "b.attn.k.weight": counted(2, 2)},
		"k narrower":          {"b.attn.q.bias": counted(4), "b.attn.k.bias": counted(2), "b.attn.v.bias": counted(2)},
		"only q has a bias":   {"b.attn.q.weight": counted(2, 2), "b.attn.k.weight": counted(2, 2), "b.attn.v.weight": counted(2, 2), "b.attn.q.bias": counted(2)},
		"only k has a bias":   {"b.attn.q.weight": counted(2, 2), "b.attn.k.weight": counted(2, 2), "b.attn.v.weight": counted(2, 2), "b.attn.k.bias": counted(2)},
		"scalars":             {"b.attn.q.bias": counted(), "b.attn.k.bias": counted(), "b.attn.v.bias": counted()},
		"fused form is there": {"b.attn.q.bias": counted(1), "b.attn.k.bias": counted(1), "b.attn.v.bias": counted(1), "b.attn.qkv.bias": counted(3)},
		"not an attention":    {"b.q.bias": counted(1), "b.k.bias": counted(1), "b.v.bias": counted(1)},
	} {
		got := sd.Fused()
		if len(got) != len(sd) {
			t.Errorf("%s: %v became %v", name, sd, got)
		}
		for key := range sd {
			if _, ok := got[key]; !ok {
				t.Errorf("%s: %s is gone", name, key)
			}
		}
	}
	// A weight without biases fuses; the source keeps its own tensors.
	sd := StateDict{"attn.q.weight": counted(1, 2), "attn.k.weight": counted(1, 2), "attn.v.weight": counted(1, 2)}
	got := sd.Fused()
	if w := got["attn.qkv.weight"]; len(got) != 1 || len(sd) != 3 || !slices.Equal(w.Shape, []int{3, 2}) || !slices.Equal(w.Data, []float32{0, 1, 0, 1, 0, 1}) {
		t.Errorf("got %v from %v", got, sd)
	}
}

// TestNamingCovers checks which naming Canonical takes if the marks of two match: the one whose
// rules cover the marks of the other.
func TestNamingCovers(t *testing.T) {
	wide := Naming{Architecture: "wide", Source: "a", Marks: []string{"blocks.#.norm.*"}, Rules: Keeps("blocks.#.norm.*"), Strict: []string{"blocks."}}
	narrow := Naming{Architecture: "narrow", Source: "b", Marks: []string{"blocks.#.mix.*"}, Rules: Keeps("blocks.#.norm.*", "blocks.#.mix.*")}
	both := StateDict{"blocks.0.norm.bias": counted(1), "blocks.0.mix.bias": counted(1)}
	for _, namings := range [][]Naming{{wide, narrow}, {narrow, wide}} {
		if sd, n, err := both.Canonical(namings); err != nil || n.Architecture != "narrow" || len(sd) != 2 {
			t.Errorf("%+v, %v", n, err)
		}
	}
	if _, n, err := (StateDict{"blocks.0.norm.bias": counted(1)}).Canonical([]Naming{wide, narrow}); err != nil || n.Architecture != "wide" {
		t.Errorf("%+v, %v", n, err)
	}
	same := narrow
	same.Architecture = "same"
	if _, _, err := both.Canonical([]Naming{wide, narrow, same}); err == nil || !strings.Contains(err.Error(), "mixes two namings") {
		t.Errorf("two namings that cover each other: %v", err)
	}
}
