package plan

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/sbinet/npyio/npz"

	"github.com/sptune/spt/internal/golden"

	"github.com/sptune/spt/sensitivity"
)

func loraParams(in, out, rank int) int   { return rank * (in + out) }
func adapterParams(_, out, rank int) int { return 2*rank*out + rank + out }

var moduleParams = map[string]func(in, out, rank int) int{"lora": loraParams, "adapter": adapterParams}

// releaseMeta holds the fields of the reference run's meta.json that these tests read.
type releaseMeta struct {
	EmbedDim int     `json:"embed_dim"`
	Depth    int     `json:"depth"`
	Rank     int     `json:"rank"`
	Scale    float64 `json:"scale"`
	Alpha    float64 `json:"alpha"`
	Beta     float64 `json:"beta"`
	Plans    map[string]map[string]struct {
		Params       float64  `json:"params"` // in units of scale, rounded to float32
		Unstructured int      `json:"unstructured_params"`
		Structured   int      `json:"structured_params"` // modules and whole vectors
		Matrices     [][]int  `json:"tuned_matrices"`    // [depth][6]
		Vectors      []string `json:"tuned_vectors"`
		// NameShapes is a JSON object. The order of its names defines the positions in Indexes.
		NameShapes json.RawMessage `json:"unstructured_name_shapes"`
		Indexes    []int           `json:"unstructured_indexes"`
	} `json:"plans"`
	Training map[string]struct {
		Trainable map[string][]int `json:"trainable"`
	} `json:"training"`
}

// goldenFolder returns the folder of the run of the reference release. It skips the test if the
// folder is absent.
func goldenFolder(t *testing.T) string {
	t.Helper()
	return golden.Path(t, "spt_small")
}

func readMeta(t *testing.T, folder string) (meta releaseMeta) {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(folder, "meta.json"))
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(data, &meta); err != nil {
		t.Fatal(err)
	}
	return meta
}

// operations lists the operations in the order of the columns of tuned_matrices.
var operations = []string{"attn.q", "attn.k", "attn.v", "attn.proj", "mlp.fc1", "mlp.fc2"}

// readSensitivity returns the scored tensors in the order of PyTorch's named_parameters.
func readSensitivity(t *testing.T, folder string, depth int) []sensitivity.Tensor {
	t.Helper()
	file, err := npz.Open(filepath.Join(folder, "sensitivity.npz"))
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	var scored []sensitivity.Tensor
	read := func(module string) {
		for _, parameter := range []string{".weight", ".bias"} {
			s := sensitivity.Tensor{Name: module + parameter, Norm: strings.Contains(module, "norm")}
			header := file.Header(s.Name + ".npy")
			if header == nil {
				t.Fatalf("no %s in sensitivity.npz", s.Name)
			}
			if s.Shape = header.Descr.Shape; header.Descr.Fortran {
				t.Fatalf("%s in sensitivity.npz is column-major", s.Name)
			}
			if err := file.Read(s.Name+".npy", &s.Scores); err != nil {
				t.Fatal(err)
			}
			scored = append(scored, s)
		}
	}
	for i := range depth {
		for _, op := range []string{"norm1", "attn.q", "attn.k", "attn.v", "attn.proj", "norm2", "mlp.fc1", "mlp.fc2"} {
			read(fmt.Sprintf("blocks.%d.%s", i, op))
		}
	}
	read("norm")
	return scored
}

// target returns the budget in a name such as "param_req_0.05.pth".
func target(t *testing.T, name string) float64 {
	t.Helper()
	_, number, ok := strings.Cut(name, "param_req_")
	v, err := strconv.ParseFloat(strings.TrimSuffix(number, ".pth"), 64)
	if !ok || err != nil {
		t.Fatalf("no budget in the name %q", name)
	}
	return v
}

func releaseOptions(meta releaseMeta, module string) inputs {
	return inputs{Module: module, ModuleParams: moduleParams[module], Rank: meta.Rank, Alpha: meta.Alpha, Beta: meta.Beta, ClassToken: meta.EmbedDim, Scale: meta.Scale}
}

// flat returns the entries of the plan as the release writes them: ascending positions in the
// concatenation of the tensors of nameShapes. nameShapes is a JSON object whose order matters. flat
// also returns the names in it.
func flat(t *testing.T, p *Plan, nameShapes []byte) (indexes []int, names []string) {
	t.Helper()
	decoder := json.NewDecoder(bytes.NewReader(nameShapes))
	if _, err := decoder.Token(); err != nil {
		t.Fatal(err)
	}
	base := 0
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
		for _, list := range p.lists() {
			for _, i := range list.entries[name.(string)] {
				indexes = append(indexes, base+int(i))
			}
		}
		size := 1
		for _, d := range shape {
			size *= d
		}
		base += size
	}
	return indexes, names
}

func TestReleaseGolden(t *testing.T) {
	folder := goldenFolder(t)
	meta := readMeta(t, folder)
	scored := readSensitivity(t, folder, meta.Depth)
	compared := 0
	for module, want := range meta.Plans {
		plans, err := releaseOptions(meta, module).release(t.Context(), scored)
		if err != nil {
			t.Fatal(err)
		}
		if len(plans) != len(want) {
			t.Errorf("%s: %d plans, the reference has %d", module, len(plans), len(want))
		}
		for key, w := range want {
			budget := int(math.Round(target(t, key) * meta.Scale))
			i := slices.IndexFunc(plans, func(p *Plan) bool { return p.Budget == budget })
			if i < 0 {
				t.Errorf("%s %s: no plan for a budget of %d", module, key, budget)
				continue
			}
			p := plans[i]
			if err := p.Validate(scored, moduleParams[module]); err != nil {
				t.Errorf("%s %s: %v", module, key, err)
			}

			var matrices []string
			for block, row := range w.Matrices {
				for op, tuned := range row {
					if tuned != 0 {
						matrices = append(matrices, fmt.Sprintf("blocks.%d.%s.weight", block, operations[op]))
					}
				}
			}
			if !slices.Equal(p.Matrices, matrices) {
				t.Errorf("%s %s: matrices %v, the reference has %v", module, key, p.Matrices, matrices)
			}
			if !slices.Equal(p.Vectors, w.Vectors) {
				t.Errorf("%s %s: vectors %v, the reference has %v", module, key, p.Vectors, w.Vectors)
			}
			indexes, names := flat(t, p, w.NameShapes)
			if !slices.Equal(indexes, w.Indexes) {
				t.Errorf("%s %s: the %d entries differ from the %d of the reference", module, key, len(indexes), len(w.Indexes))
			}
			if len(names)+len(matrices)+len(p.Vectors) != len(scored) {
				t.Errorf("%s %s: %d + %d + %d tensors in the reference, scored %d", module, key, len(names), len(matrices), len(p.Vectors), len(scored))
			}
			if n := p.Cost.Unstructured + p.Cost.CountedOnly; n != w.Unstructured {
				t.Errorf("%s %s: %d entries in the cost, the reference has %d", module, key, n, w.Unstructured)
			}
			if n := p.Cost.Structured + p.Cost.Vectors; n != w.Structured {
				t.Errorf("%s %s: modules and vectors cost %d, the reference has %d", module, key, n, w.Structured)
			}
			if n := w.Params * meta.Scale; math.Round(n) != float64(p.Cost.Total) {
				t.Errorf("%s %s: total cost %d, the reference has %v", module, key, p.Cost.Total, n)
			}
			compared++
			t.Logf("%s %-18s tau %6d cost %6d entries %4d (counted only %2d) matrices %2d vectors %2d", module, key, p.Tau, p.Cost.Total, len(indexes), p.Cost.CountedOnly, len(p.Matrices), len(p.Vectors))
		}
	}
	if compared == 0 {
		t.Error("the reference has no plans")
	}
}

// TestReleaseGoldenTrained checks the plans that the reference trained. For the single entries that
// it selected, the reference had trainable weights for those in Entries and none for those in
// CountedOnly.
func TestReleaseGoldenTrained(t *testing.T) {
	folder := goldenFolder(t)
	meta := readMeta(t, folder)
	scored := readSensitivity(t, folder, meta.Depth)
	if len(meta.Training) == 0 {
		t.Fatal("the reference trained no plans")
	}
	for key, training := range meta.Training {
		module, _, _ := strings.Cut(key, "_")
		plans, err := releaseOptions(meta, module).release(t.Context(), scored)
		if err != nil {
			t.Fatal(err)
		}
		budget := int(math.Round(target(t, key) * meta.Scale))
		at := slices.IndexFunc(plans, func(p *Plan) bool { return p.Budget == budget })
		if at < 0 {
			t.Fatalf("%s: no plan for a budget of %d", key, budget)
		}
		p := plans[at]

		file, err := npz.Open(filepath.Join(folder, key+".npz"))
		if err != nil {
			t.Fatal(err)
		}
		trained, counted := map[string][]int32{}, map[string][]int32{}
		for _, member := range file.Keys() {
			name, ok := strings.CutPrefix(strings.TrimSuffix(member, ".npy"), "sparse_index.")
			if !ok {
				continue
			}
			s := scored[slices.IndexFunc(scored, func(s sensitivity.Tensor) bool { return s.Name == name })]
			var coordinates []int64 // [nnz, ndim]
			if err := file.Read(member, &coordinates); err != nil {
				t.Fatal(err)
			}
			dot := strings.LastIndexByte(name, '.')
			into := counted
			if _, ok := training.Trainable[name[:dot]+".sparse_"+name[dot+1:]]; ok {
				into = trained
			}
			// The values come in the order of the file, which may be column-major.
			descr := file.Header(member).Descr
			nnz, along, across := descr.Shape[0], len(s.Shape), 1
			if descr.Fortran {
				along, across = 1, nnz
			}
			for n := range nnz {
				index := 0
				for d, size := range s.Shape {
					index = index*size + int(coordinates[n*along+d*across])
				}
				into[name] = append(into[name], int32(index))
			}
		}
		file.Close()
		if len(trained) == 0 {
			t.Fatalf("%s: the reference trained no entries", key)
		}
		if !maps.EqualFunc(p.Entries, trained, slices.Equal) {
			t.Errorf("%s: entries %v, the reference trained %v", key, p.Entries, trained)
		}
		if !maps.EqualFunc(p.CountedOnly, counted, slices.Equal) {
			t.Errorf("%s: counted only %v, in the reference %v", key, p.CountedOnly, counted)
		}
	}
}
