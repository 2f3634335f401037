package spt

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"reflect"
	"time"

	"github.com/sptune/spt/method"
	"github.com/sptune/spt/peft"
	"github.com/sptune/spt/plan"
	"github.com/sptune/spt/progress"
	"github.com/sptune/spt/run"
	"github.com/sptune/spt/sensitivity"
)

// TrainRun trains one selection once. Unlike [Task.Tune], it does not compare budgets and does not
// test. p is the plan to train; nil for a method that does not plan. TrainRun keeps the delta, the
// plan, the metrics and the result in the run folder dir. Like Tune, it makes a new run, continues
// an interrupted run with the same options and plan, or returns the result of a finished run.
func (t *Task) TrainRun(ctx context.Context, o run.TrainOptions, p *plan.Plan, dir string, report progress.Func) (*run.Result, error) {
	s, err := t.single(o, p)
	if err != nil {
		return nil, err
	}
	if p == nil {
		m, err := method.Lookup(o.Method)
		if err != nil {
			return nil, optionError(err)
		}
		o.Options = m.WithDefaults(o.Options)
	}
	folder, recorded, err := t.folder(ctx, dir, &run.Config{Train: &o}, report)
	if err != nil {
		return nil, err
	}
	if recorded != nil {
		if err := sameTraining(folder, *recorded.Train, o, p); err != nil {
			return nil, err
		}
	}
	if result, err := run.LoadResult[run.Result](folder); result != nil || err != nil {
		return result, err
	}
	if recorded != nil {
		if err := folder.CheckData(recorded.Data, t.data); err != nil {
			return nil, err
		}
	}
	r := &runner{Task: t, o: run.TuneOptions{Method: o.Method, Train: o.Train}, folder: folder, report: report}
	if p != nil {
		if err := p.Save(folder.Path(run.PlanFile)); err != nil {
			return nil, err
		}
		report.Report(progress.Event{Stage: progress.Plan, Detail: p})
	}
	if err := r.CheckImages(ctx, report); err != nil {
		return nil, err
	}
	training, err := t.training(s)
	if err != nil {
		return nil, err
	}
	trained, err := r.train(ctx, training, "", folder, TrainOptions{Options: o.Train, WithVal: o.WithVal})
	if err != nil {
		return nil, err
	}
	result := t.result(o.Method, o.Train.Seed)
	result.Budget, result.Rank, result.Counts, result.Epochs = o.Budget, s.Rank, trained.Tuning.Counts, trained.Epochs
	result.Seconds, result.Finished = seconds(trained.Epochs), time.Now().UTC()
	metrics := map[string]float64{}
	switch {
	case len(t.data.Val) == 0:
	case o.WithVal:
		result.TrainedOn = "train+val"
	default:
		result.Val = &trained.Epochs[len(trained.Epochs)-1].ValAccuracy
		metrics["val_accuracy"] = *result.Val
	}
	if err := t.Delta(o.Method, trained, p, metrics).Save(dir); err != nil {
		return nil, err
	}
	return result, run.SaveResult(folder, result)
}

// sameTraining returns an error if o differs from recorded, the options of the run in folder, or if
// p is not the plan of that run.
func sameTraining(folder run.Folder, recorded, o run.TrainOptions, p *plan.Plan) error {
	same := reflect.DeepEqual(recorded, o)
	if saved, err := plan.LoadFile(folder.Path(run.PlanFile)); err == nil && same {
		was, _ := json.Marshal(saved) // plans always encode
		now, _ := json.Marshal(p)
		same = bytes.Equal(was, now)
	}
	if !same {
		return &run.OptionError{Option: "run-folder", Err: fmt.Errorf("%s holds a run with other options or another plan; continue it with its own options and plan, or choose another folder", folder)}
	}
	return nil
}

// CheckTrainRun checks the options and the plan for [Task.TrainRun] without training. Options that
// cannot work are a [*run.OptionError]. A plan that does not fit the backbone is a
// [*run.InputError].
func (t *Task) CheckTrainRun(o run.TrainOptions, p *plan.Plan) error {
	_, err := t.single(o, p)
	return err
}

// single checks the options and the plan of one training, and returns its selection.
func (t *Task) single(o run.TrainOptions, p *plan.Plan) (s peft.Selection, err error) {
	if err := o.Train.Validate(); err != nil {
		return s, optionError(err)
	}
	if err := t.trainable(); err != nil {
		return s, err
	}
	if p == nil {
		var m method.Row
		if m, err = method.Lookup(o.Method); err == nil {
			s, err = m.Select(t.model.Config, o.Options)
		}
		if err == nil {
			_, err = peft.New(t.model.Config, s)
		}
		if err != nil {
			err = optionError(err)
		}
		return s, err
	}
	count, err := peft.CountOf(p.Module)
	if err == nil {
		err = p.Validate(sensitivity.Tensors(t.model.Config), count)
	}
	if err != nil {
		return s, &run.InputError{Err: fmt.Errorf("the plan does not fit the backbone: %w; give a plan that was made for this backbone", err)}
	}
	return Select(t.model.Config, p), nil
}
