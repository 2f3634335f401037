package dataset

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// pictures returns a folder with the images a.png … h.png in its folder sub, and with the given
// files.
func pictures(files tree) tree {
	out := tree{}
	for c := 'a'; c <= 'h'; c++ {
		out["sub/"+string(c)+".png"] = "image"
	}
	return out.with(files)
}

func TestOpenTables(t *testing.T) {
	for _, c := range []struct {
		name    string
		files   tree
		open    string // the file, "" for the folder
		o       OpenOptions
		classes string
		want    [3]string // as describe
	}{
		{"metadata.jsonl of imagefolder", pictures(tree{"metadata.jsonl": `{"file_name": "sub/a.png", "label": "dog"}` + "\r\n\n" + `{"label": "cat", "x": [1, {}], "file_name": "sub/b.png"}`}), "", OpenOptions{}, "cat dog",
			[3]string{"sub/a.png=1@metadata.jsonl:1; sub/b.png=0@metadata.jsonl:3"}},
		{"metadata.csv above split folders", pictures(tree{"train/1.png": "image", "train/2.png": "image", "test/x/1.png": "image", "validation/1.png": "image",
			"metadata.csv": "file_name,label\ntrain/1.png,a\ntest/x/1.png,b\ntrain/2.png,b\nvalidation/1.png,a\n"}), "", OpenOptions{}, "a b",
			[3]string{"train/1.png=0@metadata.csv:2; train/2.png=1@metadata.csv:4", "validation/1.png=0@metadata.csv:5", "test/x/1.png=1@metadata.csv:3"}},
		{"metadata in split folders", tree{"train/1.png": "image", "test/1.png": "image", "train/2.png": "image", "train/metadata.csv": "file_name,label\n1.png,7\n2.png,8\n", "test/metadata.jsonl": `{"file_name": "1.png", "label": 7}`}, "", OpenOptions{}, "7 8",
			[3]string{"train/1.png=0@train/metadata.csv:2; train/2.png=1@train/metadata.csv:3", "", "test/1.png=0@test/metadata.jsonl:1"}},
		{"train, val and test", pictures(tree{"train.csv": "Label,Path\n10,sub/a.png\n9,sub/b.png\n7,sub/e.png\n", "valid.tsv": "filename\tclass\nsub/c.png\t9\n", "test.csv": "path,label\nsub/d.png,7\n"}), "", OpenOptions{}, "7 9 10",
			[3]string{"sub/a.png=2@train.csv:2; sub/b.png=1@train.csv:3; sub/e.png=0@train.csv:4", "sub/c.png=1@valid.tsv:2", "sub/d.png=0@test.csv:2"}},
		{"one file, quoted, with a mark", pictures(tree{"lists/my list.csv": "\xef\xbb\xbf\"image\",\"target\"\n\"x/1.png\",\"a, \"\"b\"\"\nc\"\n\"y\\2.png\",z\n", "lists/x/1.png": "image", "lists/y/2.png": "image"}), "lists/my list.csv", OpenOptions{}, "a, \"b\"\nc z",
			[3]string{"lists/x/1.png=0@my list.csv:2; lists/y/2.png=1@my list.csv:4"}},
		{"a column of splits", pictures(tree{"all.tsv": "path\tlabel\tsplit\nsub/a.png\tx\ttrain\nsub/b.png\tx\tVal\nsub/c.png\tx\ttest\nsub/d.png\ty\ttrain\n"}), "all.tsv", OpenOptions{}, "x y",
			[3]string{"sub/a.png=0@all.tsv:2; sub/d.png=1@all.tsv:5", "sub/b.png=0@all.tsv:3", "sub/c.png=0@all.tsv:4"}},
		{"columns by name", pictures(tree{"all.csv": "path,label,photo,kind\nno,no,sub/a.png,q\nno,no,sub/b.png,r\n"}), "all.csv", OpenOptions{ImageColumn: "photo", LabelColumn: "kind"}, "q r",
			[3]string{"sub/a.png=0@all.csv:2; sub/b.png=1@all.csv:3"}},
		{"a column without a name, as pandas writes", pictures(tree{"all.csv": ",filename,class\n0,sub/a.png,q\n1,sub/b.png,r\n"}), "all.csv", OpenOptions{}, "q r",
			[3]string{"sub/a.png=0@all.csv:2; sub/b.png=1@all.csv:3"}},
		{"a key without a name", pictures(tree{"all.jsonl": "{\"\": 0, \"path\": \"sub/a.png\", \"label\": \"q\"}\n{\"\": 1, \"path\": \"sub/b.png\", \"label\": \"r\"}"}), "all.jsonl", OpenOptions{}, "q r",
			[3]string{"sub/a.png=0@all.jsonl:1; sub/b.png=1@all.jsonl:2"}},
		{"semicolons", pictures(tree{"all.csv": "\xef\xbb\xbf\r\npath;label\r\nsub/a.png;q, really\r\nsub/b.png;\"r;\"\r\n"}), "all.csv", OpenOptions{}, "q, really r;",
			[3]string{"sub/a.png=0@all.csv:3; sub/b.png=1@all.csv:4"}},
		{"a semicolon beside commas", pictures(tree{"all.csv": "path,label,a;b\nsub/a.png,q;1,\nsub/b.png,r,\n"}), "all.csv", OpenOptions{}, "q;1 r",
			[3]string{"sub/a.png=0@all.csv:2; sub/b.png=1@all.csv:3"}},
		{"classes.txt and names", pictures(tree{"train.csv": "path,label\nsub/a.png,no\nsub/b.png,yes\n", "classes.txt": "yes\nno\nnever\n"}), "", OpenOptions{}, "yes no never",
			[3]string{"sub/a.png=1@train.csv:2; sub/b.png=0@train.csv:3"}},
		{"classes.txt and indices", pictures(tree{"train.csv": "path,label\nsub/a.png,2\nsub/b.png,0\n", "classes.txt": "yes\nno\nnever\n"}), "", OpenOptions{}, "yes no never",
			[3]string{"sub/a.png=2@train.csv:2; sub/b.png=0@train.csv:3"}},
		{"before class folders", tree{"metadata.jsonl": `{"file_name": "cat/1.png", "label": "x"}` + "\n" + `{"file_name": "cat/2.png", "label": "y"}`, "cat/1.png": "image", "cat/2.png": "image"}, "", OpenOptions{}, "x y",
			[3]string{"cat/1.png=0@metadata.jsonl:1; cat/2.png=1@metadata.jsonl:2"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			root := c.files.write(t)
			c.o.ValFraction, c.o.TestFraction = -1, -1
			d, err := Open(t.Context(), filepath.Join(root, c.open), c.o)
			if err != nil {
				t.Fatal(err)
			}
			if got := [3]string{describe(root, d.Train), describe(root, d.Val), describe(root, d.Test)}; got != c.want {
				t.Errorf("read %q\nwant %q", got, c.want)
			}
			if got := strings.Join(d.Classes, " "); got != c.classes || d.Layout != "table" || d.Root != filepath.Join(root, c.open) {
				t.Errorf("classes %q, layout %s, root %s", got, d.Layout, d.Root)
			}
		})
	}
	// If another file has the name of a table, Open reads class folders only with the option
	// Layout.
	files := tree{"train.csv": "id,species\n1,2\n", "cat/1.png": "image", "dog/1.png": "image"}
	if _, err := Open(t.Context(), files.write(t), OpenOptions{}); err == nil || !strings.Contains(err.Error(), "the layout imagefolder") {
		t.Errorf("unexpected error %v", err)
	}
	d, err := Open(t.Context(), files.write(t), OpenOptions{Layout: "imagefolder"})
	if err != nil || d.Layout != "imagefolder" {
		t.Errorf("unexpected data set %+v, error %v", d, err)
	}
}

func TestTableErrors(t *testing.T) {
	line := func(s string) tree { return pictures(tree{"metadata.jsonl": s}) }
	for _, c := range []struct {
		name  string
		files tree
		open  string
		o     OpenOptions
		want  []string
	}{
		{"no known column", pictures(tree{"train.csv": "number,species\n1,2\n"}), "", OpenOptions{}, []string{"train.csv:1", "no column of images", `"number", "species"`}},
		{"no label column", pictures(tree{"x.csv": "path,species\n1,2\n"}), "x.csv", OpenOptions{}, []string{"x.csv:1", "no column of labels", "fine_label", "name the label column"}},
		{"no column of that name", pictures(tree{"x.csv": "path,label\nsub/a.png,2\n"}), "x.csv", OpenOptions{LabelColumn: "kind"}, []string{"looked for kind"}},
		{"cells missing", pictures(tree{"train.csv": "path,label\nsub/a.png,1\nsub/b.png\n"}), "", OpenOptions{}, []string{"train.csv:3: the row has 1 cells, want 2 as in the heading"}},
		{"quote open", pictures(tree{"train.csv": "path,label\n\"sub/a.png,1\n"}), "", OpenOptions{}, []string{"train.csv:2: column 14 of line 2: found a quotation mark"}},
		{"cut in a row", pictures(tree{"x.csv": "path,label,n\nsub/a.png,1,2\nsub/b.png,1"}), "x.csv", OpenOptions{}, []string{"x.csv:3: the row has 2 cells, want 3", "cut short"}},
		{"a cell too many", pictures(tree{"x.csv": "path,label\nsub/a.png,1,2\n"}), "x.csv", OpenOptions{}, []string{"x.csv:2: the row has 3 cells, want 2"}},
		{"mark inside a cell", pictures(tree{"x.csv": "path,label\nsub/a.png,a\"b\n"}), "x.csv", OpenOptions{}, []string{"x.csv:2: column 12 of line 2: found a quotation mark"}},
		{"label column twice", pictures(tree{"x.csv": "path,label,n,label\nsub/a.png,1,2,3\n"}), "x.csv", OpenOptions{}, []string{`x.csv:1: the columns 2 and 4 are both named "label"`}},
		{"some labels missing", pictures(tree{"train.csv": "path,label\nsub/a.png,1\n", "val.csv": "path,label\nsub/b.png,1\nsub/c.png,\n"}), "", OpenOptions{}, []string{"val.csv:3: the label is empty"}},
		{"json cut in line 2", line("{\"file_name\": \"sub/a.png\", \"label\": 1}\n{\"file_name\": \"sub/b.png\", \"lab"), "", OpenOptions{}, []string{"metadata.jsonl:2: reading JSON", "cut short"}},
		{"FGVC cut", tree{"train.json": "{\"a.png\": 0,\n\"b.p"}, "", OpenOptions{}, []string{"train.json:2: reading JSON", "cut short"}},
		{"FGVC null", tree{"train.json": "{\"a.png\": 0,\n\"b.png\": null}"}, "", OpenOptions{}, []string{`train.json: "b.png" (line 2): found null, want a class id`}},
		{"label empty", pictures(tree{"train.csv": "path,label\nsub/a.png, \n"}), "", OpenOptions{}, []string{"train.csv:2: the label is empty"}},
		{"empty", pictures(tree{"train.csv": ""}), "", OpenOptions{}, []string{"train.csv is empty"}},
		{"heading only", pictures(tree{"train.csv": "path,label\n"}), "", OpenOptions{}, []string{"train.csv lists no images"}},
		{"dots", pictures(tree{"train.csv": "path,label\n../x.png,1\n"}), "", OpenOptions{}, []string{"train.csv:2", `"../x.png" leaves`}},
		{"absolute", pictures(tree{"train.csv": "path,label\n/etc/passwd,1\n"}), "", OpenOptions{}, []string{"train.csv:2", "leaves"}},
		{"a folder", pictures(tree{"train.csv": "path,label\n.,1\n"}), "", OpenOptions{}, []string{"train.csv:2", "is a folder"}},
		{"missing image", pictures(tree{"train.csv": "path,label\nsub/z.png,1\n"}), "", OpenOptions{}, []string{"train.csv:2", "does not exist"}},
		{"twice", pictures(tree{"train.csv": "path,label\nsub/a.png,1\nsub/./a.png,1\n"}), "", OpenOptions{}, []string{"train.csv:3", "twice"}},
		{"unknown split", pictures(tree{"x.csv": "path,label,split\nsub/a.png,1,holdout\n"}), "x.csv", OpenOptions{}, []string{"x.csv:2", `split "holdout"`}},
		{"no training images", pictures(tree{"x.csv": "path,label,split\nsub/a.png,1,test\n"}), "x.csv", OpenOptions{}, []string{"x.csv lists no training images"}},
		{"two tables", pictures(tree{"train.csv": "x", "train.jsonl": "y"}), "", OpenOptions{}, []string{"found both", "train.csv", "train.jsonl"}},
		{"class of test alone", pictures(tree{"train.csv": "path,label\nsub/a.png,cat\n", "test.csv": "path,label\nsub/b.png,fox\n"}), "", OpenOptions{}, []string{"test.csv:2", `no class "fox"`}},
		{"label -1", pictures(tree{"train.csv": "path,label\nsub/a.png,-1\n"}), "", OpenOptions{}, []string{"label -1 is negative"}},
		{"beyond classes.txt", pictures(tree{"train.csv": "path,label\nsub/a.png,2\n", "classes.txt": "a\nb"}), "", OpenOptions{}, []string{"train.csv:2", "label 2 is out of range", "labels 0 to 1"}},
		{"not in classes.txt", pictures(tree{"train.csv": "path,label\nsub/a.png,fox\n", "classes.txt": "a\nb"}), "", OpenOptions{}, []string{"train.csv:2", `"fox" is neither a class name nor an integer`}},
		{"label in Latin-1", pictures(tree{"train.csv": "path,label\nsub/a.png,the\nsub/b.png,caf\xe9\n"}), "", OpenOptions{}, []string{`train.csv:3: the class name "caf\xe9" is not UTF-8: save the table as UTF-8`}},
		{"json in Latin-1", line("{\"file_name\": \"sub/a.png\", \"label\": \"caf\xe9\"}"), "", OpenOptions{}, []string{`metadata.jsonl:1: "label": the text is not UTF-8`}},
		{"UTF-16", pictures(tree{"x.csv": "\xff\xfep\x00"}), "x.csv", OpenOptions{}, []string{"x.csv is in UTF-16: save it as UTF-8"}},
		{"json cut", line(`{"file_name": "sub/a.png"`), "", OpenOptions{}, []string{"metadata.jsonl:1", "reading JSON"}},
		{"json list", line(`["sub/a.png", 1]`), "", OpenOptions{}, []string{"metadata.jsonl:1", "want an object"}},
		{"json key twice", line(`{"file_name": "sub/a.png", "label": 1, "label": 2}`), "", OpenOptions{}, []string{"metadata.jsonl:1", `the key "label" is listed twice`}},
		{"json two objects", line(`{"file_name": "sub/a.png", "label": 1} {}`), "", OpenOptions{}, []string{"metadata.jsonl:1", "more text follows"}},
		{"json label missing", line("{\"file_name\": \"sub/a.png\", \"label\": 1}\n{\"file_name\": \"sub/b.png\"}"), "", OpenOptions{}, []string{"metadata.jsonl:2", `"label": the key is missing`}},
		{"json label null", line(`{"file_name": "sub/a.png", "label": null}`), "", OpenOptions{}, []string{"metadata.jsonl:1", "found null"}},
		{"json label list", line(`{"file_name": "sub/a.png", "label": [[1]]}`), "", OpenOptions{}, []string{"found [1], want a string or a number"}},
		{"columns for other layouts", vtabTree, "", OpenOptions{LabelColumn: "x"}, []string{"layout vtab has no columns"}},
		{"not in a file", pictures(tree{"x.csv": "path,label\nsub/a.png,1\n"}), "x.csv", OpenOptions{Layout: "vtab"}, []string{"the layout vtab cannot open a file with this name"}},
		{"another file", pictures(tree{"x.doc": "PK"}), "x.doc", OpenOptions{}, []string{"not a folder", ".parquet"}},
		{"no table", tree{"cat/1.png": "image"}, "", OpenOptions{Layout: "table"}, []string{"there is no table"}},
	} {
		path := filepath.Join(c.files.write(t), c.open)
		_, err := Open(t.Context(), path, c.o)
		if err == nil {
			t.Errorf("%s: no error", c.name)
			continue
		}
		for _, w := range append(c.want, "opening data set "+path) {
			if !strings.Contains(err.Error(), w) {
				t.Errorf("%s: the message lacks %q:\n%v", c.name, w, err)
			}
		}
	}
}

// TestSuspectLabels checks the notes about labels and splits that a damaged column leaves behind,
// and that sound labels have none.
func TestSuspectLabels(t *testing.T) {
	for _, c := range []struct {
		name, table string
		want        []string // parts of notes; nil: no note
	}{
		{"numbers", "path,label\nsub/a.png,1\nsub/b.png,2\nsub/c.png,10\n", nil},
		{"words", "path,label\nsub/a.png,cat\nsub/b.png,St. Bernard\nsub/c.png,v1.5\n", nil},
		{"leading zeros", "path,label\nsub/a.png,01\nsub/b.png,02\nsub/c.png,02\n", nil},
		{"numbers and words", "path,label\nsub/a.png,1\nsub/b.png,cat\nsub/c.png,1\n", []string{`numbers, such as "1" (x.csv:2), and words, such as "cat" (x.csv:3)`}},
		{"missing values", "path,label\nsub/a.png,1\nsub/b.png,NaN\nsub/c.png,None\n", []string{`x.csv:3: the label "NaN"`, `x.csv:4: the label "None"`}},
		{"measurements", "path,label\nsub/a.png,2\nsub/b.png,1.5\nsub/c.png,2\n", []string{`x.csv:3: the label "1.5" is a number with a decimal point`}},
		{"splits missing", "path,label,split\nsub/a.png,1,train\nsub/b.png,1,\nsub/c.png,1,test\n", []string{`x.csv: 1 image is in training, because the column "split" states no split`}},
	} {
		d, err := Open(t.Context(), filepath.Join(pictures(tree{"x.csv": c.table}).write(t), "x.csv"), OpenOptions{ValFraction: -1, TestFraction: -1})
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		if len(d.Notes) != len(c.want) {
			t.Errorf("%s: notes %q, want %d", c.name, d.Notes, len(c.want))
		}
		for i, want := range c.want {
			if i < len(d.Notes) && !strings.Contains(d.Notes[i], want) {
				t.Errorf("%s: note %q, want one with %q", c.name, d.Notes[i], want)
			}
		}
	}
}

// TestClassesKnown checks that classes need no training image if OpenOptions.Classes is set.
func TestClassesKnown(t *testing.T) {
	root := vtabTree.with(tree{"test.txt": "images/f.png 5\n"}).write(t)
	d, err := Open(t.Context(), root, OpenOptions{Classes: 7})
	if err != nil || fmt.Sprint(d.Classes) != "[0 1 2 3 4 5 6]" {
		t.Fatalf("%+v, %v", d, err)
	}
	if err := d.CheckImages(t.Context(), CheckOptions{}); err != nil {
		t.Errorf("unexpected error %v", err)
	}
	if _, err := Open(t.Context(), root, OpenOptions{Classes: 5}); err == nil || !strings.Contains(err.Error(), "the data set has 6 classes, expected 5") {
		t.Errorf("unexpected error %v", err)
	}
	if _, err := Open(t.Context(), folderTree.write(t), OpenOptions{Classes: 3}); err == nil || !strings.Contains(err.Error(), "the data set has 2 classes, expected 3") {
		t.Errorf("unexpected error %v", err)
	}
}

// TestFewShot checks the layout fewshot, with spaces in paths.
func TestFewShot(t *testing.T) {
	files := tree{
		"food/annotations/train_meta.list.num_shot_1.seed_2": "pie/1.png 0\nbean soup/2.png 1\n", "food/annotations/train_meta.list.num_shot_2.seed_0": "pie/1.png 0\n",
		"food/annotations/val_meta.list": "pie/3.png 0\n", "food/annotations/test_meta.list": "pie/4.png 0\npie/5.png 1\n",
		"food/images/pie/1.png": "image", "food/images/bean soup/2.png": "image", "food/images/pie/3.png": "image", "food/images/pie/4.png": "image", "food/images/pie/5.png": "image",
	}
	root := files.write(t)
	draw := filepath.Join(root, "food", "annotations", "train_meta.list.num_shot_1.seed_2")
	d, err := Open(t.Context(), draw, OpenOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if got := describe(filepath.Join(root, "food"), slices.Concat(d.Train, d.Val)); got != "images/pie/1.png=0@train_meta.list.num_shot_1.seed_2:1; images/bean soup/2.png=1@train_meta.list.num_shot_1.seed_2:2; images/pie/3.png=0@val_meta.list:1" {
		t.Errorf("read %s", got)
	}
	if d.Name != "food.num_shot_1.seed_2" || d.Layout != "fewshot" || d.Split != "given" || len(d.Test) != 2 || fmt.Sprint(d.Classes) != "[0 1]" || d.Root != draw {
		t.Errorf("unexpected data set %+v", d)
	}
	if d, err := Open(t.Context(), draw, OpenOptions{Layout: "fewshot", Classes: 3}); err != nil || len(d.Classes) != 3 {
		t.Errorf("unexpected data set %+v, error %v", d, err)
	}
	for path, want := range map[string]string{
		filepath.Join(root, "food"): "several few-shot lists: give the path of one list, such as",
		filepath.Join(files.with(tree{"food/images/pie/1.png": "-", "food/images/bean soup/2.png": "-"}).write(t), "food", "annotations", "train_meta.list.num_shot_1.seed_2"): "no image of train_meta.list.num_shot_1.seed_2 exists",
		filepath.Join(files.with(tree{"food/annotations/val_meta.list": "x\n"}).write(t), "food", "annotations", "train_meta.list.num_shot_1.seed_2"):                          "val_meta.list:1",
		filepath.Join(root, "food", "annotations", "val_meta.list"): "not a folder: give the folder",
	} {
		if _, err := Open(t.Context(), path, OpenOptions{}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: error %v, want one with %q", path, err, want)
		}
	}
}

func TestKnownSets(t *testing.T) {
	groups := map[string]int{}
	var names []string
	for _, k := range KnownSets() {
		groups[k.Group]++
		names = append(names, k.Name)
		if found, err := FindKnown(k.Name); err != nil || found != k {
			t.Errorf("%+v: %v", k, err)
		}
	}
	if fmt.Sprint(groups) != "map[fgvc:5 vtab-natural:7 vtab-specialized:4 vtab-structured:8]" || len(slices.Compact(slices.Sorted(slices.Values(names)))) != 24 {
		t.Errorf("%v, %v", groups, names)
	}
	if _, err := FindKnown("imagenet"); err == nil || !strings.Contains(err.Error(), `"imagenet" is unknown; known: cifar, `) {
		t.Errorf("unexpected error %v", err)
	}
}

func FuzzParseCSV(f *testing.F) {
	for _, s := range []string{"path,label\na.png,1\n", "image,class,split\n\"a\n\"\"b\",x,train\n", "path,label\n..,1", "\xef\xbb\xbfpath\tlabel\na\tb\n", "path,label\na\\b.png,é", "label,label,path\n1,2,3", ",path;label\n0,a,1", "path;label\na.png;1\n", "path,class,b\na.png,1,1\n", "path,label\na.png,x|y\n"} {
		f.Add([]byte(s), false)
		f.Add([]byte(s), true)
	}
	f.Fuzz(func(t *testing.T, text []byte, tabs bool) {
		for _, want := range []labelForm{{}, {defined: true, column: "label"}, {defined: true, classes: []string{"a", "b"}}} {
			for _, o := range []OpenOptions{{}, {LabelDelimiter: "|"}, {LabelColumns: []string{"class", "b"}}} {
				data, err := parseCSV(t.Context(), "train.csv", text, tabs, o, want)
				checkRows(t, "train.csv", data, err)
			}
		}
	})
}

func FuzzParseJSONLines(f *testing.F) {
	for _, s := range []string{`{"file_name": "a.png", "label": 0}`, `{"path": "a.png", "label": ["x", 1]}`, "{\"image\": \"a\", \"target\": \"x\", \"split\": \"val\"}\n\n{\"target\": 1e3, \"image\": \"b\"}", `{"path": "../a", "label": 1}`, `{"path": 1, "label": null}`, `{"": 1}`, `{`, `[]`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		data, err := parseJSONLines(t.Context(), "metadata.jsonl", text, OpenOptions{}, labelForm{})
		checkRows(t, "metadata.jsonl", data, err)
	})
}

// checkRows checks properties that the rows of every accepted table must have.
func checkRows(t *testing.T, name string, data *tableData, err error) {
	t.Helper()
	if err != nil {
		if !strings.HasPrefix(err.Error(), name) {
			t.Errorf("the error does not name the table: %v", err)
		}
		return
	}
	var samples []Sample
	var all [3][]labelled
	rows := data.rows
	for _, r := range rows {
		if !r.several && (r.label == "") != (r.missing != nil) || slices.Contains(r.list, "") {
			t.Errorf("accepted %+v", r)
		}
		samples = append(samples, r.Sample)
		all[0] = append(all[0], r)
	}
	checkParsed(t, samples)
	for _, fixed := range []int{-1, 0, 2} {
		if given, _, err := splitsOf(data.splits, name, fixed); err == nil && given != nil && len(given) != len(rows) {
			t.Errorf("%d splits for %d rows", len(given), len(rows))
		}
	}
	if _, err := dropUnlabelled(&all); err != nil {
		return
	}
	g, err := assignClasses(data.labels.classes, false, all)
	if err != nil {
		return
	}
	for i, s := range g.train {
		var names []string
		for _, class := range ClassesOf(s.Target) {
			names = append(names, g.classes[class])
		}
		if err := s.Target.Check(len(g.classes)); err != nil || !slices.Equal(slices.Sorted(slices.Values(names)), slices.Sorted(slices.Values(rows[i].labels()))) {
			t.Errorf("labels %q became %q of %q, error %v", rows[i].labels(), names, g.classes, err)
		}
	}
}

func TestDirectCrop(t *testing.T) {
	m, err := decodeFile(filepath.Join("testdata", "decode", "444.jpg"))
	if err != nil {
		t.Fatal(err)
	}
	transform := Transform{Size: 14, Resize: "direct-crop"}
	pix, err := transform.SamplePixels(Sample{Image: m})
	if err != nil {
		t.Fatal(err)
	}
	whole, err := resizeBicubic(m, 16, 16) // 14 · 256/224
	if err != nil {
		t.Fatal(err)
	}
	for y := range 14 {
		if got, want := pix[3*14*y:][:3*14], whole.Pix[3*(16*(y+1)+1):][:3*14]; !slices.Equal(got, want) {
			t.Fatalf("row %d is %v, want %v", y, got, want)
		}
	}
	if (Transform{Size: 14, Resize: "direct-crop", ResizeTo: 13}).Validate() == nil || (Transform{Size: 14, Resize: "direct-crop", RandomCrop: true}).Validate() != nil {
		t.Error("Validate checks the crop of direct-crop differently from crop")
	}
}

func TestTablePipe(t *testing.T) {
	folder := t.TempDir()
	if err := os.Mkdir(filepath.Join(folder, "train.csv"), 0o700); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(t.Context(), folder, OpenOptions{Layout: "table"}); err == nil || !strings.Contains(err.Error(), "train.csv is not a regular file") {
		t.Errorf("unexpected error %v", err)
	}
}
