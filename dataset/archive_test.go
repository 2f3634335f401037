package dataset

import (
	"archive/tar"
	"archive/zip"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"image"
	"image/jpeg"
	"io/fs"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sptune/spt/internal/cputime"
)

// archiveData holds the same images in many forms; make.py in it writes them with other programs.
var archiveData = filepath.Join("testdata", "archives")

// TestArchives opens archives that GNU tar, Info-ZIP, Python and the library webdataset have
// written, and compares the data sets with the class folders that hold the same images.
func TestArchives(t *testing.T) {
	t.Setenv("XDG_CACHE_HOME", t.TempDir())
	var want map[string]string // SHA-256 by path
	text, err := os.ReadFile(filepath.Join(archiveData, "expected.json"))
	if err != nil || json.Unmarshal(text, &want) != nil || len(want) != 18 {
		t.Fatal(len(want), err)
	}
	open := func(name string) *Dataset {
		d, err := Open(t.Context(), filepath.Join(archiveData, name), OpenOptions{})
		if err != nil {
			t.Fatal(err)
		}
		return d
	}
	folder := open("folder")
	if n := len(folder.Train) + len(folder.Val) + len(folder.Test); n != len(want) {
		t.Fatalf("%d images in the folder, want %d", n, len(want))
	}
	for _, c := range []struct {
		name   string
		prefix string // of the names of the images
		equal  bool   // also the fingerprint equals that of the folder
	}{
		{"gnu.tar", "", true}, {"gnu.tar.gz", "", true}, {"gnu.tar.zst", "", true}, {"infozip.zip", "", true}, {"python.zip", "", true},
		{"inside.tar", "folder/", false}, {"stored.zip", "folder/", false},
		{"long-gnu.tar", "", false}, {"long-pax.tar", "", false}, {"shards", "", false}, {"hub", "", false},
	} {
		t.Run(c.name, func(t *testing.T) {
			d := open(c.name)
			if !slices.Equal(d.Classes, folder.Classes) || d.Split != "given" || len(d.Notes) > 0 {
				t.Errorf("classes %q, split %q, notes %q", d.Classes, d.Split, d.Notes)
			}
			if got, want := d.Fingerprint(), folder.Fingerprint(); c.equal && got != want {
				t.Errorf("fingerprint %s, want that of the folder, %s", got, want)
			}
			if a, err := d.Verify(t.Context(), 1, nil); err != nil {
				t.Error(err)
			} else if b, _ := folder.Verify(t.Context(), 1, nil); a.SHA256 != b.SHA256 || a.Bytes != b.Bytes {
				t.Errorf("contents %s with %d bytes, want those of the folder, %s with %d bytes", a.SHA256, a.Bytes, b.SHA256, b.Bytes)
			}
			for i, split := range d.splits() {
				for j, s := range *split.samples {
					other := (*folder.splits()[i].samples)[j]
					data, err := s.source().encoded()
					if err != nil {
						t.Fatal(err)
					}
					if sum := sha256.Sum256(data); hex.EncodeToString(sum[:]) != want[folder.NameOf(other)] || s.Target != other.Target {
						t.Errorf("%s has the target %v and other bytes than %s", s.Path, s.Target, other.Path)
					}
					if c.equal || c.prefix != "" {
						if got, want := d.NameOf(s), c.prefix+folder.NameOf(other); got != want {
							t.Errorf("the image is %s, want %s", got, want)
						}
					}
				}
			}
			if files := d.Files(); strings.Contains(c.name, ".") && (len(files) != 1 || filepath.Base(files[0]) != c.name) {
				t.Errorf("the files are %q", files)
			}
		})
	}
}

// TestArchivedLayouts packs folders of all layouts and compares what Open reads of both.
func TestArchivedLayouts(t *testing.T) {
	for _, c := range []struct {
		name  string
		files tree
	}{
		{"table", pictures(tree{"train.csv": "path,label\nsub/a.png,x\nsub/b.png,y\n", "test.csv": "path,label\nsub/c.png,x\n"})},
		{"vtab", pictures(tree{"train800.txt": "sub/a.png 0\nsub/b.png 1\n", "val200.txt": "sub/c.png 1\n", "test.txt": "sub/d.png 0\n", "classes.txt": "u\nv\n"})},
		{"fgvc", fgvcTree},
		{"imagefolder", folderTree},
	} {
		root := c.files.write(t)
		packed := map[string][]byte{}
		if err := filepath.WalkDir(root, func(path string, e fs.DirEntry, err error) error {
			if err != nil || e.IsDir() {
				return err
			}
			packed[relative(root, path)], err = os.ReadFile(path)
			return err
		}); err != nil {
			t.Fatal(err)
		}
		want, err := Open(t.Context(), root, OpenOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if want.Layout != c.name {
			t.Errorf("the folder has the layout %s, want %s", want.Layout, c.name)
		}
		for name, data := range map[string][]byte{"x.tar": makeTar(packed), "x.zip": makeZip(packed)} {
			path := filepath.Join(t.TempDir(), name)
			writeFile(t, path, data)
			got, err := Open(t.Context(), path, OpenOptions{})
			if err != nil {
				t.Errorf("%s in %s: %v", c.name, name, err)
				continue
			}
			if got.Layout != want.Layout || got.Fingerprint() != want.Fingerprint() {
				t.Errorf("%s in %s: layout %s and fingerprint %s, want %s and %s", c.name, name, got.Layout, got.Fingerprint(), want.Layout, want.Fingerprint())
			}
		}
	}
	parquets := map[string][]byte{}
	for _, name := range []string{"train", "validation", "test"} {
		data, err := os.ReadFile(filepath.Join(archiveData, "hub", "data", name+"-00000-of-00001.parquet"))
		if err != nil {
			t.Fatal(err)
		}
		parquets["data/"+name+"-00000-of-00001.parquet"] = data
	}
	for name, data := range map[string][]byte{"x.tar": makeTar(parquets), "x.zip": makeZip(parquets)} {
		path := filepath.Join(t.TempDir(), name)
		writeFile(t, path, data)
		d, err := Open(t.Context(), path, OpenOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if err := d.CheckImages(t.Context(), CheckOptions{}); err != nil || len(d.Train) != 12 {
			t.Errorf("parquet in %s: %d images, error %v", name, len(d.Train), err)
		}
	}
}

func writeFile(t testing.TB, path string, data []byte) {
	t.Helper()
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
}

// makeTar returns an archive of the files, in the order of their names.
func makeTar(files map[string][]byte) []byte {
	var headers []tar.Header
	var contents [][]byte
	for _, name := range slices.Sorted(maps.Keys(files)) {
		headers, contents = append(headers, tar.Header{Name: name, Size: int64(len(files[name])), Mode: 0o644}), append(contents, files[name])
	}
	return tarOf(headers, contents)
}

// tarOf returns an archive of entries. contents may be shorter than headers.
func tarOf(headers []tar.Header, contents [][]byte) []byte {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for i, h := range headers {
		if err := w.WriteHeader(&h); err != nil {
			panic(err)
		}
		if i < len(contents) {
			_, _ = w.Write(contents[i])
		}
	}
	_ = w.Close()
	return b.Bytes()
}

// makeZip returns an archive of the files, compressed.
func makeZip(files map[string][]byte) []byte { return zipOf(files, zip.Deflate) }

// zipOf returns an archive of the files, compressed with the given method.
func zipOf(files map[string][]byte, method uint16) []byte {
	var b bytes.Buffer
	w := zip.NewWriter(&b)
	for _, name := range slices.Sorted(maps.Keys(files)) {
		f, err := w.CreateHeader(&zip.FileHeader{Name: name, Method: method})
		if err != nil {
			panic(err)
		}
		_, _ = f.Write(files[name])
	}
	_ = w.Close()
	return b.Bytes()
}

func makeGzip(data []byte) []byte {
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	_, _ = w.Write(data)
	_ = w.Close()
	return b.Bytes()
}

// TestHostileArchives checks the errors for damaged and malicious archives, and that nothing is
// written beside them.
func TestHostileArchives(t *testing.T) {
	t.Setenv("XDG_CACHE_HOME", t.TempDir())
	png := squareImage(t)
	good := map[string][]byte{"a/1.png": png, "a/2.png": png, "b/3.png": png, "b/4.png": png}
	file := func(name string) tar.Header { return tar.Header{Name: name, Size: int64(len(png)), Mode: 0o644} }
	pngs := slices.Repeat([][]byte{png}, 4)
	whole, wholeZip := makeTar(good), makeZip(good)
	huge := slices.Clone(whole)
	binary.BigEndian.PutUint64(huge[128:], 1<<62) // the size as a number of base 256
	copy(huge[124:], "\x80\x00\x00\x00")
	fixSum(huge)
	badSum := slices.Clone(whole)
	badSum[3]++
	lie := func(field int, value uint32) []byte { // in the directory of wholeZip
		z := slices.Clone(wholeZip)
		at := bytes.Index(z, []byte("PK\x01\x02"))
		binary.LittleEndian.PutUint32(z[at+field:], value)
		return z
	}
	bomb := makeGzip(make([]byte, 80<<20))
	for _, c := range []struct {
		name string
		file string
		data []byte
		want []string
	}{
		{"dots", "x.tar", tarOf([]tar.Header{file("a/../../evil.png")}, pngs), []string{"x.tar", `"a/../../evil.png" leaves the archive`}},
		{"absolute", "x.tar", tarOf([]tar.Header{file("/etc/evil.png")}, pngs), []string{`"/etc/evil.png" leaves the archive`}},
		{"dots in zip", "x.zip", makeZip(map[string][]byte{"../evil.png": png}), []string{`"../evil.png" leaves the archive`}},
		{"backslashes", "x.zip", makeZip(map[string][]byte{`..\evil.png`: png}), []string{"leaves the archive"}},
		{"twice", "x.tar", tarOf([]tar.Header{file("a/1.png"), file("./a//1.png")}, pngs), []string{"is in it twice", "pack"}},
		{"file and folder", "x.tar", tarOf([]tar.Header{file("a"), file("a/1.png")}, pngs), []string{`"a/1.png"`, "also a file"}},
		{"folder and file", "x.tar", tarOf([]tar.Header{file("a/1.png"), file("a")}, pngs), []string{"a file and a folder"}},
		{"deep", "x.tar", tarOf([]tar.Header{file(strings.Repeat("d/", 200) + "1.png")}, pngs), []string{"200 folders: the limit is 100"}},
		{"hard link", "x.tar", tarOf([]tar.Header{{Name: "a/1.png", Linkname: "a/0.png", Typeflag: tar.TypeLink}}, nil), []string{`a link to "a/0.png"`, "not an earlier file"}},
		{"hard link outside", "x.tar", tarOf([]tar.Header{{Name: "a/1.png", Linkname: "../../etc/passwd", Typeflag: tar.TypeLink}}, nil), []string{"leaves the archive"}},
		{"huge size", "x.tar", huge, []string{`"a/1.png" has 4611686018427387904 bytes`, "cut short"}},
		{"damaged header", "x.tar", badSum, []string{"header at byte 0", "damaged or another kind of file"}},
		{"cut in a file", "x.tar", whole[:512+len(png)/2], []string{"x.tar", `"a/1.png"`, "missing at the end", "copy it again"}},
		{"cut in a header", "x.tar", whole[:2*1024+100], []string{`in the header after the file "a/2.png"`, "cut short"}},
		{"cut between files", "x.tar", whole[:2*1024], []string{`without an end marker after the file "a/2.png"`, "truncate --size=+1024"}},
		{"empty", "x.tar", nil, []string{"x.tar", "cut short"}},
		{"no files", "x.tar", tarOf(nil, nil), []string{"holds no files"}},
		{"not tar", "x.tar", bytes.Repeat([]byte("text "), 300), []string{"not the header of a tar archive"}},
		{"cut gzip", "x.tar.gz", makeGzip(whole)[:150], []string{"x.tar.gz", "compressed data end early", "copy it again"}},
		{"gzip without tar", "x.tgz", makeGzip([]byte("hello")), []string{"x.tgz"}},
		{"bomb", "x.tar.gz", bomb, []string{"more than", "decompressed, the limit"}},
		{"xz", "x.tar", []byte("\xfd7zXZ\x00..."), []string{"compressed with xz, which is not supported"}},
		{"rar", "x.rar", []byte("Rar!"), []string{".rar are not read", "unpack it", ".zip"}},
		{"cut zip", "x.zip", wholeZip[:len(wholeZip)-30], []string{"x.zip", "list of files at its end is missing", "copy it again"}},
		{"zip without header", "x.zip", lie(42, 1<<31), []string{"outside the archive or has no header"}},
		{"zip with a false size", "x.zip", lie(20, 1<<31), []string{"outside the archive or has no header"}},
		{"wrong checksum", "x.zip", lie(16, 1), []string{"checksum differs", "a/1.png"}},
		{"more bytes than stated", "x.zip", lie(24, uint32(len(png)-1)), []string{"more than the", "states"}},
		{"fewer bytes than stated", "x.zip", lie(24, uint32(len(png)+1)), []string{"unexpected EOF", "a/1.png"}},
		{"zip bomb", "x.zip", lie(24, 1<<30-1), []string{"not possible"}},
		{"huge image", "x.zip", lie(24, 1<<31), []string{"more than the limit of 1073741824 bytes"}},
		{"method", "x.zip", lie(10, uint32(binary.LittleEndian.Uint16([]byte{9, 0}))), []string{"compression method 9 of zip is not supported"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			path := filepath.Join(dir, c.file)
			writeFile(t, path, c.data)
			var err error
			bytes := allocated(func() {
				var d *Dataset
				if d, err = Open(t.Context(), path, OpenOptions{}); err == nil {
					err = d.CheckImages(t.Context(), CheckOptions{})
				}
			})
			if err == nil {
				t.Fatal("no error")
			}
			for _, want := range c.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("the error lacks %q:\n%v", want, err)
				}
			}
			if bytes > 32<<20 {
				t.Errorf("allocated %d bytes", bytes)
			}
			if entries, err := os.ReadDir(dir); err != nil || len(entries) != 1 {
				t.Errorf("the folder holds %v, error %v", entries, err)
			}
		})
	}
	if left, _ := filepath.Glob(filepath.Join(os.Getenv("XDG_CACHE_HOME"), "spt", "archives", ".*")); left != nil {
		t.Errorf("left in the cache: %v", left)
	}
	_, err := Open(t.Context(), filepath.Join(archiveData, "encrypted.zip"), OpenOptions{})
	if err == nil || !strings.Contains(err.Error(), "is encrypted: unpack") {
		t.Errorf("encrypted: %v", err)
	}
}

// fixSum sets the checksum of the first header of a tar archive.
func fixSum(data []byte) {
	copy(data[148:156], "        ")
	sum := 0
	for _, b := range data[:tarBlock] {
		sum += int(b)
	}
	copy(data[148:], fmt.Sprintf("%06o\x00", sum))
}

// squareImage returns an image file of 12×12 pixels.
func squareImage(t testing.TB) []byte {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(archiveData, "folder", "train", "red", "0008.png"))
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// TestArchiveNotes checks what is said about entries that are not read, and hard links, which are.
func TestArchiveNotes(t *testing.T) {
	png := squareImage(t)
	file := func(name string) tar.Header { return tar.Header{Name: name, Size: int64(len(png)), Mode: 0o644} }
	headers := []tar.Header{
		file("a/1.png"), file("b/2.png"), file("b/inner.zip"),
		{Name: "b/3.png", Linkname: "./a/1.png", Typeflag: tar.TypeLink},
		{Name: "a/link.png", Linkname: "/etc/passwd", Typeflag: tar.TypeSymlink},
		{Name: "a/pipe.png", Typeflag: tar.TypeFifo},
	}
	path := filepath.Join(t.TempDir(), "x.tar")
	writeFile(t, path, tarOf(headers, [][]byte{png, png, png}))
	d, err := Open(t.Context(), path, OpenOptions{ValFraction: -1, TestFraction: -1})
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, s := range d.Train {
		names = append(names, d.NameOf(s))
	}
	if want := []string{"a/1.png", "b/2.png", "b/3.png"}; !slices.Equal(names, want) {
		t.Errorf("images %q, want %q", names, want)
	}
	notes := strings.Join(d.Notes, "\n")
	for _, want := range []string{`holds 2 links and special files, which are not read; the first is "a/link.png"`, `holds the archive "b/inner.zip", which is not read`} {
		if !strings.Contains(notes, want) {
			t.Errorf("the notes lack %q:\n%s", want, notes)
		}
	}
	if data, err := d.Train[2].source().encoded(); err != nil || !bytes.Equal(data, png) {
		t.Errorf("the hard link leads to %d bytes, error %v", len(data), err)
	}
	copies, err := d.Copies(t.Context(), 1)
	if err != nil || len(copies) != 1 || len(copies[0].Copies) != 3 {
		t.Errorf("copies %v, error %v", copies, err)
	}
	// An archive that changes must not give the bytes of other images.
	if err := os.Chtimes(path, time.Time{}, time.Now().Add(time.Hour)); err != nil {
		t.Fatal(err)
	}
	if _, err := d.Train[0].source().encoded(); err == nil || !strings.Contains(err.Error(), "has changed since") {
		t.Errorf("a changed archive: %v", err)
	}
}

// TestArchiveCache checks that a compressed archive is decompressed once, that a changed one is
// decompressed again, and that an interruption leaves nothing.
func TestArchiveCache(t *testing.T) {
	cache := t.TempDir()
	t.Setenv("XDG_CACHE_HOME", cache)
	png := squareImage(t)
	path := filepath.Join(t.TempDir(), "x.tar.gz")
	writeFile(t, path, makeGzip(makeTar(map[string][]byte{"a/1.png": png, "b/2.png": png})))
	count := func() int {
		found, err := filepath.Glob(filepath.Join(cache, "spt", "archives", "*"))
		if err != nil {
			t.Fatal(err)
		}
		return len(found)
	}
	stopped, stop := context.WithCancel(t.Context())
	stop()
	if _, err := openArchive(stopped, path); !errors.Is(err, context.Canceled) || count() != 0 {
		t.Errorf("a cancelled context: %v, %d files", err, count())
	}
	for range 2 {
		if a, err := openArchive(t.Context(), path); err != nil || len(a.order) != 2 || count() != 1 {
			t.Fatalf("%v, %d files in the cache", err, count())
		}
	}
	writeFile(t, path, makeGzip(makeTar(map[string][]byte{"a/1.png": png, "b/3.png": png, "b/4.png": png})))
	if a, err := openArchive(t.Context(), path); err != nil || len(a.order) != 3 || count() != 2 {
		t.Errorf("after a change: %v, %d files in the cache", err, count())
	}
	t.Setenv("XDG_CACHE_HOME", path)
	writeFile(t, path, makeGzip(makeTar(map[string][]byte{"a/1.png": png})))
	if _, err := openArchive(t.Context(), path); err == nil || !strings.Contains(err.Error(), "XDG_CACHE_HOME") {
		t.Errorf("a cache that is a file: %v", err)
	}
}

func TestFindArchivedImages(t *testing.T) {
	path := filepath.Join(t.TempDir(), "x.zip")
	writeFile(t, path, makeZip(map[string][]byte{"b.png": squareImage(t), "a/c.JPG": squareImage(t), "a/x.HEIC": nil, "notes.txt": nil, "__MACOSX/._b.png": nil}))
	found, err := FindImages(t.Context(), path)
	if err != nil || len(found.Images) != 2 || found.Images[0].Path != filepath.Join(path, "b.png") || found.Images[1].Path != filepath.Join(path, "a", "c.JPG") ||
		len(found.Unsupported) != 1 || found.Ignored[".txt"] != 1 {
		t.Fatalf("found %+v, error %v", found, err)
	}
	for _, s := range found.Images {
		if _, _, err := s.read(); err != nil {
			t.Error(err)
		}
	}
	writeFile(t, path, makeZip(map[string][]byte{"notes.txt": nil}))
	if _, err := FindImages(t.Context(), path); err == nil || !strings.Contains(err.Error(), "no images") {
		t.Errorf("no images: %v", err)
	}
}

// FuzzArchive lists the files of archives and reads them.
func FuzzArchive(f *testing.F) {
	for _, name := range []string{"gnu.tar", "long-pax.tar", "infozip.zip", "stored.zip", "encrypted.zip"} {
		data, err := os.ReadFile(filepath.Join(archiveData, name))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data, strings.HasSuffix(name, ".zip"))
	}
	f.Fuzz(func(t *testing.T, data []byte, isZip bool) {
		c := &container{size: int64(len(data))}
		a, err := newIndex(c, -1).read(t.Context(), bytes.NewReader(data), isZip)
		if err != nil {
			return
		}
		total := int64(0)
		for _, file := range a.order {
			if clean, err := archivePath(file.path); err != nil || clean != file.path {
				t.Fatalf("the path %q is not clean: %v", file.path, err)
			}
			if m, err := a.find("open", filepath.Join(a.given, filepath.FromSlash(file.path))); err != nil || m != file.member {
				t.Fatalf("%q is not found: %v", file.path, err)
			}
			if file.offset < 0 || file.packed < 0 || file.size < 0 || file.offset+file.packed > c.size {
				t.Fatalf("%q: %d bytes at %d, %d packed, in %d bytes", file.path, file.size, file.offset, file.packed, c.size)
			}
			if total += min(file.size, 1<<20); total > 16<<20 {
				return
			}
			got, err := c.contentsOf(bytes.NewReader(data), file.member, 1<<20)
			if err == nil && int64(len(got)) != file.size {
				t.Fatalf("%q: %d bytes, want %d", file.path, len(got), file.size)
			}
		}
	})
}

// BenchmarkSources reads the same photos of 256×192 px from files, archives, shards and parquet
// files, in a random order, without and with decoding. It reports the images in a second of
// processor time.
func BenchmarkSources(b *testing.B) {
	b.Setenv("XDG_CACHE_HOME", b.TempDir())
	root := b.TempDir()
	files, shard := map[string][]byte{}, map[string][]byte{}
	var rows [][]byte
	size := 0
	for i := range 256 {
		m := photo(rand.New(rand.NewPCG(9, uint64(i))))
		data := encodedJPEG(b, m, 256, 192)
		files[fmt.Sprintf("train/%d/%03d.jpg", i%2, i)] = data
		shard[fmt.Sprintf("%03d.jpg", i)], shard[fmt.Sprintf("%03d.cls", i)] = data, []byte(fmt.Sprint(i%2))
		rows, size = append(rows, data), size+len(data)
	}
	for name, data := range files {
		path := filepath.Join(root, "files", filepath.FromSlash(name))
		if err := os.MkdirAll(filepath.Dir(path), 0o777); err != nil {
			b.Fatal(err)
		}
		writeFile(b, path, data)
	}
	sources := []string{"files", "x.tar", "x.tar.gz", "stored.zip", "deflated.zip", "shards", "plain.parquet", "snappy.parquet"}
	for name, data := range map[string][]byte{
		"x.tar": makeTar(files), "x.tar.gz": makeGzip(makeTar(files)), "stored.zip": zipOf(files, zip.Store), "deflated.zip": makeZip(files),
		"shards/train-0.tar": makeTar(shard), "plain.parquet": parquetOf(rows, 64, false), "snappy.parquet": parquetOf(rows, 64, true),
	} {
		path := filepath.Join(root, filepath.FromSlash(name))
		if err := os.MkdirAll(filepath.Dir(path), 0o777); err != nil {
			b.Fatal(err)
		}
		writeFile(b, path, data)
	}
	b.Logf("%d images of %d bytes on average", len(rows), size/len(rows))
	order := rand.New(rand.NewPCG(0, 0)).Perm(len(rows))
	for _, name := range sources {
		d, err := Open(b.Context(), filepath.Join(root, name), OpenOptions{ValFraction: -1, TestFraction: -1})
		if err != nil {
			b.Fatal(err)
		}
		for _, work := range []struct {
			name string
			do   func(Sample) error
		}{
			{"read", func(s Sample) error { _, err := s.source().encoded(); return err }},
			{"decode", func(s Sample) error { _, _, err := s.read(); return err }},
		} {
			b.Run(name+"/"+work.name, func(b *testing.B) {
				b.ReportAllocs()
				images, began := 0, cputime.Used(b)
				for b.Loop() {
					if err := work.do(d.Train[order[images%len(order)]]); err != nil {
						b.Fatal(err)
					}
					images++
				}
				b.ReportMetric(float64(images)/(cputime.Used(b)-began).Seconds(), "images/cpu-s")
			})
		}
	}
}

// encodedJPEG returns an image as a JPEG file of another size.
func encodedJPEG(b *testing.B, m *RGB, width, height int) []byte {
	b.Helper()
	m, err := resizeBicubic(m, width, height)
	if err != nil {
		b.Fatal(err)
	}
	r := image.NewRGBA(image.Rect(0, 0, width, height))
	for i := range width * height {
		copy(r.Pix[4*i:], m.Pix[3*i:3*i+3])
		r.Pix[4*i+3] = 255
	}
	var data bytes.Buffer
	if err := jpeg.Encode(&data, r, &jpeg.Options{Quality: 85}); err != nil {
		b.Fatal(err)
	}
	return data.Bytes()
}
