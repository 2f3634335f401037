package sweep

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"

	"github.com/sptune/spt/run"
)

// Status says how far the jobs of a sweep folder are.
type Status struct {
	Jobs        int `json:"jobs"`        // number of jobs
	Done        int `json:"done"`        // with a result
	Running     int `json:"running"`     // a process has claimed the job
	Interrupted int `json:"interrupted"` // began, has no result and does not run; will be resumed
	Failed      int `json:"failed"`      // will not be run again
	Blocked     int `json:"blocked"`     // need a job that failed
	Open        int `json:"open"`        // not begun
	// Failures lists the failed jobs, and the interrupted jobs whose last attempt ended with an
	// error.
	Failures []Failure `json:"failures,omitempty"`
}

// Failure describes an attempt that failed.
type Failure struct {
	ID       string `json:"id"`
	Job      string `json:"job"`      // the job in words
	Code     int    `json:"code"`     // exit code; see run.ExitCode. 0: the process was killed
	Attempts int    `json:"attempts"` // number of attempts without a result
	Final    bool   `json:"final"`    // the job will not be run again
	Error    string `json:"error"`    // last line of the error
}

// Status returns the state of the jobs that where selects. attempts is the limit of attempts, as in
// [Options]; 0 means [DefaultAttempts]. It reads files only.
func (f Folder) Status(attempts int, where Filter) (Status, error) {
	if attempts == 0 {
		attempts = DefaultAttempts
	}
	jobs, err := f.Jobs()
	if err != nil {
		return Status{}, err
	}
	selected, err := where.ids(jobs)
	if err != nil {
		return Status{}, err
	}
	begun, err := f.names(runsFolder, attemptsFolder)
	if err != nil {
		return Status{}, err
	}
	locks, err := f.names(claimsFolder)
	if err != nil {
		return Status{}, err
	}
	s := Status{Jobs: len(selected)}
	var others Status             // of the other jobs, which can block selected ones
	blocking := map[string]bool{} // failed jobs, except diverged ones
	for _, j := range jobs {
		to := &s
		if !selected[j.ID] {
			to = &others
		}
		switch {
		case begun[j.ID] && f.done(j.ID):
			to.Done++
			continue
		case locks[j.ID] && claimed(f.path(claimsFolder), j.ID):
			to.Running++
			continue
		case slices.ContainsFunc(slices.Concat(j.Candidates...), func(id string) bool { return blocking[id] }):
			to.Blocked++
			continue
		case !begun[j.ID]:
			to.Open++
			continue
		}
		h, err := f.history(j.ID)
		if err != nil {
			return s, err
		}
		final := h.failed(attempts)
		if final {
			to.Failed++
			blocking[j.ID] = !h.last.Diverged
		} else {
			to.Interrupted++
		}
		if final || h.last.Code == run.ExitFailed {
			failure := Failure{ID: j.ID, Job: j.String(), Code: h.last.Code, Attempts: h.attempts, Final: final, Error: lastLine(h.last.Error)}
			if h.last.Event == "" {
				failure.Error = "the process was killed"
			}
			to.Failures = append(to.Failures, failure)
		}
	}
	return s, nil
}

// names returns the names of the files in folders of f, without extensions.
func (f Folder) names(folders ...string) (map[string]bool, error) {
	names := map[string]bool{}
	for _, folder := range folders {
		entries, err := os.ReadDir(f.path(folder))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("reading the state of the jobs: %w", err)
		}
		for _, e := range entries {
			name, _, _ := strings.Cut(e.Name(), ".")
			names[name] = true
		}
	}
	return names, nil
}

// lastLine returns the last line of a text that is not empty.
func lastLine(text string) string {
	lines := strings.Split(strings.TrimSpace(text), "\n")
	return lines[len(lines)-1]
}
