package sweep

import (
	"cmp"
	"fmt"

	"github.com/sptune/spt/run"
)

// candidate is a setting that was validated.
type candidate struct {
	job     Job     // job of the first seed
	val     float64 // mean over the seeds of the metric that the run chooses by; higher is better
	tuned   float64 // mean number of tuned parameters
	loss    float64 // mean validation loss
	ignored bool    // the training of a seed diverged
}

// chosen is the candidate that a job of the stage Final takes.
type chosen struct {
	Setting string // name of the setting
	Tune    run.TuneOptions
}

// choose returns the options of the best candidate of a job, with the seed of the job: the highest
// mean of the metric train.Options.Select, then the fewest tuned parameters, then the lowest
// validation loss. Candidates whose training diverged are not chosen. A candidate without a result
// for another reason is an error: the choice could be another one with it.
func (f Folder) choose(j Job, jobs map[string]Job) (chosen, error) {
	var best *candidate
	for _, ids := range j.Candidates {
		c, err := f.validated(ids, jobs)
		if err != nil {
			return chosen{}, err
		}
		if !c.ignored && (best == nil || cmp.Or(cmp.Compare(best.val, c.val), cmp.Compare(c.tuned, best.tuned), cmp.Compare(c.loss, best.loss)) < 0) {
			best = c
		}
	}
	if best == nil {
		return chosen{}, &run.InputError{Err: fmt.Errorf("choosing a setting for %s: the training of every setting diverged; give smaller learning rates", j)}
	}
	o := best.job.Config.Tune
	o.ValidationOnly = false
	o.PaperProtocol = j.Config.Tune.PaperProtocol
	o.Train.Seed, o.Score.Seed = j.Seed, j.Seed
	// The choice is made. A run that tries several learning rates or budgets chooses anew.
	o.NoValidation = len(o.LRs) < 2 && len(o.Budgets) < 2
	return chosen{best.job.Setting, o}, nil
}

// validated returns the results of the jobs of one setting, one for each seed.
func (f Folder) validated(ids []string, jobs map[string]Job) (*candidate, error) {
	c := &candidate{job: jobs[ids[0]]}
	for _, id := range ids {
		r, err := run.LoadResult[run.Result](f.RunFolder(id))
		if err != nil {
			return nil, err
		}
		if r == nil {
			h, err := f.history(id)
			if err == nil && h.last.Diverged {
				c.ignored = true
				return c, nil
			}
			return nil, fmt.Errorf("the job %s (%s) that validates a setting has no result", id, jobs[id])
		}
		if r.Val == nil {
			return nil, &run.InputError{Err: fmt.Errorf("the result of job %s has no validation accuracy; remove the folder %s to run the job again", id, f.RunFolder(id))}
		}
		n := float64(len(ids))
		one := chosenBy(r)
		c.val += one.Selected(c.job.Config.Tune.Train.Select) / n
		c.tuned += float64(r.Counts.Tuned()) / n
		c.loss += one.ValLoss / n
	}
	return c, nil
}

// chosenBy returns the candidate that a run chose. If the result does not list it, the candidate
// has only its validation accuracy.
func chosenBy(r *run.Result) run.Candidate {
	for _, c := range r.Candidates {
		if c.Budget == r.Budget && c.LR == r.LR {
			return c
		}
	}
	return run.Candidate{ValAccuracy: *r.Val}
}
