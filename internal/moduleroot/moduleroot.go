// Package moduleroot finds the root of this module, for tests that read files of other packages.
package moduleroot

import (
	"os"
	"path/filepath"
	"testing"
)

// Dir returns the folder of go.mod, searched upwards from the folder in which the test runs. It
// fails the test where there is none.
func Dir(t testing.TB) string {
	t.Helper()
	dir, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	for {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return dir
		}
		parent := filepath.Dir(dir)
		if parent == dir {
			t.Fatal("finding the module's root: no folder above the test has a go.mod")
		}
		dir = parent
	}
}
