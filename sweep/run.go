package sweep

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/sptune/spt"
	"github.com/sptune/spt/dataset"
	"github.com/sptune/spt/internal/atomicfile"
	"github.com/sptune/spt/objective"
	"github.com/sptune/spt/progress"
	"github.com/sptune/spt/run"
)

// Options configures [Folder.Run].
type Options struct {
	// Index and Of restrict the jobs to those whose number, from 0, has the remainder Index when it
	// is divided by Of. The jobs that these jobs need are run too. Of 0 means all jobs.
	Index, Of int
	// List restricts the jobs to a list, and Index and Of count along the list. It is the path of a
	// file with one ID on each line. Empty: all jobs.
	List string
	// Where restricts the jobs to those that it selects, and Index and Of count along these. Empty:
	// all jobs. It excludes List.
	Where Filter
	// Attempts is the number of times that a job may be run until it gives a result. An interrupted
	// attempt that saved its state does not count. An attempt that ends with a wrong option, a bad
	// input or a loss that is no number is the last one. Default: DefaultAttempts.
	Attempts int
	// Processes is the number of processes on this machine that run jobs at the same time. They
	// divide the memory for decoded images of a run. Default: 1.
	Processes int
	// Started is called when a job begins, and Ended when it has ended. err is nil if the job gave
	// a result. Nil: no call.
	Started func(t Turn)
	Ended   func(t Turn, r *run.Result, err error)
	// Progress receives the events of the runs. Nil: no events.
	Progress progress.Func
}

// Turn is a job that [Folder.Run] runs, with its place among the jobs of the folder.
type Turn struct {
	Job
	Number, Of int // number of the job, from 1, and number of all jobs
}

// DefaultAttempts is the default of Options.Attempts.
const DefaultAttempts = 5

// Summary says how the jobs of a call of [Folder.Run] are.
type Summary struct {
	Done   int // number of jobs with a result
	Failed int // number of jobs that failed, or that need a job that failed
}

// Run runs the jobs of the folder that are not done, one after the other. It returns when every job
// is done or has failed. Other processes can run jobs of the folder at the same time: Run skips
// their jobs and waits for them at the end. A job that fails does not stop the others.
//
// If ctx is cancelled, Run saves the state of the current job and returns the error of ctx. A
// folder or a file that cannot be used is a [*run.InputError].
func (f Folder) Run(ctx context.Context, o Options) (Summary, error) {
	jobs, err := f.Jobs()
	if err != nil {
		return Summary{}, err
	}
	if o.Attempts == 0 {
		o.Attempts = DefaultAttempts
	}
	if o.Of < 0 || o.Index < 0 || o.Of > 0 && o.Index >= o.Of {
		return Summary{}, &run.OptionError{Option: "index", Err: fmt.Errorf("index %d of %d: expected an index from 0 to %d", o.Index, o.Of, o.Of-1)}
	}
	w := &worker{Options: o, folder: f, jobs: map[string]Job{}, numbers: map[string]int{}, users: map[string][]string{}, ended: map[string]state{}}
	for i, j := range jobs {
		w.jobs[j.ID], w.numbers[j.ID] = j, i+1
		if j.Scores != "" {
			w.users[j.Scores] = append(w.users[j.Scores], j.ID)
		}
	}
	if o.List != "" && len(o.Where) > 0 {
		return Summary{}, &run.OptionError{Option: "where", Err: errors.New("a list of jobs and conditions are given; give one of them")}
	}
	if jobs, err = o.Where.jobs(jobs); err != nil {
		return Summary{}, err
	}
	var all []string
	for _, j := range jobs {
		all = append(all, j.ID)
	}
	if o.List != "" {
		if all, err = readList(o.List); err != nil {
			return Summary{}, err
		}
	}
	var own []string
	for i, id := range all {
		if _, known := w.jobs[id]; !known {
			return Summary{}, &run.InputError{Err: fmt.Errorf("list of jobs %s: the sweep folder %s has no job %.80q; the list belongs to another folder, or the specification has changed", o.List, f, id)}
		}
		if o.Of == 0 || i%o.Of == o.Index {
			own = append(own, id)
		}
	}
	sum, err := w.all(ctx, own)
	for name := range w.users { // a killed process may have left scores that no job needs
		w.dropScores(name)
	}
	return sum, err
}

// state is the state of a job for a worker.
type state int

const (
	open   state = iota // the job must still be run
	busy                // another process runs the job, or a job that it needs
	done                // the job has a result
	failed              // the job will give no result
)

// worker runs jobs.
type worker struct {
	Options
	folder  Folder
	jobs    map[string]Job
	numbers map[string]int      // of the jobs in the folder, from 1
	users   map[string][]string // IDs of the jobs that share scores, by the name of the scores
	ended   map[string]state    // jobs that are done or failed

	task *spt.Task // task of the last job; jobs on the same task share images and features
	key  string    // configuration of task
}

// all runs jobs until none of them is open.
func (w *worker) all(ctx context.Context, own []string) (sum Summary, err error) {
	for wait := time.Second; ; {
		left, progressed := 0, false
		for _, id := range own {
			if w.ended[id] != open {
				continue
			}
			s, err := w.ensure(ctx, id)
			if err != nil {
				return sum, err
			}
			switch s {
			case done:
				sum.Done++
			case failed:
				sum.Failed++
			default:
				left++
				continue
			}
			progressed = true
		}
		if left == 0 {
			return sum, nil
		}
		if wait = min(2*wait, 10*time.Second); progressed {
			wait = time.Second
		}
		select {
		case <-ctx.Done():
			return sum, fmt.Errorf("waiting for jobs that other processes run: %w", ctx.Err())
		case <-time.After(wait):
		}
	}
}

// ensure runs a job and the jobs that it needs, if they are open. It returns an error only if no
// further job can be run.
func (w *worker) ensure(ctx context.Context, id string) (state, error) {
	if s := w.ended[id]; s != open {
		return s, nil
	}
	s, err := w.try(ctx, w.jobs[id])
	if err == nil && (s == done || s == failed) {
		w.ended[id] = s
	}
	return s, err
}

// try runs a job once, if it is open.
func (w *worker) try(ctx context.Context, j Job) (state, error) {
	if w.folder.done(j.ID) {
		return done, nil
	}
	waiting := false
	for _, id := range slices.Concat(j.Candidates...) {
		s, err := w.ensure(ctx, id)
		if err != nil {
			return open, err
		}
		if s == failed {
			if h, err := w.folder.history(id); err != nil || !h.last.Diverged {
				return failed, err
			}
		}
		waiting = waiting || s == open || s == busy
	}
	if waiting {
		return busy, nil
	}
	if err := ctx.Err(); err != nil {
		return open, fmt.Errorf("running the jobs of %s: %w", w.folder, err)
	}
	claim, err := take(w.folder.path(claimsFolder), j.ID)
	if err != nil || claim == nil {
		return busy, err
	}
	s := open
	defer func() { claim.release(s == done) }()
	if w.folder.done(j.ID) { // by another process, between the first look and the claim
		s = done
		return s, nil
	}
	h, err := w.folder.history(j.ID)
	if err != nil {
		return open, err
	}
	if h.failed(w.Attempts) {
		s = failed
		return s, nil
	}
	s, err = w.attempt(ctx, j, h.attempts+1)
	return s, err
}

// attempt runs a job and records how it began and ended.
func (w *worker) attempt(ctx context.Context, j Job, number int) (state, error) {
	host, _ := os.Hostname()
	if err := w.folder.record(j.ID, attempt{Event: began, Time: now(), Host: host, Process: os.Getpid()}); err != nil {
		return open, err
	}
	turn := Turn{j, w.numbers[j.ID], len(w.jobs)}
	if w.Started != nil {
		w.Started(turn)
	}
	result, err := w.execute(ctx, j)
	end := attempt{Event: ended, Time: now()}
	if err != nil {
		end.Code, end.Error = run.ExitCode(ctx, err), err.Error()
		_, end.Diverged = errors.AsType[*objective.LossError](err)
		end.Saved = end.Code == run.ExitInterrupted && w.folder.saved(j.ID)
		end.Final = end.Code == run.ExitUsage || end.Code == run.ExitInput || end.Diverged
	}
	// An interrupted process must record the end too.
	if recorded := w.folder.record(j.ID, end); recorded != nil {
		return open, errors.Join(err, recorded)
	}
	if ctx.Err() != nil && err != nil {
		return open, err
	}
	if w.Ended != nil {
		w.Ended(turn, result, err)
	}
	w.dropScores(j.Scores)
	switch {
	case err == nil:
		return done, nil
	case end.Final || number >= w.Attempts:
		return failed, nil
	}
	return open, nil
}

// now returns the time, as in the log of a job.
func now() string { return time.Now().UTC().Format(time.RFC3339) }

// execute runs a job, or resumes its run.
func (w *worker) execute(ctx context.Context, j Job) (*run.Result, error) {
	c := j.Config
	if len(j.Candidates) > 0 {
		chosen, err := w.folder.choose(j, w.jobs)
		if err != nil {
			return nil, err
		}
		c.Tune = chosen.Tune
	}
	dir := string(w.folder.RunFolder(j.ID))
	if err := atomicfile.RemoveLeftovers(dir); err != nil {
		return nil, err
	}
	task, err := w.open(ctx, c)
	if err != nil {
		return nil, err
	}
	if j.Scores != "" {
		if c.Tune.ScoresFile, err = w.scores(ctx, j, task); err != nil {
			return nil, err
		}
	}
	return task.Tune(ctx, c.Tune, dir, w.Progress)
}

// open returns the task of a job. Jobs on the same backbone and data set follow each other and
// share the task: its decoded images, and the features of a frozen backbone.
func (w *worker) open(ctx context.Context, c Config) (*spt.Task, error) {
	if w.Processes > 1 && c.Data.Images.CacheBytes >= 0 { // a negative value means no cache
		c.Data.Images.CacheBytes = cmp.Or(c.Data.Images.CacheBytes, dataset.DefaultCacheBytes) / int64(w.Processes)
	}
	key, err := json.Marshal([]any{c.Model, c.Data, c.Compute, c.Objective})
	if err != nil {
		return nil, err
	}
	if w.task == nil || w.key != string(key) {
		w.task = nil // the new task may need its memory
		if w.task, err = spt.Open(ctx, c.run(), w.Progress); err != nil {
			w.task = nil
			return nil, err
		}
		w.key = string(key)
	}
	return w.task, nil
}

// scores returns the path of the scores of a job. It computes them if no job has done so, and waits
// if another process computes them.
func (w *worker) scores(ctx context.Context, j Job, task *spt.Task) (path string, err error) {
	dir := w.folder.path(scoresFolder, j.Scores)
	path = filepath.Join(dir, run.ScoresFile)
	for {
		if _, err := os.Stat(path); err == nil {
			return path, nil
		}
		claim, err := take(w.folder.path(claimsFolder), "scores-"+j.Scores)
		if err != nil {
			return "", err
		}
		if claim != nil {
			defer func() { claim.release(false) }()
			break
		}
		select {
		case <-ctx.Done():
			return "", fmt.Errorf("waiting for the scores %s: %w", j.Scores, ctx.Err())
		case <-time.After(200 * time.Millisecond):
		}
	}
	if _, err := os.Stat(path); err == nil { // by another process, before the claim
		return path, nil
	}
	if err := errors.Join(os.MkdirAll(dir, 0o777), atomicfile.RemoveLeftovers(dir)); err != nil {
		return "", fmt.Errorf("making the folder of scores: %w", err)
	}
	if j.Config.Tune.Score.Criterion.Images() {
		if err := task.CheckImages(ctx, w.Progress); err != nil {
			return "", err
		}
	}
	scores, err := task.Score(ctx, j.Config.Tune.Score, w.Progress)
	if err != nil {
		return "", err
	}
	return path, scores.Save(path)
}

// dropScores removes the scores with that name if no job needs them any more. Scores are as large
// as the backbone. A job without scores has an empty name.
func (w *worker) dropScores(name string) {
	if name == "" {
		return
	}
	for _, id := range w.users[name] {
		if w.folder.done(id) {
			continue
		}
		if h, err := w.folder.history(id); err != nil || !h.failed(w.Attempts) {
			return
		}
	}
	_ = os.RemoveAll(w.folder.path(scoresFolder, name))
}
