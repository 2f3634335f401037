package peft

import (
	"math"
	"math/rand/v2"
	"slices"

	"github.com/sptune/spt/checkpoint"
)

// Init returns the initial values of a tuned tensor. r is a generator for the seed of the run and
// the name of the tensor. weights are the backbone's, by canonical name; an Init may read them and
// must not change them.
type Init func(p Param, r *rand.Rand, weights checkpoint.StateDict) []float32

// Zero returns zeros.
func Zero(p Param, _ *rand.Rand, _ checkpoint.StateDict) []float32 { return make([]float32, p.Size()) }

// KaimingUniform returns the values of PyTorch's kaiming_uniform_(a=√5): uniform in ±1/√fan_in.
func KaimingUniform(p Param, r *rand.Rand, weights checkpoint.StateDict) []float32 {
	return uniform(1/math.Sqrt(float64(p.Size()/p.Shape[0])))(p, r, weights)
}

// uniform returns values that are uniform in ±bound.
func uniform(bound float64) Init {
	return func(p Param, r *rand.Rand, _ checkpoint.StateDict) []float32 {
		v := make([]float32, p.Size())
		for i := range v {
			v[i] = float32((2*r.Float64() - 1) * bound)
		}
		return v
	}
}

// normal returns normal values.
func normal(mean, deviation float64) Init {
	return func(p Param, r *rand.Rand, _ checkpoint.StateDict) []float32 {
		v := make([]float32, p.Size())
		for i := range v {
			v[i] = float32(mean + r.NormFloat64()*deviation)
		}
		return v
	}
}

// truncNormal is timm's initial value of a head: normal, σ 0.02. timm cuts at ±2, which at that σ
// never happens.
var truncNormal = normal(0, 0.02)

// kaimingNormal returns the values of PyTorch's kaiming_normal_(mode="fan_out"): normal, σ
// √(2/fan_out).
func kaimingNormal(p Param, r *rand.Rand, weights checkpoint.StateDict) []float32 {
	return normal(0, math.Sqrt(2/float64(p.Shape[0])))(p, r, weights)
}

// pretrained returns the backbone's own values.
func pretrained(p Param, _ *rand.Rand, weights checkpoint.StateDict) []float32 {
	return slices.Clone(weights[p.Name].Data)
}
