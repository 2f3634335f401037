package checkpoint

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"math/big"
	"os"
	"path/filepath"
	"runtime/metrics"
	"slices"
	"strings"
	"testing"

	"github.com/sptune/spt/internal/golden"
	"github.com/sptune/spt/internal/pickle"
)

// readers is the folder of the fixtures that internal/fixtures/readers.py writes.
var readers = filepath.Join("testdata", "readers")

// fixtures lists the files and folders in readers. format is the result of File.Format; expected is
// the name of the file with the expected tensors.
var fixtures = []struct{ path, format, expected string }{
	{"kinds.pth", "PyTorch zip", "kinds"},
	{"protocol3.pt", "PyTorch zip", "kinds"},
	{"protocol5.pt", "PyTorch zip", "kinds"},
	{"deflated.pth", "PyTorch zip", "kinds"},
	{"legacy.bin", "PyTorch, before 1.6", "legacy"},
	{"training.pth.tar", "PyTorch zip, state_dict", "training"},
	{"legacy_training.pth", "PyTorch, before 1.6, state_dict", "training"},
	{"ema.pth", "PyTorch zip, state_dict_ema", "ema"},
	{"compiled.pth", "PyTorch zip, model", "compiled"},
	{"dino.pth", "PyTorch zip, teacher", "dino"},
	{"numpy2.pkl", "pickle, model", "numpy"},
	{"numpy4.pkl", "pickle, model", "numpy"},
	{"numpy5.pkl", "pickle, model", "numpy"},
	{"arrays.npz", "NumPy npz", "arrays"},
	{"compressed.npz", "NumPy npz", "arrays"},
	{"versions.npz", "NumPy npz", "versions"},
	{"vit.pth", "PyTorch zip, model", "vit"},
	{"shards", "safetensors, 2 shards", "vit"},
	{"shards/model.safetensors.index.json", "safetensors, 2 shards", "vit"},
	{"bin_shards", "PyTorch zip, 2 shards", "vit"},
}

// content returns the values of a tensor as bytes.
func content(t testing.TB, f *File, name string) []byte {
	t.Helper()
	s, err := f.find(name)
	if err != nil {
		t.Fatal(err)
	}
	out, err := read(s, 1, func(to, from []byte) { copy(to, from) })
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// TestReaders compares every tensor of every format bit for bit with the values that the Python
// libraries read.
func TestReaders(t *testing.T) {
	for _, c := range fixtures {
		t.Run(c.path, func(t *testing.T) {
			f, want := mustOpen(t, filepath.Join(readers, c.path)), mustOpen(t, filepath.Join(readers, c.expected+".expected.safetensors"))
			if f.Format() != c.format {
				t.Errorf("format is %q, want %q", f.Format(), c.format)
			}
			if got, want := f.Tensors(), want.Tensors(); !slices.EqualFunc(got, want, func(a, b TensorInfo) bool {
				return a.Name == b.Name && a.DType == b.DType && slices.Equal(a.Shape, b.Shape)
			}) {
				t.Fatalf("tensors are\n%v, want\n%v", got, want)
			}
			for _, info := range want.Tensors() {
				if got, want := content(t, f, info.Name), content(t, want, info.Name); !bytes.Equal(got, want) {
					t.Errorf("%v: got\n%x, want\n%x", info, got, want)
				}
			}
			a, _, err := f.floats(nil)
			if err != nil {
				t.Fatal(err)
			}
			b, _, err := want.floats(nil)
			if err != nil || len(a) != len(b) {
				t.Errorf("%d tensors of floats, want %d, %v", len(a), len(b), err)
			}
			for name, x := range b {
				if !sameBits(a[name].Data, x.Data) || !slices.Equal(a[name].Shape, x.Shape) {
					t.Errorf("%s as float32 is %v, want %v", name, a[name], x)
				}
			}
		})
	}
}

// TestUnreadable checks that the error for a name without a readable tensor describes the value
// that the file has under this name.
func TestUnreadable(t *testing.T) {
	for path, want := range map[string]map[string]string{
		"kinds.pth":  {"c128": "ComplexDoubleStorage", "sparse": "torch._utils._rebuild_sparse_tensor", "number": "an int", "none": "None", "other": "no tensor \"other\" among the 27 tensors"},
		"arrays.npz": {"big": `dtype ">f4" cannot be read`, "object": `dtype "|O"`, "text": `dtype "<U1"`, "fields": `dtype ""`},
	} {
		f := mustOpen(t, filepath.Join(readers, path))
		for name, want := range want {
			if _, err := f.Float32(name); err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), path) {
				t.Errorf("%s: %v, want %q", name, err, want)
			}
		}
	}
}

func TestUnpickleValues(t *testing.T) {
	v, err := Unpickle(filepath.Join(readers, "values.pth"))
	if err != nil {
		t.Fatal(err)
	}
	d := v.(*pickle.Dict)
	huge := new(big.Int).Lsh(big.NewInt(1), 100)
	for key, want := range map[string]string{
		"none": "nil", "true": "true", "int": "-3", "long": "1099511627776", "huge": huge.String(), "negative": "-" + huge.String(), "float": "0.5",
		"text": `"naïve"`, "bytes": "bytes 00ff", "list": `[1 [2 "x"] []]`, "tuple": "[1 [2 3]]", "ordered": `{"b":1 "a":2}`,
		"by number": `{0:"zero" [1 2]:"pair"}`, "size": "[3 4]", "device": `"cuda:1"`, "cpu": `"cpu"`, "dtype": "torch.float16",
		"np.int64": "-5", "np.float32": "0.25", "np.bool": "true", "np.uint8": "200", "np.float16": "1.5",
		"set": "an object of __builtin__.set", "frozenset": "an object of __builtin__.frozenset", "namespace": "an object of argparse.Namespace",
		"class": "argparse.Namespace", "slice": "an object of __builtin__.slice", "array": "I16 [2 3] [0 1 2 3 4 5]", "tensor": "I64 [2 2] [0 1 2 3]",
	} {
		if v, ok := d.Get(key); !ok || spell(v) != want {
			t.Errorf("%s is %s, want %s", key, spell(v), want)
		}
	}
	if n := 0; d.Len() != 29 {
		t.Errorf("%d keys", d.Len())
	} else {
		for key := range d.All() {
			if n++; n == 1 && key != "none" {
				t.Errorf("the first key is %v", key)
			}
		}
	}
	if _, ok := d.Get("missing"); ok {
		t.Error("a missing key is there")
	}
	tensor, _ := d.Get("tensor")
	if _, err := tensor.(*storedTensor).Float32(); err == nil || !strings.Contains(err.Error(), "has dtype I64") {
		t.Errorf("whole numbers as floats: %v", err)
	}
}

// spell returns a value as text.
func spell(v pickle.Value) string {
	switch v := v.(type) {
	case nil:
		return "nil"
	case string:
		return fmt.Sprintf("%q", v)
	case []byte:
		return fmt.Sprintf("bytes %x", v)
	case *pickle.List:
		var items []string
		for _, x := range v.Items {
			items = append(items, spell(x))
		}
		return "[" + strings.Join(items, " ") + "]"
	case *pickle.Dict:
		var items []string
		for k, x := range v.All() {
			items = append(items, spell(k)+":"+spell(x))
		}
		return "{" + strings.Join(items, " ") + "}"
	case *storedTensor:
		if x, err := v.Int64(); err == nil {
			return fmt.Sprint(v.dtype, " ", v.Shape(), " ", x)
		}
		x, err := v.Float32()
		if err != nil {
			return err.Error()
		}
		return fmt.Sprint(v.dtype, " ", v.Shape(), " ", x)
	case *opaque:
		return describe(v)
	}
	return fmt.Sprint(v)
}

// TestPublishedSelections reads all values of the forty published selections. It checks each
// against itself, because a selection contains several facts twice.
func TestPublishedSelections(t *testing.T) {
	files, err := filepath.Glob(filepath.Join(golden.Path(t, "published_plans"), "*.pth"))
	if err != nil || len(files) != 40 {
		t.Fatalf("found %d files, want 40, %v", len(files), err)
	}
	for _, path := range files {
		v, err := Unpickle(path)
		if err != nil {
			t.Fatal(err)
		}
		d := v.(*pickle.Dict)
		get := func(key string) pickle.Value {
			v, ok := d.Get(key)
			if !ok {
				t.Fatalf("%s has no %s", path, key)
			}
			return v
		}
		shapes, sizes := get("unstructured_name_shapes").(*pickle.Dict), get("unstructured_name_shapes_int").(*pickle.Dict)
		total := int64(0)
		for name, shape := range shapes.All() {
			n := int64(1)
			for _, dim := range shape.(*pickle.List).Items {
				n *= dim.(int64)
			}
			if size, ok := sizes.Get(name.(string)); !ok || size != n {
				t.Errorf("%s: %v has shape %s and size %v", path, name, spell(shape), size)
			}
			total += n
		}
		indexes, err := get("unstructured_indexes").(*storedTensor).Int64()
		if err != nil {
			t.Fatal(err)
		}
		for _, i := range indexes {
			if i < 0 || i >= total {
				t.Fatalf("%s: index %d of %d", path, i, total)
			}
		}
		params, err := get("params").(*storedTensor).Float32()
		if err != nil {
			t.Fatal(err)
		}
		unstructured, err := get("unstructured_params").(*storedTensor).Float32()
		if err != nil {
			t.Fatal(err)
		}
		// params is in millions and includes the 768 values of the class token.
		sum := float64(get("structured_params").(int64)) + float64(unstructured[0]) + 768
		if math.Abs(sum-1e6*float64(params[0])) > 0.1 {
			t.Errorf("%s: %v million parameters, but the sum of the parts is %v", path, params, sum)
		}
		if len(get("tuned_matrices").(*pickle.List).Items) != 12 {
			t.Errorf("%s: tuned_matrices are %s", path, spell(get("tuned_matrices")))
		}
		for _, name := range get("tuned_vectors").(*pickle.List).Items {
			if !strings.HasPrefix(name.(string), "blocks.") && name != "norm.weight" && name != "norm.bias" && !strings.Contains(name.(string), ".") {
				t.Errorf("%s: tuned vector %v", path, name)
			}
		}
	}
}

func TestFolders(t *testing.T) {
	f := mustOpen(t, filepath.Join(readers, "shards"))
	if want := filepath.Join(readers, "shards", "model.safetensors.index.json"); f.Name() != want || len(f.Files()) != 3 || f.Files()[0] != want {
		t.Errorf("name is %q, files %q", f.Name(), f.Files())
	}
	if got := f.Metadata()["total_size"]; got != "13588" {
		t.Errorf("metadata is %v", f.Metadata())
	}
	var all []byte
	for _, path := range f.Files() {
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, b...)
	}
	sum, err := f.SHA256()
	if want := fmt.Sprintf("%x", sha256.Sum256(all)); err != nil || sum != want {
		t.Errorf("SHA256 is %s, want %s, %v", sum, want, err)
	}

	dir := t.TempDir()
	copyFile(t, filepath.Join(readers, "vit.pth"), filepath.Join(dir, "pytorch_model.bin"))
	if f := mustOpen(t, dir); f.Name() != filepath.Join(dir, "pytorch_model.bin") {
		t.Errorf("found %s", f.Name())
	}
	copyFile(t, "testdata/written.safetensors", filepath.Join(dir, "model.safetensors"))
	if f := mustOpen(t, dir); f.Name() != filepath.Join(dir, "model.safetensors") {
		t.Errorf("found %s", f.Name())
	}
	// A folder with one checkpoint of another name, beside a file that is no checkpoint; and
	// folders without a checkpoint.
	last := t.TempDir()
	copyFile(t, filepath.Join(readers, "vit.pth"), filepath.Join(last, "last.ckpt"))
	copyFile(t, filepath.Join(readers, "shards", "config.json"), filepath.Join(last, "config.json"))
	if f := mustOpen(t, last); f.Name() != filepath.Join(last, "last.ckpt") {
		t.Errorf("found %s", f.Name())
	}
	for file, want := range map[string]string{"adapter_config.json": "an adapter of PEFT", "model.onnx": "an ONNX model", "tf_model.h5": "an HDF5 file"} {
		folder := t.TempDir()
		content := map[string]string{"adapter_config.json": "{}", "model.onnx": "\x08\x08\x12\x07pytorch", "tf_model.h5": "\x89HDF\r\n\x1a\n"}[file]
		if err := os.WriteFile(filepath.Join(folder, file), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := Open(folder); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("a folder with %s: %v", file, err)
		}
	}
	if _, err := Open(readers); err == nil || !strings.Contains(err.Error(), `"ema.pth"`) && !strings.Contains(err.Error(), "…") {
		t.Errorf("a folder without weights: %v", err)
	}
	if _, err := Open(filepath.Join(dir, "none")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("nothing there: %v", err)
	}
}

func copyFile(t testing.TB, from, to string) {
	t.Helper()
	b, err := os.ReadFile(from)
	if err == nil {
		err = os.WriteFile(to, b, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// allocated returns about how many bytes f allocates, including those that are freed again. Unlike
// runtime.ReadMemStats it does not stop all goroutines, which would make fuzzing slow.
func allocated(f func()) uint64 {
	now := func() uint64 {
		sample := []metrics.Sample{{Name: "/gc/heap/allocs:bytes"}}
		metrics.Read(sample)
		return sample[0].Value.Uint64()
	}
	before := now()
	f()
	return now() - before
}

// openBytes opens a file with the content b, which is not an index.
func openBytes(b []byte) (*File, error) {
	return open(bytes.NewReader(b), int64(len(b)), "hostile")
}

// wantFormatError checks that err is a FormatError that contains want, is short, and has an offset
// inside the file of size bytes.
func wantFormatError(t *testing.T, err error, size int, want string) {
	t.Helper()
	fault, ok := errors.AsType[*FormatError](err)
	if !ok {
		t.Errorf("got %v, want a FormatError with %q", err, want)
		return
	}
	if fault.Offset < 0 || fault.Offset > int64(size) || len(err.Error()) > 1000 || !strings.Contains(err.Error(), want) {
		t.Errorf("got %q with offset %d of %d, want %q", err, fault.Offset, size, want)
	}
}

// p2 returns a pickle of protocol 2 with the given opcodes.
func p2(parts ...string) []byte { return []byte("\x80\x02" + strings.Join(parts, "") + ".") }

// text returns the opcodes that push a string.
func text(s string) string {
	return "X" + string(binary.LittleEndian.AppendUint32(nil, uint32(len(s)))) + s
}

// global returns the opcodes that push a class or function.
func global(module, name string) string { return "c" + module + "\n" + name + "\n" }

func TestHostilePickles(t *testing.T) {
	array := func(descr, shape, order string, data string) string {
		return global("numpy.core.multiarray", "_reconstruct") + global("numpy", "ndarray") + "K\x00\x85U\x01b\x87R" +
			"(K\x01" + shape + global("numpy", "dtype") + text(descr) + "\x85R" + order + "C" + string(rune(len(data))) + data + "tb"
	}
	for _, c := range []struct {
		name  string
		value []byte
		want  string
	}{
		{"cut short", p2("}")[:3], "cut short"},
		{"cut in a string", p2("X\x05\x00\x00\x00ab"), "are left; the file is cut short"},
		{"string of 4 GiB", p2("X\xff\xff\xff\xffab"), "are left; the file is cut short"},
		{"string of 2^64 bytes", p2("\x8d\xff\xff\xff\xff\xff\xff\xff\xffab"), "are left; the file is cut short"},
		{"LONG4 of 4 GiB", p2("\x8b\xff\xff\xff\xff"), "are left; the file is cut short"},
		{"LONG1 of 2 KiB", p2("\x8b\x00\x08\x00\x00", strings.Repeat("x", 2048)), "expected at most 1024"},
		{"digits without end", p2("L" + strings.Repeat("9", 5000) + "\n"), "a line has more"},
		{"no digits", p2("Lx\n"), "not a number"},
		{"nothing", p2(), "stack is empty"},
		{"pop nothing", p2("0"), "stack is empty"},
		{"pop below a mark", p2("N(a"), "stack is empty"},
		{"no mark", p2("Nt"), "no mark"},
		{"tuple of too few", p2("N(N\x86"), "too few"},
		{"memo without a value", p2("h\x07"), "no value under 7"},
		{"protocol 6", []byte("\x80\x02\x80\x06N."), "protocol 6"},
		{"unknown opcode", p2("\xff"), "opcode 0xff"},
		{"next buffer", p2("\x97"), "opcode 0x97"},
		{"append to a number", p2("K\x01Na"), "an int; expected a list"},
		{"set in a list", p2("]NNs"), "a list of 0 elements; expected a dict"},
		{"key without value", p2("}(Nu"), "without a value"},
		{"duplicate key", p2("}(" + text("a") + "N" + text("a") + "Nu"), `has the key "a" twice`},
		{"call a string", p2(text("a") + ")R"), "a string is called"},
		{"call without a tuple", p2(global("a", "b") + "NR"), "with None"},
		{"persistent id", p2(")Q"), "persistent id"},
		{"list in itself", p2("]q\x00h\x00a"), "contains itself"},
		{"list in itself below", p2("]q\x00]h\x00aa"), "contains itself"},
		{"dict in itself", p2("}q\x00Nh\x00s"), "contains itself"},
		{"nests deep", p2(strings.Repeat("]", 300), strings.Repeat("a", 299)), "nest more than 200"},
		{"nests deep through the memo", p2("]q\x00", strings.Repeat("\x85", 150), "q\x010(h\x01", strings.Repeat("\x85", 100), "t"), "nest more than 200"},
		{"empty lists without end", p2("(", strings.Repeat("]", 200_000), "t"), "more than 32 times"},
		{"memo without end", p2("N" + strings.Repeat("\x94", 200_000)), "more than 32 times"},
		{"Latin-1 bomb", p2(text(strings.Repeat("a", 2000)), "q\x00("+strings.Repeat(global("_codecs", "encode")+"h\x00U\x06latin1\x86R", 2000)+"t"), "more than 32 times"},
		{"beyond Latin-1", p2(global("_codecs", "encode"), text("€"), "U\x06latin1\x86R"), "not in Latin-1"},
		{"no dict", p2("]"), "a list of 0 elements; expected a dict of tensors"},
		{"no tensors", p2("}(" + text("epoch") + "K\x01" + text("args") + global("argparse", "Namespace") + ")\x81u"), "the keys epoch (an int), args (an object of argparse.Namespace)"},
		{"os.system", p2(global("os", "system"), "(", text("touch pwned"), "tR"), "an object of os.system; expected a dict"},
		{"after the pickle", append(p2("}"), 'x'), "1 bytes follow"},
		{"negative dimension", p2(array("f4", "J\xff\xff\xff\xff\x85", "\x89", "aaaa")), "one of them is negative"},
		{"shape of strings", p2(array("f4", text("a")+"\x85", "\x89", "aaaa")), "whole numbers"},
		{"shape of rank 65", p2(array("f4", "("+strings.Repeat("K\x01", 65)+"t", "\x89", "aaaa")), "at most 64"},
		{"array too long", p2("}", text("a"), array("f4", "K\x02\x85", "\x89", "aaaa"), "s"), "no tensors"},
		{"bad name", p2("}U\x01\xff" + array("f4", "K\x01\x85", "\x89", "aaaa") + "s"), "UTF-8"},
	} {
		t.Run(c.name, func(t *testing.T) {
			var err error
			if n, most := allocated(func() { _, err = openBytes(c.value) }), uint64(4<<20+64*len(c.value)); n > most {
				t.Errorf("took %d bytes of memory for %d", n, len(c.value))
			}
			wantFormatError(t, err, len(c.value), c.want)
		})
	}
	// A list that occurs many times inside others is valid, and it takes little memory.
	if _, err := unpickle(p2("]q\x00"+strings.Repeat("\x85q\x00h\x00h\x00\x86", 60)+"q\x01"), "x"); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat("pwned"); err == nil {
		t.Error("a pickle was executed")
	}
}

// TestOpcodes reads opcodes that PyTorch does not write, but Python 2 and other protocols do.
func TestOpcodes(t *testing.T) {
	for in, want := range map[string]string{
		"I01\n":                          "true",
		"I00\n":                          "false",
		"I-12\n":                         "-12",
		"L12345678901234567890L\n":       "12345678901234567890",
		"F1e3\n":                         "1000",
		"F1e999\n":                       "+Inf",
		"G?\xe0\x00\x00\x00\x00\x00\x00": "0.5",
		"J\xfe\xff\xff\xff":              "-2",
		"M\x01\x02":                      "513",
		"\x8a\x00":                       "0",
		"\x8a\x01\xff":                   "-1",
		"\x8a\x08\x00\x00\x00\x00\x00\x00\x00\x80":     "-9223372036854775808",
		"\x8a\x09\x00\x00\x00\x00\x00\x00\x00\x80\x00": "9223372036854775808",
		"\x8a\x09\xff\xff\xff\xff\xff\xff\xff\xff\xff": "-1",
		"U\x02ab":                               `"ab"`,
		"T\x02\x00\x00\x00ab":                   `"ab"`,
		"\x8c\x02ab":                            `"ab"`,
		"C\x01a":                                "bytes 61",
		"B\x01\x00\x00\x00a":                    "bytes 61",
		"\x8e\x01\x00\x00\x00\x00\x00\x00\x00a": "bytes 61",
		"\x96\x01\x00\x00\x00\x00\x00\x00\x00a": "bytes 61",
		"(K\x01K\x02l":                          "[1 2]",
		"(K\x01K\x02d":                          "{1:2}",
		"]K\x01a":                               "[1]",
		"}K\x01K\x02s":                          "{1:2}",
		"K\x01K\x022\x87":                       "[1 2 2]",
		"K\x01(0":                               "1",
		"K\x01(K\x021":                          "1",
		"K\x01p5\n0g5\n":                        "1",
		"K\x01r\x05\x00\x00\x000j\x05\x00\x00\x00":  "1",
		"K\x01\x940h\x00":                           "1",
		"\x95\x00\x00\x00\x00\x00\x00\x00\x00K\x01": "1",
		"\x8f(K\x01\x90":                            "an object of builtins.set",
		"(K\x01\x91":                                "an object of builtins.frozenset",
		"\x82\x07":                                  "copyreg.extension.7",
		"\x8c\x01a\x8c\x01b\x93":                    "a.b",
		"(ia\nb\n":                                  "an object of a.b",
		"(ca\nb\nK\x01o":                            "an object of a.b",
		"ca\nb\n)}\x92":                             "an object of a.b",
		"ca\nb\n)R)R}b(K\x01e(K\x01K\x01u":          "an object of a.b",
		"ccollections\nOrderedDict\n]]K\x01aK\x02aa\x85R": "{1:2}",
		"ctorch\nSize\n)R":        "[]",
		"c__builtin__\nbytes\n)R": "bytes ",
	} {
		v, err := unpickle(p2(in), "x")
		if err != nil || spell(v) != want {
			t.Errorf("%q gives %s, %v, want %s", in, spell(v), err, want)
		}
	}
	if v, err := unpickle(p2("G\x7f\xf8\x00\x00\x00\x00\x00\x00"), "x"); err != nil || !math.IsNaN(v.(float64)) {
		t.Errorf("NaN is %v, %v", v, err)
	}
}
