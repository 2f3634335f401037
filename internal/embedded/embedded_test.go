package embedded

import "testing"

// TestSize checks that the embedded checkpoint has at most 4 MiB.
func TestSize(t *testing.T) {
	if len(weights) > 4<<20 {
		t.Errorf("%d bytes are embedded, expected at most 4 MiB", len(weights))
	}
}
