package dataset

import (
	"fmt"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
)

// TestTableForms checks tables as they are published: their labels, columns of splits, class
// columns and places of images. notes holds a part of each note of the data set.
func TestTableForms(t *testing.T) {
	few := func(files tree, names ...string) tree {
		out := tree{}.with(files)
		for _, n := range names {
			out[n] = "image"
		}
		return out
	}
	for _, c := range []struct {
		name    string
		files   tree
		open    string
		o       OpenOptions
		classes string
		want    [3]string // numbers of images, or describe
		notes   []string
	}{
		{"leading zeros are text", pictures(tree{"train.csv": "path,label\nsub/a.png,0001\nsub/b.png,0010\nsub/c.png,0002\n"}), "", OpenOptions{}, "0001 0002 0010",
			[3]string{"sub/a.png=0@train.csv:2; sub/b.png=2@train.csv:3; sub/c.png=1@train.csv:4"}, nil},
		{"leading zeros in JSON strings", pictures(tree{"x.jsonl": "{\"path\": \"sub/a.png\", \"label\": \"0001\"}\n{\"path\": \"sub/b.png\", \"label\": \"0002\"}"}), "x.jsonl", OpenOptions{}, "0001 0002",
			[3]string{"sub/a.png=0@x.jsonl:1; sub/b.png=1@x.jsonl:2"}, nil},
		{"01 and 1", pictures(tree{"x.csv": "path,label\nsub/a.png,01\nsub/b.png,1\nsub/c.png,2\n"}), "x.csv", OpenOptions{}, "01 1 2",
			[3]string{"3"}, []string{`"01" and "1" are two classes`}},
		{"one label with a leading zero", pictures(tree{"x.csv": "path,label\nsub/a.png,10\nsub/b.png,9\nsub/c.png,08\n"}), "x.csv", OpenOptions{}, "08 10 9", [3]string{"3"}, nil},
		{"JSON numbers", pictures(tree{"x.jsonl": "{\"path\": \"sub/a.png\", \"label\": 10.0}\n{\"path\": \"sub/b.png\", \"label\": 9}\n{\"path\": \"sub/c.png\", \"label\": \"10\"}"}), "x.jsonl", OpenOptions{}, "9 10",
			[3]string{"sub/a.png=1@x.jsonl:1; sub/b.png=0@x.jsonl:2; sub/c.png=1@x.jsonl:3"}, nil},
		{"true and false in JSON", pictures(tree{"x.jsonl": "{\"path\": \"sub/a.png\", \"label\": true}\n{\"path\": \"sub/b.png\", \"label\": false}"}), "x.jsonl", OpenOptions{}, "false true", [3]string{"2"}, nil},
		{"indices from 1", pictures(tree{"x.csv": "path,label\nsub/a.png,1\nsub/b.png,2\n", "classes.txt": "background\ncat\ndog"}), "x.csv", OpenOptions{}, "background cat dog", [3]string{"2"}, []string{"class 0 has no images"}},

		{"is_valid of fastai", pictures(tree{"labels.csv": "fname,name,labels,is_valid\nx,sub/a.png,q,False\nx,sub/b.png,r,False\nx,sub/c.png,q,True\n"}), "labels.csv", OpenOptions{ImageColumn: "name"}, "q r",
			[3]string{"sub/a.png=0@labels.csv:2; sub/b.png=1@labels.csv:3", "sub/c.png=0@labels.csv:4"}, nil},
		{"is_valid in train.csv", pictures(tree{"train.csv": "path,label,is_valid\nsub/a.png,q,0\nsub/b.png,r,0\nsub/c.png,q,1\n"}), "", OpenOptions{}, "q r", [3]string{"2", "1"}, nil},
		{"is_valid and is_test in JSON", pictures(tree{"x.jsonl": strings.ReplaceAll("{'path': 'sub/a.png', 'label': 'q', 'is_valid': false, 'is_test': false}\n{'path': 'sub/b.png', 'label': 'q', 'is_valid': true, 'is_test': false}\n{'path': 'sub/c.png', 'label': 'q', 'is_valid': false, 'is_test': true}", "'", `"`)}), "x.jsonl", OpenOptions{}, "q",
			[3]string{"sub/a.png=0@x.jsonl:1", "sub/b.png=0@x.jsonl:2", "sub/c.png=0@x.jsonl:3"}, nil},
		{"is_train and is_valid", pictures(tree{"x.csv": "path,label,is_train,is_valid\nsub/a.png,q,1,0\nsub/b.png,q,0,1\nsub/c.png,q,0,0\n"}), "x.csv", OpenOptions{}, "q",
			[3]string{"sub/a.png=0@x.csv:2", "sub/b.png=0@x.csv:3", "sub/c.png=0@x.csv:4"}, nil},
		{"data set, as on Kaggle", pictures(tree{"birds.csv": "class id,filepaths,labels,data set\n0,sub/a.png,CROW,train\n0,sub/b.png,CROW,test\n0,sub/c.png,CROW,valid\n"}), "birds.csv", OpenOptions{}, "CROW",
			[3]string{"sub/a.png=0@birds.csv:2", "sub/c.png=0@birds.csv:4", "sub/b.png=0@birds.csv:3"}, nil},
		{"Usage of FER2013", pictures(tree{"x.csv": "path,label,Usage\nsub/a.png,q,Training\nsub/b.png,q,PublicTest\nsub/c.png,q,PrivateTest\n"}), "x.csv", OpenOptions{}, "q",
			[3]string{"1", "1", "1"}, nil},
		{"Usage of a leaderboard", pictures(tree{"x.csv": "path,label,Usage\nsub/a.png,q,Public\nsub/b.png,q,Private\n"}), "x.csv", OpenOptions{}, "q", [3]string{"2"}, []string{`x.csv: column "Usage" is not used: "Public" is not the name of a split`}},
		{"a fold", pictures(tree{"x.csv": "path,label,fold\nsub/a.png,q,0\nsub/b.png,q,1\n"}), "x.csv", OpenOptions{}, "q", [3]string{"2"}, []string{`column "fold" is not used: "0" is not`}},
		{"is_valid that is no boolean", pictures(tree{"x.csv": "path,label,is_valid\nsub/a.png,q,maybe\nsub/b.png,q,0\n"}), "x.csv", OpenOptions{}, "q", [3]string{"2"}, []string{`"maybe" is not true or false`}},
		{"a label column with the name of a column of splits", pictures(tree{"x.csv": "path,set\nsub/a.png,train\nsub/b.png,test\n"}), "x.csv", OpenOptions{LabelColumn: "set"}, "test train", [3]string{"2"}, nil},
		{"two columns", pictures(tree{"x.csv": "path,label,is_valid,split\nsub/a.png,q,1,train\nsub/b.png,q,0,test\n"}), "x.csv", OpenOptions{}, "q", [3]string{"1", "", "1"}, []string{`column "is_valid" is not used: another column`}},
		{"a column against the table", pictures(tree{"train.csv": "path,label\nsub/a.png,q\n", "test.csv": "path,label,split\nsub/b.png,q,train\n"}), "", OpenOptions{}, "q", [3]string{"1", "", "1"}, []string{`test.csv: column "split" is not used: all images of the table are in the test split`}},

		{"Kaggle", few(tree{"train.csv": "image_id,label\n000a,cat\n000b,dog\n", "test.csv": "image_id\n000c\n000d\n", "sample_submission.csv": "image_id,label\n000c,cat\n"}, "train_images/000a.jpg", "train_images/000b.jpg", "test_images/000c.jpg", "test_images/000d.jpg"), "", OpenOptions{}, "cat dog",
			[3]string{"train_images/000a.jpg=0@train.csv:2; train_images/000b.jpg=1@train.csv:3"}, []string{`"000a" stands for the image train_images/000a.jpg`, "test.csv has no test labels: its 2 images are for prediction"}},
		{"test labels empty", pictures(tree{"train.csv": "path,label\nsub/a.png,q\n", "test.csv": "path,label\nsub/b.png,\n"}), "", OpenOptions{}, "q", [3]string{"1"}, []string{"test.csv has no test labels: its 1 image is for prediction"}},
		{"test labels withheld", pictures(tree{"train.csv": "path,label\nsub/a.png,0\n", "test.csv": "path,label\nsub/b.png,-1\nsub/c.png,-1\n"}), "", OpenOptions{}, "0", [3]string{"1"}, []string{"test.csv has no test labels: its 2 images"}},
		{"labels by name, none in test", pictures(tree{"train.csv": "path,kind\nsub/a.png,q\n", "test.csv": "path\nsub/b.png\n"}), "", OpenOptions{LabelColumn: "kind"}, "q", [3]string{"1"}, []string{"test.csv has no test labels"}},
		{"no labels in test rows", pictures(tree{"metadata.jsonl": "{\"file_name\": \"sub/a.png\", \"label\": \"q\", \"split\": \"train\"}\n{\"file_name\": \"sub/b.png\", \"label\": null, \"split\": \"test\"}"}), "", OpenOptions{}, "q", [3]string{"1"}, []string{"metadata.jsonl has no test labels"}},
		{"ids in two folders, one complete", few(tree{"labels.csv": "id,label\n1,cat\n2,dog\n"}, "train/1.JPG", "train/2.JPG", "examples/1.JPG"), "labels.csv", OpenOptions{}, "cat dog", [3]string{"2"}, []string{"train/1.JPG"}},
		{"equal ids in train and test", few(tree{"train.csv": "id,label\n1,cat\n2,dog\n", "test.csv": "id,label\n1,dog\n"}, "train/1.png", "train/2.png", "test/1.png", "test/2.png"), "", OpenOptions{}, "cat dog", [3]string{"train/1.png=0@train.csv:2; train/2.png=1@train.csv:3", "", "test/1.png=1@test.csv:2"}, []string{"train/1.png", "test/1.png"}},
		{"ids with dots", few(tree{"labels.csv": "id,label\nimg.1,cat\nimg.2,dog\n"}, "img.1.png", "img.2.png"), "labels.csv", OpenOptions{}, "cat dog", [3]string{"2"}, []string{"img.1.png"}},
		{"image root and suffix", few(tree{"x/labels.csv": "id,label\n1,cat\n2,dog\n"}, "y/1_a.png", "y/2_a.png", "x/1.png"), "x/labels.csv", OpenOptions{ImageRoot: "y", ImageSuffix: "_a.png"}, "cat dog", [3]string{"y/1_a.png=0@labels.csv:2; y/2_a.png=1@labels.csv:3"}, nil},
		{"image root alone", few(tree{"labels.csv": "id,label\n1,cat\n2,dog\n"}, "y/1.png", "y/2.png", "x/1.png", "x/2.png"), "labels.csv", OpenOptions{ImageRoot: "y"}, "cat dog", [3]string{"y/1.png=0@labels.csv:2; y/2.png=1@labels.csv:3"}, []string{"1.png"}},
		{"image suffix alone", few(tree{"labels.csv": "id,label\n1,cat\n2,dog\n"}, "y/1.png", "y/2.png", "y/1.jpg", "y/2.jpg"), "labels.csv", OpenOptions{ImageSuffix: ".jpg"}, "cat dog", [3]string{"y/1.jpg=0@labels.csv:2; y/2.jpg=1@labels.csv:3"}, []string{"y/1.jpg"}},
		{"test alone", pictures(tree{"test.csv": "path,label\nsub/a.png,q\nsub/b.png,r\n"}), "", OpenOptions{NoTrain: true}, "q r", [3]string{"", "", "sub/a.png=0@test.csv:2; sub/b.png=1@test.csv:3"}, nil},

		{"one-hot", pictures(tree{"x.csv": "image,MEL,NV,UNK\nsub/a.png,0.0,1.0,0.0\nsub/b.png,1.0,0.0,0.0\n"}), "x.csv", OpenOptions{}, "MEL NV UNK", [3]string{"sub/a.png=1@x.csv:2; sub/b.png=0@x.csv:3"}, nil},
		{"one-hot with a split", pictures(tree{"x.csv": "image,b,a,split\nsub/a.png,0,1,train\nsub/b.png,1,0,train\nsub/c.png,1,0,test\n"}), "x.csv", OpenOptions{}, "b a", [3]string{"2", "", "sub/c.png=0@x.csv:4"}, nil},
		{"one-hot in JSON", pictures(tree{"x.jsonl": "{\"image\": \"sub/a.png\", \"b\": 0, \"a\": 1}\n{\"image\": \"sub/b.png\", \"b\": true, \"a\": false}"}), "x.jsonl", OpenOptions{}, "b a", [3]string{"sub/a.png=1@x.jsonl:1; sub/b.png=0@x.jsonl:2"}, nil},
		{"Roboflow", few(tree{"train/_classes.csv": "filename, daisy, rose\n1.jpg, 1, 0\n2.jpg, 0, 1\n", "valid/_classes.csv": "filename, rose, daisy\n1.jpg, 1, 0\n", "test/_classes.csv": "filename, daisy, rose\n1.jpg, 0, 0\n"}, "train/1.jpg", "train/2.jpg", "valid/1.jpg", "test/1.jpg"), "", OpenOptions{}, "daisy rose",
			[3]string{"train/1.jpg=0@train/_classes.csv:2; train/2.jpg=1@train/_classes.csv:3", "valid/1.jpg=1@valid/_classes.csv:2"}, []string{"test/_classes.csv has no test labels"}},
		{"a test table with two other columns of 0 and 1", pictures(tree{"train.csv": "path,label,x,y\nsub/a.png,q,0,1\n", "test.csv": "path,x,y\nsub/b.png,0,1\n"}), "", OpenOptions{}, "q", [3]string{"1"}, []string{"test.csv has no test labels"}},
		{"two paths that are not UTF-8", few(tree{"x.csv": "path,label\na\xe9.png,q\na\xea.png,r\n"}, "a\xe9.png", "a\xea.png"), "x.csv", OpenOptions{}, "q r", [3]string{"a\xe9.png=0@x.csv:2; a\xea.png=1@x.csv:3"}, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			if runtime.GOOS == "windows" && c.name == "ids in two folders, one complete" {
				t.Skip("needs a file system that distinguishes capital letters")
			}
			root := c.files.write(t)
			if c.o.ImageRoot != "" {
				c.o.ImageRoot = filepath.Join(root, c.o.ImageRoot)
			}
			c.o.ValFraction, c.o.TestFraction = -1, -1
			d, err := Open(t.Context(), filepath.Join(root, c.open), c.o)
			if err != nil {
				t.Fatal(err)
			}
			for i, s := range d.splits() {
				got := describe(root, *s.samples)
				if c.want[i] == "" && len(*s.samples) == 0 {
					continue
				}
				if got != c.want[i] && fmt.Sprint(len(*s.samples)) != c.want[i] {
					t.Errorf("%s: read %q, want %q", s.name, got, c.want[i])
				}
			}
			if got := strings.Join(d.Classes, " "); got != c.classes {
				t.Errorf("classes %q, want %q", got, c.classes)
			}
			ok := len(d.Notes) == len(c.notes)
			for i := range min(len(d.Notes), len(c.notes)) {
				ok = ok && strings.Contains(d.Notes[i], c.notes[i])
			}
			if !ok {
				t.Errorf("notes %q, want parts %q", d.Notes, c.notes)
			}
		})
	}
}

func TestTableFormErrors(t *testing.T) {
	for _, c := range []struct {
		name, file, text string
		o                OpenOptions
		want             []string
	}{
		{"a label with a zero in test alone", "x.csv", "path,label,split\nsub/a.png,1,train\nsub/b.png,01,test\n", OpenOptions{}, []string{"x.csv:3", `no class "01"`}},
		{"a URL", "x.csv", "path,label\nhttps://a.b/x.jpg,q\n", OpenOptions{}, []string{"x.csv:2", `"https://a.b/x.jpg" is a URL`, "download"}},
		{"no one", "x.csv", "path,b,a\nsub/a.png,0,1\nsub/b.png,0,0\n", OpenOptions{}, []string{"x.csv:3", "none of the 2 class columns is 1"}},
		{"no class columns", "x.csv", "path,b,a\nsub/a.png,0,1\nsub/b.png,0,2\n", OpenOptions{}, []string{"x.csv:3", "no column of labels"}},
		{"the same class column twice", "x.csv", "path,b,b\nsub/a.png,0,1\n", OpenOptions{}, []string{`both named "b"`}},
		{"a test label missing", "x.csv", "path,label,split\nsub/a.png,q,train\nsub/b.png,,test\nsub/c.png,q,test\n", OpenOptions{}, []string{"x.csv:3", "the label is empty"}},
		{"test images alone", "test.csv", "path,label\nsub/a.png,q\n", OpenOptions{}, []string{"test.csv lists no training images"}},
		{"two folders", "x.csv", "path,label\n1,q\n", OpenOptions{}, []string{"x.csv:2", `"1" may stand for`, "p/1.jpg", "q/1.jpg", "image root"}},
		{"no such id", "x.csv", "path,label\n7,q\n", OpenOptions{}, []string{"x.csv:2", `no image "7"`, "image root", "image suffix"}},
		{"labels in a list, in test alone", "x.jsonl", "{\"path\": \"sub/a.png\", \"label\": 1, \"split\": \"train\"}\n{\"path\": \"sub/b.png\", \"label\": [1], \"split\": \"test\"}", OpenOptions{}, []string{"x.jsonl:2", "found [1]"}},
		{"the image column is the label column", "x.csv", "path,label\nsub/a.png,q\n", OpenOptions{ImageColumn: "label"}, []string{"column of images and of labels"}},
		{"image root elsewhere", "train800.txt", "sub/a.png 0\n", OpenOptions{ImageRoot: "x"}, []string{"layout vtab has no table of image paths"}},
	} {
		root := pictures(tree{c.file: c.text, "p/1.jpg": "image", "q/1.jpg": "image"}).write(t)
		path := root
		if strings.HasPrefix(c.file, "x.") {
			path = filepath.Join(root, c.file)
		}
		_, err := Open(t.Context(), path, c.o)
		for _, w := range c.want {
			if err == nil || !strings.Contains(err.Error(), w) {
				t.Errorf("%s: error %v, want one with %q", c.name, err, w)
			}
		}
	}
}

// TestListsFromOne checks that lists whose labels begin at 1 are reported.
func TestListsFromOne(t *testing.T) {
	files := pictures(tree{"train800.txt": "sub/a.png 1\nsub/b.png 2\n", "test.txt": "sub/c.png 1\n"})
	d, err := Open(t.Context(), files.write(t), OpenOptions{ValFraction: -1})
	if err != nil || len(d.Classes) != 3 || len(d.Notes) != 1 || !strings.Contains(d.Notes[0], "the smallest label is 1 (train800.txt:1)") {
		t.Errorf("data set %+v, error %v", d, err)
	}
	if _, err := Open(t.Context(), files.write(t), OpenOptions{Classes: 2}); err == nil || !strings.Contains(err.Error(), "3 classes, expected 2; the smallest label is 1") {
		t.Errorf("unexpected error %v", err)
	}
	d, err = Open(t.Context(), files.with(tree{"test.txt": "sub/c.png 0\n"}).write(t), OpenOptions{Classes: 3, ValFraction: -1})
	if err != nil || d.Notes != nil {
		t.Errorf("data set %+v, error %v", d, err)
	}
}

// TestMetadataParquet checks tables in the format parquet, beside the images.
func TestMetadataParquet(t *testing.T) {
	for _, c := range []struct {
		open        string
		train, test int
	}{{"", 4, 2}, {"train", 4, 0}, {"train/metadata.parquet", 4, 0}} {
		d, err := Open(t.Context(), filepath.Join(parquetData, "metadata", c.open), OpenOptions{ValFraction: -1, TestFraction: -1})
		if err != nil {
			t.Errorf("%s: %v", c.open, err)
			continue
		}
		if d.Layout != "table" || fmt.Sprint(d.Classes) != "[zebra ant]" || len(d.Train) != c.train || len(d.Test) != c.test || d.Train[1].Target != Class(1) || !strings.HasSuffix(d.Train[1].Where, "metadata.parquet row 1") {
			t.Errorf("%s: %+v", c.open, d)
		}
		if err := d.CheckImages(t.Context(), CheckOptions{}); err != nil {
			t.Errorf("%s: %v", c.open, err)
		}
	}
}

// TestParquetForms checks configurations, columns of splits, and splits without labels or without
// training images.
func TestParquetForms(t *testing.T) {
	train, test := "hub/data/train-00001-of-00002.parquet", "hub/data/test-00000-of-00001.parquet"
	const configs = "---\ndataset_info:\n- config_name: a\n  features:\n  - name: label\n    dtype:\n      class_label:\n        names: {0: x}\n" +
		"- config_name: b\n  features:\n  - name: label\n    dtype:\n      class_label:\n        names: {0: owl, 1: emu}\n---\n"
	for _, c := range []struct {
		name   string
		files  map[string]string
		o      OpenOptions
		images string // numbers of images, and the classes
		notes  []string
	}{
		{"a configuration", map[string]string{"plain/train.parquet": train, "plain/test.parquet": test}, OpenOptions{}, "5/0/6", []string{`in the folder "plain"`}},
		{"a configuration with split folders", map[string]string{"plain/train/0.parquet": train, "plain/test/0.parquet": test}, OpenOptions{}, "5/0/6", []string{`in the folder "plain"`}},
		{"a column of splits", map[string]string{"all.parquet": "other/splits.parquet"}, OpenOptions{}, "2/1/1", []string{`column "is_test" is not used: its type is BOOLEAN`, `column "fold" is not used: "0"`}},
		{"names of a configuration", map[string]string{"b/train.parquet": "other/required.parquet", "README.md": configs}, OpenOptions{}, "4/0/0 [owl emu]", []string{`"b"`}},
		{"names above the folder of a configuration", map[string]string{"b/train.parquet": "other/required.parquet", "README.md": configs}, OpenOptions{}, "4/0/0 [owl emu]", nil},
		{"class folders with a table of something else", map[string]string{"cat/1.png": "image", "dog/1.png": "image", "dog/numbers.parquet": train}, OpenOptions{}, "2/0/0 [cat dog]", nil},
		{"test alone", map[string]string{"test.parquet": test}, OpenOptions{NoTrain: true}, "0/0/6", nil},
	} {
		c.o.ValFraction, c.o.TestFraction = -1, -1
		root := copied(t, c.files)
		if strings.Contains(c.name, "above") {
			root = filepath.Join(root, "b")
		}
		d, err := Open(t.Context(), root, c.o)
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		ok := len(d.Notes) == len(c.notes)
		for i := range min(len(d.Notes), len(c.notes)) {
			ok = ok && strings.Contains(d.Notes[i], c.notes[i])
		}
		if images := fmt.Sprintf("%d/%d/%d %s", len(d.Train), len(d.Val), len(d.Test), d.Classes); !strings.HasPrefix(images, c.images) || !ok {
			t.Errorf("%s: images %s, want %s; notes %q, want parts %q", c.name, images, c.images, d.Notes, c.notes)
		}
	}
	_, err := Open(t.Context(), copied(t, map[string]string{"a/train.parquet": train, "b/train.parquet": train}), OpenOptions{})
	if err == nil || !strings.Contains(err.Error(), "several configurations of a data set: a, b; open one of them") {
		t.Errorf("unexpected error %v", err)
	}
}
