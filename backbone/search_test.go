package backbone_test

import (
	"errors"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/sptune/spt/backbone"
	"github.com/sptune/spt/checkpoint"
	"github.com/sptune/spt/internal/fixtures"
)

// containers is the folder of the files that internal/fixtures/containers.py writes.
const containers = "testdata/containers"

// loadKey loads the ViT of containers.py, or the model of another file with the same weights.
func loadKey(t *testing.T, path, key string) (*backbone.Model, checkpoint.Report) {
	t.Helper()
	m, report, err := backbone.Load(path, backbone.LoadOptions{NumHeads: 2, WeightsKey: key})
	if err != nil {
		t.Fatal(err)
	}
	return m, report
}

// sameWeights fails the test if the two models do not have the same weights, including the head.
func sameWeights(t *testing.T, got, want *backbone.Model) {
	t.Helper()
	for _, d := range differences(got.Weights, want.Weights) {
		t.Error(d)
	}
	if got.Fingerprint() != want.Fingerprint() {
		t.Errorf("fingerprint %s, want %s", got.Fingerprint(), want.Fingerprint())
	}
}

// TestContainers finds a model in the containers of training programs.
func TestContainers(t *testing.T) {
	want, _ := loadKey(t, filepath.Join(containers, "vit.safetensors"), "")
	for _, c := range []struct{ file, key, found string }{
		{"vit.safetensors", "", ""},
		{"vit.safetensors", ".", ""},
		{"deepspeed.pth", "", "module"},
		{"ijepa.pth", "", "target_encoder"},
		{"scalar_at_root.pth", "", "ema"},
		{"model_and_ema.pth", "ema", "ema"},
		{"student_and_teacher.pth", "", "teacher.backbone"},
		{"student_and_teacher.pth", "teacher", "teacher.backbone"},
		{"list.pth", "", "0.net"},
	} {
		t.Run(c.file+" "+c.key, func(t *testing.T) {
			m, report := loadKey(t, filepath.Join(containers, c.file), c.key)
			sameWeights(t, m, want)
			if m.WeightsKey != c.found || report.WeightsKey != c.found {
				t.Errorf("found under %q and %q, want %q", m.WeightsKey, report.WeightsKey, c.found)
			}
			if m.WeightsKey != "" { // the recorded key finds the same weights
				again, _ := loadKey(t, m.Path, m.WeightsKey)
				sameWeights(t, again, want)
			}
		})
	}
	// The other models of the files.
	for file, key := range map[string]string{"ijepa.pth": "encoder", "model_and_ema.pth": "model", "student_and_teacher.pth": "student.backbone"} {
		if m, _ := loadKey(t, filepath.Join(containers, file), key); m.WeightsKey != key || m.Fingerprint() == want.Fingerprint() {
			t.Errorf("%s: found %q instead of %q", file, m.WeightsKey, key)
		}
	}
}

// TestKeyErrors checks the errors for a key that is needed and for a key that is not in the file.
func TestKeyErrors(t *testing.T) {
	for _, c := range []struct {
		file, key string
		keys      []string
	}{
		{"model_and_ema.pth", "", []string{"ema", "model"}},
		{"model_and_ema.pth", "ema.module", []string{"ema", "model"}},
		{"vit.safetensors", "ema", []string{"."}},
		{"deepspeed.pth", ".", []string{"module"}},
	} {
		_, _, err := backbone.Load(filepath.Join(containers, c.file), backbone.LoadOptions{NumHeads: 2, WeightsKey: c.key})
		fault, ok := errors.AsType[*checkpoint.KeyError](err)
		if !ok || fault.Key != c.key || !slices.Equal(slices.Sorted(slices.Values(fault.Keys)), c.keys) {
			t.Errorf("%s, key %q: %v", c.file, c.key, err)
		}
	}
	npz := fixtures.Backbone(t, "vit-cls-google")
	if _, _, err := backbone.Load(npz.Path(), backbone.LoadOptions{WeightsKey: "ema"}); err == nil || !strings.Contains(err.Error(), "leave the key out") {
		t.Errorf("npz: %v", err)
	}
}

// TestPrefixes finds each architecture under the prefixes that programs add, in every naming.
func TestPrefixes(t *testing.T) {
	rename := func(sd checkpoint.StateDict, f func(string) string) checkpoint.StateDict {
		out := checkpoint.StateDict{}
		for name, x := range sd {
			out[f(name)] = x
		}
		return out
	}
	for _, name := range []string{"vit-cls-timm", "vit-cls-hf4bare", "vit-cls-hf5", "vit-dinov2-facebook", "vit-dinov2reg-hf4", "swin-even-timm", "swin-even-timmold", "swin-even-hf5", "convnext-v1-facebook", "convnext-v2-timm", "convnext-v1-hf", "convnext-mlp-timm"} {
		f := fixtures.Backbone(t, name)
		raw := checkpoint.StateDict{}
		file := f.Open(t)
		for _, info := range file.Tensors() {
			if info.DType != checkpoint.F32 {
				continue
			}
			var err error
			if raw[info.Name], err = file.Float32(info.Name); err != nil {
				t.Fatal(err)
			}
		}
		want, naming, err := raw.Canonical(backbone.AllNamings())
		if err != nil {
			t.Fatal(err)
		}
		prefix := func(p string) func(string) string { return func(name string) string { return p + name } }
		inside := func(part string) func(string) string {
			return func(name string) string {
				for _, block := range []string{"blocks.", "layer.", "layers.", "stages."} {
					if i := strings.LastIndex(name, block); i >= 0 {
						at := i + len(block) + strings.IndexByte(name[i+len(block):], '.') + 1
						return name[:at] + part + "." + name[at:]
					}
				}
				return name
			}
		}
		for form, f := range map[string]func(string) string{
			"net": prefix("net."), "encoder": prefix("encoder."), "OpenCLIP": prefix("visual.trunk."), "BLIP": prefix("visual_encoder."), "pretrained": prefix("pretrained."),
			"timm_model": prefix("timm_model."), "Sequential": prefix("0."), "nested": prefix("module.model.image_encoder.module."), "DDP": prefix("module."),
			"FSDP": prefix("_fsdp_wrapped_module."), "FSDP in blocks": inside("_fsdp_wrapped_module"), "checkpointing": inside("_checkpoint_wrapped_module"),
			"both": func(name string) string {
				return inside("_fsdp_wrapped_module._checkpoint_wrapped_module")("net._orig_mod." + name)
			},
		} {
			sd := rename(raw, f)
			sd["logit_scale"], sd["text.blocks.0.ln_1.weight"] = checkpoint.NewTensor(), checkpoint.NewTensor(3)
			got, found, err := sd.Canonical(backbone.AllNamings())
			if err != nil {
				t.Errorf("%s, %s: %v", name, form, err)
				continue
			}
			for _, d := range differences(got, want) {
				t.Errorf("%s, %s: %s", name, form, d)
			}
			if found.Source != naming.Source {
				t.Errorf("%s, %s: naming of %s, want %s", name, form, found.Source, naming.Source)
			}
			if len(found.Unused) != len(naming.Unused)+2 {
				t.Errorf("%s, %s: unused %q", name, form, found.Unused)
			}
		}
	}
}

// TestSeveralModels checks which of two models in one flat dict is taken.
func TestSeveralModels(t *testing.T) {
	m, _ := loadKey(t, filepath.Join(containers, "vit.safetensors"), "")
	for _, c := range []struct {
		prefixes []string // each model has its number as head.bias
		key      string   // of the model that is taken, or empty if a key is needed
	}{
		{[]string{"student.", "teacher."}, "teacher"},
		{[]string{"module.student.backbone.", "module.teacher.backbone."}, "module.teacher.backbone"},
		{[]string{"module.base_encoder.", "module.momentum_encoder."}, "module.base_encoder"},
		{[]string{"model.", "ema."}, ""},
		{[]string{"model.", "backbone."}, ""},
		{[]string{"", "ema."}, ""},
		{[]string{"model.", "model_ema."}, "model_ema"},
	} {
		sd := checkpoint.StateDict{}
		for i, p := range c.prefixes {
			own := maps.Clone(m.Weights)
			own["head.bias"] = checkpoint.Tensor{Shape: []int{1}, Data: []float32{float32(i)}}
			for name, x := range own {
				sd[p+name] = x
			}
		}
		got, found, err := sd.Canonical(backbone.AllNamings())
		if c.key == "" {
			if fault, ok := errors.AsType[*checkpoint.KeyError](err); !ok || len(fault.Keys) != 2 {
				t.Errorf("%q: %+v, %v", c.prefixes, found, err)
			}
			continue
		}
		if err != nil || found.Key != c.key {
			t.Errorf("%q: found %q, want %q, %v", c.prefixes, found.Key, c.key, err)
			continue
		}
		if p := c.prefixes[int(got["head.bias"].Data[0])]; strings.TrimSuffix(p, ".") != c.key {
			t.Errorf("%q: the weights are those of %q, want %q", c.prefixes, p, c.key)
		}
	}
}

// TestChunks reads the names of DINOv2 models whose blocks are in chunks.
func TestChunks(t *testing.T) {
	m, _ := loadKey(t, filepath.Join(containers, "vit.safetensors"), "")
	sd := checkpoint.StateDict{}
	for name, x := range m.Weights {
		for _, number := range []string{"0", "1"} {
			name = strings.Replace(name, "blocks."+number+".", "blocks."+number+"."+number+".", 1)
		}
		sd[name] = x
	}
	got, found, err := sd.Canonical(backbone.AllNamings())
	if err != nil || found.Source != "the DINOv2 authors" {
		t.Fatalf("naming of %s, %v", found.Source, err)
	}
	for _, d := range differences(got, m.Weights) {
		t.Error(d)
	}
}

// TestUnknown checks which unused tensors may change the output of a classifier.
func TestUnknown(t *testing.T) {
	for _, f := range fixtures.Backbones(t) {
		o := backbone.LoadOptions{ImageSize: f.ImageSize}
		if f.Family == "vit" {
			o.NumHeads = f.NumHeads[0]
		}
		_, report, err := backbone.Load(f.Path(), o)
		var want []string
		if f.Name == "vit-cls-google" { // the layer before the head of Google's oldest models
			want = []string{"pre_logits/bias", "pre_logits/kernel"}
		}
		if err == nil && !slices.Equal(report.Unknown, want) {
			t.Errorf("%s: unknown %q, want %q", f.Name, report.Unknown, want)
		}
	}
	base, _ := loadKey(t, filepath.Join(containers, "vit.safetensors"), "")
	with := maps.Clone(base.Weights)
	for _, name := range []string{"pre_logits.fc.weight", "head.0.weight", "fc_norm.weight", "decoder_blocks.0.norm1.weight", "mask_token", "relative_position_index"} {
		with[name] = checkpoint.NewTensor(8)
	}
	path := save(t, with, nil)
	_, report := loadKey(t, path, "")
	if want := []string{"fc_norm.weight", "head.0.weight", "pre_logits.fc.weight"}; !slices.Equal(report.Unknown, want) {
		t.Errorf("unknown %q, want %q", report.Unknown, want)
	}
	if _, report, err := backbone.Load(path, backbone.LoadOptions{NumHeads: 2, NumClasses: 4}); err != nil || report.Unknown != nil {
		t.Errorf("with a new head: unknown %q, %v", report.Unknown, err)
	}
}

// TestQuantised checks that the type of quantised tensors is named.
func TestQuantised(t *testing.T) {
	m, _ := loadKey(t, filepath.Join(containers, "vit.safetensors"), "")
	var entries []checkpoint.Entry
	for name, x := range m.Weights.Fused() {
		e := checkpoint.Entry{Name: name, DType: checkpoint.F32, Shape: x.Shape, Data: x.Data}
		if strings.HasSuffix(name, "qkv.weight") {
			e.DType, e.Data = checkpoint.U8, make([]uint8, x.Size())
		}
		entries = append(entries, e)
	}
	path := filepath.Join(t.TempDir(), "x.safetensors")
	if err := checkpoint.Save(path, entries, nil); err != nil {
		t.Fatal(err)
	}
	_, _, err := backbone.Load(path, backbone.LoadOptions{NumHeads: 2})
	fault, ok := errors.AsType[*checkpoint.FormatError](err)
	if !ok || fault.Tensor != "blocks.0.attn.qkv.weight" || !strings.Contains(err.Error(), "type U8") || !strings.Contains(err.Error(), "quantised") {
		t.Errorf("%v", err)
	}
}
