// Package golden finds and reads the reference data of tests: npz files and meta.json, which a
// PyTorch implementation wrote, and real weights and images. Only tests import it.
//
// The environment variable SPT_GOLDEN holds the path of the golden folder. Default:
// "../shared/golden". A relative path is relative to the root of the repository. The folders
// "models" and "data" lie in the same parent folder.
//
// [Path] returns a path in the golden folder, and [Beside] returns a path beside it. Both skip the
// test if the file is absent. [Open] opens an npz file as an [Archive], and [JSON] reads a JSON
// file.
package golden

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/sbinet/npyio/npz"
	"github.com/sptune/spt/internal/moduleroot"
)

// Folder returns the path of the golden folder. It skips the test if the folder is absent.
func Folder(t testing.TB) string {
	t.Helper()
	root := moduleroot.Dir(t)
	dir := os.Getenv("SPT_GOLDEN")
	if dir == "" {
		dir = filepath.Join("..", "shared", "golden")
	}
	if !filepath.IsAbs(dir) { // the working directory of a test is the folder of its package
		dir = filepath.Join(root, dir)
	}
	if _, err := os.Stat(dir); err != nil {
		t.Skipf("the test needs the golden data; set SPT_GOLDEN to the path of the golden folder (%v)", err)
	}
	return dir
}

// Path returns the path of a file or folder in the golden folder. It skips the test if the file is
// absent.
func Path(t testing.TB, elem ...string) string {
	t.Helper()
	return existing(t, filepath.Join(append([]string{Folder(t)}, elem...)...))
}

// Beside returns the path of a file or folder beside the golden folder, in "models" or "data". It
// skips the test if the file is absent.
func Beside(t testing.TB, elem ...string) string {
	t.Helper()
	return existing(t, filepath.Join(append([]string{Folder(t), ".."}, elem...)...))
}

// existing returns path. It skips the test if there is no file at path.
func existing(t testing.TB, path string) string {
	t.Helper()
	if _, err := os.Stat(path); err != nil {
		t.Skipf("the test needs %s, which does not exist", path)
	}
	return path
}

// Archive is an open npz file.
type Archive struct {
	t testing.TB
	f *npz.Reader
}

// Open opens an npz file and closes it at the end of the test.
func Open(t testing.TB, path string) *Archive {
	t.Helper()
	f, err := npz.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return &Archive{t, f}
}

// Names returns the names of the arrays.
func (a *Archive) Names() []string {
	var out []string
	for _, n := range a.f.Keys() {
		out = append(out, n[:len(n)-len(filepath.Ext(n))])
	}
	return out
}

// Has reports whether the archive has an array with the given name.
func (a *Archive) Has(name string) bool { return a.f.Header(name+".npy") != nil }

// Shape returns the shape of an array. The test fails if the array does not exist.
func (a *Archive) Shape(name string) []int {
	a.t.Helper()
	h := a.f.Header(name + ".npy")
	if h == nil {
		a.t.Fatalf("no array %q", name)
	}
	return h.Descr.Shape
}

// Float32 reads an array of float32.
func (a *Archive) Float32(name string) []float32 { return read[float32](a, name) }

// Float64 reads an array of float64.
func (a *Archive) Float64(name string) []float64 { return read[float64](a, name) }

// Int64 reads an array of int64.
func (a *Archive) Int64(name string) []int64 { return read[int64](a, name) }

// Uint8 reads an array of uint8.
func (a *Archive) Uint8(name string) []uint8 { return read[uint8](a, name) }

// read returns the values of an array in row-major order. The order in the file may be
// column-major.
func read[T any](a *Archive, name string) (v []T) {
	a.t.Helper()
	if err := a.f.Read(name+".npy", &v); err != nil {
		a.t.Fatalf("reading array %q: %v", name, err)
	}
	if h := a.f.Header(name + ".npy"); h.Descr.Fortran && len(h.Descr.Shape) == 2 {
		rows, cols := h.Descr.Shape[0], h.Descr.Shape[1]
		out := make([]T, len(v))
		for i := range out {
			out[i] = v[i%cols*rows+i/cols]
		}
		return out
	}
	return v
}

// JSON decodes a JSON file into v.
func JSON(t testing.TB, path string, v any) {
	t.Helper()
	data, err := os.ReadFile(path)
	if err == nil {
		err = json.Unmarshal(data, v)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// Scalar reads an array without dimensions, of float32 or float64.
func (a *Archive) Scalar(name string) float64 {
	a.t.Helper()
	h := a.f.Header(name + ".npy")
	if h == nil {
		a.t.Fatalf("no array %q", name)
	}
	if strings.HasSuffix(h.Descr.Type, "f8") {
		var v float64
		if err := a.f.Read(name+".npy", &v); err != nil {
			a.t.Fatal(err)
		}
		return v
	}
	var v float32
	if err := a.f.Read(name+".npy", &v); err != nil {
		a.t.Fatal(err)
	}
	return float64(v)
}
