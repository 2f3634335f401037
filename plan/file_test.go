package plan

import (
	"bytes"
	"math/rand/v2"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/sptune/spt/sensitivity"
)

// smallTensors lists the tensors of a small network, and smallPlan returns a plan for it. LoRA of
// rank 1 has in+out parameters.
var smallTensors = []sensitivity.Tensor{
	{Name: "blocks.0.norm1.weight", Shape: []int{3}, Norm: true},
	{Name: "blocks.0.norm1.bias", Shape: []int{3}, Norm: true},
	{Name: "blocks.0.attn.q.weight", Shape: []int{3, 3}},
	{Name: "blocks.0.attn.q.bias", Shape: []int{3}},
	{Name: "blocks.1.norm1.weight", Shape: []int{3}, Norm: true},
	{Name: "blocks.1.attn.q.weight", Shape: []int{3, 3}},
	{Name: "blocks.1.mlp.fc1.weight", Shape: []int{4, 3, 1, 1}},
	{Name: "norm.weight", Shape: []int{3}, Norm: true},
}

func smallPlan() *Plan {
	return &Plan{
		Compat: CompatRelease, Module: "lora", Rank: 1, Alpha: 10, Beta: 5, Budget: 25, Tau: 13,
		Cost:        Cost{Structured: 6 + 7, Vectors: 3 + 3, Unstructured: 4, CountedOnly: 2, ClassToken: 3, Total: 28},
		Matrices:    []string{"blocks.0.attn.q.weight", "blocks.1.mlp.fc1.weight"},
		Vectors:     []string{"blocks.0.norm1.bias", "norm.weight"},
		Entries:     map[string][]int32{"blocks.0.attn.q.bias": {1}, "blocks.1.attn.q.weight": {0, 4, 8}},
		CountedOnly: map[string][]int32{"blocks.0.norm1.weight": {2}, "blocks.1.norm1.weight": {0}},
	}
}

// smallFile is the content of the plan file of smallPlan.
const smallFile = `{
  "kind": "plan",
  "version": 1,
  "compat": "release",
  "module": "lora",
  "rank": 1,
  "alpha": 10,
  "beta": 5,
  "budget": 25,
  "tau": 13,
  "cost": {
    "structured": 13,
    "vectors": 6,
    "unstructured": 4,
    "counted_only": 2,
    "class_token": 3,
    "total": 28
  },
  "matrices": [
    "blocks.0.attn.q.weight",
    "blocks.1.mlp.fc1.weight"
  ],
  "vectors": [
    "blocks.0.norm1.bias",
    "norm.weight"
  ],
  "entries": {
    "blocks.0.attn.q.bias": [1],
    "blocks.1.attn.q.weight": [0,4,8]
  },
  "counted_only": {
    "blocks.0.norm1.weight": [2],
    "blocks.1.norm1.weight": [0]
  }
}
`

func TestEncode(t *testing.T) {
	data, err := smallPlan().encode()
	if err != nil {
		t.Fatal(err)
	}
	if string(data) != smallFile {
		t.Errorf("encoded as\n%s\nexpected\n%s", data, smallFile)
	}
	p, err := decode([]byte(smallFile))
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(p, smallPlan()) {
		t.Errorf("decoded as %+v", p)
	}
}

func TestSaveAndLoad(t *testing.T) {
	folder := t.TempDir()
	path := filepath.Join(folder, "plan.json")
	for seed := range uint64(20) {
		r := rand.New(rand.NewPCG(seed, 5))
		scored, o := randomScored(r), randomOptions(r)
		o.Budget = 100
		p, err := o.exact(t.Context(), scored)
		if err != nil {
			t.Fatal(err)
		}
		if err := p.Save(path); err != nil { // replaces the file of the previous seed
			t.Fatal(err)
		}
		got, err := LoadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if !reflect.DeepEqual(got, p) {
			t.Errorf("seed %d: loaded %+v, saved %+v", seed, got, p)
		}
	}
	files, err := os.ReadDir(folder)
	if err != nil {
		t.Fatal(err)
	}
	if len(files) != 1 {
		t.Errorf("%d files in the folder, expected plan.json alone: %v", len(files), files)
	}
	if err := smallPlan().Save(filepath.Join(folder, "absent", "plan.json")); err == nil || !strings.Contains(err.Error(), "saving plan") {
		t.Errorf("saving into a folder that does not exist: error %v", err)
	}
	// If Save fails, it must remove its temporary file.
	if err := os.Mkdir(filepath.Join(folder, "taken"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := smallPlan().Save(filepath.Join(folder, "taken")); err == nil {
		t.Error("Save replaced a folder")
	}
	if files, _ = os.ReadDir(folder); len(files) != 2 {
		t.Errorf("a failed save left files behind: %v", files)
	}
}

// replaced returns smallFile with the first old text replaced by new. The test fails if smallFile
// does not contain old.
func replaced(t *testing.T, old, new string) []byte {
	t.Helper()
	if !strings.Contains(smallFile, old) {
		t.Fatalf("smallFile does not contain %q", old)
	}
	return []byte(strings.Replace(smallFile, old, new, 1))
}

func TestDecodeRefuses(t *testing.T) {
	for _, c := range []struct{ old, new, want string }{
		{smallFile, "", "unexpected end"},
		{smallFile, "null", `kind is "", expected "plan"`},
		{`"kind": "plan"`, `"kind": "delta"`, `kind is "delta"`},
		{smallFile, "[]", "found a list, expected an object"},
		{`"version": 1`, `"version": 2, "later": true`, "version is 2, expected 1"},
		{`"tau": 13`, `"tau": 13, "extra": true`, `unknown field "extra"`},
		{`"total": 28`, `"total": 28,`, "line 18: broken JSON: invalid character"},
		{"[0,4,8]", "[0,4.5,8]", "line 29: field \"entries\": found the number 4.5, expected a whole number of at most 2147483647"},
		{"[0,4,8]", "[0,4,99999999999]", "line 29: field \"entries\": found the number 99999999999, expected a whole number of at most 2147483647"},
		{"[0,4,8]", "[0,4,4]", `entries of "blocks.1.attn.q.weight": number 3 of the list is position 4, expected a position above 4`},
		{"[0,4,8]", "[-1,4,8]", "number 1 of the list is position -1"},
		{"[0,4,8]", "[0,4]", "cost.unstructured is 4, but entries holds 3"},
		{"[0,4,8]", "[]", `entries of "blocks.1.attn.q.weight" is empty`},
		{`"blocks.0.norm1.bias"`, `"blocks.0.attn.q.weight"`, `tensor "blocks.0.attn.q.weight" is in matrices and again in vectors`},
		{`"blocks.0.norm1.weight": [2]`, `"blocks.0.attn.q.bias": [2]`, `"blocks.0.attn.q.bias" is in entries and again in counted_only`},
		{`"compat": "release"`, `"compat": "other"`, `compat is "other"`},
		{`"compat": "release"`, `"compat": ""`, `counted_only has 2 tensors, expected none`},
		{`"counted_only": 2`, `"counted_only": 1`, "cost.counted_only is 1, but counted_only holds 2"},
		{`"total": 28`, `"total": 27`, "cost.total is 27, but the parts of the cost add up to 28"},
		{`"class_token": 3`, `"class_token": -3`, "cost holds -3"},
		{`"class_token": 3`, `"class_token": 9223372036854775807`, "cost holds 9223372036854775807"},
		{`"module": "lora"`, `"module": ""`, "module is empty"},
		{`"rank": 1`, `"rank": 0`, "rank is 0"},
		{`"alpha": 10`, `"alpha": 0`, "alpha and beta are 0 and 5"},
		{`"beta": 5`, `"beta": -5`, "alpha and beta are 10 and -5"},
		{`"budget": 25`, `"budget": 0`, "budget is 0"},
		{`"tau": 13`, `"tau": -1`, "tau is -1"},
		{"\n}\n", "\n}\n{}", "invalid character '{' after top-level value"},
	} {
		p, err := decode(replaced(t, c.old, c.new))
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s → %s: plan %v, error %v, expected one that says %q", c.old, c.new, p, err, c.want)
		}
	}
	path := filepath.Join(t.TempDir(), "broken.json")
	if err := os.WriteFile(path, []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := LoadFile(path); err == nil || !strings.Contains(err.Error(), path) {
		t.Errorf("the error %v does not name the file", err)
	}
	if _, err := LoadFile(path + ".absent"); err == nil || !strings.Contains(err.Error(), path+".absent") {
		t.Errorf("the error %v does not name the file", err)
	}
}

func TestValidate(t *testing.T) {
	if err := smallPlan().Validate(smallTensors, loraParams); err != nil {
		t.Fatal(err)
	}
	for want, change := range map[string]func(p *Plan){
		`matrices names "blocks.0.norm1.bias" of shape [3], expected the weight of`: func(p *Plan) {
			p.Matrices[0], p.Vectors[0] = p.Vectors[0], p.Matrices[0]
		},
		`vectors names "blocks.1.attn.q.weight" of shape [3 3], expected one`: func(p *Plan) {
			p.Vectors[0] = "blocks.1.attn.q.weight"
			p.Entries = map[string][]int32{"blocks.0.attn.q.bias": {0, 1, 2}, "blocks.0.norm1.bias": {0}}
		},
		`matrices names "blocks.9.attn.q.weight", which is not among the 8`: func(p *Plan) { p.Matrices[0] = "blocks.9.attn.q.weight" },
		`vectors names "x", which is not among`:                             func(p *Plan) { p.Vectors[0] = "x" },
		`entries names "x", which is not among`: func(p *Plan) {
			p.Entries["x"] = p.Entries["blocks.0.attn.q.bias"]
			delete(p.Entries, "blocks.0.attn.q.bias")
		},
		`entries of "blocks.1.attn.q.weight": position 9 is out of range, the tensor has shape [3 3]`: func(p *Plan) { p.Entries["blocks.1.attn.q.weight"][2] = 9 },
		`counted_only of "blocks.1.norm1.weight": position 3 is out of range`:                         func(p *Plan) { p.CountedOnly["blocks.1.norm1.weight"][0] = 3 },
		`counted_only names "blocks.0.attn.q.bias", which is not a LayerNorm vector`: func(p *Plan) {
			p.Entries["blocks.1.norm1.weight"], p.CountedOnly["blocks.0.attn.q.bias"] = []int32{0}, []int32{1}
			delete(p.CountedOnly, "blocks.1.norm1.weight")
			delete(p.Entries, "blocks.0.attn.q.bias")
		},
		`cost.structured is 12, but lora modules of rank 1 on the 2 matrices have 13`: func(p *Plan) {
			p.Cost.Structured, p.Cost.Vectors = 12, 7
		},
		`cost.vectors is 7, but the 2 vectors have 6 parameters`:          func(p *Plan) { p.Cost.Vectors, p.Cost.ClassToken = 7, 2 },
		`tau is 50, but the backbone has only 45`:                         func(p *Plan) { p.Tau = 50 },
		`number 2 of the list is position 4, expected a position above 8`: func(p *Plan) { slices.Reverse(p.Entries["blocks.1.attn.q.weight"]) },
		`cost.total is 28, above the budget of 27`: func(p *Plan) {
			p.Compat, p.CountedOnly, p.Cost.CountedOnly, p.Cost.ClassToken, p.Budget = "", nil, 0, 5, 27
		},
	} {
		p := smallPlan()
		change(p)
		if err := p.Validate(smallTensors, loraParams); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v, expected one that says %q", err, want)
		}
	}
	if err := smallPlan().Validate(smallTensors, nil); err == nil || !strings.Contains(err.Error(), "no function counts the parameters") {
		t.Errorf("without a Count: error %v", err)
	}
}

// FuzzPlan checks that LoadFile never panics, and that encoding and decoding an accepted plan does
// not change it. Fuzz with -fuzzminimizetime 10x. The default would spend nearly all of a short run
// on making inputs smaller.
func FuzzPlan(f *testing.F) {
	f.Add([]byte(smallFile))
	f.Add([]byte(`{"version":1,"module":"lora","rank":8,"alpha":10,"beta":5,"budget":1,"tau":0,"cost":{"structured":0,"vectors":0,"unstructured":0,"class_token":0,"total":0},"matrices":[],"vectors":[],"entries":{}}`))
	f.Add([]byte(`{"version":2}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		path := filepath.Join(t.TempDir(), "plan.json")
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		p, err := LoadFile(path)
		if err != nil {
			return
		}
		first, err := p.encode()
		if err != nil {
			t.Fatalf("LoadFile accepted the plan, but it cannot be encoded: %v", err)
		}
		again, err := decode(first)
		if err != nil {
			t.Fatalf("LoadFile accepted the plan, but decode rejected it after encoding: %v\n%s", err, first)
		}
		second, err := again.encode()
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(first, second) {
			t.Errorf("encoded as\n%s\nthen as\n%s", first, second)
		}
		_ = p.Validate(smallTensors, loraParams) // must not panic
	})
}
