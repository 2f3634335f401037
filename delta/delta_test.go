package delta_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io/fs"
	"maps"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/sptune/spt/backbone"
	"github.com/sptune/spt/checkpoint"
	"github.com/sptune/spt/dataset"
	"github.com/sptune/spt/delta"
	"github.com/sptune/spt/objective"
	"github.com/sptune/spt/peft"
	"github.com/sptune/spt/plan"
)

// tinyConfig is a ViT of two blocks: 16 px images in four patches.
var tinyConfig = backbone.Config{ImageSize: 16, NumClasses: 3, NumHeads: 2, LayerNormEps: 1e-6,
	Form: backbone.ViT{PatchSize: 8, EmbedDim: 16, Depth: 2, HiddenDim: 32}}

// tiny returns a backbone with random weights and no head. Equal seeds give equal weights on every
// machine.
func tiny(c backbone.Config, seed uint64) *backbone.Model {
	r := rand.New(rand.NewPCG(seed, 0))
	sd := checkpoint.StateDict{}
	for _, p := range c.Params() {
		if p.Role == backbone.Head {
			continue
		}
		w := checkpoint.NewTensor(p.Shape...)
		for i := range w.Data {
			w.Data[i] = float32(0.2 * r.NormFloat64())
			if p.Norm && strings.HasSuffix(p.Name, ".weight") {
				w.Data[i]++
			}
		}
		sd[p.Name] = w
	}
	pre := backbone.Preprocessing{Mean: [3]float32{0.485, 0.456, 0.406}, Std: [3]float32{0.229, 0.224, 0.225}, Interpolation: "bicubic", Source: "test"}
	return backbone.NewModel(c, pre, sd)
}

// biases returns the selection of every bias of the backbone.
func biases(c backbone.Config) (s peft.Selection) {
	for _, p := range c.Params() {
		if p.Role != backbone.Head && strings.HasSuffix(p.Name, ".bias") {
			s.Whole = append(s.Whole, p.Name)
		}
	}
	return s
}

// selections returns one selection of every kind of tuning.
func selections() map[string]peft.Selection {
	return map[string]peft.Selection{
		"spt-lora": {Module: "lora", Rank: 2,
			Structured: []string{"blocks.0.attn.q.weight", "blocks.0.attn.proj.weight", "blocks.1.mlp.fc1.weight"},
			Whole:      []string{"cls_token", "blocks.0.norm1.weight", "blocks.1.mlp.fc2.bias"},
			Entries: map[string][]int32{"blocks.0.attn.v.weight": {0, 7, 255}, "blocks.1.mlp.fc2.weight": {3, 200, 511},
				"blocks.1.attn.k.bias": {15}, "norm.bias": {0, 1}}},
		"spt-lora-ranks": {Module: "lora", Rank: 3, Ranks: map[string]int{"blocks.0.attn.q.weight": 1, "blocks.1.mlp.fc1.weight": 2, "blocks.1.mlp.fc2.weight": 3},
			Structured: []string{"blocks.0.attn.q.weight", "blocks.1.mlp.fc1.weight", "blocks.1.mlp.fc2.weight"}},
		"adapter": peft.Uniform(tinyConfig, "adapter", 3),
		"lora":    peft.Uniform(tinyConfig, "lora", 2),
		"linear":  peft.Selection{},
		"full":    peft.Full(tinyConfig),
		"bitfit":  biases(tinyConfig),
		"ssf":     peft.Selection{SSF: true},

		"adaptformer":  peft.Selection{AdaptFormer: &peft.Bottleneck{Width: 3, Scale: 0.1}},
		"adapter-plus": peft.Selection{PostAdapter: &peft.PostAdapter{Width: 3}},
		"fact-tt":      peft.Selection{FacT: &peft.FacT{Rank: 2, Scale: 0.5}},
		"convpass":     peft.Selection{Convpass: &peft.Convpass{Width: 2, Scale: 0.5}},
		"difffit":      peft.Selection{BranchScales: true, Whole: []string{"blocks.0.norm1.weight", "blocks.0.attn.proj.bias"}},
		"dora":         peft.Uniform(tinyConfig, "dora", 2), "repadapter": peft.Uniform(tinyConfig, "repadapter", 3), "adapter-scaled": peft.Uniform(tinyConfig, "adapter-scaled", 2),
		"vpt-shallow": peft.Selection{Prompts: &peft.Prompts{Tokens: 2, Deep: false}},
		"vpt-deep":    peft.Selection{Prompts: &peft.Prompts{Tokens: 2, Deep: true}},
		"mlp-3":       peft.Selection{MLPHead: 3},
	}
}

// result returns a delta for m with random tuned values. All values differ from their initial
// values.
func result(t testing.TB, m *backbone.Model, method string, s peft.Selection) *delta.Delta {
	t.Helper()
	tuning, err := peft.New(m.Config, s)
	if err != nil {
		t.Fatal(err)
	}
	tuned := tuning.Init(1, peft.PaperScheme, m.Weights)
	r := rand.New(rand.NewPCG(2, 0))
	// in a fixed order, so that the values do not depend on the order of a map
	for _, p := range tuning.Params {
		for i := range tuned[p.Name].Data {
			tuned[p.Name].Data[i] += float32(0.1 * r.NormFloat64())
		}
	}
	d := delta.New(m, nil)
	d.Method, d.Objective, d.Classes = method, objective.SingleLabel.Name(), []string{"rose", "a \"quoted\"\nname", "tulipän"}
	d.Transform, d.Selection, d.Tuned = delta.Transform{Resize: "crop", ResizeTo: 18}, s, tuned
	d.Metrics = map[string]float64{"val_accuracy": 0.8125, "test_accuracy": 1.0 / 3}
	return d
}

// saved saves a delta and returns its folder.
func saved(t testing.TB, d *delta.Delta) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "run")
	if err := d.Save(dir); err != nil {
		t.Fatal(err)
	}
	return dir
}

func TestRoundTrip(t *testing.T) {
	m := tiny(tinyConfig, 1)
	for method, s := range selections() {
		t.Run(method, func(t *testing.T) {
			d := result(t, m, method, s)
			if method == "spt-lora" {
				d.Plan = delta.New(m, &plan.Plan{Budget: 400, Tau: 37, Compat: plan.CompatRelease, Alpha: 10, Beta: 5,
					Cost: plan.Cost{Structured: 200, Vectors: 48, Unstructured: 9, CountedOnly: 2, ClassToken: 16, Total: 275}}).Plan
			}
			dir := saved(t, d)
			for _, path := range []string{dir, filepath.Join(dir, delta.FileName), filepath.Join(dir, delta.TensorsName)} {
				got, err := delta.Load(path)
				if err != nil {
					t.Fatal(err)
				}
				if !reflect.DeepEqual(got, d) {
					t.Errorf("loaded from %s:\n%+v\nsaved:\n%+v", filepath.Base(path), got, d)
				}
			}
			// The same delta gives the same bytes, and nothing else is left in the folder.
			again := saved(t, d)
			files, err := os.ReadDir(again)
			if err != nil {
				t.Fatal(err)
			}
			if len(files) != 2 {
				t.Errorf("the folder has %v, expected two files", files)
			}
			for _, f := range files {
				if read(t, dir, f.Name()) != read(t, again, f.Name()) {
					t.Errorf("%s differs between two saves", f.Name())
				}
			}
		})
	}
}

func TestSaveReplaces(t *testing.T) {
	m := tiny(tinyConfig, 1)
	dir := saved(t, result(t, m, "lora", selections()["lora"]))
	d := result(t, m, "linear", peft.Selection{})
	if err := d.Save(dir); err != nil {
		t.Fatal(err)
	}
	got, err := delta.Load(dir)
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(got, d) {
		t.Errorf("loaded %+v, saved %+v", got, d)
	}
}

// TestFiles reads the files as another program would.
func TestFiles(t *testing.T) {
	dir := saved(t, result(t, tiny(tinyConfig, 1), "spt-lora", selections()["spt-lora"]))
	f, err := checkpoint.Open(filepath.Join(dir, delta.TensorsName))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	positions, _, err := f.Int32("blocks.1.mlp.fc2.weight.sparse_indices")
	if err != nil {
		t.Fatal(err)
	}
	if want := []int32{3, 200, 511}; !reflect.DeepEqual(positions, want) {
		t.Errorf("positions %v, expected %v", positions, want)
	}
	for name, shape := range map[string][]int{"blocks.1.mlp.fc2.weight.sparse_values": {3}, "blocks.0.attn.q.lora_A": {2, 16},
		"blocks.1.mlp.fc1.lora_B": {32, 2}, "cls_token": {1, 1, 16}, "head.weight": {3, 16}, "head.bias": {3}} {
		all := f.Tensors()
		i := slices.IndexFunc(all, func(info checkpoint.TensorInfo) bool { return info.Name == name })
		if i < 0 {
			t.Errorf("there is no %s", name)
			continue
		}
		info := all[i]
		if info.DType != checkpoint.F32 || !reflect.DeepEqual(info.Shape, shape) {
			t.Errorf("%s: %+v, expected F32 %v", name, info, shape)
		}
	}
	var doc map[string]any
	if err := json.Unmarshal([]byte(read(t, dir, delta.FileName)), &doc); err != nil {
		t.Fatal(err)
	}
	sum, err := f.SHA256()
	if err != nil {
		t.Fatal(err)
	}
	if doc["kind"] != "delta" || doc["objective"] != "single-label" || doc["version"] != 1.0 || doc["tensors_sha256"] != sum || doc["selection"].(map[string]any)["entries"] != nil {
		t.Errorf("kind %v, objective %v, version %v, tensors_sha256 %v, selection %v", doc["kind"], doc["objective"], doc["version"], doc["tensors_sha256"], doc["selection"])
	}
	if !strings.HasPrefix(read(t, dir, delta.FileName), "{\n  \"kind\": \"delta\",\n  \"version\": 1,\n") {
		t.Error("the JSON is not indented by two spaces with kind and version first")
	}
}

func read(t testing.TB, dir, name string) string {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(dir, name))
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

func write(t testing.TB, dir, name string, data []byte) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(dir, name), data, 0o666); err != nil {
		t.Fatal(err)
	}
}

// editJSON changes the JSON of a saved delta. Paths such as "config.depth" name fields.
func editJSON(path string, value any) func(*testing.T, string) {
	return func(t *testing.T, dir string) {
		t.Helper()
		var doc map[string]any
		if err := json.Unmarshal([]byte(read(t, dir, delta.FileName)), &doc); err != nil {
			t.Fatal(err)
		}
		object := doc
		fields := strings.Split(path, ".")
		for _, f := range fields[:len(fields)-1] {
			object = object[f].(map[string]any)
		}
		object[fields[len(fields)-1]] = value
		text, err := json.Marshal(doc)
		if err != nil {
			t.Fatal(err)
		}
		write(t, dir, delta.FileName, text)
	}
}

// editTensors replaces or adds the tensor e in the safetensors file of a saved delta, or removes it
// if e has no dtype. It also updates the hash in the JSON file.
func editTensors(e checkpoint.Entry) func(*testing.T, string) {
	return func(t *testing.T, dir string) {
		t.Helper()
		path := filepath.Join(dir, delta.TensorsName)
		f, err := checkpoint.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		entries := map[string]checkpoint.Entry{}
		for _, info := range f.Tensors() {
			var data any
			if info.DType == checkpoint.I32 {
				data, _, err = f.Int32(info.Name)
			} else {
				var v checkpoint.Tensor
				v, err = f.Float32(info.Name)
				data = v.Data
			}
			if err != nil {
				t.Fatal(err)
			}
			entries[info.Name] = checkpoint.Entry{Name: info.Name, DType: info.DType, Shape: info.Shape, Data: data}
		}
		if err := f.Close(); err != nil { // Windows does not replace an open file
			t.Fatal(err)
		}
		entries[e.Name] = e
		if e.DType == "" {
			delete(entries, e.Name)
		}
		var list []checkpoint.Entry
		for e := range maps.Values(entries) {
			list = append(list, e)
		}
		if err := checkpoint.Save(path, list, nil); err != nil {
			t.Fatal(err)
		}
		fixHash(t, dir)
	}
}

func fixHash(t *testing.T, dir string) {
	t.Helper()
	sum := sha256.Sum256([]byte(read(t, dir, delta.TensorsName)))
	editJSON("tensors_sha256", hex.EncodeToString(sum[:]))(t, dir)
}

func remove(name string) func(*testing.T, string) {
	return func(t *testing.T, dir string) {
		t.Helper()
		if err := os.Remove(filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
}

// cut removes the second half of a file.
func cut(name string) func(*testing.T, string) {
	return func(t *testing.T, dir string) {
		t.Helper()
		data := read(t, dir, name)
		write(t, dir, name, []byte(data[:len(data)/2]))
	}
}

// TestLoadRefuses damages a valid delta in one way at a time. The error must name the file, the
// field or the tensor, and what was expected or what to do.
func TestLoadRefuses(t *testing.T) {
	m := tiny(tinyConfig, 1)
	d := result(t, m, "spt-lora", selections()["spt-lora"])
	floats := func(name string, shape []int, v ...float32) checkpoint.Entry {
		return checkpoint.Entry{Name: name, DType: checkpoint.F32, Shape: shape, Data: v}
	}
	ints := func(name string, shape []int, v ...int32) checkpoint.Entry {
		return checkpoint.Entry{Name: name, DType: checkpoint.I32, Shape: shape, Data: v}
	}
	nan, inf := float32(math.NaN()), float32(math.Inf(1))
	for name, c := range map[string]struct {
		damage func(*testing.T, string)
		want   []string
	}{
		"JSON missing":      {remove(delta.FileName), []string{delta.FileName, "copy both"}},
		"tensors missing":   {remove(delta.TensorsName), []string{delta.TensorsName, "copy both"}},
		"JSON cut short":    {cut(delta.FileName), []string{delta.FileName, "unexpected end", "cut short"}},
		"tensors cut short": {cut(delta.TensorsName), []string{delta.TensorsName, "SHA-256", "damaged"}},
		"one bit edited": {func(t *testing.T, dir string) {
			data := []byte(read(t, dir, delta.TensorsName))
			data[len(data)-1] ^= 1
			write(t, dir, delta.TensorsName, data)
		}, []string{delta.TensorsName, "SHA-256", "two deltas, or one is damaged"}},
		"mixed pair": {func(t *testing.T, dir string) {
			other := result(t, m, "spt-lora", selections()["spt-lora"])
			other.Tuned["head.bias"].Data[0]++
			write(t, dir, delta.TensorsName, []byte(read(t, saved(t, other), delta.TensorsName)))
		}, []string{delta.TensorsName, "two deltas", "copy both from one run"}},
		"no safetensors": {func(t *testing.T, dir string) {
			write(t, dir, delta.TensorsName, []byte("version https://git-lfs.github.com/spec/v1\n"))
			fixHash(t, dir)
		}, []string{delta.TensorsName, "Git LFS pointer"}},
		"folder in place of a file": {func(t *testing.T, dir string) {
			remove(delta.TensorsName)(t, dir)
			if err := os.Mkdir(filepath.Join(dir, delta.TensorsName), 0o777); err != nil {
				t.Fatal(err)
			}
		}, []string{delta.TensorsName, "not a regular file"}},
		"JSON too large": {func(t *testing.T, dir string) {
			if err := os.Truncate(filepath.Join(dir, delta.FileName), 1<<40); err != nil {
				t.Skip("needs a file system with sparse files")
			}
		}, []string{delta.FileName, "1099511627776 bytes", "is it a delta?"}},
		"kind":                  {editJSON("kind", "plan"), []string{delta.FileName, `kind is "plan"`, `expected "delta"`}},
		"objective":             {editJSON("objective", "nope"), []string{`objective "nope" is unknown`}},
		"version":               {editJSON("version", 3), []string{delta.FileName, "version is 3", "versions 1 and 2"}},
		"unknown field":         {editJSON("colour", "red"), []string{delta.FileName, `unknown field "colour"`}},
		"unknown nested field":  {editJSON("config.colour", "red"), []string{delta.FileName, `unknown field "colour"`}},
		"entries in the JSON":   {editJSON("selection.entries", map[string]any{"norm.bias": []int{1}}), []string{delta.FileName, "entries", delta.TensorsName}},
		"method":                {editJSON("method", ""), []string{"method is empty"}},
		"class count":           {editJSON("classes", []string{"a", "b"}), []string{"classes has 2 names", "3 of config.num_classes"}},
		"head rows":             {editTensors(floats("head.bias", []int{2}, 1, 2)), []string{`"head.bias"`, "[2]", "expected shape [3]"}},
		"missing tensor":        {editTensors(checkpoint.Entry{Name: "blocks.0.attn.q.lora_A"}), []string{`"blocks.0.attn.q.lora_A"`, "[2 16]", "missing", "fetch it again"}},
		"missing indices":       {editTensors(checkpoint.Entry{Name: "norm.bias.sparse_indices"}), []string{`"norm.bias.sparse_values"`, "not a tuned tensor"}},
		"missing values":        {editTensors(checkpoint.Entry{Name: "norm.bias.sparse_values"}), []string{`"norm.bias.sparse_values"`, "missing"}},
		"unknown tensor":        {editTensors(floats("blocks.9.attn.q.lora_A", []int{1}, 1)), []string{`"blocks.9.attn.q.lora_A"`, "remove it"}},
		"NaN":                   {editTensors(floats("norm.bias.sparse_values", []int{2}, 1, nan)), []string{`"norm.bias.sparse_values"`, "NaN at position 1", "tune again"}},
		"infinity":              {editTensors(floats("norm.bias.sparse_values", []int{2}, inf, 1)), []string{`"norm.bias.sparse_values"`, "Inf at position 0"}},
		"shape":                 {editTensors(floats("blocks.1.mlp.fc2.bias", []int{1, 16}, make([]float32, 16)...)), []string{`"blocks.1.mlp.fc2.bias"`, "[1 16]", "expected shape [16]"}},
		"dtype":                 {editTensors(checkpoint.Entry{Name: "head.bias", DType: checkpoint.F16, Shape: []int{3}, Data: []float32{1, 2, 3}}), []string{`"head.bias"`, "F16", "expected F32"}},
		"indices out of range":  {editTensors(ints("norm.bias.sparse_indices", []int{2}, 0, 16)), []string{"norm.bias", "16", "below 16"}},
		"indices descend":       {editTensors(ints("norm.bias.sparse_indices", []int{2}, 1, 0)), []string{"norm.bias", "ascending"}},
		"indices negative":      {editTensors(ints("norm.bias.sparse_indices", []int{2}, -1, 0)), []string{"norm.bias", "-1"}},
		"indices as a matrix":   {editTensors(ints("norm.bias.sparse_indices", []int{2, 1}, 0, 1)), []string{`"norm.bias.sparse_indices"`, "[2 1]", "one dimension"}},
		"indices as floats":     {editTensors(floats("norm.bias.sparse_indices", []int{2}, 0, 1)), []string{`"norm.bias.sparse_indices"`, "I32"}},
		"no indices":            {editTensors(ints("norm.weight.sparse_indices", []int{0})), []string{`"norm.weight"`, "leave the tensor out"}},
		"indices of the head":   {editTensors(ints("head.weight.sparse_indices", []int{1}, 0)), []string{"head.weight", "never listed"}},
		"indices of no tensor":  {editTensors(ints("x.sparse_indices", []int{1}, 0)), []string{"no tensor x"}},
		"module on the head":    {editJSON("selection.structured", []string{"head.weight"}), []string{"head.weight", "never listed"}},
		"module unknown":        {editJSON("selection.module", "magic"), []string{`"magic"`, "lora"}},
		"rank":                  {editJSON("selection.rank", 3), []string{`"blocks.0.attn.q.lora_A"`, "expected shape [3 16]"}},
		"rank out of bounds":    {editJSON("selection.rank", 1<<40), []string{"selection.rank", "65536"}},
		"depth out of bounds":   {editJSON("config.depth", 1<<40), []string{"depth 1099511627776", "1024"}},
		"width out of bounds":   {editJSON("config.embed_dim", 1<<40), []string{"embedding width 1099511627776", "65536"}},
		"MLP out of bounds":     {editJSON("config.hidden_dim", 1<<40), []string{"MLP width 1099511627776", "65536"}},
		"image out of bounds":   {editJSON("config.image_size", 1<<40), []string{"transform", "4096"}},
		"classes out of bounds": {editJSON("config.num_classes", 1<<40), []string{"classes has 3 names"}},
		"heads":                 {editJSON("config.num_heads", 3), []string{"config", "3 attention heads"}},
		"architecture":          {editJSON("config.architecture", "mixer"), []string{"config", `"mixer"`}},
		"std":                   {editJSON("preprocessing.std", []float64{1, 0, 1}), []string{"preprocessing", "std", "[1 0 1]"}},
		"interpolation":         {editJSON("preprocessing.interpolation", "nearest"), []string{"preprocessing.interpolation", `"nearest"`, `"bicubic"`}},
		"no transform":          {editJSON("transform", map[string]any{}), []string{"transform.resize", `"direct"`}},
		"transform":             {editJSON("transform.resize_to", 8), []string{"transform", "8", "16"}},
		"fingerprint":           {editJSON("backbone.fingerprint", "beef"), []string{"backbone.fingerprint", `"beef"`, "64"}},
		"parameters":            {editJSON("backbone.parameters", 1), []string{"backbone.parameters is 1"}},
		"file with a folder":    {editJSON("backbone.file", "../../x.safetensors"), []string{"backbone.file", "without a folder"}},
		"path of another file":  {editJSON("backbone.path", "../x.safetensors"), []string{"backbone.path", "x.safetensors", "backbone.file"}},
		"path that is a number": {editJSON("backbone.path", 1), []string{"backbone.path"}},
		"path with a newline":   {editJSON("backbone.path", "../a\nb"), []string{"backbone.path", "control"}},
		"path of a share":       {editJSON("backbone.path", "//server/share/x"), []string{"backbone.path", "this machine"}},
		"path of a Windows one": {editJSON("backbone.path", `\\server\share\x`), []string{"backbone.path", "this machine"}},
		"path too long":         {editJSON("backbone.path", strings.Repeat("a/", 3000)), []string{"backbone.path has 6000 bytes"}},
		"file of no reference":  {editJSON("backbone.file", "hf:tests/vit:../../x.safetensors"), []string{"backbone.file", "without a folder"}},
	} {
		t.Run(name, func(t *testing.T) {
			dir := saved(t, d)
			if _, err := delta.Load(dir); err != nil {
				t.Fatal(err) // before the damage
			}
			c.damage(t, dir)
			_, err := delta.Load(dir)
			if err == nil {
				t.Fatal("loaded without an error")
			}
			for _, want := range append(c.want, dir) {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("error %q does not say %q", err, want)
				}
			}
			if strings.Contains(err.Error(), "%!") {
				t.Errorf("error %q is badly formatted", err)
			}
		})
	}
}

func TestLoadPaths(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, "other.json", nil)
	if _, err := delta.Load(filepath.Join(dir, "nowhere")); !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), "finished run") {
		t.Errorf("no such folder: %v", err)
	}
	if _, err := delta.Load(filepath.Join(dir, "other.json")); err == nil || !strings.Contains(err.Error(), "neither a folder nor called spt_delta.json") {
		t.Errorf("another file: %v", err)
	}
	if _, err := delta.Load(dir); err == nil || !strings.Contains(err.Error(), "there is no spt_delta.json") {
		t.Errorf("another folder: %v", err)
	}
}

// TestSaveRefuses checks that Save writes nothing if Load would refuse the delta.
func TestSaveRefuses(t *testing.T) {
	m := tiny(tinyConfig, 1)
	for name, c := range map[string]struct {
		damage func(*delta.Delta)
		want   string
	}{
		"class count":    {func(d *delta.Delta) { d.Classes = nil }, "classes has 0 names"},
		"missing tensor": {func(d *delta.Delta) { delete(d.Tuned, "head.bias") }, `"head.bias" of shape [3] is missing`},
		"data":           {func(d *delta.Delta) { d.Tuned["head.bias"] = checkpoint.Tensor{Shape: []int{3}} }, "0 values"},
		"metric":         {func(d *delta.Delta) { d.Metrics["loss"] = math.NaN() }, `"loss" is NaN`},
		"entries":        {func(d *delta.Delta) { d.Selection.Entries = map[string][]int32{"norm.bias": {}} }, `"norm.bias"`},
	} {
		t.Run(name, func(t *testing.T) {
			d := result(t, m, "lora", selections()["lora"])
			c.damage(d)
			dir := filepath.Join(t.TempDir(), "run")
			err := d.Save(dir)
			if err == nil || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), dir) {
				t.Errorf("error %v, expected %q and the folder", err, c.want)
			}
			if _, err := os.Stat(dir); err == nil {
				t.Error("something was written")
			}
		})
	}
}

func TestImageTransform(t *testing.T) {
	d := result(t, tiny(tinyConfig, 1), "linear", peft.Selection{})
	if got, want := d.ImageTransform(), (dataset.Transform{Size: 16, Resize: "crop", ResizeTo: 18}); got != want {
		t.Errorf("got %+v, expected %+v", got, want)
	}
}

// FuzzLoad gives Load any JSON file together with a valid safetensors file. A delta that Load
// accepts must stay the same when it is saved and loaded again.
func FuzzLoad(f *testing.F) {
	m := tiny(tinyConfig, 1)
	d := result(f, m, "spt-lora", selections()["spt-lora"])
	d.Plan = &delta.PlanSummary{Budget: 400, Alpha: 10, Beta: 5}
	dir := saved(f, d)
	text := read(f, dir, delta.FileName)
	f.Add([]byte(text))
	f.Add([]byte(strings.Replace(text, `"depth": 2`, `"depth": 1024`, 1)))
	f.Add([]byte(strings.Replace(text, `"rank": 2`, `"rank": 65536`, 1)))
	for _, add := range []string{`"ssf":true`, `"prompts":{"tokens":65536,"deep":true}`, `"adaptformer":{"width":3,"scale":0.1}`, `"mlp_head":64`, `"branch_scales":true`, `"post_adapter":{"width":3}`} {
		f.Add([]byte(strings.Replace(text, `"selection": {`, `"selection": {`+add+",", 1)))
	}
	f.Add([]byte(`{"kind":"delta","version":1}`))
	f.Add([]byte(`{"kind":"delta","version":1,"selection":{"entries":{"a":[1]}}}`))
	again := filepath.Join(f.TempDir(), "again")
	f.Fuzz(func(t *testing.T, text []byte) {
		write(t, dir, delta.FileName, text)
		d, err := delta.Load(dir)
		if err != nil {
			return
		}
		if err := d.Save(again); err != nil {
			t.Fatal(err)
		}
		got, err := delta.Load(again)
		if err != nil {
			t.Fatal(err)
		}
		// Compare the JSON text, because JSON does not distinguish nil from empty lists.
		a, err := json.Marshal(d)
		if err != nil {
			t.Fatal(err)
		}
		b, err := json.Marshal(got)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(a, b) || !reflect.DeepEqual(got.Tuned, d.Tuned) {
			t.Errorf("loaded %s, then %s", a, b)
		}
	})
}
