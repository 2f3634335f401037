// Package devicetest gives tests the device that is to be tested. Only tests import it.
package devicetest

import (
	"os"
	"testing"

	"github.com/sptune/spt/backend"
)

// Open starts what SPT_DEVICE names, such as cuda or xla:/path/plugin.so; without it the test is
// skipped.
func Open(t *testing.T) (be backend.Backend, name string) {
	t.Helper()
	name = os.Getenv("SPT_DEVICE")
	if name == "" {
		t.Skip("needs SPT_DEVICE, a device that is no processor: cuda, or xla: and the path of a PJRT plug-in")
	}
	be, _, err := backend.Open(name, 1)
	if err != nil {
		t.Fatal(err)
	}
	return be, name
}
