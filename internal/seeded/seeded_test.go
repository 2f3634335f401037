package seeded

import "testing"

// TestRand checks that the generator still gives the same numbers. Run folders, deltas and the
// embedded backbone depend on them.
func TestRand(t *testing.T) {
	if got := Rand(3, "blocks.0.attn.q.weight").Uint64(); got != 0x62a86d8aca9f7515 {
		t.Errorf("the first number is %#x, expected 0x62a86d8aca9f7515", got)
	}
	if Rand(0, "a").Uint64() == Rand(0, "b").Uint64() || Rand(0, "a").Uint64() == Rand(1, "a").Uint64() {
		t.Error("the numbers do not depend on both the name and the seed")
	}
}
