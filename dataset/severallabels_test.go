package dataset

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// labelTexts returns the labels of samples, such as "b.png: cat dog; c.png:".
func labelTexts(d *Dataset, samples []Sample) string {
	var out []string
	for _, s := range samples {
		text := filepath.Base(s.Path) + ":"
		for _, class := range s.Target.(Labels) {
			text += " " + d.Classes[class]
		}
		out = append(out, text)
	}
	return strings.Join(out, "; ")
}

// TestSeveralLabels checks tables whose images have any number of labels.
func TestSeveralLabels(t *testing.T) {
	const jsonLists = `{"image": "sub/a.png", "tags": ["dog", "cat"]}
{"image": "sub/b.png", "tags": []}
{"image": "sub/c.png", "tags": ["cat"]}`
	for _, c := range []struct {
		name    string
		files   tree
		open    string
		o       OpenOptions
		classes string
		want    string // training images
		test    string
		notes   []string
	}{
		{"delimiter", pictures(tree{"x.csv": "path,label\nsub/a.png,dog|cat\nsub/b.png,\nsub/c.png, cat \n"}), "x.csv", OpenOptions{LabelDelimiter: "|"}, "cat dog", "a.png: cat dog; b.png:; c.png: cat", "", nil},
		{"a comma in quotes", pictures(tree{"x.csv": "path,label\nsub/a.png,\"dog, cat\"\nsub/b.png,dog\n"}), "x.csv", OpenOptions{LabelDelimiter: ","}, "cat dog", "a.png: cat dog; b.png: dog", "", nil},
		{"spaces", pictures(tree{"x.tsv": "path\ttags\nsub/a.png\thaze  primary\nsub/b.png\tclear\n"}), "x.tsv", OpenOptions{LabelDelimiter: " ", LabelColumn: "tags"}, "clear haze primary", "a.png: haze primary; b.png: clear", "", nil},
		{"one label each", pictures(tree{"x.csv": "path,label\nsub/a.png,dog\nsub/b.png,cat\n"}), "x.csv", OpenOptions{LabelDelimiter: ";"}, "cat dog", "a.png: dog; b.png: cat", "", nil},
		{"ids with names", pictures(tree{"x.csv": "path,label\nsub/a.png,2 0\nsub/b.png,1\n", "classes.txt": "ant\nbee\ncow"}), "x.csv", OpenOptions{LabelDelimiter: " "}, "ant bee cow", "a.png: ant cow; b.png: bee", "", nil},
		{"test images without labels", pictures(tree{"train.csv": "path,label\nsub/a.png,dog|cat\nsub/b.png,cat\n", "test.csv": "path,label\nsub/c.png,\n"}), "", OpenOptions{LabelDelimiter: "|"}, "cat dog", "a.png: cat dog; b.png: cat", "", []string{"test.csv has no test labels"}},
		{"lists in JSON", pictures(tree{"x.jsonl": jsonLists}), "x.jsonl", OpenOptions{LabelColumn: "tags"}, "cat dog", "a.png: cat dog; b.png:; c.png: cat", "", nil},
		{"lists of numbers", pictures(tree{"train.jsonl": "{\"image\": \"sub/a.png\", \"labels\": [10, 9.0]}\n{\"image\": \"sub/b.png\", \"labels\": [9]}", "test.jsonl": "{\"image\": \"sub/c.png\", \"labels\": [10]}"}), "", OpenOptions{}, "9 10", "a.png: 9 10; b.png: 9", "c.png: 10", nil},
		{"class columns", pictures(tree{"x.csv": "image,dog,cat\nsub/a.png,1,1\nsub/b.png,0,0\nsub/c.png,0,1\n"}), "x.csv", OpenOptions{}, "dog cat", "a.png: dog cat; b.png:; c.png: cat", "", nil},
		{"class columns by name", pictures(tree{"x.csv": "image,note,cat,dog,x\nsub/a.png,fine,1,0,7\nsub/b.png,,0,1.0,8\n"}), "x.csv", OpenOptions{LabelColumns: []string{"dog", "cat"}}, "dog cat", "a.png: cat; b.png: dog", "", nil},
		{"one class column", pictures(tree{"x.csv": "image,label,flag\nsub/a.png,q,true\nsub/b.png,q,false\n"}), "x.csv", OpenOptions{LabelColumns: []string{"flag"}}, "flag", "a.png: flag; b.png:", "", nil},
		{"Roboflow", tree{"train/_classes.csv": "filename, daisy, rose\n1.jpg, 1, 1\n2.jpg, 0, 0\n", "test/_classes.csv": "filename, rose, daisy\n1.jpg, 1, 0\n", "train/1.jpg": "image", "train/2.jpg": "image", "test/1.jpg": "image"}, "", OpenOptions{}, "daisy rose", "1.jpg: daisy rose; 2.jpg:", "1.jpg: rose", nil},
		{"a label of test images alone", pictures(tree{"train.csv": "image,a,b,c\nsub/a.png,1,1,0\nsub/b.png,0,1,0\n", "test.csv": "image,a,b,c\nsub/c.png,0,0,1\n"}), "", OpenOptions{}, "a b c", "a.png: a b; b.png: b", "c.png: c", []string{`labels without a training image, which cannot be learned: "c"`}},
	} {
		t.Run(c.name, func(t *testing.T) {
			root := c.files.write(t)
			c.o.ValFraction, c.o.TestFraction = -1, -1
			d, err := Open(t.Context(), filepath.Join(root, c.open), c.o)
			if err != nil {
				t.Fatal(err)
			}
			if got := strings.Join(d.Classes, " "); got != c.classes {
				t.Errorf("classes %q, want %q", got, c.classes)
			}
			if got := labelTexts(d, d.Train); got != c.want {
				t.Errorf("train is %q, want %q", got, c.want)
			}
			if got := labelTexts(d, d.Test); got != c.test {
				t.Errorf("test is %q, want %q", got, c.test)
			}
			if len(d.Notes) != len(c.notes) || len(c.notes) > 0 && !strings.Contains(d.Notes[0], c.notes[0]) {
				t.Errorf("notes %q, want parts %q", d.Notes, c.notes)
			}
		})
	}
}

// TestSeveralLabelsErrors checks that an error names the file, the row, the column, and what was
// found and expected.
func TestSeveralLabelsErrors(t *testing.T) {
	for _, c := range []struct {
		name, file, text string
		o                OpenOptions
		want             []string
	}{
		{"nothing beside a delimiter", "x.csv", "path,label\nsub/a.png,cat|dog\nsub/b.png,cat||dog\n", OpenOptions{LabelDelimiter: "|"}, []string{"x.csv:3", `"label"`, `found "cat||dog"`, "want labels such as"}},
		{"a label twice", "x.csv", "path,label\nsub/a.png,cat|cat\n", OpenOptions{LabelDelimiter: "|"}, []string{"x.csv:2", `"label"`, `"cat" is listed twice`}},
		{"a short row", "x.csv", "path,a,b\nsub/a.png,1,1\nsub/b.png,1\n", OpenOptions{}, []string{"x.csv:3", "2 cells, want 3"}},
		{"an empty class cell", "x.csv", "path,a,b\nsub/a.png,1,1\nsub/b.png,1,\n", OpenOptions{}, []string{"x.csv:3", `class column "b"`, "the cell is empty", "expected 0 or 1"}},
		{"an empty named class cell", "x.csv", "path,a,b\nsub/a.png,,1\n", OpenOptions{LabelColumns: []string{"a", "b"}}, []string{"x.csv:2", `class column "a"`, "the cell is empty", "expected 0 or 1"}},
		{"a word in a class cell", "x.csv", "path,a,b\nsub/a.png,1,yes\n", OpenOptions{LabelColumns: []string{"a", "b"}}, []string{"x.csv:2", `class column "b"`, `found "yes"`, "expected 0 or 1"}},
		{"an unknown class column", "x.csv", "path,a,b\nsub/a.png,1,1\n", OpenOptions{LabelColumns: []string{"a", "c"}}, []string{"x.csv:1", "looked for c", `"a"`}},
		{"the path as class column", "x.csv", "path,a\nsub/a.png,1\n", OpenOptions{LabelColumns: []string{"path"}}, []string{"x.csv:1", "is the column of images and of labels"}},
		{"a null", "x.jsonl", "{\"path\": \"sub/a.png\", \"label\": [\"a\", \"b\"]}\n{\"path\": \"sub/b.png\", \"label\": null}", OpenOptions{}, []string{"x.jsonl:2", `"label"`, "found null"}},
		{"a missing key", "x.jsonl", "{\"path\": \"sub/a.png\", \"label\": [\"a\", \"b\"]}\n{\"path\": \"sub/b.png\"}", OpenOptions{}, []string{"x.jsonl:2", `"label"`, "the key is missing"}},
		{"a text among lists", "x.jsonl", "{\"path\": \"sub/a.png\", \"label\": [\"a\", \"b\"]}\n{\"path\": \"sub/b.png\", \"label\": \"a\"}", OpenOptions{}, []string{"x.jsonl:2", `"label"`, `found the text "a"`, "want a list"}},
		{"a list among texts", "x.jsonl", "{\"path\": \"sub/a.png\", \"label\": \"a\"}\n{\"path\": \"sub/b.png\", \"label\": [\"a\"]}", OpenOptions{}, []string{"x.jsonl:2", `"label"`, "found [a], want one label"}},
		{"a list in a list", "x.jsonl", "{\"path\": \"sub/a.png\", \"label\": [\"a\", [\"b\"]]}", OpenOptions{}, []string{"x.jsonl:1", `"label"`, "label 2 of the list", `found ["b"]`}},
		{"an empty label in a list", "x.jsonl", "{\"path\": \"sub/a.png\", \"label\": [\"a\", \" \"]}", OpenOptions{}, []string{"x.jsonl:1", "label 2 of the list", "the label is empty"}},
		{"no label at all", "x.csv", "path,label\nsub/a.png,\nsub/b.png,\n", OpenOptions{LabelDelimiter: "|"}, []string{"no image has a label"}},
		{"a delimiter and columns", "x.csv", "path,a,b\nsub/a.png,1,1\n", OpenOptions{LabelColumns: []string{"a"}, LabelDelimiter: "|"}, []string{"contradict"}},
		{"a column twice", "x.csv", "path,a,b\nsub/a.png,1,1\n", OpenOptions{LabelColumns: []string{"a", "a"}}, []string{`"a" is named twice`}},
		{"an unknown label", "x.csv", "path,label,split\nsub/a.png,a|b,train\nsub/b.png,a|c,test\n", OpenOptions{LabelDelimiter: "|"}, []string{"x.csv:3", `no class "c"`}},
	} {
		t.Run(c.name, func(t *testing.T) {
			c.o.ValFraction, c.o.TestFraction = -1, -1
			_, err := Open(t.Context(), filepath.Join(pictures(tree{c.file: c.text}).write(t), c.file), c.o)
			if err == nil {
				t.Fatal("no error")
			}
			for _, want := range c.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("error %q, want %q in it", err, want)
				}
			}
		})
	}
	root := tree{"cat/a.png": "image", "dog/a.png": "image"}.write(t)
	for _, o := range []OpenOptions{{LabelDelimiter: "|"}, {LabelColumns: []string{"a"}}} {
		if _, err := Open(t.Context(), root, o); err == nil || !strings.Contains(err.Error(), "the layout imagefolder has no") {
			t.Errorf("%+v: error %v", o, err)
		}
	}
}

// TestClassCellsOfLaterTables checks that a table with one label in each row is not followed by one
// with several.
func TestClassCellsOfLaterTables(t *testing.T) {
	root := pictures(tree{"train.csv": "path,a,b\nsub/a.png,1,0\nsub/b.png,0,1\n", "test.csv": "path,a,b\nsub/c.png,1,1\n"}).write(t)
	if _, err := Open(t.Context(), root, OpenOptions{}); err == nil || !strings.Contains(err.Error(), `test.csv:2: the class columns "a" and "b" are both 1`) {
		t.Errorf("error %v", err)
	}
	d, err := Open(t.Context(), root, OpenOptions{LabelColumns: []string{"a", "b"}, ValFraction: -1})
	if err != nil {
		t.Fatal(err)
	}
	if got := labelTexts(d, d.Test); got != "c.png: a b" {
		t.Errorf("test is %q", got)
	}
}

// TestJoinedLabels checks the note about a class name that is a list of others.
func TestJoinedLabels(t *testing.T) {
	if note := joinedLabels([]string{"cat", "cat|dog", "dog"}); !strings.Contains(note, `"cat|dog" looks like a list`) {
		t.Errorf("note %q", note)
	}
	if note := joinedLabels([]string{"cat", "cat|fish", "dog", "a,b"}); note != "" {
		t.Errorf("note %q", note)
	}
}

// TestAbsolutePaths checks a table that lies anywhere and lists absolute paths. A table in a folder
// may not leave the folder.
func TestAbsolutePaths(t *testing.T) {
	images, elsewhere := pictures(tree{}).write(t), tree{}.write(t)
	at := func(name string) string { return filepath.ToSlash(filepath.Join(images, "sub", name)) }
	table := []byte(fmt.Sprintf("path,label\n%s,q\n%s,r\n", at("a.png"), at("b.png")))
	for _, folder := range []string{images, elsewhere} {
		for _, name := range []string{"list.csv", "train.csv"} {
			if err := os.WriteFile(filepath.Join(folder, name), table, 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	for _, c := range []struct {
		path, root, wrong string
	}{
		{filepath.Join(elsewhere, "list.csv"), "", ""},
		{images, "", ""},
		{elsewhere, images, ""},
		{elsewhere, filepath.Dir(images), ""},
		{elsewhere, "", "train.csv:2: image path"},
		{elsewhere, filepath.Join(images, "other"), "is absolute and leaves the folder"},
	} {
		d, err := Open(t.Context(), c.path, OpenOptions{Layout: "table", ImageRoot: c.root, ValFraction: -1, TestFraction: -1})
		switch {
		case c.wrong != "":
			if err == nil || !strings.Contains(err.Error(), c.wrong) {
				t.Errorf("%s with root %q: error %v, want %q", c.path, c.root, err, c.wrong)
			}
		case err != nil:
			t.Errorf("%s with root %q: %v", c.path, c.root, err)
		case d.Train[1].Path != filepath.FromSlash(at("b.png")):
			t.Errorf("%s with root %q: read %s", c.path, c.root, d.Train[1].Path)
		}
	}
	list := []byte(at("a.png") + " 0\n" + at("b.png") + " 1\n")
	if err := os.WriteFile(filepath.Join(elsewhere, "train800.txt"), list, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(t.Context(), elsewhere, OpenOptions{Layout: "vtab"}); err == nil || !strings.Contains(err.Error(), "leaves the folder") {
		t.Errorf("an absolute path in another layout: error %v", err)
	}
}

// TestParquetLists compares lists of labels with those that pyarrow reads.
func TestParquetLists(t *testing.T) {
	data, err := os.ReadFile("testdata/parquet/labels/expected.json")
	if err != nil {
		t.Fatal(err)
	}
	var expected map[string][][]string
	if err := json.Unmarshal(data, &expected); err != nil {
		t.Fatal(err)
	}
	open := func(name string) (*Dataset, error) {
		return Open(t.Context(), filepath.Join("testdata", "parquet", "labels", name+".parquet"), OpenOptions{ValFraction: -1, TestFraction: -1})
	}
	for name, rows := range expected {
		if name == "null" {
			continue
		}
		d, err := open(name)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		for i, s := range d.Train {
			var got []string
			for _, class := range s.Target.(Labels) {
				got = append(got, d.Classes[class])
			}
			want := slices.Sorted(slices.Values(rows[i]))
			if !slices.Equal(slices.Sorted(slices.Values(got)), want) {
				t.Errorf("%s, row %d: labels %q, pyarrow reads %q", name, i, got, want)
			}
		}
		if len(d.Train) != len(rows) {
			t.Errorf("%s: %d rows, pyarrow reads %d", name, len(d.Train), len(rows))
		}
	}
	for name, want := range map[string]string{"null": "null.parquet row 5: column labels has no label", "missing": "row 0: label 2 of the list is missing", "nested": "column labels holds lists of lists of strings"} {
		if _, err := open(name); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: error %v, want %q", name, err, want)
		}
	}
	if _, err := Open(t.Context(), "testdata/parquet/labels/hub.parquet", OpenOptions{LabelDelimiter: "|"}); err == nil || !strings.Contains(err.Error(), "holds lists of labels") {
		t.Errorf("a delimiter with lists: error %v", err)
	}
}

// TestHostileLists changes each byte of a file with lists. The reader must return an error or
// labels, and must not panic.
func TestHostileLists(t *testing.T) {
	for _, name := range []string{"v2", "int32"} {
		whole, err := os.ReadFile("testdata/parquet/labels/" + name + ".parquet")
		if err != nil {
			t.Fatal(err)
		}
		rng := rand.New(rand.NewPCG(1, 2))
		for range 400 {
			at := rng.IntN(len(whole))
			for _, v := range []byte{0, 0xff, byte(rng.IntN(256))} {
				data := bytes.Clone(whole)
				data[at] = v
				p, err := memoryParquet(data, minImageBytes, 1000)
				if err != nil {
					continue
				}
				columns, err := p.columnsAndLists()
				if err != nil {
					continue
				}
				for _, c := range columns {
					if c.list {
						if rows, err := p.labels(t.Context(), c, ""); err == nil && len(rows) != p.rows {
							t.Fatalf("byte %d = %d: %d lists for %d rows", at, v, len(rows), p.rows)
						}
					}
				}
			}
		}
	}
}

func TestLabels(t *testing.T) {
	for _, c := range []struct {
		l    Labels
		want string
	}{{Labels{0, 2}, ""}, {nil, ""}, {Labels{3}, "out of range"}, {Labels{-1}, "out of range"}, {Labels{1, 1}, "ascending"}, {Labels{2, 0}, "ascending"}} {
		if err := c.l.Check(3); (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%v: error %v, want %q", c.l, err, c.want)
		}
	}
	if got := (Labels{0, 1}).MapClasses([]int{5, 2}).String(); got != "[2 5]" {
		t.Errorf("mapped labels %s", got)
	}
}

// TestStratifyLabels checks iterative stratification: the sizes of splits and folds, the share of
// each label, that every label stays in train, and that the order of the list does not matter.
func TestStratifyLabels(t *testing.T) {
	rng := rand.New(rand.NewPCG(3, 4))
	var samples []Sample
	counts := make([]int, 8)
	for i := range 600 {
		var l Labels
		for class := range counts {
			if rng.Float64() < 0.4/float64(class*class+1) {
				l = append(l, class)
				counts[class]++
			}
		}
		samples = append(samples, Sample{Path: fmt.Sprintf("%03d.png", i), Target: l})
	}
	for seed := range uint64(5) {
		train, val, test := stratifyLabels(samples, 0.1, 0.2, seed)
		for i, split := range [][]Sample{train, val, test} {
			share := []float64{0.7, 0.1, 0.2}[i]
			if math.Abs(float64(len(split))-600*share) > 6 {
				t.Errorf("seed %d: split %d has %d of 600 samples", seed, i, len(split))
			}
			for class, n := range countClasses(split, len(counts)) {
				if math.Abs(float64(n)-share*float64(counts[class])) > 1.5+0.02*float64(counts[class]) {
					t.Errorf("seed %d: split %d has %d of %d samples of label %d", seed, i, n, counts[class], class)
				}
			}
		}
		shuffled := slices.Clone(samples)
		rng.Shuffle(len(shuffled), func(i, j int) { shuffled[i], shuffled[j] = shuffled[j], shuffled[i] })
		_, again, _ := stratifyLabels(shuffled, 0.1, 0.2, seed)
		if !slices.Equal(slices.Sorted(slices.Values(paths(again))), slices.Sorted(slices.Values(paths(val)))) {
			t.Errorf("seed %d: another order of the list gives other validation images", seed)
		}
	}
	folds, err := divideFolds(samples, 5, 1)
	if err != nil {
		t.Fatal(err)
	}
	for fold := range 5 {
		var members []Sample
		for i, f := range folds {
			if f == fold {
				members = append(members, samples[i])
			}
		}
		if math.Abs(float64(len(members))-120) > 3 {
			t.Errorf("fold %d has %d of 600 samples", fold, len(members))
		}
		for class, n := range countClasses(members, len(counts)) {
			if math.Abs(float64(n)-float64(counts[class])/5) > 2 {
				t.Errorf("fold %d has %d of %d samples of label %d", fold, n, counts[class], class)
			}
		}
	}
	few := []Sample{{Path: "a", Target: Labels{0}}, {Path: "b", Target: Labels{0, 1}}, {Path: "c", Target: Labels{1}}, {Path: "d", Target: Labels(nil)}}
	train, val, test := stratifyLabels(few, 0.1, 0.1, 0)
	if slices.Min(countClasses(train, 2)) == 0 || len(train)+len(val)+len(test) != len(few) {
		t.Errorf("train %v, val %v, test %v", paths(train), paths(val), paths(test))
	}
	root := pictures(tree{"x.csv": "path,a,b\nsub/a.png,1,1\nsub/b.png,0,1\nsub/c.png,1,0\n"}).write(t)
	d, err := Open(t.Context(), filepath.Join(root, "x.csv"), OpenOptions{})
	if err != nil || d.Split != "stratified by labels 0.8/0.1/0.1 seed 0" {
		t.Errorf("split %q, error %v", d.Split, err)
	}
}
