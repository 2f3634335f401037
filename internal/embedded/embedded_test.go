package embedded

import "testing"

// TestSize holds the embedded checkpoint to the promise of at most 4 MiB.
func TestSize(t *testing.T) {
	if len(weights) > 4<<20 {
		t.Errorf("%d bytes are embedded, expected at most 4 MiB", len(weights))
	}
}
