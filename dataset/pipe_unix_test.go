//go:build unix

package dataset

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
	for name, files := range map[string]map[string]string{
		"train800.txt":                      {},
		"val200.txt":                        {"train800.txt": "a.jpg 0\n"},
		"classes.txt":                       {"train800.txt": "a.jpg 0\n"},
		"train.json":                        {},
		"train.csv":                         {},
		"metadata.jsonl":                    {},
		"metadata.parquet":                  {},
		"train.parquet":                     {},
		"README.md":                         {"train.parquet": "other/two.parquet"},
		"a.jpg":                             {"train.csv": "image,label\na.jpg,cat\n"},
		"cat/a.jpg":                         {"dog/b.jpg": "x"},
		"list.tsv":                          {},
		"one.parquet":                       {},
		"train_meta.list.num_shot_1.seed_0": {},
	} {
		root := copied(t, files)
		path := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := syscall.Mkfifo(path, 0o600); err != nil {
			t.Fatal(err)
		}
		open := root
		if strings.HasPrefix(name, "list") || strings.HasPrefix(name, "one") || strings.HasPrefix(name, "train_") {
			open = path
		}
		done := make(chan error, 1)
		go func() {
			_, err := Open(t.Context(), open, OpenOptions{ImageColumn: map[bool]string{true: "left"}[name == "README.md"]})
			done <- err
		}()
		select {
		case err := <-done:
			if err == nil || !strings.Contains(err.Error(), "is not a regular file") {
				t.Errorf("%s: error %v, want that it is not a regular file", name, err)
			}
		case <-time.After(20 * time.Second):
			t.Fatalf("%s: a pipe was opened", name)
		}
	}
}
