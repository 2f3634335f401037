package export

import (
	"errors"
	"path/filepath"
	"strings"
	"testing"

	"github.com/sptune/spt/run"
)

// TestDeltaOfNothing checks that a classifier without a delta is refused before anything is
// written. cli/testdata/script/push.txtar writes deltas.
func TestDeltaOfNothing(t *testing.T) {
	err := Check(&Classifier{}, []string{"delta"}, filepath.Join(t.TempDir(), "out"), Options{})
	if _, ok := errors.AsType[*run.InputError](err); !ok || !strings.Contains(err.Error(), "has no delta") {
		t.Errorf("got %v", err)
	}
}

// TestPlanPushRefuses checks that what the user can correct is an InputError of package run.
func TestPlanPushRefuses(t *testing.T) {
	t.Setenv("HF_TOKEN", "")
	t.Setenv("HUGGING_FACE_HUB_TOKEN", "")
	t.Setenv("HF_HUB_OFFLINE", "")
	t.Setenv("HF_HOME", t.TempDir())
	for ref, text := range map[string]string{"tests/mine": "is not a reference", "hf:tests/mine:x": "takes no file", "hf:tests/mine": "there is no token"} {
		_, err := PlanPush(t.Context(), t.TempDir(), ref, PushOptions{})
		if _, ok := errors.AsType[*run.InputError](err); !ok || !strings.Contains(err.Error(), text) {
			t.Errorf("%s: got %v", ref, err)
		}
	}
}
