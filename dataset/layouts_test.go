package dataset

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sptune/spt/progress"
)

// TestLayoutTable checks that every row of the table is complete and that docs/layouts.md describes
// every layout.
func TestLayoutTable(t *testing.T) {
	text, err := os.ReadFile(filepath.Join("..", "docs", "layouts.md"))
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]string{}
	for _, l := range layouts() {
		if l.name == "" || l.description == "" || strings.Contains(l.description, "\n") || l.read == nil || l.lookedFor() == "" && l.files == nil {
			t.Errorf("the row of %q is not complete", l.name)
		}
		if (l.recognise == nil) != (l.signs == "") {
			t.Errorf("%s: set both signs and recognise, or neither", l.name)
		}
		for _, m := range append(l.markers, l.name) {
			if other, ok := seen[m]; ok {
				t.Errorf("the layouts %s and %s have the same name or marker %q", l.name, other, m)
			}
			seen[m] = l.name
		}
		for _, p := range l.files {
			if _, err := filepath.Match(p, ""); err != nil || p != strings.ToLower(p) {
				t.Errorf("%s: pattern %q: %v", l.name, p, err)
			}
		}
		if section := fmt.Sprintf("\n## %s\n\n%s\n", l.name, l.description); !strings.Contains(string(text), section) {
			t.Errorf("docs/layouts.md has no section that begins with:%s", section)
		}
		if !strings.Contains(DescribeLayouts(), l.name) || !slices.Contains(Layouts(), l.name) {
			t.Errorf("%s is not listed", l.name)
		}
	}
}

// TestMixed checks that Dataset.Mixed is true only for layouts whose lists are in random order.
func TestMixed(t *testing.T) {
	for name, files := range map[string]tree{"vtab": vtabTree, "fgvc": fgvcTree, "imagefolder": folderTree} {
		d, err := Open(t.Context(), files.write(t), OpenOptions{})
		if err != nil || d.Layout != name || d.Mixed != (name == "vtab") {
			t.Errorf("%s: data set %+v, error %v; want Mixed only for vtab", name, d, err)
		}
	}
}

// TestOpenCancelled checks for several layouts that Open stops with the error of its context.
func TestOpenCancelled(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for name, files := range map[string]tree{"vtab": vtabTree, "fgvc": fgvcTree, "imagefolder": folderTree, "table": pictures(tree{"train.csv": "path,label\nsub/a.png,x\n"})} {
		if _, err := Open(ctx, files.write(t), OpenOptions{}); !errors.Is(err, context.Canceled) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := ImageFiles(ctx, folderTree.write(t)); !errors.Is(err, context.Canceled) {
		t.Errorf("ImageFiles: error %v, want context.Canceled", err)
	}

	// The read functions stop too if the context ends while they run.
	sources := map[string]source{
		"imagefolder": {at: disk{}, root: folderTree.write(t)},
		"table":       {at: disk{}, root: pictures(tree{"train.csv": "path,label\nsub/a.png,x\n"}).write(t)},
		"fgvc":        {at: disk{}, root: fgvcTree.write(t)},
		"parquet":     {at: disk{}, root: filepath.Join(parquetData, "hub")},
	}
	for _, l := range layouts() {
		src, ok := sources[l.name]
		if !ok {
			continue
		}
		if _, err := l.read(ctx, src); !errors.Is(err, context.Canceled) {
			t.Errorf("reading %s: error %v, want context.Canceled", l.name, err)
		}
		delete(sources, l.name)
	}
	if len(sources) > 0 {
		t.Errorf("no layout has the name of these sources: %v", sources)
	}
}

// tags is a target with several labels. The image counts as the first one. mask is a target with
// one label for each pixel.
type (
	tags []int
	mask string
)

func (m tags) Check(classes int) error {
	for _, id := range m {
		if id < 0 || id >= classes {
			return fmt.Errorf("label %d is out of range: there are %d classes", id, classes)
		}
	}
	return nil
}
func (m tags) Stratum() int {
	if len(m) == 0 {
		return -1
	}
	return m[0]
}
func (m tags) String() string { return fmt.Sprint([]int(m)) }

func (m mask) Check(int) error { return nil }
func (m mask) Stratum() int    { return -1 }
func (m mask) String() string  { return string(m) }

// archived is an image that lies inside another file.
type archived struct {
	data []byte
	err  error
}

func (a archived) encoded() ([]byte, error) { return a.data, a.err }
func (a archived) size() int64              { return -1 }
func (a archived) file() string             { return "archive" }

// TestOtherTargets checks that splits, checks, verification, fingerprints, caches and loaders work
// with targets that are not classes, and with images inside another file.
func TestOtherTargets(t *testing.T) {
	samples := func(target func(i int) Target) (out []Sample) {
		for i := range 20 {
			name := fmt.Sprintf("/a/shard.tar#%02d", i)
			out = append(out, Sample{Path: name, Where: name, Target: target(i), stored: archived{data: []byte(onePixel(t, uint8(10*i)))}})
		}
		return out
	}
	open := func(name string, s []Sample) *Dataset {
		d := &Dataset{Name: name, Root: "/a", Classes: []string{"x", "y", "z"}, Train: s, Options: OpenOptions{SkipBadImages: true}}
		if err := d.findFiles(t.Context(), disk{}); err != nil {
			t.Fatal(err)
		}
		if err := d.check(); err != nil {
			t.Fatal(err)
		}
		d.splitMissing(true, true, 0.2, 0.2, 1)
		return d
	}
	sets := map[string]func(i int) Target{
		"several labels": func(i int) Target { return tags([][]int{{0, 1}, {1}, {2, 0}, {}, {1, 2}}[i%5]) },
		"masks":          func(i int) Target { return mask(fmt.Sprintf("masks/%02d.png", i)) },
	}
	for name, target := range sets {
		d := open(name, samples(target))
		want := map[string]int{"several labels": 5, "masks": 4}[name] // four strata and one stratum
		if len(d.Val) != want || len(d.Test) != want || len(d.Train) != 20-2*want {
			t.Errorf("%s: %d/%d/%d images in train/val/test, want %d in val and in test", name, len(d.Train), len(d.Val), len(d.Test), want)
		}
		if err := d.Trainable(); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if got, want := d.TargetName(target(1)), map[string]string{"several labels": "y", "masks": "masks/01.png"}[name]; got != want {
			t.Errorf("%s: target %s is called %s", name, target(1), got)
		}
		v, err := d.Verify(t.Context(), 0, nil)
		if err != nil || v.Images != 20 || len(v.Unreadable) != 0 || len(v.Duplicates) != 0 {
			t.Errorf("%s: unexpected verification %+v, error %v", name, v, err)
		}
		other := open(name, samples(func(int) Target { return tags{0} }))
		if d.Fingerprint() == other.Fingerprint() {
			t.Errorf("%s: other targets have the same fingerprint", name)
		}
		if err := other.Trainable(); err == nil || !strings.Contains(err.Error(), "there is one class, x") {
			t.Errorf("%s: all images have one target: error %v, want one that names class x", name, err)
		}
		if err := open(name, samples(func(int) Target { return mask("m") })).Trainable(); err == nil || !strings.Contains(err.Error(), "same target, m") {
			t.Errorf("%s: all images have one mask: error %v, want one that names mask m", name, err)
		}

		cache := NewCache(0)
		events := 0
		if err := d.CheckImages(t.Context(), CheckOptions{Cache: cache, Transform: Transform{Size: 2}, Progress: func(progress.Event) { events++ }}); err != nil || events != 20 || len(cache.images) != 20 {
			t.Errorf("%s: %d progress events, %d images in the cache, error %v; want 20 events and 20 images", name, events, len(cache.images), err)
		}
		l := NewLoader(d.Train, Transform{Size: 2}, cache, LoaderOptions{Root: d.Root})
		for b, err := range l.Batches(t.Context(), nil, 12, 0, 0) {
			if err != nil {
				t.Fatal(err)
			}
			for i, got := range b.Targets {
				if got.String() != d.Train[i].Target.String() {
					t.Errorf("%s: target %d is %s", name, i, got)
				}
			}
		}
		if l.Fingerprint() == NewLoader(other.Train, Transform{Size: 2}, nil, LoaderOptions{Root: d.Root}).Fingerprint() {
			t.Errorf("%s: loaders of other targets have the same fingerprint", name)
		}
	}

	// CheckImages skips a broken image inside another file like a broken image file.
	broken := samples(sets["masks"])
	broken[3].stored = archived{err: errors.New("no such entry")}
	broken[4].stored = archived{data: []byte("no image")}
	d := open("broken", broken)
	if err := d.CheckImages(t.Context(), CheckOptions{}); err != nil || len(d.Skipped) != 2 {
		t.Errorf("skipped %+v, error %v; want 2 skipped images", d.Skipped, err)
	}
	for _, s := range d.Skipped {
		var bad *ImageError
		if !errors.As(s.Err, &bad) || bad.Path != s.Path {
			t.Errorf("error %v of %s", s.Err, s.Path)
		}
	}

	// A target that does not fit the classes is an error, not a panic.
	for _, target := range []Target{tags{3}, tags{1, -1}, outside{}} {
		bad := samples(sets["masks"])
		bad[7].Target = target
		d := &Dataset{Classes: []string{"x", "y", "z"}, Train: bad}
		if err := d.check(); err == nil || !strings.HasPrefix(err.Error(), "/a/shard.tar#07: ") {
			t.Errorf("target %v: error %v, want one that names sample 7", target, err)
		}
	}
}

// outside is a target whose stratum is not a class.
type outside struct{ mask }

func (outside) Stratum() int { return 3 }

// TestCancelledVerify checks that Verify stops early if its context is cancelled.
func TestCancelledVerify(t *testing.T) {
	var samples []Sample
	for i := range 400 {
		samples = append(samples, Sample{Path: fmt.Sprint(i), Where: fmt.Sprint(i), Target: Class(0), stored: slow{}})
	}
	d := &Dataset{Classes: []string{"x"}, Train: samples}
	ctx, cancel := context.WithCancel(t.Context())
	last := int64(0)
	_, err := d.Verify(ctx, 2, func(e progress.Event) {
		if last = e.Done; last == 5 {
			cancel()
		}
	})
	if !errors.Is(err, context.Canceled) || last > 10 {
		t.Errorf("Verify read %d images and returned error %v; want at most 10 images and context.Canceled", last, err)
	}
}

type slow struct{}

func (slow) encoded() ([]byte, error) {
	time.Sleep(time.Millisecond)
	return nil, errors.New("no image")
}

func (slow) size() int64  { return -1 }
func (slow) file() string { return "" }
