package delta_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/sptune/spt/delta"
	"github.com/sptune/spt/internal/golden/sptsmall"
	"github.com/sptune/spt/internal/program"
	"github.com/sptune/spt/objective"
	"github.com/sptune/spt/peft"
	"github.com/sptune/spt/train"
)

// TestGolden stores the values that the reference release of SPT had after training in a delta. The
// logits through the delta and, for LoRA, after merging must be the logits of the release.
func TestGolden(t *testing.T) {
	s := sptsmall.Open(t)
	m := s.Model(t)
	m.Preprocessing = tiny(tinyConfig, 1).Preprocessing // unused: the golden images are normalised
	images, _ := s.Data(t)
	x, err := program.Tensor(be(t), images[0], s.BatchSize, s.ImageSize, s.ImageSize, 3)
	if err != nil {
		t.Fatal(err)
	}
	defer program.Free(x)
	for run := range s.Training {
		t.Run(run, func(t *testing.T) {
			module, _, _ := strings.Cut(run, "_")
			var classes []string
			for i := range s.NumClasses {
				classes = append(classes, fmt.Sprint(i))
			}
			d := delta.New(m, nil)
			d.Method, d.Objective, d.Classes, d.Transform = "spt-"+module, "single-label", classes, delta.Transform{Resize: "direct"}
			run := s.Run(t, m.Config, run)
			d.Selection, d.Tuned = run.Selection, run.Final
			dir := saved(t, d)
			d, err := delta.Load(dir)
			if err != nil {
				t.Fatal(err)
			}
			p, err := predictor(be(t), d, m)
			if err != nil {
				t.Fatal(err)
			}
			defer p.Close()
			got, err := p.Logits(t.Context(), x)
			if err != nil {
				t.Fatal(err)
			}
			want := run.FinalLogits
			difference := largestDifference(got, want)
			if difference > 1e-4 {
				t.Errorf("logits differ from the release's by up to %g, expected at most 1e-4", difference)
			}
			if module == "adapter" && len(d.Selection.Structured) > 0 {
				_, err := d.Merge(t.Context(), be(t), m, make([]uint8, s.ImageSize*s.ImageSize*3), 0)
				refused(t, err, "cannot be merged")
				t.Logf("%d bytes; largest difference %.2g", len(read(t, dir, delta.TensorsName)), difference)
				return
			}
			merged, err := d.Merge(t.Context(), be(t), m, make([]uint8, s.ImageSize*s.ImageSize*3), 0)
			if err != nil {
				t.Fatal(err)
			}
			head, err := peft.New(m.Config, peft.Selection{})
			if err != nil {
				t.Fatal(err)
			}
			q, err := train.NewPredictor(be(t), merged.Model, objective.SingleLabel, head, merged.Model.Weights)
			if err != nil {
				t.Fatal(err)
			}
			defer q.Close()
			if got, err = q.Logits(t.Context(), x); err != nil {
				t.Fatal(err)
			}
			inWeights := largestDifference(got, want)
			if inWeights > 1e-4 {
				t.Errorf("merged, logits differ from the release's by up to %g, expected at most 1e-4", inWeights)
			}
			t.Logf("%d bytes; largest difference %.2g, merged %.2g", len(read(t, dir, delta.TensorsName)), difference, inWeights)
		})
	}
}
