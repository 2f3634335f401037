// Package devicetest opens the device on which tests run. Only tests import it. Begin with [Open].
package devicetest

import (
	"os"
	"testing"

	"github.com/sptune/spt/backend"
)

// Open opens the device that the environment variable SPT_DEVICE names, for example "cuda" or
// "xla:/path/plugin.so". It returns the backend and the value of the variable. If the variable is
// not set, Open skips the test. If the device cannot be opened, the test fails.
func Open(t *testing.T) (be backend.Backend, name string) {
	t.Helper()
	name = os.Getenv("SPT_DEVICE")
	if name == "" {
		t.Skip("SPT_DEVICE is not set; set it to the device to test: cuda, or xla:PATH with the path of a PJRT plug-in")
	}
	be, _, err := backend.Open(name, 1)
	if err != nil {
		t.Fatal(err)
	}
	return be, name
}
