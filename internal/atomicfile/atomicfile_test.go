package atomicfile

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// TestWrite checks that a success replaces the file, and that a failure keeps the old content and
// leaves no temporary file.
func TestWrite(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "file")
	content := func() string {
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		return string(data)
	}
	for _, want := range []string{"old", "new"} {
		if err := WriteBytes(path, []byte(want)); err != nil || content() != want {
			t.Fatalf("wrote %q, found %q, %v", want, content(), err)
		}
	}
	broken := errors.New("broken")
	err := Write(path, func(w io.Writer) error {
		if _, err := io.WriteString(w, "half"); err != nil {
			return err
		}
		return broken
	})
	if !errors.Is(err, broken) || content() != "new" {
		t.Errorf("error %v, content %q", err, content())
	}
	if files, err := os.ReadDir(dir); err != nil || len(files) != 1 {
		t.Errorf("the folder holds %v, %v", files, err)
	}
	if err := WriteBytes(filepath.Join(dir, "no", "file"), nil); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a missing folder: %v", err)
	}
}

// TestReaders checks that a file can be replaced and removed while another program reads it for a
// short time, which Windows refuses.
func TestReaders(t *testing.T) {
	path := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(path, []byte("old"), 0o666); err != nil {
		t.Fatal(err)
	}
	for name, work := range map[string]func() error{
		"replacing": func() error { return WriteBytes(path, []byte("new")) },
		"removing": func() error {
			if err := Remove(path); err != nil {
				return err
			}
			return os.WriteFile(path, []byte("old"), 0o666)
		},
	} {
		f, err := os.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		closed := make(chan error)
		time.AfterFunc(200*time.Millisecond, func() { closed <- f.Close() })
		if err := work(); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if err := <-closed; err != nil {
			t.Error(err)
		}
	}
}

// TestCreateBytes checks that of several writers of one new file exactly one succeeds, that the
// file is complete whenever it is there, and that nothing else is left.
func TestCreateBytes(t *testing.T) {
	for range 20 {
		dir := t.TempDir()
		path := filepath.Join(dir, "file")
		content := make([]byte, 1<<16)
		var created atomic.Int32
		var group sync.WaitGroup
		for range 8 {
			group.Go(func() {
				switch err := CreateBytes(path, content); {
				case err == nil:
					created.Add(1)
				case !errors.Is(err, fs.ErrExist):
					t.Error(err)
				}
			})
			group.Go(func() {
				if data, err := os.ReadFile(path); err == nil && len(data) != len(content) {
					t.Errorf("read %d bytes", len(data))
				}
			})
		}
		group.Wait()
		entries, err := os.ReadDir(dir)
		if err != nil || len(entries) != 1 || created.Load() != 1 {
			t.Fatalf("%d writers made the file, %v in the folder, %v", created.Load(), entries, err)
		}
	}
}

func TestCreateFolder(t *testing.T) {
	root := t.TempDir()
	path := filepath.Join(root, "above", "new")
	fill := func(dir string) error { return os.WriteFile(filepath.Join(dir, "file"), []byte("x"), 0o666) }
	if err := CreateFolder(path, fill); err != nil {
		t.Fatal(err)
	}
	if text, err := os.ReadFile(filepath.Join(path, "file")); string(text) != "x" {
		t.Errorf("%q, error %v", text, err)
	}
	if err := CreateFolder(path, fill); !errors.Is(err, fs.ErrExist) {
		t.Errorf("error %v", err)
	}
	full := errors.New("full")
	if err := CreateFolder(filepath.Join(root, "above", "other"), func(dir string) error { return errors.Join(fill(dir), full) }); !errors.Is(err, full) {
		t.Errorf("error %v", err)
	}
	// A program that ends removes the folder.
	err := CreateFolder(filepath.Join(root, "above", "other"), func(dir string) error {
		err := fill(dir)
		Abandon()
		return err
	})
	if err == nil {
		t.Error("an abandoned folder was completed")
	}
	if left, err := os.ReadDir(filepath.Join(root, "above")); err != nil || len(left) != 1 {
		t.Errorf("the folder has %v, error %v", left, err)
	}
}
