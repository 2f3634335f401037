package portablename_test

import (
	"testing"

	"github.com/sptune/spt/internal/portablename"
)

func TestIsDevice(t *testing.T) {
	for name, want := range map[string]bool{"NUL": true, "aux.2-lora": true, "Com1": true, "lpt³.txt": true, "con ": true, "CONIN$": true,
		"": false, "console": false, "com10": false, "aux-2": false, "my.nul": false} {
		if got := portablename.IsDevice(name); got != want {
			t.Errorf("IsDevice(%q) is %v", name, got)
		}
	}
}
