// Package seeded draws random numbers that depend on a seed and a name only.
//
// Tensors draw their initial values from a generator of their own, so that a tensor starts with the
// same values whatever else is drawn.
package seeded

import (
	"hash/fnv"
	"math/rand/v2"
)

// Rand returns the generator for a seed and a name, such as that of a tensor.
func Rand(seed uint64, name string) *rand.Rand {
	h := fnv.New64a()
	h.Write([]byte(name)) // never fails
	return rand.New(rand.NewPCG(seed, h.Sum64()))
}
