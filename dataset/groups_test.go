package dataset

import (
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// groupTree returns a folder of images of patients in two classes: PATIENT_NUMBER.png.
func groupTree(t *testing.T, patients, each int) string {
	files := tree{}
	for p := range patients {
		for i := range each {
			files[fmt.Sprintf("%s/p%02d_%d.png", []string{"cat", "dog"}[(p+i)%2], p, i)] = "image"
		}
	}
	return files.write(t)
}

// checkGroups returns an error if an image has no group, or if a group is in several splits.
func checkGroups(d *Dataset, groups int) error {
	all := slices.Concat(d.Train, d.Val, d.Test)
	names := map[string]bool{}
	for _, s := range all {
		if s.Group == "" {
			return fmt.Errorf("%s has no group", s.Path)
		}
		names[s.Group] = true
	}
	if len(names) != groups {
		return fmt.Errorf("found %d groups, want %d", len(names), groups)
	}
	if len(d.Val) == 0 || len(d.Test) == 0 {
		return fmt.Errorf("%d val and %d test images", len(d.Val), len(d.Test))
	}
	return groupPlaces(all, d.Train, d.Val, d.Test)
}

// TestGroupPattern checks groups that a pattern takes from the paths of images.
func TestGroupPattern(t *testing.T) {
	root := groupTree(t, 12, 4)
	plain, err := Open(t.Context(), root, OpenOptions{})
	if err != nil {
		t.Fatal(err)
	}
	o := OpenOptions{GroupPattern: `/(p\d+)_`, Seed: 3}
	d, err := Open(t.Context(), root, o)
	if err != nil {
		t.Fatal(err)
	}
	if err := checkGroups(d, 12); err != nil {
		t.Error(err)
	}
	if want := `stratified by class and groups of pattern "/(p\\d+)_" 0.8/0.1/0.1 seed 3`; d.Split != want {
		t.Errorf("split %q, want %q", d.Split, want)
	}
	if !slices.Contains(d.Notes, "12 groups of 48 images") {
		t.Errorf("notes %q", d.Notes)
	}
	if d.Fingerprint() == plain.Fingerprint() {
		t.Error("groups do not change the fingerprint")
	}
	again, err := Open(t.Context(), root, o)
	if err != nil || again.Fingerprint() != d.Fingerprint() {
		t.Errorf("opening again gives other splits (%v)", err)
	}
	if other, err := Open(t.Context(), root, OpenOptions{GroupPattern: `/(p\d+)_`, Seed: 4}); err != nil || slices.Equal(paths(other.Test), paths(d.Test)) && slices.Equal(paths(other.Val), paths(d.Val)) {
		t.Errorf("another seed gives the same splits (%v)", err)
	}
	// Images that do not match are groups of their own.
	some, err := Open(t.Context(), root, OpenOptions{GroupPattern: `/(p0\d)_`})
	if err != nil || !slices.ContainsFunc(some.Notes, func(n string) bool {
		return strings.HasPrefix(n, "10 groups of 40 images; 8 images are in no group")
	}) {
		t.Errorf("notes %q, error %v", some.Notes, err)
	}
	for pattern, want := range map[string]string{
		`p(\d+`:     "no regular expression",
		`p\d+`:      "captures nothing",
		`(?:p)\d+`:  "captures nothing",
		`^(nobody)`: "names a group in no path",
		`(z?)`:      "names a group in no path", // matches the empty text
	} {
		if _, err := Open(t.Context(), root, OpenOptions{GroupPattern: pattern}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("pattern %s: error %v, want %q", pattern, err, want)
		}
	}
	if _, err := Open(t.Context(), root, OpenOptions{GroupPattern: `(p)\d+`}); err == nil || !strings.Contains(err.Error(), "one group") {
		t.Errorf("a pattern that puts all images into one group: error %v", err)
	}
	if _, err := Open(t.Context(), root, OpenOptions{GroupPattern: `(p)\d+`, ValFraction: -1, TestFraction: -1}); err != nil {
		t.Errorf("one group without splits: error %v", err)
	}
	if _, err := Open(t.Context(), root, OpenOptions{GroupColumn: "patient"}); err == nil || !strings.Contains(err.Error(), "no columns") {
		t.Errorf("a column of class folders: error %v", err)
	}
	for fold := range 3 {
		f, err := Open(t.Context(), root, OpenOptions{GroupPattern: `/(p\d+)_`, Folds: 3, Fold: fold + 1})
		if err != nil {
			t.Fatal(err)
		}
		if err := checkGroups(f, 12); err != nil || len(f.Test) != 16 {
			t.Errorf("fold %d: %d test images, %v", fold+1, len(f.Test), err)
		}
		d.Options.Seed = 0
		of, err := d.Folds(3)
		if err != nil || of[fold].Fingerprint() != f.Fingerprint() || of[fold].Split != f.Split {
			t.Errorf("fold %d: Open and Folds give different data sets (%v)", fold+1, err)
		}
	}
	for _, o := range []OpenOptions{{Folds: 1, Fold: 1}, {Folds: 3, Fold: 4}, {Folds: 3}, {Fold: 1}, {Folds: 300, Fold: 1}, {Folds: -3, Fold: -1}} {
		if _, err := Open(t.Context(), root, o); err == nil {
			t.Errorf("fold %d of %d: no error", o.Fold, o.Folds)
		}
	}
}

// TestGroupsAcrossGivenSplits checks that splits of the data set are kept, with a warning.
func TestGroupsAcrossGivenSplits(t *testing.T) {
	root := tree{
		"train/cat/p1_1.png": "image", "train/cat/p1_2.png": "image", "train/dog/p2_1.png": "image", "train/dog/p3_1.png": "image",
		"test/cat/p1_3.png": "image", "test/dog/p4_1.png": "image", "test/dog/p2_2.png": "image",
	}.write(t)
	d, err := Open(t.Context(), root, OpenOptions{GroupPattern: `/(p\d)_`, ValFraction: -1})
	if err != nil {
		t.Fatal(err)
	}
	want := `2 groups are in several of the splits that the data set has, with 3 train, 2 test: "p1" (2 train, 1 test), "p2" (1 train, 1 test)`
	if len(d.Train) != 4 || len(d.Test) != 3 || !slices.ContainsFunc(d.Notes, func(n string) bool { return strings.HasPrefix(n, want) }) {
		t.Errorf("%d, %d images; notes %q, want %q", len(d.Train), len(d.Test), d.Notes, want)
	}
	if got, want := fmt.Sprint(d.DividedGroups()), "[{p1 [2 0 1]} {p2 [1 0 1]}]"; got != want {
		t.Errorf("divided groups %s, want %s", got, want)
	}
	if d, err = Open(t.Context(), root, OpenOptions{GroupPattern: `/(p\d_)`, ValFraction: -1, Folds: 2, Fold: 1}); err != nil {
		t.Fatal(err)
	}
	if err := groupPlaces(append(slices.Clone(d.Train), d.Test...), d.Train, d.Test); err != nil || len(d.Train)+len(d.Test) != 4 {
		t.Errorf("folds of the training images: %d and %d images, %v", len(d.Train), len(d.Test), err)
	}
}

// TestGroupColumn checks groups that a column of a table or of parquet files states.
func TestGroupColumn(t *testing.T) {
	files, csv, jsonl := tree{}, "file,label,patient,fold\n", ""
	for i := range 40 {
		name := fmt.Sprintf("%d.png", i)
		files[name] = "image"
		csv += fmt.Sprintf("%s,%s,%d,x\n", name, []string{"cat", "dog"}[i%2], i/4)
		jsonl += fmt.Sprintf("{\"file\": %q, \"label\": %d, \"patient\": %d}\n", name, i%2, i/4)
	}
	for name, text := range map[string]string{"list.csv": csv, "list.jsonl": jsonl} {
		root := files.with(tree{name: text}).write(t)
		d, err := Open(t.Context(), filepath.Join(root, name), OpenOptions{GroupColumn: "patient"})
		if err != nil {
			t.Fatal(err)
		}
		if err := checkGroups(d, 10); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if !strings.HasPrefix(d.Split, `stratified by class and groups of column "patient" `) {
			t.Errorf("%s: split %q", name, d.Split)
		}
	}
	bad := func(text string, o OpenOptions, want string) {
		t.Helper()
		root := files.with(tree{"list.jsonl": text, "list.csv": text}).write(t)
		name := "list.csv"
		if strings.HasPrefix(text, "{") {
			name = "list.jsonl"
		}
		if _, err := Open(t.Context(), filepath.Join(root, name), o); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v, want %q", err, want)
		}
	}
	bad(csv, OpenOptions{GroupColumn: "Patient"}, "there is no column of groups")
	bad(csv, OpenOptions{GroupColumn: "patient", GroupPattern: "(.)"}, "give one of them")
	bad("file,label,patient\n0.png,cat,\n1.png,dog, \n", OpenOptions{GroupColumn: "patient"}, "is empty for all images")
	bad("{\"file\": \"0.png\", \"label\": 1, \"patient\": [1]}\n", OpenOptions{GroupColumn: "patient"}, "want a string or a number")
	bad("file,label,patient\n0.png,cat,"+strings.Repeat("x", 2000)+"\n", OpenOptions{GroupColumn: "patient"}, "the limit is")
	bad("file,label,patient\n0.png,cat,\xff\n1.png,dog,b\n", OpenOptions{GroupColumn: "patient"}, "not UTF-8")

	// Without a value, an image is a group of its own.
	root := files.with(tree{"list.csv": strings.ReplaceAll(csv, ",0,x", ",,x")}).write(t)
	d, err := Open(t.Context(), filepath.Join(root, "list.csv"), OpenOptions{GroupColumn: "patient"})
	if err != nil || !slices.Contains(d.Notes, "9 groups of 36 images; 4 images are in no group, and each is a group of its own") {
		t.Errorf("notes %q, error %v", d.Notes, err)
	}
	// A table of test images may lack the column.
	root = files.with(tree{"train.csv": csv, "test.csv": "file,label\nt.png,cat\n", "t.png": "image"}).write(t)
	if d, err = Open(t.Context(), root, OpenOptions{GroupColumn: "patient"}); err != nil || d.Test[0].Group != "" {
		t.Errorf("a test table without the column: error %v", err)
	}

	parquet := filepath.Join(parquetData, "other", "int32.parquet")
	d, err = Open(t.Context(), parquet, OpenOptions{GroupColumn: "coarse_label", ValFraction: -1, TestFraction: 0.4})
	if err != nil {
		t.Fatal(err)
	}
	if all := slices.Concat(d.Train, d.Test); len(d.Test) == 0 || all[0].Group == "" {
		t.Errorf("parquet: %d test images, first group %q", len(d.Test), all[0].Group)
	} else if err := groupPlaces(all, d.Train, d.Test); err != nil {
		t.Error(err)
	}
	if _, err := Open(t.Context(), parquet, OpenOptions{GroupColumn: "none"}); err == nil || !strings.Contains(err.Error(), `"coarse_label"`) {
		t.Errorf("an unknown column of a parquet file: error %v", err)
	}
	if _, err := Open(t.Context(), parquet, OpenOptions{GroupColumn: "image.bytes"}); err == nil {
		t.Error("a column of images as groups: no error")
	}
	if _, err := Open(t.Context(), parquet, OpenOptions{GroupPattern: "(.)"}); err == nil || !strings.Contains(err.Error(), "have no names") {
		t.Errorf("a pattern for a parquet file: error %v", err)
	}
}

// TestGroupDuplicates checks that copies unite groups.
func TestGroupDuplicates(t *testing.T) {
	t.Setenv("XDG_CACHE_HOME", t.TempDir())
	// ppm returns an image; images with the same number are equal up to a comment.
	ppm := func(number int, comment string) string {
		m := resized(t, photo(rand.New(rand.NewPCG(6, uint64(number)))), 0.3)
		return fmt.Sprintf("P6 %s %d %d 255\n", comment, m.Width, m.Height) + string(m.Pix)
	}
	files := tree{}
	for i := range 30 {
		files[fmt.Sprintf("%s/p%d_%d.ppm", []string{"cat", "dog"}[i%2], i/3, i)] = ppm(i+1, "")
	}
	files["cat/q_1.ppm"], files["cat/q_2.ppm"] = ppm(1, "#\n"), ppm(4, "#\n") // unite p0 and p1
	files["dog/x.ppm"], files["dog/y.ppm"] = ppm(90, ""), ppm(90, "#\n")
	root := files.write(t)
	d, err := Open(t.Context(), root, OpenOptions{GroupDuplicates: true, GroupPattern: `/(\w+)_`})
	if err != nil {
		t.Fatal(err)
	}
	groups := map[string]int{}
	for _, s := range slices.Concat(d.Train, d.Val, d.Test) {
		groups[s.Group]++
	}
	if groups["p0"] != 8 || groups["p1"]+groups["q"] != 0 || groups["duplicates of dog/x.ppm"] != 2 {
		t.Errorf("groups %v; want p0 with p1 and q, and one of x and y", groups)
	}
	if err := checkGroups(d, 10); err != nil {
		t.Error(err)
	}
	if want := `stratified by class, groups of pattern "/(\\w+)_" and duplicates 0.8/0.1/0.1 seed 0`; d.Split != want {
		t.Errorf("split %q, want %q", d.Split, want)
	}
	if !slices.ContainsFunc(d.Notes, func(n string) bool { return strings.HasPrefix(n, "6 images are equal or nearly equal") }) {
		t.Errorf("notes %q", d.Notes)
	}
}
