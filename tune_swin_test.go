package spt_test

import (
	"math"
	"path/filepath"
	"reflect"
	"testing"

	"github.com/sptune/spt"
	"github.com/sptune/spt/backbone"
	"github.com/sptune/spt/backend"
	"github.com/sptune/spt/checkpoint"
	"github.com/sptune/spt/dataset"
	"github.com/sptune/spt/delta"
	"github.com/sptune/spt/inspect"
	"github.com/sptune/spt/internal/colours"
	"github.com/sptune/spt/internal/fixtures"
	"github.com/sptune/spt/internal/program"
	"github.com/sptune/spt/method"
	"github.com/sptune/spt/objective"
	"github.com/sptune/spt/train"
)

// TestTuneSwin tunes a Swin checkpoint of Hugging Face, whose feature maps are padded, by every
// method. It loads each delta on its backbone, and compares the logits of the merged checkpoint,
// which has the tensor names of timm.
func TestTuneSwin(t *testing.T) {
	path := fixtures.Backbone(t, "swin-padded-hf5").Path()
	model, _, err := backbone.Load(path, backbone.LoadOptions{NumClasses: 3})
	if err != nil {
		t.Fatal(err)
	}
	side := model.Config.ImageSize
	data, err := dataset.New("colours", []string{"red", "green", "blue"}, colours.Samples(36, side, 0), colours.Samples(9, side, 7), colours.Samples(12, side, 13))
	if err != nil {
		t.Fatal(err)
	}
	task, err := spt.New(model, data)
	if err != nil {
		t.Fatal(err)
	}
	be, _, err := backend.Open("cpu", 1)
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range someMethods(t) {
		if !fits(t, model.Config, m) {
			continue
		}
		var budgets []string
		if lookup(t, m).Scores {
			budgets = []string{"600"}
		}
		dir := t.TempDir()
		o := options(m, budgets...)
		if m == method.Full {
			o.Train.LR = 1e-3
		}
		r, err := task.Tune(t.Context(), o, dir, nil)
		if err != nil {
			t.Fatalf("%s: %v", m, err)
		}
		t.Logf("%s: test %.0f%%, %+v", m, 100*r.Test.Accuracy, r.Counts)
		if m != method.Linear && r.Test.Accuracy < 0.5 {
			t.Errorf("%s: test accuracy %g, expected well above 1/3", m, r.Test.Accuracy)
		}
		d, err := delta.Load(dir)
		if err != nil {
			t.Fatalf("%s: %v", m, err)
		}
		opened, err := d.OpenBackbone(path)
		if err != nil {
			t.Fatalf("%s: %v", m, err)
		}
		probe := colours.Pixels(1, side, 99)
		want := logitsOf(t, be, opened, d, probe)
		if !mergeable(t, d) {
			continue
		}
		merged, err := d.Merge(t.Context(), be, opened, probe, 0)
		if err != nil {
			t.Fatalf("%s: %v", m, err)
		}
		file := filepath.Join(t.TempDir(), "merged.safetensors")
		if err := merged.Save(file, checkpoint.F32, d.Classes); err != nil {
			t.Fatal(err)
		}
		read, report, err := backbone.Load(file, backbone.LoadOptions{})
		if err != nil {
			t.Fatalf("%s: %v", m, err)
		}
		if !reflect.DeepEqual(read.Config, d.Config) || !read.Config.Form.(backbone.Swin).PadsBeforeShift || len(report.Unused) > 0 {
			t.Errorf("%s: the merged checkpoint is loaded as %+v with unused tensors %v; expected %+v", m, read.Config, report.Unused, d.Config)
		}
		for i, got := range logitsOf(t, be, read, nil, probe) {
			if math.Abs(float64(got-want[i])) > 1e-4 {
				t.Errorf("%s: after merging, class %d has logit %g, expected %g", m, i, got, want[i])
			}
		}
		in, err := inspect.Open(t.Context(), file, nil)
		if err != nil {
			t.Fatal(err)
		}
		if c := in.Checkpoint; c == nil || !c.Head || c.Problem != "" || !reflect.DeepEqual(*c.Backbone, d.Config) {
			t.Errorf("%s: inspected: %+v", m, in.Checkpoint)
		}
	}
}

// logitsOf returns the logits of one image for the backbone m with the delta d. A nil d means the
// backbone with its own head.
func logitsOf(t *testing.T, be backend.Backend, m *backbone.Model, d *delta.Delta, pixels []uint8) []float32 {
	t.Helper()
	trained, err := spt.Restore(m, d)
	if err != nil {
		t.Fatal(err)
	}
	p, err := train.NewPredictor(be, m, objective.SingleLabel, trained.Tuning, trained.Tuned)
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	x, err := program.Tensor(be, pixels, 1, m.Config.ImageSize, m.Config.ImageSize, 3)
	if err != nil {
		t.Fatal(err)
	}
	defer program.Free(x)
	logits, err := p.Logits(t.Context(), x)
	if err != nil {
		t.Fatal(err)
	}
	return logits
}
