package bench

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strings"

	"github.com/sptune/spt/backbone"
	"github.com/sptune/spt/backbone/catalogue"
	"github.com/sptune/spt/checkpoint"
	"github.com/sptune/spt/internal/option"
	"github.com/sptune/spt/run"
	"github.com/sptune/spt/sensitivity"
)

// sizes lists short names of backbones of the catalogue.
var sizes = []struct{ name, of string }{
	{"tiny", "vit_tiny"}, {"small", "vit_small"}, {"base", "vit_base"}, {"swin-tiny", "swin_tiny"}, {"convnext-tiny", "convnext_tiny"},
}

// Sizes returns the names that [Config] accepts.
func Sizes() (names []string) {
	for _, s := range sizes {
		names = append(names, s.name)
	}
	return append(names, catalogue.Names()...)
}

// SameSize reports whether the matrices of two backbones have the same shapes, in the same order.
func SameSize(a, b backbone.Config) bool {
	matrices := func(c backbone.Config) (shapes [][]int) {
		for _, p := range c.Params() {
			if p.Matrix() {
				shapes = append(shapes, p.Shape)
			}
		}
		return shapes
	}
	return slices.EqualFunc(matrices(a), matrices(b), slices.Equal[[]int])
}

// mostClasses is the largest number of classes that Config accepts.
const mostClasses = 1 << 16

// Config returns the configuration of the backbone called name, one of [Sizes], for the given
// number of classes. It returns a [run.OptionError] if the name is unknown or the number of classes
// is not from 1 to 65536.
func Config(name string, classes int) (backbone.Config, error) {
	if classes < 1 || classes > mostClasses {
		return backbone.Config{}, &run.OptionError{Option: "classes", Err: fmt.Errorf("%d classes: expected 1 to %d", classes, mostClasses)}
	}
	of := name
	for _, s := range sizes {
		if s.name == name {
			of = s.of
		}
	}
	b, ok := catalogue.Find(of)
	if !ok {
		return backbone.Config{}, &run.OptionError{Option: "model", Err: option.Unknown("model", "model", name, Sizes())}
	}
	c := b.Config
	c.NumClasses = classes
	return c, nil
}

// generator returns a random generator for one of the synthetic inputs.
func generator(stream uint64) *rand.Rand { return rand.New(rand.NewPCG(stream, 0)) }

// Each synthetic input has its own stream of random numbers. The numbers are the same in every run.
const (
	weightStream uint64 = iota
	imageStream
	scoreStream
)

// Model returns a backbone with configuration c and synthetic weights, without a head. The weights
// of a configuration are the same in every run. Matrices are uniform in ±1/√fan_in, weights of
// norms and layer scales are one, and biases are zero. With these weights, activations keep their
// scale from block to block.
func Model(c backbone.Config) *backbone.Model {
	r := generator(weightStream)
	weights := checkpoint.StateDict{}
	for _, p := range c.Params() {
		if p.Role == backbone.Head {
			continue // every method draws its own head
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
	return backbone.NewModel(c, backbone.Preprocessing{Mean: half, Std: half, Interpolation: "bicubic", Source: "synthetic"}, weights)
}

// operationScale holds the scale of the largest scores in the matrices of an operation, relative to
// attn.v. The largest scores here are the top 0.1 % to 1 %. The values are rounded from the scores
// of a ViT-Ti/16 (augreg) on the data set sign_digits. Operations that are not in the map have
// scale 1.
var operationScale = map[string]float64{"attn.q": 0.06, "attn.k": 0.1, "attn.v": 1, "attn.proj": 0.7, "mlp.fc1": 0.9, "mlp.fc2": 0.5}

// lineSpread is the standard deviation of the logarithm of the scale of a row or column.
// valueSpread is the standard deviation of the logarithm of a single value. With these numbers, the
// entries of a plan lie in as few rows or columns as in the selections that the paper's authors
// published.
const lineSpread, valueSpread = 1.2, 0.5

// syntheticScores returns random scores for a backbone. The scores of a configuration are the same
// in every run. They resemble real scores in the properties that matter to a plan. Each tensor has
// its own scale, which depends on its operation. Each row and column also has its own scale,
// because the gradient of a weight is the gradient of its output times its input.
func syntheticScores(c backbone.Config) *sensitivity.Scores {
	out := new(sensitivity.Scores)
	_, out.ClassToken = c.ClassTokens()
	r := generator(scoreStream)
	width := 0 // width of the tokens in the first block, from its first norm
	for _, p := range c.Params() {
		if p.Role != backbone.Scored {
			continue
		}
		if width == 0 {
			width = p.Shape[0]
		}
		scale := 1.0
		switch parts := strings.Split(p.Name, "."); {
		case p.Matrix():
			if s, ok := operationScale[strings.Join(parts[len(parts)-3:len(parts)-1], ".")]; ok {
				scale = s
			}
		case !p.Norm && len(p.Shape) == 1:
			// A bias acts on a whole row of the matrix, so its score is larger. Longer rows
			// increase it more.
			scale = 40 * math.Pow(float64(width)/192, 2)
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
