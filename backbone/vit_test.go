package backbone_test

import (
	"fmt"
	"math"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	. "github.com/gomlx/gomlx/core/graph"

	"github.com/gomlx/compute/gobackend"

	"github.com/sptune/spt/backbone"
	"github.com/sptune/spt/backend"
	"github.com/sptune/spt/checkpoint"
	"github.com/sptune/spt/internal/fixtures"
	"github.com/sptune/spt/internal/program"
	"github.com/sptune/spt/objective"
)

// options returns the options that a user has to give for a fixture. The number of heads is needed
// if no config.json states it, because these models are narrow. The number of classes is needed if
// there is no head.
func options(f fixtures.Fixture) (o backbone.LoadOptions) {
	if _, err := os.Stat(filepath.Join(f.Dir, "config.json")); err != nil && !strings.HasSuffix(f.Weights, ".npz") {
		o.NumHeads = f.NumHeads[0]
	}
	if !f.HasLogits {
		o.NumClasses = 5
	}
	return o
}

func load(t *testing.T, f fixtures.Fixture) *backbone.Model {
	t.Helper()
	m, report, err := backbone.Load(f.Path(), options(f))
	if err != nil {
		t.Fatal(err)
	}
	if len(report.Missing)+len(report.WrongShape) > 0 {
		t.Fatalf("report %+v", report)
	}
	return m
}

// normalised returns the images of a fixture, normalised like in the library of the fixture.
func normalised(t *testing.T, f fixtures.Fixture) []float32 {
	t.Helper()
	var out []float32
	for i, v := range f.Pixels(t) {
		out = append(out, float32((float64(v)/255-float64(f.Preprocessing.Mean[i%3]))/float64(f.Preprocessing.Std[i%3])))
	}
	return out
}

// run builds a graph of the weights by name and of two images, and runs it.
func run(t *testing.T, be backend.Backend, m *backbone.Model, images []float32, build func(w backbone.Layers, images *Node) []*Node) [][]float32 {
	t.Helper()
	var names []string
	var args []any
	placed, err := m.On(be)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range m.Config.Params() {
		if placed[p.Name] != nil {
			names, args = append(names, p.Name), append(args, placed[p.Name])
		}
	}
	size := m.Config.ImageSize
	x, err := program.Tensor(be, images, 2, size, size, 3)
	if err != nil {
		t.Fatal(err)
	}
	compiled, err := program.New(be, "test", func(_ *Graph, in []*Node) []*Node {
		byName := map[string]*Node{}
		for i, name := range names {
			byName[name] = in[i]
		}
		return build(backbone.Untuned(byName), in[len(names)])
	})
	if err != nil {
		t.Fatal(err)
	}
	defer compiled.Close()
	out, err := compiled.Run(t.Context(), append(args, x)...)
	if err != nil {
		t.Fatal(err)
	}
	host := make([][]float32, len(out))
	for i := range out {
		if host[i], err = program.Float32s(out[i]); err != nil {
			t.Fatal(err)
		}
	}
	return host
}

// difference returns the largest difference, divided by the largest wanted value.
func difference(got, want []float32) float64 {
	if len(got) != len(want) {
		return math.Inf(1)
	}
	var d, largest float64
	for i, w := range want {
		d = max(d, math.Abs(float64(got[i]-w)))
		largest = max(largest, math.Abs(float64(w)))
	}
	return d / largest
}

func backends(t *testing.T) (fast, plain backend.Backend) {
	t.Helper()
	fast, _, err := backend.Open("cpu", 1)
	if err != nil {
		t.Fatal(err)
	}
	plain, err = gobackend.New("ops_sequential")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(plain.Finalize)
	return fast, plain
}

// viT returns the form of a model that is a ViT.
func viT(m *backbone.Model) backbone.ViT { return m.Config.Form.(backbone.ViT) }

func vits(t *testing.T) (list []fixtures.Fixture) {
	t.Helper()
	for _, f := range fixtures.Backbones(t) {
		if f.Family == "vit" {
			list = append(list, f)
		}
	}
	return list
}

// TestViTFixtures compares features and logits of every variant, in every naming scheme, with the
// results of the library that uses the scheme.
func TestViTFixtures(t *testing.T) {
	fast, plain := backends(t)
	worst := 0.0
	for _, f := range vits(t) {
		t.Run(f.Name, func(t *testing.T) {
			m := load(t, f)
			for i, be := range []backend.Backend{fast, plain} {
				if be == plain && f.Naming != "timm" && f.Pooling != "token+avg" {
					continue // one checkpoint of each variant is enough
				}
				out := run(t, be, m, normalised(t, f), func(w backbone.Layers, images *Node) []*Node {
					out := []*Node{m.Config.Features(w, 0, images)}
					if f.HasLogits {
						out = append(out, m.Config.Classify(w, out[0]))
					}
					return out
				})
				if viT(m).DistToken { // the fixture has the mean of the inputs of the two heads
					out[0] = halvesMean(out[0], viT(m).EmbedDim)
				}
				d := difference(out[0], f.Features(t).Data)
				if f.HasLogits {
					d = max(d, difference(out[1], f.Logits(t).Data))
				}
				worst = max(worst, d)
				if !(d <= 1e-4) {
					t.Errorf("backend %d: features %v, logits %v: differ by %.2g", i, out[0][:4], out[1:], d)
				}
			}
		})
	}
	t.Logf("largest relative difference %.2g", worst)
}

// halvesMean returns the mean of the first d and the last d values of each row of 2d values.
func halvesMean(x []float32, d int) (out []float32) {
	for row := range slices.Chunk(x, 2*d) {
		for i := range d {
			out = append(out, (row[i]+row[d+i])/2)
		}
	}
	return out
}

// TestViTGradients compares the gradients of all tensors between the CPU backend, which has fused
// operations, and the Go backend, which has none.
func TestViTGradients(t *testing.T) {
	fast, plain := backends(t)
	for _, f := range vits(t) {
		if f.Naming != "timm" && f.Naming != "hf5" {
			continue
		}
		m := load(t, f)
		var grads [2][][]float32
		for i, be := range []backend.Backend{fast, plain} {
			grads[i] = run(t, be, m, normalised(t, f), func(w backbone.Layers, images *Node) []*Node {
				y := m.Config.Features(w, 0, images)
				var all []*Node
				for _, p := range m.Config.Params() {
					if p.Role != backbone.Head {
						all = append(all, w.Param(p.Name))
					}
				}
				label := Const(images.Graph(), []int32{1, 3})
				return Gradient(objective.SingleLabel.Loss(y, label), all...)
			})
		}
		for i, p := range m.Config.Params() {
			if p.Role == backbone.Head {
				continue
			}
			largest := 0.0
			for _, v := range grads[1][i] {
				largest = max(largest, math.Abs(float64(v)))
			}
			// Adding the same value to all keys changes no probability, so the gradient of this
			// bias is only rounding error.
			if strings.HasSuffix(p.Name, "attn.k_norm.bias") || strings.HasSuffix(p.Name, "attn.k.bias") && !viT(m).QKNorm {
				continue
			}
			if d := difference(grads[0][i], grads[1][i]); largest == 0 || !(d <= 1e-4) {
				t.Errorf("%s: %s: gradients of up to %g differ by %.2g", f.Name, p.Name, largest, d)
			}
		}
	}
}

// TestViTForms checks which fields are recognised for each variant, and that the tensors are listed
// in the order of timm's named_parameters.
func TestViTForms(t *testing.T) {
	plain := backbone.Config{ImageSize: 24, NumClasses: 5, NumHeads: 2, LayerNormEps: 1e-6,
		Form: backbone.ViT{PatchSize: 4, EmbedDim: 12, Depth: 2, HiddenDim: 24}}
	with := func(change func(v *backbone.ViT)) backbone.Config {
		c, v := plain, plain.Form.(backbone.ViT)
		change(&v)
		c.Form = v
		return c
	}
	clip := func(c backbone.Config) backbone.Config { c.LayerNormEps = 1e-5; return c }
	hf := func(c backbone.Config) backbone.Config { c.LayerNormEps = 1e-12; return c }
	dinov2 := func(pooling string, registers int, swiglu bool) backbone.Config {
		return with(func(v *backbone.ViT) {
			v.LayerScale, v.Pooling, v.Registers, v.SwiGLU, v.PatchPositions = true, pooling, registers, swiglu, registers > 0
		})
	}
	distilled := with(func(v *backbone.ViT) { v.DistToken, v.Pooling = true, "token+dist" })
	noBias := with(func(v *backbone.ViT) { v.NoQKVBias = true })
	preNorm := clip(with(func(v *backbone.ViT) { v.PreNorm, v.NoPatchBias = true, true }))
	for name, want := range map[string]backbone.Config{
		"vit-cls-timm":               plain,
		"vit-cls-hf5":                hf(plain),
		"vit-avg-timm":               with(func(v *backbone.ViT) { v.Pooling, v.FCNorm = "avg", true }),
		"vit-avg-mae":                with(func(v *backbone.ViT) { v.Pooling, v.FCNorm = "avg", true }),
		"vit-nocls-bigvision":        with(func(v *backbone.ViT) { v.Pooling, v.NoClassToken = "avg", true }),
		"vit-noqkvbias-timm":         noBias,
		"vit-noqkvbias-hf4":          hf(noBias),
		"vit-prenorm-timm":           preNorm,
		"vit-quickgelu-timm":         clip(with(func(v *backbone.ViT) { v.PreNorm, v.NoPatchBias, v.QuickGELU = true, true, true })),
		"vit-distilled-timm":         distilled,
		"vit-distilled-hf5":          hf(distilled),
		"vit-qknorm-timm":            with(func(v *backbone.ViT) { v.QKNorm, v.Registers = true, 2 }),
		"vit-patchpos-timm":          with(func(v *backbone.ViT) { v.LayerScale, v.PatchPositions, v.Pooling = true, true, "avg" }),
		"vit-dinov2-facebook":        dinov2("", 0, false),
		"vit-dinov2-hf5":             dinov2("token+avg", 0, false),
		"vit-dinov2reg-timm":         dinov2("", 4, false),
		"vit-dinov2reg-hf4":          dinov2("token+avg", 4, false),
		"vit-dinov2swiglu-timm":      dinov2("", 0, true),
		"vit-dinov2swiglu-hf5":       dinov2("token+avg", 0, true),
		"vit-cls-google":             plain,
		"vit-cls-mocov3":             plain,
		"vit-nocls-timm":             with(func(v *backbone.ViT) { v.Pooling, v.NoClassToken = "avg", true }),
		"vit-dinov2swiglu-hf4":       dinov2("token+avg", 0, true),
		"vit-dinov2reg-facebook":     dinov2("", 4, false),
		"vit-nocls-bigvisionstacked": with(func(v *backbone.ViT) { v.Pooling, v.NoClassToken = "avg", true }),
	} {
		if got := load(t, fixtures.Backbone(t, name)).Config; !reflect.DeepEqual(got, want) {
			t.Errorf("%s:\n%+v, want\n%+v", name, got, want)
		}
	}
	// The names of timm, with q, k and v in place of qkv.
	for name, want := range map[string]string{
		"vit-distilled-timm": "cls_token pos_embed dist_token patch_embed.proj.weight patch_embed.proj.bias blocks.0.norm1.weight",
		"vit-dinov2reg-timm": "cls_token reg_token pos_embed patch_embed.proj.weight",
		"vit-prenorm-timm":   "cls_token pos_embed patch_embed.proj.weight norm_pre.weight norm_pre.bias blocks.0.norm1.weight",
		"vit-qknorm-timm":    "attn.v.bias blocks.0.attn.q_norm.weight blocks.0.attn.q_norm.bias blocks.0.attn.k_norm.weight blocks.0.attn.k_norm.bias blocks.0.attn.proj.weight",
		"vit-patchpos-timm":  "attn.proj.bias blocks.0.ls1.gamma blocks.0.norm2.weight blocks.0.norm2.bias blocks.0.mlp.fc1.weight blocks.0.mlp.fc1.bias blocks.0.mlp.fc2.weight blocks.0.mlp.fc2.bias blocks.0.ls2.gamma blocks.1.norm1.weight",
		"vit-avg-timm":       "blocks.1.mlp.fc2.bias fc_norm.weight fc_norm.bias head.weight head.bias",
		"vit-noqkvbias-timm": "blocks.0.attn.q.weight blocks.0.attn.k.weight blocks.0.attn.v.weight blocks.0.attn.proj.weight",
	} {
		var names []string
		for _, p := range load(t, fixtures.Backbone(t, name)).Config.Params() {
			names = append(names, p.Name)
		}
		if got := strings.Join(names, " "); !strings.Contains(got, want) {
			t.Errorf("%s: %s, want %s", name, got, want)
		}
	}
}

// TestViTRoles checks that class and distillation tokens are always tuned, and that the tensors
// before the first block are never tuned.
func TestViTRoles(t *testing.T) {
	for name, want := range map[string]string{"vit-distilled-timm": "cls_token dist_token 24", "vit-dinov2reg-timm": "cls_token 12", "vit-nocls-timm": "0"} {
		tokens, size := load(t, fixtures.Backbone(t, name)).Config.ClassTokens()
		if got := strings.Join(append(tokens, fmt.Sprint(size)), " "); got != want {
			t.Errorf("%s: %s, want %s", name, got, want)
		}
	}
	for _, f := range vits(t) {
		for _, p := range load(t, f).Config.Params() {
			scored := strings.HasPrefix(p.Name, "blocks.") || strings.HasPrefix(p.Name, "norm.") || strings.HasPrefix(p.Name, "fc_norm.")
			if scored != (p.Role == backbone.Scored) {
				t.Errorf("%s: %s has role %d", f.Name, p.Name, p.Role)
			}
			if matrix := strings.Contains(p.Name, "attn.") || strings.Contains(p.Name, "mlp."); p.Matrix() != (matrix && len(p.Shape) == 2) {
				t.Errorf("%s: %s of shape %v: matrix %t", f.Name, p.Name, p.Shape, p.Matrix())
			}
		}
	}
}

// TestViTSave checks that Load reads what Save writes as the same model. If timm's names and shapes
// determine everything, this must also work without the metadata of spt.
func TestViTSave(t *testing.T) {
	for _, f := range vits(t) {
		if !f.HasLogits {
			continue
		}
		m := load(t, f)
		path := filepath.Join(t.TempDir(), "model.safetensors")
		if err := m.Save(path, checkpoint.F32, nil); err != nil {
			t.Fatal(err)
		}
		got, report, err := backbone.Load(path, backbone.LoadOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if !reflect.DeepEqual(got.Config, m.Config) || got.Fingerprint() != m.Fingerprint() || len(report.Unused) > 0 {
			t.Errorf("%s: read back %+v, unused %v", f.Name, got.Config, report.Unused)
		}
		for _, name := range []string{"head.weight", "head.bias"} {
			if !slices.Equal(got.Weights[name].Data, m.Weights[name].Data) {
				t.Errorf("%s: another %s", f.Name, name)
			}
		}
		file, err := checkpoint.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		defer file.Close()
		if viT(m).DistToken { // timm's shapes
			if w, err := file.Float32("head_dist.weight"); err != nil || !slices.Equal(w.Shape, []int{5, 12}) {
				t.Errorf("%s: head_dist %v, %v", f.Name, w.Shape, err)
			}
		}
	}
}

// TestViTNewHead checks that the features are the same with the head of the checkpoint and with a
// new head, and that unused heads are reported.
func TestViTNewHead(t *testing.T) {
	for _, f := range vits(t) {
		if !f.HasLogits {
			continue
		}
		o := options(f)
		o.NumClasses = 7
		m, report, err := backbone.Load(f.Path(), o)
		if err != nil {
			t.Fatal(err)
		}
		want := load(t, f).Config
		want.NumClasses = 7
		if !reflect.DeepEqual(m.Config, want) {
			t.Errorf("%s: %+v, want %+v", f.Name, m.Config, want)
		}
		heads := []string{"head.bias", "head.weight"}
		if viT(m).DistToken {
			heads = []string{"head.bias", "head.weight", "head_dist.bias", "head_dist.weight"}
		}
		for _, h := range heads {
			if !slices.Contains(report.Unused, h) {
				t.Errorf("%s: unused %v lack %s", f.Name, report.Unused, h)
			}
		}
	}
}

// TestViTImageSize checks that another image size resizes only the positions of the patch tokens.
// Resizing back to the old size restores an embedding that is linear in the position, up to bicubic
// rounding.
func TestViTImageSize(t *testing.T) {
	for name, before := range map[string]int{"vit-cls-timm": 1, "vit-distilled-timm": 2, "vit-qknorm-timm": 3, "vit-nocls-timm": 0, "vit-dinov2reg-timm": 0, "vit-patchpos-timm": 0} {
		f := fixtures.Backbone(t, name)
		own := load(t, f)
		o := options(f)
		o.ImageSize = 40
		m, _, err := backbone.Load(f.Path(), o)
		if err != nil {
			t.Fatal(err)
		}
		got, pos := m.Weights["pos_embed"], own.Weights["pos_embed"]
		want, err := backbone.ResizePosEmbed(pos, before, [2]int{6, 6}, [2]int{10, 10})
		if err != nil {
			t.Fatal(err)
		}
		if !slices.Equal(got.Shape, []int{1, before + 100, 12}) || !slices.Equal(got.Data, want.Data) || !slices.Equal(got.Data[:before*12], pos.Data[:before*12]) {
			t.Errorf("%s: positions %v", name, got.Shape)
		}
		if m.Config.ImageSize != 40 || m.Config.Tokens()-own.Config.Tokens() != 64 {
			t.Errorf("%s: %+v", name, m.Config)
		}
		images := make([]float32, 2*40*40*3)
		for i := range images {
			images[i] = float32(i%17)/17 - 0.5
		}
		fast, _ := backends(t)
		out := run(t, fast, m, images, func(w backbone.Layers, x *Node) []*Node { return []*Node{m.Config.Features(w, 0, x)} })
		if len(out[0]) != 2*m.Config.NumFeatures() {
			t.Errorf("%s: %d features", name, len(out[0]))
		}
	}
}

// bare writes the changed tensors of a fixture to a file, without metadata and without files beside
// it.
func bare(t *testing.T, name string, change func(sd checkpoint.StateDict)) string {
	t.Helper()
	sd, _, err := fixtures.Backbone(t, name).Open(t).Canonical(backbone.AllNamings())
	if err != nil {
		t.Fatal(err)
	}
	change(sd)
	return save(t, sd, nil)
}

// beside writes a config.json beside a checkpoint.
func beside(t *testing.T, path, config string) string {
	t.Helper()
	if err := os.WriteFile(filepath.Join(filepath.Dir(path), "config.json"), []byte(config), 0o666); err != nil {
		t.Fatal(err)
	}
	return path
}

// TestViTAssumptions checks the values that no tensor determines. They come from config.json or
// from the published models.
func TestViTAssumptions(t *testing.T) {
	nothing := func(checkpoint.StateDict) {}
	for name, c := range map[string]struct {
		path string
		o    backbone.LoadOptions
		ok   func(c backbone.Config, v backbone.ViT) bool
	}{
		"heads of norms of queries": {bare(t, "vit-qknorm-timm", nothing), backbone.LoadOptions{},
			func(c backbone.Config, v backbone.ViT) bool { return c.NumHeads == 2 }},
		"eps of CLIP": {bare(t, "vit-prenorm-timm", nothing), backbone.LoadOptions{NumHeads: 2},
			func(c backbone.Config, v backbone.ViT) bool { return c.LayerNormEps == 1e-5 && !v.QuickGELU }},
		"one head of a distilled ViT": {bare(t, "vit-distilled-timm", func(sd checkpoint.StateDict) { delete(sd, "head_dist.weight"); delete(sd, "head_dist.bias") }),
			backbone.LoadOptions{NumHeads: 2}, func(c backbone.Config, v backbone.ViT) bool {
				return v.Pooling == "" && v.DistToken && c.Tokens() == 38
			}},
		"mean with the usual norm": {beside(t, bare(t, "vit-cls-timm", nothing), `{"architecture":"x","global_pool":"avg","model_args":{"num_heads":3}}`),
			backbone.LoadOptions{}, func(c backbone.Config, v backbone.ViT) bool {
				return v.Pooling == "avg" && !v.FCNorm && c.NumHeads == 3
			}},
		"new head for another pooling": {beside(t, bare(t, "vit-nocls-timm", nothing), `{"global_pool":"map"}`),
			backbone.LoadOptions{NumHeads: 2, NumClasses: 2}, func(c backbone.Config, v backbone.ViT) bool { return v.Pooling == "avg" }},
		"eps of Hugging Face": {huggingFace(t, "vit-cls-hf5"), backbone.LoadOptions{NumHeads: 2},
			func(c backbone.Config, v backbone.ViT) bool { return c.LayerNormEps == 1e-12 }},
		"eps of Hugging Face's DINOv2": {huggingFace(t, "vit-dinov2-hf4"), backbone.LoadOptions{NumHeads: 2},
			func(c backbone.Config, v backbone.ViT) bool {
				return c.LayerNormEps == 1e-6 && v.Pooling == "token+avg"
			}},
	} {
		m, _, err := backbone.Load(c.path, c.o)
		if err != nil {
			t.Errorf("%s: %v", name, err)
		} else if !c.ok(m.Config, viT(m)) {
			t.Errorf("%s: %+v", name, m.Config)
		}
	}
	// Widths, and the number of heads of published models with these widths.
	for width, heads := range map[int]int{192: 3, 1024: 16, 1152: 16, 1280: 16, 1408: 16, 1536: 24, 1664: 16} {
		c := backbone.Config{ImageSize: 2, NumClasses: 1, NumHeads: heads, LayerNormEps: 1e-6,
			Form: backbone.ViT{PatchSize: 1, EmbedDim: width, Depth: 1, HiddenDim: 1}}
		m, _, err := backbone.Load(save(t, weights(c), nil), backbone.LoadOptions{})
		if err != nil {
			t.Errorf("width %d: %v", width, err)
		} else if m.Config.NumHeads != heads {
			t.Errorf("width %d: %d heads, want %d", width, m.Config.NumHeads, heads)
		}
	}
}

// huggingFace copies the weights of a fixture without the files beside them, and returns the path.
func huggingFace(t *testing.T, name string) string {
	t.Helper()
	data, err := os.ReadFile(fixtures.Backbone(t, name).Path())
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "model.safetensors")
	if err := os.WriteFile(path, data, 0o666); err != nil {
		t.Fatal(err)
	}
	return path
}

// TestViTRefuses checks that unsupported variants, and impossible values in a file, are refused.
func TestViTRefuses(t *testing.T) {
	nothing := func(checkpoint.StateDict) {}
	set := func(name string, shape ...int) func(checkpoint.StateDict) {
		return func(sd checkpoint.StateDict) { sd[name] = checkpoint.NewTensor(shape...) }
	}
	o := backbone.LoadOptions{NumHeads: 2}
	for name, c := range map[string]struct {
		path string
		want []string
	}{
		"activation":     {beside(t, bare(t, "vit-cls-timm", nothing), `{"hidden_act":"relu"}`), []string{"relu", "quick_gelu"}},
		"silu":           {beside(t, bare(t, "vit-cls-timm", nothing), `{"hidden_act":"silu"}`), []string{"silu", "gated"}},
		"map":            {beside(t, bare(t, "vit-nocls-timm", nothing), `{"global_pool":"map"}`), []string{"map", "new head"}},
		"attention pool": {bare(t, "vit-nocls-timm", set("attn_pool.latent", 1, 1, 12)), []string{"map", "new head"}},
		"no class token": {beside(t, bare(t, "vit-nocls-timm", nothing), `{"global_pool":"token"}`), []string{"token"}},
		"uneven blocks":  {bare(t, "vit-cls-timm", set("blocks.1.ls1.gamma", 12)), []string{"blocks.1.ls1.gamma", "not all alike"}},
		"one bias":       {bare(t, "vit-cls-timm", func(sd checkpoint.StateDict) { delete(sd, "blocks.0.attn.k.bias") }), []string{"blocks.0.attn.k.bias"}},
		"uneven scales":  {bare(t, "vit-patchpos-timm", func(sd checkpoint.StateDict) { delete(sd, "blocks.1.ls2.gamma") }), []string{"blocks.1.ls2.gamma"}},
		"registers":      {bare(t, "vit-dinov2reg-timm", set("reg_token", 1, 5000, 12)), []string{"reg_token", "5000", "1024"}},
		"register shape": {bare(t, "vit-dinov2reg-timm", set("reg_token", 4, 12)), []string{"reg_token", "3 dimensions"}},
		"positions":      {bare(t, "vit-dinov2reg-timm", set("pos_embed", 1, 35, 12)), []string{"pos_embed", "35"}},
		"no positions":   {bare(t, "vit-dinov2reg-timm", set("pos_embed", 1, 0, 12)), []string{"pos_embed", "0 positions"}},
		"second head":    {bare(t, "vit-distilled-timm", set("head_dist.weight", 4, 12)), []string{"head_dist.weight", "[4 12]", "[5 12]"}},
		"wide head":      {bare(t, "vit-cls-timm", set("head.weight", 5, 36)), []string{"head.weight", "[5 36]", "[5 12]"}},
		"norm width":     {bare(t, "vit-qknorm-timm", set("blocks.0.attn.q_norm.weight", 5)), []string{"blocks.0.attn.q_norm.weight", "[5]", "[6]"}},
		"MLP": {bare(t, "vit-cls-timm", func(sd checkpoint.StateDict) {
			set("blocks.0.mlp.fc1.weight", 0, 12)(sd)
			set("blocks.0.mlp.fc2.weight", 12, 0)(sd)
		}), []string{"MLP width 0"}},
	} {
		_, _, err := backbone.Load(c.path, o)
		if err == nil {
			t.Errorf("%s: accepted", name)
			continue
		}
		for _, w := range c.want {
			if !strings.Contains(err.Error(), w) {
				t.Errorf("%s: %q does not name %q", name, err, w)
			}
		}
	}
	plain := load(t, fixtures.Backbone(t, "vit-cls-timm")).Config
	for want, change := range map[string]func(v *backbone.ViT){
		"does not have":   func(v *backbone.ViT) { v.Pooling = "token+dist" },
		"pooling \"\"":    func(v *backbone.ViT) { v.NoClassToken = true },
		"pooling \"max\"": func(v *backbone.ViT) { v.Pooling = "max" },
		"register":        func(v *backbone.ViT) { v.Registers = -1 },
		"norm after":      func(v *backbone.ViT) { v.Pooling, v.FCNorm = "token+avg", true },
	} {
		c, v := plain, plain.Form.(backbone.ViT)
		change(&v)
		c.Form = v
		if err := c.Validate(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%+v: %v, want %q", c, err, want)
		}
	}
}
