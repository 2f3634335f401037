package dataset

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sptune/spt/progress"
)

// similar returns a folder of photos, each with a copy of the same bytes, a nearly equal copy, and
// a flat image.
func similar(t *testing.T, photos int) tree {
	t.Helper()
	ppm := func(m *RGB) string { return fmt.Sprintf("P6 %d %d 255\n", m.Width, m.Height) + string(m.Pix) }
	files := tree{}
	for i := range photos {
		m := resized(t, photo(rand.New(rand.NewPCG(8, uint64(i)))), 0.5)
		class := []string{"cat", "dog"}[i%2]
		files[fmt.Sprintf("%s/%d.ppm", class, i)] = ppm(m)
		files[fmt.Sprintf("%s/%d-copy.ppm", class, i)] = ppm(m)
		files[fmt.Sprintf("%s/%d-jpeg.ppm", class, i)] = ppm(recompressed(t, m, 60))
		files[fmt.Sprintf("%s/%d-flat.ppm", class, i)] = fmt.Sprintf("P6 2 2 255\n%s", strings.Repeat(string(rune('a'+i)), 12))
	}
	return files
}

// TestHashCache checks that an image is decoded once for GroupDuplicates, unless its file changes,
// and that the groups do not depend on the cache.
func TestHashCache(t *testing.T) {
	cache := t.TempDir()
	t.Setenv("XDG_CACHE_HOME", cache)
	root := similar(t, 6).write(t)
	old := time.Now().Add(-time.Hour)
	age := func() {
		t.Helper()
		for _, path := range mustGlob(t, filepath.Join(root, "*", "*.ppm")) {
			if err := os.Chtimes(path, old, old); err != nil {
				t.Fatal(err)
			}
		}
	}
	// open returns the groups of the images, and the numbers of images that were decoded.
	open := func(path string) (groups map[string]string, hashed, compared int64) {
		t.Helper()
		d, err := Open(t.Context(), path, OpenOptions{GroupDuplicates: true, Progress: func(e progress.Event) {
			switch e.Stage {
			case progress.Hashes:
				hashed = e.Done
			case progress.Compare:
				compared = e.Done
			}
		}})
		if err != nil {
			t.Fatal(err)
		}
		if d.Options.Progress != nil {
			t.Error("the data set keeps the function for progress")
		}
		groups = map[string]string{}
		for _, s := range slices.Concat(d.Train, d.Val, d.Test) {
			groups[d.NameOf(s)] = s.Group
		}
		return groups, hashed, compared
	}
	// The files are new, so a change could leave their times as they are.
	for range 2 {
		if _, hashed, _ := open(root); hashed != 24 {
			t.Errorf("%d images of new files decoded, want 24", hashed)
		}
	}
	age()
	want, hashed, similar := open(root)
	if hashed != 24 || similar != 0 { // the pairs are known already
		t.Errorf("%d images hashed and %d compared, want 24 and 0", hashed, similar)
	}
	if want["cat/0.ppm"] != "duplicates of cat/0-copy.ppm" || want["cat/0-jpeg.ppm"] != want["cat/0.ppm"] || want["cat/0-flat.ppm"] != "" {
		t.Errorf("groups %v", want)
	}
	if got, hashed, similar := open(root); hashed != 0 || similar != 0 || !maps.Equal(got, want) {
		t.Errorf("%d images hashed, %d compared, groups %v, want none and %v", hashed, similar, got, want)
	}

	// A changed file, and a file with another time, are read again.
	writeFile(t, filepath.Join(root, "cat", "0.ppm"), []byte("P6 1 1 255\nabc"))
	if err := os.Chtimes(filepath.Join(root, "dog", "1.ppm"), old, old.Add(time.Second)); err != nil {
		t.Fatal(err)
	}
	got, hashed, _ := open(root)
	if hashed != 2 || got["cat/0.ppm"] != "" || got["dog/1.ppm"] != want["dog/1.ppm"] {
		t.Errorf("%d images hashed, groups %v; want 2, and a changed image in no group", hashed, got)
	}

	// Another root has another file. A damaged file has no effect, and is written again.
	other := similarArchive(t, root)
	inside, hashed, _ := open(other)
	if hashed != 24 || inside["dog/1.ppm"] != want["dog/1.ppm"] {
		t.Errorf("%d images of the archive hashed, groups %v", hashed, inside)
	}
	if err := os.Chtimes(other, old, old); err != nil {
		t.Fatal(err)
	}
	open(other)
	if again, hashed, similar := open(other); hashed != 0 || similar != 0 || !maps.Equal(again, inside) {
		t.Errorf("%d images of the archive hashed, %d compared, groups %v, want none and %v", hashed, similar, again, inside)
	}
	age()
	open(root)
	files := mustGlob(t, filepath.Join(cache, "spt", "hashes", "*"))
	if len(files) != 2 {
		t.Fatalf("files in the cache: %v, want 2", files)
	}
	for _, path := range files {
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		data[len(data)/2] ^= 1
		writeFile(t, path, data)
	}
	if again, hashed, similar := open(root); hashed != 24 || similar == 0 || !maps.Equal(again, got) {
		t.Errorf("with a damaged file: %d images hashed, %d compared, groups %v, want 24 and %v", hashed, similar, again, got)
	}
	if _, hashed, _ := open(root); hashed != 0 {
		t.Errorf("%d images hashed after a damaged file, want 0", hashed)
	}
}

func mustGlob(t *testing.T, pattern string) []string {
	t.Helper()
	found, err := filepath.Glob(pattern)
	if err != nil {
		t.Fatal(err)
	}
	return found
}

// similarArchive packs the files below root into a tar archive.
func similarArchive(t *testing.T, root string) string {
	t.Helper()
	packed := map[string][]byte{}
	for _, path := range mustGlob(t, filepath.Join(root, "*", "*.ppm")) {
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		packed[relative(root, path)] = data
	}
	path := filepath.Join(t.TempDir(), "similar.tar")
	writeFile(t, path, makeTar(packed))
	return path
}

// TestNoHashCache checks that a folder that cannot be written does not stop Open.
func TestNoHashCache(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	writeFile(t, file, nil)
	t.Setenv("XDG_CACHE_HOME", file)
	d, err := Open(t.Context(), similar(t, 4).write(t), OpenOptions{GroupDuplicates: true})
	if err != nil {
		t.Fatal(err)
	}
	if !slices.ContainsFunc(d.Notes, func(n string) bool {
		return strings.HasPrefix(n, "keeping the hashes of the images in the cache: ")
	}) {
		t.Errorf("notes %q", d.Notes)
	}
}

// FuzzHashes checks that no content of a file of hashes makes its reader fail or allocate more than
// the content, and that a valid file is read as it was written.
func FuzzHashes(f *testing.F) {
	images := map[string]imageHash{"a/1.png": {fileState{5, 6}, 7, [32]byte{1}}, "ü": {fileState{1 << 40, -3}, 0, [32]byte{2}}}
	pairs := map[imagePair]bool{{1, 2}: true, {3, 1 << 63}: false}
	valid := encodeHashes(images, pairs)
	if i, p, err := decodeHashes(valid); err != nil || !maps.Equal(i, images) || !maps.Equal(p, pairs) {
		f.Fatalf("read %v and %v, error %v", i, p, err)
	}
	f.Add(valid[len(hashesMagic) : len(valid)-32])
	f.Add([]byte{})
	f.Add(bytes.Repeat([]byte{255}, 100))
	f.Fuzz(func(t *testing.T, content []byte) {
		data := append([]byte(hashesMagic), content...)
		sum := sha256.Sum256(data)
		images, pairs, err := decodeHashes(append(data, sum[:]...))
		if err != nil {
			return
		}
		i, p, err := decodeHashes(encodeHashes(images, pairs))
		if err != nil || !maps.Equal(i, images) || !maps.Equal(p, pairs) {
			t.Errorf("read %v and %v, error %v, want %v and %v", i, p, err, images, pairs)
		}
		if _, _, err := decodeHashes(data); err == nil {
			t.Error("a file without checksum is accepted")
		}
	})
}
