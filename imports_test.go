package spt_test

import (
	"go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// imports is the direction of the house: each package, and what it may import from this module. A
// package knows the packages on its left in docs/architecture.md, never those on its right. Tests
// may import more. Packages below an internal folder of another package belong to that package.
var imports = map[string][]string{
	"progress":   {},
	"checkpoint": {"internal/atomicfile", "internal/pickle"},
	"dataset":    {"progress"},
	"backend":    {"backend/cpu"},
	"backbone":   {"backend", "checkpoint"},
	"objective":  {"backbone", "dataset"},
	"sensitivity": {"backbone", "backend", "checkpoint", "dataset", "objective", "progress", "internal/seeded",
		"internal/jsonfile"},
	"plan":   {"backbone", "sensitivity", "internal/atomicfile", "internal/jsonfile"},
	"peft":   {"backbone", "backend", "checkpoint", "internal/seeded"},
	"method": {"backbone", "peft", "plan", "train"},
	"train": {"backbone", "backend", "checkpoint", "dataset", "objective", "peft", "progress", "internal/atomicfile",
		"internal/jsonfile"},
	"delta": {"backbone", "backend", "checkpoint", "dataset", "objective", "peft", "plan", "train", "internal/atomicfile",
		"internal/hub", "internal/jsonfile"},
	"run": {"backbone", "backend", "checkpoint", "dataset", "delta", "method", "peft", "plan", "progress", "sensitivity",
		"train", "internal/embedded", "internal/hub", "internal/jsonfile", "internal/version"},
	"inspect": {"backbone", "checkpoint", "delta", "peft", "plan", "progress", "run", "sensitivity", "train",
		"internal/jsonfile", "internal/published"},
	"": {"backbone", "backend", "checkpoint", "dataset", "delta", "method", "objective", "peft", "plan", "progress",
		"run", "sensitivity", "train", "internal/version"},
	"cli": {"", "backbone", "backend", "checkpoint", "dataset", "delta", "inspect", "method", "objective", "peft", "plan",
		"progress", "run", "sensitivity", "train", "internal/bench", "internal/demo", "internal/embedded",
		"internal/planreport", "internal/published"},
	"cmd/spt": {"cli"},

	"backend/cpu":       {},
	"internal/hub":      {"progress"},
	"internal/embedded": {"backbone", "checkpoint"},
	"internal/jsonfile": {"internal/atomicfile"},
	"internal/demo": {"", "backbone", "backend", "checkpoint", "dataset", "method", "peft", "plan", "progress", "run", "sensitivity",
		"train", "internal/embedded", "internal/seeded", "internal/synth"},
	"internal/bench": {"", "backbone", "backend", "backend/cpu", "checkpoint", "dataset", "method", "objective", "peft", "plan",
		"progress", "run", "sensitivity", "train", "internal/demo", "internal/measure", "internal/seeded",
		"internal/version"},
	"internal/colours":         {"backbone", "checkpoint", "dataset", "internal/seeded"},
	"internal/devicetest":      {"backend"},
	"internal/fixtures":        {"checkpoint", "internal/moduleroot"},
	"internal/golden":          {"internal/moduleroot"},
	"internal/golden/sptsmall": {"backbone", "checkpoint", "dataset", "internal/golden", "peft", "plan", "sensitivity"},
	"internal/atomicfile":      {},
	"internal/measure":         {"backend/cpu"},
	"internal/moduleroot":      {},
	"internal/pickle":          {},
	"internal/planreport":      {"plan", "sensitivity"},
	"internal/published":       {"checkpoint", "internal/pickle", "internal/planreport", "peft", "plan", "sensitivity"},
	"internal/seeded":          {},
	"internal/synth":           {},
	"internal/version":         {},
}

// TestImports holds every package to the table.
func TestImports(t *testing.T) {
	const module = "github.com/sptune/spt"
	seen := map[string]bool{}
	err := filepath.WalkDir(".", func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && (d.Name() == "testdata" || d.Name() == "examples" || strings.HasPrefix(d.Name(), ".") && path != ".") {
			return filepath.SkipDir
		}
		if d.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
			return nil
		}
		dir := strings.TrimPrefix(filepath.ToSlash(filepath.Dir(path)), ".")
		file, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.ImportsOnly)
		if err != nil {
			return err
		}
		owner := dir // of a package in its internal folder
		if parent, _, ok := strings.Cut(dir, "/internal/"); ok {
			owner = parent
		}
		allowed, ok := imports[owner]
		if !ok {
			t.Errorf("package %s is not in the table of imports; add it with what it may import", dir)
			return nil
		}
		seen[owner] = true
		for _, i := range file.Imports {
			name, err := strconv.Unquote(i.Path.Value)
			if err != nil {
				return err
			}
			if name != module && !strings.HasPrefix(name, module+"/") {
				continue
			}
			name = strings.TrimPrefix(strings.TrimPrefix(name, module), "/")
			if !slices.Contains(allowed, name) && !strings.HasPrefix(name, owner+"/internal/") {
				t.Errorf("%s imports %q, which %q may not know; see the table", path, name, owner)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for name := range imports {
		if !seen[name] {
			t.Errorf("the table of imports has package %q, which does not exist", name)
		}
	}
}

// TestImportsHaveNoCycle: the table alone shows that no arrow leads back.
func TestImportsHaveNoCycle(t *testing.T) {
	const visiting, done = 1, 2
	state := map[string]int{}
	var visit func(name string)
	visit = func(name string) {
		switch state[name] {
		case done:
			return
		case visiting:
			t.Errorf("the imports of %q lead back to it", name)
			return
		}
		state[name] = visiting
		for _, i := range imports[name] {
			visit(i)
		}
		state[name] = done
	}
	for name := range imports {
		visit(name)
	}
}
