package peft_test

import (
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	. "github.com/gomlx/gomlx/core/graph"

	"github.com/sptune/spt/backbone"
	"github.com/sptune/spt/backend"
	"github.com/sptune/spt/checkpoint"
	"github.com/sptune/spt/internal/golden/sptsmall"
	"github.com/sptune/spt/internal/program"
	"github.com/sptune/spt/peft"
)

// linears applies layers to the same input x [B, N, 8] in one forward pass, and returns their
// outputs. All tensors that are missing in weights or tuned are an error. rates is nil in
// evaluation.
func linears(t *testing.T, tuning *peft.Tuning, weights, tuned checkpoint.StateDict, x checkpoint.Tensor, rates *peft.Rates, names ...string) (outputs [][]float32) {
	t.Helper()
	be, _, err := backend.Open("cpu", 1)
	if err != nil {
		t.Fatal(err)
	}
	compiled, err := program.New(be, "layers", func(g *Graph, in []*Node) (out []*Node) {
		given := peft.Inputs{Frozen: map[string]*Node{}, Tuned: map[string]*Node{}}
		for name, w := range weights {
			given.Frozen[name] = Reshape(Const(g, w.Data), w.Shape...)
		}
		for name, w := range tuned {
			given.Tuned[name] = Reshape(Const(g, w.Data), w.Shape...)
		}
		if rates != nil {
			given.RNG, given.Rates = Const(g, []uint64{1, 2, 3}), *rates
		}
		layers := tuning.Layers(given)
		for _, name := range names {
			out = append(out, layers.Linear(name, in[0]))
		}
		return out
	})
	if err != nil {
		t.Fatal(err)
	}
	defer compiled.Close()
	input, err := program.Tensor(be, x.Data, x.Shape...)
	if err != nil {
		t.Fatal(err)
	}
	nodes, err := compiled.Run(t.Context(), input)
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range nodes {
		values, err := program.Float32s(n)
		if err != nil {
			t.Fatal(err)
		}
		outputs = append(outputs, values)
	}
	return outputs
}

// randomTensor returns normally distributed values.
func randomTensor(r *rand.Rand, shape ...int) checkpoint.Tensor {
	x := checkpoint.NewTensor(shape...)
	for i := range x.Data {
		x.Data[i] = float32(r.NormFloat64())
	}
	return x
}

// TestModuleDrops checks where the built-in modules drop, against their output without drops:
// drop-path drops the whole output of the module for some images, the bias of the adapter included,
// and doubles it for the others at a rate of 0.5. Dropout changes the input, except on attn.proj.
func TestModuleDrops(t *testing.T) {
	const images, tokens, width = 24, 3, 8
	r := rand.New(rand.NewPCG(1, 2))
	x := randomTensor(r, images, tokens, width)
	for _, module := range []string{"lora", "adapter", "adapter-scaled", "dora"} {
		tuning, err := peft.New(config, peft.Uniform(config, module, 2))
		if err != nil {
			t.Fatal(err)
		}
		weights, tuned := checkpoint.StateDict{}, checkpoint.StateDict{}
		for _, p := range config.Params() {
			weights[p.Name] = randomTensor(r, p.Shape...)
		}
		for _, p := range tuning.Params {
			tuned[p.Name] = randomTensor(r, p.Shape...)
		}
		plain, err := peft.New(config, peft.Selection{})
		if err != nil {
			t.Fatal(err)
		}
		for _, layer := range []string{"blocks.1.attn.q", "blocks.1.attn.proj", "blocks.0.mlp.fc1"} {
			frozen := linears(t, plain, weights, tuned, x, nil, layer)[0]
			whole := linears(t, tuning, weights, tuned, x, nil, layer)[0]
			path := linears(t, tuning, weights, tuned, x, &peft.Rates{ModuleDropPath: 0.5}, layer)[0]
			dropped := 0
			for image := range images {
				// The factor on the output of the module is 0 or 2 for each image.
				factor, n := -1.0, len(whole)/images
				for i := image * n; i < (image+1)*n; i++ {
					f := float64(path[i]-frozen[i]) / float64(whole[i]-frozen[i])
					if math.Abs(float64(whole[i]-frozen[i])) < 0.05 {
						continue // too small to divide by
					}
					if factor < 0 {
						factor = math.Round(f)
					}
					if math.Abs(f-factor) > 1e-3 || factor != 0 && factor != 2 {
						t.Fatalf("%s on %s: drop-path multiplies the output of the module by %g for value %d of image %d, expected 0 or 2 for all values", module, layer, f, i, image)
					}
				}
				if factor == 0 {
					dropped++
				}
			}
			if dropped < 4 || dropped > 20 {
				t.Errorf("%s on %s: drop-path at a rate of 0.5 drops %d of %d images", module, layer, dropped, images)
			}
			dropout := linears(t, tuning, weights, tuned, x, &peft.Rates{Dropout: 0.5}, layer)[0]
			if same := slices.Equal(dropout, whole); same != (layer == "blocks.1.attn.proj") {
				t.Errorf("%s on %s: dropout changes the output: %t", module, layer, !same)
			}
		}
		if module != "lora" {
			continue
		}
		// With equal weights, q, k and v differ only in what they drop of their common input.
		for _, kind := range []string{"weight", "bias", "lora_A", "lora_B"} {
			for _, other := range []string{"k", "v"} {
				for _, sd := range []checkpoint.StateDict{weights, tuned} {
					if w, ok := sd["blocks.1.attn.q."+kind]; ok {
						sd["blocks.1.attn."+other+"."+kind] = w
					}
				}
			}
		}
		for _, shared := range []bool{false, true} {
			out := linears(t, tuning, weights, tuned, x, &peft.Rates{Dropout: 0.5, SharedDropout: shared}, "blocks.1.attn.q", "blocks.1.attn.k", "blocks.1.attn.v")
			if slices.Equal(out[0], out[1]) != shared || slices.Equal(out[1], out[2]) != shared {
				t.Errorf("shared dropout %t: the modules on q, k and v drop the same values: %t, %t", shared, slices.Equal(out[0], out[1]), slices.Equal(out[1], out[2]))
			}
		}
	}
}

// TestReleaseScheme compares the initial values of ReleaseScheme with the initial values of the
// reference release: the same tensors are zero, and the others have the same mean and deviation.
func TestReleaseScheme(t *testing.T) {
	s := sptsmall.Open(t)
	model := s.Model(t)
	for run := range s.Training {
		release := s.Run(t, model.Config, run)
		tuning, err := peft.New(model.Config, release.Selection)
		if err != nil {
			t.Fatal(err)
		}
		ours := tuning.Init(0, peft.ReleaseScheme, model.Weights)
		paper := tuning.Init(0, peft.PaperScheme, model.Weights)
		drawn := 0
		for _, p := range tuning.Params {
			want, got := moments(release.Initial[p.Name]), moments(ours[p.Name])
			if p.Head {
				continue // a new head, drawn in the same way by both
			}
			if _, own := model.Weights[p.Name]; own || want.deviation == 0 {
				if !slices.Equal(ours[p.Name].Data, release.Initial[p.Name].Data) {
					t.Errorf("%s, %s: starts with mean %g and deviation %g, in the release with %g and %g", run, p.Name, got.mean, got.deviation, want.mean, want.deviation)
				}
				continue
			}
			drawn++
			// The standard errors of the mean and of the deviation of n normal values are σ/√n and
			// σ/√2n. Both sides have this error.
			n := float64(p.Size())
			if math.Abs(got.mean-want.mean) > 5*0.02*math.Sqrt(2/n) || math.Abs(got.deviation-want.deviation) > 5*0.02/math.Sqrt(n) {
				t.Errorf("%s, %s: starts with mean %g and deviation %g, in the release with %g and %g", run, p.Name, got.mean, got.deviation, want.mean, want.deviation)
			}
			if was := moments(paper[p.Name]); was.deviation > 0 && math.Abs(was.deviation-want.deviation) < 0.02 {
				t.Errorf("%s, %s: the scheme of the papers starts with deviation %g, expected another one than in the release", run, p.Name, was.deviation)
			}
		}
		if want := 2 * len(release.Selection.Structured); drawn != want {
			t.Errorf("%s: %d tensors start at random, expected the two matrices of %d modules", run, drawn, want/2)
		}
	}
}

// stats holds the moments of the values of a tensor.
type stats struct{ mean, deviation float64 }

func moments(x checkpoint.Tensor) (s stats) {
	n := float64(len(x.Data))
	for _, v := range x.Data {
		s.mean += float64(v) / n
	}
	for _, v := range x.Data {
		s.deviation += (float64(v) - s.mean) * (float64(v) - s.mean) / n
	}
	s.deviation = math.Sqrt(s.deviation)
	return s
}

// TestDecay checks which tensors weight decay applies to: by their role, as in the release and in
// timm.
func TestDecay(t *testing.T) {
	full, err := peft.New(config, peft.Full(config))
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range full.Params {
		want := p.Name != "cls_token" && p.Name != "pos_embed" && len(p.Shape) > 1
		if p.Decays != want {
			t.Errorf("%s of shape %v: weight decay %t, expected %t", p.Name, p.Shape, p.Decays, want)
		}
	}
	distilled := config
	distilled.Form = backbone.ViT{PatchSize: 4, EmbedDim: 8, Depth: 2, HiddenDim: 16, DistToken: true, Registers: 2}
	selection := peft.Uniform(distilled, "adapter", 2)
	selection.Whole = []string{"cls_token", "dist_token", "reg_token", "blocks.0.norm1.weight"}
	selection.Entries = map[string][]int32{"blocks.0.attn.q.bias": {1}}
	tuning, err := peft.New(distilled, selection)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range tuning.Params {
		_, own := map[string]bool{"cls_token": true, "dist_token": true, "reg_token": true}[p.Name]
		if want := len(p.Shape) > 1 && !own; p.Decays != want {
			t.Errorf("%s of shape %v: weight decay %t, expected %t", p.Name, p.Shape, p.Decays, want)
		}
	}
}
