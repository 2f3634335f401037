package delta_test

import (
	"crypto/sha256"
	"encoding/hex"
	"math"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/sptune/spt/checkpoint"
	"github.com/sptune/spt/delta"
)

// savedHalf saves a delta with SaveHalf and returns its folder.
func savedHalf(t testing.TB, d *delta.Delta) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "half")
	if err := d.SaveHalf(dir); err != nil {
		t.Fatal(err)
	}
	return dir
}

// toHalf rounds a number to float16 in float64 arithmetic: to 11 significant bits, and to a
// multiple of 2^-24 below 2^-14.
func toHalf(v float32) float32 {
	_, e := math.Frexp(float64(v))
	unit := math.Ldexp(1, max(e-11, -24))
	return float32(math.RoundToEven(float64(v)/unit) * unit)
}

// TestHalf saves deltas of all kinds with float16 values and loads them.
func TestHalf(t *testing.T) {
	m := tiny(tinyConfig, 1)
	for method, s := range selections() {
		t.Run(method, func(t *testing.T) {
			d := result(t, m, method, s)
			d.Tuned["head.bias"].Data[0] = 65519.9 // rounds to the largest float16
			d.Tuned["head.bias"].Data[1] = 4e-6    // below the normal numbers of float16
			dir := savedHalf(t, d)
			got, err := delta.Load(dir)
			if err != nil {
				t.Fatal(err)
			}
			want := *d
			want.Tuned = checkpoint.StateDict{}
			for name, v := range d.Tuned {
				rounded := checkpoint.NewTensor(v.Shape...)
				for i, x := range v.Data {
					rounded.Data[i] = toHalf(x)
				}
				want.Tuned[name] = rounded
			}
			if !reflect.DeepEqual(got, &want) {
				t.Errorf("loaded\n%+v\nwant\n%+v", got, &want)
			}
			// A second rounding changes nothing.
			again := savedHalf(t, got)
			for _, name := range []string{delta.FileName, delta.TensorsName} {
				if read(t, again, name) != read(t, dir, name) {
					t.Errorf("%s has other bytes after it was loaded and saved", name)
				}
			}
		})
	}
	// The plain form needs four bytes for each value and position, the other two and one to two.
	d := result(t, m, "full", selections()["full"])
	a, b := len(read(t, saved(t, d), delta.TensorsName)), len(read(t, savedHalf(t, d), delta.TensorsName))
	if b > a*55/100 {
		t.Errorf("%d bytes with float16 values, %d without", b, a)
	}
}

// TestHalfRange checks that values that float16 cannot hold are refused, and that nothing is
// written.
func TestHalfRange(t *testing.T) {
	for _, v := range []float32{65520, -65520, 1e30} {
		d := result(t, tiny(tinyConfig, 1), "linear", selections()["linear"])
		d.Tuned["head.weight"].Data[3] = v
		dir := filepath.Join(t.TempDir(), "half")
		if err := d.SaveHalf(dir); err == nil || !strings.Contains(err.Error(), `"head.weight" holds`) || !strings.Contains(err.Error(), "at position 3") {
			t.Errorf("%v: got %v", v, err)
		}
		if _, err := os.Stat(dir); err == nil {
			t.Errorf("%v: wrote %s", v, dir)
		}
	}
}

// TestHalfHostile changes the files of a delta with float16 values.
func TestHalfHostile(t *testing.T) {
	d := result(t, tiny(tinyConfig, 1), "spt-lora", selections()["spt-lora"])
	base := savedHalf(t, d)
	f, err := checkpoint.Open(filepath.Join(base, delta.TensorsName))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	gaps, _, err := f.Uint8("sparse_gaps")
	if err != nil {
		t.Fatal(err)
	}
	// In the order of the names: {0, 7, 255}, {15}, {3, 200, 511} and {0, 1}.
	if want := "\x00\x06\xf7\x01" + "\x0f" + "\x03\xc4\x01\xb6\x02" + "\x00\x00"; string(gaps) != want {
		t.Fatalf("the gaps are %x", gaps)
	}
	entries := func(change func(name string, e *checkpoint.Entry) bool) (all []checkpoint.Entry) {
		for _, info := range f.Tensors() {
			e := checkpoint.Entry{Name: info.Name, DType: info.DType, Shape: info.Shape}
			if info.DType == checkpoint.U8 {
				e.Data = gaps
			} else {
				v, err := f.Float32(info.Name)
				if err != nil {
					t.Fatal(err)
				}
				e.Data = v.Data
			}
			if change(info.Name, &e) {
				all = append(all, e)
			}
		}
		return all
	}
	withGaps := func(data string) func(string, *checkpoint.Entry) bool {
		return func(name string, e *checkpoint.Entry) bool {
			if name == "sparse_gaps" {
				e.Data, e.Shape = []uint8(data), []int{len(data)}
			}
			return true
		}
	}
	for _, tt := range []struct {
		name   string
		change func(name string, e *checkpoint.Entry) bool
		text   string
	}{
		{"more bytes", withGaps(string(gaps) + "\x00"), "1 bytes after the last position"},
		{"fewer bytes", withGaps(string(gaps[:len(gaps)-1])), "found 1 bytes for 2 positions"},
		{"no bytes", withGaps(""), "at least one element"},
		{"no gaps", func(name string, _ *checkpoint.Entry) bool { return name != "sparse_gaps" }, "found 0 bytes for"},
		{"outside the tensor", withGaps(strings.Replace(string(gaps), "\xb6\x02", "\xb7\x02", 1)), "512"},
		{"two dimensions", func(name string, e *checkpoint.Entry) bool {
			if name == "sparse_gaps" {
				e.Shape = []int{1, len(gaps)}
			}
			return true
		}, "expected one dimension"},
		{"gaps as float16", func(name string, e *checkpoint.Entry) bool {
			if name == "sparse_gaps" {
				e.DType, e.Data = checkpoint.F16, make([]float32, len(gaps))
			}
			return true
		}, "U8"},
		{"a value as float32", func(name string, e *checkpoint.Entry) bool {
			if name == "head.bias" {
				e.DType = checkpoint.F32
			}
			return true
		}, `"head.bias" has dtype F32, expected F16`},
		{"an infinite value", func(name string, e *checkpoint.Entry) bool {
			if name == "head.bias" {
				e.Data = []float32{1, float32(math.Inf(1)), 0}
			}
			return true
		}, "holds +Inf"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir := t.TempDir()
			path := filepath.Join(dir, delta.TensorsName)
			if err := checkpoint.Save(path, entries(tt.change), nil); err != nil {
				t.Fatal(err)
			}
			write(t, dir, delta.FileName, []byte(strings.Replace(read(t, base, delta.FileName), hashOf(t, filepath.Join(base, delta.TensorsName)), hashOf(t, path), 1)))
			if _, err := delta.Load(dir); err == nil || !strings.Contains(err.Error(), tt.text) {
				t.Errorf("got %v, want %q", err, tt.text)
			}
		})
	}
	// The version says which form the tensors have. A program that knows only version 1 refuses
	// version 2 by its number.
	for _, tt := range []struct{ from, to, text string }{
		{`"version": 2`, `"version": 1`, "has dtype F16, expected F32"},
		{`"version": 2`, `"version": 3`, "the version is 3, but this program reads the versions 1 and 2"},
	} {
		dir := savedHalf(t, d)
		write(t, dir, delta.FileName, []byte(strings.Replace(read(t, dir, delta.FileName), tt.from, tt.to, 1)))
		if _, err := delta.Load(dir); err == nil || !strings.Contains(err.Error(), tt.text) {
			t.Errorf("%s: got %v", tt.to, err)
		}
	}
	dir := saved(t, d)
	write(t, dir, delta.FileName, []byte(strings.Replace(read(t, dir, delta.FileName), `"version": 1`, `"version": 2`, 1)))
	if _, err := delta.Load(dir); err == nil || !strings.Contains(err.Error(), "expected F16") {
		t.Errorf("a plain delta of version 2: %v", err)
	}
}

func hashOf(t *testing.T, path string) string {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:])
}
