package dataset

import (
	"os"
	"path/filepath"
	"testing"
)

// TestCopies checks which files count as equal: the same bytes in any split, and not files that
// only have the same size, nor equal pixels in another format.
func TestCopies(t *testing.T) {
	root := t.TempDir()
	write := func(path, content string) {
		t.Helper()
		path = filepath.Join(root, path)
		if err := os.MkdirAll(filepath.Dir(path), 0o777); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o666); err != nil {
			t.Fatal(err)
		}
	}
	write("train/a/1.ppm", "P6 1 1 255\nabc")
	write("train/a/2.ppm", "P6 1 1 255\nabd") // as large as the first one
	write("train/b/3.ppm", "P6 1 1 255\nabc") // the first one with another label
	write("train/b/4.ppm", "P6 1 1 255 \nabc")
	write("test/a/5.ppm", "P6 1 1 255\nabd")
	write("test/b/6.ppm", "P6 1 1 255\nxyz")
	d, err := Open(t.Context(), root, OpenOptions{ValFraction: -1})
	if err != nil {
		t.Fatal(err)
	}
	found, err := d.Copies(t.Context(), 0)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, g := range found {
		text := ""
		for _, l := range g.Copies {
			text += d.NameOf(l.Sample) + " "
		}
		if g.Conflicts {
			text += "conflict "
		}
		if g.LeaksIntoTest {
			text += "leak"
		}
		got = append(got, text)
	}
	want := []string{"train/a/1.ppm train/b/3.ppm conflict ", "train/a/2.ppm test/a/5.ppm leak"}
	if len(got) != 2 || got[0] != want[0] || got[1] != want[1] {
		t.Errorf("found %q, expected %q", got, want)
	}
	counts := d.Counts()
	if len(counts) != 3 || counts[0].Images != 4 || counts[0].Classes[1] != 2 || counts[1].Images != 0 || counts[2].Classes[0] != 1 {
		t.Errorf("counted %+v", counts)
	}
}
