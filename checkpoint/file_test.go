package checkpoint

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/sptune/spt/internal/golden"
)

// realModel returns the path of a pretrained backbone that is not part of the project. It skips the
// test if the file is missing.
func realModel(t testing.TB, name string) string {
	t.Helper()
	return golden.Beside(t, "models", name)
}

func mustOpen(t testing.TB, path string) *File {
	t.Helper()
	f, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := f.Close(); err != nil {
			t.Error(err)
		}
	})
	return f
}

const (
	vitTiny  = "vit_tiny_patch16_224.augreg_in21k_ft_in1k.safetensors"
	deitTiny = "deit_tiny_patch16_224.f16.safetensors"
)

// TestRealModels compares every value of two real checkpoints with the official Python reader:
// values is the SHA-256 of t.float().numpy().tobytes() over all tensors in the order of their
// names.
func TestRealModels(t *testing.T) {
	for _, c := range []struct{ model, dtype, file, values string }{
		{vitTiny, "F32", "d7007c65fcc9949e95aecdefe14cc60fdf9b1091ca9bbf4222de8cf1ce17e365",
			"7209150a126d530e3f1b0aa73fbffad1c3fdef817200e0afd25714e68d7da12e"},
		{deitTiny, "F16", "16a52e17739edc0d63dcc7827c5df2547db23e73bda14faa3dfaf90d4af438d6",
			"ff195cbe90a4591b89e38f380b75e7c2f72790703433d77eae3a32516dd3935c"},
	} {
		t.Run(c.dtype, func(t *testing.T) {
			f := mustOpen(t, realModel(t, c.model))
			if got, err := f.SHA256(); err != nil || got != c.file {
				t.Errorf("SHA256 is %s, %v, want %s", got, err, c.file)
			}
			if got := f.Metadata()["arch"]; !strings.HasPrefix(c.model, got) || got == "" {
				t.Errorf("metadata arch is %q", got)
			}
			hash, count := sha256.New(), 0
			for _, info := range f.Tensors() {
				if string(info.DType) != c.dtype {
					t.Errorf("%s has dtype %s", info.Name, info.DType)
				}
				x, err := f.Float32(info.Name)
				if err != nil {
					t.Fatal(err)
				}
				if len(x.Data) != x.Size() || !slices.Equal(x.Shape, info.Shape) {
					t.Errorf("%s: %d values for shape %v, header says %v", info.Name, len(x.Data), x.Shape, info.Shape)
				}
				count += len(x.Data)
				if err := binary.Write(hash, binary.LittleEndian, x.Data); err != nil {
					t.Fatal(err)
				}
			}
			if len(f.Tensors()) != 152 || count != 5_717_416 {
				t.Errorf("%d tensors with %d values, want 152 with 5717416", len(f.Tensors()), count)
			}
			if got := hex.EncodeToString(hash.Sum(nil)); got != c.values {
				t.Errorf("the SHA-256 of the values is %s, want %s as in Python", got, c.values)
			}
		})
	}
}

// TestOfficialFile reads a file of the official Python writer with every kind of tensor. See
// testdata/README.md.
func TestOfficialFile(t *testing.T) {
	f := mustOpen(t, "testdata/official.safetensors")
	if m := f.Metadata(); len(m) != 1 || m["format"] != "pt" {
		t.Errorf("metadata is %v", m)
	}
	var names []string
	for _, info := range f.Tensors() {
		names = append(names, info.Name)
	}
	want := []string{"a \"quoted\" <näme>\n", "bf16", "bool", "empty", "f16", "f32", "f64", "i32", "i64", "scalar", "u8"}
	if !slices.Equal(names, want) {
		t.Errorf("names are %q, want %q", names, want)
	}

	nan, inf := float32(math.NaN()), float32(math.Inf(1))
	special := []float32{0, float32(math.Copysign(0, -1)), 1, -2.5, 65504, 0x1p-24, 0x1p-14, inf, -inf, nan}
	specialBF16 := slices.Clone(special)
	specialBF16[4] = 65536 // 65504 rounded to 8 bits
	for _, c := range []struct {
		name  string
		shape []int
		data  []float32
	}{
		{"f32", []int{2, 3}, []float32{1.5, -2.25, math.MaxFloat32, math.SmallestNonzeroFloat32, 0.1, nan}},
		{"f16", []int{10}, special},
		{"bf16", []int{5, 2}, specialBF16},
		{"f64", []int{3}, []float32{0.1, -inf, 0}},
		{"scalar", []int{}, []float32{0.25}},
		{"empty", []int{0, 3}, []float32{}},
		{want[0], []int{1}, []float32{7}},
	} {
		got, err := f.Float32(c.name)
		if err != nil {
			t.Fatal(err)
		}
		if !slices.Equal(got.Shape, c.shape) || !sameBits(got.Data, c.data) {
			t.Errorf("%q is %v %v, want %v %v", c.name, got.Shape, got.Data, c.shape, c.data)
		}
	}
	ints, shape, err := f.Int32("i32")
	if err != nil || !slices.Equal(shape, []int{1, 4}) || !slices.Equal(ints, []int32{math.MinInt32, -1, 0, math.MaxInt32}) {
		t.Errorf("i32 is %v %v, %v", shape, ints, err)
	}
	octets, shape, err := f.Uint8("u8")
	if err != nil || !slices.Equal(shape, []int{3}) || !slices.Equal(octets, []uint8{0, 127, 255}) {
		t.Errorf("u8 is %v %v, %v", shape, octets, err)
	}

	for what, err := range map[string]error{
		`tensor "i64" has dtype I64, expected F32, F16, BF16 or F64`: second(f.Float32("i64")),
		`tensor "f32" has dtype F32, expected I32`:                   third(f.Int32("f32")),
		`tensor "i32" has dtype I32, expected U8`:                    third(f.Uint8("i32")),
		`no tensor "f33" among the 11 tensors`:                       second(f.Float32("f33")),
	} {
		if err == nil || !strings.Contains(err.Error(), what) || !strings.Contains(err.Error(), f.Name()) {
			t.Errorf("got error %v, want one with %q and the name of the file", err, what)
		}
	}
}

func second[A any](_ A, err error) error        { return err }
func third[A, B any](_ A, _ B, err error) error { return err }

// sameBits reports whether a and b have the same bits, where all NaNs are equal.
func sameBits(a, b []float32) bool {
	return slices.EqualFunc(a, b, func(x, y float32) bool {
		return x != x && y != y || math.Float32bits(x) == math.Float32bits(y)
	})
}

// TestLongTensors reads a tensor that is longer than the read buffer, in the widest type, which
// Save does not write.
func TestLongTensors(t *testing.T) {
	const n = 30_001
	b := raw(`{"x":{"dtype":"F64","shape":[30001],"data_offsets":[0,240008]}}`, 0)
	for i := range n {
		b = binary.LittleEndian.AppendUint64(b, math.Float64bits(float64(i)*(1+1e-12)))
	}
	f, err := NewFile(bytes.NewReader(b), int64(len(b)), "x")
	if err != nil {
		t.Fatal(err)
	}
	if got, err := f.Float32("x"); err != nil || !slices.Equal(got.Data, counted(n).Data) {
		t.Errorf("values differ, or error %v", err)
	}
}

// TestInfoIsACopy checks that a caller cannot change a File through the results of its methods.
func TestInfoIsACopy(t *testing.T) {
	f := mustOpen(t, "testdata/official.safetensors")
	f.Tensors()[5].Shape[0] = 99
	f.Metadata()["format"] = "changed"
	if info := f.Tensors()[5]; info.Name != "f32" || info.Shape[0] != 2 || f.Metadata()["format"] != "pt" {
		t.Errorf("f32 is %v, metadata %v", info, f.Metadata())
	}
}

// TestFind checks the order of the names that Find looks for in a folder. A file with another name
// is found only if it is the only one with the extension of a checkpoint.
func TestFind(t *testing.T) {
	dir := t.TempDir()
	for _, step := range []struct{ add, want string }{
		{"notes.txt", ""},
		{"vit.npz", "vit.npz"},
		{"vit.pth", ""},
		{"pytorch_model.bin", "pytorch_model.bin"},
		{"model.safetensors", "model.safetensors"},
	} {
		if err := os.WriteFile(filepath.Join(dir, step.add), nil, 0o666); err != nil {
			t.Fatal(err)
		}
		switch got, err := Find(dir); {
		case step.want == "" && (err == nil || !strings.Contains(err.Error(), step.add)):
			t.Errorf("with %s: found %q, error %v, want an error that lists the files", step.add, got, err)
		case step.want != "" && (err != nil || got != filepath.Join(dir, step.want)):
			t.Errorf("with %s: found %q, error %v, want %s", step.add, got, err, step.want)
		}
	}
}

func TestOpenErrors(t *testing.T) {
	if _, err := Open(filepath.Join(t.TempDir(), "none.safetensors")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a missing file: %v", err)
	}
	if _, err := Open(t.TempDir()); err == nil || !strings.Contains(err.Error(), "neither a file called model.safetensors") {
		t.Errorf("an empty folder: %v", err)
	}
	path := filepath.Join(t.TempDir(), "shrinks.safetensors")
	if err := Save(path, []Entry{{"x", F32, []int{4}, []float32{1, 2, 3, 4}}}, nil); err != nil {
		t.Fatal(err)
	}
	f := mustOpen(t, path)
	if err := os.Truncate(path, f.parts[0].size-1); err != nil {
		t.Fatal(err)
	}
	if _, err := f.Float32("x"); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("reading a file cut short after opening: %v", err)
	}
	if _, err := f.SHA256(); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("hashing a file cut short after opening: %v", err)
	}
}

// raw returns a safetensors file with the given header text and a data section of n zero bytes.
func raw(header string, n int) []byte {
	b := binary.LittleEndian.AppendUint64(nil, uint64(len(header)))
	return append(append(b, header...), make([]byte, n)...)
}

// hostile lists files that break one rule each. want is a part of the error.
var hostile = []struct {
	name string
	file []byte
	want string
}{
	{"empty file", nil, "at least 8"},
	{"seven bytes", make([]byte, 7), "at least 8"},
	{"header length 0", make([]byte, 8), "does not start with '{'"},
	{"header length beyond the file", raw(`{}`, 0)[:9], "here they state 2 bytes, but only 1 bytes follow"},
	{"header length beyond the limit", append(binary.LittleEndian.AppendUint64(nil, maxHeader+1), '{'), "here they state 100000001 bytes, more than the file has (9)"},
	{"header length negative as int64", append(binary.LittleEndian.AppendUint64(nil, 1<<63), '{'), "here they state 9223372036854775808 bytes"},
	{"zip", append([]byte("PK\x03\x04\x14\x00\x08\x08"), make([]byte, 100)...), ".pth"},
	{"starts with a space", raw(` {}`, 0), "does not start with '{'"},
	{"starts with a bracket", raw(`[]`, 0), "does not start with '{'"},
	{"ends with a newline", raw("{}\n", 0), "does not end with '}'"},
	{"ends with NUL", raw("{}\x00", 0), "does not end with '}'"},
	{"two values", raw(`{}{}`, 0), "not valid JSON"},
	{"cut JSON", raw(`{"a":{}`, 0), "not valid JSON"},
	{"trailing comma", raw(`{"a":{"dtype":"U8","shape":[0],"data_offsets":[0,0]},}`, 0), "not valid JSON"},
	{"comment", raw(`{/**/}`, 0), "not valid JSON"},
	{"NaN", raw(`{"a":NaN}`, 0), "not valid JSON"},
	{"leading zero", raw(`{"a":{"dtype":"U8","shape":[01],"data_offsets":[0,1]}}`, 1), "not valid JSON"},
	{"invalid UTF-8", raw("{\"\xff\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]}}", 1), "not valid UTF-8"},
	{"lone surrogate", raw(`{"\ud800":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}`, 1), "surrogate"},
	{"swapped surrogates", raw(`{"\udc00\ud800":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}`, 1), "surrogate"},
	{"deep array", raw(`{"a":`+strings.Repeat("[", 1e6)+strings.Repeat("]", 1e6)+`}`, 0), "not valid JSON"},
	{"nested shape", raw(`{"a":{"dtype":"U8","shape":[[1]],"data_offsets":[0,1]}}`, 1), "shape holds ["},
	{"entry is a number", raw(`{"a":1}`, 0), "expected '{'"},
	{"entry is null", raw(`{"a":null}`, 0), "expected '{'"},
	{"entry is an array", raw(`{"a":[]}`, 0), "expected '{'"},
	{"empty entry", raw(`{"a":{}}`, 0), "has 0 of the fields"},
	{"no dtype", raw(`{"a":{"shape":[1],"data_offsets":[0,1]}}`, 1), "has 2 of the fields"},
	{"unknown field", raw(`{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1],"x":0}}`, 1), `unknown field "x"`},
	{"field in capitals", raw(`{"a":{"DType":"U8","shape":[1],"data_offsets":[0,1]}}`, 1), `unknown field "DType"`},
	{"unknown dtype", raw(`{"a":{"dtype":"f32","shape":[1],"data_offsets":[0,4]}}`, 4), `unknown dtype "f32"`},
	{"dtype is a number", raw(`{"a":{"dtype":1,"shape":[1],"data_offsets":[0,4]}}`, 4), "dtype is 1, expected a string"},
	{"shape is a number", raw(`{"a":{"dtype":"U8","shape":1,"data_offsets":[0,1]}}`, 1), "shape is 1, expected '['"},
	{"shape is null", raw(`{"a":{"dtype":"U8","shape":null,"data_offsets":[0,1]}}`, 1), "expected '['"},
	{"negative dimension", raw(`{"a":{"dtype":"U8","shape":[-1,-1],"data_offsets":[0,1]}}`, 1), "shape holds -1"},
	{"minus zero", raw(`{"a":{"dtype":"U8","shape":[-0],"data_offsets":[0,0]}}`, 0), "shape holds -0"},
	{"fraction", raw(`{"a":{"dtype":"U8","shape":[1.0],"data_offsets":[0,1]}}`, 1), "shape holds 1.0"},
	{"exponent", raw(`{"a":{"dtype":"U8","shape":[1e0],"data_offsets":[0,1]}}`, 1), "shape holds 1e0"},
	{"string number", raw(`{"a":{"dtype":"U8","shape":["1"],"data_offsets":[0,1]}}`, 1), `shape holds "1", expected whole`},
	{"dimension of 2^64", raw(`{"a":{"dtype":"U8","shape":[18446744073709551616],"data_offsets":[0,0]}}`, 0), "shape holds 18446744073709551616"},
	{"product overflows to 0", raw(`{"a":{"dtype":"U8","shape":[4294967296,4294967296],"data_offsets":[0,0]}}`, 0), "overflows 64 bits"},
	{"zero after overflow", raw(`{"a":{"dtype":"U8","shape":[4294967296,4294967296,0],"data_offsets":[0,0]}}`, 0), "overflows 64 bits"},
	{"bits overflow to 0", raw(`{"a":{"dtype":"F64","shape":[288230376151711744],"data_offsets":[0,0]}}`, 0), "in bits of a tensor of type F64"},
	{"huge shape, small file", raw(`{"a":{"dtype":"F32","shape":[1099511627776],"data_offsets":[0,4]}}`, 4), "takes 4398046511104"},
	{"half a byte", raw(`{"a":{"dtype":"F4","shape":[3],"data_offsets":[0,2]}}`, 2), "whole number of bytes"},
	{"size too small", raw(`{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,4]}}`, 4), "hold 4 bytes, but F32 [2] takes 8"},
	{"one offset", raw(`{"a":{"dtype":"U8","shape":[0],"data_offsets":[0]}}`, 0), "data_offsets has 1 numbers"},
	{"three offsets", raw(`{"a":{"dtype":"U8","shape":[0],"data_offsets":[0,0,0]}}`, 0), "data_offsets has 3 numbers"},
	{"backwards", raw(`{"a":{"dtype":"U8","shape":[1],"data_offsets":[1,0]}}`, 1), "run backwards"},
	{"offset beyond int64", raw(`{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,9223372036854775808]}}`, 1), "data_offsets holds"},
	{"beyond the end", raw(`{"a":{"dtype":"U8","shape":[2],"data_offsets":[0,2]}}`, 1), "go past the end"},
	{"bytes after the last", raw(`{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}`, 2), "end at byte 1 of the data section, which has 2"},
	{"bytes without tensors", raw(`{}`, 1), "end at byte 0 of the data section, which has 1"},
	{"hole at the start", raw(`{"a":{"dtype":"U8","shape":[1],"data_offsets":[1,2]}}`, 2), "without holes or overlap"},
	{"hole", raw(`{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"b":{"dtype":"U8","shape":[1],"data_offsets":[2,3]}}`, 3), "without holes or overlap"},
	{"overlap", raw(`{"a":{"dtype":"U8","shape":[2],"data_offsets":[0,2]},"b":{"dtype":"U8","shape":[2],"data_offsets":[1,3]}}`, 3), "without holes or overlap"},
	{"same bytes twice", raw(`{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"b":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}`, 1), "without holes or overlap"},
	{"empty tensor inside another", raw(`{"a":{"dtype":"U8","shape":[2],"data_offsets":[0,2]},"b":{"dtype":"U8","shape":[0],"data_offsets":[1,1]}}`, 2), "without holes or overlap"},
	{"duplicate tensor", raw(`{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"a":{"dtype":"U8","shape":[1],"data_offsets":[1,2]}}`, 2), `duplicate key "a"`},
	{"duplicate by escape", raw(`{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"\u0061":{"dtype":"U8","shape":[1],"data_offsets":[1,2]}}`, 2), `duplicate key "a"`},
	{"duplicate field", raw(`{"a":{"dtype":"U8","dtype":"U8","shape":[1],"data_offsets":[0,1]}}`, 1), `duplicate key "dtype"`},
	{"duplicate metadata", raw(`{"__metadata__":{},"__metadata__":{}}`, 0), `duplicate key "__metadata__"`},
	{"duplicate key in metadata", raw(`{"__metadata__":{"k":"1","k":"2"}}`, 0), `duplicate key "k"`},
	{"metadata is a string", raw(`{"__metadata__":"pt"}`, 0), "expected '{'"},
	{"metadata is null", raw(`{"__metadata__":null}`, 0), "expected '{'"},
	{"metadata value is a number", raw(`{"__metadata__":{"k":1}}`, 0), `the value of "k" is 1, expected a string`},
	{"metadata value is an object", raw(`{"__metadata__":{"k":{}}}`, 0), `the value of "k" is {, expected a string`},
}

func TestHostileFiles(t *testing.T) {
	for _, c := range hostile {
		t.Run(c.name, func(t *testing.T) {
			_, err := NewFile(bytes.NewReader(c.file), int64(len(c.file)), "hostile.safetensors")
			fault, ok := errors.AsType[*FormatError](err)
			if !ok {
				t.Fatalf("got %v, want a FormatError", err)
			}
			if fault.File != "hostile.safetensors" || fault.Offset < 0 || fault.Offset > int64(len(c.file)) {
				t.Errorf("the error names file %q and offset %d of %d", fault.File, fault.Offset, len(c.file))
			}
			if !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), fault.File) || len(err.Error()) > 1000 {
				t.Errorf("got %q, want it to contain %q", err, c.want)
			}
		})
	}
}

// manyTensors returns a safetensors file with n empty tensors.
func manyTensors(n int) []byte {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, `,"blocks.%d.attn.qkv.weight":{"dtype":"F32","shape":[0,768],"data_offsets":[0,0]}`, i)
	}
	return raw("{"+b.String()[1:]+"}", 0)
}

// TestManyTensors checks that a header with many tensors takes memory, and so time, in proportion
// to its size.
func TestManyTensors(t *testing.T) {
	for _, n := range []int{1_000, 100_000} {
		b := manyTensors(n)
		var f *File
		var err error
		if got := allocated(func() { f, err = NewFile(bytes.NewReader(b), int64(len(b)), "many") }); got > uint64(20*len(b)) {
			t.Errorf("%d tensors: %d bytes were allocated for a file of %d", n, got, len(b))
		}
		if err != nil || len(f.tensors) != n {
			t.Fatalf("%d tensors: %v", n, err)
		}
	}
}

func BenchmarkManyTensors(b *testing.B) {
	file := manyTensors(100_000)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := NewFile(bytes.NewReader(file), int64(len(file)), "many"); err != nil {
			b.Fatal(err)
		}
	}
}

// TestFormatError checks that errors.As finds the cause of a syntax error, and that names and
// shapes of a million bytes are shortened in messages.
func TestFormatError(t *testing.T) {
	b := raw(`{"a" "b"}`, 0)
	_, err := NewFile(bytes.NewReader(b), int64(len(b)), "x")
	if _, ok := errors.AsType[*json.SyntaxError](err); !ok || !strings.Contains(err.Error(), "checkpoint x: at byte 13: ") {
		t.Errorf("got %v, want a json.SyntaxError at byte 13, the second quote that opens", err)
	}
	name, shape := strings.Repeat("n", 1e6), strings.Repeat("1,", 1e6)+"1"
	b = raw(`{"`+name+`":{"dtype":"F32","shape":[`+shape+`],"data_offsets":[0,8]}}`, 8)
	_, err = NewFile(bytes.NewReader(b), int64(len(b)), "x")
	if err == nil || !strings.Contains(err.Error(), "hold 8 bytes") || len(err.Error()) > 1000 {
		t.Errorf("got an error of %d bytes", len(err.Error()))
	}
}

// TestLegalFiles reads files that are unusual but valid.
func TestLegalFiles(t *testing.T) {
	for name, b := range map[string][]byte{
		"nothing":               raw(`{}`, 0),
		"padded":                raw(`{}      `, 0),
		"only metadata":         raw(`{"__metadata__":{}}`, 0),
		"four-bit":              raw(`{"a":{"dtype":"F4","shape":[4],"data_offsets":[0,2]}}`, 2),
		"six-bit":               raw(`{"a":{"dtype":"F6_E2M3","shape":[4],"data_offsets":[0,3]}}`, 3),
		"empty between":         raw(`{"c":{"dtype":"U8","shape":[1],"data_offsets":[1,2]},"b":{"dtype":"U8","shape":[0],"data_offsets":[1,1]},"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}`, 2),
		"other field order":     raw(`{"a":{"data_offsets":[0,4],"shape":[],"dtype":"F32"}}`, 4),
		"whitespace inside":     raw("{\n\t\"a\" : {\"dtype\": \"U8\", \"shape\": [ 1 ], \"data_offsets\": [0, 1]} }", 1),
		"surrogate pair":        raw(`{"\ud83d\ude00":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}`, 1),
		"escaped backslash u":   raw(`{"\\ud800":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}`, 1),
		"unnamed":               raw(`{"":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}`, 1),
		"zero, then huge":       raw(`{"a":{"dtype":"U8","shape":[0,9223372036854775807,9223372036854775807],"data_offsets":[0,0]}}`, 0),
		"paths are just names":  raw(`{"../../etc/passwd":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}`, 1),
		"metadata key as field": raw(`{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"__metadata__":{"dtype":"x"}}`, 1),
	} {
		if _, err := NewFile(bytes.NewReader(b), int64(len(b)), name); err != nil {
			t.Error(err)
		}
	}
}

// FuzzFile checks files that open: the tensors fill the data section, their values can be read, and
// Canonical does not panic. A file that does not open must be a FormatError.
func FuzzFile(f *testing.F) {
	for _, c := range hostile {
		if len(c.file) < 1000 {
			f.Add(c.file)
		}
	}
	for _, name := range []string{"official", "written"} {
		b, err := os.ReadFile("testdata/" + name + ".safetensors")
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Add(raw(`{"blocks.0.attn.qkv.bias":{"dtype":"F16","shape":[6],"data_offsets":[0,12]}}`, 12))
	f.Fuzz(func(t *testing.T, b []byte) {
		file, err := NewFile(bytes.NewReader(b), int64(len(b)), "fuzz")
		if err != nil {
			if _, ok := errors.AsType[*FormatError](err); !ok {
				t.Fatalf("not a FormatError: %v", err)
			}
			return
		}
		total := int64(0)
		for _, info := range file.Tensors() {
			total += info.Bytes()
			if info.DType.readsAsFloat32() {
				x, err := file.Float32(info.Name)
				if err != nil || len(x.Data) != x.Size() {
					t.Fatalf("%v: %d values, %v", info, len(x.Data), err)
				}
			}
		}
		if start := int64(binary.LittleEndian.Uint64(b)) + 8; start+total != int64(len(b)) {
			t.Fatalf("header to %d and tensors of %d bytes in a file of %d", start, total, len(b))
		}
		if sd, _, err := file.Canonical(testNamings); err == nil {
			_ = Match(sd.Fused(), nil)
		}
	})
}

// BenchmarkStateDict opens a real checkpoint and reads it under canonical names.
func BenchmarkStateDict(b *testing.B) {
	path := realModel(b, deitTiny)
	b.ReportAllocs()
	for b.Loop() {
		f, err := Open(path)
		if err != nil {
			b.Fatal(err)
		}
		canonical(b, f)
		b.SetBytes(f.parts[0].size)
		if err := f.Close(); err != nil {
			b.Fatal(err)
		}
	}
}
