package checkpoint

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"strings"
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
	if f := otherFormat(start, name); f.found != "" {
		return "", notCheckpoint(name, f.found, expectedCheckpoint, f.advice)
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

// foreign is a common format that is not a format of checkpoints.
type foreign struct {
	offset    int    // of the signature, in bytes from the start of the file
	signature string // bytes that every file of the format has
	found     string // as in notCheckpoint; empty for an unknown format
	advice    string // as in notCheckpoint
	model     bool   // the file is a model in the format of another program
}

// fromOther is the advice for models that a Hugging Face library can convert.
const fromOther = "load the model with the program that wrote it and save the weights as safetensors, or download the safetensors or PyTorch file of the model"

// otherFormats lists formats by their signature.
var otherFormats = []foreign{
	{0, "\xff\xd8\xff", "a JPEG image", "", false},
	{0, "\x89PNG\r\n\x1a\n", "a PNG image", "", false},
	{0, "GIF87a", "a GIF image", "", false},
	{0, "GIF89a", "a GIF image", "", false},
	{0, "%PDF-", "a PDF document", "", false},
	{0, "version https://git-lfs", "a Git LFS pointer, not the file that it stands for", "run 'git lfs pull' to download that file", false},
	{0, "\x1f\x8b", "compressed with gzip", "decompress it first", false},
	{0, "PK\x03\x04", "a zip archive, such as PyTorch (.pth) and NumPy (.npz) write", "", false},
	{0, "\x89HDF", "an HDF5 file, such as Keras writes", "convert it to safetensors", true},
	{0, "GGUF", "a GGUF model, such as llama.cpp reads", fromOther, true},
	{4, "TFL3", "a TensorFlow Lite model", fromOther, true},
	{0, "\x08\x01\x12", "a SavedModel of TensorFlow", fromOther, true},
	{0, npyMagic, "a single NumPy array (.npy)", "store all tensors in one .npz file", false},
	{257, "ustar", "a tar archive", "unpack it, or load and save it with a newer PyTorch if PyTorch before 0.1.10 wrote it", false},
}

// otherNames lists formats that only the name of the file reveals. signature is a part of the name.
var otherNames = []foreign{
	{0, ".data-00000-of-", "a part of a TensorFlow checkpoint", fromOther, true},
	{0, ".distcp", "a part of a distributed checkpoint of PyTorch", "join the parts with 'python -m torch.distributed.checkpoint.format_utils dcp_to_torch FOLDER FILE'", true},
}

// otherFormat recognises a file of a common format that is not a format of checkpoints. start holds
// the first bytes of the file and name is its name. The result is empty if the format is not known.
func otherFormat(start []byte, name string) foreign {
	for _, f := range otherFormats {
		if len(start) > f.offset && bytes.HasPrefix(start[f.offset:], []byte(f.signature)) {
			return f
		}
	}
	for _, f := range otherNames {
		if strings.Contains(filepath.Base(name), f.signature) {
			return f
		}
	}
	text := bytes.TrimPrefix(start, []byte("\xef\xbb\xbf")) // the byte order mark of UTF-8
	text = bytes.TrimLeft(text, " \t\r\n")
	switch {
	case len(start) >= 12 && string(start[:4]) == "RIFF" && string(start[8:12]) == "WEBP":
		return foreign{found: "a WebP image"}
	// A ModelProto begins with ir_version, which is 3 or more. The name of the producer (field 2),
	// the graph (7) or the operators (8) follow.
	case len(start) > 2 && start[0] == 0x08 && start[1] >= 3 && start[1] < 32 && bytes.IndexByte([]byte{0x12, 0x3a, 0x42}, start[2]) >= 0:
		return foreign{found: "an ONNX model", advice: fromOther, model: true}
	case isMessagePack(start):
		return foreign{found: "a MessagePack file, such as Flax writes", advice: fromOther, model: true}
	case bytes.HasPrefix(text, []byte("<?xml")):
		return foreign{found: "an XML document"}
	case bytes.HasPrefix(text, []byte("<")):
		return foreign{found: "a web page (HTML), such as the error page of a server", advice: "check the address from which it was downloaded"}
	case bytes.HasPrefix(text, []byte("{")) || bytes.HasPrefix(text, []byte("[")):
		return foreign{found: "JSON"}
	}
	return foreign{}
}

// isMessagePack reports whether start begins with a map of MessagePack whose first key is a text.
func isMessagePack(start []byte) bool {
	key := 1 // offset of the first key
	switch {
	case len(start) < 8:
		return false
	case start[0] > 0x80 && start[0] < 0x90: // a map with up to 15 pairs
	case start[0] == 0xde:
		key = 3
	case start[0] == 0xdf:
		key = 5
	default:
		return false
	}
	n := int(start[key]) - 0xa0 // the length of a text of up to 31 bytes
	if n < 1 || n > 31 || len(start) < key+1+n {
		return false
	}
	return !bytes.ContainsFunc(start[key+1:key+1+n], func(r rune) bool { return r < ' ' || r > '~' })
}
