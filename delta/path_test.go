package delta_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"runtime"
	"testing"

	"github.com/sptune/spt/delta"
)

// TestPath saves deltas at several places, and checks the path of the backbone in the file and
// after the delta, or the delta and its backbone, have moved.
func TestPath(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("the paths of the test are those of Unix")
	}
	root := t.TempDir()
	for name, c := range map[string]struct {
		delta, model string // below root
		want         string // in the file
	}{
		"beside":    {"a/runs/x", "a/runs/x/tiny.safetensors", "tiny.safetensors"},
		"below":     {"b", "b/models/tiny.safetensors", "models/tiny.safetensors"},
		"elsewhere": {"c/runs/x", "c/models/tiny.safetensors", "../../models/tiny.safetensors"},
	} {
		t.Run(name, func(t *testing.T) {
			d := result(t, tiny(tinyConfig, 1), "lora", selections()["lora"])
			path := filepath.Join(root, c.model)
			d.Backbone.File, d.Backbone.Path = "tiny.safetensors", path
			dir := filepath.Join(root, c.delta)
			if err := d.Save(dir); err != nil {
				t.Fatal(err)
			}
			if got := pathIn(t, dir); got != c.want {
				t.Errorf("the file has the path %q, expected %q", got, c.want)
			}
			if got, err := delta.Load(dir); err != nil || got.Backbone.Path != path {
				t.Errorf("loaded %q, expected %q, error %v", got.Backbone.Path, path, err)
			}
			// The common folder moves.
			moved := t.TempDir()
			top := c.delta[:1]
			if err := os.Rename(filepath.Join(root, top), filepath.Join(moved, top)); err != nil {
				t.Fatal(err)
			}
			got, err := delta.Load(filepath.Join(moved, c.delta))
			if err != nil || got.Backbone.Path != filepath.Join(moved, c.model) {
				t.Errorf("loaded %q, error %v", got.Backbone.Path, err)
			}
			// A loaded delta can be saved at another depth.
			again := filepath.Join(moved, "some", "other", "place")
			if err := got.Save(again); err != nil {
				t.Fatal(err)
			}
			if got, err := delta.Load(again); err != nil || got.Backbone.Path != filepath.Join(moved, c.model) {
				t.Errorf("loaded %q, error %v", got.Backbone.Path, err)
			}
		})
	}
	for name, c := range map[string]struct{ path, want string }{
		"another tree":   {"/nowhere/tiny.safetensors", "/nowhere/tiny.safetensors"},
		"no path":        {"", ""},
		"not text":       {"/nowhere/\xff/tiny.safetensors", ""},
		"with a newline": {"/nowhere/a\nb/tiny.safetensors", ""},
	} {
		t.Run(name, func(t *testing.T) {
			d := result(t, tiny(tinyConfig, 1), "lora", selections()["lora"])
			d.Backbone.File, d.Backbone.Path = "tiny.safetensors", c.path
			dir := saved(t, d)
			if got := pathIn(t, dir); got != c.want {
				t.Errorf("the file has the path %q, expected %q", got, c.want)
			}
			if got, err := delta.Load(dir); err != nil || got.Backbone.Path != c.want {
				t.Errorf("loaded %q, error %v", got.Backbone.Path, err)
			}
		})
	}
}

// pathIn returns the path of the backbone in the JSON file of a delta.
func pathIn(t *testing.T, dir string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(dir, delta.FileName))
	if err != nil {
		t.Fatal(err)
	}
	var d struct{ Backbone struct{ Path string } }
	if err := json.Unmarshal(text, &d); err != nil {
		t.Fatal(err)
	}
	return d.Backbone.Path
}
