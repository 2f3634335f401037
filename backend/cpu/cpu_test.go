package cpu

import (
	"testing"

	"github.com/gomlx/compute/support/backendtest"
)

// TestCompliance runs GoMLX's own tests of backends.
func TestCompliance(t *testing.T) {
	be, err := New("")
	if err != nil {
		t.Fatal(err)
	}
	defer be.Finalize()
	backendtest.RunAll(t, be, nil)
}
