package jsonfile_test

import (
	"testing"

	"github.com/sptune/spt/internal/jsonfile"
)

func TestText(t *testing.T) {
	for s, want := range map[string]string{"": "", "ä\n\ufffd": "ä\n\ufffd", "a\xffb\xfe": `a\xffb\xfe`, "\xc3ä": `\xc3ä`} {
		if got := jsonfile.Text(s); got != want {
			t.Errorf("Text(%q) = %q, want %q", s, got, want)
		}
	}
}
