package inspect_test

import (
	"path/filepath"
	"reflect"
	"testing"

	"github.com/sptune/spt/inspect"
	"github.com/sptune/spt/plan/published"
)

// TestPublishedSelection recognises a selection that was saved by the code of the paper.
func TestPublishedSelection(t *testing.T) {
	path := filepath.Join("..", "internal", "fixtures", "testdata", "published", "lora.pth")
	want, _, err := published.LoadPlan(path)
	if err != nil {
		t.Fatal(err)
	}
	in, err := inspect.Open(t.Context(), path, nil)
	if err != nil || in.Kind != "published selection" || !reflect.DeepEqual(in.Plan, want) {
		t.Errorf("inspected: %+v, %v", in, err)
	}
}
