package dataset

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// TestSplitWord compares with the splits that the datasets library of Hugging Face gives to the
// names of folders; see testdata/splits/make.py.
func TestSplitWord(t *testing.T) {
	data, err := os.ReadFile(filepath.Join("testdata", "splits", "splits.json"))
	if err != nil {
		t.Fatal(err)
	}
	var names map[string][]string
	if err := json.Unmarshal(data, &names); err != nil {
		t.Fatal(err)
	}
	if len(names) < 50 {
		t.Fatalf("%d names", len(names))
	}
	for name, want := range names {
		split, ok := splitWord(name)
		if ok != (len(want) == 1) || ok && want[0] != []string{"train", "validation", "test"}[split] {
			t.Errorf("%s: split %d, %t; the datasets library finds %v", name, split, ok, want)
		}
	}
}

// folders returns a tree with two images in each of the folders, which are separated by spaces. The
// words a{b,c} stand for ab and ac.
func folders(names string) tree {
	files := tree{}
	var add func(name string)
	add = func(name string) {
		before, rest, ok := strings.Cut(name, "{")
		if !ok {
			files[name+"/1.png"], files[name+"/2.png"] = "image", "image"
			return
		}
		inner, after, _ := strings.Cut(rest, "}")
		for part := range strings.SplitSeq(inner, ",") {
			add(before + part + after)
		}
	}
	for name := range strings.FieldsSeq(names) {
		add(name)
	}
	return files
}

// TestFolderTrees checks how trees of folders are read: the folders of each split, the notes, or
// the error. Val is not taken from train, so that all images of a folder stay together.
func TestFolderTrees(t *testing.T) {
	for _, c := range []struct {
		tree   string // as in folders; a name that ends in a file is taken as it is
		splits string // train|val|test, each with the Where of its samples
		notes  string // parts of notes, separated by ;
		err    string // parts of the error, separated by ;
	}{
		// Words in names, and one folder deeper.
		{tree: "seg_train/seg_train/{sea,street} seg_test/seg_test/{sea,street} seg_pred/seg_pred",
			splits: "seg_train/seg_train/sea seg_train/seg_train/street||seg_test/seg_test/sea seg_test/seg_test/street",
			notes:  "folder seg_pred with 2 images is not read: its name is not the name of a split"},
		{tree: "training_set/{a,b} test_set/{a,b}", splits: "training_set/a training_set/b||test_set/a test_set/b"},
		{tree: "training_set/training_set/{a,b} test_set/test_set/{a,b}", splits: "training_set/training_set/a training_set/training_set/b||test_set/test_set/a test_set/test_set/b"},
		{tree: "train_data/{a,b} val_data/{a,b}", splits: "train_data/a train_data/b|val_data/a val_data/b|"},
		{tree: "images_train/{a,b} images_val/{a,b}", splits: "images_train/a images_train/b|images_val/a images_val/b|"},
		{tree: "train_set/{a,b} valid_set/{a,b}", splits: "train_set/a train_set/b|valid_set/a valid_set/b|"},
		{tree: "asl_alphabet_train/asl_alphabet_train/{A,B} asl_alphabet_test/asl_alphabet_test",
			splits: "asl_alphabet_train/asl_alphabet_train/A asl_alphabet_train/asl_alphabet_train/B||",
			notes:  "folder asl_alphabet_test with 2 images is not read: it has no class folders"},
		{tree: "fruits/Training/{a,b} fruits/Test/{a,b} fruits/test-multiple_fruits", splits: "fruits/Training/a fruits/Training/b||fruits/Test/a fruits/Test/b",
			notes: "folder fruits/test-multiple_fruits with 2 images is not read"},
		{tree: "train/{a,b} dev/{a,b} eval/{a,b}", splits: "train/a train/b|dev/a dev/b|eval/a eval/b"},
		{tree: "train2017/{a,b} val2017/{a,b}", splits: "train2017/a train2017/b|val2017/a val2017/b|"},
		{tree: "train/{a,b} test", splits: "train/a train/b||", notes: "folder test with 2 images is not read: it has no class folders, so its images have no labels"},
		{tree: "train/{a,b} test/{a,b} extra/{a,b} docs/notes.txt", splits: "train/a train/b||test/a test/b",
			notes: "folder docs is not read: it has no images;folder extra with 4 images is not read"},
		{tree: "train/{a,b}", splits: "train/a train/b||"},
		{tree: "images_train/{a,b}", splits: "images_train/a images_train/b||"},

		// Another level between the split and the classes, or above all.
		{tree: "train/images/{a,b} test/images/{a,b}", splits: "train/images/a train/images/b||test/images/a test/images/b"},
		{tree: "images/{train,val}/{a,b} labels/train/1.txt", splits: "images/train/a images/train/b|images/val/a images/val/b|", notes: "folder labels is not read: it has no images"},
		{tree: "images/Images/{a,b} annotations/Annotation/a/1.xml", splits: "images/Images/a images/Images/b||", notes: "folder annotations is not read: it has no images"},
		{tree: "train/{a,b}/images val/images", splits: "train/a train/b||", notes: "folder val with 2 images is not read"},
		{tree: "train/{data,images} test/images", splits: "train/data train/images||test/images"},
		{tree: "train/{a,b} test/b", splits: "train/a train/b||test/b"},

		// Splits inside the classes.
		{tree: "{a,b}/{train,test}", splits: "a/train b/train||a/test b/test"},
		{tree: "{a,b}/{train,val} b/test", splits: "a/train b/train|a/val b/val|b/test"},
		{tree: "pets/{a,b}/{train,test} annotations/x.json", splits: "pets/a/train pets/b/train||pets/a/test pets/b/test"},
		{tree: "{a,b}/{train,test} c", err: "b/train is either a split of the class or a part of it;train, val and test;rename"},
		{tree: "{a,b}/{test,other}", err: "b/test is either"},
		{tree: "railway/{train,tram} road", splits: "railway road||"},

		// Class folders, also with the words of splits.
		{tree: "a b", splits: "a b||"},
		{tree: "a/{1,2} b/{1,2}", splits: "a b||"},
		{tree: "train bus car", splits: "bus car train||"},
		{tree: "test_tube flask beaker", splits: "beaker flask test_tube||"},
		{tree: "test_tube/{big,small} flask beaker", splits: "beaker flask test_tube||"},
		{tree: "steam_train bus", err: "steam_train is either a split or a class"},
		{tree: "valley contest", splits: "contest valley||"},
		{tree: "a b annotations/a/1.xml", splits: "a b||", notes: "folder annotations is not read: it has no images"},
		{tree: "a b extra/1.xml", err: "class folder extra has no images;found .xml;add images of the class or, if it is no class, move"},

		// Trees with two readings.
		{tree: "a b test", err: "test is either a split or a class beside a, b;holds test images, move a, b into a folder train;if it is a class, rename"},
		{tree: "a b test/{a,b}", err: "test is either a split or a class beside a, b"},
		{tree: "a b test_images", err: "test_images is either a split or a class"},
		{tree: "train_images masks", err: "train_images is either a split or a class"},
		{tree: "train/{a,b} bus", err: "train is either a split or a class beside bus;if train holds the training images and bus is not needed, give "},
		{tree: "trainval/{a,b} test/{a,b}", err: "test is either a split or a class beside trainval"},
		{tree: "trainset/{a,b} testset/{a,b}", err: "the folders testset, trainset are either splits or classes"},
		{tree: "TrainImages/{a,b} TestImages/{a,b}", err: "TestImages, TrainImages are either"},
		{tree: "valid/{a,b} test/{a,b}", err: "no folder of training images;add a folder train"},
		{tree: "test/{a,b}", err: "found test, which holds test images, and no folder of training images;or give "},
		{tree: "train test", err: "train holds images but no class folders"},
		{tree: "train/images test/images", err: "train holds images but no class folders"},
		{tree: "train_1/{a,b} train_2/{a,b}", err: "found both train_1 and train_2"},
		{tree: "train/{a,b} test/{a,b} eval/{a,b}", err: "found both eval and test"},

		// Hidden and system names.
		{tree: "a b a/@eaDir b/.ipynb_checkpoints __MACOSX/a .git/x", splits: "a b||",
			notes: "4 hidden or system files and folders are not read: .git 1, .ipynb_checkpoints 1, @eaDir 1, __MACOSX 1"},
		{tree: "a b a/Thumbs.db a/.DS_Store b/.DS_Store a/._1.png a/._2.png", splits: "a b||",
			notes: "5 hidden or system files and folders are not read: .DS_Store 2, ._* 2, Thumbs.db 1"},
	} {
		files := tree{}
		for name := range strings.FieldsSeq(c.tree) {
			base := filepath.Base(name)
			if strings.HasPrefix(base, "._") || slices.Contains([]string{".DS_Store", "Thumbs.db"}, base) || slices.Contains([]string{".txt", ".xml", ".json"}, filepath.Ext(base)) {
				files[name] = "x"
				continue
			}
			files = files.with(folders(name))
		}
		d, err := Open(t.Context(), files.write(t), OpenOptions{ValFraction: -1, TestFraction: -1})
		if c.err != "" {
			for part := range strings.SplitSeq(c.err, ";") {
				if err == nil || !strings.Contains(err.Error(), part) {
					t.Errorf("%s: error %v, want one with %q", c.tree, err, part)
				}
			}
			continue
		}
		if err != nil {
			t.Errorf("%s: %v", c.tree, err)
			continue
		}
		var got []string
		images := 0
		for _, s := range d.splits() {
			var where []string
			for _, sample := range *s.samples {
				where = append(where, sample.Where)
			}
			images += len(where)
			got = append(got, strings.Join(slices.Compact(where), " "))
		}
		if got := strings.Join(got, "|"); got != c.splits {
			t.Errorf("%s: read as %s, want %s", c.tree, got, c.splits)
		}
		if notes := strings.Join(d.Notes, ";"); c.notes == "" && notes != "" && !strings.Contains(c.tree, "annotations") || d.Stray != 0 {
			t.Errorf("%s: notes %s, %d stray images", c.tree, notes, d.Stray)
		} else {
			for part := range strings.SplitSeq(c.notes, ";") {
				if !strings.Contains(notes, part) {
					t.Errorf("%s: notes %s, want %q", c.tree, notes, part)
				}
			}
		}
	}
}

// TestStray checks that every image of a tree is read, in a note, or stray.
func TestStray(t *testing.T) {
	files := folders("all/train/{a,b} all/train/a/deep all/test/{a,b} all/other").with(tree{"0.png": "image", "all/0.png": "image", "all/train/0.png": "image", "all/test/0.png": "image"})
	d, err := Open(t.Context(), files.write(t), OpenOptions{})
	if err != nil || d.Stray != 4 || len(d.Train)+len(d.Val) != 6 || len(d.Test) != 4 {
		t.Errorf("%+v, error %v; want 4 stray images", d, err)
	}
}

// TestTakesForClass checks in which folders of a data set results would become classes.
func TestTakesForClass(t *testing.T) {
	for _, c := range []struct{ tree, class, free string }{
		{"a b", ". runs a/runs", ".runs"},
		{"train/{a,b} test/{a,b}", "train/x test", "runs . other/x"},
		{"images/{a,b}", "images/runs images", "runs ."},
		{"all/train_set/{a,b} all/test_set/{a,b}", "all/train_set/x all/val", "all/runs runs train"},
		{"{a,b}/{train,test}", "runs a/runs", ".runs"},
	} {
		d, err := Open(t.Context(), folders(c.tree).write(t), OpenOptions{})
		if err != nil {
			t.Fatal(err)
		}
		for _, want := range []bool{true, false} {
			names := map[bool]string{true: c.class, false: c.free}[want]
			for name := range strings.FieldsSeq(names) {
				if got := d.TakesForClass(filepath.Join(d.Root, name)); got != want {
					t.Errorf("%s: TakesForClass(%s) = %t", c.tree, name, got)
				}
			}
		}
	}
}

// TestAlikeClasses checks the note about class names that look alike.
func TestAlikeClasses(t *testing.T) {
	note := alikeClasses([]string{"Cat", "caf\u00e9", "cafe\u0301", "cat", "cat ", "dog", "fox"})
	for _, want := range []string{`"Cat" and "cat" and "cat "`, `"caf\u00e9" and "cafe\u0301"`} {
		if !strings.Contains(note, want) {
			t.Errorf("the note %s lacks %s", note, want)
		}
	}
	if strings.Contains(note, "dog") || alikeClasses([]string{"a", "b", "e\u0301", "a1"}) != "" {
		t.Errorf("the note names classes that differ: %s", note)
	}
	var many []string
	for i := range 30 {
		many = append(many, fmt.Sprintf("A%d", i), fmt.Sprintf("a%d", i))
	}
	if note := alikeClasses(many); !strings.Contains(note, "and 20 more") || len(note) > 400 {
		t.Errorf("note %s", note)
	}
	d, err := Open(t.Context(), folders("Cat cats CATS").write(t), OpenOptions{ValFraction: -1, TestFraction: -1})
	if err != nil {
		t.Skipf("the test needs a file system that tells upper and lower case apart: %v", err)
	}
	if len(d.Classes) == 3 && (len(d.Notes) != 1 || !strings.Contains(d.Notes[0], `"CATS" and "cats"`)) {
		t.Errorf("notes %q", d.Notes)
	}
}
