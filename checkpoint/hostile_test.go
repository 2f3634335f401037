package checkpoint

import (
	"archive/zip"
	"bytes"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/sptune/spt/internal/pickle"
)

// member is a member of a zip archive that zipOf writes.
type member struct {
	name, data string
	method     uint16
}

// zipOf returns a zip archive with the members. It does not check their names.
func zipOf(members ...member) []byte {
	var b bytes.Buffer
	w := zip.NewWriter(&b)
	for _, m := range members {
		f, err := w.CreateHeader(&zip.FileHeader{Name: m.name, Method: m.method})
		if err == nil {
			_, err = f.Write([]byte(m.data))
		}
		if err != nil {
			panic(err)
		}
	}
	if err := w.Close(); err != nil {
		panic(err)
	}
	return b.Bytes()
}

// patch overwrites bytes at offset at of the n-th record in the directory of the zip archive b.
func patch(b []byte, n, at int, bytes ...byte) []byte {
	i := strings.Index(string(b), "PK\x01\x02")
	for range n {
		i += 4 + strings.Index(string(b[i+4:]), "PK\x01\x02")
	}
	copy(b[i+at:], bytes)
	return b
}

// num returns the opcodes that push an int.
func num(n uint64) string { return "\x8a\x08" + string(binary.LittleEndian.AppendUint64(nil, n)) }

// tensor returns the opcodes that push a tensor in the storage key, which has numel floats. more is
// added to the persistent id of the storage.
func tensor(key string, numel, offset uint64, shape, stride string, more string) string {
	return global("torch._utils", "_rebuild_tensor_v2") + "((" + text("storage") + global("torch", "FloatStorage") + text(key) + text("cpu") + num(numel) + more + "tQ" +
		num(offset) + shape + stride + "\x89" + global("collections", "OrderedDict") + ")Rt" + "R"
}

// dims returns the opcodes that push a tuple of ints.
func dims(n ...uint64) string {
	s := "("
	for _, d := range n {
		s += num(d)
	}
	return s + "t"
}

// torchZip returns a zip archive as torch.save writes it, with one storage "0" of the given number
// of bytes.
func torchZip(pickle string, storage int, more ...member) []byte {
	return zipOf(append([]member{{name: "archive/data.pkl", data: string(p2(pickle))}, {name: "archive/data/0", data: strings.Repeat("\x00", storage)}}, more...)...)
}

// npy returns a .npy file with the given header and a number of zero bytes of data.
func npy(header string, data int) string {
	return npyMagic + "\x01\x00" + string(binary.LittleEndian.AppendUint16(nil, uint16(len(header)))) + header + strings.Repeat("\x00", data)
}

// npzOf returns an .npz file with one array "x".
func npzOf(header string, data int) []byte {
	return zipOf(member{name: "x.npy", data: npy(header, data)})
}

// one returns the opcodes that push a dict with the tensor t under "w".
func one(t string) string { return "}" + text("w") + t + "s" }

// hostileArchives lists files of formats other than safetensors that break one rule each. want is a
// part of the error.
var hostileArchives = []struct {
	name string
	file []byte
	want string
}{
	{"cut short", torchZip("}", 100)[:200], "cut short or damaged"},
	{"only a signature", []byte("PK\x03\x04"), "cut short or damaged"},
	{"two members of one name", torchZip("}", 4, member{name: "archive/data/0"}), `two members called "archive/data/0"`},
	{"members overlap", patch(torchZip("}", 400), 1, 42, 0, 0, 0, 0), "begins inside the member before"},
	{"member beyond the file", patch(torchZip("}", 4), 1, 20, 255, 255, 255, 0, 255, 255, 255, 0), "cut short or damaged"},
	{"stored in fewer bytes", patch(torchZip("}", 4), 1, 24, 5), "the directory states 5 bytes"},
	{"no local header", patch(torchZip("}", 4), 1, 42, 1), "no header at the place"},
	{"encrypted", patch(torchZip("}", 4), 1, 8, 1), "encrypted"},
	{"method 12", patch(torchZip("}", 4), 1, 10, 12), "method 12"},
	{"bomb", zipOf(member{"archive/data.pkl", string(p2("}")), zip.Deflate}, member{"archive/data/0", strings.Repeat("\x00", 8<<20), zip.Deflate}), "16 times"},
	{"bomb in npz", zipOf(member{"x.npy", npy("{'descr':'<f4','fortran_order':False,'shape':(2097152,)}", 8<<20), zip.Deflate}), "16 times"},
	{"neither PyTorch nor NumPy", zipOf(member{name: "readme.txt"}), `the file is a zip archive of other files, such as "readme.txt"; expected a checkpoint`},
	{"data.pkl at the root", zipOf(member{name: "data.pkl"}), "FOLDER/data.pkl"},
	{"empty zip", zipOf(), "the file is an empty zip archive"},
	{"big-endian", torchZip("}", 4, member{name: "archive/byteorder", data: "big"}), `byte order of the file is "big"`},
	{"no storage", torchZip(one(tensor("1", 1, 0, dims(1), dims(1), "")), 4), `no member "archive/data/1"`},
	{"path as storage", torchZip(one(tensor("../../../etc/passwd", 1, 0, dims(1), dims(1), "")), 4), "no member"},
	{"storage of another size", torchZip(one(tensor("0", 2, 0, dims(1), dims(1), "")), 4), "has 4 bytes; expected 8 bytes"},
	{"storage of 2^63 bytes", torchZip(one(tensor("0", 1<<62, 0, dims(1), dims(1), "")), 4), "storage of 4611686018427387904 elements"},
	{"tensor beyond its storage", torchZip(one(tensor("0", 1, 0, dims(2), dims(1), "")), 4), "reaches element 1 of a storage of 4 bytes"},
	{"offset beyond its storage", torchZip(one(tensor("0", 1, 1, dims(1), dims(1), "")), 4), "reaches element 1"},
	{"stride beyond its storage", torchZip(one(tensor("0", 4, 0, dims(2, 2), dims(1, 3), "")), 16), "reaches element 4"},
	{"stride of 2^62", torchZip(one(tensor("0", 4, 0, dims(2, 3), dims(1, 1<<62), "")), 16), "beyond 64 bits"},
	{"negative stride", torchZip(one(tensor("0", 4, 3, dims(4), dims(^uint64(0)), "")), 16), "one of them is negative"},
	{"negative offset", torchZip(one(tensor("0", 4, ^uint64(0), dims(4), dims(1), "")), 16), "or it is negative"},
	{"elements beyond 64 bits", torchZip(one(tensor("0", 4, 0, dims(1<<40, 1<<40), dims(0, 0), "")), 16), "overflows"},
	{"expanded to 1 TiB", torchZip(one(tensor("0", 4, 0, dims(1<<38), dims(0), "")), 16), "more than four times"},
	{"expanded to 2^60 bytes", torchZip("}("+text("a")+tensor("0", 4, 0, dims(1<<58), dims(0), "")+"q\x01"+text("b")+"h\x01"+text("c")+"h\x01u", 16), "more than four times"},
	{"strides of another rank", torchZip(one(tensor("0", 4, 0, dims(4), dims(), "")), 16), "its strides"},
	{"a storage for a thousand tensors", torchZip("}q\x00"+shared(1000), 100_000), "more than four times"},
	{"id of no storage", torchZip("K\x01\x85Q", 4), "does not belong to a storage"},
	{"id without a type", torchZip("("+text("storage")+"NNNNtQ", 4), "a storage is not of the form"},
	{"view beyond its storage", torchZip(one(tensor("0", 1, 0, dims(1), dims(1), dims(0, 1, 1))), 4), "view of a storage reaches beyond"},
	{"offset is a string", torchZip(strings.Replace(one(tensor("0", 1, 77, dims(1), dims(1), "")), num(77), text("a"), 1), 4), "storage offset"},
	{"too few arguments", torchZip(global("torch._utils", "_rebuild_tensor_v2")+")R", 4), "0 arguments"},
	{"broken pickle", zipOf(member{name: "archive/data.pkl", data: "x"}), "opcode 0x78"},

	{"npy without magic", zipOf(member{name: "x.npy", data: strings.Repeat("x", 100)}), "expected \"\\x93NUMPY\""},
	{"npy of version 4", zipOf(member{name: "x.npy", data: npyMagic + "\x04\x00aaaaaaaaaaaa"}), "version from 1 to 3"},
	{"empty npy", zipOf(member{name: "x.npy"}), "no header"},
	{"npy cut in the header", zipOf(member{name: "x.npy", data: npyMagic + "\x01\x00\xff\x00{"}), "cut short"},
	{"npy header of 4 GiB", zipOf(member{name: "x.npy", data: npyMagic + "\x02\x00\xff\xff\xff\xff{"}), "at most 10000"},
	{"npy header no dict", npzOf("x", 0), "expected a dict"},
	{"npy header does not end", npzOf("{'shape':(1,)", 0), "expected a comma"},
	{"npy header with more", npzOf("{'descr':'<f4','fortran_order':False,'shape':(1,)}x", 4), "nothing else"},
	{"npy without a shape", npzOf("{'descr':'<f4','fortran_order':False}", 4), "nothing else"},
	{"npy with an unknown key", npzOf("{'descr':'<f4','fortran_order':False,'shap':(1,)}", 4), `unknown key "shap"`},
	{"npy with a key twice", npzOf("{'descr':'<f4','descr':'<f4','fortran_order':False,'shape':(1,)}", 4), "twice"},
	{"npy with order 1", npzOf("{'descr':'<f4','fortran_order':1,'shape':(1,)}", 4), "neither True nor False"},
	{"npy with a list of dims", npzOf("{'descr':'<f4','fortran_order':False,'shape':[1]}", 4), "not a tuple"},
	{"npy with a negative dim", npzOf("{'descr':'<f4','fortran_order':False,'shape':(-1,)}", 4), "not a tuple"},
	{"npy with a dim of 2^64", npzOf("{'descr':'<f4','fortran_order':False,'shape':(18446744073709551616,)}", 4), "out of range"},
	{"npy of 65 dims", npzOf("{'descr':'<f4','fortran_order':False,'shape':("+strings.Repeat("1,", 65)+")}", 4), "at most 64"},
	{"npy too short", npzOf("{'descr':'<f4','fortran_order':False,'shape':(2,)}", 4), "reaches element 1"},
	{"npy too long", npzOf("{'descr':'<f4','fortran_order':False,'shape':(2,)}", 12), "takes 8 bytes, but 12 bytes follow"},
	{"npy of 1 TiB", npzOf("{'descr':'<f4','fortran_order':False,'shape':(274877906944,)}", 12), "reaches element"},
	{"npy beyond 64 bits", npzOf("{'descr':'<f4','fortran_order':True,'shape':(4294967296,4294967296,2)}", 12), "overflows"},
	{"npy with a list without end", npzOf("{'descr':[('a','<f4')", 12), "no closing bracket"},
	{"npy name not UTF-8", zipOf(member{name: "\xff.npy", data: npy("{'descr':'<f4','fortran_order':False,'shape':()}", 4)}), "UTF-8"},

	{"web page", []byte("<!DOCTYPE html><html></html>"), "a web page"},
	{"Git LFS pointer", []byte("version https://git-lfs.github.com/spec/v1\noid sha256:0\n"), "git lfs pull"},
	{"gzip", []byte("\x1f\x8b\x08\x00aaaaaaa"), "gzip"},
	{"HDF5", []byte("\x89HDF\r\n\x1a\naaaaaaa"), "HDF5"},
	{"one array", []byte(npy("{}", 0)), "single NumPy array"},
	{"tar", append(append(make([]byte, 257), "ustar"...), make([]byte, 300)...), "a tar"},
	{"text", []byte("neither of these"), "probably not a safetensors file"},
	{"nothing", nil, "empty or cut short"},
}

// shared returns the opcodes that set n keys of a dict to the same tensor of 25,000 floats.
func shared(n int) string {
	s := text("w0") + tensor("0", 25_000, 0, dims(25_000), dims(1), "") + "q\x01s("
	for i := 1; i < n; i++ {
		s += text(fmt.Sprint("w", i)) + "h\x01"
	}
	return s + "u"
}

func TestHostileArchives(t *testing.T) {
	for _, c := range hostileArchives {
		t.Run(c.name, func(t *testing.T) {
			var err error
			if n, most := allocated(func() { _, err = openBytes(c.file) }), uint64(4<<20+64*len(c.file)); n > most {
				t.Errorf("opening took %d bytes of memory for a file of %d bytes", n, len(c.file))
			}
			wantFormatError(t, err, len(c.file), c.want)
		})
	}
}

// TestHostileStrides checks that the limit on the size of a tensor applies to the tensors of
// Unpickle too.
func TestHostileStrides(t *testing.T) {
	path := filepath.Join(t.TempDir(), "wide.pth")
	if err := os.WriteFile(path, torchZip(one(tensor("0", 4, 0, dims(1<<38), dims(0), "")), 16), 0o666); err != nil {
		t.Fatal(err)
	}
	v, err := Unpickle(path)
	if err != nil {
		t.Fatal(err)
	}
	w, _ := v.(*pickle.Dict).Get("w")
	for _, read := range []func(*storedTensor) error{
		func(x *storedTensor) error { _, err := x.Float32(); return err },
		func(x *storedTensor) error { _, err := x.Int64(); return err },
	} {
		if err := read(w.(*storedTensor)); err == nil || !strings.Contains(err.Error(), "more than four times the 16 bytes of its storage") {
			t.Errorf("a tensor of a terabyte in a storage of 16 bytes: %v", err)
		}
	}
}

// TestDamagedMembers checks that reading a tensor detects damage inside a member by its checksum.
func TestDamagedMembers(t *testing.T) {
	header := "{'descr':'<f4','fortran_order':False,'shape':(64,)}"
	for name, method := range map[string]uint16{"stored": zip.Store, "deflated": zip.Deflate} {
		b := zipOf(member{"x.npy", npy(header, 256), method})
		sum := binary.LittleEndian.AppendUint32(nil, crc32.ChecksumIEEE([]byte(npy(header, 256)))+1)
		for i := range len(b) - 4 {
			if binary.LittleEndian.Uint32(b[i:]) == binary.LittleEndian.Uint32(sum)-1 {
				copy(b[i:], sum)
			}
		}
		f, err := openBytes(b)
		if err != nil {
			t.Fatal(err)
		}
		_, err = f.Float32("x")
		wantFormatError(t, err, len(b), "checksum")
		t.Log(name, err)
	}
}

// legacyFile returns a file of torch.save before PyTorch 1.6. The first four arguments are the
// opcodes of the pickles after the magic number; after holds the 64-bit words after the last
// pickle.
func legacyFile(version string, machine string, object, keys string, after ...uint64) []byte {
	b := p2("\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19")
	for _, v := range []string{version, machine, object, keys} {
		b = append(b, p2(v)...)
	}
	for _, v := range after {
		b = binary.LittleEndian.AppendUint64(b, v)
	}
	return b
}

func TestLegacyFiles(t *testing.T) {
	const version, machine = "M\xe9\x03", "}"
	object, keys := one(tensor("7", 2, 0, dims(2), dims(1), "N")), "]"+text("7")+"a"
	floats := uint64(0x40000000_3f800000) // 1, 2
	if f, err := openBytes(legacyFile(version, machine, object, keys, 2, floats)); err != nil {
		t.Error(err)
	} else if x, err := f.Float32("w"); err != nil || len(x.Data) != 2 || x.Data[0] != 1 || x.Data[1] != 2 {
		t.Errorf("got %v, %v", x, err)
	}
	// A view, which is a part of a storage, as in files before PyTorch 0.4.
	view := one(tensor("7", 2, 0, dims(1), dims(1), "("+text("8")+num(1)+num(1)+"t"))
	if f, err := openBytes(legacyFile(version, machine, view, keys, 2, floats)); err != nil {
		t.Error(err)
	} else if x, err := f.Float32("w"); err != nil || len(x.Data) != 1 || x.Data[0] != 2 {
		t.Errorf("got %v, %v", x, err)
	}
	for _, c := range []struct {
		name string
		file []byte
		want string
	}{
		{"a module with its source", legacyFile(version, machine, "("+text("module")+global("nets", "Net")+text("nets.py")+text("class Net")+"tQ)\x81", "]"), "the pickle holds an object of nets.Net"},
		{"tensors without names", legacyFile(version, machine, "}K\x01"+tensor("7", 2, 0, dims(2), dims(1), "N")+"s", keys, 2, floats), "no tensors that can be read, only the keys an int"},
		{"another version", legacyFile("M\xe8\x03", machine, object, keys, 2, floats), "not 1001"},
		{"big-endian", legacyFile(version, "}"+text("little_endian")+"\x89s", object, keys, 2, floats), "big-endian"},
		{"no object", legacyFile(version, machine, object, keys)[:40], "cut short"},
		{"keys no list", legacyFile(version, machine, object, "}", 2, floats), "list of the keys of the storages"},
		{"unknown key", legacyFile(version, machine, object, "]"+text("8")+"a", 2, floats), `storage "8" is in the list of storages, but no tensor uses it`},
		{"key twice", legacyFile(version, machine, object, keys+text("7")+"a", 2, floats, 2, floats), "it is listed twice"},
		{"key not listed", legacyFile(version, machine, object, "]"), `no storage "7"`},
		{"cut in a length", legacyFile(version, machine, object, keys), "cut short"},
		{"cut in a storage", legacyFile(version, machine, object, keys, 2), "cut short"},
		{"another length", legacyFile(version, machine, object, keys, 3, floats), "has 3 elements; expected 2"},
		{"more at the end", legacyFile(version, machine, object, keys, 2, floats, 0), "8 bytes follow"},
		{"view beyond", legacyFile(version, machine, one(tensor("7", 2, 0, dims(1), dims(1), "("+text("8")+num(2)+num(1)+"t")), keys, 2, floats), "view of a storage reaches beyond"},
		{"view of strings", legacyFile(version, machine, one(tensor("7", 2, 0, dims(1), dims(1), "N\x85")), keys, 2, floats), "view of a storage is not of the form"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := openBytes(c.file)
			wantFormatError(t, err, len(c.file), c.want)
		})
	}
}

func TestHostileIndexes(t *testing.T) {
	dir := t.TempDir()
	save := func(name string, entries ...Entry) {
		if err := Save(filepath.Join(dir, name), entries, nil); err != nil {
			t.Fatal(err)
		}
	}
	save("a", Entry{"x", F32, nil, []float32{1}}, Entry{"y", F32, nil, []float32{2}})
	save("b", Entry{"z", F32, nil, []float32{3}})
	save("again", Entry{"x", F32, nil, []float32{4}})
	path := filepath.Join(dir, "model.safetensors.index.json")
	for _, c := range []struct{ name, index, want string }{
		{"all", `{"metadata":{"total_size":12,"format":"pt"},"weight_map":{"x":"a","y":"a","z":"b"},"more":[{}]}`, ""},
		{"more than is listed", `{"weight_map":{"x":"a","z":"b"}}`, ""},
		{"after spaces", " \n" + `{"weight_map":{"x":"a"}}`, ""},
		{"no weight_map", `{"metadata":{}}`, "without a weight_map"},
		{"empty weight_map", `{"weight_map":{}}`, "without a weight_map"},
		{"broken JSON", `{"weight_map":{"x":"a"}`, "not valid JSON"},
		{"key twice", `{"weight_map":{"x":"a","x":"b"}}`, "duplicate key"},
		{"map twice", `{"weight_map":{"x":"a"},"weight_map":{"z":"b"}}`, "duplicate key"},
		{"file is a number", `{"weight_map":{"x":1}}`, "expected a string"},
		{"file elsewhere", `{"weight_map":{"x":"../a"}}`, "without a folder"},
		{"absolute file", `{"weight_map":{"x":"/etc/passwd"}}`, "without a folder"},
		{"file on Windows", `{"weight_map":{"x":"C:\\a"}}`, "without a folder"},
		{"folder above", `{"weight_map":{"x":".."}}`, "without a folder"},
		{"no name", `{"weight_map":{"x":""}}`, "without a folder"},
		{"itself", `{"weight_map":{"x":"model.safetensors.index.json"}}`, "another index"},
		{"not in its shard", `{"weight_map":{"x":"b"}}`, "no such tensor"},
		{"in the other shard", `{"weight_map":{"x":"a","z":"a","y":"b"}}`, "no such tensor"},
		{"in two shards", `{"weight_map":{"y":"a","x":"again"}}`, "also has a tensor of this name"},
		{"deep", `{"metadata":{"a":` + strings.Repeat("[", 1e5) + strings.Repeat("]", 1e5) + `},"weight_map":{"x":"a"}}`, "not valid JSON"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if err := os.WriteFile(path, []byte(c.index), 0o600); err != nil {
				t.Fatal(err)
			}
			f, err := Open(dir)
			if c.want != "" {
				wantFormatError(t, err, 1<<20, c.want)
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			if x, err := f.Float32("y"); err != nil || x.Data[0] != 2 {
				t.Errorf("y is %v, %v", x, err)
			}
		})
	}
	for _, c := range []struct{ index, want string }{
		{`{"weight_map":{"x":"missing"}}`, "put all shards beside the index"},
		{`{"weight_map":{` + manyShards() + `}}`, "1001 files"},
	} {
		if err := os.WriteFile(path, []byte(c.index), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := Open(dir); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("got %v, want %q", err, c.want)
		}
	}
}

// manyShards returns the pairs of a weight_map with 1001 shards.
func manyShards() string {
	var list []string
	for i := range 1001 {
		list = append(list, fmt.Sprintf(`"%d":"%d"`, i, i))
	}
	return strings.Join(list, ",")
}
