package export

import (
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/sptune/spt"
	"github.com/sptune/spt/backbone"
	"github.com/sptune/spt/delta"
	"github.com/sptune/spt/internal/fixtures"
	"github.com/sptune/spt/objective"
	"github.com/sptune/spt/peft"
)

// classNames are the classes of tunedFixture.
var classNames = []string{"café", "<b>&\"quoted\"", "3"}

// tunedFixture returns a classifier on a fixture with random tuned values. choose returns the
// selection.
func tunedFixture(t testing.TB, name string, choose func(c backbone.Config) peft.Selection, transform delta.Transform) *Classifier {
	t.Helper()
	f := fixtures.Backbone(t, name)
	o := backbone.LoadOptions{ImageSize: f.ImageSize, NumClasses: len(classNames)}
	if f.Family == "vit" {
		o.NumHeads = f.NumHeads[0]
	}
	m, _, err := backbone.Load(f.Path(), o)
	if err != nil {
		t.Fatal(err)
	}
	s := choose(m.Config)
	tuning, err := peft.New(m.Config, s)
	if err != nil {
		t.Fatal(err)
	}
	d := delta.New(m, nil)
	d.Method, d.Objective, d.Classes, d.Transform, d.Selection = "test", objective.SingleLabel.Name(), classNames, transform, s
	d.Tuned = tuning.Init(1, peft.PaperScheme, m.Weights)
	rng := rand.New(rand.NewPCG(1, 2))
	for _, p := range tuning.Params {
		x := d.Tuned[p.Name]
		x.Data = slices.Clone(x.Data)
		for i := range x.Data {
			x.Data[i] += float32(rng.NormFloat64()) * 0.2
		}
		d.Tuned[p.Name] = x
	}
	tuned, err := spt.Restore(m, d)
	if err != nil {
		t.Fatal(err)
	}
	return &Classifier{Model: m, Delta: d, Tuned: tuned, Transform: d.ImageTransform()}
}

// lora2 selects LoRA of rank 2 on every matrix.
func lora2(c backbone.Config) peft.Selection { return peft.Uniform(c, "lora", 2) }

// structured selects what SPT-LoRA without single entries selects: LoRA on some matrices, some
// vectors whole, and the class token.
func structured(c backbone.Config) peft.Selection {
	s := peft.Selection{Module: "lora", Rank: 2}
	s.Whole, _ = c.ClassTokens()
	for i, p := range c.Params() {
		switch {
		case p.Matrix() && i%3 != 0:
			s.Structured = append(s.Structured, p.Name)
		case p.Role == backbone.Scored && len(p.Shape) == 1 && i%2 == 0 && !strings.HasSuffix(p.Name, "gamma"):
			s.Whole = append(s.Whole, p.Name)
		}
	}
	return s
}

// some selects LoRA on the queries of the first block and on all fc2, and the final norm and two
// biases whole.
func some(c backbone.Config) peft.Selection {
	s := peft.Selection{Module: "lora", Rank: 3, Whole: []string{"norm.weight", "blocks.1.norm1.bias", "blocks.0.mlp.fc1.bias", "blocks.1.mlp.fc2.bias"}}
	for _, p := range c.Params() {
		if p.Matrix() && (strings.HasSuffix(p.Name, "fc2.weight") || p.Name == "blocks.0.attn.q.weight") {
			s.Structured = append(s.Structured, p.Name)
		}
	}
	return s
}

// entries selects single entries of every scored tensor.
func entries(c backbone.Config) peft.Selection {
	s := peft.Selection{Entries: map[string][]int32{}}
	for _, p := range c.Params() {
		if p.Role == backbone.Scored {
			s.Entries[p.Name] = []int32{0, int32(p.Size() - 1)}
		}
	}
	return s
}

// ssf selects SSF.
func ssf(backbone.Config) peft.Selection { return peft.Selection{SSF: true} }

// cases lists classifiers with the format in which they are exported.
var cases = []struct {
	fixture   string
	method    string
	choose    func(backbone.Config) peft.Selection
	transform delta.Transform
	format    string
}{
	{"vit-cls-timm", "lora", lora2, delta.Transform{Resize: "direct"}, "transformers"},
	{"vit-cls-hf4", "structured", structured, delta.Transform{Resize: "direct-crop", ResizeTo: 28}, "transformers"},
	{"vit-patchpos-timm", "entries", entries, delta.Transform{Resize: "direct"}, "transformers"},
	{"vit-noqkvbias-timm", "lora", lora2, delta.Transform{Resize: "direct"}, "transformers"},
	{"vit-distilled-timm", "ssf", ssf, delta.Transform{Resize: "direct"}, "transformers"},
	{"vit-dinov2-timm", "structured", structured, delta.Transform{Resize: "direct"}, "transformers"},
	{"vit-dinov2-hf5", "entries", entries, delta.Transform{Resize: "direct"}, "transformers"},
	{"vit-dinov2reg-timm", "lora", lora2, delta.Transform{Resize: "direct"}, "transformers"},
	{"vit-dinov2swiglu-timm", "lora", lora2, delta.Transform{Resize: "direct"}, "transformers"},
	{"swin-even-timm", "lora", lora2, delta.Transform{Resize: "direct"}, "transformers"},
	{"swin-even-timm", "structured", structured, delta.Transform{Resize: "direct-crop", ResizeTo: 70}, "transformers"},
	{"swin-padded-hf5", "entries", entries, delta.Transform{Resize: "direct"}, "transformers"},
	{"convnext-v1-timm", "structured", structured, delta.Transform{Resize: "direct"}, "transformers"},
	{"convnext-v1-hf", "lora", lora2, delta.Transform{Resize: "direct"}, "transformers"},
	{"convnext-v2-timm", "entries", entries, delta.Transform{Resize: "direct"}, "transformers"},

	{"vit-cls-timm", "lora", lora2, delta.Transform{Resize: "crop", ResizeTo: 27}, "peft"},
	{"vit-cls-timm", "some", some, delta.Transform{Resize: "direct"}, "peft"},
	{"vit-patchpos-timm", "lora", lora2, delta.Transform{Resize: "direct"}, "peft"},
	{"vit-noqkvbias-timm", "some", some, delta.Transform{Resize: "direct"}, "peft"},
	{"vit-nocls-timm", "structured", structured, delta.Transform{Resize: "direct"}, "peft"},
	{"vit-dinov2-timm", "lora", lora2, delta.Transform{Resize: "direct"}, "peft"},
	{"swin-even-timm", "lora", lora2, delta.Transform{Resize: "direct"}, "peft"},
	{"swin-even-timm", "structured", structured, delta.Transform{Resize: "direct-crop", ResizeTo: 70}, "peft"},
	{"swin-even-hf5", "structured", structured, delta.Transform{Resize: "direct"}, "peft"},
	{"convnext-v1-timm", "structured", structured, delta.Transform{Resize: "direct"}, "peft"},
	{"convnext-v2-timm", "structured", structured, delta.Transform{Resize: "direct"}, "peft"},
	{"convnext-v2-timmconv", "lora", lora2, delta.Transform{Resize: "direct"}, "peft"},
}

// probesOf returns random images for c.
func probesOf(t testing.TB, c *Classifier) []uint8 {
	t.Helper()
	pixels, _, err := spt.Probes(c.Transform, 4, nil)
	if err != nil {
		t.Fatal(err)
	}
	return pixels
}

// TestCases exports every case. The exports verify themselves.
func TestCases(t *testing.T) {
	for _, r := range cases {
		t.Run(r.fixture+" "+r.method+" "+r.format, func(t *testing.T) {
			c := tunedFixture(t, r.fixture, r.choose, r.transform)
			out := filepath.Join(t.TempDir(), "out")
			all, err := Write(t.Context(), c, []string{r.format}, out, Options{Probes: probesOf(t, c), Bound: 1e-4})
			if err != nil {
				t.Fatal(err)
			}
			if all[0].Images != 4 || !strings.Contains(all[0].Load, out) {
				t.Errorf("compared %d images, want 4; to load: %s", all[0].Images, all[0].Load)
			}
		})
	}
}

// TestTransformersRefuses checks that what transformers cannot compute is refused with the reason.
func TestTransformersRefuses(t *testing.T) {
	direct := delta.Transform{Resize: "direct"}
	for _, r := range []struct {
		fixture   string
		choose    func(backbone.Config) peft.Selection
		transform delta.Transform
		reason    string
	}{
		{"vit-avg-timm", lora2, direct, "final norm after the mean"},
		{"vit-prenorm-timm", lora2, direct, "norm before its first block"},
		{"swin-padded-timm", lora2, direct, "pads them before the shift"},
		{"convnext-mlp-timm", lora2, direct, "linear layer before its head"},
		{"vit-cls-timm", lora2, delta.Transform{Resize: "crop"}, "one pixel away"},
		{"vit-cls-timm", lora2, delta.Transform{Resize: "direct-crop", ResizeTo: 27}, "another pixel"},
		{"vit-cls-timm", func(c backbone.Config) peft.Selection { return peft.Uniform(c, "adapter", 2) }, direct, "cannot be merged"},
	} {
		c := tunedFixture(t, r.fixture, r.choose, r.transform)
		out := filepath.Join(t.TempDir(), "out")
		_, err := Write(t.Context(), c, []string{"transformers"}, out, Options{Probes: probesOf(t, c)})
		if err == nil || !strings.Contains(err.Error(), r.reason) {
			t.Errorf("%s %v: got error %v, want one with %q", r.fixture, r.transform, err, r.reason)
		}
		if _, err := os.Lstat(out); err == nil {
			t.Errorf("%s: the refused export left a folder", r.fixture)
		}
	}
}

// TestPEFTRefuses checks that what a folder of PEFT would lose is refused.
func TestPEFTRefuses(t *testing.T) {
	for _, r := range []struct {
		fixture string
		choose  func(backbone.Config) peft.Selection
		reason  string
	}{
		{"vit-cls-timm", structured, "cls_token is tuned"},
		{"swin-even-timm", entries, "tuned entries would be lost"},
		{"vit-cls-timm", ssf, "scales and shifts"},
		{"vit-cls-timm", func(c backbone.Config) peft.Selection { return peft.Uniform(c, "adapter", 2) }, `"adapter"`},
		{"vit-cls-timm", func(backbone.Config) peft.Selection { return peft.Selection{Prompts: &peft.Prompts{Tokens: 2}} }, "prompts"},
		{"vit-cls-timm", func(backbone.Config) peft.Selection { return peft.Selection{} }, "at least one"},
		{"vit-cls-timm", func(c backbone.Config) peft.Selection {
			s := lora2(c)
			s.Structured, s.Whole = s.Structured[1:], s.Structured[:1]
			return s
		}, "whole matrix"},
		{"convnext-v1-timm", func(c backbone.Config) peft.Selection {
			s := lora2(c)
			s.Whole = []string{"stages.0.blocks.0.gamma"}
			return s
		}, "stages.0.blocks.0.gamma is tuned"},
		{"vit-distilled-timm", lora2, "two heads"},
		{"swin-padded-hf5", lora2, "timm pads them after the shift"},
		{"vit-cls-hf4", lora2, "have eps 1e-06"},
	} {
		c := tunedFixture(t, r.fixture, r.choose, delta.Transform{Resize: "direct"})
		_, err := Write(t.Context(), c, []string{"peft"}, filepath.Join(t.TempDir(), "out"), Options{Probes: probesOf(t, c)})
		if err == nil || !strings.Contains(err.Error(), r.reason) {
			t.Errorf("%s: got error %v, want one with %q", r.fixture, err, r.reason)
		}
	}
}

// TestPEFTReturns exports a delta to PEFT and reads it back: the modules, the tuned values, the
// classes and the transform must be the same.
func TestPEFTReturns(t *testing.T) {
	c := tunedFixture(t, "swin-even-timm", structured, delta.Transform{Resize: "crop", ResizeTo: 70})
	out := filepath.Join(t.TempDir(), "out")
	if _, err := Write(t.Context(), c, []string{"peft"}, out, Options{Probes: probesOf(t, c)}); err != nil {
		t.Fatal(err)
	}
	p, err := delta.LoadPEFT(out)
	if err != nil {
		t.Fatal(err)
	}
	d, err := p.Delta(c.Model, delta.Transform{Resize: "direct"})
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(d.Classes, classNames) || d.Transform != c.Delta.Transform || d.Selection.Rank != 2 {
		t.Errorf("got the classes %q, the transform %+v and rank %d", d.Classes, d.Transform, d.Selection.Rank)
	}
	if !slices.Equal(d.Selection.Structured, c.Delta.Selection.Structured) {
		t.Errorf("got LoRA on %q", d.Selection.Structured)
	}
	for name, want := range c.Delta.Tuned {
		got, ok := d.Tuned[name]
		if !ok || len(got.Data) != len(want.Data) {
			t.Errorf("%s is lost", name)
			continue
		}
		for i := range want.Data {
			if d := got.Data[i] - want.Data[i]; d > 1e-6 || d < -1e-6 {
				t.Errorf("%s: value %d is %v, want %v", name, i, got.Data[i], want.Data[i])
				break
			}
		}
	}
}
