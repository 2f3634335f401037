package checkpoint

import (
	"bytes"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// TestSaveMatchesOfficialWriter compares the file of Save byte for byte with a file of the official
// Python writer, for two orders of the entries.
func TestSaveMatchesOfficialWriter(t *testing.T) {
	want, err := os.ReadFile("testdata/written.safetensors")
	if err != nil {
		t.Fatal(err)
	}
	inf := float32(math.Inf(1))
	entries := []Entry{
		{"b.f32", F32, []int{1, 3}, []float32{1.5, -2.25, 0.1}},
		{"a.f32", F32, nil, []float32{0.25}},
		{"f16", F16, []int{4}, []float32{0.1, 65504, 1e-7, inf}},
		{"bf16", BF16, []int{3}, []float32{0.1, 3e38, 1e-40}},
		{"i32", I32, []int{2}, []int32{-5, 6}},
		{"u8", U8, []int{3}, []uint8{1, 2, 3}},
		{"empty <&>", F32, []int{0, 3}, []float32{}},
	}
	path := filepath.Join(t.TempDir(), "x.safetensors")
	for range 2 {
		if err := Save(path, entries, map[string]string{"format": "pt"}); err != nil {
			t.Fatal(err)
		}
		got, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got, want) {
			t.Errorf("got\n%q\nwant\n%q", got, want)
		}
		if first, last := entries[0].Name, entries[len(entries)-1].Name; first+last != "b.f32empty <&>" && first+last != "empty <&>b.f32" {
			t.Errorf("Save reordered the caller's entries: %q first, %q last", first, last)
		}
		slices.Reverse(entries) // the second call also replaces the file
	}
}

// TestSaveRoundTrip writes tensors longer than the write buffer, NaN payloads, and names that need
// escaping.
func TestSaveRoundTrip(t *testing.T) {
	const n = 40_001
	floats, exact, ints, octets := make([]float32, n), make([]float32, n), make([]int32, n), make([]uint8, n)
	for i := range n {
		floats[i] = math.Float32frombits(uint32(i) * 2654435761)
		exact[i] = float32(i%255 - 127)
		ints[i] = int32(uint32(i) * 2654435761)
		octets[i] = uint8(i)
	}
	metadata := map[string]string{"z": "", "a": "line\nbreak", "\u2028 <&> \x00": "\U0001F600 \\ \""}
	path := filepath.Join(t.TempDir(), "x.safetensors")
	err := Save(path, []Entry{
		{"f32", F32, []int{n, 1}, floats}, {"f16 \x01\"\\", F16, []int{1, n}, exact}, {"bf16 \u2028é<>", BF16, []int{n}, exact},
		{"i32", I32, []int{1, n, 1}, ints}, {"u8", U8, []int{n}, octets}, {"", F32, []int{}, []float32{5}},
	}, metadata)
	if err != nil {
		t.Fatal(err)
	}
	f := mustOpen(t, path)
	for key, want := range metadata {
		if got := f.Metadata()[key]; got != want {
			t.Errorf("metadata %q is %q, want %q", key, got, want)
		}
	}
	for name, want := range map[string]Tensor{
		"f32": {[]int{n, 1}, floats}, "f16 \x01\"\\": {[]int{1, n}, exact}, "bf16 \u2028é<>": {[]int{n}, exact}, "": {[]int{}, []float32{5}},
	} {
		got, err := f.Float32(name)
		if err != nil || !slices.Equal(got.Shape, want.Shape) || !slices.EqualFunc(got.Data, want.Data, func(a, b float32) bool {
			return math.Float32bits(a) == math.Float32bits(b)
		}) {
			t.Errorf("%q came back with shape %v, other values, or error %v", name, got.Shape, err)
		}
	}
	if got, shape, err := f.Int32("i32"); err != nil || !slices.Equal(shape, []int{1, n, 1}) || !slices.Equal(got, ints) {
		t.Errorf("i32 came back with shape %v, other values, or error %v", shape, err)
	}
	if got, shape, err := f.Uint8("u8"); err != nil || !slices.Equal(shape, []int{n}) || !slices.Equal(got, octets) {
		t.Errorf("u8 came back with shape %v, other values, or error %v", shape, err)
	}
}

// TestSaveEmpty checks that Save without tensors and metadata writes the shortest valid file.
func TestSaveEmpty(t *testing.T) {
	path := filepath.Join(t.TempDir(), "x.safetensors")
	if err := Save(path, nil, nil); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(path)
	if err != nil || string(b) != "\x08\x00\x00\x00\x00\x00\x00\x00{}      " {
		t.Errorf("got %q, %v", b, err)
	}
	mustOpen(t, path)
}

// TestSaveErrors checks that Save, if it fails, leaves the old file unchanged and no other file.
func TestSaveErrors(t *testing.T) {
	one := []float32{1}
	for _, c := range []struct {
		name     string
		entries  []Entry
		metadata map[string]string
		want     string
	}{
		{"too few values", []Entry{{"x", F32, []int{2}, one}}, nil, `tensor "x": shape [2] requires 2 values, but Data has 1`},
		{"negative dimension", []Entry{{"x", F32, []int{-1}, one}}, nil, "negative"},
		{"overflow", []Entry{{"x", F32, []int{1 << 40, 1 << 40}, one}}, nil, "overflows"},
		{"unknown dtype", []Entry{{"x", "F31", []int{1}, one}}, nil, `unknown dtype "F31"`},
		{"dtype not written", []Entry{{"x", F64, []int{1}, []float64{1}}}, nil, "cannot write []float64 as F64"},
		{"data of another dtype", []Entry{{"x", I32, []int{1}, one}}, nil, "cannot write []float32 as I32"},
		{"no data", []Entry{{"x", F32, []int{0}, nil}}, nil, "cannot write <nil>"},
		{"twice", []Entry{{"x", F32, []int{1}, one}, {"x", U8, []int{1}, []uint8{1}}}, nil, "another entry has the same name"},
		{"reserved", []Entry{{"__metadata__", F32, []int{1}, one}}, nil, "reserved"},
		{"name not UTF-8", []Entry{{"\xff", F32, []int{1}, one}}, nil, "not valid UTF-8"},
		{"metadata not UTF-8", nil, map[string]string{"k": "\xff"}, "not valid UTF-8"},
		{"header too long", nil, map[string]string{"k": strings.Repeat("x", maxHeader)}, "the format allows"},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			path := filepath.Join(dir, "x.safetensors")
			if err := os.WriteFile(path, []byte("old"), 0o600); err != nil {
				t.Fatal(err)
			}
			err := Save(path, c.entries, c.metadata)
			if err == nil {
				t.Fatal("no error")
			}
			// Remove the path before the comparison, because it contains the name of the test.
			if cause := strings.ReplaceAll(err.Error(), path, ""); cause == err.Error() || !strings.Contains(cause, c.want) {
				t.Errorf("got error %v, want %q and the path", err, c.want)
			}
			if b, err := os.ReadFile(path); err != nil || string(b) != "old" {
				t.Errorf("the old file is %q, %v", b, err)
			}
		})
	}

	dir := t.TempDir()
	if err := Save(dir, nil, nil); err == nil { // the rename fails
		t.Error("a folder was replaced")
	}
	if left, err := filepath.Glob(filepath.Join(filepath.Dir(dir), ".spt-*")); err != nil || len(left) > 0 {
		t.Errorf("temporary files remain: %v, %v", left, err)
	}
	if err := Save(filepath.Join(dir, "none", "x"), nil, nil); err == nil {
		t.Error("no error for a missing folder")
	}
}
