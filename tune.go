package spt

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"reflect"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/sptune/spt/backend"
	"github.com/sptune/spt/internal/option"
	"github.com/sptune/spt/method"
	"github.com/sptune/spt/peft"
	"github.com/sptune/spt/plan"
	"github.com/sptune/spt/progress"
	"github.com/sptune/spt/run"
	"github.com/sptune/spt/sensitivity"
	"github.com/sptune/spt/train"
)

// DefaultBudget is the default budget of methods that plan: 0.5 % of the backbone.
var DefaultBudget = plan.MustParseBudget("0.5%")

// Tune runs all stages. It scores; for each budget it plans, trains on the train split and validates.
// The candidate with the largest validation accuracy after its last epoch (of equal ones the one
// that tunes fewer parameters) is trained once more, on train and val together, and tested once.
//
// Everything is kept in dir, a run folder. Without a run in dir, Tune makes one with [Task.Create].
// A run that was interrupted continues where it was when Tune is called again with the same task,
// options and dir. If the run in dir is finished, Tune returns its stored result.
func (t *Task) Tune(ctx context.Context, o run.TuneOptions, dir string, report progress.Func) (*run.Result, error) {
	o, err := t.Effective(o)
	if err != nil {
		return nil, err
	}
	folder, err := t.folder(ctx, dir, &run.Config{Tune: o}, report)
	if err != nil {
		return nil, err
	}
	if len(o.Budgets) == 0 {
		o.Budgets = []plan.Budget{{}} // one candidate, which needs none
	}
	result, err := run.LoadResult[run.Result](folder)
	if err != nil {
		return nil, err
	}
	if result != nil {
		if result.Method != o.Method || !slices.Contains(o.Budgets, result.Budget) {
			describe := func(m method.Method, budgets ...plan.Budget) string {
				return strings.TrimSpace(string(m) + " " + plan.BudgetNames(budgets))
			}
			return nil, &run.OptionError{Option: "run-folder", Err: fmt.Errorf("%s holds a finished run of %s; choose another folder for a run of %s", dir, describe(result.Method, result.Budget), describe(o.Method, o.Budgets...))}
		}
		return result, nil
	}
	if err := t.sameOptions(folder, o); err != nil {
		return nil, err
	}
	r := &runner{Task: t, o: o, folder: folder, report: report, budgets: map[plan.Budget]*selected{}}
	defer r.close()
	result, err = r.run(ctx)
	if saved := r.scoresSaved(); saved != nil && !errors.Is(err, saved) {
		err = errors.Join(err, saved)
	}
	return result, err
}

// folder returns the run folder at dir. It creates the run of c if there is none.
func (t *Task) folder(ctx context.Context, dir string, c *run.Config, report progress.Func) (run.Folder, error) {
	if dir == "" {
		return "", &run.OptionError{Option: "run-folder", Err: errors.New("no run folder given: give the path of a new folder, or of the run to continue")}
	}
	folder := run.Folder(dir)
	if _, err := os.Stat(folder.Path(run.ConfigFile)); errors.Is(err, fs.ErrNotExist) {
		_, err := t.Create(ctx, dir, c, report)
		return folder, err
	}
	_, recorded, err := run.Open(dir)
	if err == nil && (recorded.Train == nil) != (c.Train == nil) {
		err = &run.OptionError{Option: "run-folder", Err: fmt.Errorf("%s holds a run of another kind: a run of all stages, or one training; choose another folder", dir)}
	}
	return folder, err
}

// sameOptions reports options other than those of the interrupted run in a folder. Its parts would
// not fit together.
func (t *Task) sameOptions(folder run.Folder, o run.TuneOptions) error {
	_, recorded, err := run.Open(string(folder))
	if err != nil {
		return err
	}
	begun, err := t.Effective(recorded.Tune)
	if err != nil {
		return err
	}
	if len(begun.Budgets) == 0 {
		begun.Budgets = []plan.Budget{{}}
	}
	if !reflect.DeepEqual(begun, o) {
		return &run.OptionError{Option: "run-folder", Err: fmt.Errorf("%s holds an interrupted run with other options; continue it with its own options, or choose another folder", folder)}
	}
	return nil
}

type runner struct {
	*Task
	o       run.TuneOptions
	folder  run.Folder
	report  progress.Func
	budgets map[plan.Budget]*selected // that were tried
	saved   func() error              // waits until the scores are in their file; nil: they are, or there are none
}

// selected is what a budget selects.
type selected struct {
	plan *plan.Plan // nil for a method that makes none
	run  *train.Run // which tunes it, and on a device keeps what was compiled for it
}

// close releases what trainings keep.
func (r *runner) close() {
	for _, s := range r.budgets {
		s.run.Close()
	}
}

// Effective is o with its defaults filled in, as Tune uses it and config.json
// keeps it. It refuses, before anything costly, what cannot work on this task;
// its errors are *[run.OptionError]s.
func (t *Task) Effective(o run.TuneOptions) (run.TuneOptions, error) {
	m, err := method.Lookup(o.Method)
	if err != nil {
		return o, optionError(err)
	}
	o.Score, o.Plan = o.Score.WithDefaults(), o.Plan.WithDefaults()
	if m.Scores {
		if o.Rank == 0 {
			o.Rank = o.Plan.Rank
		}
		o.Plan.Module, o.Plan.Only, o.Plan.Rank = m.Module, m.Only, o.Rank
		o.Plan = o.Plan.WithDefaults()
		o.Rank = o.Plan.Rank
		if len(o.Budgets) == 0 {
			o.Budgets = []plan.Budget{DefaultBudget}
		}
	}
	if err := t.validate(m, o); err != nil {
		return o, optionError(err)
	}
	if err := t.trainable(); err != nil {
		return o, err
	}
	o.Options = m.WithDefaults(o.Options)
	return o, nil
}

func (t *Task) validate(m method.Row, o run.TuneOptions) error {
	if err := o.Train.Validate(); err != nil {
		return err
	}
	if err := o.Score.Validate(); err != nil {
		return err
	}
	if o.Rank < 0 || o.Rank > t.model.Config.MaxRank() {
		return option.Errorf("rank", "rank %d: expected 1 to %d, the shortest side of the backbone's matrices", o.Rank, t.model.Config.MaxRank())
	}
	if o.Plan.Compat != "" && !m.Takes("compat") {
		return option.Errorf("compat", "method %s takes no compat mode; leave it out", o.Method)
	}
	if !o.Budget.IsZero() {
		return option.Errorf("budget", "budget %s is given beside the list of budgets; put it into the list", o.Budget)
	}
	if err := m.Check(o.Options); err != nil {
		return err
	}
	if len(o.Budgets) == 0 { // what the method adds may not fit on this backbone
		s, err := m.Select(t.model.Config, o.Options)
		if err == nil {
			_, err = peft.New(t.model.Config, s)
		}
		if err != nil {
			return err
		}
	}
	for _, b := range o.Budgets {
		if err := t.validateBudget(m, b, o); err != nil {
			return err
		}
	}
	if len(o.Budgets) > 1 {
		switch {
		case o.NoValidation:
			return option.Errorf("no-validation", "several budgets need validation to choose between them; give one budget, or leave validation on")
		case len(t.data.Val) == 0:
			return option.Errorf("budget", "several budgets need validation images to choose between them, and data set %s has none; give one budget, or a validation split", t.data.Name)
		}
	}
	return nil
}

func (t *Task) validateBudget(m method.Row, budget plan.Budget, o run.TuneOptions) error {
	c := t.model.Config
	if !m.Scores {
		o.Options.Budget = budget
		_, err := m.Select(c, o.Options)
		return err
	}
	parameters, err := budget.Parameters(c.Size())
	if err != nil {
		return err
	}
	_, classToken := c.ClassTokens()
	return o.Plan.Validate(sensitivity.Tensors(c), classToken, parameters)
}

func (r *runner) run(ctx context.Context) (*run.Result, error) {
	if err := r.CheckImages(ctx, r.report); err != nil {
		return nil, err
	}
	var scores *sensitivity.Scores
	m, err := method.Lookup(r.o.Method)
	if err != nil {
		return nil, err
	}
	if m.Scores {
		if scores, err = r.score(ctx); err != nil {
			return nil, err
		}
	}
	result := r.result(r.o.Method, r.o.Train.Seed)
	chosen := r.o.Budgets[0]
	validated := len(r.data.Val) > 0 && !r.o.NoValidation
	if validated {
		best := -1
		for _, b := range r.o.Budgets {
			c, err := r.try(ctx, scores, b)
			if err != nil {
				return nil, err
			}
			result.Candidates = append(result.Candidates, *c)
			result.Seconds += c.Seconds
			if best < 0 || better(*c, result.Candidates[best]) {
				best = len(result.Candidates) - 1
			}
			for budget, s := range r.budgets {
				if budget != result.Candidates[best].Budget {
					s.run.Close()
				}
			}
		}
		chosen = result.Candidates[best].Budget
		result.Val = &result.Candidates[best].ValAccuracy
	}
	if len(r.data.Val) > 0 {
		result.TrainedOn = "train+val"
	}
	result.Budget = chosen
	if err := r.final(ctx, scores, chosen, result); err != nil {
		return nil, err
	}
	return result, run.SaveResult(r.folder, result)
}

// result returns what is known of the result of a run before it is trained.
func (t *Task) result(m method.Method, seed uint64) *run.Result {
	r := &run.Result{Model: t.config.Model, Data: t.config.Data, Compute: t.config.Compute, Objective: t.config.Objective,
		Classes: t.data.Classes, Seed: seed, Method: m, TrainedOn: "train", Skipped: len(t.data.Skipped)}
	r.Model.Record(t.model)
	r.Data.Record(t.data)
	return r
}

// better prefers accuracy, then fewer tuned parameters.
func better(a, b run.Candidate) bool {
	if a.ValAccuracy != b.ValAccuracy {
		return a.ValAccuracy > b.ValAccuracy
	}
	return a.Counts.Tuned() < b.Counts.Tuned()
}

// score runs stage 1, or reads what an earlier call of the same run found.
func (r *runner) score(ctx context.Context) (*sensitivity.Scores, error) {
	path := r.folder.Path(run.ScoresFile)
	if _, err := os.Stat(path); err == nil {
		scores, err := sensitivity.Load(path)
		if unread := (*fs.PathError)(nil); errors.As(err, &unread) {
			return nil, fmt.Errorf("resuming the run in %s: %w", r.folder, err) // which may be whole
		}
		if err == nil && scores.Backbone != r.model.Fingerprint() {
			err = fmt.Errorf("%s was made with another backbone", path)
		}
		if err != nil {
			return nil, &run.InputError{Err: fmt.Errorf("resuming the run in %s: %w; remove the file to score again", r.folder, err)}
		}
		return scores, nil
	}
	scores, err := r.Score(ctx, r.o.Score, r.report)
	if err != nil {
		return nil, err
	}
	// As large as the backbone, they are written while a plan is made.
	saved := make(chan error, 1)
	go func() { saved <- scores.Save(path) }()
	r.saved = sync.OnceValue(func() error { return <-saved })
	return scores, nil
}

// scoresSaved waits until scores that are being written are in their file.
func (r *runner) scoresSaved() error {
	if r.saved == nil {
		return nil
	}
	return r.saved()
}

// selection is what a budget selects; its plan, if it has one, is kept in dir.
func (r *runner) selection(ctx context.Context, scores *sensitivity.Scores, budget plan.Budget, folder run.Folder) (*selected, error) {
	s := r.budgets[budget]
	if s == nil {
		s = new(selected)
		var what peft.Selection
		var err error
		if scores == nil {
			what, err = r.withoutScores(budget)
		} else if s.plan, err = Plan(ctx, r.model.Config, scores, budget, r.o.Plan); err == nil {
			what = Select(r.model.Config, s.plan)
		}
		if err == nil {
			s.run, err = r.training(what)
		}
		if err != nil {
			return nil, err
		}
		r.budgets[budget] = s
	}
	if s.plan == nil {
		return s, nil
	}
	return s, s.plan.Save(folder.Path(run.PlanFile))
}

// withoutScores returns what a method without scores tunes under a budget.
func (r *runner) withoutScores(budget plan.Budget) (peft.Selection, error) {
	m, err := method.Lookup(r.o.Method)
	if err != nil {
		return peft.Selection{}, err
	}
	o := r.o.Options
	o.Budget = budget
	return m.Select(r.model.Config, o)
}

// try trains one candidate on train and validates it on val.
func (r *runner) try(ctx context.Context, scores *sensitivity.Scores, budget plan.Budget) (*run.Candidate, error) {
	name := budget.String()
	if name == "" {
		name = string(r.o.Method)
	}
	folder := r.folder.Candidate(name)
	if err := os.MkdirAll(string(folder), 0o777); err != nil {
		return nil, fmt.Errorf("making the folder of a candidate: %w", err)
	}
	if c, err := run.LoadResult[run.Candidate](folder); c != nil || err != nil {
		return c, err
	}
	s, err := r.selection(ctx, scores, budget, folder)
	if err != nil {
		return nil, err
	}
	if s.plan != nil {
		r.report.Report(progress.Event{Stage: progress.Plan, Candidate: name, Detail: s.plan})
	}
	s.run.Keep = backend.OnDevice(r.be) // the processor's programs are made at once, and hold its memory
	trained, err := r.train(ctx, s.run, name, folder, TrainOptions{Options: r.o.Train})
	if err != nil {
		return nil, err
	}
	last := trained.Epochs[len(trained.Epochs)-1]
	c := &run.Candidate{Budget: budget, Counts: trained.Tuning.Counts, ValAccuracy: last.ValAccuracy, ValLoss: last.ValLoss, Seconds: seconds(trained.Epochs)}
	return c, run.SaveResult(folder, c)
}

// final trains the chosen candidate on all that may be trained on, keeps the
// delta and tests it.
func (r *runner) final(ctx context.Context, scores *sensitivity.Scores, budget plan.Budget, result *run.Result) error {
	s, err := r.selection(ctx, scores, budget, r.folder)
	if err != nil {
		return err
	}
	if s.plan != nil {
		r.report.Report(progress.Event{Stage: progress.Plan, Detail: s.plan})
	}
	s.run.Keep = true
	if len(r.data.Test) > 0 {
		s.run.Later = r.images(r.eval, r.data.Test, nil)
	}
	trained, err := r.train(ctx, s.run, "", r.folder, TrainOptions{Options: r.o.Train, WithVal: result.TrainedOn == "train+val", TestEveryEpoch: r.o.PaperProtocol})
	if err != nil {
		return err
	}
	result.Counts, result.Epochs = trained.Tuning.Counts, trained.Epochs
	result.Seconds += seconds(trained.Epochs)
	metrics := map[string]float64{}
	if result.Val != nil {
		metrics["val_accuracy"] = *result.Val
	}
	if len(r.data.Test) > 0 {
		e, err := s.run.Evaluate(ctx, s.run.Later, func(e progress.Event) {
			e.Stage = progress.Test
			r.report.Report(e)
		})
		if err != nil {
			return err
		}
		result.Test = &e
		metrics["test_accuracy"] = e.Accuracy
		if r.o.PaperProtocol {
			greatest := 0.0
			for _, e := range trained.Epochs {
				greatest = max(greatest, e.TestAccuracy)
			}
			result.TestMax = &greatest
		}
	}
	result.Rank, result.Finished = trained.Tuning.Selection.Rank, time.Now().UTC()
	return r.Delta(r.o.Method, trained, s.plan, metrics).Save(string(r.folder))
}

// train does one training, and keeps its state and metrics in folder.
func (r *runner) train(ctx context.Context, training *train.Run, candidate string, folder run.Folder, o TrainOptions) (*Trained, error) {
	o.Checkpoint = folder.Path(run.TrainStateFile)
	o.Progress = func(e progress.Event) {
		e.Candidate = candidate
		r.report.Report(e)
	}
	o.EpochDone = folder.SaveMetrics
	// A training cannot be resumed without the scores that led to it where scores do not repeat to
	// the bit, so the scores are written first. Activations need their memory too.
	if err := r.scoresSaved(); err != nil {
		return nil, err
	}
	trained, err := r.do(ctx, training, o)
	if err != nil {
		return nil, err
	}
	// A run that was killed after an epoch may lack the line of that epoch.
	return trained, folder.SaveMetrics(trained.Epochs)
}

func seconds(epochs []train.Epoch) (s float64) {
	for _, e := range epochs {
		s += e.Seconds
	}
	return s
}
