package spt

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/sptune/spt/backend"
	"github.com/sptune/spt/checkpoint"
	"github.com/sptune/spt/dataset"
	"github.com/sptune/spt/delta"
	"github.com/sptune/spt/method"
	"github.com/sptune/spt/objective"
	"github.com/sptune/spt/peft"
	"github.com/sptune/spt/plan"
	"github.com/sptune/spt/progress"
	"github.com/sptune/spt/run"
	"github.com/sptune/spt/train"
)

// DefaultBudget is the default budget of methods that plan: 0.5 % of the parameters of the backbone
// without the head.
var DefaultBudget = plan.MustParseBudget("0.5%")

// Tune runs all stages. With o.Probe it fits a linear probe first. It scores the weights once. For
// each budget it makes a plan. For each learning rate it then trains on the train split and
// evaluates on the val split. It chooses the candidate with the best validation metric
// o.Train.Select and, if metrics are equal, with the fewest tuned parameters or then the lowest
// validation loss. Unless o.NoRefit is set, it trains the chosen candidate once more, on train and
// val together. With the recipe auto, the result is the linear probe if it is better on the
// validation images than every candidate. Tune tests the result once. A method that does not plan
// skips the scores and the plans, and so does a run from a delta, o.FromDelta. With o.ScoresFile it
// reads the scores from a file. With o.ValidationOnly it stops after it has chosen the candidate.
// With o.TimeLimit, trainings take fewer steps if they have too little time; [Task.Prepare] chooses
// options that fit.
//
// Tune keeps all results in the run folder dir. If dir holds no run, Tune makes one with
// [Task.Create]. To continue an interrupted run, call Tune again with the same task, options and
// dir. If the run in dir is finished, Tune returns its stored result. An empty dir, and a run in
// dir with other options, are a [*run.OptionError].
func (t *Task) Tune(ctx context.Context, o run.TuneOptions, dir string, report progress.Func) (*run.Result, error) {
	began := o.Began
	o.Began = time.Time{} // a resumed run has another one
	o, err := t.Effective(o)
	if err != nil {
		return nil, err
	}
	folder, recorded, err := t.folder(ctx, dir, &run.Config{Tune: o}, report)
	if err != nil {
		return nil, err
	}
	if len(o.Budgets) == 0 {
		o.Budgets = []plan.Budget{{}} // one candidate, without a budget
	}
	result, err := run.LoadResult[run.Result](folder)
	if err != nil {
		return nil, err
	}
	if result != nil {
		same := result.Method == o.Method && slices.Contains(o.Budgets, result.Budget) || result.KeptProbe() && recorded.Tune.Method == o.Method
		if !same || recorded.Tune.ValidationOnly != o.ValidationOnly {
			describe := func(m method.Method, validationOnly bool, budgets ...plan.Budget) string {
				text := strings.TrimSpace(string(m) + " " + plan.BudgetNames(budgets))
				if validationOnly {
					text += " that only validated"
				}
				return text
			}
			return nil, &run.OptionError{Option: "run-folder", Err: fmt.Errorf("%s holds a finished run of %s; choose another folder for a run of %s", dir, describe(recorded.Tune.Method, recorded.Tune.ValidationOnly, result.Budget), describe(o.Method, false, o.Budgets...))}
		}
		return result, nil
	}
	if recorded != nil {
		if err := t.sameOptions(folder, recorded.Tune, o); err != nil {
			return nil, err
		}
		if err := folder.CheckData(recorded.Data, t.data); err != nil {
			return nil, err
		}
	}
	r := &runner{Task: t, o: o, folder: folder, report: report, budgets: map[plan.Budget]*selected{}}
	if o.TimeLimit > 0 {
		if began.IsZero() {
			began = time.Now()
		}
		r.deadline = began.Add(inSeconds(o.TimeLimit - reserve(o.TimeLimit)))
	}
	defer r.close()
	return r.run(ctx)
}

// folder returns the run folder at dir and the configuration of the run in it. If dir holds no run,
// folder creates a run with the configuration c and returns a nil configuration.
func (t *Task) folder(ctx context.Context, dir string, c *run.Config, report progress.Func) (run.Folder, *run.Config, error) {
	if dir == "" {
		return "", nil, &run.OptionError{Option: "run-folder", Err: errors.New("no run folder given: give the path of a new folder, or of the run to continue")}
	}
	folder := run.Folder(dir)
	if _, err := os.Stat(folder.Path(run.ConfigFile)); errors.Is(err, fs.ErrNotExist) {
		_, err := t.Create(ctx, dir, c, report)
		t.folderOf = folder
		return folder, nil, err
	}
	_, recorded, err := run.Open(dir)
	if err == nil {
		err = folder.RemoveLeftovers()
	}
	if err == nil {
		t.folderOf = folder
		err = recorded.Data.SkipBroken(t.data)
	}
	if err == nil && (recorded.Train == nil) != (c.Train == nil) {
		err = &run.OptionError{Option: "run-folder", Err: fmt.Errorf("%s holds another kind of run: a run of all stages and a single training cannot share a folder; choose another folder", dir)}
	}
	if err == nil && (recorded.Folds.Number > 0) != (c.Folds.Number > 0) {
		err = &run.OptionError{Option: "run-folder", Err: fmt.Errorf("%s holds another kind of run: a cross-validation and a single run cannot share a folder; choose another folder", dir)}
	}
	return folder, &recorded, err
}

// sameOptions returns an error if o differs from recorded, the options of the interrupted run in
// folder. The results of stages with different options do not fit together.
func (t *Task) sameOptions(folder run.Folder, recorded, o run.TuneOptions) error {
	begun, err := t.Effective(recorded)
	if err != nil {
		return err
	}
	if len(begun.Budgets) == 0 {
		begun.Budgets = []plan.Budget{{}}
	}
	// the files may have moved
	begun.ScoresFile, begun.Train.ClassWeights = o.ScoresFile, o.Train.ClassWeights
	if !reflect.DeepEqual(begun, o) {
		return &run.OptionError{Option: "run-folder", Err: fmt.Errorf("%s holds an interrupted run with other options; continue it with its own options, or choose another folder", folder)}
	}
	return nil
}

// runner executes one run.
type runner struct {
	*Task
	o      run.TuneOptions
	folder run.Folder
	report progress.Func
	// plans holds the plan of each budget. It is empty for a method that does not plan.
	plans map[plan.Budget]*plan.Plan
	// budgets holds the plan and the training of each budget that was tried.
	budgets map[plan.Budget]*selected
	// from is the start of a run from a delta. It is nil without TuneOptions.FromDelta.
	from *continued
	// probed is the linear probe. It is nil without TuneOptions.Probe.
	probed *fitted
	// deadline is the end of the time limit. It is zero without one.
	deadline time.Time
	// left is the number of trainings that have not ended.
	left int
}

// selected holds the plan and the training of one budget.
type selected struct {
	plan *plan.Plan // nil for a method that does not plan
	run  *train.Run // tunes the selection; on a device it keeps the compiled programs
}

// close releases the memory that the trainings hold on the device.
func (r *runner) close() {
	for _, s := range r.budgets {
		s.run.Close()
	}
}

// run executes all stages and writes the result.
func (r *runner) run(ctx context.Context) (*run.Result, error) {
	if err := r.CheckImages(ctx, r.report); err != nil {
		return nil, err
	}
	m, err := method.Lookup(r.o.Method)
	if err != nil {
		return nil, err
	}
	if r.o.Probe {
		var until time.Time
		if !r.deadline.IsZero() {
			until = r.deadline.Add(-r.testTime())
		}
		if r.probed, err = r.probe(ctx, r.folder.Probe(), r.o.Train, until, r.report); err != nil {
			return nil, err
		}
		// A broken test image shows before the training. A resumed run tests the probe at its end.
		if r.o.Method != method.Linear && !r.o.ValidationOnly && r.deadline.IsZero() && r.probed.in.Len() > 0 && len(r.data.Test) > 0 {
			if err := r.testProbe(ctx); err != nil {
				return nil, err
			}
		}
	}
	if r.o.FromDelta != "" {
		if r.from, err = r.startDelta(); err != nil {
			return nil, err
		}
	} else if m.Scores {
		if err := r.makePlans(ctx); err != nil {
			return nil, err
		}
	}
	result := r.result(r.o.Method, r.o.Train.Seed)
	all := candidates(r.o)
	chosen := all[0]
	var validated *run.Candidate // the chosen candidate
	if r.validates() {
		for i, next := range all {
			if r.left = len(all) - i; !r.o.NoRefit && !r.o.ValidationOnly {
				r.left++
			}
			c, err := r.try(ctx, next)
			if err != nil {
				return nil, err
			}
			result.Candidates = append(result.Candidates, listed(*c))
			result.Seconds += c.Seconds
			if validated == nil || better(*c, *validated, r.o.Train.Select) {
				chosen, validated = next, c
			}
			for budget, s := range r.budgets {
				if budget != chosen.budget {
					s.run.Close()
				}
			}
		}
		result.TakeValidation(validated)
	}
	result.Budget, result.LR, r.left = chosen.budget, chosen.lr, 1
	switch {
	case r.o.ValidationOnly:
		err = r.best(chosen, result)
	case r.keepsProbe(validated):
		err = r.deliverProbe(ctx, result)
	case validated != nil && r.o.NoRefit:
		err = r.finish(ctx, chosen, result)
	default:
		err = r.final(ctx, chosen, validated, result)
	}
	if err == nil && r.probed != nil {
		err = r.compareProbe(ctx, result)
	}
	if err != nil {
		return nil, err
	}
	result.Skipped = len(r.data.Skipped)
	result.Data.RecordBroken(r.data)
	r.recordChanges(result, r.report)
	return result, run.SaveResult(r.folder, result)
}

// validates reports whether the run trains and validates candidates before it chooses one.
func (r *runner) validates() bool { return len(r.data.Val) > 0 && !r.o.NoValidation }

// result returns a Result with the fields that are known before the training.
func (t *Task) result(m method.Method, seed uint64) *run.Result {
	r := &run.Result{Model: t.config.Model, Data: t.config.Data, Compute: t.config.Compute, Objective: t.config.Objective,
		Classes: t.data.Classes, Seed: seed, Method: m, TrainedOn: "train", Skipped: len(t.data.Skipped)}
	r.Model.Record(t.model)
	r.Data.Record(t.data)
	return r
}

// candidate holds the settings that differ between the candidates of a run.
type candidate struct {
	name   string      // for its folder and for progress
	budget plan.Budget // zero for a method without a budget
	lr     float64
}

// candidates returns the candidates of a run, in the order in which they are tried.
func candidates(o run.TuneOptions) (all []candidate) {
	for _, t := range o.Tries() {
		all = append(all, candidate{t.Name, t.Budget, t.LR})
	}
	return all
}

// recipe returns the training options of a candidate of a run with the options o.
func (c candidate) recipe(o run.TuneOptions) train.Options {
	o.Train.LR = c.lr
	return o.Train
}

// better reports whether a is the better candidate: by the metric of the validation images, then by
// fewer tuned parameters, then by validation loss.
func better(a, b run.Candidate, by objective.Selection) bool {
	return cmp.Or(cmp.Compare(b.Selected(by), a.Selected(by)), cmp.Compare(a.Counts.Tuned(), b.Counts.Tuned()), cmp.Compare(a.ValLoss, b.ValLoss)) < 0
}

// selection returns the plan and the training of a budget.
func (r *runner) selection(budget plan.Budget) (*selected, error) {
	if s := r.budgets[budget]; s != nil {
		return s, nil
	}
	s := &selected{plan: r.plans[budget]}
	var tuned peft.Selection
	var err error
	switch {
	case r.from != nil:
		tuned = r.from.selection
	case s.plan != nil:
		tuned = Select(r.model.Config, s.plan)
	default:
		tuned, err = r.withoutScores(budget)
	}
	if err == nil {
		s.run, err = r.training(tuned)
	}
	if err != nil {
		return nil, err
	}
	r.budgets[budget] = s
	return s, nil
}

// withoutScores returns the selection of a method without scores under a budget.
func (r *runner) withoutScores(budget plan.Budget) (peft.Selection, error) {
	m, err := method.Lookup(r.o.Method)
	if err != nil {
		return peft.Selection{}, err
	}
	o := r.o.Options
	o.Budget = budget
	return m.Select(r.model.Config, o)
}

// try trains one candidate on the train split and evaluates it on the val split. If the candidate
// is finished, try reads its stored result instead.
func (r *runner) try(ctx context.Context, next candidate) (*run.Candidate, error) {
	name := next.name
	folder := r.folder.Candidate(name)
	if err := os.MkdirAll(string(folder), 0o777); err != nil {
		return nil, fmt.Errorf("making the folder of a candidate: %w", err)
	}
	if c, err := run.LoadResult[run.Candidate](folder); c != nil || err != nil {
		return c, err
	}
	s, err := r.selection(next.budget)
	if err != nil {
		return nil, err
	}
	if s.plan != nil {
		r.report.Report(progress.Event{Stage: progress.Plan, Candidate: name, Detail: s.plan})
	}
	// on the CPU, compiling is fast, but kept programs hold memory
	s.run.Keep = backend.OnDevice(r.be)
	trained, predictions, err := r.train(ctx, s.run, name, folder, TrainOptions{Options: next.recipe(r.o)})
	if err != nil {
		return nil, err
	}
	best := trained.Epochs[trained.Best-1]
	c := &run.Candidate{Budget: next.budget, LR: next.lr, Counts: trained.Tuning.Counts, ValAccuracy: best.ValAccuracy, ValLoss: best.ValLoss, ValMetric: best.ValMetric, Seconds: seconds(trained.Epochs)}
	if trained.Best < len(trained.Epochs) {
		c.BestEpoch = trained.Best
	}
	if predictions, err = r.interpolate(ctx, trained, c, predictions); err != nil {
		return nil, err
	}
	if err := validate(predictions, next.recipe(r.o), c); err != nil {
		return nil, err
	}
	if r.o.NoRefit { // the candidate may become the result
		d := r.Delta(r.o.Method, trained, s.plan, map[string]float64{"val_accuracy": c.ValAccuracy})
		d.Posthoc = c.Posthoc
		if err := d.Save(string(folder)); err != nil {
			return nil, err
		}
	}
	if err := keep(predictions, folder); err != nil {
		return nil, err
	}
	return c, run.SaveResult(folder, c)
}

// best completes the result of a run that only validates. chosen is the best candidate.
func (r *runner) best(chosen candidate, result *run.Result) error {
	s, err := r.selection(chosen.budget)
	if err != nil {
		return err
	}
	result.Counts, result.Rank, result.Finished = s.run.Tuning.Counts, s.run.Tuning.Selection.Rank, time.Now().UTC()
	result.Epochs, err = r.folder.Candidate(chosen.name).Metrics()
	return err
}

// final trains the chosen candidate on the train and val splits, tests it, and saves the delta.
func (r *runner) final(ctx context.Context, chosen candidate, validated *run.Candidate, result *run.Result) error {
	s, err := r.selection(chosen.budget)
	if err != nil {
		return err
	}
	if len(r.data.Val) > 0 {
		result.TrainedOn = "train+val"
	}
	if err := r.keepPlan(s.plan); err != nil {
		return err
	}
	if s.plan != nil {
		r.report.Report(progress.Event{Stage: progress.Plan, Detail: s.plan})
	}
	s.run.Keep = true
	if len(r.data.Test) > 0 {
		s.run.Later = r.images(r.eval, r.data.Test, nil)
	}
	o := chosen.recipe(r.o)
	// without validation images nothing stops it early
	if validated != nil && validated.BestEpoch > 0 {
		o.Steps = 0
		o = o.WithEpochs(validated.BestEpoch)
	}
	trained, _, err := r.train(ctx, s.run, "", r.folder, TrainOptions{Options: o, WithVal: result.TrainedOn == "train+val", TestEveryEpoch: r.o.PaperProtocol})
	if err != nil {
		return err
	}
	result.Seconds += seconds(trained.Epochs)
	if r.o.PaperProtocol && len(r.data.Test) > 0 {
		greatest := 0.0
		for _, e := range trained.Epochs {
			greatest = max(greatest, e.TestAccuracy)
		}
		result.TestMax = &greatest
	}
	return r.deliver(ctx, trained, s.plan, result, func(sink train.Sink, report progress.Func) (objective.Evaluation, error) {
		if r.isProbe(trained.Tuning) {
			return r.evaluate(ctx, trained, r.data.Test, sink, report)
		}
		return s.run.Evaluate(ctx, r.images(r.eval, r.data.Test, nil), sink, report)
	})
}

// finish makes the chosen candidate, which was trained on the train split, the result of the run:
// it tests the candidate and saves its delta.
func (r *runner) finish(ctx context.Context, chosen candidate, result *run.Result) error {
	folder, p := r.folder.Candidate(chosen.name), r.plans[chosen.budget]
	d, err := delta.Load(string(folder))
	if err != nil {
		return &run.InputError{Err: fmt.Errorf("reading the delta of the candidate %s: %w; remove the folder %s to train it again", chosen.name, err, folder)}
	}
	trained, err := Restore(r.model, d)
	if err == nil {
		trained.Epochs, err = folder.Metrics()
	}
	if err == nil {
		err = r.keepPlan(p)
	}
	if err != nil {
		return err
	}
	return r.deliver(ctx, trained, p, result, func(sink train.Sink, report progress.Func) (objective.Evaluation, error) {
		return r.evaluate(ctx, trained, r.data.Test, sink, report)
	})
}

// keepPlan saves the plan of the result in the run folder. p is nil for a method that does not
// plan.
func (r *runner) keepPlan(p *plan.Plan) error {
	if p == nil {
		return nil
	}
	return p.Save(r.folder.Path(run.PlanFile))
}

// deliver tests a training once, completes the result with it and saves its delta. evaluate
// evaluates the test split.
func (r *runner) deliver(ctx context.Context, trained *Trained, p *plan.Plan, result *run.Result, evaluate func(train.Sink, progress.Func) (objective.Evaluation, error)) error {
	result.Counts, result.Epochs, result.Rank = trained.Tuning.Counts, trained.Epochs, trained.Tuning.Selection.Rank
	metrics := map[string]float64{}
	if result.Val != nil {
		metrics["val_accuracy"] = *result.Val
	}
	if len(r.data.Test) > 0 {
		e, predictions, err := r.test(ctx, trained, evaluate)
		if bad := (*dataset.ImageError)(nil); errors.As(err, &bad) {
			if err := r.saveDelta(trained, p, result, metrics); err != nil {
				return err
			}
			err = fmt.Errorf("testing: %w; the trained delta is in %s", err, r.folder)
		}
		if err != nil {
			return err
		}
		if err := setMetrics(predictions, "test", result); err != nil {
			return err
		}
		if err := keep(predictions, r.folder); err != nil {
			return err
		}
		result.Test = &e
		metrics["test_accuracy"] = e.Accuracy
	}
	result.Finished = time.Now().UTC()
	return r.saveDelta(trained, p, result, metrics)
}

// saveDelta saves the delta of the run.
func (r *runner) saveDelta(trained *Trained, p *plan.Plan, result *run.Result, metrics map[string]float64) error {
	d := r.Delta(result.Method, trained, p, metrics)
	d.Posthoc = result.Posthoc
	return d.Save(string(r.folder))
}

// test evaluates the test images. all evaluates all of them. If there may be too little time for
// them, test takes them in random order and stops when the time is over.
func (r *runner) test(ctx context.Context, trained *Trained, all func(train.Sink, progress.Func) (objective.Evaluation, error)) (e objective.Evaluation, predictions *Predicted, err error) {
	err = r.skipping(ctx, r.report, []string{"test"}, func() (err error) {
		e, predictions, err = r.testOnce(ctx, trained, all)
		return err
	})
	return e, predictions, err
}

// testOnce is test for test images that can all be decoded.
func (r *runner) testOnce(ctx context.Context, trained *Trained, all func(train.Sink, progress.Func) (objective.Evaluation, error)) (objective.Evaluation, *Predicted, error) {
	report := func(e progress.Event) {
		e.Stage = progress.Test
		r.report.Report(e)
	}
	if r.deadline.IsZero() || time.Until(r.deadline) > 2*r.testTime() {
		predictions, sink := r.predictions(r.data.Test)
		e, err := all(sink, report)
		return e, predictions, err
	}
	samples := shuffled(r.data.Test)
	predictions, sink := r.predictions(samples)
	over := errors.New("the time is over")
	e, err := r.evaluate(ctx, trained, samples, func(logits []float32, targets []int32) error {
		if err := sink(logits, targets); err != nil || time.Now().Before(r.deadline) {
			return err
		}
		return over
	}, report)
	if errors.Is(err, over) {
		err = nil // e covers the images before
	}
	return e, predictions, err
}

// compareProbe adds the linear probe to the result. It tests the probe if the probe is not the
// result itself, and if there is time for it.
func (r *runner) compareProbe(ctx context.Context, result *run.Result) error {
	probe := listed(*r.probed.result)
	result.Probe = &probe
	if result.Test == nil || result.Method == method.Linear || !r.deadline.IsZero() && time.Until(r.deadline) < r.testTime() {
		return nil
	}
	if r.probed.test == nil {
		if err := r.testProbe(ctx); err != nil {
			return err
		}
	}
	result.ProbeTest = r.probed.test
	return nil
}

// testProbe evaluates the linear probe on the test images.
func (r *runner) testProbe(ctx context.Context) error {
	return r.skipping(ctx, r.report, []string{"test"}, func() error {
		e, err := r.evaluate(ctx, r.probed.trained, r.data.Test, nil, func(e progress.Event) {
			e.Item = "test"
			r.report.Report(e)
		})
		r.probed.test = &e
		return err
	})
}

// train runs one training and keeps its state and metrics in folder. It also returns the
// predictions of the validation images, which are empty with o.WithVal.
func (r *runner) train(ctx context.Context, training *train.Run, candidate string, folder run.Folder, o TrainOptions) (trained *Trained, predictions *Predicted, err error) {
	again := false
	err = r.skipping(ctx, r.report, o.reads(), func() (err error) {
		if again { // the state is that of a training with the skipped images
			if err := removeState(folder.Path(run.TrainStateFile)); err != nil {
				return err
			}
		}
		again = true
		predictions, o.ValSink = r.predictions(r.data.Val)
		trained, err = r.trainOnce(ctx, training, candidate, folder, o)
		return err
	})
	return trained, predictions, err
}

// trainOnce is train without the predictions, for images that can all be decoded.
func (r *runner) trainOnce(ctx context.Context, training *train.Run, candidate string, folder run.Folder, o TrainOptions) (*Trained, error) {
	if r.isProbe(training.Tuning) {
		return r.trainedProbe(ctx, folder, o)
	}
	o.Initial, o.TimeLeft = r.start(training.Tuning), r.share(training)
	o.Checkpoint = folder.Path(run.TrainStateFile)
	began := time.Now()
	o.Progress = func(e progress.Event) {
		e.Candidate = candidate
		if e.Left > 0 { // the other trainings take as long as this one
			e.Left += time.Duration(r.left-1)*(time.Since(began)+e.Left) + r.testTime()
		}
		r.report.Report(e)
	}
	o.EpochDone = folder.SaveMetrics
	trained, err := r.do(ctx, training, o)
	if err != nil {
		return nil, err
	}
	// If the program was killed after an epoch, metrics.jsonl may lack that epoch.
	return trained, folder.SaveMetrics(trained.Epochs)
}

// start returns the initial values of a training that are not drawn: those of a delta, or the head
// of the probe. An MLP head starts with drawn values.
func (r *runner) start(t *peft.Tuning) checkpoint.StateDict {
	if r.from != nil {
		return r.from.initial
	}
	if r.probed == nil || t.Selection.MLPHead > 0 {
		return nil
	}
	return r.probed.start
}

// share returns the function that limits the time of a training, or nil without a time limit. The
// trainings that have not ended share the time that the test does not need.
func (r *runner) share(training *train.Run) func() time.Duration {
	if r.deadline.IsZero() {
		return nil
	}
	began := time.Now()
	return func() time.Duration {
		r.forward = max(r.forward, training.ForwardTime()) // the machine may have become slower
		end := r.deadline.Add(-r.testTime() - time.Duration(max(1, r.left))*r.interpolationTime())
		return time.Until(began.Add(end.Sub(began) / time.Duration(max(1, r.left))))
	}
}

// testTime returns the estimated time of the test, with a margin: another program may begin
// meanwhile.
func (r *runner) testTime() time.Duration {
	return time.Duration(len(r.data.Test)) * r.forward * 13 / 10
}

// seconds returns the time spent in all epochs.
func seconds(epochs []train.Epoch) (s float64) {
	for _, e := range epochs {
		s += e.Seconds
	}
	return s
}
