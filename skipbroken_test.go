package spt_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"image"
	"image/color"
	"image/png"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/sptune/spt"
	"github.com/sptune/spt/dataset"
	"github.com/sptune/spt/delta"
	"github.com/sptune/spt/internal/colours"
	"github.com/sptune/spt/method"
	"github.com/sptune/spt/progress"
	"github.com/sptune/spt/run"
)

// writeColours writes the images of newTask into split folders. The images of broken, such as
// "val/1", are damaged inside: a check of their first and last bytes does not find it. The images
// of left are not written.
func writeColours(t *testing.T, broken, left []string) string {
	t.Helper()
	root := t.TempDir()
	classes := []string{"red", "green", "blue"}
	for split, samples := range map[string][]dataset.Sample{"train": colours.Samples(36, 16, 0), "val": colours.Samples(9, 16, 7), "test": colours.Samples(12, 16, 13)} {
		for i, s := range samples {
			name := fmt.Sprintf("%s/%d", split, i)
			if contains(left, name) {
				continue
			}
			m := image.NewRGBA(image.Rect(0, 0, s.Image.Width, s.Image.Height))
			for p := range s.Image.Width * s.Image.Height {
				m.Set(p%s.Image.Width, p/s.Image.Width, color.RGBA{s.Image.Pix[3*p], s.Image.Pix[3*p+1], s.Image.Pix[3*p+2], 255})
			}
			var data bytes.Buffer
			if err := png.Encode(&data, m); err != nil {
				t.Fatal(err)
			}
			if contains(broken, name) {
				data.Bytes()[data.Len()/2] ^= 255
			}
			path := filepath.Join(root, split, classes[s.Target.Stratum()], fmt.Sprintf("%d.png", i))
			if err := os.MkdirAll(filepath.Dir(path), 0o777); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(path, data.Bytes(), 0o666); err != nil {
				t.Fatal(err)
			}
		}
	}
	return root
}

func contains(list []string, s string) bool {
	return strings.Contains(" "+strings.Join(list, " ")+" ", " "+s+" ")
}

// uncached opens the images at root as a task whose cache keeps nothing.
func uncached(t *testing.T, root string, skip bool) *spt.Task {
	t.Helper()
	data, err := dataset.Open(t.Context(), root, dataset.OpenOptions{SkipBadImages: skip})
	if err != nil {
		t.Fatal(err)
	}
	task, err := spt.New(colours.Model(config), data, spt.WithImages(run.ImageOptions{CacheBytes: -1}))
	if err != nil {
		t.Fatal(err)
	}
	return task
}

// TestSkipBroken checks that a run that skips bad images leaves out those that only a stage that
// decodes them finds: the delta has the same bits as that of a run on the data without them. This
// also holds after an interruption.
func TestSkipBroken(t *testing.T) {
	broken := []string{"train/4", "train/35", "val/2", "test/7"}
	for _, probe := range []bool{false, true} {
		o := autoOptions(method.SPTLoRA)
		o.Probe = probe
		want, wantDelta := tune(t, uncached(t, writeColours(t, nil, broken), true), o, t.TempDir())

		root, dir := writeColours(t, broken, nil), filepath.Join(t.TempDir(), "run")
		// first an interruption in the second epoch of the training, after the images were found
		ctx, cancel := context.WithCancel(t.Context())
		var notes []string
		_, err := uncached(t, root, true).Tune(ctx, o, dir, func(e progress.Event) {
			if e.Stage == progress.Note {
				notes = append(notes, e.Item)
			}
			if e.Stage == progress.Epoch {
				cancel()
			}
		})
		if !errors.Is(err, context.Canceled) {
			t.Fatalf("probe %v: error %v, want an interruption", probe, err)
		}
		found := 3 // the test image comes after the training
		if probe {
			found = 4
		}
		if len(notes) != found || !strings.Contains(strings.Join(notes, "\n"), "4.png (train/") {
			t.Errorf("probe %v: notes %q, want one for each of %d broken images", probe, notes, found)
		}
		_, recorded, err := run.Open(dir)
		if err != nil || len(recorded.Data.Broken) != found {
			t.Errorf("probe %v: the run records the broken images %v (%v), want %d", probe, recorded.Data.Broken, err, found)
		}
		got, gotDelta := tune(t, uncached(t, root, true), o, dir)
		if got.Skipped != 4 || got.Test.Images != 11 || !reflect.DeepEqual(got.Test, want.Test) || !reflect.DeepEqual(got.ProbeTest, want.ProbeTest) {
			t.Errorf("probe %v: %d images skipped, test %+v, of the probe %+v, want 4, %+v and %+v", probe, got.Skipped, got.Test, got.ProbeTest, want.Test, want.ProbeTest)
		}
		if !reflect.DeepEqual(gotDelta.Tuned, wantDelta.Tuned) {
			t.Errorf("probe %v: the delta differs from that of a run on the data without the broken images", probe)
		}
		if _, recorded, err = run.Open(dir); err != nil || len(recorded.Data.Broken) != 4 {
			t.Errorf("probe %v: the finished run records the broken images %v (%v), want 4", probe, recorded.Data.Broken, err)
		}
	}
}

// TestBrokenInside checks the errors for images that only a stage that decodes them finds broken: a
// run with a probe finds all of them before the training. A broken test image does not cost the
// trained delta.
func TestBrokenInside(t *testing.T) {
	for _, c := range []struct {
		broken   string
		probe    bool
		trains   bool // before the error
		hasDelta bool
		message  string
	}{
		{"train/4", true, false, false, "train/green: decoding image "},
		{"val/2", true, false, false, "val/blue: decoding image "},
		{"test/7", true, false, false, "test/green: decoding image "},
		{"train/4", false, false, false, "train/green: decoding image "},
		{"test/7", false, true, true, "test/green: decoding image "},
	} {
		o := autoOptions(method.LoRA)
		o.Probe = c.probe
		dir, trained := t.TempDir(), false
		report := func(e progress.Event) { trained = trained || e.Stage == progress.Epoch }
		root := writeColours(t, []string{c.broken}, nil)
		_, err := uncached(t, root, false).Tune(t.Context(), o, dir, report)
		var bad *dataset.ImageError
		file := filepath.Base(c.broken) + ".png"
		if !errors.As(err, &bad) || filepath.Base(bad.Path) != file || !strings.Contains(err.Error(), c.message) || trained != c.trains {
			t.Errorf("%s, probe %v: trained %v, error %v, want %v and one that names %s and %q", c.broken, c.probe, trained, err, c.trains, file, c.message)
		}
		if _, err := delta.Load(dir); (err == nil) != c.hasDelta {
			t.Errorf("%s, probe %v: loading the delta: %v, want a delta: %v", c.broken, c.probe, err, c.hasDelta)
		}
		// The resumed run skips the image, and does not train again.
		trained = false
		r, err := uncached(t, root, true).Tune(t.Context(), o, dir, report)
		if err != nil || r.Skipped != 1 || len(r.Data.Broken) != 1 || trained == c.trains {
			t.Errorf("%s, probe %v, resumed: trained %v, result %+v, error %v", c.broken, c.probe, trained, r, err)
		}
		if _, recorded, err := run.Open(dir); err != nil || !recorded.Data.SkipBadImages || len(recorded.Data.Broken) != 1 {
			t.Errorf("%s, probe %v: the configuration has the data %+v (%v)", c.broken, c.probe, recorded.Data, err)
		}
	}
}
