//go:build unix

package checkpoint

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestPipes checks that no pipe is opened where a file is expected, because opening a pipe waits
// for its writer.
func TestPipes(t *testing.T) {
	dir := t.TempDir()
	pipe := filepath.Join(dir, "model.safetensors")
	if err := syscall.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	index := filepath.Join(t.TempDir(), "model.safetensors.index.json")
	if err := os.WriteFile(index, []byte(`{"weight_map":{"x":"shard"}}`), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mkfifo(filepath.Join(filepath.Dir(index), "shard"), 0o600); err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for _, path := range []string{pipe, dir, index} {
			if _, err := Open(path); err == nil || !strings.Contains(err.Error(), "is not a regular file") {
				t.Errorf("%s: error %v, want that it is not a regular file", path, err)
			}
		}
		if _, err := IsJSON(pipe); err == nil || !strings.Contains(err.Error(), "is not a regular file") {
			t.Errorf("error %v, want that it is not a regular file", err)
		}
	}()
	select {
	case <-done:
	case <-time.After(20 * time.Second):
		t.Fatal("a pipe was opened")
	}
}
