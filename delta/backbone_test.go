package delta_test

import (
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/sptune/spt/backbone"
	"github.com/sptune/spt/checkpoint"
	"github.com/sptune/spt/delta"
	"github.com/sptune/spt/internal/golden"
	"github.com/sptune/spt/peft"
)

// checkpointOf writes the checkpoint of a backbone without a head, with the tensor names of timm,
// and returns its path.
func checkpointOf(t *testing.T, m *backbone.Model, name string) string {
	t.Helper()
	var entries []checkpoint.Entry
	for name, w := range m.Weights.Fused() {
		entries = append(entries, checkpoint.Entry{Name: name, DType: checkpoint.F32, Shape: w.Shape, Data: w.Data})
	}
	path := filepath.Join(t.TempDir(), name)
	if err := checkpoint.Save(path, entries, nil); err != nil {
		t.Fatal(err)
	}
	return path
}

// TestOpenBackbone opens a backbone whose file lacks the numbers of heads and classes, the epsilon
// and the image size. They must come from the delta.
func TestOpenBackbone(t *testing.T) {
	path := checkpointOf(t, tiny(tinyConfig, 1), "tiny.safetensors")
	mean, std := [3]float32{0.1, 0.2, 0.3}, [3]float32{0.4, 0.5, 0.6}
	m, _, err := backbone.Load(path, backbone.LoadOptions{NumClasses: 3, ImageSize: 32, NumHeads: 4, LayerNormEps: 1e-5, Mean: &mean, Std: &std})
	if err != nil {
		t.Fatal(err)
	}
	tuned := result(t, m, "lora", peft.Uniform(m.Config, "lora", 2))
	tuned.Transform = delta.Transform{Resize: "direct"}
	dir := saved(t, tuned)
	d, err := delta.Load(dir)
	if err != nil {
		t.Fatal(err)
	}
	if d.Backbone.File != "tiny.safetensors" {
		t.Errorf("the delta names the backbone %q", d.Backbone.File)
	}
	opened, err := d.OpenBackbone(path)
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(opened.Config, m.Config) || opened.Preprocessing != m.Preprocessing || opened.Fingerprint() != m.Fingerprint() {
		t.Errorf("opened %+v %+v, tuned on %+v %+v", opened.Config, opened.Preprocessing, m.Config, m.Preprocessing)
	}

	deeper := tinyConfig
	deeper.Form = backbone.ViT{PatchSize: 8, EmbedDim: 16, Depth: 3, HiddenDim: 32}
	for name, c := range map[string]struct {
		path string
		want []string
	}{
		"other weights":  {checkpointOf(t, tiny(tinyConfig, 2), "other.safetensors"), []string{"other.safetensors", "weights differ", d.Backbone.Fingerprint, `"tiny.safetensors"`}},
		"other depth":    {checkpointOf(t, tiny(deeper, 1), "deep.safetensors"), []string{"deep.safetensors", "depth is 3, expected 2", `"tiny.safetensors"`}},
		"no file":        {"nowhere.safetensors", []string{"nowhere.safetensors", `"tiny.safetensors"`}},
		"not a backbone": {filepath.Join(dir, delta.TensorsName), []string{delta.TensorsName, "unknown tensor names"}},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := d.OpenBackbone(c.path)
			refused(t, err, c.want...)
		})
	}
}

// refused checks that err is an error that contains every text in want.
func refused(t *testing.T, err error, want ...string) {
	t.Helper()
	if err == nil {
		t.Fatal("no error")
	}
	for _, w := range want {
		if !strings.Contains(err.Error(), w) {
			t.Errorf("error %q does not say %q", err, w)
		}
	}
}

func TestCheck(t *testing.T) {
	m := tiny(tinyConfig, 1)
	d := result(t, m, "spt-lora", selections()["spt-lora"])
	if err := d.Check(m); err != nil {
		t.Fatal(err)
	}
	with := func(change func(*backbone.Config, *backbone.Preprocessing)) *backbone.Model {
		c, p := m.Config, m.Preprocessing
		change(&c, &p)
		weights := tiny(c, 1).Weights
		return backbone.NewModel(c, p, weights)
	}
	for name, c := range map[string]struct {
		model *backbone.Model
		want  []string
	}{
		"weights":    {tiny(tinyConfig, 2), []string{"weights differ", d.Backbone.Fingerprint}},
		"image size": {with(func(c *backbone.Config, _ *backbone.Preprocessing) { c.ImageSize = 32 }), []string{"image_size is 32, expected 16", "same settings"}},
		"several": {with(func(c *backbone.Config, _ *backbone.Preprocessing) {
			c.Form = backbone.ViT{PatchSize: 8, EmbedDim: 24, Depth: 2, HiddenDim: 96}
		}),
			[]string{"embed_dim is 24, expected 16, hidden_dim is 96, expected 32"}},
		"classes": {with(func(c *backbone.Config, _ *backbone.Preprocessing) { c.NumClasses = 1000 }), []string{"num_classes is 1000, expected 3"}},
		"heads":   {with(func(c *backbone.Config, _ *backbone.Preprocessing) { c.NumHeads = 4 }), []string{"num_heads is 4, expected 2"}},
		"eps":     {with(func(c *backbone.Config, _ *backbone.Preprocessing) { c.LayerNormEps = 1e-5 }), []string{"layer_norm_eps is 1e-05, expected 1e-06"}},
		"mean":    {with(func(_ *backbone.Config, p *backbone.Preprocessing) { p.Mean[1] = 0.5 }), []string{"mean [0.485 0.456 0.406]", "[0.485 0.5 0.406]", "same settings"}},
	} {
		t.Run(name, func(t *testing.T) {
			refused(t, d.Check(c.model), c.want...)
			_, err := d.Merge(t.Context(), be(t), c.model, probes(1), 0)
			refused(t, err, c.want...)
		})
	}
}

// TestRealBackbone saves, loads and merges a delta of a pretrained ViT-Ti, compares logits on real
// images, and logs the size of the files.
func TestRealBackbone(t *testing.T) {
	path := golden.Beside(t, "models", "vit_tiny_patch16_224.augreg_in21k_ft_in1k.safetensors")
	images := golden.Open(t, golden.Path(t, "vit_tiny_real", "golden.npz")).Uint8("resized_uint8")
	m, _, err := backbone.Load(path, backbone.LoadOptions{NumClasses: 3})
	if err != nil {
		t.Fatal(err)
	}
	d := result(t, m, "lora", peft.Uniform(m.Config, "lora", 8))
	d.Transform = delta.Transform{Resize: "direct"}
	dir := saved(t, d)
	loaded, err := delta.Load(dir)
	if err != nil {
		t.Fatal(err)
	}
	opened, err := loaded.OpenBackbone(path)
	if err != nil {
		t.Fatal(err)
	}
	merged, err := loaded.Merge(t.Context(), be(t), opened, images[:2*224*224*3], 0)
	if err != nil {
		t.Fatal(err)
	}
	loaded.Config.ImageSize = 64
	_, err = loaded.OpenBackbone(path)
	refused(t, err, "weights differ") // the position embedding depends on the image size
	t.Logf("%s: %d bytes, %s: %d bytes; merging moved a logit by at most %.2g", delta.TensorsName, len(read(t, dir, delta.TensorsName)),
		delta.FileName, len(read(t, dir, delta.FileName)), merged.LargestDifference)
}
