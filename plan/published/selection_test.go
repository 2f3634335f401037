package published

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/sptune/spt/checkpoint"
	"github.com/sptune/spt/internal/golden"
	"github.com/sptune/spt/internal/pickle"
	"github.com/sptune/spt/peft"
	"github.com/sptune/spt/plan"
	"github.com/sptune/spt/sensitivity"
)

// lora and adapter are modules that count parameters by the formulas of the paper.
var (
	lora    = peft.Module{Name: "lora", Count: func(in, out, rank int) int { return rank * (in + out) }}
	adapter = peft.Module{Name: "adapter", Count: func(_, out, rank int) int { return 2*rank*out + rank + out }}
)

// moduleOf returns lora or adapter.
func moduleOf(t *testing.T, name string) peft.Module {
	t.Helper()
	for _, m := range releaseModules {
		if m.Name == name {
			return m
		}
	}
	t.Fatalf("no module %q", name)
	return peft.Module{}
}

var releaseModules = []peft.Module{lora, adapter}

// TestPublishedGolden checks the authors' selections that are in the golden folder, as
// METHOD-TASK-BUDGET.pth. The authors published 266 selections; the test runs on any subset of
// them.
func TestPublishedGolden(t *testing.T) {
	paths, err := filepath.Glob(filepath.Join(golden.Path(t, "published_plans"), "*.pth"))
	if err != nil || len(paths) == 0 {
		t.Fatalf("no selections: %v", err)
	}
	ambiguous := 0
	for _, path := range paths {
		name := filepath.Base(path)
		s, err := load(path)
		if err != nil {
			t.Error(err)
			continue
		}
		p, err := s.plan(8, releaseModules...)
		if err != nil {
			t.Error(err)
			continue
		}
		method, _, _ := strings.Cut(name, "-")
		switch {
		case len(p.Matrices) == 0:
			ambiguous++
			if p, err = s.plan(8, moduleOf(t, method)); err != nil {
				t.Error(err)
				continue
			}
		case p.Module != method:
			t.Errorf("%s: the module is %s", name, p.Module)
		}
		if err := p.Validate(s.tensors, moduleOf(t, method).Count); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		million, err := strconv.ParseFloat(strings.TrimSuffix(name[strings.LastIndexByte(name, '-')+1:], ".pth"), 64)
		if err != nil || p.Budget != int(math.Round(million*1e6)) {
			t.Errorf("%s: the budget is %d (%v)", name, p.Budget, err)
		}

		v, err := checkpoint.Unpickle(path)
		if err != nil {
			t.Fatal(err)
		}
		file := v.(*pickle.Dict)
		field := func(key string) float64 {
			v, _ := file.Get(key)
			n, ok := number(v)
			if !ok {
				t.Fatalf("%s: no %s", name, key)
			}
			return n
		}
		if want := field("params"); math.Round(want*1e6) != float64(p.Cost.Total) {
			t.Errorf("%s: %d parameters, the file has %v million", name, p.Cost.Total, want)
		}
		if want := field("unstructured_params"); float64(p.Cost.Unstructured+p.Cost.CountedOnly) != want {
			t.Errorf("%s: %d entries, the file has %v", name, p.Cost.Unstructured+p.Cost.CountedOnly, want)
		}
		if want := field("structured_params"); float64(p.Cost.Structured+p.Cost.Vectors) != want {
			t.Errorf("%s: %d in modules and vectors, the file has %v", name, p.Cost.Structured+p.Cost.Vectors, want)
		}

		// Convert the entries back to the form of the file.
		var flat []int64
		base := int64(0)
		shapes, _ := file.Get("unstructured_name_shapes")
		for key, v := range shapes.(*pickle.Dict).All() {
			for _, i := range slices.Concat(p.Entries[key.(string)], p.CountedOnly[key.(string)]) {
				flat = append(flat, base+int64(i))
			}
			size := int64(1)
			for _, d := range v.(*pickle.List).Items {
				size *= d.(int64)
			}
			base += size
		}
		indexes, _ := file.Get("unstructured_indexes")
		if want, err := indexes.(pickle.Tensor).Int64(); err != nil || !slices.Equal(flat, want) {
			t.Errorf("%s: the %d entries differ from the %d in the file (%v)", name, len(flat), len(want), err)
		}
		// By the rule of the paper, the number of single entries is below the threshold of the
		// tensor.
		for _, tensor := range s.tensors {
			n := len(p.Entries[tensor.Name]) + len(p.CountedOnly[tensor.Name])
			whole, divisor := tensor.Shape[0], p.Beta
			if len(tensor.Shape) > 1 {
				whole, divisor = moduleOf(t, method).Count(tensor.Shape[1], tensor.Shape[0], p.Rank), p.Alpha
			}
			if float64(n) >= float64(whole)/divisor {
				t.Errorf("%s: %d entries of %s", name, n, tensor.Name)
			}
		}
		for _, rank := range []int{0, 7, 769} {
			if _, err := s.plan(rank, releaseModules...); err == nil && len(p.Matrices) > 0 {
				t.Errorf("%s: rank %d is accepted", name, rank)
			}
		}
	}
	t.Logf("%d selections, in %d no matrix gets a module", len(paths), ambiguous)
}

// TestPublishedIsRelease checks that a selection of the reference code equals the plan that
// plan.Release makes from the same scores. The selections and scores come from our run of the
// reference code.
func TestPublishedIsRelease(t *testing.T) {
	var meta struct {
		Rank        int
		Scale       float64
		Alpha, Beta float64
		EmbedDim    int `json:"embed_dim"`
		Depth       int
		Plans       map[string]map[string]struct {
			Params       float64  `json:"params"` // in units of scale, rounded to float32
			Unstructured int      `json:"unstructured_params"`
			Structured   int      `json:"structured_params"`
			Matrices     [][]int  `json:"tuned_matrices"`
			Vectors      []string `json:"tuned_vectors"`
			// NameShapes is a JSON object. The order of its names defines the positions in Indexes.
			NameShapes json.RawMessage `json:"unstructured_name_shapes"`
			Indexes    []int64         `json:"unstructured_indexes"`
		}
	}
	golden.JSON(t, golden.Path(t, "spt_small", "meta.json"), &meta)
	file := golden.Open(t, golden.Path(t, "spt_small", "sensitivity.npz"))
	scores := &sensitivity.Scores{ClassToken: meta.EmbedDim, Tensors: vitTensors(meta.Depth, meta.EmbedDim, file.Shape("blocks.0.mlp.fc1.weight")[0])}
	for i := range scores.Tensors {
		scores.Tensors[i].Scores = file.Float32(scores.Tensors[i].Name)
	}
	for module, selections := range meta.Plans {
		o := plan.Options{Module: module, Rank: meta.Rank, Alpha: meta.Alpha, Beta: meta.Beta}
		plans, err := plan.Release(t.Context(), scores, meta.Scale, o, moduleOf(t, module).Count)
		if err != nil {
			t.Fatal(err)
		}
		for key, w := range selections {
			f := fields{vectors: w.Vectors, params: w.Params * meta.Scale / 1e6, unstructured: w.Unstructured, structured: w.Structured, indexes: w.Indexes}
			if err := json.Unmarshal(w.NameShapes, &f.shapes); err != nil {
				t.Fatal(err)
			}
			f.names = keys(t, w.NameShapes)
			for _, row := range w.Matrices {
				tuned := make([]bool, len(row))
				for j, x := range row {
					tuned[j] = x != 0
				}
				f.matrices = append(f.matrices, tuned)
			}
			s, err := f.check()
			if err != nil {
				t.Errorf("%s %s: %v", module, key, err)
				continue
			}
			got, err := s.plan(meta.Rank, moduleOf(t, module))
			if err != nil {
				t.Errorf("%s %s: %v", module, key, err)
				continue
			}
			million, err := strconv.ParseFloat(strings.TrimSuffix(strings.TrimPrefix(key, "param_req_"), ".pth"), 64)
			if err != nil {
				t.Fatal(err)
			}
			budget := int(math.Round(million * meta.Scale))
			want := *plans[slices.IndexFunc(plans, func(p *plan.Plan) bool { return p.Budget == budget })]
			want.Tau, want.Budget, want.Sensitive = 0, got.Budget, nil // the file has none of them
			if !reflect.DeepEqual(got, &want) {
				t.Errorf("%s %s: the plan differs from that of Release", module, key)
			}
		}
	}
}

// keys returns the keys of a JSON object in their order.
func keys(t *testing.T, object []byte) (names []string) {
	t.Helper()
	decoder := json.NewDecoder(bytes.NewReader(object))
	if _, err := decoder.Token(); err != nil {
		t.Fatal(err)
	}
	for decoder.More() {
		name, err := decoder.Token()
		if err != nil {
			t.Fatal(err)
		}
		var shape []int
		if err := decoder.Decode(&shape); err != nil {
			t.Fatal(err)
		}
		names = append(names, name.(string))
	}
	return names
}

// publishedFixture returns the path of a file in the fixtures for selections: a selection that
// PyTorch wrote, or expected.json with the content of all selections as Python reads it.
func publishedFixture(name string) string {
	return filepath.Join("..", "..", "internal", "fixtures", "testdata", "published", name)
}

func TestPublishedFixtures(t *testing.T) {
	data, err := os.ReadFile(publishedFixture("expected.json"))
	if err != nil {
		t.Fatal(err)
	}
	var expected map[string]struct {
		Module       string
		Rank         int
		Matrices     []string
		Vectors      []string
		Entries      map[string][]int32
		CountedOnly  map[string][]int32 `json:"counted_only"`
		Params       int
		Unstructured int `json:"unstructured_params"`
		Structured   int `json:"structured_params"`
	}
	if err := json.Unmarshal(data, &expected); err != nil {
		t.Fatal(err)
	}
	if len(expected) != 3 {
		t.Fatalf("%d fixtures", len(expected))
	}
	for name, w := range expected {
		s, err := load(publishedFixture(name + ".pth"))
		if err != nil {
			t.Fatal(err)
		}
		p, err := s.plan(w.Rank, releaseModules...)
		if err != nil {
			t.Fatal(err)
		}
		if p.Module != w.Module || p.Compat != plan.CompatRelease || p.Rank != w.Rank || p.Alpha != 10 || p.Beta != 5 || p.Budget != 50_000 || p.Tau != 0 {
			t.Errorf("%s: %s of rank %d, compat %q, alpha %v, beta %v, budget %d, tau %d", name, p.Module, p.Rank, p.Compat, p.Alpha, p.Beta, p.Budget, p.Tau)
		}
		if !slices.Equal(p.Matrices, w.Matrices) || !slices.Equal(p.Vectors, w.Vectors) || !reflect.DeepEqual(p.Entries, w.Entries) || !reflect.DeepEqual(p.CountedOnly, w.CountedOnly) {
			t.Errorf("%s: the plan is %+v, want %+v", name, p, w)
		}
		c := p.Cost
		if c.Total != w.Params || c.Unstructured+c.CountedOnly != w.Unstructured || c.Structured+c.Vectors != w.Structured || c.ClassToken != 16 {
			t.Errorf("%s: the cost is %+v, want %d, %d, %d", name, c, w.Params, w.Unstructured, w.Structured)
		}
		if err := p.Validate(s.tensors, moduleOf(t, p.Module).Count); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		file := filepath.Join(t.TempDir(), "plan.json")
		if err := p.Save(file); err != nil {
			t.Fatal(err)
		}
		if back, err := plan.LoadFile(file); err != nil || !reflect.DeepEqual(back, p) {
			t.Errorf("%s: the plan differs after Save and LoadFile (%v)", name, err)
		}
	}
}

// pair is an item of a Python dict.
type pair struct{ key, value any }

// pickled returns the pickle of v. It writes a []int64 as a NumPy array.
func pickled(v any) string {
	switch v := v.(type) {
	case string:
		return "X" + string(binary.LittleEndian.AppendUint32(nil, uint32(len(v)))) + v
	case int:
		return fmt.Sprintf("L%dL\n", v)
	case float64:
		return fmt.Sprintf("F%v\n", v)
	case bool:
		return map[bool]string{true: "\x88", false: "\x89"}[v]
	case nil:
		return "N"
	case []any:
		out := "("
		for _, x := range v {
			out += pickled(x)
		}
		return out + "l"
	case []pair:
		out := "("
		for _, p := range v {
			out += pickled(p.key) + pickled(p.value)
		}
		return out + "d"
	case []int64:
		var raw []byte
		for _, x := range v {
			raw = binary.LittleEndian.AppendUint64(raw, uint64(x))
		}
		return "cnumpy.core.numeric\n_frombuffer\n(B" + string(binary.LittleEndian.AppendUint32(nil, uint32(len(raw)))) + string(raw) +
			"cnumpy\ndtype\n(" + pickled("i8") + "tR(" + pickled(len(v)) + "t" + pickled("C") + "tR"
	}
	panic(fmt.Sprintf("%T", v))
}

// smallSelection returns a selection for a ViT of one block, width 2 and MLP width 3. LoRA of rank
// 1 on v has 4 parameters, and the two whole vectors have 4. There are three single entries: in the
// weight of q, the bias of proj and the weight of norm2.
func smallSelection() []pair {
	var shapes, sizes []pair
	for _, l := range vitTensors(1, 2, 3) {
		if slices.Contains([]string{"blocks.0.attn.v.weight", "blocks.0.norm1.weight", "norm.bias"}, l.Name) {
			continue
		}
		var shape []any
		size := 1
		for _, d := range l.Shape {
			shape, size = append(shape, d), size*d
		}
		shapes, sizes = append(shapes, pair{l.Name, shape}), append(sizes, pair{l.Name, size})
	}
	return []pair{
		{"unstructured_name_shapes", shapes},
		{"unstructured_name_shapes_int", sizes},
		{"params", 13e-6},
		{"unstructured_params", 3.0},
		{"structured_params", 8},
		// Positions: norm1.bias 0-1, q 2-5 and 6-7, k 8-11 and 12-13, v.bias 14-15, proj 16-19 and
		// 20-21, norm2 22-23 …
		{"unstructured_indexes", []int64{3, 21, 22}},
		{"tuned_matrices", []any{[]any{0, 0, 1, 0, false, 0}}},
		{"tuned_vectors", []any{"norm.bias", "blocks.0.norm1.weight"}},
	}
}

// loadPickle writes the pickle of v to a file and loads the file as a selection.
func loadPickle(t *testing.T, v any) (*selection, error) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "selection.pth")
	if err := os.WriteFile(path, []byte("\x80\x04"+pickled(v)+"."), 0o666); err != nil {
		t.Fatal(err)
	}
	return load(path)
}

func TestPublishedByHand(t *testing.T) {
	s, err := loadPickle(t, smallSelection())
	if err != nil {
		t.Fatal(err)
	}
	p, err := s.plan(1, releaseModules...)
	if err != nil {
		t.Fatal(err)
	}
	want := &plan.Plan{
		Compat: plan.CompatRelease, Module: "lora", Rank: 1, Alpha: 10, Beta: 5, Budget: 50_000,
		Cost:     plan.Cost{Structured: 4, Vectors: 4, Unstructured: 2, CountedOnly: 1, ClassToken: 2, Total: 13},
		Matrices: []string{"blocks.0.attn.v.weight"}, Vectors: []string{"blocks.0.norm1.weight", "norm.bias"},
		Entries: map[string][]int32{"blocks.0.attn.q.weight": {1}, "blocks.0.attn.proj.bias": {1}}, CountedOnly: map[string][]int32{"blocks.0.norm2.weight": {0}},
	}
	if !reflect.DeepEqual(p, want) {
		t.Errorf("the plan is %+v, want %+v", p, want)
	}
	// Adapter of rank 1 has 7 parameters on v.
	if _, err := s.plan(1, adapter); err == nil || !strings.Contains(err.Error(), "structured_params is 8,") || !strings.Contains(err.Error(), "11 with adapter") {
		t.Errorf("as Adapter: %v", err)
	}
	if _, err := s.plan(2, releaseModules...); err == nil || !strings.Contains(err.Error(), "12 with lora, 16 with adapter") {
		t.Errorf("of rank 2: %v", err)
	}
	if _, err := s.plan(1); err == nil || !strings.Contains(err.Error(), "no structured module") {
		t.Errorf("without modules: %v", err)
	}
	for _, rank := range []int{-1, 0, 3, math.MaxInt} {
		if _, err := s.plan(rank, releaseModules...); err == nil || !strings.Contains(err.Error(), "expected 1 to 2") {
			t.Errorf("of rank %d: %v", rank, err)
		}
	}
}

// TestPublishedMLPWidth checks the hidden width of the MLP where no shape in the file gives it:
// every fc1 and fc2 gets a module, and the bias of fc1 is tuned whole.
func TestPublishedMLPWidth(t *testing.T) {
	f := fields{matrices: [][]bool{{false, false, false, false, true, true}}, vectors: []string{"blocks.0.mlp.fc1.bias"}, shapes: map[string][]int{}}
	for _, tensor := range vitTensors(1, 2, 8) {
		if !strings.Contains(tensor.Name, "fc") {
			f.names, f.shapes[tensor.Name] = append(f.names, tensor.Name), tensor.Shape
		}
	}
	f.names, f.shapes["blocks.0.mlp.fc2.bias"] = append(f.names, "blocks.0.mlp.fc2.bias"), []int{2}
	f.structured, f.params = 2*(2+8)+8, (2*(2+8)+8+2)/1e6
	s, err := f.check()
	if err != nil {
		t.Fatal(err)
	}
	if p, err := s.plan(1, releaseModules...); err != nil || !reflect.DeepEqual(s.tensors, vitTensors(1, 2, 8)) || p.Cost.Total != 30 {
		t.Errorf("%+v, %v", p, err)
	}
	// With the counts of an MLP three times as wide as the ViT, plan returns an error.
	f.structured, f.params = 2*(2+6)+6, (2*(2+6)+6+2)/1e6
	if s, err = f.check(); err != nil {
		t.Fatal(err)
	}
	if p, err := s.plan(1, releaseModules...); err == nil {
		t.Errorf("%+v", p)
	}
}

func TestPublishedRefused(t *testing.T) {
	const remove = "remove"
	shape := func(f []pair, name string, to any) []pair {
		for k := range 2 {
			list := f[k].value.([]pair)
			i := slices.IndexFunc(list, func(p pair) bool { return p.key == name })
			switch {
			case to == remove:
				f[k].value = slices.Delete(list, i, i+1)
			case i < 0:
				f[k].value = append(list, pair{name, []any{[]any{2}, 2}[k]})
			case k == 0:
				list[i].value = to
			}
		}
		return f
	}
	many := make([]any, mostBlocks+1)
	for i := range many {
		many[i] = []any{}
	}
	for _, c := range []struct {
		name  string
		field string // field is set to value. If edit is set, it changes the file instead.
		value any
		edit  func(f []pair) any
		want  string
	}{
		{name: "no dict", edit: func([]pair) any { return []any{1} }, want: "holds no dict"},
		{name: "other dict", edit: func([]pair) any { return []pair{{"a", 1}} }, want: `no "unstructured_name_shapes"`},
		{name: "a field less", edit: func(f []pair) any { return f[:7] }, want: `no "tuned_vectors"`},
		{name: "matrices", field: "tuned_matrices", value: 3, want: "tuned_matrices is not a list"},
		{name: "no blocks", field: "tuned_matrices", value: []any{}, want: "tuned_matrices is not a list"},
		{name: "too many blocks", field: "tuned_matrices", value: many, want: "list of 1 to 1000 blocks"},
		{name: "row", field: "tuned_matrices", value: []any{[]any{0, 0, 1}}, want: "tuned_matrices[0] is not a list of 6"},
		{name: "mask of 2", field: "tuned_matrices", value: []any{[]any{0, 0, 2, 0, 0, 0}}, want: "tuned_matrices[0][2] is neither 0 nor 1"},
		{name: "mask of None", field: "tuned_matrices", value: []any{[]any{0, 0, nil, 0, 0, 0}}, want: "tuned_matrices[0][2] is neither 0 nor 1"},
		{name: "two blocks", field: "tuned_matrices", value: []any{[]any{0, 0, 1, 0, 0, 0}, []any{0, 0, 0, 0, 0, 0}}, want: `"blocks.1.norm1.weight" is not in unstructured_name_shapes`},
		{name: "module and entries", field: "tuned_matrices", value: []any{[]any{1, 0, 1, 0, 0, 0}}, want: `"blocks.0.attn.q.weight" is in unstructured_name_shapes and`},
		{name: "neither", field: "tuned_matrices", value: []any{[]any{0, 0, 0, 0, 0, 0}}, want: `"blocks.0.attn.v.weight" is not in unstructured_name_shapes`},
		{name: "vectors", field: "tuned_vectors", value: "norm.bias", want: "tuned_vectors is not a list"},
		{name: "vector", field: "tuned_vectors", value: []any{1}, want: "tuned_vectors[0] is not a name"},
		{name: "vector twice", field: "tuned_vectors", value: []any{"norm.bias", "norm.bias"}, want: `tuned_vectors names "norm.bias" twice`},
		{name: "vector is a matrix", field: "tuned_vectors", value: []any{"norm.bias", "blocks.0.norm1.weight", "blocks.0.attn.v.weight"}, want: "which is a matrix"},
		{name: "unknown vector", field: "tuned_vectors", value: []any{"norm.bias", "blocks.0.norm1.weight", "head.bias"}, want: "tuned_vectors has 3 names, but only 2"},
		{name: "shapes", field: "unstructured_name_shapes", value: []any{}, want: "unstructured_name_shapes is not a dict"},
		{name: "no shapes", edit: func(f []pair) any { f[0].value, f[1].value = []pair{}, []pair{}; return f }, want: "gives the width of the ViT"},
		{name: "no shape", edit: func(f []pair) any { return shape(f, "norm.weight", 2) }, want: `"norm.weight" is not a shape`},
		{name: "three dimensions", edit: func(f []pair) any { return shape(f, "norm.weight", []any{1, 1, 2}) }, want: `"norm.weight" is not a shape`},
		{name: "negative dimension", edit: func(f []pair) any { return shape(f, "norm.weight", []any{-2}) }, want: "positive dimensions"},
		{name: "huge dimensions", edit: func(f []pair) any { return shape(f, "blocks.0.attn.q.weight", []any{1 << 20, 1 << 20}) }, want: "more than the"},
		{name: "other width", edit: func(f []pair) any {
			f[1].value.([]pair)[1].value = 6
			return shape(f, "blocks.0.attn.q.weight", []any{2, 3})
		}, want: "has shape [2 3], expected [2 2]"},
		{name: "size", edit: func(f []pair) any { f[1].value.([]pair)[1].value = 5; return f }, want: "is not 4, the size of shape [2 2]"},
		{name: "no size", edit: func(f []pair) any { f[1].value = f[1].value.([]pair)[1:]; return f }, want: "unstructured_name_shapes_int is not a dict of the 15"},
		{name: "unknown tensor", edit: func(f []pair) any { return shape(f, "blocks.0.ls1.gamma", nil) }, want: "which is no tensor of a ViT"},
		{name: "block out of range", edit: func(f []pair) any { return shape(f, "blocks.1.norm1.bias", nil) }, want: "tuned_matrices has 1 blocks"},
		{name: "block by another name", edit: func(f []pair) any { return shape(f, "blocks.00.norm1.bias", nil) }, want: "tuned_matrices has 1 blocks"},
		{name: "tensor less", edit: func(f []pair) any { return shape(f, "norm.weight", remove) }, want: `"norm.weight" is not in unstructured_name_shapes`},
		{name: "indexes", field: "unstructured_indexes", value: []any{3, 21, 22}, want: "unstructured_indexes is not a tensor"},
		{name: "descending", field: "unstructured_indexes", value: []int64{3, 22, 21}, want: "unstructured_indexes[2] is 21, expected more than 22"},
		{name: "index twice", field: "unstructured_indexes", value: []int64{3, 21, 21}, want: "unstructured_indexes[2] is 21, expected more than 21"},
		{name: "negative index", field: "unstructured_indexes", value: []int64{-3, 21, 22}, want: "unstructured_indexes[0] is -3"},
		{name: "index out of range", field: "unstructured_indexes", value: []int64{3, 21, 45}, want: "unstructured_indexes[2] is 45, beyond the 45"},
		{name: "index far out", field: "unstructured_indexes", value: []int64{3, 21, math.MaxInt64}, want: "beyond the 45"},
		{name: "an index less", field: "unstructured_indexes", value: []int64{3, 21}, want: "unstructured_params is 3, but unstructured_indexes holds 2"},
		{name: "unstructured count", field: "unstructured_params", value: 4.0, want: "unstructured_params is 4, but unstructured_indexes holds 3"},
		{name: "unstructured fraction", field: "unstructured_params", value: 3.5, want: "unstructured_params is not a number"},
		{name: "structured of nothing", field: "structured_params", value: nil, want: "structured_params is not a number"},
		{name: "params of text", field: "params", value: "13", want: "params is not a number"},
		{name: "params NaN", field: "params", value: math.NaN(), want: "params is not a number"},
		{name: "structured count", field: "structured_params", value: 9, want: "structured_params is 9, but modules of rank 1 on the 1 matrices and the 2 whole vectors have another number of parameters: 8 with lora, 11 with adapter"},
		{name: "params", field: "params", value: 14e-6, want: "params is 1.4e-05 million, but structured_params 8, unstructured_params 3 and the class token of 2 parameters add up to 13"},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := smallSelection()
			var file any = f
			if c.edit != nil {
				file = c.edit(f)
			}
			for i := range f {
				if f[i].key == c.field {
					f[i].value = c.value
				}
			}
			s, err := loadPickle(t, file)
			if err == nil {
				_, err = s.plan(1, releaseModules...)
			}
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error %v, expected one that says %q", err, c.want)
			}
			if err != nil && len(err.Error()) > 600 {
				t.Errorf("the error has %d bytes, expected at most 600", len(err.Error()))
			}
		})
	}
	if _, err := load(filepath.Join(t.TempDir(), "none.pth")); err == nil {
		t.Error("load returned no error for an absent file")
	}
	for _, broken := range []string{"", "no pickle", "{}", "PK\x03\x04"} {
		path := filepath.Join(t.TempDir(), "broken.pth")
		if err := os.WriteFile(path, []byte(broken), 0o666); err != nil {
			t.Fatal(err)
		}
		if _, err := load(path); err == nil || !strings.Contains(err.Error(), path) {
			t.Errorf("%q: %v", broken, err)
		}
	}
}

// TestPublishedDamaged checks that a file with some flipped bits is refused or gives a valid plan.
func TestPublishedDamaged(t *testing.T) {
	whole, err := os.ReadFile(publishedFixture("lora.pth"))
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "damaged.pth")
	r := rand.New(rand.NewPCG(1, 2))
	refused := 0
	for range 300 {
		data := slices.Clone(whole)
		for range 1 + r.IntN(3) {
			data[r.IntN(len(data))] ^= 1 << r.IntN(8)
		}
		if r.IntN(8) == 0 {
			data = data[:r.IntN(len(data))]
		}
		if err := os.WriteFile(path, data, 0o666); err != nil {
			t.Fatal(err)
		}
		s, err := load(path)
		if err != nil {
			refused++
			continue
		}
		p, err := s.plan(8, releaseModules...)
		if err != nil {
			refused++
			continue
		}
		if err := p.Validate(s.tensors, moduleOf(t, p.Module).Count); err != nil {
			t.Errorf("%v", err)
		}
	}
	if refused < 30 {
		t.Errorf("%d of 300 damaged files are refused", refused)
	}
}

// TestComparePublished compares two published selections for the same task and budget, with LoRA
// and with Adapter. The expected overlaps were computed in Python.
func TestComparePublished(t *testing.T) {
	var p [2]*plan.Plan
	var s *selection
	for i, method := range []string{"lora", "adapter"} {
		var err error
		if s, err = load(golden.Path(t, "published_plans", method+"-cifar-0.4.pth")); err != nil {
			t.Fatal(err)
		}
		if p[i], err = s.plan(8, releaseModules...); err != nil {
			t.Fatal(err)
		}
	}
	c, err := plan.Compare(p[0], p[1], s.tensors, lora.Count, adapter.Count)
	if err != nil {
		t.Fatal(err)
	}
	var sum plan.Selected
	costs := [2]int{768, 768}
	for _, r := range c.Rows {
		for _, o := range []struct {
			to   *plan.Overlap
			from plan.Overlap
		}{{&sum.Matrices, r.Matrices}, {&sum.Vectors, r.Vectors}, {&sum.Entries, r.Entries}, {&sum.CountedOnly, r.CountedOnly}} {
			o.to.Both, o.to.OnlyA, o.to.OnlyB = o.to.Both+o.from.Both, o.to.OnlyA+o.from.OnlyA, o.to.OnlyB+o.from.OnlyB
		}
		costs[0], costs[1] = costs[0]+*r.CostA, costs[1]+*r.CostB
	}
	// Python computed these numbers from the same files, with sets.
	want := plan.Selected{Matrices: plan.Overlap{Both: 13, OnlyA: 1, OnlyB: 4}, Vectors: plan.Overlap{Both: 69, OnlyA: 0, OnlyB: 3}, Entries: plan.Overlap{Both: 16093, OnlyA: 7525, OnlyB: 8609}, CountedOnly: plan.Overlap{Both: 37, OnlyA: 134, OnlyB: 14}}
	if sum != want || c.Selected != want {
		t.Errorf("%+v, its rows add up to %+v, want %+v", c.Selected, sum, want)
	}
	if costs != [2]int{380909, 422713} {
		t.Errorf("the rows cost %v", costs)
	}
}
