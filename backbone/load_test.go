package backbone_test

import (
	"math"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/sptune/spt/backbone"
	"github.com/sptune/spt/checkpoint"
	"github.com/sptune/spt/internal/fixtures"
)

// TestLookalikesRefused checks that Load refuses checkpoints that have the tensors of a supported
// backbone but compute something else. The files beside them, or their shapes, reveal this.
func TestLookalikesRefused(t *testing.T) {
	nothing := func(checkpoint.StateDict) {}
	add := func(name string, shape ...int) func(checkpoint.StateDict) {
		return func(sd checkpoint.StateDict) { sd[name] = checkpoint.NewTensor(shape...) }
	}
	for _, c := range []struct {
		what, path string
		want       []string
	}{
		{"rotary positions", beside(t, bare(t, "vit-cls-timm", nothing), `{"architecture":"vit_small_patch16_rope_ape_224"}`), []string{"vit_small_patch16_rope_ape_224", "rope", "not supported"}},
		{"norms after the blocks", beside(t, bare(t, "vit-cls-timm", nothing), `{"architecture":"vit_base_patch16_rpn_224"}`), []string{"rpn", "not supported"}},
		{"rotary frequencies", bare(t, "vit-cls-timm", add("rope.freqs", 2, 3)), []string{"rope.freqs", "another architecture"}},
		{"a Swin of another activation", beside(t, bare(t, "swin-even-timm", nothing), `{"hidden_act":"relu"}`), []string{`"relu"`, "supported: gelu"}},
		{"a ConvNeXt of another activation", beside(t, bare(t, "convnext-v1-timm", nothing), `{"hidden_act":"relu"}`), []string{`"relu"`, "supported: gelu"}},
		{"a ConvNeXt V2 with layer scale", bare(t, "convnext-v2-timm", add("stages.0.blocks.0.gamma", 8)), []string{"stages.0.blocks.0.gamma", "not supported"}},
		{"a ConvNeXt whose first stage halves the map", bare(t, "convnext-v1-timm", add("stages.0.downsample.0.weight", 8)), []string{"stages.0.downsample.0.weight", "not supported"}},
		{"no number", bare(t, "vit-cls-timm", func(sd checkpoint.StateDict) { sd["blocks.1.mlp.fc1.bias"].Data[2] = float32(math.NaN()) }), []string{`"blocks.1.mlp.fc1.bias"`, "value 2 is NaN"}},
		{"infinite", bare(t, "convnext-v1-timm", func(sd checkpoint.StateDict) { sd["stem.0.bias"].Data[0] = float32(math.Inf(1)) }), []string{`"stem.0.bias"`, "+Inf"}},
	} {
		o := backbone.LoadOptions{}
		if strings.Contains(c.want[0], "blocks.1.mlp") {
			o.NumHeads = 2 // the other checkpoints are refused before the heads are needed
		}
		_, _, err := backbone.Load(c.path, o)
		for _, want := range c.want {
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%s: got the error %v, expected an error with %q", c.what, err, want)
			}
		}
	}
}

// TestSwinWindows checks that Load refuses relative-position tables whose window sizes fit no image
// size, and does not resize them.
func TestSwinWindows(t *testing.T) {
	own := fixtures.Backbone(t, "swin-even-timm")
	m, _, err := backbone.Load(own.Path(), backbone.LoadOptions{})
	if err != nil {
		t.Fatal(err)
	}
	window := m.Config.Form.(backbone.Swin).WindowSize
	table := func(window, heads int) checkpoint.Tensor {
		return checkpoint.NewTensor((2*window-1)*(2*window-1), heads)
	}
	path := bare(t, "swin-even-timm", func(sd checkpoint.StateDict) {
		for name, x := range sd {
			if strings.HasPrefix(name, "layers.0.") && strings.HasSuffix(name, "relative_position_bias_table") {
				sd[name] = table(window+1, x.Shape[1])
			}
		}
	})
	for _, size := range []int{0, m.Config.ImageSize, 2 * m.Config.ImageSize} {
		if _, _, err := backbone.Load(path, backbone.LoadOptions{ImageSize: size}); err == nil || !strings.Contains(err.Error(), "give the image size") {
			t.Errorf("a stage with a different window, at %d px: %v", size, err)
		}
	}
	// The same model for smaller images has smaller windows in its last stage. They determine the
	// image size.
	small := m.Config
	small.ImageSize /= 2
	path = save(t, weights(small), nil)
	for _, size := range []int{2 * small.ImageSize, 3 * small.ImageSize} {
		if _, _, err := backbone.Load(path, backbone.LoadOptions{ImageSize: size}); err != nil {
			t.Errorf("a model made for %d px, at %d: %v", small.ImageSize, size, err)
		}
	}
	got, _, err := backbone.Load(path, backbone.LoadOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if got.Config.ImageSize != small.ImageSize {
		t.Fatalf("a model made for %d px is taken for one of %d", small.ImageSize, got.Config.ImageSize)
	}
	for name, w := range weights(small) {
		if x := got.Weights[name]; !slices.Equal(x.Shape, w.Shape) || !slices.Equal(x.Data, w.Data) {
			t.Fatalf("%s is not as it was saved", name)
		}
	}
}

// TestHeadsAssumed checks that HeadsAssumed is set if neither the checkpoint nor a file beside it
// determines the number of heads.
func TestHeadsAssumed(t *testing.T) {
	c := backbone.Config{ImageSize: 2, NumClasses: 1, NumHeads: 2, LayerNormEps: 1e-6,
		Form: backbone.ViT{PatchSize: 1, EmbedDim: 128, Depth: 1, HiddenDim: 1}}
	for config, want := range map[string]struct {
		heads   int
		assumed bool
	}{"": {2, true}, `{"num_attention_heads":4}`: {4, false}, `{"architecture":"vit_x"}`: {2, false}, `{"architecture":"vit_base_patch16_gap_224"}`: {16, false}} {
		path := save(t, weights(c), nil)
		if config != "" {
			beside(t, path, config)
		}
		m, _, err := backbone.Load(path, backbone.LoadOptions{})
		if err != nil {
			t.Errorf("%q: %v", config, err)
		} else if m.Config.NumHeads != want.heads || m.HeadsAssumed != want.assumed {
			t.Errorf("%q: %d heads, assumed %t, expected %+v", config, m.Config.NumHeads, m.HeadsAssumed, want)
		}
	}
	c.NumHeads, c.Form = 16, backbone.ViT{PatchSize: 1, EmbedDim: 1536, Depth: 1, HiddenDim: 1, NoClassToken: true, Pooling: "avg"}
	if m, _, err := backbone.Load(save(t, weights(c), nil), backbone.LoadOptions{}); err != nil || m.Config.NumHeads != 16 {
		t.Errorf("1536 wide without a class token: %v", err)
	}
}

// TestTimmName checks the variants that timm states only in the name of the model, which is in
// config.json or in the file name.
func TestTimmName(t *testing.T) {
	path := bare(t, "vit-quickgelu-timm", func(checkpoint.StateDict) {})
	named := filepath.Join(t.TempDir(), "vit_base_patch32_clip_quickgelu_224.openai.safetensors")
	if err := os.Rename(path, named); err != nil {
		t.Fatal(err)
	}
	if m, _, err := backbone.Load(named, backbone.LoadOptions{NumHeads: 2}); err != nil || !viT(m).QuickGELU {
		t.Errorf("%v", err)
	}
	rotary := filepath.Join(filepath.Dir(named), "vit_small_patch16_rope_ape_224.safetensors")
	if err := os.Rename(named, rotary); err != nil {
		t.Fatal(err)
	}
	if _, _, err := backbone.Load(rotary, backbone.LoadOptions{NumHeads: 2}); err == nil || !strings.Contains(err.Error(), "rope") {
		t.Errorf("rotary positions in the file name: %v", err)
	}
}

// TestConvMLP checks that MLPs that were 1×1 convolutions, as in timm's small models, are saved as
// such.
func TestConvMLP(t *testing.T) {
	for name, want := range map[string]bool{"convnext-v2-timmconv": true, "convnext-v2-timm": false} {
		f := fixtures.Backbone(t, name)
		m, _, err := backbone.Load(f.Path(), backbone.LoadOptions{})
		if err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(t.TempDir(), "saved.safetensors")
		if err := m.Save(path, "F32", nil); err != nil {
			t.Fatal(err)
		}
		saved, err := checkpoint.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		defer saved.Close()
		original := map[string][]int{}
		for _, info := range f.Open(t).Tensors() {
			original[info.Name] = info.Shape
		}
		seen := 0
		for _, info := range saved.Tensors() {
			if strings.Contains(info.Name, ".mlp.fc") && strings.HasSuffix(info.Name, "weight") {
				if seen++; !slices.Equal(info.Shape, original[info.Name]) || (len(info.Shape) == 4) != want {
					t.Errorf("%s: %s is saved as %v, was %v", name, info.Name, info.Shape, original[info.Name])
				}
			}
		}
		again, _, err := backbone.Load(path, backbone.LoadOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if seen == 0 || again.Fingerprint() != m.Fingerprint() {
			t.Errorf("%s: %d layers, fingerprint %s, expected %s", name, seen, again.Fingerprint(), m.Fingerprint())
		}
		// The shapes survive a second round, also for a model with other weights.
		twice := filepath.Join(t.TempDir(), "again.safetensors")
		if err := again.WithWeights(again.Weights).Save(twice, "F32", nil); err != nil {
			t.Fatal(err)
		}
		second, err := checkpoint.Open(twice)
		if err != nil {
			t.Fatal(err)
		}
		defer second.Close()
		if !reflect.DeepEqual(second.Tensors(), saved.Tensors()) {
			t.Errorf("%s: saved again as %v, was %v", name, second.Tensors(), saved.Tensors())
		}
	}
}

// TestBeyondTimm checks which models are reported to compute something else than timm.
func TestBeyondTimm(t *testing.T) {
	for name, want := range map[string]string{"vit-cls-timm": "", "vit-dinov2-hf5": "mean of the patches", "vit-distilled-hf5": "", "vit-distilled-timm": "",
		"swin-even-hf5": "", "swin-padded-hf5": "padded", "swin-padded-timm": "", "convnext-v1-hf": ""} {
		f, o := fixtures.Backbone(t, name), backbone.LoadOptions{}
		if strings.HasPrefix(name, "vit") {
			o = options(f)
		}
		m, _, err := backbone.Load(f.Path(), o)
		if err != nil {
			t.Fatal(err)
		}
		if name == "vit-distilled-hf5" { // with only the head of the class token
			c, v := m.Config, viT(m)
			v.Pooling = ""
			if c.Form = v; !strings.Contains(c.BeyondTimm(), "second head") {
				t.Errorf("%s with one head: %q", name, c.BeyondTimm())
			}
		}
		if got := m.Config.BeyondTimm(); (got == "") != (want == "") || !strings.Contains(got, want) {
			t.Errorf("%s: %q, expected %q", name, got, want)
		}
	}
}
