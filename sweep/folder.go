package sweep

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"github.com/sptune/spt/internal/atomicfile"
	"github.com/sptune/spt/internal/jsonfile"
	"github.com/sptune/spt/internal/regularfile"
	"github.com/sptune/spt/run"
)

// The names of the files and folders in a sweep folder. docs/format.md describes them.
const (
	SpecFile       = "sweep.yaml" // the specification
	JobsFile       = "jobs.jsonl" // the jobs, one line each
	runsFolder     = "runs"       // a run folder for each job
	attemptsFolder = "attempts"   // a log for each job: when it began and how it ended
	claimsFolder   = "claims"     // locks of the jobs that run
	scoresFolder   = "scores"     // scores that jobs share; removed when no job needs them
	submitFolder   = "submit"     // scripts for clusters, and their output
)

// Folder is the path of a sweep folder.
type Folder string

// path returns the path of a file or folder in f.
func (f Folder) path(elem ...string) string {
	return filepath.Join(append([]string{string(f)}, elem...)...)
}

// RunFolder returns the run folder of a job.
func (f Folder) RunFolder(id string) run.Folder { return run.Folder(f.path(runsFolder, id)) }

// Saved says what [Folder.Save] changed.
type Saved struct {
	Jobs    int // number of jobs in the folder
	New     int // number of jobs that the folder did not have before
	Done    int // number of jobs that are done
	Removed int // number of jobs that the folder had and the specification does not
}

// Save writes the specification and its jobs into the folder. The folder may hold an earlier form
// of the specification: jobs that both have keep their results. The runs of removed jobs stay in
// the folder. If the folder holds another specification, with no common job, or files of other
// programs, the error is a [*run.OptionError].
func (f Folder) Save(jobs *Jobs) (Saved, error) {
	s := Saved{Jobs: len(jobs.All)}
	before, err := f.before()
	if err != nil {
		return s, err
	}
	s.New = s.Jobs
	for _, j := range jobs.All {
		if before[j.ID] {
			s.New--
		}
	}
	s.Removed = len(before) - (s.Jobs - s.New)
	if len(before) > 0 && s.New == s.Jobs {
		return s, &run.OptionError{Option: "out", Err: fmt.Errorf("sweep folder %s belongs to another specification: none of its %d jobs is in %s; choose another folder", f, len(before), jobs.Spec.Path)}
	}
	if err := os.MkdirAll(f.path(runsFolder), 0o777); err != nil {
		return s, fmt.Errorf("making the sweep folder: %w", err)
	}
	if err := atomicfile.WriteBytes(f.path(SpecFile), jobs.Spec.Source); err != nil {
		return s, err
	}
	if err := jsonfile.WriteLines(f.path(JobsFile), jobs.All); err != nil {
		return s, err
	}
	for _, j := range jobs.All {
		if f.done(j.ID) {
			s.Done++
		}
	}
	return s, nil
}

// before returns the IDs of the jobs in the folder. There are none if the folder does not exist or
// is empty.
func (f Folder) before() (map[string]bool, error) {
	entries, err := os.ReadDir(string(f))
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, nil
	case err != nil:
		return nil, &run.OptionError{Option: "out", Err: fmt.Errorf("%s cannot be a sweep folder: %w", f, err)}
	case len(entries) == 0:
		return nil, nil
	}
	if _, err := os.Stat(f.path(JobsFile)); errors.Is(err, fs.ErrNotExist) {
		if slices.ContainsFunc(entries, func(e fs.DirEntry) bool { return e.Name() != SpecFile && e.Name() != runsFolder }) {
			return nil, &run.OptionError{Option: "out", Err: fmt.Errorf("%s holds other files, such as %s; choose a new folder", f, entries[0].Name())}
		}
		return nil, nil // an interrupted Save
	}
	old, err := f.Jobs()
	ids := map[string]bool{}
	for _, j := range old {
		ids[j.ID] = true
	}
	return ids, err
}

// maxJobsFile limits the size of jobs.jsonl, in bytes. A line has 3 kB.
const maxJobsFile = 2 << 30

// Jobs reads the jobs of the folder. A folder without jobs and a broken file are a
// [*run.InputError].
func (f Folder) Jobs() ([]Job, error) {
	path := f.path(JobsFile)
	data, err := regularfile.Read(path, maxJobsFile)
	if errors.Is(err, fs.ErrNotExist) {
		err = fmt.Errorf("%s is no sweep folder: it has no file %s; 'sweep plan' makes one", f, JobsFile)
	}
	if err != nil {
		return nil, &run.InputError{Err: err}
	}
	var jobs []Job
	for line := range bytes.Lines(data) {
		var j Job
		if err := jsonfile.Decode(line, jobHeader, &j); err != nil {
			return nil, &run.InputError{Err: fmt.Errorf("reading line %d of %s: %w; make the jobs again from the specification", len(jobs)+1, path, err)}
		}
		jobs = append(jobs, j)
	}
	return jobs, nil
}

// done reports whether the job has a result.
func (f Folder) done(id string) bool {
	_, err := os.Stat(f.RunFolder(id).Path(run.ResultFile))
	return err == nil
}

// Done returns the run folders of all jobs with a result, in the order of the jobs. Jobs of both
// stages are among them.
func (f Folder) Done() ([]run.Folder, error) {
	jobs, err := f.Jobs()
	var folders []run.Folder
	for _, j := range jobs {
		if f.done(j.ID) {
			folders = append(folders, f.RunFolder(j.ID))
		}
	}
	return folders, err
}

// attempt is one line of the log of a job: the beginning or the end of an attempt to run it.
type attempt struct {
	jsonfile.Header        // kind "attempt"
	Event           string `json:"event"` // began or ended
	Time            string `json:"time"`  // UTC
	Host            string `json:"host,omitempty"`
	Process         int    `json:"process,omitempty"`
	// Code is the exit code of the attempt, as of the command tune. Error is its message.
	Code  int    `json:"code,omitempty"`
	Error string `json:"error,omitempty"`
	// Final reports whether another attempt would fail in the same way.
	Final bool `json:"final,omitempty"`
	// Saved reports whether an interrupted attempt saved the state of a training. Such an attempt
	// does not count: a job may be longer than many time limits of a cluster.
	Saved bool `json:"saved,omitempty"`
	// Diverged reports whether the loss was no number.
	Diverged bool `json:"diverged,omitempty"`
}

var attemptHeader = jsonfile.Header{Kind: jsonfile.Attempt, Version: 1}

// log returns the path of the log of a job.
func (f Folder) log(id string) string { return f.path(attemptsFolder, id+".jsonl") }

// maxError limits the error in a line of a log, in bytes. Readers of lines have a limit too.
const maxError = 8 << 10

// record appends a line to the log of a job.
func (f Folder) record(id string, a attempt) error {
	a.Header = attemptHeader
	if len(a.Error) > maxError {
		a.Error = a.Error[len(a.Error)-maxError:] // the last line says most
	}
	line, err := json.Marshal(a)
	if err == nil {
		err = os.MkdirAll(f.path(attemptsFolder), 0o777)
	}
	var file *os.File
	if err == nil {
		file, err = os.OpenFile(f.log(id), os.O_CREATE|os.O_APPEND|os.O_RDWR, 0o666)
	}
	if err == nil {
		// A killed process may have written a part of a line.
		last := []byte{'\n'}
		if size, sought := file.Seek(0, io.SeekEnd); sought == nil && size > 0 {
			_, err = file.ReadAt(last, size-1)
		}
		if err == nil && last[0] != '\n' {
			line = append([]byte{'\n'}, line...)
		}
		if err == nil {
			_, err = file.Write(append(line, '\n'))
		}
		err = errors.Join(err, file.Close())
	}
	if err != nil {
		return fmt.Errorf("writing the log of job %s: %w", id, err)
	}
	return nil
}

// saved reports whether the run of a job has saved the state of a training since the log of the job
// was written. It compares times of the file system, because the clock of this machine may differ.
func (f Folder) saved(id string) (saved bool) {
	log, err := os.Stat(f.log(id))
	if err != nil {
		return false
	}
	_ = filepath.WalkDir(string(f.RunFolder(id)), func(_ string, d fs.DirEntry, err error) error {
		if err == nil && d.Name() == run.TrainStateFile {
			if stat, err := d.Info(); err == nil && stat.ModTime().After(log.ModTime()) {
				saved = true
			}
		}
		return nil
	})
	return saved
}

// history is what the log of a job says.
type history struct {
	attempts int     // number of attempts that gave neither a result nor a saved state
	last     attempt // end of the last attempt; zero if it has not ended
}

// failed reports whether the job will not be run again. limit is the limit of attempts.
func (h history) failed(limit int) bool { return h.last.Final || h.attempts >= limit }

// history reads the log of a job. It skips lines that it cannot read: a killed process may have
// written a part of a line.
func (f Folder) history(id string) (h history, err error) {
	file, _, err := regularfile.Open(f.log(id))
	if errors.Is(err, fs.ErrNotExist) {
		return h, nil
	}
	if err != nil {
		return h, err
	}
	defer file.Close()
	lines := bufio.NewScanner(file)
	for lines.Scan() {
		var a attempt
		if json.Unmarshal(lines.Bytes(), &a) != nil || a.Header != attemptHeader {
			continue
		}
		switch a.Event {
		case began:
			h.attempts++
			h.last = attempt{}
		case ended:
			h.last = a
			if a.Saved {
				h.attempts--
			}
		}
	}
	return h, lines.Err()
}

// The events in the log of a job.
const (
	began = "began"
	ended = "ended"
)
