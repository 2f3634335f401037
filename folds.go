package spt

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/sptune/spt/dataset"
	"github.com/sptune/spt/evaluate"
	"github.com/sptune/spt/internal/option"
	"github.com/sptune/spt/progress"
	"github.com/sptune/spt/run"
)

// TuneFolds is a cross-validation with [Task.Tune]: it divides the images into folds.Number folds,
// as [dataset.Dataset.Folds] does, and runs Tune once for each fold, with the images of the fold as
// test images. With the recipe auto, each run first chooses its own options ([Task.Prepare]), so no
// choice depends on the images on which it is tested. The result has the means over the folds and
// the metrics of all their predictions together.
//
// The folder dir holds a run folder for each fold, the predictions of all folds, in the order of
// the folds, and folds.json. By default the runs of the folds are there to measure, and no single
// delta is delivered. With folds.Final, TuneFolds then runs Tune once more without test images, and
// trains on all of them; the folds tell how good that delta is to be expected. If the data set has
// a test split itself, no fold holds its images, and the final run is tested on it.
//
// If dir holds no run, TuneFolds makes it. To continue, call TuneFolds again with the same task,
// options and dir: finished folds are not repeated, and an interrupted fold continues. With
// o.TimeLimit, the folds that are left share the time. Errors are as for Tune.
func (t *Task) TuneFolds(ctx context.Context, o run.TuneOptions, folds run.FoldOptions, dir string, report progress.Func) (*run.FoldsResult, error) {
	began := o.Began
	if began.IsZero() {
		began = time.Now()
	}
	o.Began = time.Time{}
	if o.ValidationOnly {
		return nil, optionError(option.Errorf("validation-only", "a cross-validation tests each fold, so it cannot only validate; leave one of the two options out"))
	}
	if o.Recipe != run.RecipeAuto {
		filled, err := t.Effective(o) // finds options that cannot work
		if err != nil {
			return nil, err
		}
		if o.MethodRates { // which no file holds
			o.LRs, o.MethodRates = filled.LRs, false
		}
	}
	sets, err := t.data.Folds(folds.Number)
	if err != nil {
		return nil, optionError(err)
	}
	folder, recorded, err := t.folder(ctx, dir, &run.Config{Tune: o, Folds: folds}, report)
	if err != nil {
		return nil, err
	}
	if recorded == nil {
		_, c, err := run.Open(dir)
		if err != nil {
			return nil, err
		}
		recorded = &c
	} else if err := t.sameFolds(folder, recorded, o, folds); err != nil {
		return nil, err
	}
	if result, err := run.LoadFolds(folder); result != nil || err != nil {
		return result, err
	}
	// own returns the options of the next run, which shares the time with those that are left.
	own := func(left int) run.TuneOptions {
		own := o
		if o.TimeLimit > 0 {
			own.Began = time.Now()
			own.TimeLimit = max(1, o.TimeLimit-time.Since(began).Seconds()) / float64(left)
		}
		return own
	}
	left := folds.Number
	if folds.Final {
		left++
	}
	result := &run.FoldsResult{Classes: t.data.Classes}
	var predicted []evaluate.Ranked
	for i, data := range sets {
		name := fmt.Sprintf("fold %d of %d", i+1, len(sets))
		at, err := t.on(data)
		if err != nil {
			return nil, err
		}
		at.config.Data.Folds, at.config.Data.Fold = folds.Number, i+1
		r, err := at.tunePart(ctx, own(left), folder.Fold(i+1), recorded.Folds.AutoSize, named(report, name))
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		result.Folds, result.Seconds = append(result.Folds, foldResult(folder.Fold(i+1), r)), result.Seconds+r.Seconds
		left--
		switch _, ranked, err := evaluate.LoadRanked(folder.Fold(i + 1).Path(run.PredictionsFile)); {
		case err == nil:
			predicted = append(predicted, ranked...)
		case !errors.Is(err, fs.ErrNotExist): // the objective does not classify
			return nil, &run.InputError{Err: err}
		}
	}
	of := func(value func(run.FoldResult) float64) run.Spread { return run.SpreadOf(result.Folds, value) }
	result.Accuracy = of(func(f run.FoldResult) float64 { return f.Accuracy })
	result.Loss = of(func(f run.FoldResult) float64 { return f.Loss })
	if predicted != nil {
		result.BalancedAccuracy = of(func(f run.FoldResult) float64 { return f.BalancedAccuracy })
		result.MacroF1 = of(func(f run.FoldResult) float64 { return f.MacroF1 })
		p, err := evaluate.FromRanked(t.data.Classes, predicted)
		if err == nil {
			result.Metrics, err = p.Metrics(1)
		}
		if err == nil {
			err = evaluate.SaveRanked(folder.Path(run.PredictionsFile), t.data.Classes, predicted)
		}
		if err != nil {
			return nil, fmt.Errorf("joining the predictions of the folds: %w", err)
		}
	}
	if folds.Final {
		r, err := t.tuneFinal(ctx, own(1), folder.Final(), recorded.Folds.AutoSize, report)
		if err != nil {
			return nil, fmt.Errorf("final run: %w", err)
		}
		result.Final, result.Seconds = filepath.Base(string(folder.Final())), result.Seconds+r.Seconds
	}
	result.Finished = time.Now().UTC()
	return result, run.SaveFolds(folder, result)
}

// sameFolds returns an error if the cross-validation in folder has other options or other data.
func (t *Task) sameFolds(folder run.Folder, recorded *run.Config, o run.TuneOptions, folds run.FoldOptions) error {
	before, err := json.Marshal(recorded.Tune)
	if err != nil {
		return fmt.Errorf("comparing the options of the run in %s: %w", folder, err)
	}
	now, err := json.Marshal(o)
	if err != nil {
		return fmt.Errorf("comparing the options of the run in %s: %w", folder, err)
	}
	if !bytes.Equal(before, now) || recorded.Folds.Number != folds.Number || recorded.Folds.Final != folds.Final {
		return &run.OptionError{Option: "run-folder", Err: fmt.Errorf("%s holds a cross-validation with other options; continue it with its own options, or choose another folder", folder)}
	}
	return folder.CheckData(recorded.Data, t.data)
}

// on returns a task with the backbone and the device of t on other data.
func (t *Task) on(data *dataset.Dataset) (*Task, error) {
	at, err := New(t.model, data, WithImages(t.config.Data.Images), WithCompute(t.config.Compute), WithBackend(t.be), WithObjective(t.objective))
	if err != nil {
		return nil, err
	}
	at.cache, at.tensors, at.forward = t.cache, t.tensors, t.forward
	at.config.Model, at.config.Data = t.config.Model, t.config.Data
	c := &at.config.Data
	c.Split, c.Samples, c.Classes, c.Train, c.Val, c.Test = "", "", 0, 0, 0, 0 // of other splits
	return at, nil
}

// tunePart runs Tune in folder. With the recipe auto, it chooses the options first. A run that has
// begun goes on with its own options.
func (t *Task) tunePart(ctx context.Context, o run.TuneOptions, folder run.Folder, autoSize bool, report progress.Func) (*run.Result, error) {
	if _, err := os.Stat(folder.Path(run.ConfigFile)); err == nil {
		_, recorded, err := run.Open(string(folder))
		if err != nil {
			return nil, err
		}
		if recorded.Model.ImageSize != t.model.Config.ImageSize {
			if t, err = t.atSize(ctx, recorded.Model.ImageSize); err != nil {
				return nil, err
			}
		}
		data := t.data
		if n := recorded.Data.MaxImages; n != t.config.Data.MaxImages { // the time allowed no more
			if data, err = data.Limit(n, recorded.Data.SplitSeed); err != nil {
				return nil, err
			}
		}
		if recorded.Data.Images != t.config.Data.Images || data != t.data {
			if t, err = t.with(t.model, data, recorded.Data.Images); err != nil {
				return nil, err
			}
			t.config.Data.MaxImages = recorded.Data.MaxImages
		}
		recorded.Tune.Began = o.Began
		return t.Tune(ctx, recorded.Tune, string(folder), report)
	}
	if o.Recipe == run.RecipeAuto {
		c := &run.Config{Model: t.config.Model, Data: t.config.Data, Tune: o}
		if autoSize {
			c.Model.ImageSize = 0
		}
		var err error
		if t, _, err = t.Prepare(ctx, c, report); err != nil {
			return nil, err
		}
		o = c.Tune
	}
	return t.Tune(ctx, o, string(folder), report)
}

// tuneFinal runs Tune on all images of the folds: on the training and validation images of t, and
// on test images that t has drawn from them.
func (t *Task) tuneFinal(ctx context.Context, o run.TuneOptions, folder run.Folder, autoSize bool, report progress.Func) (*run.Result, error) {
	data := t.data.AsOpened()
	fraction := t.config.Data.TestFraction
	if data.DrawnTest() {
		own := data.Options
		own.TestFraction, fraction = -1, -1
		var err error
		if data, err = dataset.Open(ctx, data.Root, own); err != nil {
			return nil, &run.InputError{Err: err}
		}
	}
	at, err := t.on(data)
	if err != nil {
		return nil, err
	}
	at.config.Data.TestFraction = fraction
	o.NoRefit = false
	return at.tunePart(ctx, o, folder, autoSize, named(report, "final run"))
}

// named returns a function that adds the name of a part to the candidate of each event.
func named(report progress.Func, name string) progress.Func {
	return func(e progress.Event) {
		if e.Candidate != "" {
			e.Candidate = ", " + e.Candidate
		}
		e.Candidate = name + e.Candidate
		report.Report(e)
	}
}

// foldResult returns what the result of a cross-validation keeps of the run of a fold.
func foldResult(folder run.Folder, r *run.Result) run.FoldResult {
	f := run.FoldResult{Folder: filepath.Base(string(folder)), Train: r.Data.Train, Val: r.Data.Val, Test: r.Data.Test, ImageSize: r.Model.ImageSize, Budget: r.Budget, LR: r.LR}
	if r.Test != nil {
		f.Accuracy, f.Loss, f.Test = r.Test.Accuracy, r.Test.Loss, r.Test.Images
	}
	if r.Metrics != nil && r.MetricsOf == "test" {
		f.BalancedAccuracy, f.MacroF1 = r.Metrics.BalancedAccuracy, r.Metrics.Macro.F1
	}
	return f
}
