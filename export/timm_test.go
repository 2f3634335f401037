package export

import (
	"context"
	"encoding/json"
	"errors"
	"maps"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/sptune/spt"
	"github.com/sptune/spt/backbone"
	"github.com/sptune/spt/checkpoint"
	"github.com/sptune/spt/dataset"
	"github.com/sptune/spt/delta"
	"github.com/sptune/spt/internal/fixtures"
	"github.com/sptune/spt/objective"
	"github.com/sptune/spt/peft"
	"github.com/sptune/spt/run"
)

// TestTimmNames checks the architectures that config.json names against timm: for each size that
// timm has a name for, the name, the eps, the kind of the MLP and the arguments must be its own.
func TestTimmNames(t *testing.T) {
	for name, row := range timmNames(t) {
		c := row.config()
		if err := c.Validate(); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		got, err := timmModelOf(c)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if got.architecture != name {
			t.Errorf("a model like %s is exported as %s", name, got.architecture)
		}
		if !slices.Equal(row.Eps, []float64{got.eps}) {
			t.Errorf("%s: eps %g, expected %v", name, got.eps, row.Eps)
		}
	}
}

// TestTimmBases checks that the architectures that stand for other sizes have the eps and the kind
// of MLP that no argument can change.
func TestTimmBases(t *testing.T) {
	names := timmNames(t)
	form := backbone.ViT{PatchSize: 4, EmbedDim: 12, Depth: 2, HiddenDim: 25}
	for name, c := range map[string]backbone.Config{
		"plain":     {LayerNormEps: 1e-6},
		"eps 1e-5":  {LayerNormEps: 1e-5},
		"eps 1e-12": {LayerNormEps: 1e-12},
		"gated":     {LayerNormEps: 1e-6},
		"distilled": {LayerNormEps: 1e-6},
	} {
		v := form
		v.SwiGLU, v.DistToken = name == "gated", name == "distilled"
		if v.DistToken {
			v.Pooling = "token+dist"
		}
		c.ImageSize, c.NumClasses, c.NumHeads, c.Form = 24, 3, 2, v
		m, err := timmModelOf(c)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		own, ok := names[m.architecture]
		if !ok || !slices.Equal(own.Eps, []float64{m.eps}) || own.SwiGLU != v.SwiGLU || own.DistToken != v.DistToken {
			t.Errorf("%s: %s has %+v", name, m.architecture, own)
		}
		if want := c.LayerNormEps != 1e-12; (m.differs(c) == "") != want {
			t.Errorf("%s: %q", name, m.differs(c))
		}
		ratio := m.args["mlp_ratio"].(float64)
		want := v.HiddenDim
		if v.SwiGLU {
			want *= 2 // timm counts the gate too
		}
		if got := int(float64(v.EmbedDim) * ratio); got != want {
			t.Errorf("%s: %d hidden units, expected %d", name, got, want)
		}
	}
}

// timmRow is a row of testdata/names.json, which timm has computed.
type timmRow struct {
	Family     string
	Eps        []float64
	InputSize  int    `json:"input_size"`
	PatchSize  int    `json:"patch_size"`
	EmbedDim   int    `json:"embed_dim"`
	Depth      int    `json:"depth"`
	NumHeads   int    `json:"num_heads"`
	HiddenDim  int    `json:"hidden_dim"`
	Pool       string `json:"global_pool"`
	ClassToken bool   `json:"class_token"`
	DistToken  bool   `json:"dist_token"`
	Registers  int    `json:"reg_tokens"`
	NoEmbed    bool   `json:"no_embed_class"`
	PreNorm    bool   `json:"pre_norm"`
	PatchBias  bool   `json:"patch_bias"`
	QKVBias    bool   `json:"qkv_bias"`
	QKNorm     bool   `json:"qk_norm"`
	LayerScale bool   `json:"layer_scale"`
	FCNorm     bool   `json:"fc_norm"`
	SwiGLU     bool   `json:"swiglu"`
	QuickGELU  bool   `json:"quick_gelu"`
	Depths     []int
	Dims       []int
	StageHeads []int `json:"stage_heads"`
	WindowSize int   `json:"window_size"`
	GRN        bool  `json:"use_grn"`
}

func timmNames(t *testing.T) (rows map[string]timmRow) {
	t.Helper()
	text, err := os.ReadFile("testdata/names.json")
	if err == nil {
		err = json.Unmarshal(text, &rows)
	}
	if err != nil || len(rows) == 0 {
		t.Fatal(err)
	}
	return rows
}

// config returns the configuration of timm's model.
func (r timmRow) config() backbone.Config {
	c := backbone.Config{ImageSize: r.InputSize, NumClasses: 1000, LayerNormEps: r.Eps[0]}
	switch r.Family {
	case "vit":
		c.NumHeads = r.NumHeads
		v := backbone.ViT{PatchSize: r.PatchSize, EmbedDim: r.EmbedDim, Depth: r.Depth, HiddenDim: r.HiddenDim, Registers: r.Registers, DistToken: r.DistToken,
			NoClassToken: !r.ClassToken, PatchPositions: r.NoEmbed, PreNorm: r.PreNorm, FCNorm: r.FCNorm, NoPatchBias: !r.PatchBias,
			NoQKVBias: !r.QKVBias, QKNorm: r.QKNorm, LayerScale: r.LayerScale, SwiGLU: r.SwiGLU, QuickGELU: r.QuickGELU}
		if r.Pool == "avg" {
			v.Pooling = "avg"
		}
		if r.DistToken {
			v.Pooling = "token+dist"
		}
		c.Form = v
	case "swin":
		c.Form = backbone.Swin{PatchSize: r.PatchSize, EmbedDim: r.EmbedDim, HiddenDim: r.HiddenDim, Depths: r.Depths, StageHeads: r.StageHeads, WindowSize: r.WindowSize}
	case "convnext":
		c.Form = backbone.ConvNeXt{PatchSize: r.PatchSize, EmbedDim: r.Dims[0], Depths: r.Depths, Dims: r.Dims, ResponseNorm: r.GRN}
	}
	return c
}

// TestTimmCrop computes the size before the crop as timm does, for many sizes.
func TestTimmCrop(t *testing.T) {
	for size := 1; size <= 600; size++ {
		for before := size; before <= 2*size+3; before++ {
			pct, mode := timmCrop(dataset.Transform{Size: size, Resize: "crop", ResizeTo: before})
			// scale_size = math.floor(img_size / crop_pct)
			if got := math.Floor(float64(size) / pct); got != float64(before) || mode != "center" || !(pct > 0 && pct <= 1) {
				t.Fatalf("size %d, before the crop %d: crop_pct %v gives %v, mode %s", size, before, pct, got, mode)
			}
		}
	}
	for _, c := range []struct {
		t    dataset.Transform
		pct  float64
		mode string
	}{
		{dataset.Transform{Size: 224}, 1, "squash"},
		{dataset.Transform{Size: 224, Resize: "direct"}, 1, "squash"},
		{dataset.Transform{Size: 224, Resize: "crop"}, 0.875, "center"}, // timm's default
		{dataset.Transform{Size: 224, Resize: "direct-crop", ResizeTo: 256}, 0.875, "squash"},
	} {
		if pct, mode := timmCrop(c.t); pct != c.pct || mode != c.mode {
			t.Errorf("%+v: crop_pct %v, mode %s", c.t, pct, mode)
		}
	}
}

// classifier returns a classifier with the backbone of a fixture and random tuned values.
func classifier(t *testing.T, fixture, method string, s func(backbone.Config) peft.Selection) *Classifier {
	t.Helper()
	f := fixtures.Backbone(t, fixture)
	o := backbone.LoadOptions{NumClasses: 3}
	if len(f.NumHeads) == 1 {
		o.NumHeads = f.NumHeads[0]
	}
	m, _, err := backbone.Load(f.Path(), o)
	if err != nil {
		t.Fatal(err)
	}
	d := delta.New(m, nil)
	d.Method, d.Objective, d.Classes = method, objective.SingleLabel.Name(), []string{"a & b", "c|d", "é"}
	d.Transform, d.Selection = delta.Transform{Resize: "direct"}, s(m.Config)
	tuning, err := peft.New(m.Config, d.Selection)
	if err != nil {
		t.Fatal(err)
	}
	d.Tuned = tuning.Init(1, peft.PaperScheme, m.Weights)
	r := rand.New(rand.NewPCG(2, 0))
	for _, p := range tuning.Params {
		for i := range d.Tuned[p.Name].Data {
			d.Tuned[p.Name].Data[i] += float32(0.1 * r.NormFloat64())
		}
	}
	tuned, err := spt.Restore(m, d)
	if err != nil {
		t.Fatal(err)
	}
	return &Classifier{Model: m, Delta: d, Tuned: tuned, Transform: d.ImageTransform()}
}

func lora(c backbone.Config) peft.Selection { return peft.Uniform(c, "lora", 2) }

// probes returns options with random probe images.
func probes(t *testing.T, c *Classifier) Options {
	t.Helper()
	pixels, _, err := spt.Probes(c.Transform, 4, nil)
	if err != nil {
		t.Fatal(err)
	}
	return Options{Probes: pixels}
}

// TestTimm exports a backbone of every variant. The arguments of the model must be those with which
// timm made the fixture.
func TestTimm(t *testing.T) {
	seen := 0
	for _, f := range fixtures.Backbones(t) {
		if f.Naming != "timm" || f.OwnHead {
			continue
		}
		seen++
		t.Run(f.Name, func(t *testing.T) {
			c := classifier(t, f.Name, "lora", lora)
			out := filepath.Join(t.TempDir(), "out")
			all, err := Write(t.Context(), c, []string{"timm"}, out, probes(t, c))
			if err != nil {
				t.Fatal(err)
			}
			if e := all[0]; e.Images != 4 || !(e.Difference < 1e-4) || e.Bytes == 0 || !strings.Contains(e.Load, `"local-dir:`+out+`"`) {
				t.Errorf("%+v", e)
			}
			text, err := os.ReadFile(filepath.Join(out, configFile))
			if err != nil {
				t.Fatal(err)
			}
			var config struct {
				Labels []string       `json:"label_names"`
				Args   map[string]any `json:"model_args"`
			}
			if err := json.Unmarshal(text, &config); err != nil || !slices.Equal(config.Labels, c.Delta.Classes) {
				t.Fatalf("labels %q, error %v", config.Labels, err)
			}
			if !strings.Contains(string(text), `"a & b"`) {
				t.Error("config.json escapes &")
			}
			var want map[string]any
			if err := json.Unmarshal(f.Arguments, &want); err != nil {
				t.Fatal(err)
			}
			for key, v := range want {
				switch key {
				case "num_classes", "norm_layer", "mlp_layer", "act_layer", "init_values", "ls_init_value", "conv_mlp":
					continue // not in args, or another value with the same meaning
				}
				if got := config.Args[key]; !reflect.DeepEqual(got, v) {
					t.Errorf("%s is %v, expected %v", key, got, v)
				}
			}
			opened, err := checkpoint.Open(filepath.Join(out, weightsFile))
			if err != nil {
				t.Fatal(err)
			}
			defer opened.Close()
			named, err := backbone.ReadClasses(opened, 3)
			if err != nil || !slices.Equal(named.Names, c.Delta.Classes) {
				t.Errorf("classes %q, error %v", named.Names, err)
			}
		})
	}
	if seen < 10 {
		t.Errorf("%d fixtures", seen)
	}
}

// TestRefused checks that a classifier that a folder of timm cannot hold is refused with the reason
// and another format, and that nothing is left behind.
func TestRefused(t *testing.T) {
	rename := func(name string) func(*Classifier) {
		return func(c *Classifier) { c.Delta.Classes[1] = name }
	}
	for name, c := range map[string]struct {
		fixture string
		method  func(backbone.Config) peft.Selection
		change  func(*Classifier)
		want    []string
	}{
		"adapter":      {"vit-cls-timm", func(c backbone.Config) peft.Selection { return peft.Uniform(c, "adapter", 2) }, nil, []string{"adapter", "onnx"}},
		"prompts":      {"vit-cls-timm", func(backbone.Config) peft.Selection { return peft.Selection{Prompts: &peft.Prompts{Tokens: 2}} }, nil, []string{"prompts", "onnx"}},
		"MLP head":     {"vit-cls-timm", func(backbone.Config) peft.Selection { return peft.Selection{MLPHead: 3} }, nil, []string{"MLP head", "onnx"}},
		"two poolings": {"vit-dinov2-hf5", lora, nil, []string{"class token and the mean of the patches", "onnx"}},
		"padding":      {"swin-padded-hf5", lora, nil, []string{"padded", "onnx"}},
		"no UTF-8":     {"vit-cls-timm", lora, rename("caf\xe9"), []string{`"caf\xe9"`, "class 1", "UTF-8"}},
		"replaced":     {"vit-cls-timm", lora, rename("caf\ufffd"), []string{"class 1", "UTF-8"}},
		"patch bias": {"vit-cls-timm", lora, func(c *Classifier) {
			v := c.Model.Config.Form.(backbone.ViT)
			v.NoPatchBias = true
			c.Model.Config.Form = v
		}, []string{"bias", "onnx"}},
	} {
		t.Run(name, func(t *testing.T) {
			tuned := classifier(t, c.fixture, "lora", c.method)
			if c.change != nil {
				c.change(tuned)
			}
			dir := t.TempDir()
			_, err := Write(t.Context(), tuned, []string{"timm"}, filepath.Join(dir, "out"), probes(t, tuned))
			if _, ok := errors.AsType[*run.InputError](err); !ok {
				t.Fatalf("error %v", err)
			}
			for _, w := range append(c.want, "exporting to timm") {
				if !strings.Contains(err.Error(), w) {
					t.Errorf("error %q does not say %q", err, w)
				}
			}
			empty(t, dir)
		})
	}
}

// empty checks that a folder has no files.
func empty(t *testing.T, dir string) {
	t.Helper()
	if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, error %v", left, err)
	}
}

// TestVerified damages the classifier after its check, so that the exported logits differ.
func TestVerified(t *testing.T) {
	c := classifier(t, "vit-cls-timm", "lora", lora)
	o := probes(t, c)
	dir := t.TempDir()
	whole := *c.Tuned
	c.Tuned = &whole
	// The written head is another one than the head that computes the logits.
	other := maps.Clone(whole.Tuned)
	w := other["head.weight"]
	w.Data = slices.Clone(w.Data)
	w.Data[0] += 1
	other["head.weight"] = w
	broken := format{name: "timm", reader: "x", check: timm.check, write: func(ctx context.Context, c *Classifier, o Options, dir string) (*Exported, error) {
		damaged := *c
		damaged.Tuned = &spt.Trained{Objective: whole.Objective, Tuning: whole.Tuning, Tuned: other}
		m, err := timmModelOf(c.Model.Config)
		if err != nil {
			return nil, err
		}
		if _, err := timm.write(ctx, &damaged, o, dir); err != nil {
			return nil, err
		}
		read, err := m.open(filepath.Join(dir, weightsFile))
		if err != nil {
			return nil, err
		}
		_, _, err = c.compare(ctx, o, read)
		return nil, err
	}}
	replace(t, []format{broken})
	_, err := Write(t.Context(), c, []string{"timm"}, filepath.Join(dir, "out"), o)
	if err == nil || !strings.Contains(err.Error(), "moves a logit") {
		t.Errorf("error %v", err)
	}
	empty(t, dir)
	// Values outside of float16.
	replace(t, []format{timm})
	w.Data[0] = 1e6
	c.Tuned = &spt.Trained{Objective: whole.Objective, Tuning: whole.Tuning, Tuned: other}
	o.Half, o.Bound = true, 1e9
	if _, err := Write(t.Context(), c, []string{"timm"}, filepath.Join(dir, "out"), o); err == nil {
		t.Error("a weight of 1e6 was written as float16")
	}
	empty(t, dir)
}

// TestHalf writes float16. The logits differ a little.
func TestHalf(t *testing.T) {
	c := classifier(t, "vit-cls-timm", "lora", lora)
	o := probes(t, c)
	dir := filepath.Join(t.TempDir(), "out")
	plain, err := Write(t.Context(), c, []string{"timm"}, dir+"32", o)
	if err != nil {
		t.Fatal(err)
	}
	o.Half = true
	half, err := Write(t.Context(), c, []string{"timm"}, dir+"16", o)
	if err != nil {
		t.Fatal(err)
	}
	if p, h := plain[0], half[0]; !(h.Bytes < p.Bytes) || !(h.Difference > p.Difference) || h.Difference > HalfBound {
		t.Errorf("%+v and %+v", p, h)
	}
}
