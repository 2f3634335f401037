package classfolders

import (
	"context"
	"errors"
	"path/filepath"
	"testing"
)

// TestMake counts the class folders and their images.
func TestMake(t *testing.T) {
	root, err := Make(t.Context(), t.TempDir(), 20, 4)
	if err != nil {
		t.Fatal(err)
	}
	for pattern, want := range map[string]int{"*": 4, "*/*.png": 20, "n00003/*.png": 5} {
		if found, err := filepath.Glob(filepath.Join(root, pattern)); err != nil || len(found) != want {
			t.Errorf("%s: %d files, want %d; %v", pattern, len(found), want, err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Make(ctx, t.TempDir(), 20, 4); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
}
