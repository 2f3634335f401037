package dataset

import (
	"fmt"
	"io/fs"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
)

// touch makes files in dir.
func touch(t *testing.T, dir string, names ...string) {
	t.Helper()
	for _, name := range names {
		path := filepath.Join(dir, filepath.FromSlash(name))
		if err := os.MkdirAll(filepath.Dir(path), 0o777); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, nil, 0o666); err != nil {
			t.Fatal(err)
		}
	}
}

func TestFindImages(t *testing.T) {
	dir := t.TempDir()
	touch(t, dir, "b.png", "a/c.JPG", "a/x.HEIC", "y.avif", "a/notes.txt", "b.txt", "README", ".hidden.heic", ".git/z.heic", "Thumbs.db", "clip.mp4")
	found, err := FindImages(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	at := func(name string) string { return filepath.Join(dir, filepath.FromSlash(name)) }
	want := FoundImages{
		Images:      []Sample{{Path: at("b.png")}, {Path: at("a/c.JPG")}},
		Unsupported: []UnsupportedImage{{at("a/x.HEIC"), "HEIC"}, {at("y.avif"), "AVIF"}},
		Ignored:     map[string]int{".txt": 2, "": 1, ".mp4": 1},
	}
	if !reflect.DeepEqual(found, want) {
		t.Errorf("found %+v, want %+v", found, want)
	}

	one, err := FindImages(t.Context(), at("a/x.HEIC"))
	if err != nil || !reflect.DeepEqual(one.Images, []Sample{{Path: at("a/x.HEIC")}}) || one.Unsupported != nil {
		t.Errorf("a file: found %+v, error %v", one, err)
	}

	none := t.TempDir()
	touch(t, none, "x.heic", "y.txt")
	found, err = FindImages(t.Context(), none)
	if err == nil || len(found.Unsupported) != 1 || found.Ignored[".txt"] != 1 {
		t.Errorf("a folder without images: found %+v, error %v", found, err)
	}
	if err := os.Symlink(none, filepath.Join(none, "loop")); err == nil {
		if _, err := FindImages(t.Context(), none); err == nil || !strings.Contains(err.Error(), "leads back") {
			t.Errorf("a loop: error %v", err)
		}
	}
}

// TestManyLinks checks that folders are not visited again and again through links: each of 40
// folders has two links to the next one, so 2⁴⁰ paths lead to the last. It checks too that a few
// links to a folder are allowed, and that the depth is limited.
func TestManyLinks(t *testing.T) {
	root := tree{"0/a": "@../1", "0/b": "@../1", "1/x.png": "image"}.write(t)
	if found, err := ImageFiles(t.Context(), root); err != nil || len(found) != 3 {
		t.Errorf("two links: %d images, error %v, want 3", len(found), err)
	}
	doubling := tree{"40/x.png": "image"}
	for i := range 40 {
		doubling[fmt.Sprintf("%d/a", i)] = fmt.Sprintf("@../%d", i+1)
		doubling[fmt.Sprintf("%d/b", i)] = fmt.Sprintf("@../%d", i+1)
	}
	root = doubling.write(t)
	scanner := newFolderScanner(disk{}, nil)
	_, err := scanner.scan(t.Context(), filepath.Join(root, "0"))
	visits := 0
	for _, n := range scanner.visits {
		visits += n
	}
	if err == nil || !strings.Contains(err.Error(), "8 other paths lead already") || visits > 2*41*maxFolderVisits {
		t.Errorf("links to links: %d visits, error %v", visits, err)
	}
	if _, err := Open(t.Context(), root, OpenOptions{}); err == nil || !strings.Contains(err.Error(), "8 other paths lead already") {
		t.Errorf("opening links to links: error %v", err)
	}
	deep := tree{strings.Repeat("d/", 90) + "x.png": "image"}.write(t)
	if found, err := ImageFiles(t.Context(), deep); err != nil || len(found) != 1 {
		t.Errorf("90 folders: %d images, error %v", len(found), err)
	}
	deep = tree{strings.Repeat("d/", 500) + "x.png": "image"}.write(t)
	if _, err := ImageFiles(t.Context(), deep); err == nil || !strings.Contains(err.Error(), "lies in 100 other folders") {
		t.Errorf("500 folders: error %v", err)
	}
}

func TestTableImages(t *testing.T) {
	for name, c := range map[string]struct {
		file, text, column string
		want               []string // below the folder of the table
		errors             []string // parts of the error
	}{
		"csv":          {"t.csv", "id,file_name\n1,a.png\n2,sub/b.png\n", "", []string{"a.png", "sub/b.png"}, nil},
		"with labels":  {"t.csv", "label,image\ncat,a.png\n", "", []string{"a.png"}, nil},
		"a mark":       {"t.csv", "\ufeffimage\na.png\n", "", []string{"a.png"}, nil},
		"semicolons":   {"t.CSV", "image;n\na,b.png;1\n", "", []string{"a,b.png"}, nil},
		"tsv":          {"t.tsv", "path\tn\na.png\t\"1\n", "", []string{"a.png"}, nil},
		"jsonl":        {"t.jsonl", "{\"image\": \"a.png\", \"n\": 1}\n\n{\"image\": \"b.png\"}\n", "", []string{"a.png", "b.png"}, nil},
		"column":       {"t.csv", "image,photo\na.png,b.png\n", "photo", []string{"b.png"}, nil},
		"backslashes":  {"t.csv", "image\nsub\\b.png\n", "", []string{"sub/b.png"}, nil},
		"no column":    {"t.csv", "photo,n\na.png,1\n", "", nil, []string{"t.csv", "file_name", `"photo"`}},
		"other column": {"t.csv", "image\na.png\n", "photo", nil, []string{"looked for photo", `"image"`}},
		"empty":        {"t.csv", "", "", nil, []string{"t.csv is empty"}},
		"header only":  {"t.csv", "image\n", "", nil, []string{"lists no images"}},
		"outside":      {"t.csv", "image\na.png\n../b.png\n", "", nil, []string{"t.csv:3", "leaves the folder"}},
		"uneven rows":  {"t.csv", "image,n\na.png\n", "", nil, []string{"t.csv:2", "the row has 1 cells, want 2"}},
		"no object":    {"t.jsonl", "{\"image\": \"a.png\"}\n[1]\n", "", nil, []string{"t.jsonl:2"}},
		"missing key":  {"t.jsonl", "{\"image\": \"a.png\"}\n{\"x\": 1}\n", "", nil, []string{"t.jsonl:2", "missing"}},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			path := filepath.Join(dir, c.file)
			if err := os.WriteFile(path, []byte(c.text), 0o666); err != nil {
				t.Fatal(err)
			}
			got, err := TableImages(t.Context(), path, c.column)
			var want []string
			for _, name := range c.want {
				want = append(want, filepath.Join(dir, filepath.FromSlash(name)))
			}
			if (err != nil) != (c.errors != nil) || !reflect.DeepEqual(got, want) {
				t.Fatalf("found %q, error %v, want %q", got, err, want)
			}
			for _, part := range c.errors {
				if !strings.Contains(err.Error(), part) {
					t.Errorf("error %q does not say %q", err, part)
				}
			}
		})
	}
}

// TestScanManyFolders compares the images of many nested folders, which several goroutines read,
// with those of filepath.WalkDir, in the order of torchvision: folders sorted by path, then files.
func TestScanManyFolders(t *testing.T) {
	files := tree{}
	rng := rand.New(rand.NewPCG(1, 2))
	for range 600 {
		name := ""
		for range 1 + rng.IntN(4) {
			name += fmt.Sprintf("%d-%c/", rng.IntN(6), "aA.é"[rng.IntN(3)])
		}
		files[name+fmt.Sprintf("%d.png", rng.IntN(50))] = "image"
		files[name+".hidden"] = "x"
	}
	root := files.write(t)
	byFolder, hidden := map[string][]string{}, 0
	err := filepath.WalkDir(root, func(path string, e fs.DirEntry, err error) error {
		switch {
		case err == nil && e.Name() == ".hidden":
			hidden++
		case err == nil && !e.IsDir():
			byFolder[filepath.Dir(path)] = append(byFolder[filepath.Dir(path)], path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	var want []string
	for _, folder := range slices.Sorted(maps.Keys(byFolder)) {
		want = append(want, slices.Sorted(slices.Values(byFolder[folder]))...)
	}
	counts := map[string]int{}
	f, err := scanFolder(t.Context(), disk{}, root, counts)
	if err != nil || !slices.Equal(f.all(), want) || f.total != len(want) || f.links != 0 || counts[".hidden"] != hidden {
		t.Errorf("found %d images, %d links, %d hidden files, error %v, want %d images in the order of WalkDir, %d hidden files", len(f.all()), f.links, counts[".hidden"], err, len(want), hidden)
	}
	for path, want := range map[string]string{"": "a.png", ".": "a.png", "./": "a.png", "x/": "x/a.png", "x//y": "x/y/a.png", "/": "/a.png"} {
		if got := joinPaths(path, []string{"a.png", "b.png"}); !slices.Equal(got, []string{want, strings.Replace(want, "a.png", "b.png", 1)}) {
			t.Errorf("paths %q below %q, want %q first", got, path, want)
		}
	}
}

// TestDeadLink checks that a link to a missing image is an error, although the folder lists it.
func TestDeadLink(t *testing.T) {
	root := tree{"a/1.png": "image", "a/2.png": "@nowhere.png", "b/1.png": "image"}.write(t)
	if _, err := Open(t.Context(), root, OpenOptions{}); err == nil || !strings.Contains(err.Error(), "2.png does not exist") {
		t.Errorf("error %v, want one about the missing image", err)
	}
	d, err := Open(t.Context(), root, OpenOptions{SkipBadImages: true, ValFraction: -1, TestFraction: -1})
	if err != nil || len(d.Skipped) != 1 || len(d.Train) != 2 {
		t.Errorf("%d images, %d skipped (%v)", len(d.Train), len(d.Skipped), err)
	}
}
