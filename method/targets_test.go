package method_test

import (
	"strings"
	"testing"

	"github.com/sptune/spt/method"
)

// TestTargetModules checks which matrices get modules, by the names of the layers.
func TestTargetModules(t *testing.T) {
	c := vitB(10)
	for _, m := range []method.Method{"lora", "lora+vectors"} {
		row, err := method.Lookup(m)
		if err != nil {
			t.Fatal(err)
		}
		s, err := row.Select(c, method.Options{Rank: 1, TargetModules: []string{"v", "proj", "mlp.fc1"}})
		if err != nil {
			t.Fatal(err)
		}
		if len(s.Structured) != 3*c.Blocks() {
			t.Errorf("%s: %d matrices, want 3 of each of %d blocks", m, len(s.Structured), c.Blocks())
		}
		for _, name := range s.Structured {
			if !strings.HasSuffix(name, ".attn.v.weight") && !strings.HasSuffix(name, ".attn.proj.weight") && !strings.HasSuffix(name, ".mlp.fc1.weight") {
				t.Errorf("%s selects %s", m, name)
			}
		}
		_, err = row.Select(c, method.Options{Rank: 1, TargetModules: []string{"query"}})
		if err == nil || !strings.Contains(err.Error(), `"query"`) || !strings.Contains(err.Error(), "attn.q") {
			t.Errorf("an unknown layer: %v, want an error that names it and the known layers", err)
		}
	}
	row, err := method.Lookup("spt-lora")
	if err == nil {
		err = row.Check(method.Options{TargetModules: []string{"q"}})
	}
	if err == nil || !strings.Contains(err.Error(), "target modules") {
		t.Errorf("spt-lora with target modules: %v", err)
	}
}
