package backbone_test

import (
	"cmp"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	. "github.com/gomlx/gomlx/core/graph"

	"github.com/sptune/spt/backbone"
	"github.com/sptune/spt/internal/fixtures"
)

// sideFilesFixture is the content of sidefiles.json, which internal/fixtures/sidefiles.py writes.
type sideFilesFixture struct {
	Processors []struct {
		Name   string
		File   json.RawMessage
		Logits []float32
	}
	Crops []struct {
		ImageSize  int             `json:"image_size"`
		Pretrained json.RawMessage `json:"pretrained_cfg"`
		ResizeTo   int             `json:"resize_to"`
		BothSides  bool            `json:"both_sides"`
	}
}

func readSideFilesFixture(t *testing.T) (f sideFilesFixture) {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(filepath.Dir(fixtures.Backbone(t, "vit-cls-hf5").Dir), "..", "sidefiles.json"))
	if err == nil {
		err = json.Unmarshal(data, &f)
	}
	if err != nil || len(f.Processors) == 0 || len(f.Crops) == 0 {
		t.Fatalf("reading sidefiles.json: %v", err)
	}
	return f
}

// TestProcessors compares logits with the logits of Transformers, whose image processor prepares
// the images by the same preprocessor_config.json.
func TestProcessors(t *testing.T) {
	f := fixtures.Backbone(t, "vit-cls-hf5")
	be, _ := backends(t)
	for _, c := range readSideFilesFixture(t).Processors {
		path := huggingFace(t, "vit-cls-hf5")
		writeBeside(t, path, "preprocessor_config.json", string(c.File))
		m, _, err := backbone.Load(path, backbone.LoadOptions{NumHeads: 2})
		if err != nil {
			t.Fatal(err)
		}
		f.Preprocessing.Mean, f.Preprocessing.Std = m.Preprocessing.Mean, m.Preprocessing.Std
		got := run(t, be, m, normalised(t, f), func(w backbone.Layers, images *Node) []*Node {
			return []*Node{m.Config.Classify(w, m.Features(w, images))}
		})[0]
		if diff := difference(got, c.Logits); !(diff <= 1e-4) {
			t.Errorf("%s: logits %v, expected %v; %+v", c.Name, got, c.Logits, m.Preprocessing)
		}
	}
}

// TestCrops compares the transforms of pretraining with the transforms of timm.
func TestCrops(t *testing.T) {
	for _, c := range readSideFilesFixture(t).Crops {
		config := small
		config.ImageSize = c.ImageSize
		v := small.Form.(backbone.ViT)
		v.PatchSize = c.ImageSize / 2
		config.Form = v
		path := beside(t, save(t, weights(config), nil), `{"pretrained_cfg":`+string(c.Pretrained)+`}`)
		m, _, err := backbone.Load(path, backbone.LoadOptions{NumHeads: 2})
		if err != nil {
			t.Fatal(err)
		}
		want := backbone.Resizing{Resize: "crop", ResizeTo: c.ResizeTo}
		if c.BothSides {
			if want.Resize = "direct-crop"; c.ResizeTo == c.ImageSize {
				want = backbone.Resizing{Resize: "direct"}
			}
		}
		if r := m.Resizing; r == nil || r.Resize != want.Resize || r.ResizeTo != want.ResizeTo {
			t.Errorf("%s: %+v, expected %+v", c.Pretrained, r, want)
		}
	}
}

// TestSideFiles checks for each file beside a checkpoint which of its fields are used, and that
// every field and file that is not used is noted once.
func TestSideFiles(t *testing.T) {
	const config, processor = "config.json", "preprocessor_config.json"
	// want holds the expected values. A zero field means the value without the file.
	type want struct {
		heads      int
		eps        float64
		size       int
		mean, std  float32 // of the first channel
		resizing   string  // Resize, ResizeTo and Filter; empty: not stated
		otherNotes []string
	}
	// The width is 128, so published models of this width have 2 heads.
	vit := backbone.Config{ImageSize: 32, NumClasses: 3, NumHeads: 2, LayerNormEps: 1e-6,
		Form: backbone.ViT{PatchSize: 8, EmbedDim: 128, Depth: 1, HiddenDim: 8}}
	vitPath := save(t, weights(vit), nil)
	qknorm := vit
	v := vit.Form.(backbone.ViT)
	v.QKNorm = true
	qknorm.Form = v
	normed := save(t, weights(qknorm), nil)
	swin, convnext := huggingFace(t, "swin-even-timm"), huggingFace(t, "convnext-v1-timm")
	without := map[string]want{
		vitPath:  {heads: 2, eps: 1e-6, size: 32, mean: 0.5, std: 0.5},
		normed:   {heads: 2, eps: 1e-6, size: 32, mean: 0.5, std: 0.5},
		swin:     {eps: 1e-5, size: 64, mean: 0.485, std: 0.229},
		convnext: {eps: 1e-6, size: 224, mean: 0.485, std: 0.229},
	}
	for _, c := range []struct {
		path, file, text string
		want             want
		note             string // "": no note
	}{
		// Files that cannot be read.
		{vitPath, config, ``, want{}, "config.json beside the checkpoint is not used: the file is empty"},
		{vitPath, config, " \n", want{}, "is empty"},
		{vitPath, config, `[{"num_attention_heads":4}]`, want{}, "found a list, expected an object"},
		{vitPath, config, `null`, want{}, "found null, expected an object"},
		{vitPath, config, `{"num_attention_heads":4,`, want{}, "unexpected end"},
		{vitPath, config, "{\n// four heads\n\"num_attention_heads\":4}", want{}, "line 2: broken JSON"},
		{vitPath, config, "\ufeff{\"num_attention_heads\":4}", want{heads: 4}, ""},
		{vitPath, config, `{"num_attention_heads":4,"drop":NaN,"text":"\"NaN","x":[-Infinity]}`, want{heads: 4}, ""},
		{vitPath, config, strings.Repeat(" ", 17<<20), want{}, "more than"},
		{vitPath, config, strings.Repeat("[", 100000), want{}, "broken JSON"},

		// Fields that cannot be used, beside fields that can.
		{vitPath, config, `{"input_size":224}`, want{}, "image size of 224 × 224 px is not used: the position embedding is for 32 × 32 px"},
		{vitPath, config, `{"input_size":32}`, want{}, ""},
		{vitPath, config, `{"input_size":[3,35,35]}`, want{}, "image size of 35 × 35 px is not used"},
		{vitPath, config, `{"input_size":[3,"a",32]}`, want{}, `"input_size" is not used: found [3,"a",32], expected the height and the width`},
		{vitPath, config, `{"image_size":{"height":32,"width":32}}`, want{}, ""},
		{vitPath, config, `{"image_size":1e300}`, want{}, `"image_size" is not used: found 1e300`},
		{vitPath, config, `{"pretrained_cfg":{"mean":[0.1,0.2,0.3],"std":0.25}}`, want{mean: 0.1, std: 0.25}, ""},
		{vitPath, config, `{"mean":"imagenet","num_attention_heads":4}`, want{heads: 4}, `"mean" is not used: found "imagenet", expected a number or a list of three numbers`},
		{vitPath, config, `{"pretrained_cfg":{"mean":"imagenet","std":[1,1,1]}}`, want{otherNotes: []string{`"pretrained_cfg.std" is not used: there is no usable "mean"`}}, `"pretrained_cfg.mean" is not used`},
		{vitPath, config, `{"mean":[0.1,0.1,NaN],"std":[1,1,1],"num_attention_heads":4}`, want{heads: 4, otherNotes: []string{`"std" is not used`}}, `"mean" is not used: found [0.1,0.1,"NaN"]`},
		{vitPath, config, `{"mean":[0.1,null,0.1],"std":null}`, want{}, `"mean" is not used`},
		{vitPath, config, `{"mean":[0.1,0.1,0.1],"std":[1,0,1]}`, want{otherNotes: []string{`"mean" is not used`}}, `"std" is not used: found [1,0,1]`},
		{vitPath, config, `{"pretrained_cfg":[],"num_attention_heads":4}`, want{heads: 4}, `"pretrained_cfg" is not used: found [], expected an object`},
		{vitPath, config, `{"num_attention_heads":"4"}`, want{}, `"num_attention_heads" is not used: found "4"`},
		{vitPath, config, `{"num_attention_heads":-4}`, want{}, `found -4, expected a whole number from 1 to`},
		{vitPath, config, `{"num_attention_heads":4.5}`, want{}, `found 4.5`},
		{vitPath, config, `{"layer_norm_eps":-1}`, want{}, `"layer_norm_eps" is not used: found -1`},
		{vitPath, config, `{"layer_norm_eps":1e-5}`, want{eps: 1e-5}, ""},
		{vitPath, config, `{"hidden_act":null,"global_pool":7}`, want{}, `"global_pool" is not used: found 7, expected a string`},
		{vitPath, config, `{"crop_pct":3,"interpolation":"bicubic"}`, want{resizing: "crop 36 bicubic"}, `"crop_pct" is not used: found 3`},

		// Fields that contradict the tensors, and files of other models.
		{vitPath, config, `{"num_attention_heads":3}`, want{}, "3 attention heads are not used: the width 128"},
		{normed, config, `{"num_attention_heads":4}`, want{}, "4 attention heads are not used: the norms of the queries are for 2 heads"},
		{vitPath, config, `{"hidden_size":768,"num_attention_heads":4,"layer_norm_eps":1e-12,"hidden_act":"relu","mean":0.1,"std":0.2}`, want{}, `"hidden_size" is 768, but the tensors have 128`},
		{vitPath, config, `{"num_features":64,"model_args":{"num_heads":4},"global_pool":"map"}`, want{}, `"num_features" is 64`},
		{vitPath, config, `{"model_type":"bert","hidden_size":128,"num_attention_heads":4,"layer_norm_eps":1e-12}`, want{}, `another kind of model: "model_type" is "bert"`},
		{vitPath, config, `{"model_type":"vit","hidden_size":128,"num_attention_heads":4,"layer_norm_eps":1e-12}`, want{heads: 4, eps: 1e-12}, ""},
		{vitPath, config, `{"architecture":"vit_x","num_features":128,"model_args":{"num_heads":[4,4],"embed_dim":[1,2]}}`, want{}, ""},
		{swin, config, `{"hidden_size":96,"layer_norm_eps":0.5}`, want{}, `"hidden_size" is 96, but the tensors have 16`},
		{swin, config, `{"image_size":62}`, want{}, "image size of 62 px is not used"},
		{swin, config, `{"image_size":128}`, want{size: 128}, ""},
		{convnext, config, `{"image_size":[56,56],"layer_norm_eps":1e-5}`, want{eps: 1e-5, size: 56}, ""},
		{convnext, config, `{"architecture":"test_convnext2"}`, want{eps: 1e-5}, ""},
		{convnext, config, `{"image_size":100000}`, want{}, "found 100000"},
		{convnext, config, `{"image_size":16}`, want{}, "image size of 16 px is not used"},
		{convnext, config, `{"input_size":[3,64,32]}`, want{}, "image size of 64 × 32 px is not used"},

		// Normalisation of Hugging Face. TestProcessors compares more files with Transformers.
		{vitPath, processor, `{"image_mean":[0.7,0.2,0.3],"image_std":[1,1,1]}`, want{mean: 0.7, std: 1}, ""},
		{vitPath, processor, `{"image_mean":[0.7,0.2],"image_std":[1,1,1]}`, want{otherNotes: []string{`"image_std" is not used`}}, `"image_mean" is not used: found [0.7,0.2]`},
		{vitPath, processor, `{"do_rescale":"no","rescale_factor":0}`, want{otherNotes: []string{`"rescale_factor" is not used: found 0`}}, `"do_rescale" is not used: found "no", expected true or false`},
		{vitPath, processor, `{"do_rescale":false,"image_mean":51,"image_std":102}`, want{mean: 0.2, std: 0.4}, ""},
		{vitPath, processor, `[]`, want{}, "preprocessor_config.json beside the checkpoint is not used: found a list"},

		// The resize of pretraining. TestCrops compares more files with timm.
		{vitPath, config, `{"pretrained_cfg":{"crop_pct":0.8,"crop_mode":"border","interpolation":"bilinear"}}`, want{resizing: " 40 bilinear"}, ""},
		{vitPath, processor, `{"size":224,"resample":2}`, want{resizing: "direct 0 bilinear"}, "the size of 224 × 224 px is not used"},
		{vitPath, processor, `{"size":{"height":32,"width":32},"resample":3}`, want{resizing: "direct 0 bicubic"}, ""},
		{vitPath, processor, `{"size":{"shortest_edge":256},"crop_size":{"height":224,"width":224},"do_center_crop":true}`, want{resizing: "crop 37 "}, ""},
		{vitPath, processor, `{"size":36,"crop_size":32,"do_center_crop":true,"resample":3}`, want{resizing: "crop 36 bicubic"}, ""},
		{vitPath, processor, `{"size":{"height":36,"width":36},"crop_size":32,"do_center_crop":true,"resample":3}`, want{resizing: "direct-crop 36 bicubic"}, ""},
		{vitPath, processor, `{"size":{"shortest_edge":32},"crop_pct":0.875,"resample":3}`, want{resizing: "crop 36 bicubic"}, ""},
		{vitPath, processor, `{"size":{"shortest_edge":384},"crop_pct":1.0,"resample":3}`, want{resizing: "direct 0 bicubic"}, ""},
		{vitPath, processor, `{"size":{"shortest_edge":256}}`, want{resizing: " 0 "}, ""},
		{vitPath, processor, `{"do_resize":false,"size":{"height":224,"width":224}}`, want{}, `"do_resize" is false`},
		{vitPath, processor, `{"resample":9,"size":32}`, want{resizing: "direct 0 "}, `"resample" is not used: found 9`},
	} {
		data, err := os.ReadFile(c.path)
		if err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(t.TempDir(), "model.safetensors")
		writeBeside(t, path, "model.safetensors", string(data))
		writeBeside(t, path, c.file, c.text)
		what := c.text[:min(len(c.text), 200)]
		m, report, err := backbone.Load(path, backbone.LoadOptions{})
		if err != nil {
			t.Errorf("%s: %v", what, err)
			continue
		}
		w, d := c.want, without[c.path]
		w.heads, w.eps, w.size = cmp.Or(w.heads, d.heads), cmp.Or(w.eps, d.eps), cmp.Or(w.size, d.size)
		w.mean, w.std = cmp.Or(w.mean, d.mean), cmp.Or(w.std, d.std)
		p := m.Preprocessing
		if m.Config.NumHeads != w.heads || m.Config.LayerNormEps != w.eps || m.Config.ImageSize != w.size || p.Mean[0] != w.mean || p.Std[0] != w.std || p.Source == "" {
			t.Errorf("%s: %+v %+v, expected %+v", what, m.Config, p, w)
		}
		resizing := ""
		if r := m.Resizing; r != nil {
			resizing = fmt.Sprintf("%s %d %s", r.Resize, r.ResizeTo, r.Filter)
		}
		if resizing != w.resizing {
			t.Errorf("%s: resizing %q, expected %q", what, resizing, w.resizing)
		}
		notes := w.otherNotes
		if c.note != "" {
			notes = append([]string{c.note}, notes...)
		}
		if len(report.Notes) != len(notes) {
			t.Errorf("%s: notes %q, expected %q", what, report.Notes, notes)
			continue
		}
		for i, n := range notes {
			if !strings.Contains(report.Notes[i], n) || !strings.Contains(report.Notes[i], c.file) {
				t.Errorf("%s: note %q, expected %q", what, report.Notes[i], n)
			}
		}
	}
}

// TestSideFilesRefused checks that a file beside a checkpoint that shows that the model is not
// supported is an error, and that flags override the files.
func TestSideFilesRefused(t *testing.T) {
	for text, wants := range map[string][]string{
		`{"model_args":{"img_size":[8,32]}}`:                       {"8 × 32 px", "2 × 8 patches", "only square images"},
		`{"pretrained_cfg":{"input_size":[3,64,4]}}`:               {"64 × 4 px", "16 × 1 patches"},
		`{"model_type":"vit","hidden_size":8,"hidden_act":"relu"}`: {"relu"},
		`{"architecture":"vit_small_patch16_rope_224"}`:            {"rope"},
		`{"num_features":8,"global_pool":"map"}`:                   {"map", "number of classes"},
	} {
		_, _, err := backbone.Load(beside(t, save(t, weights(small), nil), text), backbone.LoadOptions{NumHeads: 2})
		for _, want := range wants {
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%s: got the error %v, expected %q", text, err, want)
			}
		}
	}
	path := beside(t, save(t, weights(small), nil), `{"num_attention_heads":3,"layer_norm_eps":1e-3,"mean":0.1,"std":0.2}`)
	m, report, err := backbone.Load(path, backbone.LoadOptions{NumHeads: 4, LayerNormEps: 1e-4, Mean: &[3]float32{1, 1, 1}, Std: &[3]float32{2, 2, 2}})
	if err != nil {
		t.Fatal(err)
	}
	if c, p := m.Config, m.Preprocessing; c.NumHeads != 4 || c.LayerNormEps != 1e-4 || p.Mean[0] != 1 || p.Std[0] != 2 || len(report.Notes) > 0 {
		t.Errorf("%+v %+v %q", c, p, report.Notes)
	}
}

// writeBeside writes a file into the folder of path.
func writeBeside(t testing.TB, path, name, text string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(filepath.Dir(path), name), []byte(text), 0o666); err != nil {
		t.Fatal(err)
	}
}

// FuzzSideFiles loads a checkpoint with any text in the files beside it.
func FuzzSideFiles(f *testing.F) {
	for _, text := range []string{
		`{"num_attention_heads":4,"drop":NaN,"mean":[1,2,3],"std":0.5,"image_size":[16,16]}`, `{"size":{"shortest_edge":3},"crop_size":9,"do_center_crop":true}`,
		`{"pretrained_cfg":{"input_size":[3,8,32],"crop_pct":0.9,"crop_mode":"squash"}}`, "\ufeff{", `"\`, `{"rescale_factor":1e-7,"image_std":1e-8,"resample":1}`,
	} {
		f.Add(text)
	}
	data, err := os.ReadFile(save(f, weights(small), nil))
	if err != nil {
		f.Fatal(err)
	}
	dir := f.TempDir()
	path := filepath.Join(dir, "model.safetensors")
	writeBeside(f, path, "model.safetensors", string(data))
	f.Fuzz(func(t *testing.T, text string) {
		for _, name := range []string{"config.json", "preprocessor_config.json"} {
			writeBeside(t, path, name, text)
			_, _, err := backbone.Load(path, backbone.LoadOptions{NumHeads: 2})
			// A config.json can state that the model is not supported.
			if err != nil && (name != "config.json" || !strings.Contains(text, "{")) {
				t.Errorf("%s %q: %v", name, text, err)
			}
			if err := os.Remove(filepath.Join(dir, name)); err != nil {
				t.Fatal(err)
			}
		}
	})
}

// TestSideFilesCutShort cuts the files beside a checkpoint at each byte. A file that is cut short
// must be an error or a note that it is not used, or give the same model. A cached download can be
// cut short without package hub noticing it.
func TestSideFilesCutShort(t *testing.T) {
	dir := t.TempDir()
	if err := os.CopyFS(dir, os.DirFS(fixtures.Backbone(t, "vit-cls-hf5").Dir)); err != nil {
		t.Fatal(err)
	}
	load := func() (*backbone.Model, string, error) {
		m, report, err := backbone.Load(dir, backbone.LoadOptions{})
		if err != nil {
			return nil, "", err
		}
		return m, strings.Join(report.Notes, "\n"), nil
	}
	whole, _, err := load()
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"config.json", "preprocessor_config.json"} {
		path := filepath.Join(dir, name)
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		noticed := 0
		for n := len(data) - 1; n >= 0; n-- {
			if err := os.Truncate(path, int64(n)); err != nil {
				t.Fatal(err)
			}
			m, notes, err := load()
			if err != nil || strings.Contains(notes, name+" beside the checkpoint is not used") {
				noticed++
			} else if !reflect.DeepEqual(m.Config, whole.Config) || !reflect.DeepEqual(m.Preprocessing, whole.Preprocessing) {
				t.Errorf("%s with %d of %d bytes gives another model, no error and the notes %q", name, n, len(data), notes)
			}
		}
		// Without its last line break, the file is complete.
		if noticed < len(data)-1 {
			t.Errorf("%s: %d of %d cuts were noticed", name, noticed, len(data))
		}
		if err := os.WriteFile(path, data, 0o666); err != nil {
			t.Fatal(err)
		}
	}
}
