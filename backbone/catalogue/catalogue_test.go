package catalogue

import (
	"encoding/json"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/sptune/spt/backbone"
)

// facts holds what timm says of a backbone. testdata/facts.py writes it.
type facts struct {
	Licence    string           `json:"licence"`
	InputSize  int              `json:"input_size"`
	Top1       *float64         `json:"top1"`
	Parameters int              `json:"parameters"`
	Tensors    map[string][]int `json:"tensors"`
	Config     json.RawMessage  `json:"config"`
}

func readFacts(t *testing.T) map[string]facts {
	data, err := os.ReadFile(filepath.Join("testdata", "facts.json"))
	if err != nil {
		t.Fatal(err)
	}
	var all map[string]facts
	if err := json.Unmarshal(data, &all); err != nil {
		t.Fatal(err)
	}
	return all
}

// TestFacts compares the table with what timm says.
func TestFacts(t *testing.T) {
	all := readFacts(t)
	if len(all) != len(All()) {
		t.Errorf("testdata/facts.json has %d backbones, the table has %d; run testdata/facts.py again", len(all), len(All()))
	}
	for _, b := range All() {
		want, ok := all[b.Timm]
		if !ok {
			t.Errorf("testdata/facts.json does not have %s; run testdata/facts.py again", b.Timm)
			continue
		}
		top1 := 0.0
		if want.Top1 != nil {
			top1 = *want.Top1
		}
		if strings.ToLower(b.Licence) != want.Licence || b.Config.ImageSize != want.InputSize || b.Top1 != top1 || b.Parameters() != want.Parameters {
			t.Errorf("%s: licence %s, %d px, accuracy %g, %d parameters; timm says %s, %d px, %g, %d", b.Name, b.Licence, b.Config.ImageSize, b.Top1, b.Parameters(),
				want.Licence, want.InputSize, top1, want.Parameters)
		}
		if b.Pretraining == SelfSupervised && b.Top1 != 0 {
			t.Errorf("%s is self-supervised and has an accuracy", b.Name)
		}
	}
}

// TestNames checks the rule for short names: the parts of a short name are parts of timm's name, in
// the same order.
func TestNames(t *testing.T) {
	seen := map[string]bool{}
	for _, b := range All() {
		parts := regexp.MustCompile(`[_.]`).Split(b.Timm, -1)
		at := 0
		for part := range strings.SplitSeq(b.Name, "_") {
			i := slices.Index(parts[at:], part)
			if i < 0 {
				t.Errorf("%s is not a short form of %s", b.Name, b.Timm)
				break
			}
			at += i + 1
		}
		if seen[b.Name] || seen[b.Timm] || !slices.Contains(Names(), b.Name) {
			t.Errorf("%s is listed twice, or Names does not have it", b.Name)
		}
		seen[b.Name], seen[b.Timm] = true, true
		for _, name := range []string{b.Name, b.Timm} {
			if found, ok := Find(name); !ok || found.Timm != b.Timm {
				t.Errorf("Find(%q) = %s, %v", name, found.Timm, ok)
			}
		}
	}
	for _, name := range []string{"", "resnet50", "vit", "timm/" + all[0].Timm, "VIT_TINY"} {
		if b, ok := Find(name); ok {
			t.Errorf("Find(%q) = %s, want none", name, b.Timm)
		}
	}
}

// TestClaims checks the superlatives of the table.
func TestClaims(t *testing.T) {
	for _, b := range All() {
		if best, _ := Find("vit_base_clip"); b.Top1 > best.Top1 {
			t.Errorf("%s is more accurate than %s", b.Name, best.Name)
		}
		if best, _ := Find("deit3_small"); strings.Contains(b.Timm, "t_small_") && b.Top1 > best.Top1 {
			t.Errorf("%s is more accurate than %s", b.Name, best.Name)
		}
	}
}

// TestLoad writes a checkpoint with the names and shapes of timm's tensors for each backbone, and
// timm's config.json beside it. It checks that backbone.Load recognises the backbone, uses every
// tensor, and finds the configuration in the table. To be quick, the checkpoint has one block in
// each stage; TestFacts checks the number of all parameters.
func TestLoad(t *testing.T) {
	all := readFacts(t)
	for _, b := range All() {
		t.Run(b.Name, func(t *testing.T) {
			path, want := writeShallow(t, all[b.Timm]), shallow(b.Config)
			m, report, err := backbone.Load(path, backbone.LoadOptions{NumClasses: want.NumClasses})
			if err != nil {
				t.Fatal(err)
			}
			if !reflect.DeepEqual(m.Config, want) {
				t.Errorf("the configuration is %+v, the table has %+v", m.Config, want)
			}
			if m.HeadsAssumed || len(report.Unused) > 0 || len(report.Notes) > 0 {
				t.Errorf("heads assumed: %v; unused tensors: %q; notes: %q", m.HeadsAssumed, report.Unused, report.Notes)
			}
		})
	}
}

// shallow returns a configuration with one block in each stage.
func shallow(c backbone.Config) backbone.Config {
	switch form := c.Form.(type) {
	case backbone.ViT:
		form.Depth = 1
		c.Form = form
	case backbone.Swin:
		form.Depths = slices.Repeat([]int{1}, len(form.Depths))
		c.Form = form
	case backbone.ConvNeXt:
		form.Depths = slices.Repeat([]int{1}, len(form.Depths))
		c.Form = form
	}
	return c
}

// writeShallow writes a checkpoint of zeros in a file without data blocks, where the file system
// has such files.
func writeShallow(t *testing.T, f facts) string {
	type tensor struct {
		DType   string `json:"dtype"`
		Shape   []int  `json:"shape"`
		Offsets [2]int `json:"data_offsets"`
	}
	header, end := map[string]tensor{}, 0
	for _, pattern := range slices.Sorted(maps.Keys(f.Tensors)) {
		shape, size := f.Tensors[pattern], 2
		for _, d := range shape {
			size *= d
		}
		header[strings.Replace(pattern, "#", "0", 1)] = tensor{"F16", shape, [2]int{end, end + size}}
		end += size
	}
	text, err := json.Marshal(header)
	if err != nil {
		t.Fatal(err)
	}
	length := len(text)
	start := []byte{byte(length), byte(length >> 8), byte(length >> 16), 0, 0, 0, 0, 0}
	folder := t.TempDir()
	path := filepath.Join(folder, "model.safetensors")
	if err := os.WriteFile(path, append(start, text...), 0o666); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(path, int64(len(start)+length+end)); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(folder, "config.json"), f.Config, 0o666); err != nil {
		t.Fatal(err)
	}
	return path
}
