package dataset

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// shardSet returns a folder with shards that hold the given files. The text "image" stands for an
// image.
func shardSet(t *testing.T, shards map[string]map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, files := range shards {
		packed := map[string][]byte{}
		for file, text := range files {
			if packed[file] = []byte(text); text == "image" {
				packed[file] = squareImage(t)
			}
		}
		path := filepath.Join(dir, filepath.FromSlash(name))
		if err := os.MkdirAll(filepath.Dir(path), 0o777); err != nil {
			t.Fatal(err)
		}
		switch filepath.Ext(name) {
		case ".txt":
			writeFile(t, path, packed[""])
		case ".gz":
			writeFile(t, path, makeGzip(makeTar(packed)))
		default:
			writeFile(t, path, makeTar(packed))
		}
	}
	return dir
}

// TestWebDataset opens shards and compares the samples with the expected ones, which are written as
// the path of the image and the name of its class.
func TestWebDataset(t *testing.T) {
	t.Setenv("XDG_CACHE_HOME", t.TempDir())
	type shards = map[string]map[string]string
	two := map[string]string{"1.jpg": "image", "1.cls": "1", "0.jpg": "image", "0.cls": "0\n", "2.jpg": "image", "2.cls": "1"}
	none := OpenOptions{ValFraction: -1, TestFraction: -1}
	for _, c := range []struct {
		name   string
		shards shards
		open   string // below the folder
		o      OpenOptions
		want   []string // the training images
		others [2]int   // numbers of the validation and test images
		notes  string   // a part of the notes
	}{
		{name: "numbers", shards: shards{"x-0.tar": two}, o: none, want: []string{"x-0.tar/0.jpg 0", "x-0.tar/1.jpg 1", "x-0.tar/2.jpg 1"}},
		{name: "one shard", shards: shards{"x-0.tar": two}, open: "x-0.tar", o: none, want: []string{"x-0.tar/0.jpg 0", "x-0.tar/1.jpg 1", "x-0.tar/2.jpg 1"}},
		{name: "class names beside the shards", shards: shards{"x.tar": two, "classnames.txt": {"": "cat\ndog\n"}}, o: none, want: []string{"x.tar/0.jpg cat", "x.tar/1.jpg dog", "x.tar/2.jpg dog"}},
		{name: "class names in the shard", shards: shards{"x.tar": {"classnames.txt": "cat\ndog\n", "a.png": "image", "a.cls": "1", "b.png": "image", "b.cls": "0"}}, open: "x.tar", o: none,
			want: []string{"x.tar/b.png cat", "x.tar/a.png dog"}},
		{name: "splits by name", shards: shards{"train-0.tar": two, "val-0.tar": two, "test-0.tar": two, "test-1.tar": two, "extra-0.tar": two},
			want: []string{"train-0.tar/0.jpg 0", "train-0.tar/1.jpg 1", "train-0.tar/2.jpg 1"}, others: [2]int{3, 6}},
		{name: "split folders", shards: shards{"train/0.tar": two, "test/0.tar": two}, o: none, want: []string{"train/0.tar/0.jpg 0", "train/0.tar/1.jpg 1", "train/0.tar/2.jpg 1"}, others: [2]int{0, 3}},
		{name: "pattern", shards: shards{"x-8.tar": {"c.webp": "image", "c.cls": "5"}, "x-9.tar": two, "x-10.tar": two}, open: "x-{8..9}.tar", o: none,
			want: []string{"x-9.tar/0.jpg 0", "x-9.tar/1.jpg 1", "x-9.tar/2.jpg 1", "x-8.tar/c.webp 5"}},
		{name: "pattern of splits", shards: shards{"train-00.tar": two, "train-01.tar": {"9.jpg": "image", "9.cls": "0"}, "val-00.tar": two, "val-01.tar": two}, open: "{train,val}-{00..01}.tar", o: none,
			want: []string{"train-00.tar/0.jpg 0", "train-01.tar/9.jpg 0", "train-00.tar/1.jpg 1", "train-00.tar/2.jpg 1"}, others: [2]int{6, 0}},
		{name: "compressed", shards: shards{"x-0.tar.gz": two}, open: "x-{0..0}.tar.gz", o: none, want: []string{"x-0.tar.gz/0.jpg 0", "x-0.tar.gz/1.jpg 1", "x-0.tar.gz/2.jpg 1"}},
		{name: "json", shards: shards{"x.tar": {"a.jpg": "image", "a.json": `{"id": 3, "label": "dog"}`, "b.jpg": "image", "b.json": `{"label": "cat"}`}}, o: none, want: []string{"x.tar/b.jpg cat", "x.tar/a.jpg dog"}},
		{name: "class in json", shards: shards{"x.tar": {"a.jpg": "image", "a.json": `{"__class__": "dog"}`, "b.jpg": "image", "b.json": `{"__class__": "cat"}`}}, o: none, want: []string{"x.tar/b.jpg cat", "x.tar/a.jpg dog"}},
		{name: "text", shards: shards{"x.tar": {"a.JPG": "image", "a.txt": " dog\n", "b.jpg": "image", "b.txt": "cat"}}, o: none, want: []string{"x.tar/b.jpg cat", "x.tar/a.JPG dog"}},
		{name: "cls before json and txt", shards: shards{"x.tar": {"a.jpg": "image", "a.txt": "a dog in the snow", "a.cls": "1", "a.json": `{"label": 7}`, "b.jpg": "image", "b.cls": "0"}}, o: none, want: []string{"x.tar/b.jpg 0", "x.tar/a.jpg 1"}},
		{name: "named fields", shards: shards{"x.tar": {"a.left.jpg": "image", "a.right.jpg": "image", "a.json": `{"kind": "u"}`, "b.right.jpg": "image", "b.json": `{"kind": "v"}`}},
			o: OpenOptions{Layout: "webdataset", ImageColumn: "right.jpg", LabelColumn: "kind", ValFraction: -1, TestFraction: -1}, want: []string{"x.tar/a.right.jpg u", "x.tar/b.right.jpg v"}},
		{name: "folders in shards", shards: shards{"x.tar": {"n/1.png": "image", "n/1.cls": "0", "m/1.png": "image", "m/1.cls": "1", "n/._1.png": "x"}}, o: none, want: []string{"x.tar/n/1.png 0", "x.tar/m/1.png 1"}},
		{name: "sample without an image", shards: shards{"x.tar": {"a.png": "image", "a.cls": "0", "b.png": "image", "b.cls": "1", "c.txt": "x"}}, o: none, want: []string{"x.tar/a.png 0", "x.tar/b.png 1"}, notes: "without an image are not read: 1"},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := shardSet(t, c.shards)
			d, err := Open(t.Context(), filepath.Join(dir, c.open), c.o)
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, s := range d.Train {
				got = append(got, relative(dir, s.Path)+" "+d.TargetName(s.Target))
			}
			if d.Layout != "webdataset" || !slices.Equal(got, c.want) || c.others != [2]int{len(d.Val), len(d.Test)} {
				t.Errorf("layout %s, %q, %d val and %d test images; want %q, %v", d.Layout, got, len(d.Val), len(d.Test), c.want, c.others)
			}
			if notes := strings.Join(d.Notes, "\n"); c.notes == "" && notes != "" || !strings.Contains(notes, c.notes) {
				t.Errorf("notes %q, want %q", notes, c.notes)
			}
			if err := d.CheckImages(t.Context(), CheckOptions{}); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestWebDatasetErrors(t *testing.T) {
	type shards = map[string]map[string]string
	image := map[string]string{"a.jpg": "image", "a.cls": "0", "b.jpg": "image", "b.cls": "1"}
	for _, c := range []struct {
		name   string
		shards shards
		open   string
		o      OpenOptions
		want   []string
	}{
		{"no label", shards{"x.tar": {"a.jpg": "image", "a.cls": "0", "b.jpg": "image"}}, "x.tar", OpenOptions{}, []string{"x.tar:b", "it has no label", ".cls"}},
		{"empty label", shards{"x.tar": {"a.jpg": "image", "a.cls": "0", "b.jpg": "image", "b.cls": " \n"}}, "x.tar", OpenOptions{}, []string{"x.tar:b", "label is empty"}},
		{"two images", shards{"x.tar": {"a.jpg": "image", "a.png": "image", "a.cls": "0"}}, "x.tar", OpenOptions{}, []string{"x.tar", `"a" has two images, a.jpg and a.png`, "image column"}},
		{"broken json", shards{"x.tar": {"a.jpg": "image", "a.json": "{"}}, "x.tar", OpenOptions{}, []string{"x.tar:a", ".json", "reading JSON"}},
		{"list of labels", shards{"x.tar": {"a.jpg": "image", "a.json": `{"label": [1, 2]}`}}, "x.tar", OpenOptions{}, []string{"x.tar:a", `"label"`, "want a string or a number"}},
		{"class out of range", shards{"x.tar": image, "classnames.txt": {"": "one\n"}}, "", OpenOptions{}, []string{"x.tar:b", "label 1 is out of range"}},
		{"missing shard", shards{"x-0.tar": image}, "x-{0..2}.tar", OpenOptions{}, []string{"x-1.tar"}},
		{"open brace", shards{"x-0.tar": image}, "x-{0..2.tar", OpenOptions{}, []string{"{ without }"}},
		{"bad range", shards{"x-0.tar": image}, "x-{5..2}.tar", OpenOptions{}, []string{"{5..2} is not a range"}},
		{"huge range", shards{"x-0.tar": image}, "x-{0..99999}{0..99999}.tar", OpenOptions{}, []string{"more than 100000 files"}},
		{"not shards", shards{"x-0.tar": image}, "x-{0..2}.csv", OpenOptions{}, []string{"x-0.csv, which is not a shard"}},
		{"another layout", shards{"x-0.tar": image}, "x-{0..0}.tar", OpenOptions{Layout: "table"}, []string{"webdataset"}},
		{"no training shards", shards{"val-0.tar": image}, "", OpenOptions{}, []string{"no shard of training images"}},
		{"archives of class folders", shards{"train.tar": {"cat/1.jpg": "image", "dog/2.jpg": "image"}}, "", OpenOptions{}, []string{"unknown layout", "if the archive train.tar holds the images, give"}},
		{"huge label", shards{"x.tar": {"a.jpg": "image", "a.cls": strings.Repeat("1", 2<<20)}}, "x.tar", OpenOptions{}, []string{"x.tar:a", "more than the limit of 1048576 bytes"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := Open(t.Context(), filepath.Join(shardSet(t, c.shards), c.open), c.o)
			if err == nil {
				t.Fatal("no error")
			}
			for _, want := range c.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("the error lacks %q:\n%v", want, err)
				}
			}
		})
	}
}

// TestExpandBraces compares with the paths that bash expands.
func TestExpandBraces(t *testing.T) {
	for pattern, want := range map[string]string{
		"x-{008..010}.tar":    "[x-008.tar x-009.tar x-010.tar]",
		"x-{8..10}.tar":       "[x-8.tar x-9.tar x-10.tar]",
		"{a,b}/x-{0..1}.tgz":  "[a/x-0.tgz a/x-1.tgz b/x-0.tgz b/x-1.tgz]",
		"x{,-more}.tar":       "[x.tar x-more.tar]",
		"x-{0..0}{5..6}.tar":  "[x-05.tar x-06.tar]",
		"x-{000000..00}2.tar": "[x-0000002.tar]",
	} {
		if got, err := expandBraces(pattern); err != nil || fmt.Sprint(got) != want {
			t.Errorf("%s: %v, %v, want %s", pattern, got, err, want)
		}
	}
}
