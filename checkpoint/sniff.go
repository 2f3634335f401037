package checkpoint

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// kind is what a file is by its first bytes.
type kind string

// The kinds of files that recognise tells apart.
const (
	kindSafetensors kind = "safetensors"
	kindJSON        kind = "JSON"   // the index of a sharded checkpoint, or any other object
	kindZip         kind = "zip"    // of PyTorch or NumPy
	kindPickle      kind = "pickle" // of PyTorch before 1.6, or of Python
)

// IsJSON reports whether the regular file at path is JSON, by its first bytes alone: the index of a
// sharded checkpoint, or any other object. A file that is neither JSON nor a checkpoint is a
// [*FormatError], unless it may be a damaged safetensors file.
func IsJSON(path string) (bool, error) {
	r, size, err := openRegular(path)
	if err != nil {
		return false, err
	}
	defer r.Close()
	k, err := recognise(r, size, path)
	return k == kindJSON, err
}

// recognise tells the kind of a file of size bytes by its first bytes.
func recognise(r io.ReaderAt, size int64, name string) (kind, error) {
	start := make([]byte, min(size, 512))
	if err := readAt(r, start, 0); err != nil {
		return "", fmt.Errorf("checkpoint %s: reading its first bytes: %w", name, err)
	}
	begins := func(prefix string) bool { return bytes.HasPrefix(start, []byte(prefix)) }
	other := ""
	switch {
	// First, because a file may begin with the length of its header, which may be any bytes.
	case len(start) > 8 && start[8] == '{' && binary.LittleEndian.Uint64(start) <= uint64(size-8):
		return kindSafetensors, nil
	case begins("PK\x03\x04") || begins("PK\x05\x06"):
		return kindZip, nil
	case len(start) > 2 && start[0] == 0x80 && start[1] >= 2 && start[1] <= 5:
		return kindPickle, nil
	case bytes.HasPrefix(bytes.TrimLeft(start, " \t\r\n"), []byte("{")):
		return kindJSON, nil
	case begins("version https://git-lfs"):
		other = "a Git LFS pointer, which stands for the file that 'git lfs pull' fetches"
	case begins("<"):
		other = "a web page; was the address that of the file itself?"
	case begins("\x1f\x8b"):
		other = "compressed with gzip; unpack it first"
	case begins("\x89HDF"):
		other = "HDF5, as Keras writes it, which is not read; convert it to safetensors"
	case begins(npyMagic):
		other = "a single NumPy array, expected an .npz with one for each tensor"
	case len(start) == 512 && string(start[257:262]) == "ustar":
		other = "a tar, of a folder or of PyTorch before 0.1.10; unpack it, or load and save it with a newer PyTorch"
	}
	if other != "" {
		return "", &FormatError{File: name, Err: errors.New("it is " + other)}
	}
	return kindSafetensors, nil // whose reader says what is wrong
}
