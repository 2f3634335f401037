package evaluate

import (
	"math"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
)

// TestKeep compares predictions of which only the largest logits are kept with complete ones: the
// metrics at the temperature 1 and the ranked classes are equal up to the rounding of float32, and
// the temperature nearly so.
func TestKeep(t *testing.T) {
	for _, classes := range []int{3, KeptLogits, KeptLogits + 1, KeptLogits + 2, 700} {
		full := random(400, classes)
		for i := range full.Logits { // the classes of an image have very different logits
			full.Logits[i] *= 2
		}
		for c := range classes { // equal logits, above and below the ones that are kept
			full.Logits[c] = 1
			full.Logits[classes+c] = float32(c % 2)
		}
		kept := &Predictions{Classes: full.Classes, Keep: KeptLogits}
		for from := 0; from < full.Len(); from += 64 {
			to := min(full.Len(), from+64)
			if err := kept.Add(full.Paths[from:to], full.Targets[from:to], full.Logits[from*classes:to*classes]); err != nil {
				t.Fatal(err)
			}
		}
		if kept.Logits != nil || kept.Len() != full.Len() {
			t.Errorf("%d classes: %d logits for %d images", classes, len(kept.Logits), kept.Len())
		}
		want, err := full.Metrics(1)
		if err != nil {
			t.Fatal(err)
		}
		got, err := kept.Metrics(1)
		if err != nil {
			t.Fatal(err)
		}
		if math.Abs(got.LogLoss-want.LogLoss) > 1e-6 || math.Abs(got.Calibration.ECE-want.Calibration.ECE) > 1e-6 {
			t.Errorf("%d classes: log loss %v, calibration error %v, want %v and %v", classes, got.LogLoss, got.Calibration.ECE, want.LogLoss, want.Calibration.ECE)
		}
		got.LogLoss, got.Calibration = want.LogLoss, want.Calibration
		if !reflect.DeepEqual(got, want) {
			t.Errorf("%d classes: top 1 %v, top 5 %v, want %v and %v", classes, got.Top1, got.Top5, want.Top1, want.Top5)
		}
		wantRanked := full.Ranked(5, 1)
		for i, r := range kept.Ranked(5, 1) {
			w := wantRanked[i]
			if r.Path != w.Path || r.Target != w.Target || len(r.Top) != len(w.Top) || math.Abs(r.TargetProbability-w.TargetProbability) > 1e-6 {
				t.Fatalf("%d classes: image %d is %+v, want %+v", classes, i, r, w)
			}
			for rank, top := range r.Top {
				if top.Class != w.Top[rank].Class || math.Abs(top.Probability-w.Top[rank].Probability) > 1e-6 {
					t.Fatalf("%d classes: image %d is %+v, want %+v", classes, i, r, w)
				}
			}
		}
		wantT, err := full.Temperature()
		if err != nil {
			t.Fatal(err)
		}
		gotT, err := kept.Temperature()
		if err != nil {
			t.Fatal(err)
		}
		if math.Abs(gotT-wantT) > 0.02*wantT {
			t.Errorf("%d classes: temperature %v, want %v within 2 %%", classes, gotT, wantT)
		}
		if err := kept.Write(filepath.Join(t.TempDir(), "x.csv"), WriteOptions{}); err == nil || !strings.Contains(err.Error(), "only the 64 largest logits of each image are kept") {
			t.Errorf("writing a table: error %v", err)
		}
	}
}

// TestKeepMemory checks how much memory predictions of many classes take.
func TestKeepMemory(t *testing.T) {
	const images, classes = 64, 20000
	full := random(images, classes)
	kept := &Predictions{Classes: full.Classes, Keep: KeptLogits}
	if err := kept.Add(full.Paths, full.Targets, full.Logits); err != nil {
		t.Fatal(err)
	}
	bytes := 0
	for _, k := range kept.kept {
		bytes += 4*cap(k.classes) + 4*cap(k.logits) + 56
	}
	if each := bytes / images; each > 640 {
		t.Errorf("%d bytes for an image of %d classes, want at most 640", each, classes)
	}
	if _, err := kept.Metrics(1); err != nil {
		t.Error(err)
	}
}

func BenchmarkKeep(b *testing.B) {
	full := random(64, 20000)
	b.ReportAllocs()
	for b.Loop() {
		kept := &Predictions{Classes: full.Classes, Keep: KeptLogits}
		if err := kept.Add(full.Paths, full.Targets, full.Logits); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(64*b.N)/b.Elapsed().Seconds(), "images/s")
}
