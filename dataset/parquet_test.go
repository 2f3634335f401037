package dataset

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/klauspost/compress/snappy"
	"github.com/klauspost/compress/zstd"
	"github.com/parquet-go/parquet-go/encoding/thrift"
	parquet "github.com/parquet-go/parquet-go/format"
)

const parquetData = "testdata/parquet"

// pyarrowRows returns the rows that pyarrow reads from the fixtures, by file. Each row is the hash
// of the bytes of the image, or "" for no image, and the label.
func pyarrowRows(t testing.TB) map[string][][2]string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(parquetData, "expected.json"))
	if err != nil {
		t.Fatal(err)
	}
	var doc map[string][][2]any
	if err := json.Unmarshal(text, &doc); err != nil {
		t.Fatal(err)
	}
	out := make(map[string][][2]string)
	for file, rows := range doc {
		for _, r := range rows {
			hash, _ := r[0].(string)
			out[file] = append(out[file], [2]string{hash, fmt.Sprint(r[1])})
		}
	}
	return out
}

// hashOf returns the hash of the bytes of an image, or "" for a row without bytes.
func hashOf(s Sample) string {
	data, err := s.stored.encoded()
	if err != nil {
		return ""
	}
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:])[:12]
}

// TestParquetAgainstPyarrow compares the rows of files with every kind of page with the rows that
// pyarrow reads. Several goroutines read the rows, one of them in order and the others in random
// order.
func TestParquetAgainstPyarrow(t *testing.T) {
	for file, rows := range pyarrowRows(t) {
		t.Run(file, func(t *testing.T) {
			o := OpenOptions{ValFraction: -1, TestFraction: -1, SkipBadImages: strings.HasSuffix(file, "paths.parquet")}
			if strings.HasSuffix(file, "binary.parquet") {
				o.ImageColumn, o.LabelColumn = "picture", "kind"
			}
			d, err := Open(t.Context(), filepath.Join(parquetData, filepath.FromSlash(file)), o)
			if err != nil {
				t.Fatal(err)
			}
			if d.Layout != "parquet" || d.Name != strings.TrimSuffix(filepath.Base(file), ".parquet") || len(d.Train) != len(rows) {
				t.Fatalf("layout %s, name %s, %d rows, want %d", d.Layout, d.Name, len(d.Train), len(rows))
			}
			var readers sync.WaitGroup
			for worker := range 3 {
				order := rand.New(rand.NewPCG(1, uint64(worker))).Perm(len(rows))
				readers.Go(func() {
					for i, at := range order {
						if worker == 0 {
							at = i
						}
						s := d.Train[at]
						if got := hashOf(s); got != rows[at][0] {
							t.Errorf("%s has hash %q, pyarrow reads %q", s.Where, got, rows[at][0])
						}
					}
				})
			}
			readers.Wait()
			for i, s := range d.Train {
				names := map[string]bool{d.Classes[s.stratum()]: true, fmt.Sprint(s.stratum()): true}
				if want := rows[i][1]; !names[want] {
					t.Errorf("%s has label %d (%s), pyarrow reads %s", s.Where, s.stratum(), d.Classes[s.stratum()], want)
				}
			}
		})
	}
}

func TestParquetSets(t *testing.T) {
	d, err := Open(t.Context(), filepath.Join(parquetData, "hub"), OpenOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if fmt.Sprint(d.Classes) != "[cat dog fox]" || len(d.Train) != 12 || len(d.Val) != 3 || len(d.Test) != 6 || d.Split != "given" || d.Name != "hub" {
		t.Errorf("%v, %d/%d/%d, %s", d.Classes, len(d.Train), len(d.Val), len(d.Test), d.Split)
	}
	if s := d.Train[8]; s.Where != "data/train-00001-of-00002.parquet row 1" || !strings.HasSuffix(s.Path, "train-00001-of-00002.parquet#1") || s.stratum() != 2 {
		t.Errorf("sample %+v", s)
	}
	if err := d.CheckImages(context.Background(), CheckOptions{}); err != nil {
		t.Errorf("unexpected error %v", err)
	}
	m, _, err := d.Train[3].read()
	if err != nil {
		t.Fatal(err)
	}
	// The expected value comes from the formula of the fixtures for row 3, x = 2, y = 1. The image
	// is a PNG file.
	if got, want := [3]uint8(m.Pix[3*(8*1+2):]), [3]uint8{(2*20 + 3*40) % 256, 25 + 3*17, 2 + 27}; got != want {
		t.Errorf("pixel %v, want %v", got, want)
	}

	d, err = Open(t.Context(), filepath.Join(parquetData, "readme"), OpenOptions{Seed: 1})
	if err != nil || fmt.Sprintf("%q", d.Classes) != `["it's: a cat" "no" "12"]` || d.Split != "stratified by class 0.8/0.1/0.1 seed 1" || len(slices.Concat(d.Train, d.Val))+len(d.Test) != 6 {
		t.Errorf("unexpected data set %+v, error %v", d, err)
	}

	d, err = Open(t.Context(), filepath.Join(parquetData, "other", "int32.parquet"), OpenOptions{TestFraction: -1, ValFraction: -1, LabelColumn: "coarse_label"})
	if err != nil || fmt.Sprint(d.Classes) != "[0 1]" || d.Train[2].stratum() != 1 {
		t.Errorf("unexpected data set %+v, error %v", d, err)
	}
	d, err = Open(t.Context(), filepath.Join(parquetData, "other", "int32.parquet"), OpenOptions{TestFraction: -1, ValFraction: -1})
	if err != nil || fmt.Sprint(d.Classes) != "[1 3]" || d.Train[0].stratum() != 1 {
		t.Errorf("unexpected data set %+v, error %v", d, err)
	}

	d, err = Open(t.Context(), filepath.Join(parquetData, "other", "paths.parquet"), OpenOptions{TestFraction: -1, ValFraction: -1, SkipBadImages: true})
	if err != nil {
		t.Fatal(err)
	}
	var bad *ImageError
	if _, _, err := d.Train[1].read(); !errors.As(err, &bad) || !strings.Contains(err.Error(), "paths.parquet, row 1, column image.bytes: found null, expected the bytes of an image") || !strings.HasSuffix(bad.Path, "#1") {
		t.Errorf("unexpected error %v", err)
	}
}

// copied copies fixtures to a new folder. files maps the new names to the names of the fixtures. If
// there is no such fixture, its name is the content of the new file.
func copied(t *testing.T, files map[string]string) string {
	t.Helper()
	root := t.TempDir()
	for to, from := range files {
		data, err := os.ReadFile(filepath.Join(parquetData, from))
		if err != nil {
			data = []byte(from)
		}
		if err := os.MkdirAll(filepath.Join(root, filepath.Dir(to)), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(root, to), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return root
}

func TestParquetFolders(t *testing.T) {
	train, val, test := "hub/data/train-00001-of-00002.parquet", "hub/data/validation-00000-of-00001.parquet", "hub/data/test-00000-of-00001.parquet"
	for _, c := range []struct {
		name, split      string
		files            map[string]string
		train, val, test int
	}{
		{"flat", "given", map[string]string{"train.parquet": train, "val-0.parquet": val, "test_x.parquet": test}, 5, 3, 6},
		{"folders", "given", map[string]string{"train/0000.parquet": train, "valid/0000.parquet": val, "test/0000.parquet": test}, 5, 3, 6},
		{"folders in data", "given", map[string]string{"data/train/0.parquet": train, "data/test/0.parquet": test, "data/val/0.parquet": val}, 5, 3, 6},
		{"no split names", "val none, test none", map[string]string{"0000.parquet": train, "0001.parquet": test}, 11, 0, 0},
		{"split last in the name", "given", map[string]string{"mnist-train.parquet": train, "mnist-val.parquet": val, "mnist-test.parquet": test}, 5, 3, 6},
		{"split in capitals", "val none, test given", map[string]string{"Train.parquet": train, "Test.parquet": test}, 5, 0, 6},
		{"another split", "val none, test none; not read: extra", map[string]string{"data/train-0.parquet": train, "data/extra-00000-of-00009.parquet": test, "notes.txt": "x"}, 5, 0, 0},
		{"a folder with a bracket", "given", map[string]string{"[x]/train.parquet": train, "[x]/val.parquet": val, "[x]/test.parquet": test}, 5, 3, 6},
	} {
		root := copied(t, c.files)
		if strings.Contains(c.name, "bracket") {
			root = filepath.Join(root, "[x]")
		}
		d, err := Open(t.Context(), root, OpenOptions{ValFraction: -1, TestFraction: -1})
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		if d.Split != c.split || len(d.Train) != c.train || len(d.Val) != c.val || len(d.Test) != c.test || d.Layout != "parquet" {
			t.Errorf("%s: %s, %d/%d/%d", c.name, d.Split, len(d.Train), len(d.Val), len(d.Test))
		}
	}
}

func TestParquetErrors(t *testing.T) {
	train := "hub/data/train-00000-of-00002.parquet"
	plain, err := os.ReadFile(filepath.Join(parquetData, "pages", "plain.parquet"))
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name  string
		files map[string]string
		o     OpenOptions
		want  []string
	}{
		{"half a download", map[string]string{"data/train-00000-of-00002.parquet": train}, OpenOptions{}, []string{"train-00000-of-00002.parquet is one of 2 files, but the folder has only 1 of them"}},
		{"two columns", map[string]string{"train.parquet": "other/two.parquet"}, OpenOptions{}, []string{"train.parquet", `"left" (structs with the fields "bytes", "path"), "right" (`, "image column"}},
		{"no such column", map[string]string{"train.parquet": "other/two.parquet"}, OpenOptions{ImageColumn: "label"}, []string{`column "label" holds integers, expected encoded images`}},
		{"a column of paths", map[string]string{"train.parquet": train}, OpenOptions{ImageColumn: "image.path"}, []string{`column "image.path" holds text, not images`}},
		{"no such label", map[string]string{"train.parquet": train}, OpenOptions{LabelColumn: "kind"}, []string{"no column of labels (looked for kind)", `"image" (structs with the fields "bytes", "path"), "label" (integers)`}},
		{"label is the image", map[string]string{"train.parquet": "labels/nested.parquet"}, OpenOptions{}, []string{"column labels holds lists of lists of strings"}},
		{"label a float", map[string]string{"train.parquet": "other/floats.parquet"}, OpenOptions{}, []string{"column label holds floating-point numbers", "integers or strings"}},
		{"label -1", map[string]string{"train.parquet": "other/withheld.parquet"}, OpenOptions{}, []string{"label -1 is negative", "withheld"}},
		{"test labels withheld", map[string]string{"train.parquet": train, "test.parquet": "other/withheld.parquet"}, OpenOptions{}, []string{"test.parquet row 2", "label -1 means that the labels of this split are withheld"}},
		{"label null", map[string]string{"train.parquet": "other/nolabel.parquet"}, OpenOptions{}, []string{"train.parquet row 2: column label has no label"}},
		{"label of 2000 bytes", map[string]string{"train.parquet": "other/long.parquet"}, OpenOptions{}, []string{"row 0 has a label of 2000 bytes: the limit is 1024"}},
		{"test labels withheld, no names", map[string]string{"train.parquet": "other/required.parquet", "test.parquet": "other/withheld.parquet"}, OpenOptions{}, []string{"test.parquet row 2", "withheld"}},
		{"types differ", map[string]string{"train-0.parquet": train, "train-1.parquet": "pages/plain.parquet"}, OpenOptions{}, []string{"train-1.parquet: column label holds strings, expected integers as in train-0.parquet"}},
		{"text", map[string]string{"train.parquet": "words, words, words"}, OpenOptions{}, []string{"train.parquet", `begins with "word"`}},
		{"empty", map[string]string{"train.parquet": ""}, OpenOptions{}, []string{"the file has 0 bytes, too few for a parquet file"}},
		{"encrypted", map[string]string{"train.parquet": "PAR1xxxxxxxxPARE"}, OpenOptions{}, []string{"encrypted"}},
		{"footer too long", map[string]string{"train.parquet": "PAR1xxxx\xff\xff\xff\x7fPAR1"}, OpenOptions{}, []string{"footer claims 2147483647 bytes of a file of 16"}},
		{"footer of noise", map[string]string{"train.parquet": "PAR1xxxx\x04\x00\x00\x00PAR1"}, OpenOptions{}, []string{"footer is broken"}},
		{"no training split", map[string]string{"test-0.parquet": train, "val-0.parquet": train}, OpenOptions{Layout: "parquet"}, []string{"no training split"}},
		{"not asked for", map[string]string{"train.parquet": train}, OpenOptions{Layout: "vtab"}, []string{"train800val200.txt"}},
		{"names in the README broken", map[string]string{"train.parquet": "other/two.parquet", "README.md": "---\n  - name: label\n    class_label:\n      names:\n        '1': a\n---\n"}, OpenOptions{ImageColumn: "left"}, []string{"README.md", `line 5: found "1: a", expected class 0`}},
		{"label in Latin-1", map[string]string{"train.parquet": strings.ReplaceAll(string(plain), "class 1", "class \xe9")}, OpenOptions{}, []string{`train.parquet row 1: the class name "class \xe9" is not UTF-8: write column label as UTF-8`}},
		{"names in the README in Latin-1", map[string]string{"train.parquet": "other/two.parquet", "README.md": "---\n  - name: label\n    class_label:\n      names:\n        '0': caf\xe9\n---\n"}, OpenOptions{ImageColumn: "left"}, []string{`README.md: the front matter is not UTF-8: save`}},
		{"too few names", map[string]string{"train.parquet": "other/two.parquet", "README.md": "---\n  - name: label\n    class_label:\n      names:\n        '0': a\n---\n"}, OpenOptions{ImageColumn: "left"}, []string{"train.parquet row 1", "label 1 is out of range: there are class names for the labels 0 to 0 only"}},
	} {
		root := copied(t, c.files)
		_, err := Open(t.Context(), root, c.o)
		if err == nil {
			t.Errorf("%s: no error", c.name)
			continue
		}
		for _, w := range append(c.want, "opening data set "+root) {
			if !strings.Contains(err.Error(), w) {
				t.Errorf("%s: the message lacks %q:\n%v", c.name, w, err)
			}
		}
	}
}

// TestParquetIsLazy checks that opening a file and reading some images allocates little more memory
// than the footer, the labels and these images need.
func TestParquetIsLazy(t *testing.T) {
	// The file has 400 images of 64 kB in uncompressed pages.
	const rows, size = 400, 64 << 10
	path := bigParquet(t, rows, size)
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	d, err := Open(t.Context(), path, OpenOptions{ValFraction: -1, TestFraction: -1})
	if err != nil {
		t.Fatal(err)
	}
	for _, row := range []int{17, 399, 17} {
		data, err := d.Train[row].stored.encoded()
		if err != nil || len(data) != size || data[0] != byte(row) || data[size-1] != byte(row) {
			t.Fatalf("row %d: %d bytes, %v", row, len(data), err)
		}
	}
	runtime.ReadMemStats(&after)
	if allocated := after.TotalAlloc - before.TotalAlloc; allocated > 3*size+1<<20 {
		t.Errorf("%d bytes were allocated for 3 images of %d", allocated, size)
	}
}

// bigParquet writes a file with the required columns image (bytes) and label. It has one row group,
// and each column has one page.
func bigParquet(t *testing.T, rows, size int) string {
	t.Helper()
	images := make([][]byte, rows)
	for i := range images {
		images[i] = bytes.Repeat([]byte{byte(i)}, size)
	}
	path := filepath.Join(t.TempDir(), "big.parquet")
	writeFile(t, path, parquetOf(images, rows, false))
	return path
}

// parquetOf returns a file with the required columns image (bytes) and label, the number of the row
// modulo 2. It has one row group, and pages of the given number of rows, which are compressed with
// snappy if packed is set.
func parquetOf(images [][]byte, perPage int, packed bool) []byte {
	out := []byte("PAR1")
	marshal := func(v any) []byte {
		b, err := thrift.Marshal(new(thrift.CompactProtocol), v)
		if err != nil {
			panic(err)
		}
		return b
	}
	column := func(name string, kind parquet.Type, value func(page []byte, row int) []byte) parquet.ColumnChunk {
		m := parquet.ColumnMetaData{Type: kind, PathInSchema: []string{name}, NumValues: int64(len(images)), DataPageOffset: int64(len(out))}
		for from := 0; from < len(images); from += perPage {
			var page []byte
			to := min(len(images), from+perPage)
			for i := from; i < to; i++ {
				page = value(page, i)
			}
			h := parquet.PageHeader{Type: parquet.DataPage, UncompressedPageSize: int32(len(page)),
				DataPageHeader: thrift.New(parquet.DataPageHeader{NumValues: int32(to - from), DefinitionLevelEncoding: parquet.RLE, RepetitionLevelEncoding: parquet.RLE})}
			if packed {
				m.Codec, page = parquet.Snappy, snappy.Encode(nil, page)
			}
			h.CompressedPageSize = int32(len(page))
			out = append(append(out, marshal(&h)...), page...)
		}
		m.TotalCompressedSize = int64(len(out)) - m.DataPageOffset
		return parquet.ColumnChunk{MetaData: m}
	}
	image := column("image", parquet.ByteArray, func(page []byte, row int) []byte {
		return append(binary.LittleEndian.AppendUint32(page, uint32(len(images[row]))), images[row]...)
	})
	label := column("label", parquet.Int64, func(page []byte, row int) []byte { return binary.LittleEndian.AppendUint64(page, uint64(row%2)) })
	footer := marshal(&parquet.FileMetaData{
		Version: 2, NumRows: int64(len(images)),
		Schema: []parquet.SchemaElement{{Name: "schema", NumChildren: thrift.New[int32](2)}, {Name: "image", Type: thrift.New(parquet.ByteArray), RepetitionType: thrift.New(parquet.Required)},
			{Name: "label", Type: thrift.New(parquet.Int64), RepetitionType: thrift.New(parquet.Required)}},
		RowGroups: []parquet.RowGroup{{Columns: []parquet.ColumnChunk{image, label}, NumRows: int64(len(images))}},
	})
	out = append(out, footer...)
	return append(binary.LittleEndian.AppendUint32(out, uint32(len(footer))), "PAR1"...)
}

func TestPageCacheIsBounded(t *testing.T) {
	var c pageCache
	pages := make([]*parquetPage, 5)
	reads := 0
	for i := range pages {
		pages[i] = &parquetPage{uncompressed: maxPageCache / 3}
	}
	read := func(i int) {
		if _, err := c.values(pages[i], func() ([][]byte, error) { reads++; return nil, nil }); err != nil {
			t.Fatal(err)
		}
	}
	// page 3 evicts page 1, and page 1 evicts page 2
	for _, i := range []int{0, 1, 2, 0, 3, 0, 1, 0} {
		read(i)
	}
	if reads != 5 || c.order.Len() != 3 || len(c.pages) != 3 || c.bytes != 3*(maxPageCache/3) {
		t.Errorf("%d reads, %d pages, %d bytes", reads, c.order.Len(), c.bytes)
	}
	huge := &parquetPage{uncompressed: 2 * maxPageCache}
	if _, err := c.values(huge, func() ([][]byte, error) { return nil, io.EOF }); err != io.EOF {
		t.Errorf("unexpected error %v", err)
	}
	if c.order.Len() != 1 || c.bytes != 2*maxPageCache {
		t.Errorf("%d pages, %d bytes", c.order.Len(), c.bytes)
	}
}

// TestRunLengths checks cases that were written by hand from the specification of the format. In
// its example, the numbers 0…7 with three bits each are the bytes 88 c6 fa.
func TestRunLengths(t *testing.T) {
	for _, c := range []struct {
		data  string
		width uint
		n     int
		want  string
	}{
		{"\x03\x88\xc6\xfa", 3, 8, "[0 1 2 3 4 5 6 7]"},
		{"\x03\x88\xc6\xfa", 3, 5, "[0 1 2 3 4]"},
		{"\x06\x05\x03\x88\xc6\xfa", 3, 5, "[5 5 5 0 1]"},
		{"\x08\x34\x12", 16, 4, "[4660 4660 4660 4660]"},
		{"\x08", 0, 4, "[0 0 0 0]"},
		{"\x03", 0, 4, "[0 0 0 0]"},
		{"\x03" + strings.Repeat("\xff\xff\xff\xff", 8), 32, 1, "[4294967295]"},
		{"", 3, 0, "[]"},
		{"\x08", 3, 4, "unexpected EOF"},
		{"\x05\x88\xc6\xfa", 3, 8, "unexpected EOF"},
		{"\x00\x00", 3, 4, "an empty run"},
		{"\x01", 3, 4, "an empty run"},
		{"\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", 3, 4, "unexpected EOF"},
		{"\xfe\xff\xff\xff\xff\xff\xff\xff\xff\x01\x01", 1, 3, "[1 1 1]"},
		{"\x03", 33, 4, "numbers of 33 bits, expected 32 at most"},
	} {
		got, err := runLengths([]byte(c.data), c.width, c.n)
		text := fmt.Sprint(got)
		if err != nil {
			text = err.Error()
		}
		if text != c.want {
			t.Errorf("% x, %d bits: %s, want %s", c.data, c.width, text, c.want)
		}
	}
}

// TestHostileFooters checks that footers with too large lengths, counts or nesting depths are
// errors.
func TestHostileFooters(t *testing.T) {
	nested := strings.Repeat("\x1c", 100)
	for _, c := range []struct{ name, data, want string }{
		{"length", "\x18\xff\xff\xff\xff\x07", "cut short"},
		{"list", "\x19\xfc\xff\xff\xff\xff\x07", "cut short"},
		{"map", "\x1b\xff\xff\xff\xff\x07\x88", "cut short"},
		{"nesting", nested, "nested more than"},
		{"nested lists", "\x19" + strings.Repeat("\x19", 100), "nested more than"},
		{"items", "\x19\xf3\x81\x80\x20" + strings.Repeat("\x00", 1<<20), "more than"},
		{"type", "\x1e\x00", "type 14"},
		{"number", "\x16" + strings.Repeat("\xff", 12), "64 bits"},
		{"stop missing", "\x15\x02", "cut short"},
	} {
		var m parquet.FileMetaData
		if _, err := decodeThrift([]byte(c.data), &m); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: error %v, want one with %q", c.name, err, c.want)
		}
	}
}

// memoryParquet returns a parquet file in memory whose footer has been read.
func memoryParquet(data []byte, minBytes, spare int64) (*parquetFile, error) {
	p := &parquetFile{path: "train.parquet", name: "train.parquet", size: int64(len(data))}
	p.open = func() (content, error) {
		return struct {
			io.ReaderAt
			io.Closer
		}{bytes.NewReader(data), io.NopCloser(nil)}, nil
	}
	return p, p.readFooter(minBytes, spare)
}

// hostileParquet returns a parquet file with the required columns image, label and more. Each
// column has the bytes of chunk in each row group. rows is the number of rows of a row group.
func hostileParquet(t *testing.T, chunk []byte, codec parquet.CompressionCodec, groups, rows int, more ...string) []byte {
	t.Helper()
	file := append([]byte("PAR1"), chunk...)
	meta := parquet.FileMetaData{Version: 2, NumRows: int64(groups * rows)}
	names := append([]string{"image", "label"}, more...)
	meta.Schema = []parquet.SchemaElement{{Name: "schema", NumChildren: thrift.New(int32(len(names)))}}
	var columns []parquet.ColumnChunk
	for _, name := range names {
		meta.Schema = append(meta.Schema, parquet.SchemaElement{Name: name, Type: thrift.New(parquet.ByteArray), RepetitionType: thrift.New(parquet.Required)})
		columns = append(columns, parquet.ColumnChunk{MetaData: parquet.ColumnMetaData{Type: parquet.ByteArray, Codec: codec, PathInSchema: []string{name}, NumValues: int64(rows),
			DataPageOffset: 4, TotalCompressedSize: int64(len(chunk)), TotalUncompressedSize: int64(len(chunk))}})
	}
	for range groups {
		meta.RowGroups = append(meta.RowGroups, parquet.RowGroup{Columns: columns, NumRows: int64(rows)})
	}
	footer, err := thrift.Marshal(new(thrift.CompactProtocol), &meta)
	if err != nil {
		t.Fatal(err)
	}
	file = append(file, footer...)
	return append(binary.LittleEndian.AppendUint32(file, uint32(len(footer))), "PAR1"...)
}

// parquetTestPage returns a data page with its header.
func parquetTestPage(t *testing.T, data []byte, rows, uncompressed int, encoding parquet.Encoding) []byte {
	t.Helper()
	header, err := thrift.Marshal(new(thrift.CompactProtocol), &parquet.PageHeader{Type: parquet.DataPage, UncompressedPageSize: int32(uncompressed), CompressedPageSize: int32(len(data)),
		DataPageHeader: thrift.New(parquet.DataPageHeader{NumValues: int32(rows), Encoding: encoding, DefinitionLevelEncoding: parquet.RLE, RepetitionLevelEncoding: parquet.RLE})})
	if err != nil {
		t.Fatal(err)
	}
	return append(header, data...)
}

// TestHostileParquet reads small files that claim much, and checks that they take little memory.
func TestHostileParquet(t *testing.T) {
	encoder, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	zeros := encoder.EncodeAll(make([]byte, 32<<20), nil) // values of no bytes
	empty := bytes.Repeat(parquetTestPage(t, nil, 0, 0, parquet.Plain), 1000)
	one := parquetTestPage(t, []byte("\x00\x00\x00\x00"), 1, 4, parquet.Plain)
	var large []byte
	for range 100 {
		large = append(large, parquetTestPage(t, zeros, 1, 32<<20, parquet.Plain)...)
	}
	// 100,000 equal values: an empty prefix and an empty suffix each
	packed := "\x80\x01\x04\xa0\x8d\x06\x00" + strings.Repeat("\x00\x00\x00\x00\x00", 782)
	many := parquetTestPage(t, []byte(packed+packed), 100_000, 2*len(packed), parquet.DeltaByteArray)
	var hot []string
	for i := range 200 {
		hot = append(hot, fmt.Sprint("class", i))
	}
	for _, c := range []struct {
		name   string
		file   []byte
		fails  string
		limit  int // of the memory, beside that of the file
		isList bool
	}{
		{"row groups that overlap", hostileParquet(t, append(bytes.Clone(empty), one...), parquet.Uncompressed, 900, 1), "so they overlap", 16 << 20, false},
		{"pages that are large together", hostileParquet(t, large, parquet.Zstd, 1, 100), "bytes uncompressed: the limit for a file of", 16 << 20, false},
		{"too many rows", hostileParquet(t, many, parquet.Uncompressed, 1, 100_000), "too many for a file of", 16 << 20, false},
		{"too many cells", hostileParquet(t, many, parquet.Uncompressed, 1, 100_000, hot...), "the image path is empty", 128 << 20, true},
		{"a long name of a group", hostileParquet(t, one, parquet.Uncompressed, 1, 1, strings.Repeat("x", 2000)), "has a path of more than 1024 bytes", 16 << 20, false},
	} {
		var err error
		got := allocated(func() {
			if c.isList {
				path := filepath.Join(t.TempDir(), "metadata.parquet")
				if err = os.WriteFile(path, c.file, 0o600); err == nil {
					_, err = readMetadataParquet(t.Context(), disk{}, path, "metadata.parquet", OpenOptions{}, labelForm{})
				}
				return
			}
			var p *parquetFile
			if p, err = memoryParquet(c.file, minImageBytes, 1000); err == nil {
				_, err = (&parquetReader{cache: new(pageCache)}).rows(t.Context(), p, true)
			}
		})
		if err == nil || !strings.Contains(err.Error(), c.fails) {
			t.Errorf("%s: error %.300v, want %q", c.name, err, c.fails)
		}
		if got > c.limit+4*len(c.file) {
			t.Errorf("%s: %d bytes were allocated for a file of %d", c.name, got, len(c.file))
		}
	}
}

// FuzzParquet checks that reading a damaged file and all its images does not panic and does not
// allocate too much memory.
func FuzzParquet(f *testing.F) {
	for file := range pyarrowRows(f) {
		data, err := os.ReadFile(filepath.Join(parquetData, filepath.FromSlash(file)))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	runs := 0
	f.Fuzz(func(t *testing.T, data []byte) {
		read := func() {
			p, err := memoryParquet(data, minImageBytes, 1000)
			if err != nil {
				return
			}
			rows, err := (&parquetReader{cache: new(pageCache)}).rows(t.Context(), p, true)
			if err != nil && !strings.Contains(err.Error(), "train.parquet") {
				t.Errorf("the error does not name the file: %v", err)
			}
			for _, row := range rows {
				_, _ = row.stored.encoded()
			}
		}
		// Reading the statistics stops all goroutines, so only some runs are measured.
		if runs++; runs%64 != 0 {
			read()
		} else if n := allocated(read); n > 256<<20+400*len(data) {
			t.Errorf("%d bytes were allocated for a file of %d", n, len(data))
		}
	})
}
