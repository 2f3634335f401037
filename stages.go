package spt

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"

	"github.com/sptune/spt/backbone"
	"github.com/sptune/spt/checkpoint"
	"github.com/sptune/spt/dataset"
	"github.com/sptune/spt/delta"
	"github.com/sptune/spt/internal/option"
	"github.com/sptune/spt/method"
	"github.com/sptune/spt/objective"
	"github.com/sptune/spt/peft"
	"github.com/sptune/spt/plan"
	"github.com/sptune/spt/progress"
	"github.com/sptune/spt/run"
	"github.com/sptune/spt/sensitivity"
	"github.com/sptune/spt/train"
)

// Score is stage 1. It computes a sensitivity for every weight from training images; some criteria
// read no images. With o.Stratified, it draws the images of all classes in equal numbers with
// o.Seed. Otherwise, if the images of the data set are in random order already
// (dataset.Dataset.Mixed), Score reads them in that order, as the paper does, and else it shuffles
// them with o.Seed. Options that cannot work are a [*run.OptionError]. Training images of a single
// class are a [*run.InputError].
func (t *Task) Score(ctx context.Context, o sensitivity.Options, report progress.Func) (*sensitivity.Scores, error) {
	return t.score(ctx, o, nil, report)
}

// ScoreWithProbe is [Task.Score] with the head of a linear probe instead of a random head, as in
// stage 1 of a run with run.TuneOptions.Probe. It fits the probe to the features of the training
// images; the validation images choose its regularisation. It returns a [*run.OptionError] if the
// criterion reads no images, or if no probe can fit the head of the objective.
func (t *Task) ScoreWithProbe(ctx context.Context, o sensitivity.Options, report progress.Func) (*sensitivity.Scores, error) {
	if !o.WithDefaults().Criterion.Images() {
		return nil, optionError(option.Errorf("probe-head", "the criterion %s reads no images, so a head has no effect on it; leave the probe out", o.Criterion))
	}
	if err := t.checkProbe(); err != nil {
		return nil, optionError(err)
	}
	if err := t.trainable(); err != nil {
		return nil, err
	}
	f, _, _, err := t.newProbe(ctx, train.Options{}, time.Time{}, report)
	if err != nil {
		return nil, err
	}
	return t.score(ctx, o, f.start, report)
}

// score is Score with the values of the head; nil for random values. It skips broken images; see
// SkipBroken.
func (t *Task) score(ctx context.Context, o sensitivity.Options, values checkpoint.StateDict, report progress.Func) (scores *sensitivity.Scores, err error) {
	err = t.skipping(ctx, report, []string{"train"}, func() (err error) {
		scores, err = t.scoreOnce(ctx, o, values, report)
		return err
	})
	return scores, err
}

// scoreOnce is score for images that can all be decoded.
func (t *Task) scoreOnce(ctx context.Context, o sensitivity.Options, values checkpoint.StateDict, report progress.Func) (*sensitivity.Scores, error) {
	o = o.WithDefaults()
	if err := o.Validate(); err != nil {
		return nil, optionError(err)
	}
	go t.model.Fingerprint() // the scores record the fingerprint; hash while the device scores
	in := sensitivity.Input{Backend: t.be, Model: t.model, Objective: t.objective}
	if o.Criterion.Images() {
		if err := t.trainable(); err != nil {
			return nil, err
		}
		in.Images = t.loader(t.data.Train, t.eval)
		switch {
		case o.Stratified:
			in.Order = dataset.ShuffleStratified(in.Images.Strata(), o.Seed)
		case !t.data.Mixed:
			in.Order = dataset.Shuffle(in.Images.Len(), o.Seed, 0)
		}
		if in.Head = values; values == nil {
			head, err := peft.New(t.model.Config, peft.Selection{})
			if err != nil {
				return nil, err
			}
			in.Head = head.Init(o.Seed, peft.PaperScheme, t.model.Weights)
		}
	}
	scores, err := sensitivity.Score(ctx, in, o, report)
	if err != nil {
		return nil, fmt.Errorf("scoring the weights of the backbone: %w", err)
	}
	return scores, nil
}

// Plan is stage 2. It selects the parameters of the backbone c to tune under a budget. If o.Compat
// is set, the budget must be one of plan.ReleaseBudgets. A budget or options that cannot work are a
// [*run.OptionError].
func Plan(ctx context.Context, c backbone.Config, scores *sensitivity.Scores, budget plan.Budget, o plan.Options) (*plan.Plan, error) {
	return planFor(ctx, scores, budget, c.Size(), o)
}

// PlanScores is [Plan] for a program that has scores but no backbone. The budget must be a number
// of parameters, because scores do not record the size of the backbone.
func PlanScores(ctx context.Context, scores *sensitivity.Scores, budget plan.Budget, o plan.Options) (*plan.Plan, error) {
	if budget.IsShare() {
		return nil, &run.OptionError{Option: "budget", Err: fmt.Errorf("budget %s is a share of the backbone, but scores do not record the size of the backbone; plan with the backbone, or give a number of parameters", budget)}
	}
	size := 0
	for _, t := range scores.Tensors {
		size += len(t.Scores)
	}
	return planFor(ctx, scores, budget, size, o)
}

func planFor(ctx context.Context, scores *sensitivity.Scores, budget plan.Budget, size int, o plan.Options) (*plan.Plan, error) {
	o = o.WithDefaults()
	parameters, err := budget.Parameters(size)
	if err == nil {
		err = o.Validate(scores.Tensors, scores.ClassToken, parameters)
	}
	var count plan.Count
	if err == nil {
		count, err = peft.CountOf(o.Module)
	}
	if err != nil {
		return nil, optionError(err)
	}
	p, err := plan.New(ctx, scores, parameters, o, count)
	if option.Of(err) != "" { // such as scores with another criterion than that of the rule
		return nil, optionError(err)
	}
	return p, err
}

// Select returns the selection that the plan p makes on the backbone c: the matrices, vectors and
// entries of the plan, and the class token, unless the plan begins with a later block.
func Select(c backbone.Config, p *plan.Plan) peft.Selection {
	var tokens []string
	if p.FromBlock == 0 {
		tokens, _ = c.ClassTokens()
	}
	return peft.Selection{Module: p.Module, Rank: p.Rank, Ranks: p.Ranks, Structured: p.Matrices, Whole: append(tokens, p.Vectors...), Entries: p.Entries, FromBlock: p.FromBlock}
}

// TrainOptions configures stage 3.
type TrainOptions struct {
	// Options is the recipe: epochs, batch size, learning rate and so on.
	train.Options
	// WithVal trains on the train and val splits together, and does not validate. Default: train on
	// the train split and validate after every epoch.
	WithVal bool
	// Checkpoint is the path of the file that keeps the training state. If the file exists, the
	// training continues from it. Empty: no state is kept.
	Checkpoint string
	// TestEveryEpoch also evaluates the test split after every epoch, as in the protocol of the
	// paper. The results do not influence the training.
	TestEveryEpoch bool
	// Progress receives the events of train.Run. Nil: no events.
	Progress progress.Func
	// EpochDone is called after each epoch with all finished epochs. If it returns an error, the
	// training ends with this error. Nil: no call.
	EpochDone func(epochs []train.Epoch) error
	// ValSink receives the predictions of the validation images with the result. Nil: no call.
	ValSink train.Sink
	// Initial replaces initial values of tuned tensors, by peft.Param.Name. Nil: all are drawn.
	Initial checkpoint.StateDict
	// TimeLeft limits the time of the training; see train.Run. Nil: no limit.
	TimeLeft func() time.Duration
}

// Trained is the result of stage 3.
type Trained struct {
	Objective objective.Objective  // the loss and the metrics of the training
	Tuning    *peft.Tuning         // the selection that was tuned
	Tuned     checkpoint.StateDict // values of the tuned tensors, by peft.Param.Name
	Epochs    []train.Epoch        // losses and accuracies of each epoch; empty after Restore
	// Best is the number of the epoch, from 1, whose tuned tensors Tuned holds; 0 after Restore.
	Best int
}

// reads returns the splits that a training reads.
func (o TrainOptions) reads() []string {
	splits := []string{"train", "val"}
	if o.TestEveryEpoch {
		splits = append(splits, "test")
	}
	return splits
}

// Train is stage 3. It tunes the selection s on the train split and returns the tuned values. A
// selection that does not fit the backbone is an error. A broken training state in o.Checkpoint and
// training images of a single class are a [*run.InputError].
func (t *Task) Train(ctx context.Context, s peft.Selection, o TrainOptions) (*Trained, error) {
	training, err := t.training(s)
	if err != nil {
		return nil, err
	}
	return t.do(ctx, training, o)
}

// removeState removes the file that keeps the state of a training, if it exists.
func removeState(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("removing the state of the training: %w", err)
	}
	return nil
}

// training returns a training of the selection s, for do.
func (t *Task) training(s peft.Selection) (*train.Run, error) {
	tuning, err := peft.New(t.model.Config, s)
	if err != nil {
		return nil, err
	}
	return &train.Run{Backend: t.be, Model: t.model, Tuning: tuning}, nil
}

// do runs one training.
func (t *Task) do(ctx context.Context, r *train.Run, o TrainOptions) (*Trained, error) {
	if err := t.trainable(); err != nil { // CheckImages may have removed broken images
		return nil, err
	}
	r.Options, r.Checkpoint, r.Progress, r.EpochDone, r.ValSink, r.Val, r.Test = o.Options, o.Checkpoint, o.Progress, o.EpochDone, o.ValSink, nil, nil
	r.Initial, r.TimeLeft = o.Initial, o.TimeLeft
	// The training and validation images share one Data, because the final training reads both. A
	// device then keeps them together.
	n, val := len(t.data.Train), t.data.Val
	r.Train = t.images(t.train, t.data.Train, val)
	if !o.WithVal && len(val) > 0 {
		if t.eval == t.train {
			r.Val = r.Train.Part(n, len(val))
		} else {
			r.Val = t.images(t.eval, val, nil)
		}
		r.Train = r.Train.Part(0, n)
	}
	if o.TestEveryEpoch && len(t.data.Test) > 0 {
		r.Test = t.images(t.eval, t.data.Test, nil)
	}
	result, err := r.Do(ctx)
	if state := (*train.StateError)(nil); errors.As(err, &state) {
		err = &run.InputError{Err: err}
	}
	if err != nil {
		return nil, err
	}
	return &Trained{t.objective, r.Tuning, result.Tuned, result.Epochs, result.Best}, nil
}

// Evaluate returns the metrics of the tuned parameters on samples, such as Data().Test, and the
// predictions, from which package evaluate computes further metrics. split is the name of the
// samples in progress events, such as "test". An empty list of samples is an error. The class ids
// of the samples must be the rows of the head. If the parameters were tuned on another data set, or
// come from a checkpoint, [dataset.Dataset.ForHead] matches the classes by name.
func (t *Task) Evaluate(ctx context.Context, tuned *Trained, split string, samples []dataset.Sample, report progress.Func) (objective.Evaluation, *Predicted, error) {
	if len(samples) == 0 {
		return objective.Evaluation{}, &Predicted{}, fmt.Errorf("evaluating the split %s: it has no images; give a split with images", split)
	}
	predictions, sink := t.predictions(samples)
	e, err := t.evaluate(ctx, tuned, samples, sink, func(e progress.Event) {
		e.Item = split
		report.Report(e)
	})
	return e, predictions, err
}

// evaluate is Evaluate with a sink for the predictions, which may be nil.
func (t *Task) evaluate(ctx context.Context, tuned *Trained, samples []dataset.Sample, sink train.Sink, report progress.Func) (objective.Evaluation, error) {
	p, err := train.NewPredictor(t.be, t.model, t.objective, tuned.Tuning, tuned.Tuned)
	if err != nil {
		return objective.Evaluation{}, err
	}
	defer p.Close()
	return p.Evaluate(ctx, t.images(t.eval, samples, nil), 64, sink, report)
}

// Delta returns the delta of a training, which holds the tuned parameters and can be saved. p is
// the plan; nil for a method that does not plan. metrics holds results by name, such as
// "test_accuracy".
func (t *Task) Delta(m method.Method, tuned *Trained, p *plan.Plan, metrics map[string]float64) *delta.Delta {
	d := delta.New(t.model, p)
	d.Method, d.Objective, d.Classes, d.Metrics = string(m), t.objective.Name(), t.data.Classes, metrics
	d.Transform = delta.Transform{Resize: t.eval.Resize, ResizeTo: t.eval.ResizeTo, TestFlip: t.eval.TestFlip}
	d.Selection, d.Tuned = tuned.Tuning.Selection, tuned.Tuned
	return d
}

// optionError returns err as an OptionError with the name of the option that err is about.
func optionError(err error) error { return &run.OptionError{Option: option.Of(err), Err: err} }
