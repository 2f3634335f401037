package backbone_test

import (
	"encoding/json"
	"maps"
	"math"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/sptune/spt/backbone"
	"github.com/sptune/spt/backend"
	"github.com/sptune/spt/checkpoint"
	"github.com/sptune/spt/internal/fixtures"
	"github.com/sptune/spt/internal/program"
	"github.com/sptune/spt/objective"
	"github.com/sptune/spt/peft"
	"github.com/sptune/spt/train"
)

// logitsOf returns the logits of a model with its own head for uint8 images.
func logitsOf(t *testing.T, m *backbone.Model, pixels []uint8) []float32 {
	t.Helper()
	be, _, err := backend.Open("cpu", 1)
	if err != nil {
		t.Fatal(err)
	}
	head, err := peft.New(m.Config, peft.Selection{})
	if err != nil {
		t.Fatal(err)
	}
	p, err := train.NewPredictor(be, m, objective.SingleLabel, head, m.Weights)
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	size := m.Config.ImageSize
	images, err := program.Tensor(be, pixels, len(pixels)/(3*size*size), size, size, 3)
	if err != nil {
		t.Fatal(err)
	}
	logits, err := p.Logits(t.Context(), images)
	if err != nil {
		t.Fatal(err)
	}
	return logits
}

// withoutHuggingFace lists parts of the names of the fixtures that Hugging Face transformers cannot
// compute, with a part of the reason.
var withoutHuggingFace = map[string]string{
	"vit-avg": "final norm after the mean", "vit-nocls": "no class token", "vit-prenorm": "norm before its first block", "vit-quickgelu": "norm before its first block",
	"vit-qknorm": "norms of queries and keys", "swin-padded-timm": "pads them before the shift", "convnext-mlp": "linear layer before its head",
}

// TestHuggingFace writes every fixture in the form of Hugging Face transformers and reads it again:
// the logits must not change. The tensors and the configuration of a file that transformers wrote
// must come out as they were.
func TestHuggingFace(t *testing.T) {
	written := 0
	for _, f := range fixtures.Backbones(t) {
		if !f.HasLogits {
			continue
		}
		t.Run(f.Name, func(t *testing.T) {
			o := backbone.LoadOptions{ImageSize: f.ImageSize}
			if f.Family == "vit" {
				o.NumHeads = f.NumHeads[0]
			}
			m, _, err := backbone.Load(f.Path(), o)
			if err != nil {
				t.Fatal(err)
			}
			h, err := m.Config.HuggingFace()
			for name, reason := range withoutHuggingFace {
				if strings.HasPrefix(f.Name, name) {
					if err == nil || !strings.Contains(err.Error(), reason) {
						t.Errorf("got error %v, want one with %q", err, reason)
					}
					return
				}
			}
			if err != nil {
				t.Fatal(err)
			}
			sd, err := h.Weights(m.Weights)
			if err != nil {
				t.Fatal(err)
			}
			if f.Naming == "hf4" || f.Naming == "hf" {
				holdHuggingFace(t, f, h, maps.Clone(sd))
			}
			dir := t.TempDir()
			var entries []checkpoint.Entry
			for name, x := range sd {
				entries = append(entries, checkpoint.Entry{Name: name, DType: checkpoint.F32, Shape: x.Shape, Data: x.Data})
			}
			path := filepath.Join(dir, "model.safetensors")
			if err := checkpoint.Save(path, entries, nil); err != nil {
				t.Fatal(err)
			}
			config, err := json.Marshal(h.Config)
			if err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(dir, "config.json"), config, 0o666); err != nil {
				t.Fatal(err)
			}
			read, report, err := backbone.Load(path, backbone.LoadOptions{Mean: &m.Preprocessing.Mean, Std: &m.Preprocessing.Std})
			if err != nil {
				t.Fatal(err)
			}
			if len(report.Notes)+len(report.Unknown) > 0 {
				t.Errorf("reading it again: notes %q, unknown %q", report.Notes, report.Unknown)
			}
			got, want := logitsOf(t, read, f.Pixels(t)), logitsOf(t, m, f.Pixels(t))
			if d := difference(got, want); !(d <= 1e-5) || d > 0 && !strings.HasPrefix(h.Class, "Dinov2") {
				t.Errorf("the logits change by %g", d)
			}
		})
		written++
	}
	if written < 30 {
		t.Errorf("only %d fixtures", written)
	}
}

// holdHuggingFace compares the tensors and the configuration with those of the fixture, which
// Hugging Face transformers wrote.
func holdHuggingFace(t *testing.T, f fixtures.Fixture, h *backbone.HuggingFace, sd checkpoint.StateDict) {
	t.Helper()
	file := f.Open(t)
	for _, info := range file.Tensors() {
		if strings.HasSuffix(info.Name, "relative_position_index") {
			continue // computed again
		}
		want, err := file.Float32(info.Name)
		if err != nil {
			t.Fatal(err)
		}
		got, ok := sd[info.Name]
		if !ok || !slices.Equal(got.Shape, want.Shape) {
			t.Errorf("%s: got shape %v, want %v", info.Name, got.Shape, want.Shape)
			continue
		}
		delete(sd, info.Name)
		folded := strings.Contains(f.Name, "dinov2reg") && (strings.HasSuffix(info.Name, "cls_token") || strings.HasSuffix(info.Name, "position_embeddings"))
		for i := range want.Data {
			// the mean of the two heads of DeiT is stored and separated again
			equal := got.Data[i] == want.Data[i] || strings.HasSuffix(info.Name, "_classifier.bias")
			if !equal && !folded && !strings.HasSuffix(info.Name, "mask_token") {
				t.Errorf("%s: value %d is %v, want %v", info.Name, i, got.Data[i], want.Data[i])
				break
			}
		}
	}
	for name := range sd {
		t.Errorf("transformers has no tensor %s", name)
	}
	text, err := os.ReadFile(filepath.Join(f.Dir, "config.json"))
	if err != nil {
		t.Fatal(err)
	}
	var want map[string]any
	if err := json.Unmarshal(text, &want); err != nil {
		t.Fatal(err)
	}
	own, err := json.Marshal(h.Config)
	if err != nil {
		t.Fatal(err)
	}
	var got map[string]any
	if err := json.Unmarshal(own, &got); err != nil {
		t.Fatal(err)
	}
	if architectures := want["architectures"]; !reflect.DeepEqual(architectures, []any{h.Class}) {
		t.Errorf("class %s, want %v", h.Class, architectures)
	}
	for key, value := range got {
		switch key {
		case "drop_path_rate", "encoder_stride", "layer_scale_init_value":
			continue // for training, other tasks and initial values
		}
		if a, ok := value.(float64); ok {
			if b, ok := want[key].(float64); ok && math.Abs(a-b) <= 1e-6*math.Abs(b) {
				continue
			}
		}
		if !reflect.DeepEqual(value, want[key]) {
			t.Errorf("config.json has %s %v, want %v", key, value, want[key])
		}
	}
}
