package dataset

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// TestBadParquet checks the errors for parquet files that hold something else than images and
// labels: they name the file, the column, what was found and what was expected.
func TestBadParquet(t *testing.T) {
	for _, c := range []struct {
		file string // of bad, or two files
		o    OpenOptions
		want []string
	}{
		{"structlabel", OpenOptions{}, []string{`column label holds structs with the fields "id", "name", expected integers, strings or lists of them`, "label.FIELD", `"image" (structs with the fields "bytes", "path")`}},
		{"listofstructs", OpenOptions{}, []string{`column label holds lists of structs with the fields "id", expected integers, strings or lists of them`}},
		{"listoflists", OpenOptions{}, []string{"column label holds lists of lists of integers, expected integers, strings or lists of them"}},
		{"maplabel", OpenOptions{}, []string{"column label holds maps, expected integers, strings or lists of them"}},
		{"boollabel", OpenOptions{}, []string{"column label holds booleans, expected integers or strings"}},
		{"datelabel", OpenOptions{}, []string{"column label holds dates, expected integers or strings"}},
		{"timelabel", OpenOptions{}, []string{"column label holds timestamps, expected integers or strings"}},
		{"decimallabel", OpenOptions{}, []string{"column label holds decimal numbers, expected integers or strings"}},
		{"noimage", OpenOptions{}, []string{"no column holds images, as bytes or as a struct with bytes", `the columns are "number" (integers), "label" (strings)`}},
		{"noimage", OpenOptions{ImageColumn: "image"}, []string{`there is no column "image" of encoded images`, `"number" (integers)`}},
		{"noimage", OpenOptions{ImageColumn: "number"}, []string{`column "number" holds integers, expected encoded images`}},
		{"stringimage", OpenOptions{}, []string{"no column holds images", `"image" (strings)`}},
		{"stringimage", OpenOptions{ImageColumn: "image"}, []string{`column "image" holds text, not images`, "list the paths of the images in a .csv, .tsv or .jsonl table"}},
		{"listimage", OpenOptions{}, []string{"no column holds images", `"image" (lists of structs with the fields "bytes", "path")`}},
		{"numbersimage", OpenOptions{ImageColumn: "image"}, []string{`column "image" holds lists of integers, expected encoded images`}},
		{"fixedimage", OpenOptions{}, []string{"no column holds images", `"image" (bytes of a fixed length)`}},
		{"pathonly", OpenOptions{}, []string{"column image.bytes holds null in all 4 rows, expected the bytes of images", "store the images in the file"}},
		{"norows", OpenOptions{}, []string{"have no rows, expected a row for each image"}},
		{"outofrange", OpenOptions{}, []string{"column label: train.parquet row 2: label 2 is out of range: there are class names for the labels 0 to 1 only"}},
		{"stringlabel integerlabel", OpenOptions{}, []string{"train-1.parquet: column label holds integers, expected strings as in train-0.parquet"}},
		{"stringlabel structlabel", OpenOptions{}, []string{"train-1.parquet: column label holds structs"}},
		{"stringlabel stringimage", OpenOptions{}, []string{`train-1.parquet: column "image" holds text, not images`}},
		{"stringlabel noimage", OpenOptions{}, []string{`train-1.parquet: there is no column "image" of encoded images`}},
		{"integerlabel datelabel", OpenOptions{}, []string{"train-1.parquet: column label holds dates, expected integers or strings"}},
		{"stringlabel", OpenOptions{GroupColumn: "image"}, []string{`there is no column of groups "image"`, `"label" (strings)`}},
		{"boollabel", OpenOptions{LabelColumn: "image.path", GroupColumn: "label"}, []string{"the column of groups label holds booleans, expected integers or strings"}},
	} {
		files := map[string]string{}
		for i, name := range strings.Fields(c.file) {
			to := "train.parquet"
			if name != c.file {
				to = []string{"train-0.parquet", "train-1.parquet"}[i]
			}
			files[to] = "bad/" + name + ".parquet"
		}
		_, err := Open(t.Context(), copied(t, files), c.o)
		if err == nil {
			t.Errorf("%s: no error", c.file)
			continue
		}
		if !strings.Contains(c.file, " ") {
			c.want = append(c.want, "train.parquet")
		}
		for _, w := range c.want {
			if !strings.Contains(err.Error(), w) {
				t.Errorf("%s: the message lacks %q:\n%v", c.file, w, err)
			}
		}
	}
}

// TestNullBytes checks the errors for rows without the bytes of an image, and that they are skipped
// like broken images.
func TestNullBytes(t *testing.T) {
	path := filepath.Join(copied(t, map[string]string{"x.parquet": "bad/nullbytes.parquet", "y.parquet": "bad/pathonly.parquet"}), "x.parquet")
	o := OpenOptions{ValFraction: -1, TestFraction: -1}
	d, err := Open(t.Context(), path, o)
	if err != nil {
		t.Fatal(err)
	}
	err = d.CheckImages(t.Context(), CheckOptions{})
	var bad *ImageError
	if !errors.As(err, &bad) {
		t.Errorf("error %v is no ImageError", err)
	}
	for _, w := range []string{
		"3 images of data set x cannot be decoded",
		"x.parquet, row 1, column image.bytes: found null, expected the bytes of an image: store the images in the file",
		"x.parquet, row 2, column image.bytes: found null, expected the bytes of an image",
		"x.parquet, row 3, column image.bytes: found no bytes, expected the bytes of an image",
	} {
		if err == nil || !strings.Contains(err.Error(), w) {
			t.Errorf("the message lacks %q:\n%v", w, err)
		}
	}
	o.SkipBadImages = true
	for path, want := range map[string]int{path: 3, filepath.Join(filepath.Dir(path), "y.parquet"): 4} {
		if d, err = Open(t.Context(), path, o); err != nil {
			t.Fatal(err)
		}
		err = d.CheckImages(t.Context(), CheckOptions{})
		if want == 4 {
			if err == nil || !strings.Contains(err.Error(), "there are no training images after skipping 4 broken images") {
				t.Errorf("error %v of a file without bytes", err)
			}
		} else if err != nil || len(d.Skipped) != want {
			t.Errorf("%d images skipped, error %v, want %d", len(d.Skipped), err, want)
		}
	}
}

// TestCutParquet checks that a parquet file that is cut short anywhere, or damaged in a byte of its
// ends, is an error that names the file, and never something else.
func TestCutParquet(t *testing.T) {
	whole, err := os.ReadFile(filepath.Join(parquetData, "bad", "stringlabel.parquet"))
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "cut.parquet")
	open := func(data []byte) error {
		t.Helper()
		writeFile(t, path, data)
		_, err := Open(t.Context(), path, OpenOptions{ValFraction: -1, TestFraction: -1})
		return err
	}
	if err := open(whole); err != nil {
		t.Fatal(err)
	}
	for n := 0; n < len(whole); n += 7 {
		if err := open(whole[:n]); err == nil || !strings.Contains(err.Error(), "reading cut.parquet: ") {
			t.Errorf("cut after %d of %d bytes: error %v", n, len(whole), err)
		}
	}
	for _, at := range []int{0, 3, len(whole) - 4, len(whole) - 1} {
		data := slices.Clone(whole)
		data[at] ^= 0x20
		if err := open(data); err == nil || !strings.Contains(err.Error(), `but a parquet file begins and ends with "PAR1"`) {
			t.Errorf("byte %d changed: error %v", at, err)
		}
	}
	if err := open(append([]byte("PAR1"), whole[:len(whole)/2]...)); err == nil || !strings.Contains(err.Error(), "it is cut short or another kind of file") {
		t.Errorf("half a file: error %v", err)
	}
}
