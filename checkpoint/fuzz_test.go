package checkpoint

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/sptune/spt/internal/pickle"
)

// checkInvariants checks what the package promises for any file. If open succeeds, it reads all
// tensors. If open fails, it checks the error. It also checks how much memory open takes. size is
// the number of bytes of all files of the checkpoint.
func checkInvariants(t *testing.T, size int, open func() (*File, error)) {
	t.Helper()
	var f *File
	var err error
	if n, most := allocated(func() { f, err = open() }), uint64(8<<20+100*size); n > most {
		t.Fatalf("opening took %d bytes of memory for a file of %d", n, size)
	}
	if err != nil {
		_, broken := errors.AsType[*FormatError](err)
		if _, path := errors.AsType[*fs.PathError](err); !broken && !path || len(err.Error()) > 2000 {
			t.Fatalf("error of %d bytes, not a FormatError: %.500v", len(err.Error()), err)
		}
		return
	}
	total := int64(0)
	for _, s := range f.tensors {
		total += s.Bytes()
	}
	if total > 2<<20+16*int64(size) {
		t.Fatalf("tensors of %d bytes in a file of %d", total, size)
	}
	for _, s := range f.tensors {
		var n int
		var err error
		if s.DType.readsAsFloat32() {
			var x Tensor
			x, err = f.Float32(s.Name)
			n = len(x.Data)
		} else if s.DType != "C64" && s.DType[0] != 'F' {
			var x []int64
			x, err = s.int64()
			n = len(x)
		} else {
			continue
		}
		if err != nil {
			_, broken := errors.AsType[*FormatError](err)
			if !broken && !strings.Contains(err.Error(), "above the largest int64") {
				t.Fatalf("%v: not a FormatError: %v", s.TensorInfo, err)
			}
		} else if n != (Tensor{Shape: s.Shape}).Size() {
			t.Fatalf("%v has %d values", s.TensorInfo, n)
		}
	}
	if sd, _, err := f.Canonical(testNamings); err == nil {
		_ = Match(sd.Fused(), nil)
	}
	if _, err := f.SHA256(); err != nil {
		t.Fatal(err)
	}
}

// checkBytes calls checkInvariants for a file with the content b.
func checkBytes(t *testing.T, b []byte) {
	t.Helper()
	checkInvariants(t, len(b), func() (*File, error) { return openBytes(b) })
}

// seeds calls add with the content of each of the small fixtures called names.
func seeds(f *testing.F, add func([]byte), names ...string) {
	for _, name := range names {
		b, err := os.ReadFile(filepath.Join(readers, name))
		if err != nil {
			f.Fatal(err)
		}
		add(b)
	}
}

func FuzzUnpickle(f *testing.F) {
	seeds(f, func(b []byte) { f.Add(b) }, "numpy2.pkl", "numpy4.pkl", "numpy5.pkl")
	seeds(f, func(b []byte) {
		a, err := openArchive(bytes.NewReader(b), int64(len(b)), "")
		if err != nil {
			f.Fatal(err)
		}
		root, _ := a.torchRoot()
		at := a.members[root+"data.pkl"]
		f.Add(b[at.begin : at.begin+at.size])
	}, "values.pth", "training.pth.tar", "whole_module.pth")
	f.Add(p2(one(tensor("0", 2, 0, dims(2), dims(1), ""))))
	f.Fuzz(func(t *testing.T, b []byte) {
		var v pickle.Value
		var err error
		if n, most := allocated(func() {
			u := newUnpickler(bytes.NewReader(b), 0, int64(len(b)), "fuzz")
			u.persistent = func(id []pickle.Value) (pickle.Value, error) {
				return storageOf(id, func(string, int64, int64) func() (blob, error) { return inMemory(b) })
			}
			v, err = u.load()
		}), uint64(4<<20+64*len(b)); n > most {
			t.Fatalf("took %d bytes of memory for %d", n, len(b))
		}
		if err != nil {
			if _, ok := errors.AsType[*FormatError](err); !ok || len(err.Error()) > 1000 {
				t.Fatalf("not a FormatError: %v", err)
			}
			return
		}
		_ = describe(v)
		if d, ok := v.(*pickle.Dict); ok {
			_ = keysOf(d)
		}
		visit(t, v, 0, new(1000))
	})
}

// visit reads v and some of the values inside it, at most *left.
func visit(t *testing.T, v pickle.Value, depth int, left *int) {
	if *left--; *left < 0 {
		return
	}
	if depth > pickle.MaxHeight+1 {
		t.Fatal("too deep")
	}
	switch v := v.(type) {
	case *pickle.List:
		for _, x := range v.Items {
			visit(t, x, depth+1, left)
		}
	case *pickle.Dict:
		for k, x := range v.All() {
			visit(t, k, depth+1, left)
			visit(t, x, depth+1, left)
			if s, ok := k.(string); ok {
				if _, ok := v.Get(s); !ok {
					t.Fatalf("%q is not found", s)
				}
			}
		}
	case *storedTensor:
		if n, _ := byteSize(v.dtype, v.Shape()); n > 1<<20 {
			return
		}
		_, _ = v.Float32()
		_, _ = v.Int64()
	}
}

func FuzzTorch(f *testing.F) {
	seeds(f, func(b []byte) { f.Add(b) }, "compiled.pth", "dino.pth", "legacy.bin", "numpy2.pkl")
	for _, c := range hostileArchives {
		if len(c.file) < 1000 {
			f.Add(c.file)
		}
	}
	f.Add(legacyFile("M\xe9\x03", "}", one(tensor("7", 2, 0, dims(1), dims(1), "("+text("8")+num(1)+num(1)+"t")), "]"+text("7")+"a", 2, 3))
	f.Add([]byte(one(tensor("0", 64, 1, dims(3, 4, 5), dims(1, 3, 12), ""))))
	f.Add([]byte(one(tensor("0", 64, 0, dims(5, 1), dims(10, 1), ""))))
	f.Fuzz(func(t *testing.T, b []byte) {
		checkBytes(t, b)
		// Read b as the pickle of a valid zip archive, whose storage "0" has 64 floats.
		checkBytes(t, torchZip(string(b), 256))
		// Read b as the object of a file of PyTorch before 1.6, with the storage "7".
		checkBytes(t, legacyFile("M\xe9\x03", "}", string(b), "]"+text("7")+"a", 2, 3))
	})
}

func FuzzNPZ(f *testing.F) {
	seeds(f, func(b []byte) { f.Add(b) }, "versions.npz", "compressed.npz")
	for _, c := range hostileArchives {
		if strings.Contains(c.name, "np") && len(c.file) < 1000 {
			f.Add(c.file)
		}
	}
	for _, header := range []string{
		"{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }", "{'descr': '<f2', 'fortran_order': True, 'shape': (3, 4), }",
		"{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (), }", "{'descr': '|V2', 'fortran_order': False, 'shape': (12L,), }",
	} {
		f.Add([]byte(header))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		checkBytes(t, b)
		checkBytes(t, zipOf(member{name: "x.npy", data: string(b)}))
		if len(b) < 1<<16 {
			checkBytes(t, zipOf(member{name: "x.npy", data: npy(string(b), 24)}))
		}
	})
}

func FuzzIndex(f *testing.F) {
	seeds(f, func(b []byte) { f.Add(b) }, "shards/model.safetensors.index.json")
	f.Add([]byte(`{"metadata":{"total_size":12,"format":"pt"},"weight_map":{"x":"a","y":"b"},"more":[{}]}`))
	f.Add([]byte(`{"weight_map":{"x":"../a"}}`))
	dir := f.TempDir()
	size := 0
	for file, name := range map[string]string{"a": "x", "b": "y", "c": "x"} {
		path := filepath.Join(dir, file)
		if err := Save(path, []Entry{{name, F32, nil, []float32{1}}}, nil); err != nil {
			f.Fatal(err)
		}
		size += 200
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		checkInvariants(t, size+len(b), func() (*File, error) {
			file, err := openShards(bytes.NewReader(b), int64(len(b)), filepath.Join(dir, "index"))
			if err == nil {
				t.Cleanup(func() { file.Close() })
			}
			return file, err
		})
	})
}
