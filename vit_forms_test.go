package spt_test

import (
	"path/filepath"
	"reflect"
	"slices"
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
	"github.com/sptune/spt/method"
)

// TestTuneForms tunes a checkpoint of each variant of the ViT and of each naming of tensors. It
// scores, plans, trains, loads the delta on its backbone, and loads the merged checkpoint with its
// head.
func TestTuneForms(t *testing.T) {
	const size = 32 // px, so that positions are resized too
	for name, chosen := range map[string]method.Method{
		"vit-distilled-timm": method.SPTLoRA, "vit-dinov2swiglu-hf5": method.SPTLoRA, "vit-dinov2reg-facebook": method.SPTLoRA, "vit-prenorm-timm": method.LoRA,
		"vit-qknorm-timm": method.SPTLoRA, "vit-avg-mae": method.Full, "vit-nocls-bigvision": method.SPTLoRA, "vit-patchpos-timm": method.SPTAdapter,
		"vit-noqkvbias-hf4": method.SPTLoRA,
	} {
		t.Run(name, func(t *testing.T) {
			f := fixtures.Backbone(t, name)
			m, _, err := backbone.Load(f.Path(), backbone.LoadOptions{NumClasses: 3, NumHeads: 2, ImageSize: size})
			if err != nil {
				t.Fatal(err)
			}
			data, err := dataset.New("colours", []string{"red", "green", "blue"}, colours.Samples(36, size, 0), colours.Samples(9, size, 7), colours.Samples(12, size, 13))
			if err != nil {
				t.Fatal(err)
			}
			task, err := spt.New(m, data)
			if err != nil {
				t.Fatal(err)
			}
			var budgets []string
			if lookup(t, chosen).Scores {
				budgets = []string{"20%"}
			}
			dir := t.TempDir()
			result, err := task.Tune(t.Context(), options(chosen, budgets...), dir, nil)
			if err != nil {
				t.Fatal(err)
			}
			if first, last := result.Epochs[0].TrainLoss, result.Epochs[len(result.Epochs)-1].TrainLoss; !(last < first) {
				t.Errorf("loss %g after the first epoch, %g after the last", first, last)
			}
			d, err := delta.Load(dir)
			if err != nil {
				t.Fatal(err)
			}
			if tokens, _ := m.Config.ClassTokens(); lookup(t, chosen).Scores {
				for _, token := range tokens {
					if !slices.Contains(d.Selection.Whole, token) {
						t.Errorf("%s is not tuned", token)
					}
				}
			}
			again, err := d.OpenBackbone(f.Path())
			if err != nil {
				t.Fatal(err)
			}
			if chosen == method.SPTAdapter {
				return // adapters cannot be merged, because they are not linear
			}
			be, _, err := backend.Open("cpu", 1)
			if err != nil {
				t.Fatal(err)
			}
			merged, err := d.Merge(t.Context(), be, again, colours.Pixels(1, size, 0), 0)
			if err != nil {
				t.Fatal(err)
			}
			path := filepath.Join(t.TempDir(), "merged.safetensors")
			if err := merged.Save(path, checkpoint.F32, nil); err != nil {
				t.Fatal(err)
			}
			got, report, err := backbone.Load(path, backbone.LoadOptions{})
			if err != nil {
				t.Fatal(err)
			}
			if !reflect.DeepEqual(got.Config, d.Config) || got.Fingerprint() != merged.Model.Fingerprint() || len(report.Unused) > 0 {
				t.Errorf("the merged checkpoint has configuration %+v, expected %+v; unused tensors %v", got.Config, d.Config, report.Unused)
			}
			if !slices.Equal(got.Weights["head.weight"].Data, merged.Model.Weights["head.weight"].Data) {
				t.Error("the head of the merged checkpoint differs from the tuned head")
			}
		})
	}
}

// TestInspectHeads checks that inspect.Open and backbone.Load agree on the classification head of
// every fixture, in every naming of tensors.
func TestInspectHeads(t *testing.T) {
	heads := 0
	for _, f := range fixtures.Backbones(t) {
		in, err := inspect.Open(t.Context(), f.Path(), nil)
		if err != nil || in.Checkpoint == nil {
			t.Fatalf("%s: %+v, %v", f.Name, in, err)
		}
		c := in.Checkpoint
		if c.Problem != "" {
			continue // such as an unknown number of attention heads
		}
		want := 0
		if m, _, err := backbone.Load(f.Path(), backbone.LoadOptions{}); err == nil {
			want = m.Config.NumClasses
			heads++
		}
		if c.Head != (want > 0) || c.Backbone.NumClasses != want {
			t.Errorf("%s: head %t of %d classes, expected %d", f.Name, c.Head, c.Backbone.NumClasses, want)
		}
		if f.HasLogits && want != 5 {
			t.Errorf("%s: %d classes, expected 5", f.Name, want)
		}
	}
	if heads < 10 {
		t.Errorf("%d of the fixtures have classification heads, expected at least 10", heads)
	}
}
