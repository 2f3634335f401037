package cli

import (
	"testing"

	"github.com/sptune/spt/internal/jsonfile"
)

// TestDistinctPath checks that paths with different bytes have different texts in JSON.
func TestDistinctPath(t *testing.T) {
	for path, want := range map[string]string{
		"a/b.png": "a/b.png", "été.png": "été.png", "\ufffd.png": "\ufffd.png",
		"a\xe9.png": `a\xe9.png`, "a\xea.png": `a\xea.png`, "é\xff\xfe": `é\xff\xfe`,
	} {
		if got := jsonfile.Text(path); got != want {
			t.Errorf("%q became %q, want %q", path, got, want)
		}
	}
}
