package spt

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"

	"github.com/sptune/spt/checkpoint"
	"github.com/sptune/spt/internal/option"
	"github.com/sptune/spt/peft"
	"github.com/sptune/spt/plan"
	"github.com/sptune/spt/run"
	"github.com/sptune/spt/sensitivity"
)

// This file makes the plans of a run. The scores are as large as the backbone, so the run holds
// them only until all plans are made. The plans are saved before any training begins. On some
// devices a second scoring gives slightly different scores, so a training can only be resumed with
// the plan that led to it.

// makePlans sets r.plans to the plan of each budget. If an interrupted call of the same run has
// saved all plans, makePlans reads them. Otherwise it scores the weights, makes the plans and saves
// them.
func (r *runner) makePlans(ctx context.Context) error {
	folders := r.planFolders()
	saved, err := r.savedPlans(folders)
	if saved != nil || err != nil {
		r.plans = saved
		return err
	}
	scores, err := r.scores(ctx)
	if err != nil {
		return err
	}
	kept := make(chan error, 1)
	if path := r.folder.Path(run.ScoresFile); r.o.KeepScores && !exists(path) {
		go func() { kept <- scores.Save(path) }() // while the plans are made
	} else {
		kept <- nil
	}
	plans := map[plan.Budget]*plan.Plan{}
	for _, budget := range r.o.Budgets {
		if plans[budget], err = Plan(ctx, r.model.Config, scores, budget, r.o.Plan); err != nil {
			break
		}
	}
	if err := errors.Join(err, <-kept); err != nil {
		return err
	}
	for _, budget := range r.o.Budgets {
		for _, folder := range folders[budget] {
			if err := os.MkdirAll(string(folder), 0o777); err != nil {
				return fmt.Errorf("making the folder of a candidate: %w", err)
			}
			if err := plans[budget].Save(folder.Path(run.PlanFile)); err != nil {
				return err
			}
		}
	}
	r.plans = plans
	return nil
}

// planFolders returns the folders in which the plan of each budget is saved: those of its
// candidates, and the folder of the run if the run makes a single plan for its final training.
func (r *runner) planFolders() map[plan.Budget][]run.Folder {
	folders := map[plan.Budget][]run.Folder{}
	all := candidates(r.o)
	for _, c := range all {
		if r.validates() {
			folders[c.budget] = append(folders[c.budget], r.folder.Candidate(c.name))
		}
		if !r.validates() || len(all) == 1 {
			folders[c.budget] = append(folders[c.budget], r.folder)
		}
	}
	return folders
}

// savedPlans returns the plans that an interrupted run has saved. It returns nil if the plan of a
// budget is missing.
func (r *runner) savedPlans(folders map[plan.Budget][]run.Folder) (map[plan.Budget]*plan.Plan, error) {
	plans := map[plan.Budget]*plan.Plan{}
	for _, budget := range r.o.Budgets {
		for _, folder := range folders[budget] {
			path := folder.Path(run.PlanFile)
			if plans[budget] != nil || !exists(path) {
				continue
			}
			p, err := plan.LoadFile(path)
			if err == nil {
				err = r.checkPlan(p, budget)
			}
			if err != nil {
				return nil, r.resuming(path, err)
			}
			plans[budget] = p
		}
		if plans[budget] == nil {
			return nil, nil
		}
	}
	return plans, nil
}

// checkPlan returns an error if p is not a plan for the backbone and the options of the run.
func (r *runner) checkPlan(p *plan.Plan, budget plan.Budget) error {
	parameters, err := budget.Parameters(r.model.Config.Size())
	if err != nil {
		return err
	}
	count, err := peft.CountOf(p.Module)
	if err == nil {
		err = p.Validate(sensitivity.Tensors(r.model.Config), count)
	}
	if o := r.o.Plan; err == nil && (p.Budget != parameters || p.Module != o.Module || p.Only != o.Only || p.Compat != o.Compat || p.Rule != o.Rule || p.FromBlock != o.FromBlock) {
		err = errors.New("the plan was made with other options than those of the run")
	}
	return err
}

// resuming returns err, an error of a file that an interrupted run has saved, with advice.
func (r *runner) resuming(path string, err error) error {
	if unread := (*fs.PathError)(nil); errors.As(err, &unread) {
		// The file may be intact, so the error must not advise to remove it.
		return fmt.Errorf("resuming the run in %s: %w", r.folder, err)
	}
	return &run.InputError{Err: fmt.Errorf("resuming the run in %s: %s: %w; remove the file to score again", r.folder, path, err)}
}

// scores returns the scores from the scores file of the options, the scores that an interrupted
// call of the same run has kept, or new scores.
func (r *runner) scores(ctx context.Context) (*sensitivity.Scores, error) {
	if path := r.o.ScoresFile; path != "" {
		scores, err := sensitivity.Load(path)
		if err == nil {
			err = r.checkScores(scores, r.o)
		}
		return scores, scoresError(path, err)
	}
	path := r.folder.Path(run.ScoresFile)
	if !exists(path) {
		var head checkpoint.StateDict
		if r.probed != nil {
			head = r.probed.start
		}
		return r.score(ctx, r.affordable(r.o.Score), head, r.report)
	}
	scores, err := sensitivity.Load(path)
	if err == nil {
		err = scores.CheckBackbone(r.model)
	}
	if err != nil {
		return nil, r.resuming(path, err)
	}
	return scores, nil
}

// affordable returns o with fewer batches if the run has a time limit that is too short for all of
// them. The probe has measured the speed of the backbone.
func (r *runner) affordable(o sensitivity.Options) sensitivity.Options {
	if r.deadline.IsZero() || r.forward == 0 {
		return o
	}
	batch := r.forward.Seconds() * scoreForwards * float64(min(len(r.data.Train), o.BatchSize))
	left := time.Until(r.deadline) - r.testTime()
	o.Batches = min(o.Batches, max(leastScoreBatches, int(left.Seconds()/scoreShare/batch)))
	return o
}

// checkScores returns an error if the scores are not of the backbone, or contradict the options.
func (t *Task) checkScores(scores *sensitivity.Scores, o run.TuneOptions) error {
	if err := scores.CheckBackbone(t.model); err != nil {
		return err
	}
	return scores.CheckOptions(o.Score, len(t.data.Train))
}

// scoresError returns the error of the scores file of a run: an OptionError if the file contradicts
// an option, otherwise an InputError.
func scoresError(path string, err error) error {
	switch {
	case err == nil:
		return nil
	case option.Of(err) != "":
		return optionError(err)
	}
	return &run.InputError{Err: fmt.Errorf("using the scores in %s: %w", path, err)}
}

// exists reports whether a file exists, or may exist.
func exists(path string) bool {
	_, err := os.Stat(path)
	return !errors.Is(err, fs.ErrNotExist)
}
