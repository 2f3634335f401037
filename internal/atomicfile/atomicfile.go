// Package atomicfile replaces files as a whole. A reader sees the old content or the new content,
// never a part of it, also after a crash. [Write] writes from a function, [WriteBytes] from memory.
package atomicfile

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
)

// Write replaces the file at path with what fill writes. The new content is written beside it,
// brought to disk and renamed; on an error the old file stays as it was. Writes are buffered.
func Write(path string, fill func(w io.Writer) error) error {
	// os.CreateTemp would leave the file unreadable for others; mode 0666 lets the umask decide, as
	// for any new file.
	temp := filepath.Join(filepath.Dir(path), fmt.Sprintf(".spt-%016x.tmp", rand.Uint64()))
	f, err := os.OpenFile(temp, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o666)
	if err != nil {
		return err
	}
	w := bufio.NewWriterSize(f, 1<<16)
	if err = fill(w); err == nil {
		err = w.Flush()
	}
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err == nil {
		err = os.Rename(temp, path)
	}
	if err != nil {
		return errors.Join(err, os.Remove(temp))
	}
	// Syncing the folder makes the rename itself survive a power cut. Not every system can; the
	// file is whole either way.
	if dir, err := os.Open(filepath.Dir(path)); err == nil {
		_ = dir.Sync()
		_ = dir.Close()
	}
	return nil
}

// WriteBytes is Write for content that is in memory.
func WriteBytes(path string, data []byte) error {
	return Write(path, func(w io.Writer) error {
		_, err := w.Write(data)
		return err
	})
}
