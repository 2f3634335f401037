// Package seeded provides random number generators that depend only on a seed and a name.
//
// Each tensor gets a separate generator for its initial values. So its values do not depend on the
// other tensors of a model.
package seeded

import (
	"hash/fnv"
	"math/rand/v2"
)

// Rand returns a new generator for a seed and a name, such as the name of a tensor. The same seed
// and name always give the same sequence of numbers.
func Rand(seed uint64, name string) *rand.Rand {
	h := fnv.New64a()
	h.Write([]byte(name)) // never fails
	return rand.New(rand.NewPCG(seed, h.Sum64()))
}
