package backbone_test

import (
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/sptune/spt/backbone"
	"github.com/sptune/spt/checkpoint"
	"github.com/sptune/spt/internal/golden"
)

var small = backbone.Config{ImageSize: 16, NumClasses: 3, NumHeads: 2, LayerNormEps: 1e-5,
	Form: backbone.ViT{PatchSize: 4, EmbedDim: 8, Depth: 2, HiddenDim: 16}}

// weights returns deterministic weights for a configuration.
func weights(c backbone.Config) checkpoint.StateDict {
	sd := checkpoint.StateDict{}
	for k, p := range c.Params() {
		w := checkpoint.NewTensor(p.Shape...)
		for i := range w.Data {
			w.Data[i] = float32((i*7+k*13)%29)/29 - 0.5
		}
		sd[p.Name] = w
	}
	return sd
}

// save writes a checkpoint with timm's names, without the tensors named in drop, and returns its
// path.
func save(t testing.TB, sd checkpoint.StateDict, metadata map[string]string, drop ...string) string {
	t.Helper()
	sd = maps.Clone(sd)
	for _, name := range drop {
		delete(sd, name)
	}
	var entries []checkpoint.Entry
	for name, w := range sd.Fused() {
		entries = append(entries, checkpoint.Entry{Name: name, DType: "F32", Shape: w.Shape, Data: w.Data})
	}
	path := filepath.Join(t.TempDir(), "model.safetensors")
	if err := checkpoint.Save(path, entries, metadata); err != nil {
		t.Fatal(err)
	}
	return path
}

// TestRoundTrip checks that Load reads what Save writes without any option.
func TestRoundTrip(t *testing.T) {
	m := backbone.NewModel(small, backbone.Preprocessing{Mean: [3]float32{.1, .2, .3}, Std: [3]float32{.4, .5, .6}, Interpolation: "bicubic", Source: "test"}, weights(small))
	path := filepath.Join(t.TempDir(), "model.safetensors")
	if err := m.Save(path, checkpoint.F32, nil); err != nil {
		t.Fatal(err)
	}
	got, report, err := backbone.Load(path, backbone.LoadOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(got.Config, small) || got.Preprocessing != m.Preprocessing || got.Fingerprint() != m.Fingerprint() {
		t.Errorf("read back %+v %+v", got.Config, got.Preprocessing)
	}
	if len(report.Matched) != len(small.Params()) || len(report.Unused) != 0 {
		t.Errorf("report %+v", report)
	}
}

// TestNewHeadAndSize checks that a new head leaves the head of the checkpoint unused, and that
// another image size resizes only the position embedding.
func TestNewHeadAndSize(t *testing.T) {
	sd := weights(small)
	path := save(t, sd, nil)
	m, report, err := backbone.Load(path, backbone.LoadOptions{NumClasses: 7, ImageSize: 24, NumHeads: 2})
	if err != nil {
		t.Fatal(err)
	}
	if m.Config.NumClasses != 7 || m.Config.ImageSize != 24 || m.Weights["pos_embed"].Shape[1] != 1+36 {
		t.Errorf("config %+v, pos_embed %v", m.Config, m.Weights["pos_embed"].Shape)
	}
	if strings.Join(report.Unused, " ") != "head.bias head.weight" {
		t.Errorf("unused %v", report.Unused)
	}
	if m.Weights["pos_embed"].Data[3] != sd["pos_embed"].Data[3] {
		t.Error("the class token's position changed")
	}
	if m.Config.LayerNormEps != 1e-6 {
		t.Errorf("eps %g, expected 1e-6 as in timm", m.Config.LayerNormEps)
	}
}

// TestLoadErrors checks that errors name the file and the tensor and say what to do.
func TestLoadErrors(t *testing.T) {
	sd := weights(small)
	wrong := maps.Clone(sd)
	wrong["blocks.1.mlp.fc2.weight"] = checkpoint.NewTensor(8, 15)
	odd := maps.Clone(sd)
	odd["pos_embed"] = checkpoint.NewTensor(1, 12, 8)
	for _, c := range []struct {
		name string
		path string
		o    backbone.LoadOptions
		want []string
	}{
		{"heads unknown", save(t, sd, nil), backbone.LoadOptions{}, []string{"number of attention heads is unknown", "give the number of heads"}},
		{"heads do not divide", save(t, sd, nil), backbone.LoadOptions{NumHeads: 3}, []string{"divided into 3 attention heads"}},
		{"tensor missing", save(t, sd, nil, "blocks.1.norm2.bias"), backbone.LoadOptions{NumHeads: 2}, []string{"blocks.1.norm2.bias"}},
		{"wrong shape", save(t, wrong, nil), backbone.LoadOptions{NumHeads: 2}, []string{"blocks.1.mlp.fc2.weight", "[8 15]", "[8 16]"}},
		{"no ViT", save(t, sd, nil, "patch_embed.proj.weight"), backbone.LoadOptions{NumHeads: 2}, []string{"patch_embed.proj.weight", "which every vit has"}},
		{"no head", save(t, sd, nil, "head.weight", "head.bias"), backbone.LoadOptions{NumHeads: 2}, []string{"no head", "number of classes"}},
		{"odd grid", save(t, odd, nil), backbone.LoadOptions{NumHeads: 2}, []string{"pos_embed", "square grid"}},
		{"image size", save(t, sd, nil), backbone.LoadOptions{NumHeads: 2, ImageSize: 17}, []string{"image size 17", "patch size 4"}},
		{"metadata of another version", save(t, sd, map[string]string{"spt_config": "{}", "version": "7"}), backbone.LoadOptions{}, []string{"version \"7\"", "expected \"1\""}},
		{"unknown architecture", save(t, sd, map[string]string{"spt_config": `{"architecture":"eva"}`}), backbone.LoadOptions{}, []string{"eva", "convnext, mixer, swin, vit"}},
		{"unknown key", save(t, sd, map[string]string{"spt_config": `{"architecture":"vit","depths":[1]}`}), backbone.LoadOptions{}, []string{"depths", "vit"}},
		{"other architecture", save(t, sd, map[string]string{"spt_config": `{"architecture":"swin"}`}), backbone.LoadOptions{}, []string{"describe a swin", "those of a vit"}},
		{"broken metadata", save(t, sd, map[string]string{"spt_config": "{"}), backbone.LoadOptions{}, []string{"spt_config"}},
	} {
		_, _, err := backbone.Load(c.path, c.o)
		if err == nil {
			t.Errorf("%s: accepted", c.name)
			continue
		}
		for _, w := range append(c.want, c.path) {
			if !strings.Contains(err.Error(), w) {
				t.Errorf("%s: %q does not name %q", c.name, err, w)
			}
		}
	}
}

// TestPreprocessing checks that the files of timm and of Hugging Face beside a checkpoint are read.
func TestPreprocessing(t *testing.T) {
	for name, c := range map[string]struct {
		file, text string
		want       [3]float32
	}{
		"timm":     {"config.json", `{"architecture":"vit","pretrained_cfg":{"mean":[0.1,0.2,0.3],"std":[1,1,1]}}`, [3]float32{0.1, 0.2, 0.3}},
		"old timm": {"config.json", `{"mean":[0.4,0.2,0.3],"std":[1,1,1]}`, [3]float32{0.4, 0.2, 0.3}},
		"HF":       {"preprocessor_config.json", `{"image_mean":[0.7,0.2,0.3],"image_std":[1,1,1]}`, [3]float32{0.7, 0.2, 0.3}},
		"nothing":  {"README", ``, [3]float32{0.5, 0.5, 0.5}},
	} {
		path := save(t, weights(small), nil)
		if err := os.WriteFile(filepath.Join(filepath.Dir(path), c.file), []byte(c.text), 0o666); err != nil {
			t.Fatal(err)
		}
		m, _, err := backbone.Load(path, backbone.LoadOptions{NumHeads: 2})
		if err != nil {
			t.Errorf("%s: %v", name, err)
		} else if m.Preprocessing.Mean != c.want || m.Preprocessing.Source == "" {
			t.Errorf("%s: %+v", name, m.Preprocessing)
		}
	}
}

// TestRealCheckpoints reads two real ViTs whose preprocessing is in their metadata.
func TestRealCheckpoints(t *testing.T) {
	for file, mean := range map[string]float32{"vit_tiny_patch16_224.augreg_in21k_ft_in1k.safetensors": 0.5, "deit_tiny_patch16_224.f16.safetensors": 0.485} {
		m, report, err := backbone.Load(golden.Beside(t, "models", file), backbone.LoadOptions{NumClasses: 10})
		if err != nil {
			t.Fatal(err)
		}
		if m.Preprocessing.Mean[0] != mean || !strings.Contains(m.Preprocessing.Source, "metadata") {
			t.Errorf("%s: %+v", file, m.Preprocessing)
		}
		if c, v := m.Config, viT(m); v.EmbedDim != 192 || v.Depth != 12 || c.NumHeads != 3 || v.PatchSize != 16 || c.ImageSize != 224 || len(report.Missing) != 0 {
			t.Errorf("%s: %+v", file, c)
		}
		if n := m.Config.Size(); n != 5_524_416 { // 5,717,416 in timm, minus 193,000 of the head
			t.Errorf("%s: %d parameters", file, n)
		}
	}
}
