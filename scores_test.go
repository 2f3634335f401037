package spt_test

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/sptune/spt"
	"github.com/sptune/spt/backbone"
	"github.com/sptune/spt/dataset"
	"github.com/sptune/spt/delta"
	"github.com/sptune/spt/internal/colours"
	"github.com/sptune/spt/method"
	"github.com/sptune/spt/progress"
	"github.com/sptune/spt/run"
	"github.com/sptune/spt/sensitivity"
)

// tuneIn runs o in the folder dir and returns the stages that reported progress.
func tuneIn(t *testing.T, task *spt.Task, o run.TuneOptions, dir string) (*run.Result, map[progress.Stage]bool) {
	t.Helper()
	stages := map[progress.Stage]bool{}
	r, err := task.Tune(t.Context(), o, dir, func(e progress.Event) { stages[e.Stage] = true })
	if err != nil {
		t.Fatal(err)
	}
	return r, stages
}

// deltaOf returns the bytes of the delta in a run folder.
func deltaOf(t *testing.T, dir string) []byte {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(dir, delta.TensorsName))
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// TestScoresFile checks that a run with a scores file does not score and gives the result of a run
// that scores, and that Tune refuses scores that do not fit.
func TestScoresFile(t *testing.T) {
	o := options(method.SPTLoRA, "400", "12%")
	o.Score = sensitivity.Options{Batches: 2, BatchSize: 10}
	o.KeepScores = true
	whole := t.TempDir()
	if _, stages := tuneIn(t, newTask(t, 9), o, whole); !stages[progress.Score] {
		t.Fatal("the run did not score")
	}
	file := filepath.Join(whole, run.ScoresFile)
	o.ScoresFile, o.KeepScores = file, false
	for _, score := range []sensitivity.Options{{}, o.Score, {Batches: 2, BatchSize: 10, Criterion: sensitivity.SquaredGradient, Seed: 9}} {
		o.Score = score
		dir := t.TempDir()
		if _, stages := tuneIn(t, newTask(t, 9), o, dir); stages[progress.Score] {
			t.Error("the run with a scores file scored")
		}
		if !bytes.Equal(deltaOf(t, dir), deltaOf(t, whole)) {
			t.Error("the scores file gives another delta")
		}
		if _, err := os.Stat(filepath.Join(dir, run.ScoresFile)); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("the run kept the scores: %v", err)
		}
	}

	o.Score = sensitivity.Options{}
	broken := filepath.Join(t.TempDir(), "broken.safetensors")
	if err := os.WriteFile(broken, []byte("nothing"), 0o666); err != nil {
		t.Fatal(err)
	}
	for want, change := range map[string]func(*run.TuneOptions){
		"criterion random contradicts the scores, which have the criterion gradient": func(o *run.TuneOptions) { o.Score.Criterion = sensitivity.Random },
		"scoring 36 images in batches of 10 contradicts the scores":                  func(o *run.TuneOptions) { o.Score.Batches, o.Score.BatchSize = 3, 10 },
		"scoring 36 images in batches of 20 contradicts the scores":                  func(o *run.TuneOptions) { o.Score.Batches, o.Score.BatchSize = 1, 20 },
		"compat mode release contradicts the scores":                                 func(o *run.TuneOptions) { o.Score.Compat = "release" },
		"method lora takes no scores file":                                           func(o *run.TuneOptions) { o.Method, o.Budgets = method.LoRA, nil },
		"method lora takes no keep scores":                                           func(o *run.TuneOptions) { o.Method, o.Budgets, o.ScoresFile, o.KeepScores = method.LoRA, nil, "", true },
		"no such file":                                                               func(o *run.TuneOptions) { o.ScoresFile = "missing.safetensors" },
		"broken.safetensors: ":                                                       func(o *run.TuneOptions) { o.ScoresFile = broken },
	} {
		bad := o
		change(&bad)
		dir := filepath.Join(t.TempDir(), "run")
		_, err := newTask(t, 9).Tune(t.Context(), bad, dir, nil)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("expected an error with %q, got %v", want, err)
		}
		if _, err := os.Stat(dir); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s: the run left a folder: %v", want, err)
		}
	}
	other := config
	other.Form = backbone.ViT{PatchSize: 4, EmbedDim: 16, Depth: 2, HiddenDim: 32}
	data, err := dataset.New("colours", []string{"red", "green", "blue"}, colours.Samples(36, 16, 0), colours.Samples(9, 16, 7), nil)
	if err != nil {
		t.Fatal(err)
	}
	task, err := spt.New(colours.Model(other), data)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := task.Tune(t.Context(), o, filepath.Join(t.TempDir(), "run"), nil); err == nil || !strings.Contains(err.Error(), "computed on another backbone") {
		t.Errorf("another backbone: %v", err)
	}
}

// TestResumePlans stops a run in its first training. The run keeps no scores. It must resume from
// its plans without scoring, and score again if a plan is missing.
func TestResumePlans(t *testing.T) {
	for _, budgets := range [][]string{{"400", "12%"}, {"400"}} {
		for _, noValidation := range []bool{false, true} {
			if noValidation && len(budgets) > 1 {
				continue
			}
			o := options(method.SPTLoRA, budgets...)
			o.NoValidation = noValidation
			whole := t.TempDir()
			tuneIn(t, newTask(t, 9), o, whole)
			for _, keep := range []bool{false, true} {
				o.KeepScores = keep
				for _, lost := range []string{"", run.PlanFile, "candidates/" + budgets[len(budgets)-1] + "/" + run.PlanFile} {
					dir := t.TempDir()
					ctx, cancel := context.WithCancel(t.Context())
					_, err := newTask(t, 9).Tune(ctx, o, dir, func(e progress.Event) {
						if e.Stage == progress.Train {
							cancel()
						}
					})
					cancel()
					if !errors.Is(err, context.Canceled) {
						t.Fatalf("the run was not stopped: %v", err)
					}
					if _, err := os.Stat(filepath.Join(dir, run.ScoresFile)); (err == nil) != keep {
						t.Errorf("the run keeps its scores: %v, expected %v", err == nil, keep)
					}
					kept := func(name string) bool {
						_, err := os.Stat(filepath.Join(dir, name))
						return err == nil
					}
					// Tune makes the plans of all budgets before the first training.
					for _, b := range budgets {
						if kept("candidates/"+b+"/"+run.PlanFile) == noValidation {
							t.Errorf("budget %s has a plan before the first training: %v", b, noValidation)
						}
					}
					if kept(run.PlanFile) != (len(budgets) == 1) {
						t.Errorf("the run folder has a plan: %v", kept(run.PlanFile))
					}
					rescore := false
					if lost != "" {
						if err := os.Remove(filepath.Join(dir, lost)); err != nil && !errors.Is(err, fs.ErrNotExist) {
							t.Fatal(err)
						}
						rescore = !slices.ContainsFunc([]string{run.PlanFile, "candidates/" + budgets[len(budgets)-1] + "/" + run.PlanFile}, kept)
					}
					if _, stages := tuneIn(t, newTask(t, 9), o, dir); stages[progress.Score] != (rescore && !keep) {
						t.Errorf("without %s: the resumed run scored: %v", lost, stages[progress.Score])
					}
					if !bytes.Equal(deltaOf(t, dir), deltaOf(t, whole)) {
						t.Errorf("without %s: the resumed run gives another delta", lost)
					}
				}
			}
		}
	}
}

// TestResumeBadPlan checks that a resumed run refuses a plan that is not its own.
func TestResumeBadPlan(t *testing.T) {
	dir := t.TempDir()
	o := options(method.SPTLoRA, "400", "12%")
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	if _, err := newTask(t, 9).Tune(ctx, o, dir, func(e progress.Event) {
		if e.Stage == progress.Train {
			cancel()
		}
	}); err == nil {
		t.Fatal("the run was not stopped")
	}
	path := filepath.Join(dir, "candidates", "12%", run.PlanFile)
	other, err := os.ReadFile(filepath.Join(dir, "candidates", "400", run.PlanFile))
	if err != nil {
		t.Fatal(err)
	}
	for _, text := range []string{string(other), "{"} {
		if err := os.WriteFile(path, []byte(text), 0o666); err != nil {
			t.Fatal(err)
		}
		var input *run.InputError
		if _, err := newTask(t, 9).Tune(t.Context(), o, dir, nil); !errors.As(err, &input) || !strings.Contains(err.Error(), path) || !strings.Contains(err.Error(), "remove the file to score again") {
			t.Errorf("%v", err)
		}
	}
}

// TestValidationOnly checks that a run that only validates has the candidates of a whole run, and
// neither a delta nor a test.
func TestValidationOnly(t *testing.T) {
	for _, m := range []method.Method{method.SPTLoRA, method.LoRA} {
		for _, budgets := range [][]string{{"900", "12%"}, {"900"}} {
			o := options(m, budgets...)
			if m == method.LoRA {
				o.Rank = 0
			}
			want, _ := tuneIn(t, newTask(t, 9), o, t.TempDir())
			o.ValidationOnly = true
			dir := t.TempDir()
			r, stages := tuneIn(t, newTask(t, 9), o, dir)
			if r.Test != nil || r.TrainedOn != "train" || *r.Val != *want.Val || r.Budget != want.Budget || r.LR != want.LR || r.Counts != want.Counts || r.Rank != want.Rank || len(r.Candidates) != len(budgets) || stages[progress.Test] {
				t.Errorf("%s %v: %+v", m, budgets, r)
			}
			if len(r.Epochs) != 3 || r.Epochs[2].ValAccuracy != *r.Val {
				t.Errorf("%s %v: epochs %+v", m, budgets, r.Epochs)
			}
			if _, err := os.Stat(filepath.Join(dir, delta.FileName)); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("%s: the run made a delta: %v", m, err)
			}
			if again, stages := tuneIn(t, newTask(t, 9), o, dir); again.Counts != r.Counts || stages[progress.Train] {
				t.Errorf("%s: the finished run gives %+v", m, again)
			}
			o.ValidationOnly = false
			if _, err := newTask(t, 9).Tune(t.Context(), o, dir, nil); err == nil || !strings.Contains(err.Error(), "that only validated; choose another folder") {
				t.Errorf("a whole run in the folder of a run that only validated: %v", err)
			}
		}
	}
	for want, change := range map[string]func(*run.TuneOptions){
		"no validation exclude": func(o *run.TuneOptions) { o.NoValidation = true },
		"the paper protocol":    func(o *run.TuneOptions) { o.PaperProtocol = true },
	} {
		o := options(method.Linear)
		o.ValidationOnly = true
		change(&o)
		var option *run.OptionError
		if _, err := newTask(t, 9).Effective(o); !errors.As(err, &option) || !strings.Contains(err.Error(), want) {
			t.Errorf("expected an error with %q, got %v", want, err)
		}
	}
	o := options(method.Linear)
	o.ValidationOnly = true
	if _, err := newTask(t, 0).Effective(o); err == nil || !strings.Contains(err.Error(), "needs validation images") {
		t.Errorf("without validation images: %v", err)
	}
}
