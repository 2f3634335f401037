package spt

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"github.com/sptune/spt/backend"
	"github.com/sptune/spt/method"
	"github.com/sptune/spt/peft"
	"github.com/sptune/spt/plan"
	"github.com/sptune/spt/progress"
	"github.com/sptune/spt/run"
	"github.com/sptune/spt/sensitivity"
	"github.com/sptune/spt/train"
)

// DefaultBudget is SPT's where none is given: 0.5 % of the backbone.
const DefaultBudget = "0.5%"

// Event is a sign of progress.
type Event struct {
	Stage string // "images", "score", "plan", "train", "test"
	// Candidate is the budget being tried; empty in the final training and
	// outside training.
	Candidate string
	Done      int // images scored or read, or training steps of the epoch
	Total     int
	Epoch     int // from 0, in "train"
	Epochs    int
	Loss      float64
	// Finished is set once an epoch's figures are there.
	Finished *train.Epoch
	// Plan is set once a plan is made.
	Plan *plan.Plan
}

// Tune runs all stages: it scores, then for each budget plans, trains on train
// and validates on val; the candidate with the greatest validation accuracy at
// its last epoch (of equal ones the one that tunes less) is trained once more
// on train and val together, and tested once. Everything is kept in dir; a run
// that was stopped goes on where it was when Tune is called again with the same
// task, options and dir; of one that is finished the result is read. progress
// may be nil.
func (t *Task) Tune(ctx context.Context, o run.TuneOptions, dir string, progress func(Event)) (*run.Result, error) {
	r := &runner{Task: t, o: o, dir: dir, progress: progress, budgets: map[string]*selected{}}
	defer r.close()
	if progress == nil {
		r.progress = func(Event) {}
	}
	var err error
	if r.o, err = t.Effective(o); err != nil {
		return nil, err
	}
	if len(r.o.Budgets) == 0 {
		r.o.Budgets = []string{""} // one candidate, which needs none
	}
	if err := os.MkdirAll(dir, 0o777); err != nil {
		return nil, err
	}
	result := new(run.Result)
	if found, err := run.ReadJSON(r.path(run.ResultFile), result, run.Redo); found || err != nil {
		if err == nil && (result.Method != r.o.Method || !slices.Contains(r.o.Budgets, result.Budget)) {
			what := func(m method.Method, budget string) string { return strings.TrimSpace(string(m) + " " + budget) }
			err = &run.OptionError{Err: fmt.Errorf("%s holds a finished run of %s; choose another folder for one of %s", dir, what(result.Method, result.Budget), what(r.o.Method, strings.Join(r.o.Budgets, ", ")))}
		}
		if err != nil {
			return nil, err
		}
		return result, nil
	}
	result, err = r.run(ctx)
	if saved := r.scoresSaved(); saved != nil && !errors.Is(err, saved) {
		err = errors.Join(err, saved)
	}
	return result, err
}

type runner struct {
	*Task
	o        run.TuneOptions
	dir      string
	progress func(Event)
	budgets  map[string]*selected // that were tried
	saved    func() error         // waits until the scores are in their file; nil: they are, or there are none
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
	o.Score, o.Plan = o.Score.WithDefaults(), o.Plan.WithDefaults()
	if o.Method.Scores() {
		if o.Rank == 0 {
			o.Rank = o.Plan.Rank
		}
		o.Plan.Module, o.Plan.Only, o.Plan.Rank = o.Method.Module(), o.Method.Only(), o.Rank
		o.Plan = o.Plan.WithDefaults()
		o.Rank = o.Plan.Rank
		if len(o.Budgets) == 0 {
			o.Budgets = []string{DefaultBudget}
		}
	}
	if err := t.validate(o); err != nil {
		return o, &run.OptionError{Err: err}
	}
	if err := t.trainable(); err != nil {
		return o, err
	}
	o.Sizes = o.Sizes.For(o.Method)
	return o, nil
}

func (t *Task) validate(o run.TuneOptions) error {
	if err := o.Method.Validate(); err != nil {
		return err
	}
	if err := o.Train.Validate(); err != nil {
		return fmt.Errorf("training options: %w", err)
	}
	if err := o.Score.Validate(); err != nil {
		return err
	}
	if o.Rank < 0 || o.Rank > t.Model.Config.MaxRank() {
		return fmt.Errorf("rank %d: expected 1 to %d, the shortest side of the backbone's matrices", o.Rank, t.Model.Config.MaxRank())
	}
	if o.Plan.Compat != "" && !o.Method.Scores() {
		return fmt.Errorf("method %s makes no plan, so there is no compat mode for it; leave it out", o.Method)
	}
	if err := o.Sizes.Validate(o.Method); err != nil {
		return err
	}
	if len(o.Budgets) == 0 { // what the method adds may not fit on this backbone
		s, err := method.Baseline(t.Model.Config, o.Method, method.BaselineOptions{Rank: o.Rank, Sizes: o.Sizes})
		if err == nil {
			_, err = peft.New(t.Model.Config, s)
		}
		if err != nil {
			return err
		}
	}
	for _, b := range o.Budgets {
		if err := t.validateBudget(b, o); err != nil {
			return err
		}
	}
	if len(o.Budgets) > 1 {
		switch {
		case o.NoValidation:
			return errors.New("several budgets need validation to choose between them; give one budget, or leave validation on")
		case len(t.Data.Val) == 0:
			return fmt.Errorf("several budgets need validation images to choose between them, and data set %s has none; give one budget, or a validation split", t.Data.Name)
		}
	}
	return nil
}

func (t *Task) validateBudget(budget string, o run.TuneOptions) error {
	c := t.Model.Config
	if !o.Method.Scores() {
		_, err := method.Baseline(c, o.Method, method.BaselineOptions{Rank: o.Rank, Budget: budget, Sizes: o.Sizes})
		return err
	}
	parameters, err := plan.ParseBudget(budget, c.Size())
	if err != nil {
		return err
	}
	_, classToken := c.ClassTokens()
	return o.Plan.Validate(parameters, classToken, c.MaxRank())
}

func (r *runner) path(elem ...string) string {
	return filepath.Join(append([]string{r.dir}, elem...)...)
}

func (r *runner) run(ctx context.Context) (*run.Result, error) {
	if err := r.CheckImages(ctx, func(done, total int) { r.progress(Event{Stage: "images", Done: done, Total: total}) }); err != nil {
		return nil, err
	}
	var scores *sensitivity.Scores
	if r.o.Method.Scores() {
		var err error
		if scores, err = r.score(ctx); err != nil {
			return nil, err
		}
	}
	result := &run.Result{Method: r.o.Method, TrainedOn: "train", Skipped: len(r.Data.Skipped)}
	chosen := r.o.Budgets[0]
	validated := len(r.Data.Val) > 0 && !r.o.NoValidation
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
	if len(r.Data.Val) > 0 {
		result.TrainedOn = "train+val"
	}
	result.Budget = chosen
	if err := r.final(ctx, scores, chosen, result); err != nil {
		return nil, err
	}
	// Only now is the training's state of no use.
	if err := run.WriteJSON(r.path(run.ResultFile), result); err != nil {
		return nil, err
	}
	return result, run.Remove(r.path(run.TrainStateFile))
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
	path := r.path(run.ScoresFile)
	if _, err := os.Stat(path); err == nil {
		scores, err := sensitivity.Load(path)
		if unread := (*fs.PathError)(nil); errors.As(err, &unread) {
			return nil, fmt.Errorf("resuming the run in %s: %w", r.dir, err) // which may be whole
		}
		if err == nil && scores.Backbone != r.Model.Fingerprint() {
			err = fmt.Errorf("%s was made with another backbone", path)
		}
		if err != nil {
			return nil, &run.InputError{Err: fmt.Errorf("resuming the run in %s: %w; remove the scores to score anew", r.dir, err)}
		}
		return scores, nil
	}
	scores, err := r.Score(ctx, r.o.Score, func(done, total int, loss float64) {
		r.progress(Event{Stage: "score", Done: done, Total: total, Loss: loss})
	})
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
func (r *runner) selection(ctx context.Context, scores *sensitivity.Scores, budget, dir string) (*selected, error) {
	s := r.budgets[budget]
	if s == nil {
		s = new(selected)
		var what peft.Selection
		var err error
		if scores == nil {
			what, err = method.Baseline(r.Model.Config, r.o.Method, method.BaselineOptions{Rank: r.o.Rank, Budget: budget, Sizes: r.o.Sizes})
		} else if s.plan, err = Plan(ctx, r.Model.Config, scores, budget, r.o.Plan); err == nil {
			what = Select(r.Model.Config, s.plan)
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
	return s, s.plan.Save(filepath.Join(dir, run.PlanFile))
}

// try trains one candidate on train and validates it on val.
func (r *runner) try(ctx context.Context, scores *sensitivity.Scores, budget string) (*run.Candidate, error) {
	name := budget
	if name == "" {
		name = string(r.o.Method)
	}
	dir := r.path(run.CandidatesFolder, name)
	if err := os.MkdirAll(dir, 0o777); err != nil {
		return nil, err
	}
	c := new(run.Candidate)
	if found, err := run.ReadJSON(filepath.Join(dir, run.ResultFile), c, run.Redo); found || err != nil {
		return c, err
	}
	s, err := r.selection(ctx, scores, budget, dir)
	if err != nil {
		return nil, err
	}
	if s.plan != nil {
		r.progress(Event{Stage: "plan", Candidate: name, Plan: s.plan})
	}
	s.run.Keep = backend.OnDevice(r.Backend) // the processor's programs are made at once, and hold its memory
	trained, err := r.train(ctx, s.run, name, dir, TrainOptions{Options: r.o.Train})
	if err != nil {
		return nil, err
	}
	last := trained.Epochs[len(trained.Epochs)-1]
	*c = run.Candidate{Budget: budget, Counts: trained.Tuning.Counts, ValAccuracy: last.ValAccuracy, ValLoss: last.ValLoss, Seconds: seconds(trained.Epochs)}
	return c, r.finish(dir, c)
}

// final trains the chosen candidate on all that may be trained on, keeps the
// delta and tests it.
func (r *runner) final(ctx context.Context, scores *sensitivity.Scores, budget string, result *run.Result) error {
	s, err := r.selection(ctx, scores, budget, r.dir)
	if err != nil {
		return err
	}
	if s.plan != nil {
		r.progress(Event{Stage: "plan", Plan: s.plan})
	}
	s.run.Keep = true
	if len(r.Data.Test) > 0 {
		s.run.Later = r.images(r.eval, r.Data.Test, nil)
	}
	trained, err := r.train(ctx, s.run, "", r.dir, TrainOptions{Options: r.o.Train, WithVal: result.TrainedOn == "train+val", TestEveryEpoch: r.o.PaperProtocol})
	if err != nil {
		return err
	}
	result.Counts, result.Epochs = trained.Tuning.Counts, trained.Epochs
	result.Seconds += seconds(trained.Epochs)
	metrics := map[string]float64{}
	if result.Val != nil {
		metrics["val_accuracy"] = *result.Val
	}
	if len(r.Data.Test) > 0 {
		e, err := s.run.Evaluate(ctx, s.run.Later, func(e progress.Event) {
			r.progress(Event{Stage: "test", Done: int(e.Done), Total: int(e.Total)})
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
	return r.Delta(r.o.Method, trained, s.plan, metrics).Save(r.dir)
}

// train does one training, with its state and metrics in dir.
func (r *runner) train(ctx context.Context, training *train.Run, candidate, dir string, o TrainOptions) (*Trained, error) {
	o.Checkpoint = filepath.Join(dir, run.TrainStateFile)
	o.Progress = func(e progress.Event) {
		out := Event{Stage: "train", Candidate: candidate, Epoch: e.Epoch, Epochs: e.Epochs, Done: int(e.Done), Total: int(e.Total), Loss: e.Loss}
		if f, ok := e.Detail.(train.Epoch); ok {
			out.Finished = &f
		}
		r.progress(out)
	}
	o.EpochDone = func(epochs []train.Epoch) error {
		return run.WriteMetrics(filepath.Join(dir, run.MetricsFile), epochs)
	}
	// A training's state without the scores that led to it could not be gone on with where
	// scores do not repeat to the bit, and activations need the memory.
	if err := r.scoresSaved(); err != nil {
		return nil, err
	}
	trained, err := r.do(ctx, training, o)
	if err != nil {
		return nil, err
	}
	// A run that was killed between an epoch and its line has the epoch only.
	return trained, run.WriteMetrics(filepath.Join(dir, run.MetricsFile), trained.Epochs)
}

// finish keeps a candidate's result, after which its training state is of no use.
func (r *runner) finish(dir string, c *run.Candidate) error {
	if err := run.WriteJSON(filepath.Join(dir, run.ResultFile), c); err != nil {
		return err
	}
	return run.Remove(filepath.Join(dir, run.TrainStateFile))
}

func seconds(epochs []train.Epoch) (s float64) {
	for _, e := range epochs {
		s += e.Seconds
	}
	return s
}
