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

// imports lists each package of this module and the packages of this module that it may import. A
// package may import only packages above it in this table. Tests may import more. A name that ends
// in "/..." stands for all packages below a folder. A package in the internal folder of another
// package belongs to that package.
var imports = []struct {
	name string
	may  []string
}{
	{"progress", nil},
	{"internal/atomicfile", nil},
	{"internal/classfolders", nil},
	{"internal/cputime", nil},
	{"internal/jpeg", nil},
	{"internal/labelsplit", nil},
	{"internal/littleendian", nil},
	{"internal/moduleroot", nil},
	{"internal/option", nil},
	{"internal/portablename", nil},
	{"internal/regularfile", nil},
	{"internal/seeded", nil},
	{"internal/shell", nil},
	{"internal/synth", nil},
	{"internal/version", nil},
	{"internal/wording", nil},
	{"internal/workers", nil},
	{"report/chart", nil},
	{"report/live", nil},
	{"internal/yamlfile", []string{"internal/option"}},
	{"internal/kernel/...", []string{"internal/workers", "internal/kernel/..."}},
	{"internal/jsonfile", []string{"internal/atomicfile"}},
	{"evaluate", []string{"internal/atomicfile", "internal/jsonfile", "internal/option", "internal/regularfile"}},
	{"internal/measure", []string{"internal/kernel/...", "internal/workers"}},
	{"internal/hub", []string{"internal/portablename", "internal/regularfile", "progress", "internal/atomicfile", "internal/jsonfile"}},
	{"internal/pickle", nil},
	{"checkpoint", []string{"internal/regularfile", "internal/atomicfile", "internal/kernel/...", "internal/littleendian", "internal/pickle"}},
	{"dataset", []string{"internal/regularfile", "internal/atomicfile", "progress", "internal/jpeg", "internal/labelsplit", "internal/option"}},
	{"backend/cpu", []string{"internal/kernel/...", "internal/workers"}},
	{"probe", []string{"internal/kernel/...", "internal/labelsplit", "internal/workers"}},
	{"export/onnx", []string{"internal/atomicfile", "internal/kernel/...", "internal/littleendian", "internal/regularfile"}},
	{"backend", []string{"backend/cpu", "internal/option"}},
	{"internal/program", []string{"backend", "backend/cpu"}},
	{"internal/graph", []string{"backend"}},
	{"internal/drop", []string{"backend"}},
	{"backbone", []string{"internal/regularfile", "backend", "checkpoint", "internal/graph", "internal/jsonfile", "internal/littleendian", "internal/option", "internal/program"}},
	{"backbone/catalogue", []string{"backbone"}},
	{"internal/microbatch", []string{"backbone", "backend", "internal/program"}},
	{"internal/embedded", []string{"backbone", "checkpoint"}},
	{"objective", []string{"backbone", "dataset", "evaluate", "internal/option", "probe"}},
	{"sensitivity", []string{"backbone", "backend", "checkpoint", "dataset", "objective", "progress", "internal/drop", "internal/jsonfile",
		"internal/microbatch", "internal/option", "internal/program", "internal/seeded"}},
	{"plan", []string{"internal/regularfile", "backbone", "sensitivity", "internal/atomicfile", "internal/jsonfile", "internal/option", "internal/seeded"}},
	{"peft", []string{"backbone", "backend", "checkpoint", "internal/drop", "internal/graph", "internal/option", "internal/program",
		"internal/seeded"}},
	{"internal/planreport", []string{"internal/wording", "plan", "sensitivity"}},
	{"plan/published", []string{"internal/regularfile", "checkpoint", "peft", "plan", "sensitivity", "internal/pickle"}},
	{"train", []string{"backbone", "backend", "checkpoint", "dataset", "objective", "peft", "progress", "sensitivity", "internal/jsonfile", "internal/microbatch",
		"internal/measure", "internal/option", "internal/program"}},
	{"memory", []string{"backbone", "backend", "dataset", "objective", "peft", "sensitivity", "train"}},
	{"method", []string{"backbone", "peft", "plan", "train", "internal/option"}},
	{"recipe", []string{"method", "plan", "train"}},
	{"delta", []string{"internal/regularfile", "backbone", "backend", "checkpoint", "dataset", "evaluate", "objective", "peft", "plan", "train", "internal/atomicfile", "internal/hub",
		"internal/jsonfile", "internal/program"}},
	{"run", []string{"internal/regularfile", "backbone", "backbone/catalogue", "backend", "checkpoint", "dataset", "delta", "evaluate", "method", "objective", "peft", "plan", "progress", "sensitivity", "train",
		"internal/atomicfile", "internal/embedded", "internal/hub", "internal/jsonfile", "internal/option", "internal/version", "internal/yamlfile"}},
	{"tracking/mlflow", nil},
	{"tracking/tensorboard", []string{"internal/atomicfile", "internal/regularfile"}},
	{"tracking", []string{"delta", "evaluate", "plan", "progress", "run", "train", "tracking/mlflow", "tracking/tensorboard", "internal/jsonfile", "internal/regularfile"}},
	{"inspect", []string{"internal/regularfile", "backbone", "checkpoint", "delta", "evaluate", "peft", "plan", "progress", "run", "sensitivity", "tracking", "train", "internal/jsonfile",
		"plan/published"}},
	{"", []string{"backbone", "backend", "checkpoint", "dataset", "delta", "evaluate", "memory", "method", "objective", "peft", "plan", "probe", "progress", "recipe", "run",
		"sensitivity", "train", "internal/embedded", "internal/measure", "internal/option", "internal/portablename", "internal/program", "internal/version", "internal/wording"}},
	{"sweep", []string{"", "dataset", "method", "objective", "plan", "progress", "run", "train", "internal/atomicfile", "internal/jsonfile", "internal/option",
		"internal/regularfile", "internal/shell", "internal/wording", "internal/yamlfile"}},
	{"report", []string{"", "backbone", "dataset", "delta", "evaluate", "method", "objective", "peft", "plan", "progress", "report/chart", "run", "sensitivity", "sweep", "train",
		"internal/atomicfile", "internal/jsonfile", "internal/shell", "internal/version", "internal/wording"}},
	{"export", []string{"", "backbone", "backend", "checkpoint", "dataset", "delta", "evaluate", "export/onnx", "objective", "peft", "progress", "run", "train", "internal/atomicfile", "internal/hub",
		"internal/option", "internal/program", "internal/shell", "internal/version", "internal/wording"}},
	{"internal/demo", []string{"", "backbone", "backend", "checkpoint", "dataset", "evaluate", "method", "objective", "peft", "plan", "progress", "report", "run", "sensitivity",
		"train", "internal/embedded", "internal/option", "internal/seeded", "internal/synth"}},
	{"internal/bench", []string{"", "backbone", "backbone/catalogue", "backend", "backend/cpu", "checkpoint", "dataset", "method", "objective", "peft", "plan", "progress", "run",
		"sensitivity", "train", "internal/classfolders", "internal/cputime", "internal/demo", "internal/jsonfile", "internal/measure", "internal/option", "internal/program"}},
	{"cli", []string{"", "backbone", "backbone/catalogue", "backend", "checkpoint", "dataset", "delta", "export", "inspect", "method", "objective", "peft", "plan", "plan/published",
		"progress", "report", "report/live", "run", "sensitivity", "sweep", "tracking", "tracking/mlflow", "train", "evaluate", "internal/atomicfile", "internal/bench",
		"internal/demo", "internal/embedded", "internal/hub", "internal/jsonfile", "internal/option", "internal/planreport", "internal/shell", "internal/wording",
		"internal/yamlfile", "memory"}},
	{"cmd/spt", []string{"cli"}},

	// These packages are for tests.
	{"internal/colours", []string{"backbone", "checkpoint", "dataset", "internal/seeded"}},
	{"internal/devicetest", []string{"backend"}},
	{"internal/fixtures", []string{"checkpoint", "internal/moduleroot"}},
	{"internal/golden", []string{"internal/moduleroot"}},
	{"internal/golden/sptsmall", []string{"backbone", "checkpoint", "dataset", "internal/golden", "peft", "plan", "sensitivity"}},
}

// within reports whether a name of the table stands for the package pkg.
func within(name, pkg string) bool {
	folder, all := strings.CutSuffix(name, "...")
	return name == pkg || all && strings.HasPrefix(pkg, folder)
}

// place returns the row of the table for a package. It returns -1 if the package is not in the
// table.
func place(pkg string) int {
	if owner, _, inside := strings.Cut(pkg, "/internal/"); inside && !strings.HasPrefix(pkg, "internal/") {
		pkg = owner
	}
	for i, row := range imports {
		if within(row.name, pkg) {
			return i
		}
	}
	return -1
}

// TestImports checks that every package imports only the packages that the table of imports allows.
func TestImports(t *testing.T) {
	const module = "github.com/sptune/spt"
	seen := make([]bool, len(imports))
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
		pkg := strings.TrimPrefix(filepath.ToSlash(filepath.Dir(path)), ".")
		row := place(pkg)
		if row < 0 {
			t.Errorf("package %s is not in the table of imports; add a row with the packages that it may import", pkg)
			return nil
		}
		seen[row] = true
		file, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.ImportsOnly)
		if err != nil {
			return err
		}
		for _, i := range file.Imports {
			name, err := strconv.Unquote(i.Path.Value)
			if err != nil {
				return err
			}
			if name != module && !strings.HasPrefix(name, module+"/") {
				continue
			}
			name = strings.TrimPrefix(strings.TrimPrefix(name, module), "/")
			if place(name) != row && !slices.ContainsFunc(imports[row].may, func(may string) bool { return within(may, name) }) {
				t.Errorf("%s imports %q, which package %q may not import; see the table of imports", path, name, imports[row].name)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for i, row := range imports {
		if !seen[i] {
			t.Errorf("the table of imports has package %q, which does not exist", row.name)
		}
		for _, may := range row.may {
			if at := slices.IndexFunc(imports, func(other struct {
				name string
				may  []string
			}) bool {
				return other.name == may
			}); at < 0 || at > i {
				t.Errorf("package %q may import %q, which is not above it in the table of imports; move one of them", row.name, may)
			}
		}
	}
}
