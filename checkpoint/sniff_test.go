package checkpoint

import (
	"bytes"
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestOtherFormats opens files that are not checkpoints and compares the whole error.
func TestOtherFormats(t *testing.T) {
	const expected = "; expected a checkpoint (safetensors, .pth, .bin or .npz)"
	filler := strings.Repeat("\x01", 600)
	for _, c := range []struct{ name, content, want string }{
		{"photo.jpg", "\xff\xd8\xff\xe0\x00\x10JFIF" + filler, "the file is a JPEG image" + expected},
		{"photo.png", "\x89PNG\r\n\x1a\n\x00\x00\x00\x0dIHDR" + filler, "the file is a PNG image" + expected},
		{"old.gif", "GIF87a" + filler, "the file is a GIF image" + expected},
		{"new.gif", "GIF89a" + filler, "the file is a GIF image" + expected},
		{"photo.webp", "RIFF\x00\x10\x00\x00WEBPVP8 " + filler, "the file is a WebP image" + expected},
		{"paper.pdf", "%PDF-1.7\n" + filler, "the file is a PDF document" + expected},
		{"page.bin", "<!DOCTYPE html><html>Not found</html>",
			"the file is a web page (HTML), such as the error page of a server" + expected + "; check the address from which it was downloaded"},
		{"indented.bin", "\xef\xbb\xbf\n  <html>Not found</html>",
			"the file is a web page (HTML), such as the error page of a server" + expected + "; check the address from which it was downloaded"},
		{"error.xml", `<?xml version="1.0"?><Error/>`, "the file is an XML document" + expected},
		{"list.json", " [1, 2, 3]", "the file is JSON" + expected},
		{"config.json", `{"num_labels": 3}`, "the file is JSON without a weight_map" + expected + " or the index of a sharded one"},
		{"pointer.safetensors", "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n",
			"the file is a Git LFS pointer, not the file that it stands for" + expected + "; run 'git lfs pull' to download that file"},
		{"model.gz", "\x1f\x8b\x08\x00\x00\x00\x00\x00\x02\x03" + filler, "the file is compressed with gzip" + expected + "; decompress it first"},
		{"model.h5", "\x89HDF\r\n\x1a\n" + filler, "the file is an HDF5 file, such as Keras writes" + expected + "; convert it to safetensors"},
		{"model.gguf", "GGUF\x03\x00\x00\x00" + filler, "the file is a GGUF model, such as llama.cpp reads" + expected + "; " + fromOther},
		{"model.onnx", "\x08\x08\x12\x07pytorch\x1a\x052.0.0" + filler, "the file is an ONNX model" + expected + "; " + fromOther},
		{"short.onnx", "\x08\x07:\xc0\x01" + filler, "the file is an ONNX model" + expected + "; " + fromOther},
		{"saved_model.pb", "\x08\x01\x12\x80\x01\x0a" + filler, "the file is a SavedModel of TensorFlow" + expected + "; " + fromOther},
		{"model.tflite", "\x1c\x00\x00\x00TFL3" + filler, "the file is a TensorFlow Lite model" + expected + "; " + fromOther},
		{"flax_model.msgpack", "\x82\xaaclassifier\x82\xa4bias" + filler, "the file is a MessagePack file, such as Flax writes" + expected + "; " + fromOther},
		{"many.msgpack", "\xde\x00\x20\xa6params\x82\xa4bias" + filler, "the file is a MessagePack file, such as Flax writes" + expected + "; " + fromOther},
		{"model.ckpt.data-00000-of-00001", filler, "the file is a part of a TensorFlow checkpoint" + expected + "; " + fromOther},
		{"__0_0.distcp", filler, "the file is a part of a distributed checkpoint of PyTorch" + expected +
			"; join the parts with 'python -m torch.distributed.checkpoint.format_utils dcp_to_torch FOLDER FILE'"},
		{"model.keras", string(zipOf(member{name: "config.json", data: "{}"}, member{name: "model.weights.h5", data: "x"})), "the file is a Keras model" + expected + "; " + fromOther},
		{"images.zip", string(zipOf(member{name: "cat/1.jpg", data: "x"})),
			`the file is a zip archive of other files, such as "cat/1.jpg"` + expected +
				"; a .pth file has a member FOLDER/data.pkl and an .npz file has members that end in .npy; if the archive contains a checkpoint, unpack it"},
		{"notes.txt", "Some notes about a model.\n",
			"the first 8 bytes of a safetensors file state the length of the header; here they state 8390045716234202963 bytes, " +
				"more than the file has (26); the file is probably not a safetensors file or is damaged"},
	} {
		t.Run(c.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), c.name)
			if err := os.WriteFile(path, []byte(c.content), 0o600); err != nil {
				t.Fatal(err)
			}
			_, err := Open(path)
			wantFormatError(t, err, len(c.content), "")
			if want := "opening the checkpoint " + path + ": " + c.want; err != nil && err.Error() != want {
				t.Errorf("got\n%v\nwant\n%s", err, want)
			}
			isJSON, err := IsJSON(path)
			if want := c.name == "config.json"; isJSON != want {
				t.Errorf("IsJSON returns %v, %v, want %v", isJSON, err, want)
			}
		})
	}
}

// TestHeaderLength checks the errors for files whose first 8 bytes are not the length of a header.
// size is the size of the file, of which only the first bytes are read.
func TestHeaderLength(t *testing.T) {
	for _, c := range []struct {
		name   string
		length uint64
		size   int64
		want   string
	}{
		{"more than the file", 8390045716234202963, 12345, "here they state 8390045716234202963 bytes, more than the file has (12345); "},
		{"more than the rest of the file", 1020, 1024, "here they state 1020 bytes, but only 1016 bytes follow; "},
		{"more than the format allows", maxHeader + 1, 2 * maxHeader, "here they state 100000001 bytes, more than the format allows (100000000); "},
		// The length is '<' or '{' as text, and a header follows: the file is cut short, not HTML
		// or JSON.
		{"cut short, like HTML", '<', 40, "here they state 60 bytes, more than the file has (40); "},
		{"cut short, like JSON", '{', 40, "here they state 123 bytes, more than the file has (40); "},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := append(binary.LittleEndian.AppendUint64(nil, c.length), '{')
			b = append(b, make([]byte, sniffLen)...)
			_, err := open(bytes.NewReader(b), c.size, "x.safetensors")
			wantFormatError(t, err, len(b), c.want)
		})
	}
}

// TestNewFileOtherFormats checks that NewFile, which reads only safetensors, names other formats.
func TestNewFileOtherFormats(t *testing.T) {
	for name, c := range map[string]struct{ content, want string }{
		"PNG": {"\x89PNG\r\n\x1a\n\x00\x00\x00\x0dIHDR", "the file is a PNG image; expected a safetensors file"},
		"zip": {string(zipOf(member{name: "x"})), "the file is a zip archive, such as PyTorch (.pth) and NumPy (.npz) write; expected a safetensors file"},
	} {
		_, err := NewFile(strings.NewReader(c.content), int64(len(c.content)), "x.safetensors")
		if _, ok := errors.AsType[*FormatError](err); !ok || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %v, want a FormatError with %q", name, err, c.want)
		}
	}
}
