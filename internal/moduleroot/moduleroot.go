// Package moduleroot finds the root folder of this module. Tests use it to read files of other
// packages.
package moduleroot

import (
	"os"
	"path/filepath"
	"testing"
)

// Dir returns the folder that contains go.mod. It searches the current folder, which is the folder
// of the tested package, and then its parent folders. It fails the test if none of them contains
// go.mod.
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
			t.Fatal("finding the root folder of the module: neither the folder of the test nor a parent folder contains go.mod")
		}
		dir = parent
	}
}
