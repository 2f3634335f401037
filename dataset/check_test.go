package dataset

import (
	"archive/zip"
	"bytes"
	"errors"
	"fmt"
	"image"
	"image/jpeg"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/sptune/spt/progress"
)

// counted is an image that counts how often it is read whole and in part.
type counted struct {
	archived
	whole, part *atomic.Int32
}

func (c counted) encoded() ([]byte, error) {
	c.whole.Add(1)
	return c.archived.encoded()
}

func (c counted) ends(n int) (first, last []byte, size int64, err error) {
	c.part.Add(1)
	first, last, err = endsOf(bytes.NewReader(c.data), int64(len(c.data)), n)
	return first, last, int64(len(c.data)), err
}

// TestQuickCheck checks that a quick check decodes the images that the cache has room for, and no
// others, and that a loader finds the rest of the damage.
func TestQuickCheck(t *testing.T) {
	var whole, part atomic.Int32
	samples := func(split string, n int) (out []Sample) {
		for i := range n {
			name := fmt.Sprintf("/a/%s/%d.png", split, i)
			out = append(out, Sample{Path: name, Where: split, Target: Class(i % 2), stored: counted{archived{data: []byte(onePixel(t, uint8(10*i)))}, &whole, &part}})
		}
		return out
	}
	transform := Transform{Size: 4}
	each := int64(3*4*4 + len("/a/train/0.png") + entryBytes)
	for _, c := range []struct {
		cache       *Cache
		whole, part int32
	}{
		{nil, 0, 20},
		{NewCache(-1), 1, 19}, // the first image shows that the cache keeps nothing
		{NewCache(5 * each), 6, 14},
		{NewCache(0), 20, 0},
	} {
		whole.Store(0)
		part.Store(0)
		d, err := New("x", []string{"a", "b"}, samples("train", 12), samples("val", 4), samples("test", 4))
		if err != nil {
			t.Fatal(err)
		}
		events := 0
		if err := d.CheckImages(t.Context(), CheckOptions{Quick: true, Cache: c.cache, Transform: transform, Workers: 1, Progress: func(progress.Event) { events++ }}); err != nil || events != 20 {
			t.Errorf("%d events, error %v", events, err)
		}
		if whole.Load() != c.whole || part.Load() != c.part {
			t.Errorf("%d images decoded and %d read in part, want %d and %d", whole.Load(), part.Load(), c.whole, c.part)
		}
		part.Store(0)
		whole.Store(0)
		if err := d.CheckImages(t.Context(), CheckOptions{Splits: []string{"val"}}); err != nil || whole.Load() != 4 {
			t.Errorf("%d images of the split val decoded, error %v, want 4", whole.Load(), err)
		}
	}
}

// damage returns damaged files of all kinds that their first and last bytes show, by the name of a
// file that they are the content of.
func damage(t *testing.T) map[string]string {
	t.Helper()
	var photo bytes.Buffer
	m := image.NewRGBA(image.Rect(0, 0, 300, 200))
	for i := range m.Pix {
		m.Pix[i] = uint8(i * i >> 5)
	}
	if err := jpeg.Encode(&photo, m, &jpeg.Options{Quality: 95}); err != nil {
		t.Fatal(err)
	}
	if photo.Len() < 3*endBytes {
		t.Fatalf("the photo has %d bytes, want more than a check reads", photo.Len())
	}
	long := onePixel(t, 9)
	return map[string]string{
		"empty.jpg":    "",
		"page.jpg":     "<!DOCTYPE html><html></html>",
		"short.jpg":    photo.String()[:photo.Len()-endBytes],
		"shorter.jpg":  photo.String()[:1000],
		"header.jpg":   photo.String()[:20],
		"short.png":    long[:45],
		"pointer.png":  "version https://git-lfs.github.com/spec/v1\n",
		"large.png":    strings.Replace(long, "IHDR\x00\x00\x00\x01\x00\x00\x00\x01", "IHDR\x7f\xff\xff\xff\x7f\xff\xff\xff", 1),
		"unknown.jpeg": strings.Repeat("x", 100),
	}
}

// TestQuickCheckFinds checks that a quick check finds damaged files in a folder and in archives,
// with the same errors as a check that decodes all images.
func TestQuickCheckFinds(t *testing.T) {
	files := tree{"a/good.png": onePixel(t, 1), "b/good.png": onePixel(t, 2)}
	packed := map[string][]byte{}
	for name, content := range damage(t) {
		files["a/"+name] = content
	}
	for name, content := range files {
		packed[name] = []byte(content)
	}
	root := files.write(t)
	for form, archive := range map[string][]byte{"folder": nil, "tar": makeTar(packed), "zip": zipOf(packed, zip.Store)} {
		path := root
		if archive != nil {
			path = filepath.Join(t.TempDir(), "images."+form)
			writeFile(t, path, archive)
		}
		var skipped [2][]string
		for i, quick := range []bool{true, false} {
			d, err := Open(t.Context(), path, OpenOptions{SkipBadImages: true, ValFraction: -1, TestFraction: -1})
			if err != nil {
				t.Fatal(err)
			}
			if err := d.CheckImages(t.Context(), CheckOptions{Quick: quick}); err != nil {
				t.Fatalf("%s: %v", form, err)
			}
			for _, s := range d.Skipped {
				skipped[i] = append(skipped[i], s.Where+": "+s.Err.Error())
				var bad *ImageError
				if !errors.As(s.Err, &bad) || bad.Path != s.Path {
					t.Errorf("%s: error %v of %s", form, s.Err, s.Path)
				}
			}
			if len(d.Train) != 2 {
				t.Errorf("%s, quick %v: %d images left, want 2", form, quick, len(d.Train))
			}
		}
		if !slices.Equal(skipped[0], skipped[1]) {
			t.Errorf("%s: a quick check finds\n%s\na complete one\n%s", form, strings.Join(skipped[0], "\n"), strings.Join(skipped[1], "\n"))
		}
	}
}

// TestQuickCheckAccepts checks that a quick check rejects no image that can be decoded, such as one
// with a large colour profile before its size, and one that has bytes after its end.
func TestQuickCheckAccepts(t *testing.T) {
	var photo bytes.Buffer
	if err := jpeg.Encode(&photo, image.NewGray(image.Rect(0, 0, 8, 8)), nil); err != nil {
		t.Fatal(err)
	}
	segment := "\xff\xe2\xff\xff" + strings.Repeat("p", 0xfffd)
	files := map[string]string{
		"profile.jpg":  "\xff\xd8" + segment + photo.String()[2:],
		"trailing.jpg": photo.String() + strings.Repeat("x", 3*endBytes),
		"endless.jpg":  strings.TrimSuffix(photo.String(), "\xff\xd9"),
	}
	found, err := filepath.Glob("testdata/*/*")
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range found {
		if IsImageName(path) {
			data, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			files[path] = string(data)
		}
	}
	accepted := 0
	for name, content := range files {
		path := filepath.Join(t.TempDir(), filepath.Base(name))
		if err := os.WriteFile(path, []byte(content), 0o666); err != nil {
			t.Fatal(err)
		}
		s := Sample{Path: path}
		if _, _, err := s.read(); err != nil {
			continue
		}
		accepted++
		if err := s.checkEnds(); err != nil {
			t.Errorf("%s can be decoded, but the quick check says: %v", name, err)
		}
	}
	if accepted < 20 {
		t.Errorf("%d images can be decoded, want at least 20", accepted)
	}
}

// TestSkipImages checks that images that are known to be broken are removed without reading them.
func TestSkipImages(t *testing.T) {
	root := vtabTree.write(t)
	d, err := Open(t.Context(), root, OpenOptions{SkipBadImages: true})
	if err != nil {
		t.Fatal(err)
	}
	before := d.Fingerprint()
	reason := func(name string) string { return map[string]string{"images/b.png": "it is cut short"}[name] }
	for range 2 { // the second call finds nothing to remove
		if err := d.SkipImages(reason); err != nil {
			t.Fatal(err)
		}
		if got := describe(root, d.Train); got != "images/a.png=0@train800.txt:1; images/c d.png=1@train800.txt:3" {
			t.Errorf("train is %s", got)
		}
		if len(d.Skipped) != 1 || d.Skipped[0].Where != "train800.txt:2" || d.Skipped[0].Err.Error() != "it is cut short" || d.AsOpened().Fingerprint() != before {
			t.Errorf("skipped %+v", d.Skipped)
		}
	}
	strict, err := Open(t.Context(), root, OpenOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if err := strict.SkipImages(reason); err == nil || len(strict.Train) != 3 {
		t.Errorf("error %v with %d training images, want an error and 3", err, len(strict.Train))
	}
}
