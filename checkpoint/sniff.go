package checkpoint

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// kind is a group of file formats that share a reader.
type kind string

// The kinds that recognise returns.
const (
	kindSafetensors kind = "safetensors"
	kindJSON        kind = "JSON"   // the index of a sharded checkpoint, or any other JSON object
	kindZip         kind = "zip"    // written by PyTorch 1.6 and later, or by NumPy
	kindPickle      kind = "pickle" // written by PyTorch before 1.6, or by Python's pickle module
)

// sniffLen is the number of bytes at the start of a file that decide its kind.
const sniffLen = 512

// expectedCheckpoint ends the errors about files of other formats.
const expectedCheckpoint = "expected a checkpoint (safetensors, .pth, .bin or .npz)"

// IsJSON reports whether the regular file at path holds a JSON object. It reads only the first
// bytes of the file. The object may be the index of a sharded checkpoint or anything else. The
// error is a [*FormatError] if the file has a known format that is neither a JSON object nor a
// checkpoint. If IsJSON does not know the format, it returns false and no error: the file may be a
// damaged safetensors file, which [Open] reports.
func IsJSON(path string) (bool, error) {
	r, size, err := openRegular(path)
	if err != nil {
		return false, err
	}
	defer r.Close()
	k, err := recognise(r, size, path)
	return k == kindJSON, err
}

// recognise returns the kind of the file of size bytes in r, which it tells from the first bytes. A
// file of a known other format, such as an image, is a [*FormatError]. A file of an unknown format
// counts as safetensors, whose reader then reports what is wrong.
func recognise(r io.ReaderAt, size int64, name string) (kind, error) {
	start := make([]byte, min(size, sniffLen))
	if err := readAt(r, start, 0); err != nil {
		return "", fmt.Errorf("checkpoint %s: reading the first bytes: %w", name, err)
	}
	begins := func(prefix string) bool { return bytes.HasPrefix(start, []byte(prefix)) }
	switch {
	// This case comes first, because a safetensors file begins with a number, whose bytes may equal
	// the signature of another format.
	case len(start) > 8 && start[8] == '{' && binary.LittleEndian.Uint64(start) <= uint64(size-8):
		return kindSafetensors, nil
	case begins("PK\x03\x04") || begins("PK\x05\x06"):
		return kindZip, nil
	case len(start) > 2 && start[0] == 0x80 && start[1] >= 2 && start[1] <= 5:
		return kindPickle, nil
	case cutSafetensors(start):
		return kindSafetensors, nil
	case bytes.HasPrefix(bytes.TrimLeft(start, " \t\r\n"), []byte("{")):
		return kindJSON, nil
	}
	if found, advice := otherFormat(start); found != "" {
		return "", notCheckpoint(name, found, expectedCheckpoint, advice)
	}
	return kindSafetensors, nil
}

// cutSafetensors reports whether start may begin a safetensors file that was cut short: the JSON
// header begins at byte 8, and the length before it needs four bytes at most, which is enough for
// maxHeader.
func cutSafetensors(start []byte) bool {
	return len(start) > 8 && start[8] == '{' && binary.LittleEndian.Uint32(start[4:]) == 0
}

// notCheckpoint returns the error for a file of another format. found says what the file is, as in
// "a PNG image". expected says what it should be. advice says what to do, or is "".
func notCheckpoint(name, found, expected, advice string) *FormatError {
	text := fmt.Sprintf("the file is %s; %s", found, expected)
	if advice != "" {
		text += "; " + advice
	}
	return &FormatError{File: name, wholeFile: true, Err: errors.New(text)}
}

// otherFormats lists the signatures of common formats that are not formats of checkpoints.
var otherFormats = []struct {
	offset    int // of the signature, in bytes from the start of the file
	signature string
	found     string // as in notCheckpoint
	advice    string // as in notCheckpoint
}{
	{0, "\xff\xd8\xff", "a JPEG image", ""},
	{0, "\x89PNG\r\n\x1a\n", "a PNG image", ""},
	{0, "GIF87a", "a GIF image", ""},
	{0, "GIF89a", "a GIF image", ""},
	{0, "%PDF-", "a PDF document", ""},
	{0, "version https://git-lfs", "a Git LFS pointer, not the file that it stands for", "run 'git lfs pull' to download that file"},
	{0, "\x1f\x8b", "compressed with gzip", "decompress it first"},
	{0, "PK\x03\x04", "a zip archive, such as PyTorch (.pth) and NumPy (.npz) write", ""},
	{0, "\x89HDF", "an HDF5 file, such as Keras writes", "convert it to safetensors"},
	{0, npyMagic, "a single NumPy array (.npy)", "store all tensors in one .npz file"},
	{257, "ustar", "a tar archive", "unpack it, or load and save it with a newer PyTorch if PyTorch before 0.1.10 wrote it"},
}

// otherFormat recognises a file of a common format that is not a format of checkpoints. start holds
// the first bytes of the file. found and advice are as in notCheckpoint; found is "" if the format
// is not known.
func otherFormat(start []byte) (found, advice string) {
	for _, f := range otherFormats {
		if len(start) > f.offset && bytes.HasPrefix(start[f.offset:], []byte(f.signature)) {
			return f.found, f.advice
		}
	}
	if len(start) >= 12 && string(start[:4]) == "RIFF" && string(start[8:12]) == "WEBP" {
		return "a WebP image", ""
	}
	text := bytes.TrimPrefix(start, []byte("\xef\xbb\xbf")) // the byte order mark of UTF-8
	text = bytes.TrimLeft(text, " \t\r\n")
	switch {
	case bytes.HasPrefix(text, []byte("<?xml")):
		return "an XML document", ""
	case bytes.HasPrefix(text, []byte("<")):
		return "a web page (HTML), such as the error page of a server", "check the address from which it was downloaded"
	case bytes.HasPrefix(text, []byte("{")) || bytes.HasPrefix(text, []byte("[")):
		return "JSON", ""
	}
	return "", ""
}
