package spt

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"reflect"
	"time"

	"github.com/sptune/spt/internal/option"
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
	o, s, err := t.single(o, p)
	if err != nil {
		return nil, err
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
	trained, predictions, err := r.train(ctx, training, "", folder, TrainOptions{Options: o.Train, WithVal: o.WithVal})
	if err != nil {
		return nil, err
	}
	result := t.result(o.Method, o.Train.Seed)
	result.LR = o.Train.LR
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
		var c run.Candidate
		if err := validate(predictions, o.Train, &c); err != nil {
			return nil, err
		}
		result.Posthoc = c.Posthoc
		if err := setMetrics(predictions, "val", result); err != nil {
			return nil, err
		}
		if err := keep(predictions, folder); err != nil {
			return nil, err
		}
	}
	t.recordChanges(result, report)
	d := t.Delta(o.Method, trained, p, metrics)
	d.Posthoc = result.Posthoc
	if err := d.Save(dir); err != nil {
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

// EffectiveTrain returns o with all defaults filled in, as [Task.TrainRun] uses the options and
// config.json records them. It also checks the options and the plan p before any costly work.
// Options that cannot work are a [*run.OptionError]. A plan that does not fit the backbone is a
// [*run.InputError].
func (t *Task) EffectiveTrain(o run.TrainOptions, p *plan.Plan) (run.TrainOptions, error) {
	o, _, err := t.single(o, p)
	return o, err
}

// single checks the options and the plan of one training. It returns the options with their
// defaults, and the selection.
func (t *Task) single(o run.TrainOptions, p *plan.Plan) (_ run.TrainOptions, s peft.Selection, err error) {
	m, err := method.Lookup(o.Method)
	if err != nil {
		return o, s, optionError(err)
	}
	if p != nil && p.Compat != "" {
		o.Train.Compat = p.Compat // a plan of the release is trained as the release trains it
	}
	err = validateTrain(m, o.Train)
	if err == nil {
		err = t.checkLoss(o.Train)
	}
	if err != nil {
		return o, s, optionError(err)
	}
	if p != nil {
		if o.FromBlock != 0 && o.FromBlock != p.FromBlock {
			return o, s, optionError(option.Errorf("from-block", "block %d contradicts the plan, which begins with block %d; leave the block out, or make another plan", o.FromBlock, p.FromBlock))
		}
		o.FromBlock = p.FromBlock
	}
	if err := t.checkFromBlock(o.FromBlock); err != nil {
		return o, s, optionError(err)
	}
	if err := t.trainable(); err != nil {
		return o, s, err
	}
	images := len(t.data.Train)
	if o.WithVal {
		images += len(t.data.Val)
	}
	o.Train = effectiveTrain(m, o.Train, images)
	if o.Train, err = t.weighClasses(o.Train); err != nil {
		return o, s, err
	}
	if p == nil {
		if s, err = m.Select(t.model.Config, o.Options); err == nil {
			_, err = peft.New(t.model.Config, s)
		}
		if err != nil {
			return o, s, optionError(err)
		}
		o.Options = m.WithDefaults(o.Options)
		return o, s, nil
	}
	count, err := peft.CountOf(p.Module)
	if err == nil {
		err = p.Validate(sensitivity.Tensors(t.model.Config), count)
	}
	if err != nil {
		return o, s, &run.InputError{Err: fmt.Errorf("the plan does not fit the backbone: %w; give a plan that was made for this backbone", err)}
	}
	return o, Select(t.model.Config, p), nil
}
