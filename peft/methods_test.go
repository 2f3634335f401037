package peft_test

import (
	"math"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	. "github.com/gomlx/gomlx/core/graph"

	"github.com/gomlx/compute"
	"github.com/gomlx/compute/gobackend"

	"github.com/sptune/spt/backbone"
	"github.com/sptune/spt/backend"
	"github.com/sptune/spt/checkpoint"
	"github.com/sptune/spt/internal/colours"
	"github.com/sptune/spt/internal/fixtures"
	"github.com/sptune/spt/internal/program"
	"github.com/sptune/spt/method"
	"github.com/sptune/spt/objective"
	"github.com/sptune/spt/peft"
)

// backends returns the CPU backend of spt and the Go backend of GoMLX.
func backends(t *testing.T) map[string]backend.Backend {
	t.Helper()
	fast, _, err := backend.Open("cpu", 1)
	if err != nil {
		t.Fatal(err)
	}
	plain, err := gobackend.New("")
	if err != nil {
		t.Fatal(err)
	}
	return map[string]compute.Backend{"fast": fast, "GoMLX": plain}
}

// forward returns the logits of images with the given tuned tensors, without dropout and drop-path.
// It also returns the gradients of the loss by Param.Name.
func forward(t *testing.T, be backend.Backend, m *backbone.Model, tuning *peft.Tuning, tuned checkpoint.StateDict, pixels []uint8, labels []int32) (logits []float32, grads checkpoint.StateDict) {
	t.Helper()
	var names []string
	var args []any
	add := func(name string, w checkpoint.Tensor) {
		x, err := program.Tensor(be, w.Data, w.Shape...)
		if err != nil {
			t.Fatal(err)
		}
		names, args = append(names, name), append(args, x)
	}
	for _, p := range tuning.Params {
		add(p.Name, tuned[p.Name])
	}
	n := len(names)
	for _, p := range m.Config.Params() {
		if p.Role != backbone.Head {
			add(p.Name, m.Weights[p.Name])
		}
	}
	size := m.Config.ImageSize
	images, err := program.Tensor(be, pixels, len(pixels)/(size*size*3), size, size, 3)
	if err != nil {
		t.Fatal(err)
	}
	y, err := program.Tensor(be, labels, len(labels))
	if err != nil {
		t.Fatal(err)
	}
	compiled, err := program.New(be, "test", func(g *Graph, in []*Node) []*Node {
		given := peft.Inputs{Frozen: map[string]*Node{}, Tuned: map[string]*Node{}, Indices: map[string]*Node{}}
		for name, entries := range tuning.Selection.Entries {
			given.Indices[name] = Const(g, entries)
		}
		for i, name := range names {
			if i < n {
				given.Tuned[name] = in[i]
			} else {
				given.Frozen[name] = in[i]
			}
		}
		layers := tuning.Layers(given)
		logits := m.Config.Classify(layers, m.Features(layers, in[len(in)-2]))
		return append([]*Node{logits}, Gradient(objective.SingleLabel.Loss(logits, in[len(in)-1]), in[:n]...)...)
	})
	if err != nil {
		t.Fatal(err)
	}
	defer compiled.Close()
	out, err := compiled.Run(t.Context(), append(args, images, y)...)
	if err != nil {
		t.Fatal(err)
	}
	grads = checkpoint.StateDict{}
	for i, x := range out {
		v, err := program.Float32s(x)
		if err != nil {
			t.Fatal(err)
		}
		if i == 0 {
			logits = v
		} else {
			grads[names[i-1]] = checkpoint.Tensor{Shape: tuning.Params[i-1].Shape, Data: v}
		}
	}
	return logits, grads
}

// difference returns the largest |a−b| and the largest |b|.
func difference(t *testing.T, a, b []float32) (d, most float64) {
	t.Helper()
	if len(a) != len(b) {
		t.Fatalf("%d values, expected %d", len(a), len(b))
	}
	for i := range a {
		d, most = max(d, math.Abs(float64(a[i])-float64(b[i]))), max(most, math.Abs(float64(b[i])))
	}
	return d, most
}

// TestMethodsAgainstPyTorch compares the methods that add tensors to a backbone with their PyTorch
// implementations: number of added tensors, logits and gradients.
func TestMethodsAgainstPyTorch(t *testing.T) {
	f := fixtures.Backbone(t, "vit-cls-timm")
	m, _, err := backbone.Load(f.Path(), backbone.LoadOptions{NumHeads: f.NumHeads[0]})
	if err != nil {
		t.Fatal(err)
	}
	// modules returns the selection with a module of rank 3 on each matrix of the first block.
	modules := func(name string) peft.Selection {
		s := peft.Uniform(m.Config, name, 3)
		s.Structured = slices.DeleteFunc(s.Structured, func(tensor string) bool { return !strings.HasPrefix(tensor, "blocks.0.") })
		return s
	}
	for method, s := range map[string]peft.Selection{
		"difffit": {BranchScales: true}, "fact-tt": {FacT: &peft.FacT{Rank: 3, Scale: 0.5}}, "convpass": {Convpass: &peft.Convpass{Width: 3, Scale: 0.5}}, "adapter-plus": {PostAdapter: &peft.PostAdapter{Width: 3}},
		"module-lora": modules("lora"), "module-dora": modules("dora"), "module-repadapter": modules("repadapter"), "module-adaptformer": modules("adaptformer"),
		"module-adapter": modules("adapter"), "module-adapter-nobias": modules("adapter-nobias"), "module-adapter-scaled": modules("adapter-scaled"), "module-adapter-plus": modules("adapter-plus"),
		"ssf": peft.Selection{SSF: true}, "vpt-shallow": peft.Selection{Prompts: &peft.Prompts{Tokens: 3, Deep: false}}, "vpt-deep": peft.Selection{Prompts: &peft.Prompts{Tokens: 3, Deep: true}}, "adaptformer": peft.Selection{AdaptFormer: &peft.Bottleneck{Width: 5, Scale: 0.1}}, "mlp-3": peft.Selection{MLPHead: 3},
	} {
		file, err := checkpoint.Open(filepath.Join(f.Dir, "..", "..", "methods", method+".safetensors"))
		if err != nil {
			t.Fatal(err)
		}
		defer file.Close()
		read := func(name string) checkpoint.Tensor {
			x, err := file.Float32(name)
			if err != nil {
				t.Fatal(err)
			}
			return x
		}
		tuning, err := peft.New(m.Config, s)
		if err != nil {
			t.Fatal(err)
		}
		tuned, added := checkpoint.StateDict{}, 0
		for _, p := range tuning.Params {
			if w, ok := m.Weights[p.Name]; ok { // the head
				tuned[p.Name] = w
				continue
			}
			tuned[p.Name] = read("tuned." + p.Name)
			added++
		}
		if want := (len(file.Tensors()) - 1) / 2; added != want {
			t.Errorf("%s: %d tensors are added, PyTorch adds %d", method, added, want)
		}
		for name, be := range backends(t) {
			logits, grads := forward(t, be, m, tuning, tuned, f.Pixels(t), []int32{1, 3})
			d, most := difference(t, logits, read("logits").Data)
			if !(d <= 1e-4*most) {
				t.Errorf("%s on backend %s: logits differ by up to %g, of at most %g", method, name, d, most)
			}
			worst, largest := 0.0, 0.0
			for _, p := range tuning.Params {
				if _, ok := m.Weights[p.Name]; !ok {
					d, most := difference(t, grads[p.Name].Data, read("grad."+p.Name).Data)
					worst, largest = max(worst, d), max(largest, most)
				}
			}
			if !(worst <= 1e-4*largest) {
				t.Errorf("%s on backend %s: gradients differ by up to %g, of at most %g", method, name, worst, largest)
			}
			t.Logf("%s on %s: logits %.2g of %.2g, gradients %.2g of %.2g", method, name, d, most, worst, largest)
		}
	}
}

// TestStart checks that tuned tensors with their initial values do not change the logits of the
// backbone. SSF changes them a little.
func TestStart(t *testing.T) {
	m := colours.Model(config)
	be, _, err := backend.Open("cpu", 1)
	if err != nil {
		t.Fatal(err)
	}
	var pixels []uint8
	for i := range 3 {
		pixels = append(pixels, colours.Pixels(i, 8, 0)...)
	}
	logits := func(s peft.Selection) []float32 {
		tuning, err := peft.New(config, s)
		if err != nil {
			t.Fatal(err)
		}
		out, _ := forward(t, be, m, tuning, tuning.Init(1, peft.PaperScheme, m.Weights), pixels, []int32{0, 1, 2})
		return out
	}
	want := logits(peft.Selection{})
	for name, c := range map[string]struct {
		s     peft.Selection
		bound float64
	}{
		"full": {peft.Full(config), 1e-6}, "bitfit": {ofMethod(t, config, "bitfit"), 1e-6}, "partial": {ofMethod(t, config, "partial-1"), 1e-6}, "lora": {peft.Uniform(config, "lora", 2), 1e-6},
		"adapter": {peft.Uniform(config, "adapter", 2), 1e-6}, "adaptformer": {peft.Selection{AdaptFormer: &peft.Bottleneck{Width: 4, Scale: 0.1}}, 1e-6}, "ssf": {peft.Selection{SSF: true}, 0.5}, "difffit": {peft.Selection{BranchScales: true}, 1e-6}, "convpass": {peft.Selection{Convpass: &peft.Convpass{Width: 2, Scale: 1}}, 1e-6}, "fact-tt": {peft.Selection{FacT: &peft.FacT{Rank: 2, Scale: 1}}, 1e-6}, "adapter-plus": {peft.Selection{PostAdapter: &peft.PostAdapter{Width: 4}}, 1e-2}, "mlp-1": {peft.Selection{MLPHead: 1}, 1e-6},
	} {
		d, most := difference(t, logits(c.s), want)
		if !(d <= c.bound*most) {
			t.Errorf("%s: logits differ from the backbone without the method by up to %g, of at most %g", name, d, most)
		}
	}
}

// TestInitialValues checks that initial values have the distributions of the code of the papers.
func TestInitialValues(t *testing.T) {
	m := colours.Model(config)
	values := func(s peft.Selection, name string) (mean, deviation, most float64) {
		tuning, err := peft.New(config, s)
		if err != nil {
			t.Fatal(err)
		}
		v := tuning.Init(1, peft.PaperScheme, m.Weights)[name].Data
		for _, x := range v {
			mean, most = mean+float64(x)/float64(len(v)), max(most, math.Abs(float64(x)))
		}
		for _, x := range v {
			deviation += math.Pow(float64(x)-mean, 2) / float64(len(v))
		}
		return mean, math.Sqrt(deviation), most
	}
	near := func(what string, got, want, bound float64) {
		if !(math.Abs(got-want) <= bound) {
			t.Errorf("%s: %g, expected %g", what, got, want)
		}
	}
	mean, deviation, _ := values(peft.Selection{SSF: true}, "blocks.0.mlp.fc1.ssf_scale")
	near("mean of SSF's scale", mean, 1, 0.015)
	near("deviation of SSF's scale", deviation, 0.02, 0.01)
	// Xavier uniform, for patches of 4×4 px and tokens of width 8
	bound := math.Sqrt(6. / (3*4*4 + 8))
	_, deviation, most := values(peft.Selection{Prompts: &peft.Prompts{Tokens: 500, Deep: true}}, "deep_prompt_embeddings")
	near("deviation of prompts", deviation, bound/math.Sqrt(3), 0.01)
	near("largest prompt", most, bound, 0.01)
	_, deviation, most = values(peft.Selection{PostAdapter: &peft.PostAdapter{Width: 200}}, "blocks.1.mlp.adapterplus_up.weight")
	// the deviation of a normal distribution that is truncated at 2σ
	near("deviation of Adapter+", deviation, 0.01*0.8796, 3e-4)
	near("largest value of Adapter+", most, 0.02, 2e-4)
	mean, deviation, _ = values(peft.Selection{PostAdapter: &peft.PostAdapter{Width: 2}}, "blocks.1.mlp.adapterplus_scale")
	near("mean of the factors of Adapter+", mean, 1, 0)
	near("deviation of the factors of Adapter+", deviation, 0, 0)
	_, _, most = values(peft.Uniform(config, "repadapter", 8), "blocks.0.attn.q.repadapter_down.weight")
	near("largest value of D of RepAdapter", most, math.Sqrt(6./16), 0.05)
	_, deviation, _ = values(peft.Selection{MLPHead: 3}, "head.hidden.1.weight")
	near("deviation of the head's layers", deviation, math.Sqrt(2./8), 0.1)
}

// TestMethodErrors checks the errors of New for sizes out of range.
func TestMethodErrors(t *testing.T) {
	for want, s := range map[string]peft.Selection{
		"0 tokens, expected 1":                  peft.Selection{Prompts: &peft.Prompts{Tokens: 0, Deep: false}},
		"1099511627776 tokens":                  peft.Selection{Prompts: &peft.Prompts{Tokens: 1 << 40, Deep: true}},
		"bottleneck of width 0":                 peft.Selection{AdaptFormer: &peft.Bottleneck{Width: 0, Scale: 0.1}},
		"a scale of 0, expected":                peft.Selection{AdaptFormer: &peft.Bottleneck{Width: 4, Scale: 0}},
		"a scale of NaN, expected":              peft.Selection{AdaptFormer: &peft.Bottleneck{Width: 4, Scale: math.NaN()}},
		"adapter-plus: a bottleneck of width 0": peft.Selection{PostAdapter: &peft.PostAdapter{}},
		"Convpass: 0 channels":                  peft.Selection{Convpass: &peft.Convpass{Scale: 1}},
		"Convpass: a scale of 0":                peft.Selection{Convpass: &peft.Convpass{Width: 1}},
		"Convpass and visual prompts":           peft.Selection{Convpass: &peft.Convpass{Width: 1, Scale: 1}, Prompts: &peft.Prompts{Tokens: 1}},
		"FacT: rank 9, expected 1 to 8":         peft.Selection{FacT: &peft.FacT{Rank: 9, Scale: 1}},
		"FacT: a scale of 0":                    peft.Selection{FacT: &peft.FacT{Rank: 1}},
		"head of -1 layers":                     peft.Selection{MLPHead: -1},
		"head of 65 layers":                     peft.Selection{MLPHead: 65},
	} {
		if _, err := peft.New(config, s); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("expected an error with %q, got %v", want, err)
		}
	}
}

// ofMethod returns the selection of a method.
func ofMethod(t *testing.T, c backbone.Config, name method.Method) peft.Selection {
	t.Helper()
	row, err := method.Lookup(name)
	if err != nil {
		t.Fatal(err)
	}
	s, err := row.Select(c, method.Options{})
	if err != nil {
		t.Fatal(err)
	}
	return s
}
