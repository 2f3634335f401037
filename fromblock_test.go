package spt_test

import (
	"errors"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/sptune/spt"
	"github.com/sptune/spt/dataset"
	"github.com/sptune/spt/delta"
	"github.com/sptune/spt/internal/colours"
	"github.com/sptune/spt/method"
	"github.com/sptune/spt/plan"
	"github.com/sptune/spt/run"
	"github.com/sptune/spt/train"
)

// TestTuneFromBlock runs all stages from block 1 on. The delta must tune nothing before the block
// and be an ordinary delta: it is loaded, tested again on images, and merged.
func TestTuneFromBlock(t *testing.T) {
	early := func(name string) bool {
		return strings.HasPrefix(name, "blocks.0.") || strings.HasPrefix(name, "patch_embed.") || name == "cls_token" || name == "pos_embed"
	}
	for m, budgets := range map[method.Method][]string{method.SPTLoRA: {"5%"}, method.SPT("adapter"): {"300", "4%"}, method.LoRA: nil, "ssf": nil, "bitfit": nil} {
		t.Run(string(m), func(t *testing.T) {
			task := newTask(t, 9)
			o := options(m, budgets...)
			o.FromBlock = 1
			dir := t.TempDir()
			result, err := task.Tune(t.Context(), o, dir, nil)
			if err != nil {
				t.Fatal(err)
			}
			_, recorded, err := run.Open(dir)
			if err != nil || recorded.Tune.FromBlock != 1 {
				t.Errorf("the run records block %d, %v", recorded.Tune.FromBlock, err)
			}
			d, err := delta.Load(dir)
			if err != nil {
				t.Fatal(err)
			}
			names := slices.Sorted(maps.Keys(d.Tuned))
			if i := slices.IndexFunc(names, early); i >= 0 || d.Selection.FromBlock != 1 {
				t.Errorf("from block %d, %v are tuned", d.Selection.FromBlock, names)
			}
			if result.Counts.Tuned() == 0 {
				t.Error("nothing is tuned")
			}
			tuned, err := spt.Restore(task.Model(), d)
			if err != nil {
				t.Fatal(err)
			}
			e, _, err := task.Evaluate(t.Context(), tuned, "test", task.Data().Test, nil)
			if err != nil || e.Accuracy != result.Test.Accuracy || e.Loss != result.Test.Loss {
				t.Errorf("the delta has the loss %g, expected %g; %v", e.Loss, result.Test.Loss, err)
			}
			again, err := task.Tune(t.Context(), o, dir, nil)
			if err != nil || again.Seconds != result.Seconds {
				t.Errorf("tuning again: %v", err)
			}
			if m == method.SPT("adapter") {
				return // adapters cannot be merged
			}
			merged, err := tuned.Tuning.Merge(task.Model().Weights, tuned.Tuned)
			if err != nil {
				t.Fatal(err)
			}
			changed := func(name string) bool {
				return !slices.Equal(merged[name].Data, task.Model().Weights[name].Data)
			}
			for _, p := range config.Params() {
				if early(p.Name) && changed(p.Name) {
					t.Errorf("merging changes %s", p.Name)
				}
			}
		})
	}
}

// TestTrainFromBlock trains a plan that begins with block 1.
func TestTrainFromBlock(t *testing.T) {
	task := newTask(t, 9)
	o := options(method.SPTLoRA)
	scores, err := task.Score(t.Context(), o.Score, nil)
	if err != nil {
		t.Fatal(err)
	}
	p, err := spt.Plan(t.Context(), config, scores, plan.MustParseBudget("5%"), plan.Options{Module: "lora", FromBlock: 1})
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	single := run.TrainOptions{Method: method.SPTLoRA, Train: o.Train}
	if _, err := task.TrainRun(t.Context(), single, p, dir, nil); err != nil {
		t.Fatal(err)
	}
	_, recorded, err := run.Open(dir)
	if err != nil || recorded.Train.FromBlock != 1 {
		t.Errorf("the run records %+v, %v", recorded.Train, err)
	}
	if _, err := task.TrainRun(t.Context(), *recorded.Train, p, dir, nil); err != nil {
		t.Errorf("continuing the run: %v", err)
	}
	whole, err := spt.Plan(t.Context(), config, scores, plan.MustParseBudget("5%"), plan.Options{Module: "lora"})
	if err != nil {
		t.Fatal(err)
	}
	single.FromBlock = 1
	if _, err := task.EffectiveTrain(single, whole); err == nil || !strings.Contains(err.Error(), "contradicts the plan") {
		t.Errorf("a plan of all blocks: %v", err)
	}
}

// TestFromBlockRefused checks that options that cannot work are refused before any work.
func TestFromBlockRefused(t *testing.T) {
	refused := func(task *spt.Task, o run.TuneOptions, option, want string) {
		t.Helper()
		_, err := task.Effective(o)
		if wrong := (*run.OptionError)(nil); !errors.As(err, &wrong) || wrong.Option != option || !strings.Contains(err.Error(), want) {
			t.Errorf("%s from block %d: %v", o.Method, o.FromBlock, err)
		}
	}
	from := func(m method.Method, block int, budgets ...string) run.TuneOptions {
		o := options(m, budgets...)
		o.FromBlock = block
		return o
	}
	task := newTask(t, 9)
	for _, block := range []int{-1, 2} {
		refused(task, from(method.SPTLoRA, block), "from-block", "expected 1 to 1")
		refused(task, from(method.LoRA, block), "from-block", "expected 1 to 1")
	}
	for _, m := range []method.Method{method.Linear, method.Full, "vpt-shallow", "mlp-3", "partial-1"} {
		refused(task, from(m, 1), "from-block", "takes no from block")
	}
	data, err := dataset.New("colours", []string{"red", "green", "blue"}, colours.Samples(36, 16, 0), nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	flips, err := spt.New(colours.Model(config), data, spt.WithImages(run.ImageOptions{HorizontalFlip: true}))
	if err != nil {
		t.Fatal(err)
	}
	refused(flips, from(method.LoRA, 1), "from-block", "augmentation")
	augmented, err := spt.New(colours.Model(config), data, spt.WithImages(run.ImageOptions{Augment: dataset.Augment{VerticalFlip: true}}))
	if err != nil {
		t.Fatal(err)
	}
	refused(augmented, from(method.LoRA, 1), "from-block", "augmentation")
	auto := from(method.LoRA, 1)
	auto.AutoAugment = true
	if _, _, err := task.Prepare(t.Context(), &run.Config{Tune: auto}, nil); err == nil || !strings.Contains(err.Error(), "no augmentation can be compared") {
		t.Errorf("with the augmentation auto: %v", err)
	}
	delta := from(method.LoRA, 1)
	delta.Rank, delta.FromDelta = 0, "folder"
	refused(task, delta, "from-block", "from a delta")

	// The tokens are part of the memory that a run is expected to need.
	whole, _, err := task.Foresee(from(method.LoRA, 0))
	if err != nil {
		t.Fatal(err)
	}
	late, _, err := task.Foresee(from(method.LoRA, 1))
	if err != nil {
		t.Fatal(err)
	}
	if tokens := int64(45 * 5 * 16 * 2); late.Training < tokens || train.TokenBytes(config, 1, 45) != tokens {
		t.Errorf("from block 1 the training needs %d bytes, of all blocks %d, and the tokens take %d", late.Training, whole.Training, tokens)
	}
}
