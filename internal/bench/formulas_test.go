package bench

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/sptune/spt/backbone"
	"github.com/sptune/spt/method"
	"github.com/sptune/spt/peft"
	"github.com/sptune/spt/plan"
)

// formulaWork computes the same count as work, but only from the shapes of the layers. It supports
// the modules LoRA and Adapter. It encodes the order of the layers of each architecture and builds
// no graphs.
func formulaWork(c backbone.Config, s peft.Selection, m Method, batch int) float64 {
	f := formulas{selection: s, backward: m != Forward, tuned: map[string]bool{}}
	switch m {
	case Forward:
	case score:
		f.selection = peft.Selection{}
		for _, p := range c.Params() {
			f.tuned[p.Name] = p.Role == backbone.Scored
		}
	default:
		for _, name := range append([]string{c.Head() + ".weight", c.Head() + ".bias"}, s.Whole...) {
			f.tuned[name] = true
		}
	}
	switch form := c.Form.(type) {
	case backbone.ViT:
		f.vit(c, form)
	case backbone.Swin:
		f.swin(c, form)
	case backbone.ConvNeXt:
		f.convnext(c, form)
	default:
		panic("no formulas for " + c.Architecture())
	}
	return 2 * f.multiplyAdds * float64(batch)
}

// TestWorkFormulasViT compares work with the formulas for every form of a ViT and every kind of
// selection.
func TestWorkFormulasViT(t *testing.T) {
	plain := backbone.ViT{PatchSize: 8, EmbedDim: 12, Depth: 3, HiddenDim: 20}
	forms := map[string]func(c *backbone.ViT){
		"plain":          func(c *backbone.ViT) {},
		"mean":           func(c *backbone.ViT) { c.Pooling, c.FCNorm = "avg", true },
		"no class token": func(c *backbone.ViT) { c.Pooling, c.NoClassToken = "avg", true },
		"distilled":      func(c *backbone.ViT) { c.Pooling, c.DistToken = "token+dist", true },
		"DINOv2": func(c *backbone.ViT) {
			c.Pooling, c.Registers, c.PatchPositions, c.LayerScale, c.SwiGLU = "token+avg", 4, true, true, true
		},
		"CLIP":    func(c *backbone.ViT) { c.PreNorm, c.NoPatchBias, c.QuickGELU = true, true, true },
		"qk norm": func(c *backbone.ViT) { c.QKNorm, c.NoQKVBias, c.Registers = true, true, 2 },
	}
	for form, change := range forms {
		vit := plain
		change(&vit)
		c := backbone.Config{ImageSize: 24, NumClasses: 5, NumHeads: 2, LayerNormEps: 1e-6, Form: vit}
		for name, test := range selections(c) {
			sameAsFormulas(t, form+", "+name, c, test)
		}
	}
}

// TestWorkFormulasSwin compares work with the formulas for a Swin. Its maps have 20, 10 and 5
// tokens on each side. The last map is one window.
func TestWorkFormulasSwin(t *testing.T) {
	c := backbone.Config{ImageSize: 80, NumClasses: 5, LayerNormEps: 1e-5,
		Form: backbone.Swin{PatchSize: 4, EmbedDim: 4, HiddenDim: 12, Depths: []int{2, 1, 1}, StageHeads: []int{1, 2, 4}, WindowSize: 5}}
	for name, test := range everyTensor(c) {
		sameAsFormulas(t, name, c, test)
	}
	// Padding tokens count like other tokens. So the count is more than the formulas give, and at
	// most that of a larger map without padding.
	padded, larger := c, c
	padded.ImageSize, larger.ImageSize = 76, 80
	got := mustWork(t, padded, peft.Selection{}, Forward, 1)
	if least, most := formulaWork(padded, peft.Selection{}, Forward, 1), mustWork(t, larger, peft.Selection{}, Forward, 1); got <= least || got > most {
		t.Errorf("with padding: %.0f, expected more than %.0f and at most %.0f", got, least, most)
	}
}

// TestWorkFormulasConvNeXt compares work with the formulas for both versions of ConvNeXt.
func TestWorkFormulasConvNeXt(t *testing.T) {
	v1 := backbone.ConvNeXt{PatchSize: 4, EmbedDim: 4, Depths: []int{1, 2, 1}, Dims: []int{4, 6, 10}}
	v2 := v1
	v2.ResponseNorm = true
	for _, form := range []backbone.ConvNeXt{v1, v2} {
		c := backbone.Config{ImageSize: 44, NumClasses: 5, LayerNormEps: 1e-6, Form: form}
		for name, test := range everyTensor(c) {
			sameAsFormulas(t, c.String()+", "+name, c, test)
		}
	}
}

// TestWorkFormulasSizes compares work with the formulas for backbones of spt bench at their default
// budgets.
func TestWorkFormulasSizes(t *testing.T) {
	for _, name := range []string{"tiny", "swin-tiny", "convnext-tiny"} {
		c := size(t, name, 100)
		for _, m := range []Method{Method(method.SPTLoRA), Method(method.LoRA), Method(method.Adapter), Method(method.Full), Method(method.Linear), Forward, score} {
			var budget plan.Budget
			if m.Scores() {
				budget = DefaultBudget(c)
			}
			s, err := Select(t.Context(), c, m, budget)
			if err != nil {
				t.Fatal(err)
			}
			sameAsFormulas(t, fmt.Sprintf("%s, %s", name, m), c, selected{s, m})
		}
	}
}

// sameAsFormulas checks that work and formulaWork give the same count.
func sameAsFormulas(t *testing.T, name string, c backbone.Config, test selected) {
	t.Helper()
	const batch = 2
	if got, want := mustWork(t, c, test.s, test.m, batch), formulaWork(c, test.s, test.m, batch); got != want {
		t.Errorf("%s: %.0f, the formulas give %.0f", name, got, want)
	}
}

// selected is a selection with the method that tunes it.
type selected struct {
	s peft.Selection
	m Method
}

// selections returns every kind of selection of a ViT. For every tensor that is not a matrix, it
// also returns a selection of only this tensor. These selections differ in the blocks that the
// backward pass reaches.
func selections(c backbone.Config) map[string]selected {
	adapters := peft.Uniform(c, "adapter", 3)
	adapters.Whole = []string{"blocks.1.norm2.bias"}
	all := map[string]selected{
		"forward":           {peft.Selection{}, Forward},
		"forward, lora":     {peft.Uniform(c, "lora", 3), Forward},
		"linear":            {peft.Selection{}, Method(method.Linear)},
		"full":              {peft.Full(c), Method(method.Full)},
		"score":             {peft.Selection{}, score},
		"lora":              {peft.Uniform(c, "lora", 3), Method(method.LoRA)},
		"adapter":           {peft.Uniform(c, "adapter", 3), Method(method.Adapter)},
		"adapter, vectors":  {adapters, Method(method.SPTAdapter)},
		"key only":          {peft.Selection{Whole: []string{"blocks.1.attn.k.weight"}}, Method(method.SPTLoRA)},
		"value only":        {peft.Selection{Module: "lora", Rank: 2, Structured: []string{"blocks.2.attn.v.weight"}}, Method(method.SPTLoRA)},
		"plan":              {mixed(c), Method(method.SPTLoRA)},
		"plan of adapters":  {withModule(mixed(c), "adapter"), Method(method.SPTAdapter)},
		"plan, predictions": {mixed(c), Forward},
	}
	for _, p := range c.Params() {
		if p.Role != backbone.Head && !p.Matrix() && p.Name != "patch_embed.proj.weight" {
			all[p.Name] = selected{peft.Selection{Whole: []string{p.Name}}, Method(method.SPTLoRA)}
		}
	}
	return all
}

// mixed returns a selection of modules, whole tensors and entries, like that of a plan.
func mixed(c backbone.Config) peft.Selection {
	s := peft.Selection{Module: "lora", Rank: 2,
		Structured: []string{"blocks.0.attn.v.weight", "blocks.1.attn.proj.weight", "blocks.2.mlp.fc1.weight"},
		Whole:      []string{"blocks.0.norm1.weight", "blocks.2.mlp.fc1.bias"},
		Entries:    map[string][]int32{"blocks.0.attn.q.weight": {0, 3}, "blocks.1.mlp.fc2.weight": {7}, "blocks.2.norm1.bias": {1}}}
	tokens, _ := c.ClassTokens()
	s.Whole = append(s.Whole, tokens...)
	return s
}

// withModule returns s with another module.
func withModule(s peft.Selection, module string) peft.Selection {
	s.Module = module
	return s
}

// everyTensor returns selections for any backbone: one for each of several methods, and several for
// each tensor alone. A tensor is selected as a whole, by single entries, and with each module.
func everyTensor(c backbone.Config) map[string]selected {
	spt := Method(method.SPTLoRA)
	all := map[string]selected{
		"forward": {peft.Selection{}, Forward},
		"linear":  {peft.Selection{}, Method(method.Linear)},
		"full":    {peft.Full(c), Method(method.Full)},
		"score":   {peft.Selection{}, score},
		"lora":    {peft.Uniform(c, "lora", 2), Method(method.LoRA)},
		"adapter": {peft.Uniform(c, "adapter", 2), Method(method.Adapter)},
	}
	for _, p := range c.Params() {
		if p.Role == backbone.Head {
			continue
		}
		all[p.Name] = selected{peft.Selection{Whole: []string{p.Name}}, spt}
		if p.Role == backbone.Scored {
			all["entries of "+p.Name] = selected{peft.Selection{Entries: map[string][]int32{p.Name: {0, 2, int32(p.Size() - 1)}}}, spt}
		}
		if p.Matrix() {
			for _, module := range []string{"lora", "adapter"} {
				all[module+" on "+p.Name] = selected{peft.Selection{Module: module, Rank: 2, Structured: []string{p.Name}}, spt}
			}
		}
	}
	return all
}

// vit counts a ViT. In the last block, tokens that the head does not read need only their keys and
// values.
func (f *formulas) vit(c backbone.Config, form backbone.ViT) {
	side := c.ImageSize / form.PatchSize
	patches, n, d := side*side, c.Tokens(), form.EmbedDim
	grad := f.linear("patch_embed.proj", patches, 3*form.PatchSize*form.PatchSize, d, false)
	grad = grad || f.reaches("cls_token", "dist_token", "reg_token", "pos_embed", "norm_pre.weight", "norm_pre.bias")
	up := form.HiddenDim // width of the output of fc1
	if form.SwiGLU {
		up *= 2
	}
	for i := range form.Depth {
		b := fmt.Sprintf("blocks.%d.", i)
		x := grad || f.reaches(b+"norm1.weight", b+"norm1.bias")
		m := n // number of tokens that are needed after attention
		if i == form.Depth-1 {
			switch form.Pooling {
			case "":
				m = 1
			case "token+dist":
				m = 2
			case "avg":
				m = patches
			}
		}
		q := f.linear(b+"attn.q", m, d, d, x)
		k := f.linear(b+"attn.k", n, d, d, x)
		v := f.linear(b+"attn.v", n, d, d, x)
		q = q || f.reaches(b+"attn.q_norm.weight", b+"attn.q_norm.bias")
		k = k || f.reaches(b+"attn.k_norm.weight", b+"attn.k_norm.bias")
		f.attention(m*n*d, q, k, v, false)
		grad = f.linear(b+"attn.proj", m, d, d, q || k || v) || grad || f.reaches(b+"ls1.gamma")
		x = grad || f.reaches(b+"norm2.weight", b+"norm2.bias")
		x = f.linear(b+"mlp.fc1", m, d, up, x)
		grad = f.linear(b+"mlp.fc2", m, form.HiddenDim, d, x) || grad || f.reaches(b+"ls2.gamma")
	}
	grad = grad || f.reaches("norm.weight", "norm.bias", "fc_norm.weight", "fc_norm.bias")
	f.linear("head", 1, c.NumFeatures(), c.NumClasses, grad)
}

// formulas counts the multiply-adds of one image.
type formulas struct {
	selection    peft.Selection
	tuned        map[string]bool // names of the tensors that are tuned as a whole
	backward     bool
	multiplyAdds float64
}

func (f *formulas) add(n int) { f.multiplyAdds += float64(n) }

func (f *formulas) addIf(needed bool, n int) {
	if needed {
		f.add(n)
	}
}

// reaches reports whether the step takes the gradient of at least one of the tensors.
func (f *formulas) reaches(names ...string) bool {
	return f.backward && slices.ContainsFunc(names, func(name string) bool {
		return f.tuned[name] || len(f.selection.Entries[name]) > 0
	})
}

// attention counts the products between q, k and v. scores is the number of multiply-adds for the
// attention scores. q, k, v and bias report which of q, k, v and the bias of the scores need a
// gradient.
func (f *formulas) attention(scores int, q, k, v, bias bool) {
	f.add(2 * scores) // q·kᵀ, and the probabilities times v
	f.addIf(v, scores)
	f.addIf(q || k || bias, scores) // gradient of the probabilities
	f.addIf(q, scores)
	f.addIf(k, scores)
}

// linear counts a linear layer and its module for a number of tokens. grad reports whether the
// input needs a gradient. The result reports whether the output needs one.
func (f *formulas) linear(name string, tokens, in, out int, grad bool) bool {
	weight := name + ".weight"
	product := tokens * in * out
	f.add(product)
	f.addIf(grad, product)
	f.addIf(f.tuned[weight], product)
	f.addIf(f.backward, tokens*len(f.selection.Entries[weight]))
	y := grad || f.reaches(weight) || f.reaches(name+".bias")
	if !slices.Contains(f.selection.Structured, weight) {
		return y
	}
	from, fromGrad := in, grad
	// an adapter acts on the output of the layer
	if f.selection.Module == "adapter" && !strings.HasSuffix(name, ".attn.proj") {
		from, fromGrad = out, y
	}
	first, second := tokens*from*f.selection.Rank, tokens*f.selection.Rank*out
	f.add(first + second)
	// gradients of both weights, and of the input of the second one
	f.addIf(f.backward, first+2*second)
	f.addIf(fromGrad, first)
	return f.backward || y
}

// swin counts a Swin Transformer whose maps divide into windows without padding.
func (f *formulas) swin(c backbone.Config, form backbone.Swin) {
	d, side := form.EmbedDim, c.ImageSize/form.PatchSize
	grad := f.linear("patch_embed.proj", side*side, 3*form.PatchSize*form.PatchSize, d, false)
	grad = grad || f.reaches("patch_embed.norm.weight") || f.reaches("patch_embed.norm.bias")
	for i, depth := range form.Depths {
		layer := fmt.Sprintf("layers.%d.", i)
		if i > 0 {
			side, d = (side+1)/2, 2*d
			grad = grad || f.reaches(layer+"downsample.norm.weight") || f.reaches(layer+"downsample.norm.bias")
			grad = f.linear(layer+"downsample.reduction", side*side, 2*d, d, grad)
		}
		n, window, hidden := side*side, min(form.WindowSize, side), form.HiddenDim<<i
		for j := range depth {
			b := fmt.Sprintf("%sblocks.%d.", layer, j)
			x := grad || f.reaches(b+"norm1.weight") || f.reaches(b+"norm1.bias")
			q := f.linear(b+"attn.q", n, d, d, x)
			k := f.linear(b+"attn.k", n, d, d, x)
			v := f.linear(b+"attn.v", n, d, d, x)
			table := f.reaches(b + "attn.relative_position_bias_table")
			f.attention(n*window*window*d, q, k, v, table)
			grad = f.linear(b+"attn.proj", n, d, d, q || k || v || table) || grad
			x = grad || f.reaches(b+"norm2.weight") || f.reaches(b+"norm2.bias")
			x = f.linear(b+"mlp.fc1", n, d, hidden, x)
			grad = f.linear(b+"mlp.fc2", n, hidden, d, x) || grad
		}
	}
	grad = grad || f.reaches("norm.weight") || f.reaches("norm.bias")
	f.linear(c.Head(), 1, d, c.NumClasses, grad)
}

// kernelSide is the side of the depth-wise kernels of a ConvNeXt.
const kernelSide = 7

// convnext counts a ConvNeXt. Taps of a kernel beyond the edge of the map do not count.
func (f *formulas) convnext(c backbone.Config, form backbone.ConvNeXt) {
	side := c.ImageSize / form.PatchSize
	grad := f.linear("stem.0", side*side, 3*form.PatchSize*form.PatchSize, form.EmbedDim, false)
	grad = f.reachesAny("stem.1") || grad
	for i, depth := range form.Depths {
		d, stage := form.Dims[i], fmt.Sprintf("stages.%d.", i)
		if i > 0 {
			side /= 2
			grad = f.reachesAny(stage+"downsample.0") || grad
			grad = f.linear(stage+"downsample.1", side*side, 4*form.Dims[i-1], d, grad)
		}
		for j := range depth {
			b := fmt.Sprintf("%sblocks.%d.", stage, j)
			x := f.depthwise(b+"conv_dw", side, d, grad)
			x = f.reachesAny(b+"norm") || x
			x = f.linear(b+"mlp.fc1", side*side, d, 4*d, x)
			x = f.reachesAny(b+"mlp.grn") || x
			x = f.linear(b+"mlp.fc2", side*side, 4*d, d, x)
			grad = f.reaches(b+"gamma") || x || grad
		}
	}
	grad = f.reachesAny("head.norm") || grad
	f.linear("head.fc", 1, c.NumFeatures(), c.NumClasses, grad)
}

// reachesAny calls reaches for the weight and the bias of a layer.
func (f *formulas) reachesAny(name string) bool {
	return f.reaches(name+".weight") || f.reaches(name+".bias")
}

// depthwise counts a depth-wise convolution of a map. grad and the result are as for linear.
func (f *formulas) depthwise(name string, side, channels int, grad bool) bool {
	weight := name + ".weight"
	// met returns the number of positions along one axis at which the tap lies on the map.
	met := func(tap int) int { return max(0, side-max(tap-kernelSide/2, kernelSide/2-tap)) }
	all := 0
	for tap := range kernelSide {
		all += met(tap)
	}
	product := all * all * channels
	f.add(product)
	f.addIf(grad, product)
	f.addIf(f.tuned[weight], product)
	if f.backward {
		for _, e := range f.selection.Entries[weight] {
			tap := int(e) % (kernelSide * kernelSide)
			f.add(met(tap/kernelSide) * met(tap%kernelSide))
		}
	}
	return f.reachesAny(name) || grad
}
