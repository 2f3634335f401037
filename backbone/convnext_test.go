package backbone_test

import (
	"errors"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	. "github.com/gomlx/gomlx/core/graph"
	"github.com/gomlx/gomlx/core/tensors"

	"github.com/gomlx/compute/gobackend"

	"github.com/sptune/spt/backbone"
	"github.com/sptune/spt/backend"
	"github.com/sptune/spt/backend/cpu"
	"github.com/sptune/spt/checkpoint"
	"github.com/sptune/spt/internal/fixtures"
	"github.com/sptune/spt/internal/program"
	"github.com/sptune/spt/objective"
	"github.com/sptune/spt/peft"
	"github.com/sptune/spt/train"
)

// loadConvNeXt loads a fixture like a user: it gives the image size only if no file states it.
func loadConvNeXt(t *testing.T, f fixtures.Fixture) *backbone.Model {
	t.Helper()
	var o backbone.LoadOptions
	if _, err := os.Stat(filepath.Join(f.Dir, "config.json")); errors.Is(err, fs.ErrNotExist) {
		o.ImageSize = f.ImageSize
	}
	m, report, err := backbone.Load(f.Path(), o)
	if err != nil {
		t.Fatal(err)
	}
	if len(report.Missing)+len(report.WrongShape)+len(report.Unused) != 0 {
		t.Errorf("report: %+v", report)
	}
	return m
}

// runConvNeXt runs build on the weights and the images of the fixture. The images are placed in the
// top left corner of images of the model's size.
func runConvNeXt(t *testing.T, be backend.Backend, m *backbone.Model, f fixtures.Fixture, build func(weights backbone.Layers, images *Node) []*Node) []*tensors.Tensor {
	t.Helper()
	params := m.Config.Params()
	compiled, err := program.New(be, "fixture", func(_ *Graph, in []*Node) []*Node {
		byName := map[string]*Node{}
		for i, p := range params {
			byName[p.Name] = in[i]
		}
		return build(backbone.Untuned(byName), in[len(params)])
	})
	if err != nil {
		t.Fatal(err)
	}
	defer compiled.Close()
	placed, err := m.On(be)
	if err != nil {
		t.Fatal(err)
	}
	var args []any
	for _, p := range params {
		args = append(args, placed[p.Name])
	}
	side, own := m.Config.ImageSize, f.ImageSize
	pixels, from := make([]uint8, 2*side*side*3), f.Pixels(t)
	for row := range 2 * own {
		image, y := row/own, row%own
		copy(pixels[(image*side+y)*side*3:], from[row*own*3:(row+1)*own*3])
	}
	images, err := program.Tensor(be, pixels, 2, side, side, 3)
	if err != nil {
		t.Fatal(err)
	}
	out, err := compiled.Run(t.Context(), append(args, images)...)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// newBackends returns the CPU backend and the Go backend of GoMLX.
func newBackends(t *testing.T) map[string]backend.Backend {
	t.Helper()
	fast, _, err := backend.Open("cpu", 1)
	if err != nil {
		t.Fatal(err)
	}
	plain, err := gobackend.New("ops_sequential")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(plain.Finalize)
	return map[string]backend.Backend{"cpu": fast, "go": plain}
}

// TestConvNeXtFixtures compares features and logits of every ConvNeXt, in every naming scheme, with
// the results of the library that uses the scheme.
func TestConvNeXtFixtures(t *testing.T) {
	backends := newBackends(t)
	n := 0
	for _, f := range fixtures.Backbones(t) {
		if f.Family != "convnext" {
			continue
		}
		n++
		t.Run(f.Name, func(t *testing.T) {
			m := loadConvNeXt(t, f)
			if p := m.Preprocessing; m.Config.ImageSize != f.ImageSize || p.Mean != f.Preprocessing.Mean || p.Std != f.Preprocessing.Std {
				t.Errorf("%d px, %+v; expected %d px, %+v", m.Config.ImageSize, p, f.ImageSize, f.Preprocessing)
			}
			for name, be := range backends {
				out := runConvNeXt(t, be, m, f, func(weights backbone.Layers, images *Node) []*Node {
					features := m.Features(weights, images)
					return []*Node{features, m.Config.Classify(weights, features)}
				})
				compare(t, name+" features", out[0], f.Features(t).Data)
				compare(t, name+" logits", out[1], f.Logits(t).Data)
			}
		})
	}
	if n < 7 {
		t.Errorf("%d fixtures", n)
	}
}

// TestConvNeXtGradients compares the gradients of all parameters with the gradients of PyTorch. See
// internal/fixtures/convnext_trace.py.
func TestConvNeXtGradients(t *testing.T) {
	backends := newBackends(t)
	for _, variant := range []string{"convnext-v1", "convnext-v2"} {
		f := fixtures.Backbone(t, variant+"-timm")
		trace, err := checkpoint.Open(filepath.Join(f.Dir, "..", "..", "traces", variant+".safetensors"))
		if err != nil {
			t.Fatal(err)
		}
		defer trace.Close()
		labels, err := trace.Float32("labels")
		if err != nil {
			t.Fatal(err)
		}
		m := loadConvNeXt(t, f)
		params := m.Config.Params()
		for name, be := range backends {
			out := runConvNeXt(t, be, m, f, func(weights backbone.Layers, images *Node) []*Node {
				y := Const(images.Graph(), []int32{int32(labels.Data[0]), int32(labels.Data[1])})
				var of []*Node
				for _, p := range params {
					of = append(of, weights.Param(p.Name))
				}
				return Gradient(objective.SingleLabel.Loss(m.Config.Classify(weights, m.Features(weights, images)), y), of...)
			})
			for i, p := range params {
				want, err := trace.Float32("gradient." + p.Name)
				if err != nil {
					t.Fatal(err)
				}
				if !slices.Equal(out[i].Shape().Dimensions, p.Shape) || !slices.Equal(want.Shape, p.Shape) {
					t.Errorf("%s has shape %v, its gradients %v and %v", p.Name, p.Shape, out[i].Shape(), want.Shape)
				}
				compare(t, variant+" "+name+" "+p.Name, out[i], want.Data)
			}
		}
	}
}

// TestConvNeXtImageSizes checks that rows and columns that fill no patch are dropped, as in
// PyTorch, and that larger images give larger maps.
func TestConvNeXtImageSizes(t *testing.T) {
	f := fixtures.Backbone(t, "convnext-v1-timm")
	be, _, err := backend.Open("cpu", 1)
	if err != nil {
		t.Fatal(err)
	}
	for size, tokens := range map[int]int{59: 196, 64: 256, 100: 625} {
		m, _, err := backbone.Load(f.Path(), backbone.LoadOptions{ImageSize: size})
		if err != nil {
			t.Fatal(err)
		}
		if m.Config.Tokens() != tokens {
			t.Errorf("%s: %d tokens, expected %d", m.Config, m.Config.Tokens(), tokens)
		}
		out := runConvNeXt(t, be, m, f, func(weights backbone.Layers, images *Node) []*Node {
			return []*Node{m.Features(weights, images)}
		})
		if size/4 == f.ImageSize/4 {
			compare(t, m.Config.String(), out[0], f.Features(t).Data)
		}
	}
}

// TestConvNeXtKernelGradients checks that only tuned depth-wise kernels cost a gradient, and that
// the CPU backend computes every operation of a step itself.
func TestConvNeXtKernelGradients(t *testing.T) {
	be, err := cpu.New("")
	if err != nil {
		t.Fatal(err)
	}
	defer be.Finalize()
	f := fixtures.Backbone(t, "convnext-v2-timm")
	m := loadConvNeXt(t, f)
	lora := peft.Uniform(m.Config, "lora", 2)
	entries := peft.Uniform(m.Config, "lora", 2)
	entries.Entries = map[string][]int32{"stages.1.blocks.0.conv_dw.weight": {3, 50}}
	for name, c := range map[string]struct {
		selection peft.Selection
		calls     int // gradients of kernels
	}{"lora": {lora, 0}, "lora and entries": {entries, 1}, "full": {peft.Full(m.Config), 5}} {
		tuning, err := peft.New(m.Config, c.selection)
		if err != nil {
			t.Fatal(err)
		}
		stepper, err := train.NewStepper(be, m, objective.SingleLabel, tuning, tuning.Init(0, peft.PaperScheme, m.Weights), train.StepOptions{Rates: peft.Rates{DropPath: 0.1}, WeightDecay: 1e-4})
		if err != nil {
			t.Fatal(err)
		}
		defer stepper.Close()
		images, err := program.Tensor(be, f.Pixels(t), 2, f.ImageSize, f.ImageSize, 3)
		if err != nil {
			t.Fatal(err)
		}
		labels, err := program.Tensor(be, []int32{0, 1}, 2)
		if err != nil {
			t.Fatal(err)
		}
		timings := cpu.TimeSteps(be)
		if _, _, err := stepper.Step(t.Context(), images, labels, 1e-3, 0); err != nil {
			t.Fatal(err)
		}
		forward, gradients := 0, 0
		for _, s := range timings() {
			switch {
			case strings.HasPrefix(s.Detail, "gradient of depth-wise"):
				gradients += s.Calls
			case strings.HasPrefix(s.Detail, "depth-wise"):
				forward += s.Calls
			case s.Kind == "convolution" || strings.Contains(s.Kind, "Go backend") && strings.Contains(s.Detail, "Conv"):
				t.Errorf("%s: a step %s %s", name, s.Kind, s.Detail)
			}
		}
		// Five convolutions in the forward pass, and four in the backward pass. Full fine-tuning
		// needs a fifth in the backward pass, for the first block.
		want := 9
		if name == "full" {
			want = 10
		}
		if gradients != c.calls || forward != want {
			t.Errorf("%s: %d gradients of depth-wise kernels and %d depth-wise convolutions, expected %d and %d", name, gradients, forward, c.calls, want)
		}
	}
}

// TestConvNeXtConfig checks which configuration is derived from a checkpoint and which ones are
// refused.
func TestConvNeXtConfig(t *testing.T) {
	hf := loadConvNeXt(t, fixtures.Backbone(t, "convnext-v1-hf")).Config
	if hf.LayerNormEps != 1e-6 || hf.Form.(backbone.ConvNeXt).FinalNormEps != 1e-12 {
		t.Errorf("Hugging Face: eps %g and %g", hf.LayerNormEps, hf.Form.(backbone.ConvNeXt).FinalNormEps)
	}
	m := loadConvNeXt(t, fixtures.Backbone(t, "convnext-v2-timm"))
	c := m.Config
	if got, want := c.String(), "ConvNeXt V2 1-1-2-1×4-6-8-10, patch 4, 56 px"; got != want {
		t.Errorf("%s, expected %s", got, want)
	}
	if c.LayerNormEps != 1e-6 || c.Form.(backbone.ConvNeXt).FinalNormEps != 0 || c.Blocks() != 5 || c.NumFeatures() != 10 || c.Head() != "head.fc" {
		t.Errorf("%+v", c)
	}
	path := filepath.Join(t.TempDir(), "saved.safetensors")
	if err := m.Save(path, checkpoint.F32, nil); err != nil {
		t.Fatal(err)
	}
	if again, _, err := backbone.Load(path, backbone.LoadOptions{}); err != nil || !reflect.DeepEqual(again.Config, c) || again.Fingerprint() != m.Fingerprint() {
		t.Errorf("saved and read back: %v", err)
	}
	if saved, _, err := backbone.Load(fixtures.Backbone(t, "convnext-v1-facebook").Path(), backbone.LoadOptions{}); err != nil || saved.Config.ImageSize != 224 {
		t.Errorf("no file states the image size: got %v, expected 224 px", err)
	}
	for want, change := range map[string]func(c *backbone.Config, v *backbone.ConvNeXt){
		"lists of the same len": func(c *backbone.Config, v *backbone.ConvNeXt) { v.Dims = v.Dims[1:] },
		"expected positive":     func(c *backbone.Config, v *backbone.ConvNeXt) { v.Depths = []int{1, 0, 1, 1} },
		"at most 1024 blocks":   func(c *backbone.Config, v *backbone.ConvNeXt) { v.Depths = []int{1000, 1, 1, 1000} },
		"numbers up to 65536":   func(c *backbone.Config, v *backbone.ConvNeXt) { v.Dims = []int{4, 1 << 40, 8, 8} },
		"expected the same wid": func(c *backbone.Config, v *backbone.ConvNeXt) { v.Dims = []int{5, 6, 7, 8} },
		"expected 32 to 8192":   func(c *backbone.Config, v *backbone.ConvNeXt) { c.ImageSize = 31 },
		"image size 1073741824": func(c *backbone.Config, v *backbone.ConvNeXt) { c.ImageSize = 1 << 30 },
		"of the final norm":     func(c *backbone.Config, v *backbone.ConvNeXt) { v.FinalNormEps = -1 },
	} {
		changed, form := c, c.Form.(backbone.ConvNeXt)
		change(&changed, &form)
		changed.Form = form
		if err := changed.Validate(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("expected an error with %q, got %v", want, err)
		}
	}
}

// compare checks that x differs from want by at most 1e-4 of the largest value.
func compare(t *testing.T, what string, x *tensors.Tensor, want []float32) {
	t.Helper()
	got, err := program.Float32s(x)
	if err != nil {
		t.Fatal(err)
	}
	if len(got) != len(want) {
		t.Fatalf("%s: %d values, expected %d", what, len(got), len(want))
	}
	diff, largest := 0.0, 0.0
	for i, w := range want {
		diff, largest = max(diff, math.Abs(float64(got[i]-w))), max(largest, math.Abs(float64(w)))
	}
	if !(diff <= 1e-4*largest) {
		t.Errorf("%s: %v, expected %v", what, got, want)
	}
}
