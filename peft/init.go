package peft

import (
	"math"
	"math/rand/v2"
	"slices"

	"github.com/sptune/spt/checkpoint"
)

// Init is a function that returns the p.Size() initial values of a tuned tensor p. r is a random
// number generator; its seed depends on the seed of the run and the name of the tensor. weights
// holds the weights of the backbone by canonical name. An Init must not change them.
type Init func(p Param, r *rand.Rand, weights checkpoint.StateDict) []float32

// Scheme is the name of a way to draw the initial values of structured modules.
type Scheme string

// The schemes. Tensors outside structured modules start in the same way with each scheme.
const (
	// PaperScheme starts a module as the papers of LoRA and Adapter do, and as the module declares:
	// the first matrix is Kaiming-uniform and the second is zero. So the features of the backbone
	// are unchanged at first.
	PaperScheme Scheme = "paper"
	// ReleaseScheme starts a module as the reference release of SPT does: both matrices are
	// normally distributed with σ 0.02. So the features change slightly at first. Tensors of a
	// module that are no matrices start as the module declares.
	ReleaseScheme Scheme = "release"
)

// Schemes returns all schemes.
func Schemes() []Scheme { return []Scheme{PaperScheme, ReleaseScheme} }

// Zero is the [Init] that returns zeros.
func Zero(p Param, _ *rand.Rand, _ checkpoint.StateDict) []float32 { return make([]float32, p.Size()) }

// one is the Init that returns ones.
func one(p Param, _ *rand.Rand, _ checkpoint.StateDict) []float32 {
	v := make([]float32, p.Size())
	for i := range v {
		v[i] = 1
	}
	return v
}

// KaimingUniform is the [Init] of kaiming_uniform_(a=√5) in PyTorch: uniform in ±1/√fan_in.
func KaimingUniform(p Param, r *rand.Rand, weights checkpoint.StateDict) []float32 {
	return uniform(1/math.Sqrt(float64(p.Size()/p.Shape[0])))(p, r, weights)
}

// xavierUniform is the Init of xavier_uniform_ in PyTorch: uniform in ±√(6/(fan_in + fan_out)).
func xavierUniform(p Param, r *rand.Rand, weights checkpoint.StateDict) []float32 {
	return uniform(math.Sqrt(6/float64(p.Shape[0]+p.Size()/p.Shape[0])))(p, r, weights)
}

// uniform returns an Init with values uniform in ±bound.
func uniform(bound float64) Init {
	return func(p Param, r *rand.Rand, _ checkpoint.StateDict) []float32 {
		v := make([]float32, p.Size())
		for i := range v {
			v[i] = float32((2*r.Float64() - 1) * bound)
		}
		return v
	}
}

// normal returns an Init with normally distributed values.
func normal(mean, deviation float64) Init {
	return func(p Param, r *rand.Rand, _ checkpoint.StateDict) []float32 {
		v := make([]float32, p.Size())
		for i := range v {
			v[i] = float32(mean + r.NormFloat64()*deviation)
		}
		return v
	}
}

// truncatedNormal returns an Init with values from a normal distribution around 0. Values of more
// than twice the deviation are drawn again.
func truncatedNormal(deviation float64) Init {
	return func(p Param, r *rand.Rand, _ checkpoint.StateDict) []float32 {
		v := make([]float32, p.Size())
		for i := range v {
			x := r.NormFloat64()
			for math.Abs(x) > 2 {
				x = r.NormFloat64()
			}
			v[i] = float32(x * deviation)
		}
		return v
	}
}

// truncNormal is the Init of a head in timm: normal, σ 0.02. timm truncates at ±2. With this σ no
// value is so large, so truncNormal does not truncate.
var truncNormal = normal(0, 0.02)

// kaimingNormal is the Init of kaiming_normal_(mode="fan_out") in PyTorch: normal, σ √(2/fan_out).
func kaimingNormal(p Param, r *rand.Rand, weights checkpoint.StateDict) []float32 {
	return normal(0, math.Sqrt(2/float64(p.Shape[0])))(p, r, weights)
}

// pretrained is the Init that returns the values of the backbone.
func pretrained(p Param, _ *rand.Rand, weights checkpoint.StateDict) []float32 {
	return slices.Clone(weights[p.Name].Data)
}
