package delta_test

import (
	"encoding/json"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/sptune/spt/backbone"
	"github.com/sptune/spt/checkpoint"
	"github.com/sptune/spt/delta"
	"github.com/sptune/spt/internal/fixtures"
	"github.com/sptune/spt/internal/program"
)

// peftBackbone returns the backbone of the PEFT folder dir, with the classes of p, and its fixture.
func peftBackbone(t testing.TB, dir string, p *delta.PEFT) (*backbone.Model, fixtures.Fixture) {
	t.Helper()
	expected, err := checkpoint.Open(filepath.Join(dir, "expected.safetensors"))
	if err != nil {
		t.Fatal(err)
	}
	defer expected.Close()
	f := fixtures.Backbone(t, expected.Metadata()["backbone"])
	o := backbone.LoadOptions{ImageSize: f.ImageSize, NumClasses: p.NumClasses()}
	if f.Family == "vit" {
		o.NumHeads = f.NumHeads[0]
	}
	m, _, err := backbone.Load(f.Path(), o)
	if err != nil {
		t.Fatal(err)
	}
	m.Preprocessing.Mean, m.Preprocessing.Std = f.Preprocessing.Mean, f.Preprocessing.Std
	return m, f
}

// TestPEFT reads every folder that PEFT has written and compares the logits with those of PEFT.
func TestPEFT(t *testing.T) {
	folders, err := filepath.Glob("testdata/peft/*")
	if err != nil || len(folders) < 13 {
		t.Fatalf("found %q, %v", folders, err)
	}
	for _, dir := range folders {
		t.Run(filepath.Base(dir), func(t *testing.T) {
			p, err := delta.LoadPEFT(dir)
			if err != nil {
				t.Fatal(err)
			}
			m, f := peftBackbone(t, dir, p)
			d, err := p.Delta(m, delta.Transform{Resize: "direct"})
			if err != nil {
				t.Fatal(err)
			}
			expected, err := checkpoint.Open(filepath.Join(dir, "expected.safetensors"))
			if err != nil {
				t.Fatal(err)
			}
			defer expected.Close()
			want, err := expected.Float32("logits")
			if err != nil {
				t.Fatal(err)
			}
			x, err := program.Tensor(be(t), f.Pixels(t), 2, f.ImageSize, f.ImageSize, 3)
			if err != nil {
				t.Fatal(err)
			}
			defer program.Free(x)
			d, err = delta.Load(saved(t, d)) // as any delta
			if err != nil {
				t.Fatal(err)
			}
			tuned, err := predictor(be(t), d, m)
			if err != nil {
				t.Fatal(err)
			}
			defer tuned.Close()
			got, err := tuned.Logits(t.Context(), x)
			if err != nil {
				t.Fatal(err)
			}
			if difference := largestDifference(got, want.Data); !(difference <= 1e-4) {
				t.Errorf("logits differ from those of PEFT by up to %g, expected at most 1e-4", difference)
			}
			if _, err := d.Merge(t.Context(), be(t), m, f.Pixels(t), 1e-4); err != nil {
				t.Error(err)
			}
			if base := "fixture/" + f.Name; strings.HasPrefix(filepath.Base(dir), "transformers") != (p.Base == base) {
				t.Errorf("the base is %q", p.Base)
			}
		})
	}
}

// copyPEFT copies a PEFT folder. change changes the fields of its configuration.
func copyPEFT(t testing.TB, name string, change func(config map[string]any)) string {
	t.Helper()
	source, dir := filepath.Join("testdata", "peft", name), filepath.Join(t.TempDir(), "peft")
	if err := os.CopyFS(dir, os.DirFS(source)); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, delta.PEFTConfigName)
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	config := map[string]any{}
	if err := json.Unmarshal(text, &config); err != nil {
		t.Fatal(err)
	}
	change(config)
	if text, err = json.Marshal(config); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, text, 0o666); err != nil {
		t.Fatal(err)
	}
	return dir
}

// retensor changes the tensors of a PEFT folder.
func retensor(t testing.TB, dir string, change func(tensors map[string]checkpoint.Tensor)) {
	t.Helper()
	path := filepath.Join(dir, delta.PEFTTensorsName)
	f, err := checkpoint.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	tensors := map[string]checkpoint.Tensor{}
	for _, info := range f.Tensors() {
		if tensors[info.Name], err = f.Float32(info.Name); err != nil {
			t.Fatal(err)
		}
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	change(tensors)
	var entries []checkpoint.Entry
	for name, x := range tensors {
		entries = append(entries, checkpoint.Entry{Name: name, DType: checkpoint.F32, Shape: x.Shape, Data: x.Data})
	}
	if err := checkpoint.Save(path, entries, nil); err != nil {
		t.Fatal(err)
	}
}

// TestPEFTRefuses checks that options and tensors that spt cannot represent are refused.
func TestPEFTRefuses(t *testing.T) {
	set := func(key string, value any) func(map[string]any) {
		return func(c map[string]any) { c[key] = value }
	}
	for _, r := range []struct {
		change func(map[string]any)
		reason string
	}{
		{set("use_dora", true), `"use_dora" is true`},
		{set("peft_type", "IA3"), `"IA3"`},
		{set("trainable_token_indices", []int{1}), "trainable_token_indices"},
		{set("layer_replication", [][]int{{0, 1}}), "layer_replication"},
		{set("target_parameters", []string{"x"}), "target_parameters"},
		{set("an_option_of_the_future", 3), "an_option_of_the_future"},
		{set("init_lora_weights", "pissa"), "changes the weights of the backbone"},
		{set("bias", "some"), `"bias"`},
		{set("r", 5), "belong to two adapters"},
		{set("r", -1), `"r" is -1`},
		{set("rank_pattern", map[string]any{"(": 1}), "pattern"},
		{set("rank_pattern", []int{1}), "expected an object"},
		{set("modules_to_save", []string{"head", "norm"}), `module "norm"`},
		{set("lora_alpha", "x"), "lora_alpha"},
		{set("base_model_name_or_path", "//host/share"), "path on this machine"},
		{set("base_model_name_or_path", `\\host\share`), "path on this machine"},
	} {
		p, err := delta.LoadPEFT(copyPEFT(t, "timm-qkv", r.change))
		if err == nil {
			m, _ := peftBackbone(t, "testdata/peft/timm-qkv", p)
			_, err = p.Delta(m, delta.Transform{Resize: "direct"})
		}
		if err == nil || !strings.Contains(err.Error(), r.reason) {
			t.Errorf("got error %v, want one with %q", err, r.reason)
		}
	}
	const layer = "base_model.model.blocks.0.attn.qkv."
	move := func(from, to string) func(map[string]checkpoint.Tensor) {
		return func(x map[string]checkpoint.Tensor) { x[to] = x[from]; delete(x, from) }
	}
	for _, r := range []struct {
		change func(map[string]checkpoint.Tensor)
		reason string
	}{
		{func(x map[string]checkpoint.Tensor) { delete(x, layer+"lora_A.weight") }, "lora_A has shape []"},
		{func(x map[string]checkpoint.Tensor) { x[layer+"lora_magnitude_vector"] = checkpoint.NewTensor(36) }, "variant of LoRA"},
		{move(layer+"lora_A.weight", "blocks.0.lora_A.weight"), "does not begin with"},
		{func(x map[string]checkpoint.Tensor) { x[layer+"lora_A.weight"] = checkpoint.NewTensor(3, 11) }, "is for a weight of shape [12 11]"},
		{func(x map[string]checkpoint.Tensor) { x[layer+"lora_A.weight"] = checkpoint.NewTensor(2, 12) }, "expected the same rank"},
		{func(x map[string]checkpoint.Tensor) { x[layer+"lora_B.weight"] = checkpoint.NewTensor(35, 3) }, "split into q, k and v"},
		{func(x map[string]checkpoint.Tensor) { x[layer+"lora_B.bias"] = checkpoint.NewTensor(35) }, "a bias for each output"},
		{func(x map[string]checkpoint.Tensor) {
			x["base_model.model.blocks.7.norm1.weight"] = checkpoint.NewTensor(12)
		}, "no tensor"},
		{func(x map[string]checkpoint.Tensor) { x["base_model.model.transformer.h"] = checkpoint.NewTensor(12) }, "does not belong to a backbone"},
		{func(x map[string]checkpoint.Tensor) { x["base_model.model.head.weight"] = checkpoint.NewTensor(3, 24) }, "its shape is"},
		{func(x map[string]checkpoint.Tensor) {
			x["base_model.model.blocks.0.attn.qkv.weight"] = checkpoint.NewTensor(36, 12)
		}, "also saved whole"},
		{func(x map[string]checkpoint.Tensor) { delete(x, "base_model.model.head.bias") }, "head of the task"},
	} {
		dir := copyPEFT(t, "timm-qkv", func(map[string]any) {})
		retensor(t, dir, r.change)
		p, err := delta.LoadPEFT(dir)
		if err == nil {
			m, _ := peftBackbone(t, "testdata/peft/timm-qkv", p)
			_, err = p.Delta(m, delta.Transform{Resize: "direct"})
		}
		if err == nil || !strings.Contains(err.Error(), r.reason) {
			t.Errorf("got error %v, want one with %q", err, r.reason)
		}
	}
}

// TestPEFTSmallest reads the smallest useful configuration, whose rank and alpha are the defaults.
func TestPEFTSmallest(t *testing.T) {
	dir := copyPEFT(t, "timm-qkv", func(c map[string]any) {
		maps.DeleteFunc(c, func(key string, _ any) bool { return key != "peft_type" && key != "target_modules" })
	})
	retensor(t, dir, func(x map[string]checkpoint.Tensor) {
		for name := range x {
			switch {
			case strings.HasSuffix(name, "lora_A.weight"):
				x[name] = checkpoint.NewTensor(8, 12)
			case strings.HasSuffix(name, "lora_B.weight"):
				x[name] = checkpoint.NewTensor(36, 8)
			}
		}
	})
	p, err := delta.LoadPEFT(dir)
	if err != nil {
		t.Fatal(err)
	}
	m, _ := peftBackbone(t, dir, p)
	d, err := p.Delta(m, delta.Transform{Resize: "direct"})
	if err != nil {
		t.Fatal(err)
	}
	// every component is zero, so only the head remains
	if len(d.Selection.Structured) != 0 || d.Classes[2] != "2" {
		t.Errorf("got %+v with the classes %q", d.Selection, d.Classes)
	}
	if delta.IsPEFT(saved(t, d)) || !delta.IsPEFT(dir) || !delta.IsPEFT(filepath.Join(dir, delta.PEFTConfigName)) {
		t.Error("IsPEFT confuses a delta with a folder of PEFT")
	}
}

// FuzzPEFT gives LoadPEFT any configuration and any file of tensors. What it reads must become a
// delta or an error.
func FuzzPEFT(f *testing.F) {
	folders, err := filepath.Glob("testdata/peft/*")
	if err != nil {
		f.Fatal(err)
	}
	for _, dir := range folders {
		config, err := os.ReadFile(filepath.Join(dir, delta.PEFTConfigName))
		if err != nil {
			f.Fatal(err)
		}
		tensors, err := os.ReadFile(filepath.Join(dir, delta.PEFTTensorsName))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(config, tensors)
	}
	m, _, err := backbone.Load(fixtures.Backbone(f, "vit-cls-timm").Path(), backbone.LoadOptions{NumClasses: 3, ImageSize: 24, NumHeads: 2})
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, config, tensors []byte) {
		dir := t.TempDir()
		for name, data := range map[string][]byte{delta.PEFTConfigName: config, delta.PEFTTensorsName: tensors} {
			if err := os.WriteFile(filepath.Join(dir, name), data, 0o666); err != nil {
				t.Fatal(err)
			}
		}
		p, err := delta.LoadPEFT(dir)
		if err != nil {
			return
		}
		_, _ = p.Delta(m, delta.Transform{Resize: "direct"}) // it checks what it returns
	})
}
