package checkpoint

import (
	"fmt"
	"testing"
)

// TestSearchBounds finds a model among a thousand prefixes that lead to none, with the same result
// for every order of the names.
func TestSearchBounds(t *testing.T) {
	naming := Naming{Architecture: "a", Source: "b", Marks: []string{"blocks.#.norm.*"}, Whole: []string{"stem.weight"}, Rules: Keeps("blocks.#.norm.*", "stem.weight")}
	sd := StateDict{}
	for i := range 1000 {
		sd[fmt.Sprintf("p%d.blocks.0.norm.weight", i)] = counted(1)
		sd[fmt.Sprintf("blocks.blocks.blocks.blocks.blocks.blocks.blocks.blocks.%d.norm.weight", i)] = counted(1)
	}
	if _, _, err := sd.Canonical([]Naming{naming}); err == nil {
		t.Error("no error")
	}
	for range 3 { // maps have a random order
		sd["net.stem.weight"], sd["net.blocks.3.norm.bias"] = counted(1), counted(1)
		got, found, err := sd.Canonical([]Naming{naming})
		if err != nil || found.Key != "net" || len(got) != 2 {
			t.Fatalf("%q, %d tensors, %v", found.Key, len(got), err)
		}
		for i := range 1000 {
			delete(sd, fmt.Sprintf("p%d.blocks.0.norm.weight", i))
		}
	}
}
