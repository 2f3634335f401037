package dataset

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"image"
	"image/color"
	"image/png"
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/sptune/spt/internal/classfolders"
	"github.com/sptune/spt/progress"
)

// onePixel returns a PNG file with one pixel of the given level of grey.
func onePixel(t testing.TB, level uint8) string {
	t.Helper()
	m := image.NewGray(image.Rect(0, 0, 1, 1))
	m.SetGray(0, 0, color.Gray{level})
	var data bytes.Buffer
	if err := png.Encode(&data, m); err != nil {
		t.Fatal(err)
	}
	return data.String()
}

// tree describes a folder: it maps the paths of files to their contents. The content "@path" makes
// a link to path, and the content "image" makes an image of one pixel. A path that ends in / is an
// empty folder.
type tree map[string]string

// write creates the folder and returns its path. All images with the content "image" are different.
func (files tree) write(t testing.TB) string {
	t.Helper()
	root := t.TempDir()
	for i, name := range slices.Sorted(maps.Keys(files)) {
		full, content := filepath.Join(root, name), files[name]
		if strings.HasSuffix(name, "/") {
			if err := os.MkdirAll(full, 0o700); err != nil {
				t.Fatal(err)
			}
			continue
		}
		if err := os.MkdirAll(filepath.Dir(full), 0o700); err != nil {
			if !utf8.ValidString(name) || runtime.GOOS == "windows" {
				t.Skipf("the test needs a file system that allows any bytes in a name: %v", err)
			}
			t.Fatal(err)
		}
		if link, ok := strings.CutPrefix(content, "@"); ok {
			if err := os.Symlink(link, full); err != nil {
				t.Skipf("the test needs symbolic links: %v", err)
			}
			continue
		}
		if content == "image" {
			content = onePixel(t, uint8(i))
		}
		if err := os.WriteFile(full, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return root
}

// with returns a copy of the tree with some entries replaced. The content "-" deletes an entry.
func (files tree) with(changes tree) tree {
	out := maps.Clone(files)
	for name, content := range changes {
		if content == "-" {
			delete(out, name)
		} else {
			out[name] = content
		}
	}
	return out
}

var (
	vtabTree = tree{
		"train800.txt": "images/a.png 0\nimages/b.png 1\nimages/c d.png 1\n", "val200.txt": "images/e.png 1\n", "test.txt": "images/f.png 0\r\nimages/g.png 1",
		"images/a.png": "image", "images/b.png": "image", "images/c d.png": "image", "images/e.png": "image", "images/f.png": "image", "images/g.png": "image",
	}
	folderTree = tree{
		"train/cat/1.png": "image", "train/cat/sub/2.PNG": "image", "train/cat/.hidden.png": "image", "train/cat/notes.txt": "x", "train/dog/1.jpeg": "image",
		"valid/dog/2.png": "image", "test/cat/3.png": "image", "test/dog/3.png": "image", "train/.cache/x.png": "image",
	}
	fgvcTree = tree{
		"train.json": "{\"a/1.png\": 7,\n \"a/2.png\": 3, \"a/3.png\": 12}", "val.json": `{"b/1.png": 12}`, "test.json": `{"b/2.png": 3}`,
		"Images/a/1.png": "image", "Images/a/2.png": "image", "Images/a/3.png": "image", "Images/b/1.png": "image", "Images/b/2.png": "image",
	}
)

// describe returns the samples of a split as text "path=label@where; …". Paths are relative to
// root.
func describe(root string, samples []Sample) string {
	var all []string
	for _, s := range samples {
		p, err := filepath.Rel(root, s.Path)
		if err != nil {
			p = s.Path
		}
		all = append(all, fmt.Sprintf("%s=%d@%s", filepath.ToSlash(p), s.stratum(), s.Where))
	}
	return strings.Join(all, "; ")
}

func TestOpenLayouts(t *testing.T) {
	for _, c := range []struct {
		name                                     string
		files                                    tree
		layout, classes, train, val, test, split string
	}{
		{"vtab", vtabTree, "vtab", "0 1",
			"images/a.png=0@train800.txt:1; images/b.png=1@train800.txt:2; images/c d.png=1@train800.txt:3",
			"images/e.png=1@val200.txt:1", "images/f.png=0@test.txt:1; images/g.png=1@test.txt:2", "given"},
		{"vtab with names and a gap", vtabTree.with(tree{"classes.txt": "no\nyes\nmaybe\n"}), "vtab", "no yes maybe",
			"images/a.png=0@train800.txt:1; images/b.png=1@train800.txt:2; images/c d.png=1@train800.txt:3",
			"images/e.png=1@val200.txt:1", "images/f.png=0@test.txt:1; images/g.png=1@test.txt:2", "given"},
		{"imagefolder", folderTree, "imagefolder", "cat dog",
			"train/cat/1.png=0@train/cat; train/cat/sub/2.PNG=0@train/cat; train/dog/1.jpeg=1@train/dog",
			"valid/dog/2.png=1@valid/dog", "test/cat/3.png=0@test/cat; test/dog/3.png=1@test/dog", "given"},
		{"imagefolder with splits of other names", tree{"Training/cat/1.png": "image", "Training/dog/1.png": "image", "Testing/cat/1.png": "image", "Testing/dog/1.png": "image"}, "imagefolder", "cat dog",
			"Training/cat/1.png=0@Training/cat; Training/dog/1.png=1@Training/dog", "", "Testing/cat/1.png=0@Testing/cat; Testing/dog/1.png=1@Testing/dog", "val stratified by class 0.9/0.1 of train seed 0, test given"},
		{"lists with a byte-order mark", vtabTree.with(tree{"classes.txt": "\ufeffcat\ndog", "train800.txt": "\ufeff" + "images/a.png 0\nimages/b.png 1\n"}), "vtab", "cat dog",
			"images/a.png=0@train800.txt:1; images/b.png=1@train800.txt:2", "images/e.png=1@val200.txt:1", "images/f.png=0@test.txt:1; images/g.png=1@test.txt:2", "given"},
		{"imagefolder with a class called train", tree{"train/1.png": "image", "bus/1.png": "image", "bus/2.png": "image", "readme.md": ""}, "imagefolder", "bus train",
			"bus/1.png=0@bus; bus/2.png=0@bus; train/1.png=1@train", "", "", "stratified by class 0.8/0.1/0.1 seed 0"},
		{"imagefolder through a link", tree{"elsewhere/x/1.png": "image", "set/dog": "@../elsewhere/x", "set/cat/1.png": "@../../elsewhere/x/1.png"}, "imagefolder", "cat dog",
			"set/cat/1.png=0@cat; set/dog/1.png=1@dog", "", "", "stratified by class 0.8/0.1/0.1 seed 0"},
		{"torchvision's order", tree{"train/a/z.png": "image", "train/a/b/1.png": "image", "train/a/b-c/1.png": "image", "train/a/B/1.png": "image", "train/c/1.png": "image", "val/c/2.png": "image", "test/c/3.png": "image"}, "imagefolder", "a c",
			"train/a/z.png=0@train/a; train/a/B/1.png=0@train/a; train/a/b/1.png=0@train/a; train/a/b-c/1.png=0@train/a; train/c/1.png=1@train/c", "val/c/2.png=1@val/c", "test/c/3.png=1@test/c", "given"},
		{"fgvc", fgvcTree, "fgvc", "3 7 12",
			`Images/a/1.png=1@train.json: "a/1.png"; Images/a/2.png=0@train.json: "a/2.png"; Images/a/3.png=2@train.json: "a/3.png"`,
			`Images/b/1.png=2@val.json: "b/1.png"`, `Images/b/2.png=0@test.json: "b/2.png"`, "given"},
		{"fgvc without validation and image folder", tree{"train.json": `{"1.png": 5, "3.png": 6}`, "test.json": `{"2.png": 5}`, "1.png": "image", "2.png": "image", "3.png": "image"}, "fgvc", "5 6",
			`1.png=0@train.json: "1.png"; 3.png=1@train.json: "3.png"`, "", `2.png=0@test.json: "2.png"`, "val stratified by class 0.9/0.1 of train seed 0, test given"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if runtime.GOOS == "windows" && (c.name == "fgvc" || c.name == "torchvision's order") {
				t.Skip("needs a file system that distinguishes capital letters")
			}
			root := c.files.write(t)
			at := root
			if strings.Contains(c.name, "link") {
				at = filepath.Join(root, "set")
			}
			d, err := Open(t.Context(), at, OpenOptions{})
			if err != nil {
				t.Fatal(err)
			}
			for what, pair := range map[string][2]string{
				"layout": {d.Layout, c.layout}, "classes": {strings.Join(d.Classes, " "), c.classes}, "split": {d.Split, c.split}, "root": {d.Root, at},
				"train": {describe(root, d.Train), c.train}, "val": {describe(root, d.Val), c.val}, "test": {describe(root, d.Test), c.test},
			} {
				if pair[0] != pair[1] {
					t.Errorf("%s is\n%s\nwant\n%s", what, pair[0], pair[1])
				}
			}
			if got := describe(root, slices.Concat(d.Train, d.Val)); got != strings.TrimSuffix(c.train+"; "+c.val, "; ") {
				t.Errorf("train and val are %s", got)
			}
		})
	}
}

// TestOpenErrors checks that every error names the file and the line, key or folder.
func TestOpenErrors(t *testing.T) {
	for _, c := range []struct {
		name  string
		files tree
		o     OpenOptions
		want  []string
	}{
		{"empty folder", tree{}, OpenOptions{}, []string{"unknown layout", "train800.txt", "train.json", "parquet", "(imagefolder)"}},
		{"only files that are no images", tree{"a/1.heic": "x", "b/2.HEIC": "x", "b/notes.txt": ""}, OpenOptions{}, []string{"unknown layout", "found .heic .txt"}},
		{"a class of files that are no images", tree{"a/1.png": "image", "b/2.heic": "x"}, OpenOptions{}, []string{"class folder b has no images", "found .heic"}},
		{"images in split folders and no classes", tree{"train/1.png": "image", "test/2.png": "image", "train_labels.csv": "image,label\n"}, OpenOptions{},
			[]string{"train holds images but no class folders", filepath.Join("train", "<class>"), "if the table train_labels.csv lists the images"}},
		{"test images of no class", tree{"train/a/1.png": "image", "train/b/2.png": "image", "test/unknown/3.png": "image"}, OpenOptions{},
			[]string{`test/unknown: the training split has no class "unknown"`, "or give ", "train to take all splits from the training images"}},
		{"images only", tree{"1.png": "image"}, OpenOptions{}, []string{"unknown layout"}},
		{"images only, forced", tree{"1.png": "image"}, OpenOptions{Layout: "imagefolder"}, []string{"no class folders", "<class>"}},
		{"one class", tree{"pets/all/cat/1.png": "image", "pets/all/dog/1.png": "image"}, OpenOptions{}, []string{"there is one class, pets: ", "at least two classes", "if folder ", filepath.Join("pets", "all") + " holds the class folders, give"}},
		{"one class and a table", tree{"pics/1.png": "image", "labels.csv": "x"}, OpenOptions{}, []string{"there is one class, pics: ", "if the table labels.csv lists the images, give ", string(filepath.Separator) + "labels.csv"}},
		{"images and a table", tree{"1.png": "image", "Labels.TSV": "x"}, OpenOptions{}, []string{"unknown layout", "if the table Labels.TSV lists the images, give "}},
		{"class folder in Latin-1", tree{"caf\xe9/1.png": "image", "the/1.png": "image"}, OpenOptions{}, []string{`folder "caf\xe9": the class name "caf\xe9" is not UTF-8: rename the folder`}},
		{"classes.txt in Latin-1", vtabTree.with(tree{"classes.txt": "the\ncaf\xe9\n"}), OpenOptions{}, []string{`classes.txt:2: the class name "caf\xe9" is not UTF-8: save`}},
		{"list in UTF-16", vtabTree.with(tree{"classes.txt": "\xfe\xff\x00a"}), OpenOptions{}, []string{"classes.txt is in UTF-16: save it as UTF-8"}},
		{"two folders of a split", tree{"train/cat/1.png": "image", "Training/cat/1.png": "image"}, OpenOptions{}, []string{"found both Training and train", "training images"}},
		{"no such layout", vtabTree, OpenOptions{Layout: "coco"}, []string{`"coco"`, strings.Join(Layouts(), ", ")}},
		{"two layouts", vtabTree.with(tree{"train.json": "{}"}), OpenOptions{}, []string{"train800.txt", "(layout vtab)", "train.json (layout fgvc)", "option layout"}},
		{"folder of sets", tree{"pets/train800.txt": "x.png 0", "birds/train.json": "{}"}, OpenOptions{}, []string{"folder of data sets", "birds"}},
		{"fractions", vtabTree, OpenOptions{ValFraction: 0.5, TestFraction: 0.5}, []string{"0.5", "below 1"}},

		{"missing image", vtabTree.with(tree{"images/b.png": "-"}), OpenOptions{}, []string{"train800.txt:2", filepath.Join("images", "b.png"), "does not exist", "1 listed image cannot be used"}},
		{"image is a folder", vtabTree.with(tree{"images/b.png": "-", "images/b.png/x": "y"}), OpenOptions{}, []string{"train800.txt:2", "not a regular file"}},
		{"no label", vtabTree.with(tree{"val200.txt": "images/e.png\n"}), OpenOptions{}, []string{"val200.txt:1", "want an image path, a space and a label"}},
		{"label a word", vtabTree.with(tree{"train800.txt": "images/a.png 0\n\nimages/b.png cat\n"}), OpenOptions{}, []string{"train800.txt:3", `"cat" is not an integer`}},
		{"label a fraction", vtabTree.with(tree{"test.txt": "images/f.png 1.0"}), OpenOptions{}, []string{"test.txt:1", `"1.0" is not an integer`}},
		{"label negative", vtabTree.with(tree{"test.txt": "images/f.png -1"}), OpenOptions{}, []string{"test.txt:1", "negative"}},
		{"label beyond classes.txt", vtabTree.with(tree{"classes.txt": "only"}), OpenOptions{}, []string{"train800.txt:2", "label 1 is out of range", "1 classes"}},
		{"label absurd", vtabTree.with(tree{"test.txt": "images/f.png 2000000000"}), OpenOptions{}, []string{"test.txt:1", "limit of 99999"}},
		{"empty list", vtabTree.with(tree{"val200.txt": "\n"}), OpenOptions{}, []string{"val200.txt lists no images"}},
		{"classes.txt empty", vtabTree.with(tree{"classes.txt": "\n"}), OpenOptions{}, []string{"classes.txt names no classes"}},
		{"classes.txt twice", vtabTree.with(tree{"classes.txt": "a\nb\na\n"}), OpenOptions{}, []string{"classes.txt:3", `"a" is already on line 1`}},
		{"classes.txt gap", vtabTree.with(tree{"classes.txt": "a\n\nb\n"}), OpenOptions{}, []string{"classes.txt:2", "line is empty"}},
		{"listed twice", vtabTree.with(tree{"train800.txt": "images/a.png 0\nimages/b.png 1\n./images/x/../a.png 1\n"}), OpenOptions{}, []string{"train800.txt:3", "twice in the train split", "train800.txt:1", "a.png"}},
		{"two splits", vtabTree.with(tree{"test.txt": "images/f.png 0\nimages/b.png 1\n"}), OpenOptions{}, []string{"test.txt:2", "train800.txt:2", "b.png", "one split only"}},
		{"class not trained", vtabTree.with(tree{"test.txt": "images/f.png 2\n"}), OpenOptions{}, []string{"test.txt:1", "class 2", "no training image"}},
		{"dots leave", vtabTree.with(tree{"train800.txt": "images/a.png 0\n../../etc/x.png 0\n"}), OpenOptions{}, []string{"train800.txt:2", `"../../etc/x.png" leaves`}},
		{"absolute path", vtabTree.with(tree{"train800.txt": "/etc/x.png 0\n"}), OpenOptions{}, []string{"train800.txt:1", "leaves"}},
		{"empty path", vtabTree.with(tree{"train800.txt": " 0\n"}), OpenOptions{}, []string{"train800.txt:1", "path is empty"}},
		{"val without train", vtabTree.with(tree{"train800.txt": "-", "train800val200.txt": "images/a.png 0"}), OpenOptions{}, []string{"val200.txt but not train800.txt"}},

		{"empty class", folderTree.with(tree{"train/fox/": ""}), OpenOptions{}, []string{"train/fox", "no images"}},
		{"class of notes", folderTree.with(tree{"train/fox/a.txt": "x"}), OpenOptions{}, []string{"train/fox", "no images"}},
		{"class not in train", folderTree.with(tree{"valid/fox/1.png": "image"}), OpenOptions{}, []string{"valid/fox", `no class "fox"`}},
		{"two validation folders", folderTree.with(tree{"val/dog/9.png": "image"}), OpenOptions{}, []string{"both val and valid"}},
		{"link loop", folderTree.with(tree{"train/cat/again": "@../cat"}), OpenOptions{}, []string{"again", "leads back to"}},
		{"link to itself", folderTree.with(tree{"train/cat/me": "@me"}), OpenOptions{}, []string{"following the link", "me"}},
		{"dead link", folderTree.with(tree{"train/cat/1.png": "@gone.png"}), OpenOptions{}, []string{"train/cat", "1.png", "does not exist"}},

		{"json cut", fgvcTree.with(tree{"train.json": "{\"a/1.png\": 7,\n"}), OpenOptions{}, []string{"train.json:1", "unexpected EOF"}},
		{"json list", fgvcTree.with(tree{"val.json": "[1]"}), OpenOptions{}, []string{"val.json:1", "want an object"}},
		{"json tail", fgvcTree.with(tree{"val.json": "{\"b/1.png\": 12}\n{}"}), OpenOptions{}, []string{"val.json:2", "more text follows"}},
		{"json comma", fgvcTree.with(tree{"val.json": "{\"b/1.png\": 12 \"b/2.png\": 3}"}), OpenOptions{}, []string{"val.json:1"}},
		{"json word", fgvcTree.with(tree{"val.json": `{"b/1.png": "12"}`}), OpenOptions{}, []string{`val.json: "b/1.png"`, "want a class id"}},
		{"json nested", fgvcTree.with(tree{"val.json": `{"b/1.png": [12]}`}), OpenOptions{}, []string{`val.json: "b/1.png"`, "want a class id"}},
		{"json fraction", fgvcTree.with(tree{"val.json": `{"b/1.png": 1.5}`}), OpenOptions{}, []string{`val.json: "b/1.png"`, "1.5 is not an integer"}},
		{"json negative", fgvcTree.with(tree{"val.json": `{"b/1.png": -1}`}), OpenOptions{}, []string{`val.json: "b/1.png"`, "negative"}},
		{"json in Latin-1", fgvcTree.with(tree{"train.json": "{\"a/\xe9.png\": 7,\n\"a/\xea.png\": 3}"}), OpenOptions{}, []string{"train.json:1: the text is not UTF-8"}},
		{"json key twice", fgvcTree.with(tree{"train.json": "{\"a/1.png\": 7,\n\"a/1.png\": 3}"}), OpenOptions{}, []string{`train.json: "a/1.png"`, "twice", "line 2"}},
		{"json same file twice", fgvcTree.with(tree{"train.json": `{"a/1.png": 7, "a//1.png": 12, "a/2.png": 3}`}), OpenOptions{}, []string{`train.json: "a//1.png"`, "twice", `train.json: "a/1.png"`}},
		{"json empty", fgvcTree.with(tree{"test.json": "{}"}), OpenOptions{}, []string{"test.json lists no images"}},
		{"json dots", fgvcTree.with(tree{"test.json": `{"../x.png": 3}`}), OpenOptions{}, []string{`test.json: "../x.png"`, "leaves"}},
		{"json unknown class", fgvcTree.with(tree{"test.json": `{"b/2.png": 4}`}), OpenOptions{}, []string{`test.json: "b/2.png"`, "class 4"}},
		{"json no images", tree{"train.json": `{"a/1.png": 7}`}, OpenOptions{}, []string{"no image of train.json exists", "a/1.png", "images/, Images/"}},
		{"json missing image", fgvcTree.with(tree{"Images/b/2.png": "-"}), OpenOptions{}, []string{`test.json: "b/2.png"`, "does not exist"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			if runtime.GOOS == "windows" && c.name == "class folder in Latin-1" {
				t.Skip("needs a file system that allows any bytes in a name")
			}
			root := c.files.write(t)
			_, err := Open(t.Context(), root, c.o)
			if err == nil {
				t.Fatal("no error")
			}
			for _, w := range append(c.want, "opening data set "+root) {
				if !strings.Contains(err.Error(), w) {
					t.Errorf("the message lacks %q:\n%v", w, err)
				}
			}
		})
	}
	// If many images are missing, the error names the first ten.
	many := tree{"train800.txt": "", "val200.txt": "v.png 0", "test.txt": "t.png 0"}
	for i := range 14 {
		many["train800.txt"] += fmt.Sprintf("images/%d.png 0\n", i)
	}
	_, err := Open(t.Context(), many.write(t), OpenOptions{})
	if err == nil || !strings.Contains(err.Error(), "16 listed images") || !strings.Contains(err.Error(), "train800.txt:10:") ||
		strings.Contains(err.Error(), "train800.txt:11:") || !strings.Contains(err.Error(), "and 6 more") {
		t.Errorf("many missing images: %v", err)
	}
	for _, p := range []string{filepath.Join(t.TempDir(), "none"), "open_test.go"} {
		if _, err := Open(t.Context(), p, OpenOptions{}); err == nil || !strings.Contains(err.Error(), p) {
			t.Errorf("opening %s: error %v does not name it", p, err)
		}
	}
}

func TestSkipBadImages(t *testing.T) {
	files := vtabTree.with(tree{"images/b.png": "-", "images/g.png": "not an image"})
	root := files.write(t)
	d, err := Open(t.Context(), root, OpenOptions{SkipBadImages: true})
	if err != nil {
		t.Fatal(err)
	}
	if got := describe(root, d.Train); got != "images/a.png=0@train800.txt:1; images/c d.png=1@train800.txt:3" {
		t.Errorf("train is %s", got)
	}
	if len(d.Skipped) != 1 || d.Skipped[0].Where != "train800.txt:2" || d.Skipped[0].Split != "train" || d.Skipped[0].Err == nil {
		t.Errorf("skipped %+v, want the missing image only", d.Skipped)
	}
	var calls []int
	cache := NewCache(0)
	err = d.CheckImages(context.Background(), CheckOptions{
		Cache: cache, Transform: Transform{Size: 8},
		Progress: func(e progress.Event) { calls = append(calls, int(10*e.Done+e.Total)) },
	})
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(calls, []int{15, 25, 35, 45, 55}) {
		t.Errorf("progress calls %v", calls)
	}
	if len(cache.images) != 4 {
		t.Errorf("%d images in the cache, want the 4 good ones", len(cache.images))
	}
	if got := describe(root, d.Test); got != "images/f.png=0@test.txt:1" {
		t.Errorf("test is %s", got)
	}
	if len(d.Skipped) != 2 || d.Skipped[1].Where != "test.txt:2" || d.Skipped[1].Split != "test" || !strings.Contains(d.Skipped[1].Err.Error(), "g.png") {
		t.Errorf("skipped %+v", d.Skipped)
	}

	// Without SkipBadImages, the same image is an error, and the splits do not change.
	strict, err := Open(t.Context(), vtabTree.with(tree{"images/g.png": "not an image"}).write(t), OpenOptions{})
	if err != nil {
		t.Fatal(err)
	}
	err = strict.CheckImages(context.Background(), CheckOptions{})
	if err == nil || !strings.Contains(err.Error(), "1 image of data set ") || !strings.Contains(err.Error(), "test.txt:2") || !strings.Contains(err.Error(), "g.png") || len(strict.Test) != 2 {
		t.Errorf("error %v with %d test images", err, len(strict.Test))
	}
	var bad *ImageError
	if !errors.As(err, &bad) || filepath.Base(bad.Path) != "g.png" {
		t.Errorf("error %v is no ImageError of g.png but %+v", err, bad)
	}

	// It is an error if a class loses its only training image.
	last, err := Open(t.Context(), vtabTree.with(tree{"images/a.png": "not an image"}).write(t), OpenOptions{SkipBadImages: true})
	if err != nil {
		t.Fatal(err)
	}
	err = last.CheckImages(context.Background(), CheckOptions{})
	if err == nil || !strings.Contains(err.Error(), "class 0 (0) of the test split has no training image") || len(last.Train) != 3 || last.Skipped != nil {
		t.Errorf("error %v with %d training images", err, len(last.Train))
	}

	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := strict.CheckImages(ctx, CheckOptions{}); err == nil || !strings.Contains(err.Error(), "context canceled") {
		t.Errorf("cancelled check: error %v, want context canceled", err)
	}
}

// TestSkipAll checks that the error names the skipped images if too few images are left.
func TestSkipAll(t *testing.T) {
	skip := OpenOptions{SkipBadImages: true}
	for _, c := range []struct {
		files tree
		want  []string
	}{
		{vtabTree.with(tree{"images/a.png": "-", "images/b.png": "-", "images/c d.png": "-"}), []string{"there are no training images after skipping 3 bad images", "train800.txt:1: image ", "train800.txt:3: image "}},
		{vtabTree.with(tree{"images/a.png": "-"}), []string{"class 0 (0) of the test split has no training image after skipping 1 bad image", "train800.txt:1: image "}},
	} {
		_, err := Open(t.Context(), c.files.write(t), skip)
		if err == nil {
			t.Fatal("no error")
		}
		for _, w := range c.want {
			if !strings.Contains(err.Error(), w) {
				t.Errorf("the message lacks %q:\n%v", w, err)
			}
		}
	}
	d, err := Open(t.Context(), tree{"cat/1.png": "no image", "dog/1.png": "nor this"}.write(t), skip)
	if err != nil {
		t.Fatal(err)
	}
	if err := d.CheckImages(t.Context(), CheckOptions{}); err == nil || !strings.Contains(err.Error(), "there are no training images after skipping 2 broken images: cat: decoding image ") {
		t.Errorf("unexpected error %v", err)
	}
}

// TestIgnored checks the counts of the files that the layout imagefolder does not read.
func TestIgnored(t *testing.T) {
	d, err := Open(t.Context(), folderTree.with(tree{
		"train/cat/a.HEIC": "x", "train/cat/deep/b.heic": "x", "test/dog/README": "x", "train/dog/jpeg.JFIF": "image", "train/dog/Thumbs.db": "x", "train/dog/desktop.ini": "x", "train/dog/.DS_Store": "x",
		"0.png": "image", "readme.md": "x", "train/0.png": "image", "test/0.png": "image", "train/.0.png": "image",
	}).write(t), OpenOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if fmt.Sprint(d.Ignored) != "map[:1 .heic:2 .txt:1]" || d.Stray != 3 || len(d.Train) != 4 {
		t.Errorf("ignored %v, stray %d, %d training images", d.Ignored, d.Stray, len(d.Train))
	}
	if d, err = Open(t.Context(), tree{"cat/1.png": "image", "dog/1.png": "image", "2.png": "image"}.write(t), OpenOptions{}); err != nil || len(d.Ignored) != 0 || d.Stray != 1 {
		t.Errorf("unexpected data set %+v, error %v", d, err)
	}
}

func TestVerify(t *testing.T) {
	same := onePixel(t, 77)
	d, err := Open(t.Context(), vtabTree.with(tree{"images/a.png": same, "images/f.png": same, "images/b.png": onePixel(t, 200), "images/c d.png": onePixel(t, 200)}).write(t), OpenOptions{})
	if err != nil {
		t.Fatal(err)
	}
	v, err := d.Verify(context.Background(), 0, nil)
	if err != nil {
		t.Fatal(err)
	}
	if v.Images != 6 || v.Bytes < 300 || len(v.Duplicates) != 2 {
		t.Fatalf("%d images, %d bytes, duplicates %+v", v.Images, v.Bytes, v.Duplicates)
	}
	first := v.SHA256
	leak, twin := v.Duplicates[0], v.Duplicates[1]
	if !leak.Leaks || !leak.LeaksIntoTest || !leak.SameBytes || leak.Conflicts || leak.Copies[0].Split != "train" || leak.Copies[1].Split != "test" || leak.Copies[1].Sample.Where != "test.txt:1" {
		t.Errorf("leak %+v", leak)
	}
	if twin.Leaks || twin.LeaksIntoTest || twin.Conflicts || twin.Copies[1].Sample.Where != "train800.txt:3" {
		t.Errorf("twin %+v", twin)
	}

	flat := []uint8{1, 1, 1, 1, 1, 1}
	memory, err := New("m", []string{"a", "b"}, []Sample{{Image: &RGB{2, 1, flat}, Target: Class(0)}, {Image: &RGB{1, 2, flat}, Target: Class(1)}, {Image: &RGB{2, 1, slices.Clone(flat)}, Target: Class(1)}}, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	v, err = memory.Verify(context.Background(), 0, nil)
	if err != nil || len(v.Duplicates) != 1 || !v.Duplicates[0].Conflicts || v.Duplicates[0].Leaks {
		t.Errorf("in memory: %+v, %v; want one conflict: the images of 2×1, not the one of 1×2", v, err)
	}

	if err := os.Remove(d.Train[1].Path); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(d.Val[0].Path, []byte("\x89PNG\r\n\x1a\nno more"), 0o600); err != nil {
		t.Fatal(err)
	}
	// The same pixel in another format: a GIF of one grey pixel.
	if err := os.WriteFile(d.Test[1].Path, []byte("GIF87a\x01\x00\x01\x00\x80\x00\x00\xc8\xc8\xc8\x00\x00\x00,\x00\x00\x00\x00\x01\x00\x01\x00\x00\x02\x02D\x01\x00;"), 0o600); err != nil {
		t.Fatal(err)
	}
	var done []int
	again, err := d.Verify(context.Background(), 0, func(e progress.Event) { done = append(done, int(10*e.Done+e.Total)) })
	if err != nil || len(again.Unreadable) != 2 || again.Unreadable[0].Where != "train800.txt:2" || again.Unreadable[0].Split != "train" || again.Unreadable[1].Where != "val200.txt:1" {
		t.Errorf("unreadable %+v, error %v; want the vanished and the broken image", again.Unreadable, err)
	}
	if len(again.Duplicates) != 2 || again.Duplicates[1].SameBytes || !again.Duplicates[1].LeaksIntoTest || again.Duplicates[1].Copies[1].Sample.Where != "test.txt:2" {
		t.Errorf("duplicates %+v; want the GIF to have the pixels of the PNG", again.Duplicates)
	}
	if !slices.Equal(done, []int{16, 26, 36, 46, 56, 66}) || again.SHA256 == first || len(again.SHA256) != 64 {
		t.Errorf("progress %v, identity %s", done, again.SHA256)
	}
	if c := again.Splits[0]; c.Name != "train" || c.Images != 3 || !slices.Equal(c.Classes, []int{1, 2}) || again.Splits[2].Images != 2 || again.Smallest != [2]int{1, 1} {
		t.Errorf("unexpected verification %+v", again)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := d.Verify(ctx, 0, nil); err == nil || !strings.Contains(err.Error(), "context canceled") {
		t.Errorf("cancelled: error %v, want context canceled", err)
	}
}

func TestNew(t *testing.T) {
	m := func() Sample { return Sample{Image: newRGB(2, 2), Target: Class(0)} }
	shared := m()
	labelled := m()
	labelled.Target = Class(1)
	for _, c := range []struct {
		name             string
		train, val, test []Sample
		want             string
	}{
		{"good", []Sample{m(), labelled}, []Sample{m()}, []Sample{m()}, ""},
		{"no training images", nil, nil, []Sample{m()}, "no training images"},
		{"label", []Sample{m(), {Image: newRGB(1, 1), Target: Class(2)}}, nil, nil, "train[1]: label 2 is out of range"},
		{"negative label", []Sample{m()}, []Sample{{Image: newRGB(1, 1), Target: Class(-1)}}, nil, "val[0]: label -1"},
		{"no image", []Sample{m(), {}}, nil, nil, "train[1] has neither"},
		{"no target", []Sample{m(), {Image: newRGB(1, 1)}}, nil, nil, "train[1]: there is no target"},
		{"malformed", []Sample{{Image: &RGB{Width: 2, Height: 2}}}, nil, nil, "needs 12 bytes"},
		{"twice", []Sample{shared}, nil, []Sample{shared}, "one split only"},
		{"untrained", []Sample{m()}, nil, []Sample{labelled}, "class 1 (b) of the test split has no training image"},
	} {
		d, err := New("demo", []string{"a", "b"}, c.train, c.val, c.test)
		if c.want == "" {
			if err != nil || d.Layout != "memory" || d.Split != "given" || d.Train[1].Where != "train[1]" || c.train[1].Where != "" {
				t.Errorf("%s: unexpected data set %+v, error %v", c.name, d, err)
			}
		} else if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: error %v, want one with %q", c.name, err, c.want)
		}
	}
}

func FuzzParseList(f *testing.F) {
	for _, s := range []string{"images/a.png 0\n", "a b c 12\r\n\r\nx 3", "../x 0", "/x 0", "x -1", "x 99999999999999999999", " 5", "x 1 ", "\xff\x00 1\n"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		samples, err := parseList(t.Context(), "list.txt", []byte(text), maxLabel+1)
		if err != nil {
			if !strings.HasPrefix(err.Error(), "list.txt") {
				t.Errorf("the error does not name the list: %v", err)
			}
			return
		}
		checkParsed(t, samples)
		// A list that is written from the samples gives the same samples.
		var again strings.Builder
		for _, s := range samples {
			fmt.Fprintf(&again, "%s %d\n", s.Path, s.stratum())
		}
		back, err := parseList(t.Context(), "list.txt", []byte(again.String()), maxLabel+1)
		if err != nil || len(back) != len(samples) {
			t.Fatalf("%d samples became %d: %v", len(samples), len(back), err)
		}
		for i, s := range samples {
			if back[i].Path != s.Path || back[i].stratum() != s.stratum() {
				t.Errorf("sample %d was %+v, is %+v", i, s, back[i])
			}
		}
	})
}

func FuzzParseJSONList(f *testing.F) {
	for _, s := range []string{`{"a.png": 0}`, "{\n\"a\": 1, \"b/c\": 2}\n", `{"a": 1, "a": 2}`, `{"a": 1.5}`, `{"a": {}}`, `{"a": [`, `[]`, `{"../a": 0}`, `{"": 0}`, `{"a": 1} x`, `{"a": 1e3}`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		samples, err := parseJSONList(t.Context(), "train.json", text)
		if err != nil {
			if !strings.HasPrefix(err.Error(), "train.json") {
				t.Errorf("the error does not name the list: %v", err)
			}
			return
		}
		checkParsed(t, samples)
	})
}

// checkParsed checks properties that the samples of every accepted list must have.
func checkParsed(t *testing.T, samples []Sample) {
	t.Helper()
	if len(samples) == 0 {
		t.Error("an empty list was accepted")
	}
	for _, s := range samples {
		if s.Target != nil && s.stratum() < 0 || s.Where == "" || !filepath.IsLocal(filepath.FromSlash(s.Path)) {
			t.Errorf("accepted %+v", s)
		}
	}
}

// TestTrainable checks that a data set with one class can be opened but is not trainable.
func TestTrainable(t *testing.T) {
	for name, c := range map[string]struct {
		files tree
		class string
	}{
		"below train": {tree{"train/cat/1.png": "image"}, "cat"},
		"fgvc":        {tree{"train.json": `{"1.png": 5}`, "1.png": "image"}, "5"},
		"table":       {tree{"train.csv": "path,label\na.png,cat\n", "a.png": "image", "classes.txt": "dog\ncat\n"}, "cat"},
		"two":         {tree{"train/cat/1.png": "image", "train/dog/1.png": "image"}, ""},
	} {
		d, err := Open(t.Context(), c.files.write(t), OpenOptions{})
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if err := d.Trainable(); (err == nil) != (c.class == "") || err != nil && !strings.Contains(err.Error(), "there is one class, "+c.class+": ") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// BenchmarkOpenFolders opens data sets of up to a million images in up to 20,000 class folders. The
// images are links to small files, and the page cache holds their folders. heap-B/image is the
// memory that the opened data set keeps.
func BenchmarkOpenFolders(b *testing.B) {
	for _, size := range []struct{ images, classes int }{{1000, 20}, {10_000, 200}, {100_000, 2000}, {1_000_000, 20_000}} {
		b.Run(fmt.Sprintf("%d images, %d classes", size.images, size.classes), func(b *testing.B) {
			root, err := classfolders.Make(b.Context(), b.TempDir(), size.images, size.classes)
			if err != nil {
				b.Fatal(err)
			}
			var before, after runtime.MemStats
			runtime.GC()
			runtime.ReadMemStats(&before)
			var d *Dataset
			for b.Loop() {
				if d, err = Open(b.Context(), root, OpenOptions{}); err != nil {
					b.Fatal(err)
				}
			}
			runtime.GC()
			runtime.ReadMemStats(&after)
			b.ReportMetric(float64(int64(after.HeapAlloc)-int64(before.HeapAlloc))/float64(size.images), "heap-B/image")
			b.ReportMetric(b.Elapsed().Seconds()/float64(b.N)/float64(size.images)*1e6, "µs/image")
			runtime.KeepAlive(d)
		})
	}
}
