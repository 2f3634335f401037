package spt_test

import (
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/sptune/spt"
	"github.com/sptune/spt/backbone"
	"github.com/sptune/spt/backend"
	"github.com/sptune/spt/checkpoint"
	"github.com/sptune/spt/dataset"
	"github.com/sptune/spt/delta"
	"github.com/sptune/spt/internal/colours"
	"github.com/sptune/spt/internal/fixtures"
	"github.com/sptune/spt/method"
	"github.com/sptune/spt/peft"
	"github.com/sptune/spt/plan"
)

// TestTuneConvNeXt tunes ConvNeXt backbones from files by every method that fits. Each delta must
// open its backbone again and, if the method can be merged, give a merged checkpoint.
func TestTuneConvNeXt(t *testing.T) {
	data, err := dataset.New("colours", []string{"red", "green", "blue"}, colours.Samples(12, 56, 0), nil, colours.Samples(6, 56, 13))
	if err != nil {
		t.Fatal(err)
	}
	be, _, err := backend.Open("cpu", 1)
	if err != nil {
		t.Fatal(err)
	}
	for _, fixture := range []string{"convnext-v1-hf", "convnext-v2-timm"} {
		path := fixtures.Backbone(t, fixture).Path()
		m, _, err := backbone.Load(path, backbone.LoadOptions{NumClasses: 3})
		if err != nil {
			t.Fatal(err)
		}
		task, err := spt.New(m, data)
		if err != nil {
			t.Fatal(err)
		}
		for _, chosen := range someMethods(t) {
			if !fits(t, m.Config, chosen) {
				continue
			}
			var budgets []string
			if lookup(t, chosen).Scores {
				budgets = []string{"1000"}
			}
			dir := t.TempDir()
			if _, err := task.Tune(t.Context(), options(chosen, budgets...), dir, nil); err != nil {
				t.Fatalf("%s, %s: %v", fixture, chosen, err)
			}
			d, err := delta.Load(dir)
			if err != nil {
				t.Fatalf("%s, %s: %v", fixture, chosen, err)
			}
			opened, err := d.OpenBackbone(path)
			if err != nil {
				t.Fatalf("%s, %s: %v", fixture, chosen, err)
			}
			if err := d.Check(opened); err != nil || !reflect.DeepEqual(opened.Config, m.Config) {
				t.Errorf("%s, %s: %v; opened %+v, tuned on %+v", fixture, chosen, err, opened.Config, m.Config)
			}
			if lookup(t, chosen).Scores {
				checkConvNeXtPlan(t, m.Config, chosen, d.Selection)
			}
			merged, err := d.Merge(t.Context(), be, opened, make([]uint8, 2*56*56*3), 1e-3)
			if !mergeable(t, d) {
				if err == nil {
					t.Errorf("%s, %s: merging gave no error, although the method cannot be merged", fixture, chosen)
				}
				continue
			}
			if err != nil {
				t.Fatalf("%s, %s: %v", fixture, chosen, err)
			}
			file := filepath.Join(dir, "merged.safetensors")
			if err := merged.Save(file, checkpoint.F32, d.Classes); err != nil {
				t.Fatal(err)
			}
			if again, _, err := backbone.Load(file, backbone.LoadOptions{}); err != nil || !reflect.DeepEqual(again.Config, m.Config) {
				t.Errorf("%s, %s: the merged checkpoint: %v", fixture, chosen, err)
			}
		}
	}
}

// checkConvNeXtPlan checks the selection of a plan. Structured modules may only be on matrices of
// the blocks. No tensor of the stem may be tuned. Kernels may only have single tuned entries. A
// method with only structured or only unstructured tuning must not have the other kind.
func checkConvNeXtPlan(t *testing.T, c backbone.Config, m method.Method, s peft.Selection) {
	t.Helper()
	kernels := 0
	for _, p := range c.Params() {
		_, entries := s.Entries[p.Name]
		structured, whole := slices.Contains(s.Structured, p.Name), slices.Contains(s.Whole, p.Name)
		if strings.HasPrefix(p.Name, "stem.") && (entries || structured || whole) || structured && !strings.Contains(p.Name, ".mlp.fc") || whole && len(p.Shape) > 1 {
			t.Errorf("%s: entries %t, module %t, whole %t", p.Name, entries, structured, whole)
		}
		if entries && len(p.Shape) == 4 {
			kernels++
		}
	}
	if (kernels == 0) != (lookup(t, m).Only == plan.Structured) || (len(s.Structured) == 0) != (lookup(t, m).Only == plan.Unstructured) {
		t.Errorf("entries in %d kernels and %d modules: expected only the kinds of tuning of the method", kernels, len(s.Structured))
	}
}

// fits reports whether a method can tune a backbone with configuration c. Prompts need tokens, and
// AdaptFormer needs an MLP with its own residual branch.
func fits(t *testing.T, c backbone.Config, m method.Method) bool {
	t.Helper()
	row := lookup(t, m)
	if row.Scores {
		return true
	}
	s, err := row.Select(c, method.Options{})
	if err == nil {
		_, err = peft.New(c, s)
	}
	return err == nil
}

// mergeable reports whether a delta can be merged into the weights of the backbone.
func mergeable(t *testing.T, d *delta.Delta) bool {
	t.Helper()
	tuning, err := peft.New(d.Config, d.Selection)
	if err != nil {
		t.Fatal(err)
	}
	return tuning.Mergeable() == nil
}
