package checkpoint

import (
	"os"
	"path/filepath"
	"reflect"
	"testing"
)

// TestCutShort cuts files in every format that package hub downloads. A file that is cut short must
// be an error, or give the values of the whole file. A cached download can be cut short without
// package hub noticing it.
func TestCutShort(t *testing.T) {
	// values reads all tensors in the names of the file.
	values := func(path string) (map[string]Tensor, error) {
		f, err := Open(path)
		if err != nil {
			return nil, err
		}
		defer f.Close()
		all := map[string]Tensor{}
		for _, info := range f.Tensors() {
			switch info.DType {
			case F16, BF16, F32, F64:
				if all[info.Name], err = f.Float32(info.Name); err != nil {
					return nil, err
				}
			}
		}
		return all, nil
	}
	readers := filepath.Join("testdata", "readers")
	for _, c := range []struct{ folder, open, cut string }{
		{".", "vit.expected.safetensors", "vit.expected.safetensors"},
		{"shards", "model.safetensors.index.json", "model.safetensors.index.json"},
		{"shards", "model.safetensors.index.json", "model-00001-of-00002.safetensors"},
		{"shards", "model.safetensors.index.json", "model-00002-of-00002.safetensors"},
		{"bin_shards", "pytorch_model.bin.index.json", "pytorch_model.bin.index.json"},
		{"bin_shards", "pytorch_model.bin.index.json", "pytorch_model-00002-of-00002.bin"},
		{".", "vit.pth", "vit.pth"},
		{".", "deflated.pth", "deflated.pth"},
		{".", "training.pth.tar", "training.pth.tar"},
		{".", "legacy.bin", "legacy.bin"},
		{".", "legacy_training.pth", "legacy_training.pth"},
		{".", "numpy4.pkl", "numpy4.pkl"},
		{".", "arrays.npz", "arrays.npz"},
		{".", "compressed.npz", "compressed.npz"},
	} {
		dir := t.TempDir()
		if err := os.CopyFS(dir, os.DirFS(filepath.Join(readers, c.folder))); err != nil {
			t.Fatal(err)
		}
		open, cut := filepath.Join(dir, c.open), filepath.Join(dir, c.cut)
		whole, err := values(open)
		if err != nil || len(whole) == 0 {
			t.Errorf("%s: %d tensors, %v", c.open, len(whole), err)
			continue
		}
		data, err := os.ReadFile(cut)
		if err != nil {
			t.Fatal(err)
		}
		refused := 0
		for n := len(data) - 1; n >= 0; n -= 1 + max(0, len(data)-200-n)/20 {
			if err := os.Truncate(cut, int64(n)); err != nil {
				t.Fatal(err)
			}
			got, err := values(open)
			if err != nil {
				refused++
			} else if !reflect.DeepEqual(got, whole) {
				t.Errorf("%s, of which %s has %d of %d bytes, gives %d tensors and no error", c.open, c.cut, n, len(data), len(got))
			}
		}
		t.Logf("%s: %d cuts are errors", c.cut, refused)
	}
}
