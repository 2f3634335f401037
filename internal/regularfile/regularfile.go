// Package regularfile opens files of users. [Open] and [Read] refuse folders, pipes, devices and
// sockets: to open a pipe waits for its writer for ever. Read also limits the size.
package regularfile

import (
	"bytes"
	"fmt"
	"io"
	"os"
)

// Open opens the regular file at path and returns its size in bytes. Any other kind of file is an
// error.
func Open(path string) (*os.File, int64, error) {
	info, err := os.Stat(path) // before os.Open, which would wait for the writer of a pipe
	if err != nil {
		return nil, 0, err
	}
	if !info.Mode().IsRegular() {
		return nil, 0, fmt.Errorf("%s is not a regular file (mode %s); remove it or give a regular file", path, info.Mode())
	}
	f, err := os.Open(path)
	return f, info.Size(), err
}

// Read returns the content of the regular file at path. A file of more than limit bytes is an
// error, also if it grows while it is read. Read allocates little more than the size of the file.
func Read(path string, limit int64) ([]byte, error) {
	f, size, err := Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if size <= limit {
		var data bytes.Buffer
		data.Grow(int(size) + bytes.MinRead) // ReadFrom need not grow the buffer
		if n, err := data.ReadFrom(io.LimitReader(f, limit+1)); err != nil || n <= limit {
			return data.Bytes(), err
		}
		size = limit + 1
	}
	return nil, fmt.Errorf("%s has %d bytes or more, expected at most %d; more than that is not read: check that it is the right file", path, size, limit)
}
