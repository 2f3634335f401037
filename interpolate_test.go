package spt

import (
	"math"
	"testing"

	"github.com/sptune/spt/backbone"
	"github.com/sptune/spt/checkpoint"
	"github.com/sptune/spt/dataset"
	"github.com/sptune/spt/delta"
	"github.com/sptune/spt/internal/colours"
	"github.com/sptune/spt/internal/seeded"
	"github.com/sptune/spt/method"
	"github.com/sptune/spt/peft"
	"github.com/sptune/spt/plan"
	"github.com/sptune/spt/run"
	"github.com/sptune/spt/train"
)

// colourTask returns a task with images of three colours.
func colourTask(t *testing.T, val int) *Task {
	t.Helper()
	config := backbone.Config{ImageSize: 16, NumClasses: 3, NumHeads: 2, LayerNormEps: 1e-6, Form: backbone.ViT{PatchSize: 8, EmbedDim: 16, Depth: 2, HiddenDim: 32}}
	data, err := dataset.New("colours", []string{"red", "green", "blue"}, colours.Samples(36, 16, 0), colours.Samples(val, 16, 7), colours.Samples(12, 16, 13))
	if err != nil {
		t.Fatal(err)
	}
	task, err := New(colours.Model(config), data)
	if err != nil {
		t.Fatal(err)
	}
	return task
}

// TestBetween checks that the weights between two ends are those between the merged weights of both
// ends, for LoRA modules, whole vectors and single entries. At 0 they are the backbone with the
// given head.
func TestBetween(t *testing.T) {
	task := colourTask(t, 9)
	blocks := "blocks.0."
	tuning, err := peft.New(task.model.Config, peft.Selection{
		Structured: []string{blocks + "attn.q.weight", blocks + "mlp.fc2.weight"}, Module: "lora", Rank: 2,
		Whole:   []string{blocks + "norm1.weight", blocks + "mlp.fc1.bias"},
		Entries: map[string][]int32{blocks + "attn.proj.weight": {0, 5, 77}},
	})
	if err != nil {
		t.Fatal(err)
	}
	end := tuning.Init(3, peft.PaperScheme, task.model.Weights)
	r := seeded.Rand(1, "end")
	for _, v := range end {
		for i := range v.Data {
			v.Data[i] += float32(r.NormFloat64())
		}
	}
	head := checkpoint.StateDict{}
	for _, name := range []string{"head.weight", "head.bias"} {
		v := checkpoint.Tensor{Shape: end[name].Shape, Data: make([]float32, len(end[name].Data))}
		v.Data[1] = 2
		head[name] = v
	}
	start := starts(tuning, peft.PaperScheme, task.model.Weights, head)
	merged := func(tuned checkpoint.StateDict) checkpoint.StateDict {
		t.Helper()
		weights, err := tuning.Merge(task.model.Weights, tuned)
		if err != nil {
			t.Fatal(err)
		}
		return weights
	}
	first, last := merged(between(start, end, 0)), merged(between(start, end, 1))
	for _, alpha := range []float64{0, 0.5, 0.75, 1} {
		for name, got := range merged(between(start, end, alpha)) {
			for i, v := range got.Data {
				want := (1-alpha)*float64(first[name].Data[i]) + alpha*float64(last[name].Data[i])
				if math.Abs(float64(v)-want) > 1e-5 {
					t.Fatalf("alpha %g, %s[%d] is %v, want %v", alpha, name, i, v, want)
				}
			}
		}
	}
	for name, got := range first {
		want, ok := head[name]
		if !ok {
			want = task.model.Weights[name]
		}
		for i, v := range got.Data {
			if v != want.Data[i] {
				t.Fatalf("at 0, %s[%d] is %v, want %v", name, i, v, want.Data[i])
			}
		}
	}
	for name, want := range merged(end) {
		for i, v := range last[name].Data {
			if v != want.Data[i] {
				t.Fatalf("at 1, %s[%d] is %v, want %v", name, i, v, want.Data[i])
			}
		}
	}
}

// TestInterpolate checks that the validation results of a candidate by the recipe auto are those of
// its delta, that interpolation makes them no worse than the best epoch, and that other recipes do
// not interpolate. The learning rate is too high, so that a training ends beyond the best weights.
func TestInterpolate(t *testing.T) {
	moved := 0
	for _, recipe := range []string{run.RecipeAuto, run.RecipeVTAB} {
		for seed := range uint64(3) {
			task := colourTask(t, 21)
			o := run.TuneOptions{Method: method.SPTLoRA, Budgets: []plan.Budget{plan.MustParseBudget("12%")}, Train: train.VTAB().WithEpochs(3), Recipe: recipe, Probe: true, NoRefit: true}
			o.Rank = 1
			o.Train.BatchSize, o.Train.LR, o.Train.Seed = 12, 0.1, seed
			dir := t.TempDir()
			result, err := task.Tune(t.Context(), o, dir, nil)
			if err != nil {
				t.Fatal(err)
			}
			c := result.Candidates[0]
			folder := run.Folder(dir).Candidate(c.Budget.String())
			epochs, err := folder.Metrics()
			if err != nil {
				t.Fatal(err)
			}
			best := epochs[len(epochs)-1]
			if c.BestEpoch > 0 {
				best = epochs[c.BestEpoch-1]
			}
			d, err := delta.Load(string(folder))
			if err != nil {
				t.Fatal(err)
			}
			trained, err := Restore(task.model, d)
			if err != nil {
				t.Fatal(err)
			}
			e, _, err := task.Evaluate(t.Context(), trained, "val", task.data.Val, nil)
			if err != nil {
				t.Fatal(err)
			}
			if e.Accuracy != c.ValAccuracy || math.Abs(e.Loss-c.ValLoss) > 1e-4 {
				t.Errorf("%s, seed %d: the candidate has accuracy %v and loss %v, its delta %v and %v", recipe, seed, c.ValAccuracy, c.ValLoss, e.Accuracy, e.Loss)
			}
			if c.ValAccuracy < best.ValAccuracy || c.ValLoss > best.ValLoss || (c.Alpha == 0) != (c.ValLoss == best.ValLoss) {
				t.Errorf("%s, seed %d: alpha %g, accuracy %v and loss %v; the best epoch has %v and %v", recipe, seed, c.Alpha, c.ValAccuracy, c.ValLoss, best.ValAccuracy, best.ValLoss)
			}
			if c.Alpha > 0 {
				moved++
			}
			if c.Alpha > 0 && recipe != run.RecipeAuto {
				t.Errorf("recipe %s: alpha %g", recipe, c.Alpha)
			}
		}
	}
	if moved == 0 {
		t.Error("no training was interpolated")
	}
}

// TestClearlyLower checks the bound of two standard errors, and that equal losses are not lower.
func TestClearlyLower(t *testing.T) {
	others := []float64{1, 2, 3, 4}
	for _, c := range []struct {
		by   []float64 // by how much each loss is lower
		want bool
	}{
		{[]float64{0, 0, 0, 0}, false},
		{[]float64{0.5, 0.5, 0.5, 0.5}, true},
		{[]float64{-0.5, -0.5, -0.5, -0.5}, false},
		{[]float64{0.3, 0.7, 0.3, 0.7}, true},    // mean 0.5, standard error 0.115
		{[]float64{-0.2, 1.2, -0.2, 1.2}, false}, // mean 0.5, standard error 0.404
	} {
		losses := make([]float64, len(others))
		for i, d := range c.by {
			losses[i] = others[i] - d
		}
		if got := clearlyLower(losses, others); got != c.want {
			t.Errorf("differences %v: %t, want %t", c.by, got, c.want)
		}
	}
	if clearlyLower([]float64{1}, []float64{2}) {
		t.Error("one image has no standard error")
	}
}
