package spt_test

import (
	"bytes"
	"context"
	"errors"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/sptune/spt"
	"github.com/sptune/spt/dataset"
	"github.com/sptune/spt/evaluate"
	"github.com/sptune/spt/internal/colours"
	"github.com/sptune/spt/method"
	"github.com/sptune/spt/progress"
	"github.com/sptune/spt/run"
)

// deltas returns the tuned tensors of the runs in a folder.
func deltas(t *testing.T, dir string, runs ...string) (all []byte) {
	t.Helper()
	for _, name := range runs {
		data, err := os.ReadFile(filepath.Join(dir, name, "spt_delta.safetensors"))
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, data...)
	}
	return all
}

// TestTuneFolds checks a cross-validation: every image is tested once, and the means are those of
// the folds.
func TestTuneFolds(t *testing.T) {
	o, folds := options(method.SPTLoRA, "400"), run.FoldOptions{Number: 3, Final: true}
	o.NoRefit = true
	dir := t.TempDir()
	task := newTask(t, 9)
	r, err := task.TuneFolds(t.Context(), o, folds, dir, nil)
	if err != nil {
		t.Fatal(err)
	}
	tested, correct, mean := 0, 0, 0.0
	for i, f := range r.Folds {
		_, c, err := run.Open(filepath.Join(dir, f.Folder))
		if err != nil {
			t.Fatal(err)
		}
		if c.Data.Folds != 3 || c.Data.Fold != i+1 || c.Folds.Number != 0 || c.Data.Test != f.Test {
			t.Errorf("fold %d: data %+v", i+1, c.Data)
		}
		single, err := run.LoadResult[run.Result](run.Folder(dir).Fold(i + 1))
		if err != nil || single.Test.Accuracy != f.Accuracy || f.Train+f.Val+f.Test != 45 {
			t.Errorf("fold %d: result %+v, error %v", i+1, f, err)
		}
		tested, correct, mean = tested+f.Test, correct+int(math.Round(f.Accuracy*float64(f.Test))), mean+f.Accuracy/3
	}
	if tested != 45 || r.Metrics.Images != 45 || r.Metrics.Correct != correct || math.Abs(r.Accuracy.Mean-mean) > 1e-12 {
		t.Errorf("tested %d images, %d correct; all folds together %+v, mean %g", tested, correct, r.Metrics, r.Accuracy.Mean)
	}
	if _, ranked, err := evaluate.LoadRanked(filepath.Join(dir, run.PredictionsFile)); err != nil || len(ranked) != 45 {
		t.Errorf("%d predictions, error %v", len(ranked), err)
	}
	final, err := run.LoadResult[run.Result](run.Folder(dir).Final())
	if err != nil || r.Final != "final" || final.TrainedOn != "train+val" || final.Test.Images != 12 {
		t.Errorf("final run %+v, error %v", final, err)
	}
	// A finished cross-validation is read, and one with other options is refused.
	again, err := newTask(t, 9).TuneFolds(t.Context(), o, folds, dir, func(e progress.Event) { t.Errorf("work in a finished run: %+v", e) })
	if err != nil || again.Accuracy != r.Accuracy {
		t.Errorf("reading the result again: %v", err)
	}
	for name, change := range map[string]func(*run.TuneOptions, *run.FoldOptions){
		"epochs": func(o *run.TuneOptions, _ *run.FoldOptions) { o.Train = o.Train.WithEpochs(4) },
		"folds":  func(_ *run.TuneOptions, f *run.FoldOptions) { f.Number = 4 },
		"final":  func(_ *run.TuneOptions, f *run.FoldOptions) { f.Final = false },
	} {
		o, folds := o, folds
		change(&o, &folds)
		if _, err := newTask(t, 9).TuneFolds(t.Context(), o, folds, dir, nil); !isOption(err, "run-folder") {
			t.Errorf("other %s: error %v", name, err)
		}
	}
	if _, err := newTask(t, 9).Tune(t.Context(), o, dir, nil); !isOption(err, "run-folder") {
		t.Errorf("a single run in the folder of a cross-validation: error %v", err)
	}
	if _, err := newTask(t, 9).TuneFolds(t.Context(), o, folds, filepath.Join(dir, "fold-1"), nil); !isOption(err, "run-folder") {
		t.Errorf("a cross-validation in the folder of a single run: error %v", err)
	}
	if _, err := newTask(t, 8).TuneFolds(t.Context(), o, folds, dir, nil); err == nil {
		t.Error("other data: no error")
	}
	o.ValidationOnly = true
	if _, err := task.TuneFolds(t.Context(), o, folds, t.TempDir(), nil); !isOption(err, "validation-only") {
		t.Errorf("folds that only validate: error %v", err)
	}
	for _, k := range []int{-1, 0, 1, 46} {
		if _, err := task.TuneFolds(t.Context(), options(method.SPTLoRA, "400"), run.FoldOptions{Number: k}, t.TempDir(), nil); !isOption(err, "folds") {
			t.Errorf("%d folds: error %v", k, err)
		}
	}
}

// isOption reports whether err is a run.OptionError about an option.
func isOption(err error, name string) bool {
	option, ok := errors.AsType[*run.OptionError](err)
	return ok && option.Option == name
}

// TestTuneFoldsResume stops a cross-validation in several places and compares its deltas with those
// of an uninterrupted one. Finished folds do no more work.
func TestTuneFoldsResume(t *testing.T) {
	o, folds := options(method.SPTLoRA, "400"), run.FoldOptions{Number: 2, Final: true}
	runs := []string{"fold-1", "fold-2", "final"}
	o.NoRefit = true
	whole := t.TempDir()
	if _, err := newTask(t, 9).TuneFolds(t.Context(), o, folds, whole, nil); err != nil {
		t.Fatal(err)
	}
	want := deltas(t, whole, runs...)
	dir, stops := t.TempDir(), 0
	for _, at := range []progress.Event{
		{Stage: progress.Train, Candidate: "fold 1 of 2, 400", Epoch: 1}, {Stage: progress.Score, Candidate: "fold 2 of 2"},
		{Stage: progress.Train, Candidate: "fold 2 of 2, 400", Epoch: 1}, {Stage: progress.Train, Candidate: "final run", Epoch: 1},
	} {
		ctx, cancel := context.WithCancel(t.Context())
		finished := map[string]bool{}
		for i, name := range runs[:2] {
			if _, err := os.Stat(filepath.Join(dir, name, run.ResultFile)); err == nil {
				finished["fold "+string(rune('1'+i))] = true
			}
		}
		_, err := newTask(t, 9).TuneFolds(ctx, o, folds, dir, func(e progress.Event) {
			if len(e.Candidate) > 6 && finished[e.Candidate[:6]] && e.Stage != progress.Images {
				t.Errorf("work on a finished fold: %+v", e)
			}
			if e.Stage == at.Stage && e.Candidate == at.Candidate && e.Epoch == at.Epoch {
				cancel()
			}
		})
		if errors.Is(err, context.Canceled) {
			stops++
		}
		cancel()
	}
	if stops < 3 {
		t.Errorf("the cross-validation was stopped %d times, expected at least 3", stops)
	}
	if _, err := newTask(t, 9).TuneFolds(t.Context(), o, folds, dir, nil); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(deltas(t, dir, runs...), want) {
		t.Error("the deltas of the resumed cross-validation differ from those of the uninterrupted one")
	}
	for _, name := range []string{run.PredictionsFile, "fold-2/" + run.PredictionsFile} {
		a, err := os.ReadFile(filepath.Join(whole, name))
		if err != nil {
			t.Fatal(err)
		}
		if b, err := os.ReadFile(filepath.Join(dir, name)); err != nil || !bytes.Equal(a, b) {
			t.Errorf("%s differs (%v)", name, err)
		}
	}
}

// TestTuneFoldsAuto checks that each fold chooses its own options with the recipe auto, also after
// it was stopped, and that the folds share a time limit.
func TestTuneFoldsAuto(t *testing.T) {
	o := run.TuneOptions{Method: method.LoRA, Recipe: run.RecipeAuto, Probe: true, NoRefit: true}
	o.Rank, o.Train.Steps, o.TimeLimit = 1, 4, 60
	dir := t.TempDir()
	ctx, cancel := context.WithCancel(t.Context())
	if _, err := newTask(t, 9).TuneFolds(ctx, o, run.FoldOptions{Number: 2}, dir, func(e progress.Event) {
		if e.Stage == progress.Train && strings.HasPrefix(e.Candidate, "fold 2") {
			cancel()
		}
	}); !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	r, err := newTask(t, 9).TuneFolds(t.Context(), o, run.FoldOptions{Number: 2}, dir, nil)
	if err != nil {
		t.Fatal(err)
	}
	for i := range r.Folds {
		_, c, err := run.Open(string(run.Folder(dir).Fold(i + 1)))
		if err != nil || c.Tune.Train.BatchSize == 0 || c.Tune.TimeLimit > 60.0/float64(2-i) || c.Tune.TimeLimit <= 0 {
			t.Errorf("fold %d: batch size %d, time limit %g, error %v", i+1, c.Tune.Train.BatchSize, c.Tune.TimeLimit, err)
		}
	}
	_, c, err := run.Open(dir)
	if err != nil || c.Tune.Train.BatchSize != 0 || c.Folds.Number != 2 {
		t.Errorf("the folder of the folds records %+v, error %v", c.Folds, err)
	}
}

// TestTuneFoldsFinalWithoutTest checks that an in-memory data set without a test split gives all
// its images to the final run.
func TestTuneFoldsFinalWithoutTest(t *testing.T) {
	data, err := dataset.New("colours", []string{"red", "green", "blue"}, colours.Samples(24, 16, 0), nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	task, err := spt.New(colours.Model(config), data)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if _, err := task.TuneFolds(t.Context(), options(method.Linear), run.FoldOptions{Number: 2, Final: true}, dir, nil); err != nil {
		t.Fatal(err)
	}
	final, err := run.LoadResult[run.Result](run.Folder(dir).Final())
	if err != nil || final.Data.Train != 24 || final.Test != nil {
		t.Errorf("final run %+v, error %v", final, err)
	}
}
