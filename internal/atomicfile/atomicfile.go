// Package atomicfile replaces files atomically. A reader sees either the old content or the new
// content, even after a crash, and never a part of it. [Write] writes the output of a function,
// [WriteBytes] writes bytes from memory, and [CreateFolder] makes a whole folder. [Rename] and
// [Remove] wait for other programs that have the file open. [RemoveLeftovers] removes what a crash
// left behind, and [Abandon] what this process would leave if it ended now.
package atomicfile

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"
)

// The name of a temporary file is the prefix, a random number and the suffix.
const tempPrefix, tempSuffix = ".spt-", ".tmp"

// writing holds the paths of the temporary files and folders that are being written.
var writing sync.Map

// Abandon removes the temporary files and folders that are being written. Their writers fail. A
// program calls it when it is about to end.
func Abandon() {
	writing.Range(func(path, _ any) bool {
		_ = os.RemoveAll(path.(string)) // the program ends; nobody can act on an error
		return true
	})
}

// RemoveLeftovers removes the temporary files in a folder that writers left when they were killed.
// No other process may write files in this folder at the same time. A folder that does not exist is
// no error.
func RemoveLeftovers(folder string) error {
	entries, err := os.ReadDir(folder)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	for _, e := range entries {
		if name := e.Name(); strings.HasPrefix(name, tempPrefix) && strings.HasSuffix(name, tempSuffix) && e.Type().IsRegular() {
			if e := os.Remove(filepath.Join(folder, name)); e != nil && !errors.Is(e, fs.ErrNotExist) {
				err = errors.Join(err, e)
			}
		}
	}
	return err
}

// Write replaces the file at path with the bytes that fill writes to w, which is buffered. Write
// first writes a temporary file in the same folder, syncs it to disk, and then renames it. On an
// error the old file does not change.
func Write(path string, fill func(w io.Writer) error) error { return write(path, fill, Rename) }

// CreateBytes makes the file at path with data, as [WriteBytes] does, but never replaces a file: if
// the file exists, also since a moment ago, the error is fs.ErrExist.
func CreateBytes(path string, data []byte) error {
	fill := func(w io.Writer) error {
		_, err := w.Write(data)
		return err
	}
	return write(path, fill, func(temp, path string) error {
		// A hard link is the one way to name a complete file that refuses an existing name.
		err := os.Link(temp, path)
		if _, e := os.Lstat(path); err != nil && e == nil {
			return fs.ErrExist // the other writer may have removed temp as a leftover
		}
		if err == nil || errors.Is(err, fs.ErrExist) {
			return errors.Join(err, os.Remove(temp))
		}
		// This file system has no hard links. An empty file reserves the name.
		empty, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o666)
		if err == nil {
			err = empty.Close()
		}
		if err == nil {
			err = Rename(temp, path)
		}
		return err
	})
}

// CreateFolder makes the folder at path with the files that fill writes into dir. dir is a
// temporary folder beside path, which gets its name when fill has returned. The folders above path
// are made. If path exists, the error is fs.ErrExist. On an error dir is removed.
func CreateFolder(path string, fill func(dir string) error) error {
	if _, err := os.Lstat(path); err == nil {
		return &fs.PathError{Op: "mkdir", Path: path, Err: fs.ErrExist}
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o777); err != nil {
		return err
	}
	dir := tempName(path)
	if err := os.Mkdir(dir, 0o777); err != nil {
		return err
	}
	writing.Store(dir, nil)
	defer writing.Delete(dir)
	err := fill(dir)
	if err == nil {
		err = Rename(dir, path)
	}
	if err != nil {
		return errors.Join(err, os.RemoveAll(dir))
	}
	return nil
}

// tempName returns the path of a temporary file or folder beside path.
func tempName(path string) string {
	return filepath.Join(filepath.Dir(path), fmt.Sprintf("%s%016x%s", tempPrefix, rand.Uint64(), tempSuffix))
}

// write writes a temporary file, and gives it its name with the function name.
func write(path string, fill func(w io.Writer) error, name func(temp, path string) error) error {
	// os.CreateTemp would make a file that other users cannot read. With mode 0666 the umask
	// decides, as for any new file.
	temp := tempName(path)
	f, err := os.OpenFile(temp, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o666)
	if err != nil {
		return err
	}
	writing.Store(temp, nil)
	defer writing.Delete(temp)
	w := bufio.NewWriterSize(f, 1<<16)
	if err = fill(w); err == nil {
		err = w.Flush()
	}
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err == nil {
		err = name(temp, path)
	}
	if err != nil {
		if e := os.Remove(temp); e != nil && !errors.Is(e, fs.ErrNotExist) {
			err = errors.Join(err, e)
		}
		return err
	}
	// Syncing the folder makes the rename survive a power failure. Some systems cannot sync a
	// folder; the file is complete even there, so errors are ignored.
	if dir, err := os.Open(filepath.Dir(path)); err == nil {
		_ = dir.Sync()
		_ = dir.Close()
	}
	return nil
}

// patience is how long Rename and Remove wait for other programs.
const patience = 2 * time.Second

// Rename renames a file as os.Rename does, and replaces the file at to. Windows refuses this while
// a program reads one of the files, such as a virus scanner or another command of spt. Rename
// therefore tries again for a few seconds.
func Rename(from, to string) error {
	return retry(func() error { return os.Rename(from, to) })
}

// Remove removes a file as os.Remove does. It waits as [Rename] does.
func Remove(path string) error {
	return retry(func() error { return os.Remove(path) })
}

// retry calls f again while a program has the file open, until patience has passed.
func retry(f func() error) error {
	for start, pause := time.Now(), time.Millisecond; ; pause *= 2 {
		err := f()
		if err == nil || !busy(err) {
			return err
		}
		if time.Since(start)+pause > patience {
			return fmt.Errorf("%w; close the programs that have this file open", err)
		}
		time.Sleep(pause)
	}
}

// WriteBytes replaces the file at path with data, as [Write] does.
func WriteBytes(path string, data []byte) error {
	return Write(path, func(w io.Writer) error {
		_, err := w.Write(data)
		return err
	})
}
