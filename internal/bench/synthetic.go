package bench

import (
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strings"

	"github.com/sptune/spt"
	"github.com/sptune/spt/backbone"
	"github.com/sptune/spt/checkpoint"
	"github.com/sptune/spt/method"
	"github.com/sptune/spt/peft"
	"github.com/sptune/spt/plan"
	"github.com/sptune/spt/run"
	"github.com/sptune/spt/sensitivity"
)

// Sizes lists the names that [Config] knows.
func Sizes() []string { return []string{"tiny", "small", "base", "swin-tiny", "convnext-tiny"} }

// mostClasses bounds a head, as mostImages does a batch.
const mostClasses = 1 << 16

// Config is a backbone of one of [Sizes] at 224 px, with a head for a number of
// classes: a ViT as timm's vit_NAME_patch16_224, swin-tiny as
// swin_tiny_patch4_window7_224, or convnext_tiny. What it does not know is an
// *[run.OptionError].
func Config(name string, classes int) (backbone.Config, error) {
	widths := map[string]int{"tiny": 192, "small": 384, "base": 768}
	d := widths[name]
	if !slices.Contains(Sizes(), name) {
		return backbone.Config{}, &run.OptionError{Err: fmt.Errorf("model %q is unknown; known: %s", name, strings.Join(Sizes(), ", "))}
	}
	if classes < 1 || classes > mostClasses {
		return backbone.Config{}, &run.OptionError{Err: fmt.Errorf("%d classes: expected 1 to %d", classes, mostClasses)}
	}
	switch name {
	case "swin-tiny":
		return swinTiny(classes), nil
	case "convnext-tiny":
		return backbone.Config{ImageSize: 224, NumClasses: classes, LayerNormEps: 1e-6,
			Form: backbone.ConvNeXt{PatchSize: 4, EmbedDim: 96, Depths: []int{3, 3, 9, 3}, Dims: []int{96, 192, 384, 768}}}, nil
	}
	return backbone.Config{ImageSize: 224, NumClasses: classes, NumHeads: d / 64, LayerNormEps: 1e-6,
		Form: backbone.ViT{PatchSize: 16, EmbedDim: d, Depth: 12, HiddenDim: 4 * d}}, nil
}

// Model is a backbone of that shape with made-up weights, always the same, at
// which values keep their scale from block to block: uniform in ±1/√fan_in,
// norms and layer scale at one, biases at zero.
func Model(c backbone.Config) *backbone.Model {
	r := rand.New(rand.NewPCG(0, 0))
	weights := checkpoint.StateDict{}
	for _, p := range c.Params() {
		if p.Role == backbone.Head {
			continue // every method draws its own
		}
		t := checkpoint.NewTensor(p.Shape...)
		switch {
		case p.Norm && strings.HasSuffix(p.Name, ".weight"), strings.HasSuffix(p.Name, ".gamma"):
			for i := range t.Data {
				t.Data[i] = 1
			}
		case len(p.Shape) > 1:
			bound := 1 / math.Sqrt(float64(p.Size()/p.Shape[0]))
			for i := range t.Data {
				t.Data[i] = float32((2*r.Float64() - 1) * bound)
			}
		}
		weights[p.Name] = t
	}
	half := [3]float32{0.5, 0.5, 0.5}
	return backbone.NewModel(c, backbone.Preprocessing{Mean: half, Std: half, Interpolation: "bicubic", Source: "made up"}, weights)
}

// DefaultBudget returns the default budget of the methods of SPT: the paper's for a ViT-B, and less for a
// backbone as narrow as a tiny ViT, where the paper's would pay for a module on every matrix.
func DefaultBudget(c backbone.Config) plan.Budget {
	if c.NumFeatures() <= 192 {
		return plan.MustParseBudget("0.2M")
	}
	return plan.MustParseBudget("0.4M")
}

// Select is what the method tunes on a backbone of this shape. Methods of SPT
// plan under the budget from made-up scores, always the same, with modules of rank 8; lora and adapter
// get the rank that the budget allows, or without one rank 8; the others take
// no budget. What cannot work is an *[run.OptionError].
func Select(ctx context.Context, c backbone.Config, m Method, budget plan.Budget) (peft.Selection, error) {
	if err := m.Validate(); err != nil {
		return peft.Selection{}, err
	}
	if m == Forward || m == Score {
		if !budget.IsZero() {
			return peft.Selection{}, &run.OptionError{Err: fmt.Errorf("method %s takes no budget; leave it out", m)}
		}
		return peft.Linear(), nil
	}
	row, err := method.Lookup(method.Method(m))
	if err != nil {
		return peft.Selection{}, &run.OptionError{Err: err}
	}
	if row.Scores {
		p, err := spt.Plan(ctx, c, scores(c), budget, plan.Options{Module: row.Module, Rank: plan.DefaultRank})
		if err != nil {
			return peft.Selection{}, err
		}
		return spt.Select(c, p), nil
	}
	s, err := row.Select(c, method.Options{Budget: budget})
	if err != nil {
		return s, &run.OptionError{Err: err}
	}
	return s, nil
}

// SelectPlan is what a plan tunes on a backbone of this shape. A plan that does
// not fit is an *[run.InputError].
func SelectPlan(c backbone.Config, p *plan.Plan) (peft.Selection, error) {
	count, err := peft.CountOf(p.Module)
	if err == nil {
		err = p.Validate(sensitivity.Tensors(c), count)
	}
	if err != nil {
		return peft.Selection{}, &run.InputError{Err: err}
	}
	return spt.Select(c, p), nil
}

// operationScale is how large the largest hundredth to thousandth of the scores
// in a block's matrices is, beside v's: of a ViT-Ti/16 (augreg) scored on
// sign_digits, rounded.
var operationScale = map[string]float64{"attn.q": 0.06, "attn.k": 0.1, "attn.v": 1, "attn.proj": 0.7, "mlp.fc1": 0.9, "mlp.fc2": 0.5}

// lineSpread and valueSpread are the deviations of the logarithm of what a row or
// column of a matrix, and a single value, have beside the others: such that plans
// have their entries in as few rows or columns as those that the authors published.
const lineSpread, valueSpread = 1.2, 0.5

// SameSize reports whether two backbones have blocks of the same numbers and widths.
func SameSize(a, b backbone.Config) bool {
	switch x := a.Form.(type) {
	case backbone.ViT:
		y, ok := b.Form.(backbone.ViT)
		return ok && x.EmbedDim == y.EmbedDim && x.Depth == y.Depth && x.HiddenDim == y.HiddenDim
	case backbone.Swin:
		y, ok := b.Form.(backbone.Swin)
		return ok && x.EmbedDim == y.EmbedDim && x.HiddenDim == y.HiddenDim && slices.Equal(x.Depths, y.Depths)
	case backbone.ConvNeXt:
		y, ok := b.Form.(backbone.ConvNeXt)
		return ok && x.EmbedDim == y.EmbedDim && slices.Equal(x.Depths, y.Depths)
	}
	return false
}

// embedDim is the width of the patch embedding or stem, whose kernel is the first of four dimensions.
func embedDim(c backbone.Config) int {
	for _, p := range c.Params() {
		if len(p.Shape) == 4 {
			return p.Shape[0]
		}
	}
	return 0
}

// scores are made up, the same for the same shape, and like real ones where it
// matters to a plan: each tensor has a scale of its own, by its kind and its
// block, and so have its rows and columns, because a weight's gradient is that of
// its output times its input.
func scores(c backbone.Config) *sensitivity.Scores {
	out := new(sensitivity.Scores)
	_, out.ClassToken = c.ClassTokens()
	r := rand.New(rand.NewPCG(2, 0))
	for _, p := range c.Params() {
		if p.Role != backbone.Scored {
			continue
		}
		scale := 1.0
		switch parts := strings.Split(p.Name, "."); {
		case p.Matrix():
			scale = operationScale[strings.Join(parts[len(parts)-3:len(parts)-1], ".")]
		case !p.Norm && len(p.Shape) == 1: // a bias counts for a whole row, the more so the longer that is
			scale = 40 * math.Pow(float64(embedDim(c))/192, 2)
		}
		scale *= math.Exp(r.NormFloat64() / 2)
		t := sensitivity.Tensor{Name: p.Name, Shape: p.Shape, Norm: p.Norm, EntriesOnly: p.EntriesOnly, Scores: make([]float32, p.Size())}
		lines := func(n int) []float64 {
			v := make([]float64, n)
			for i := range v {
				v[i] = math.Exp(lineSpread * r.NormFloat64())
			}
			return v
		}
		rows := lines(p.Shape[0])
		columns := lines(p.Size() / p.Shape[0])
		for i := range t.Scores {
			t.Scores[i] = float32(scale * rows[i/len(columns)] * columns[i%len(columns)] * math.Exp(valueSpread*r.NormFloat64()))
		}
		out.Tensors = append(out.Tensors, t)
	}
	return out
}
