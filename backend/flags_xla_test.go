//go:build xla && linux

package backend

import (
	"os"
	"path/filepath"
	"testing"
)

// TestSetFlags checks that setFlags sets only flags that the plug-in contains as complete strings
// and that the user has not set.
func TestSetFlags(t *testing.T) {
	plugin := filepath.Join(t.TempDir(), "plugin.so")
	if err := os.WriteFile(plugin, []byte("\x7fELF\x00xla_one\x00reserved: xla_two\x00R\x07xla_fourR\x00xla_three\x00"), 0o666); err != nil {
		t.Fatal(err)
	}
	t.Setenv("XLA_FLAGS", "--xla_three=5")
	setFlags(plugin, []compilerFlag{{"xla_one", "1"}, {"xla_two", "2"}, {"xla_three", "3"}, {"xla_four", "4"}})
	if got, want := os.Getenv("XLA_FLAGS"), "--xla_three=5 --xla_one=1"; got != want {
		t.Errorf("flags %q, expected %q", got, want)
	}
	setFlags(plugin+".absent", []compilerFlag{{"xla_two", "2"}})
	if got := os.Getenv("XLA_FLAGS"); got != "--xla_three=5 --xla_one=1" {
		t.Errorf("flags %q for a plug-in that does not exist", got)
	}
}
