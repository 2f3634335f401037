package spt_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/sptune/spt"
	"github.com/sptune/spt/backbone"
	"github.com/sptune/spt/dataset"
	"github.com/sptune/spt/delta"
	"github.com/sptune/spt/internal/colours"
	"github.com/sptune/spt/internal/golden"
	"github.com/sptune/spt/internal/golden/sptsmall"
	"github.com/sptune/spt/method"
	"github.com/sptune/spt/peft"
	"github.com/sptune/spt/plan"
	"github.com/sptune/spt/progress"
	"github.com/sptune/spt/run"
	"github.com/sptune/spt/sensitivity"
	"github.com/sptune/spt/train"
)

var config = backbone.Config{ImageSize: 16, NumClasses: 3, NumHeads: 2, LayerNormEps: 1e-6,
	Form: backbone.ViT{PatchSize: 8, EmbedDim: 16, Depth: 2, HiddenDim: 32}}

// newTask returns a task with a tiny backbone and images whose class is their colour. val is the
// number of validation images.
func newTask(t *testing.T, val int) *spt.Task { return taskOf(t, colours.Samples, val) }

// taskOf is newTask for other images of three colours.
func taskOf(t *testing.T, samples func(n, size, salt int) []dataset.Sample, val int) *spt.Task {
	t.Helper()
	data, err := dataset.New("colours", []string{"red", "green", "blue"}, samples(36, 16, 0), samples(val, 16, 7), samples(12, 16, 13))
	if err != nil {
		t.Fatal(err)
	}
	task, err := spt.New(colours.Model(config), data)
	if err != nil {
		t.Fatal(err)
	}
	return task
}

// lookup returns the row of a method.
func lookup(t *testing.T, m method.Method) method.Row {
	t.Helper()
	row, err := method.Lookup(m)
	if err != nil {
		t.Fatal(err)
	}
	return row
}

// options returns the options of a short run, at rank 1 if the method has a rank.
func options(m method.Method, budgets ...string) run.TuneOptions {
	o := run.TuneOptions{Method: m, Train: train.VTAB().WithEpochs(3)}
	if row, err := method.Lookup(m); err == nil && row.Takes("rank") {
		o.Rank = 1
		if row.Module == "adaptformer" { // of a single hidden value, ReLU can leave nothing
			o.Rank = 4
		}
	}
	for _, b := range budgets {
		o.Budgets = append(o.Budgets, plan.MustParseBudget(b))
	}
	o.Train.BatchSize, o.Train.LR = 12, 1e-2
	return o
}

// TestTune runs every kind of method and checks what the run folder holds.
func TestTune(t *testing.T) {
	for _, m := range someMethods(t) {
		var budgets []string
		if lookup(t, m).Scores {
			budgets = []string{"400", "12%"}
		}
		dir := t.TempDir()
		task := newTask(t, 9)
		o := options(m, budgets...)
		o.PaperProtocol = true
		r, err := task.Tune(t.Context(), o, dir, nil)
		if err != nil {
			t.Fatalf("%s: %v", m, err)
		}
		if r.Val == nil || r.Test == nil || r.TestMax == nil || r.TrainedOn != "train+val" || len(r.Epochs) != 3 || r.Test.Images != 12 {
			t.Errorf("%s: result %+v", m, r)
		}
		if *r.TestMax < r.Test.Accuracy {
			t.Errorf("%s: test-max %g is below the test accuracy %g of the last epoch", m, *r.TestMax, r.Test.Accuracy)
		}
		if lookup(t, m).Scores && len(r.Candidates) != 2 {
			t.Errorf("%s: candidates %+v", m, r.Candidates)
		}
		for _, c := range r.Candidates {
			if c.ValAccuracy > *r.Val {
				t.Errorf("%s: budget %s has validation accuracy %g, but the chosen budget has only %g", m, c.Budget, c.ValAccuracy, *r.Val)
			}
		}
		d, err := delta.Load(dir)
		if err != nil {
			t.Fatalf("%s: %v", m, err)
		}
		if d.Method != string(m) || d.Metrics["test_accuracy"] != r.Test.Accuracy || strings.Join(d.Classes, " ") != "red green blue" {
			t.Errorf("%s: delta %+v", m, d.Metrics)
		}
		if err := d.Check(task.Model()); err != nil {
			t.Errorf("%s: %v", m, err)
		}
		metrics, err := os.ReadFile(filepath.Join(dir, run.MetricsFile))
		if err != nil || bytes.Count(metrics, []byte("\n")) != 3 {
			t.Errorf("%s: metrics %s, %v", m, metrics, err)
		}
		var kept run.Result
		if data, err := os.ReadFile(filepath.Join(dir, run.ResultFile)); err != nil || json.Unmarshal(data, &kept) != nil || kept.Test.Accuracy != r.Test.Accuracy {
			t.Errorf("%s: result.json: %v", m, err)
		}
		if left, _ := filepath.Glob(filepath.Join(dir, "*training*")); len(left) != 0 {
			t.Errorf("%s: the finished run still has the training state %v", m, left)
		}
		checkCounts(t, string(m), kept.Counts, d)
	}
}

// checkCounts compares the counts in a result with the numbers of values that the delta holds.
func checkCounts(t *testing.T, what string, counts peft.Counts, d *delta.Delta) {
	t.Helper()
	tuned, head := 0, 0
	for name, v := range d.Tuned {
		if strings.HasPrefix(name, "head.") {
			head += len(v.Data)
		} else {
			tuned += len(v.Data)
		}
	}
	if counts.Tuned() != tuned || counts.Head != head {
		t.Errorf("%s: the result counts %d tuned parameters and %d in the head, the delta holds %d and %d", what, counts.Tuned(), counts.Head, tuned, head)
	}
}

// TestActualCounts checks that a result names the actual number of tuned parameters. It can be far
// below the budget of a method without a plan, because the rank is a whole number: LoRA of rank 1
// has 2·(4·(16+16) + 2·(16+32)) = 448 parameters on the matrices of config.
func TestActualCounts(t *testing.T) {
	for _, c := range []struct {
		method     method.Method
		budget     string
		rank, want int
	}{{method.LoRA, "1000", 2, 896}, {method.Adapter, "1000", 1, 2 * (5*(2*16+1+16) + 2*32 + 1 + 32)}} {
		dir := t.TempDir()
		o := options(c.method, c.budget)
		o.Rank = 0
		r, err := newTask(t, 9).Tune(t.Context(), o, dir, nil)
		if err != nil {
			t.Fatal(err)
		}
		if r.Counts.Tuned() != c.want || r.Rank != c.rank || r.Candidates[0].Counts != r.Counts || r.Budget.String() != c.budget {
			t.Errorf("%s within %s: %d parameters at rank %d, expected %d at rank %d; candidate %+v", c.method, c.budget, r.Counts.Tuned(), r.Rank, c.want, c.rank, r.Candidates[0])
		}
		d, err := delta.Load(dir)
		if err != nil {
			t.Fatal(err)
		}
		checkCounts(t, string(c.method), r.Counts, d)
	}
}

// TestLearningRates checks that validation chooses among learning rates, and that the final
// training uses the chosen rate.
func TestLearningRates(t *testing.T) {
	o := options(method.Linear)
	o.LRs = []float64{1e-5, 3e-2, 1e-1}
	dir := t.TempDir()
	r, err := newTask(t, 9).Tune(t.Context(), o, dir, nil)
	if err != nil {
		t.Fatal(err)
	}
	if len(r.Candidates) != 3 || r.LR == 1e-5 || r.Candidates[0].ValAccuracy >= *r.Val {
		t.Errorf("learning rate %g of candidates %+v, expected a rate that learns", r.LR, r.Candidates)
	}
	for i, c := range r.Candidates {
		if c.LR != o.LRs[i] || (c.LR == r.LR) != (c.ValAccuracy == *r.Val && c.ValLoss <= r.Candidates[1].ValLoss && c.ValLoss <= r.Candidates[2].ValLoss) {
			t.Errorf("candidate %+v, expected the learning rate %g; chosen: %g", c, o.LRs[i], r.LR)
		}
		if _, err := os.Stat(filepath.Join(dir, "candidates", fmt.Sprintf("linear-lr-%g", c.LR), run.ResultFile)); err != nil {
			t.Error(err)
		}
	}
	// One training with the chosen rate on the same images gives the same delta.
	o.Train.LR, o.LRs, o.NoValidation = r.LR, nil, true
	other := t.TempDir()
	if _, err := newTask(t, 9).Tune(t.Context(), o, other, nil); err != nil {
		t.Fatal(err)
	}
	a, err := os.ReadFile(filepath.Join(dir, delta.TensorsName))
	if err != nil {
		t.Fatal(err)
	}
	if b, err := os.ReadFile(filepath.Join(other, delta.TensorsName)); err != nil || !bytes.Equal(a, b) {
		t.Errorf("the final training differs from a training with the chosen learning rate: %v", err)
	}
}

// TestTuneFinished checks that Tune returns the result of a finished run for the same options, and
// refuses other options in its folder.
func TestTuneFinished(t *testing.T) {
	dir := t.TempDir()
	options := func(m method.Method, budgets ...string) run.TuneOptions {
		o := options(m, budgets...)
		o.Rank = 0 // the budget determines the rank
		return o
	}
	want, err := newTask(t, 9).Tune(t.Context(), options(method.LoRA, "800"), dir, nil)
	if err != nil {
		t.Fatal(err)
	}
	again, err := newTask(t, 9).Tune(t.Context(), options(method.LoRA, "800"), dir, nil)
	if err != nil || again.Test.Loss != want.Test.Loss {
		t.Errorf("the same run: %+v, %v", again, err)
	}
	for _, other := range []run.TuneOptions{options("bitfit"), options(method.LoRA, "1600"), options(method.Adapter, "1600")} {
		var option *run.OptionError
		if _, err := newTask(t, 9).Tune(t.Context(), other, dir, nil); !errors.As(err, &option) || !strings.Contains(err.Error(), "a finished run of lora 800; choose another folder") {
			t.Errorf("%s %v in its folder: %v", other.Method, other.Budgets, err)
		}
	}
}

// TestTuneResume stops a run in each of its stages, resumes it, and compares the delta's bytes with
// those of a run that was never stopped.
func TestTuneResume(t *testing.T) {
	o := options(method.SPTLoRA, "400", "12%")
	whole := t.TempDir()
	if _, err := newTask(t, 9).Tune(t.Context(), o, whole, nil); err != nil {
		t.Fatal(err)
	}
	want, err := os.ReadFile(filepath.Join(whole, "spt_delta.safetensors"))
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	stops := 0
	for _, at := range []progress.Event{
		{Stage: progress.Score, Done: 32}, {Stage: progress.Train, Candidate: "400", Epoch: 1, Done: 2}, {Stage: progress.Train, Candidate: "12%", Epoch: 0, Done: 1},
		{Stage: progress.Train, Epoch: 0, Done: 3}, {Stage: progress.Train, Epoch: 2, Done: 1}, {Stage: progress.Test, Done: 12},
	} {
		ctx, cancel := context.WithCancel(t.Context())
		_, err := newTask(t, 9).Tune(ctx, o, dir, func(e progress.Event) {
			if e.Stage == at.Stage && e.Candidate == at.Candidate && e.Epoch == at.Epoch && e.Done == at.Done {
				cancel()
			}
		})
		if errors.Is(err, context.Canceled) {
			stops++
		}
		cancel()
	}
	if stops < 5 { // the last event may come too late to stop the run
		t.Errorf("the run was stopped %d times, expected at least 5", stops)
	}
	// What a killed run can leave: temporary files, and the state of a candidate that is finished.
	left := []string{".spt-0123456789abcdef.tmp", "candidates/400/.spt-fedcba9876543210.tmp", "candidates/400/" + run.TrainStateFile}
	for _, name := range left {
		if err := os.WriteFile(filepath.Join(dir, name), []byte("left"), 0o666); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := newTask(t, 9).Tune(t.Context(), o, dir, nil); err != nil {
		t.Fatal(err)
	}
	for _, name := range left {
		if _, err := os.Stat(filepath.Join(dir, name)); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("the resumed run left %s: %v", name, err)
		}
	}
	got, err := os.ReadFile(filepath.Join(dir, "spt_delta.safetensors"))
	if err != nil || !bytes.Equal(got, want) {
		t.Errorf("the delta of the resumed run differs from the delta of the uninterrupted run (%v)", err)
	}
}

// TestTuneRefuses checks options that Tune refuses before any training.
func TestTuneRefuses(t *testing.T) {
	for _, c := range []struct {
		want string
		val  int
		o    run.TuneOptions
	}{
		{"method \"magic\" is unknown; known: spt-", 9, options("magic")},
		{"takes no budget", 9, options(method.Linear, "400")},
		{"need validation images", 0, options(method.SPTLoRA, "400", "500")},
		{"budget \"900%\"", 9, options(method.SPTLoRA, "900%")},
		{"give a larger budget", 9, options(method.SPTLoRA, "3")},
		{"at rank 1", 9, options(method.LoRA, "20")},
	} {
		if c.o.Method == method.LoRA {
			c.o.Rank = 0
		}
		_, err := newTask(t, c.val).Tune(t.Context(), c.o, t.TempDir(), nil)
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("expected an error with %q, got %v", c.want, err)
		}
	}
}

// TestTuneWithoutVal tunes on a data set without validation images.
func TestTuneWithoutVal(t *testing.T) {
	r, err := newTask(t, 0).Tune(t.Context(), options(method.SPTAdapter, "500"), t.TempDir(), nil)
	if err != nil {
		t.Fatal(err)
	}
	if r.Val != nil || r.TrainedOn != "train" || r.Test == nil || len(r.Candidates) != 0 {
		t.Errorf("result %+v", r)
	}
}

// TestPlanFitsBackbone checks that plans from real scores are within the budget and valid for the
// backbone. It counts the parameters of modules with its own formulas.
func TestPlanFitsBackbone(t *testing.T) {
	g := sptsmall.Open(t)
	reference := golden.Open(t, golden.Path(t, "spt_small", "sensitivity.npz"))
	c := g.Model(t).Config
	s := &sensitivity.Scores{}
	for _, p := range c.Params() {
		if p.Role == backbone.Scored {
			s.Tensors = append(s.Tensors, sensitivity.Tensor{Name: p.Name, Shape: p.Shape, Norm: p.Norm, Scores: reference.Float32(p.Name)})
		}
	}
	for _, module := range []string{"lora", "adapter"} {
		for budget := range map[string]bool{"5%": true, "20%": true} {
			p, err := spt.Plan(t.Context(), c, s, plan.MustParseBudget(budget), plan.Options{Module: module, Rank: g.Rank})
			if err != nil {
				t.Fatal(err)
			}
			limit, err := plan.MustParseBudget(budget).Parameters(c.Size())
			if err != nil {
				t.Fatal(err)
			}
			if p.Cost.Total > limit || p.Cost.Total == 0 {
				t.Errorf("%s at %s costs %d, the budget is %d", module, budget, p.Cost.Total, limit)
			}
			if err := p.Validate(sensitivity.Tensors(c), func(in, out, rank int) int {
				if module == "lora" {
					return rank * (in + out)
				}
				return 2*rank*out + rank + out
			}); err != nil {
				t.Error(err)
			}
		}
	}
}
