package gemm

import "testing"

// TestBF16WithoutTiles repeats the tests of products with the vector registers on a processor with
// AMX. On other processors, these tests use the vector registers anyway.
func TestBF16WithoutTiles(t *testing.T) {
	needBF16(t)
	if !usesTiles() {
		t.Skip("this processor has no AMX-BF16")
	}
	withoutTiles = true
	defer func() { withoutTiles = false }()
	t.Run("whole", TestBF16Whole)
	t.Run("terms", TestBF16Terms)
	t.Run("accuracy", TestBF16Accuracy)
	t.Run("threads", TestBF16Threads)
}
