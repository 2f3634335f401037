package seeded

import "testing"

// TestRand holds the generator to numbers that run folders, deltas and the embedded backbone depend
// on.
func TestRand(t *testing.T) {
	if got := Rand(3, "blocks.0.attn.q.weight").Uint64(); got != 0x62a86d8aca9f7515 {
		t.Errorf("%#x", got)
	}
	if Rand(0, "a").Uint64() == Rand(0, "b").Uint64() || Rand(0, "a").Uint64() == Rand(1, "a").Uint64() {
		t.Error("the numbers do not depend on name and seed")
	}
}
