package dataset

import (
	"bufio"
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/sbinet/npyio/npz"

	"github.com/sptune/spt/internal/golden"
)

// TestGoldenResized compares six JPEG images of Caltech-101, resized to 224×224 pixels, with the
// results of Pillow 9.4.
func TestGoldenResized(t *testing.T) {
	f, err := npz.Open(golden.Path(t, "vit_tiny_real", "golden.npz"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var want []uint8 // [6, 224, 224, 3]
	if err := f.Read("resized_uint8.npy", &want); err != nil {
		t.Fatal(err)
	}
	root := golden.Beside(t, "data", "caltech101")
	list, err := os.Open(filepath.Join(root, "test.txt"))
	if err != nil {
		t.Fatal(err)
	}
	defer list.Close()
	lines := bufio.NewScanner(list)
	const imageBytes = 224 * 224 * 3
	for i := range len(want) / imageBytes {
		if !lines.Scan() {
			t.Fatal("test.txt is shorter than the golden data")
		}
		name, _, _ := strings.Cut(lines.Text(), " ")
		m, err := decodeFile(filepath.Join(root, name))
		if err != nil {
			t.Fatal(err)
		}
		m, err = resizeBicubic(m, 224, 224)
		if err != nil {
			t.Fatal(err)
		}
		greatest, mean := compare(t, m, &RGB{224, 224, want[i*imageBytes : (i+1)*imageBytes]})
		t.Logf("%s: greatest difference %d levels, mean %.4f", name, greatest, mean)
		if greatest > 0 {
			t.Errorf("%s: off by up to %d levels, %.4f on average; want the same pixels", name, greatest, mean)
		}
	}
}

func TestOpenRealSets(t *testing.T) {
	for _, c := range []struct {
		name, layout                  string
		classes, train, val, test     int
		firstClass, lastClass         string
		duplicates, leaks, conflicted int
	}{
		{"caltech101", "vtab", 102, 800, 200, 1000, "BACKGROUND_Google", "yin_yang", 0, 0, 0},
		{"blood_cells", "vtab", 3, 800, 200, 1000, "RBC", "Platelets", 0, 0, 0},
		{"sign_digits", "vtab", 10, 800, 200, 1000, "0", "9", 0, 0, 0},
		{"fashion_mnist", "vtab", 10, 800, 200, 1000, "t-shirt", "boot", 0, 0, 0},
		{"clothing", "imagefolder", 10, 800, 200, 372, "dress", "t-shirt", 0, 0, 0},
		{"grocery", "fgvc", 81, 972, 296, 800, "0", "80", 0, 0, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			d, err := Open(t.Context(), golden.Beside(t, "data", c.name), OpenOptions{})
			if err != nil {
				t.Fatal(err)
			}
			if d.Name != c.name || d.Layout != c.layout || d.Split != "given" || len(d.Skipped) != 0 {
				t.Errorf("name %q, layout %q, split %q, %d skipped", d.Name, d.Layout, d.Split, len(d.Skipped))
			}
			if len(d.Classes) != c.classes || d.Classes[0] != c.firstClass || d.Classes[len(d.Classes)-1] != c.lastClass {
				t.Errorf("%d classes %q … %q, want %d %q … %q", len(d.Classes), d.Classes[0], d.Classes[len(d.Classes)-1], c.classes, c.firstClass, c.lastClass)
			}
			if len(d.Train) != c.train || len(d.Val) != c.val || len(d.Test) != c.test {
				t.Errorf("%d/%d/%d images, want %d/%d/%d", len(d.Train), len(d.Val), len(d.Test), c.train, c.val, c.test)
			}
			for _, s := range d.splits() { // keep only some images, so that the test is fast
				*s.samples = (*s.samples)[:min(100, len(*s.samples))]
			}
			c.train, c.val, c.test = len(d.Train), len(d.Val), len(d.Test)
			v, err := d.Verify(context.Background(), 0, nil)
			if err != nil {
				t.Fatal(err)
			}
			leaks, conflicted := 0, 0
			for _, g := range v.Duplicates {
				if g.Leaks {
					leaks++
				}
				if g.Conflicts {
					conflicted++
				}
			}
			if len(v.Duplicates) != c.duplicates || leaks != c.leaks || conflicted != c.conflicted || v.Images != c.train+c.val+c.test {
				t.Errorf("%d images, %d duplicates, %d leaks, %d conflicts, want %d, %d, %d, %d",
					v.Images, len(v.Duplicates), leaks, conflicted, c.train+c.val+c.test, c.duplicates, c.leaks, c.conflicted)
			}
			if len(v.Unreadable) != 0 {
				t.Errorf("unreadable: %+v", v.Unreadable)
			}
		})
	}
}

// BenchmarkLoadCaltech measures how many images per second a loader decodes and resizes to 224×224
// pixels. The JPEG files are in the page cache of the operating system.
func BenchmarkLoadCaltech(b *testing.B) {
	d, err := Open(b.Context(), golden.Beside(b, "data", "caltech101"), OpenOptions{})
	if err != nil {
		b.Fatal(err)
	}
	l := NewLoader(d.Val, Transform{Size: 224}, nil, LoaderOptions{})
	images := 0
	b.ReportAllocs()
	for b.Loop() {
		for batch, err := range l.Batches(context.Background(), nil, 64, 0, 0) {
			if err != nil {
				b.Fatal(err)
			}
			images += batch.N
		}
	}
	b.ReportMetric(float64(images)/b.Elapsed().Seconds(), "images/s")
}
