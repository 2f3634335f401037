package tracking

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/sptune/spt/delta"
	"github.com/sptune/spt/plan"
	"github.com/sptune/spt/run"
	"github.com/sptune/spt/train"
)

// Record holds what is written about a run. [Read] makes it from a run folder.
type Record struct {
	Folder run.Folder
	Config run.Config
	Result *run.Result // nil while the run is unfinished
	// Name is the name of the run: the last element of the path of its folder.
	Name string
	// ID identifies the run, also after its folder has moved: 16 hexadecimal digits.
	ID string
	// Parameters lists the options of the run.
	Parameters []Parameter
	// Trainings holds the trainings of all candidates in the order of the run, and then the final
	// training. A training that has not begun has no epochs.
	Trainings []Training

	matrix  []byte // drawing of the confusion matrix of the result as PNG; nil for none
	stopped bool   // the run is unfinished, and this process does not continue it
}

// Training is the training of a candidate, or the final training.
type Training struct {
	// Name is the name of the candidate. It is empty for the final training.
	Name string
	// Parameters lists the options of the run with the budget and the learning rate of this
	// training. It is nil while they are unknown.
	Parameters []Parameter
	// Epochs holds the figures of the finished epochs.
	Epochs []train.Epoch
}

// Finished reports whether the training has run all of its epochs.
func (r *Record) Finished(t Training) bool { return len(t.Epochs) >= r.Config.Recipe().Epochs }

// Read reads the record of the run in the folder dir. A folder without a run, and a broken file,
// are a [*run.InputError].
func Read(dir string) (*Record, error) {
	folder, c, err := run.Open(dir)
	if err != nil {
		return nil, err
	}
	absolute, err := filepath.Abs(dir)
	if err != nil {
		return nil, err
	}
	r := &Record{Folder: folder, Config: c, Name: filepath.Base(absolute), Parameters: parameters(c)}
	sum := sha256.Sum256(fmt.Appendf(nil, "%d %s %s %d", c.Started.UnixNano(), c.Model.Fingerprint, c.Data.Samples, r.Config.Recipe().Seed))
	r.ID = hex.EncodeToString(sum[:8])
	if r.Result, err = run.LoadResult[run.Result](folder); err != nil {
		return nil, err
	}
	if r.Result != nil && r.Result.Metrics != nil {
		if r.matrix, err = drawMatrix(r.Result.Classes, r.Result.Metrics.Confusion); err != nil {
			return nil, &run.InputError{Err: fmt.Errorf("reading %s: %w", folder.Path(run.ResultFile), err)}
		}
	}
	final := Training{Parameters: r.Parameters}
	if c.Train == nil {
		tries := c.Tune.Tries()
		for _, t := range tries {
			r.Trainings = append(r.Trainings, Training{Name: t.Name, Parameters: chosen(r.Parameters, t.Budget, t.LR)})
		}
		switch {
		case len(tries) == 1:
			final.Parameters = r.Trainings[0].Parameters
		case r.Result != nil:
			final.Parameters = chosen(r.Parameters, r.Result.Budget, r.Result.LR)
		default:
			final.Parameters = nil // the run has not chosen yet
		}
	}
	r.Trainings = append(r.Trainings, final)
	for i := range r.Trainings {
		from := folder
		if name := r.Trainings[i].Name; name != "" {
			from = folder.Candidate(name)
		}
		if r.Trainings[i].Epochs, err = from.Metrics(); err != nil {
			return nil, err
		}
	}
	return r, nil
}

// chosen returns parameters with the budget and the learning rate of one training.
func chosen(parameters []Parameter, budget plan.Budget, lr float64) []Parameter {
	parameters = slices.Clone(parameters)
	for i := range parameters {
		switch parameters[i].Name {
		case "budget":
			parameters[i].Value = budget.String()
		case "lr":
			parameters[i].Value = lr
		}
	}
	return parameters
}

// add records a finished epoch of a training. If the epoch was trained again, after the program was
// killed, add drops the later ones. It reports false if earlier epochs are missing, because they
// were not yet in the folder when it was read: they are there at the next event.
func (r *Record) add(name string, e train.Epoch) bool {
	i := slices.IndexFunc(r.Trainings, func(t Training) bool { return t.Name == name })
	if i < 0 || e.Epoch < 1 {
		return true // no epoch of this run
	}
	t := &r.Trainings[i]
	switch n := e.Epoch - 1; {
	case n > len(t.Epochs):
		return false
	case n == len(t.Epochs):
		t.Epochs = append(t.Epochs, e)
	default:
		t.Epochs = append(t.Epochs[:n:n], e) // a copy: others read the old list
	}
	return true
}

// snapshot returns a copy that later calls of add do not change.
func (r *Record) snapshot() *Record {
	c := *r
	c.Trainings = slices.Clone(r.Trainings)
	return &c
}

// Point is the value of a metric at a step.
type Point struct {
	Metric string
	Step   int // number of the epoch, from 1
	At     time.Time
	Value  float64
}

// Points returns the figures of the epochs of a training from its epoch number first on. The times
// are those of a clock that begins with the run and counts the time spent in training, because a
// run folder has no other times. They are the same whenever a run is read.
func (r *Record) Points(training, first int) (points []Point) {
	at := r.Config.Started
	advance := func(e train.Epoch) { at = at.Add(time.Duration(e.Seconds * float64(time.Second))) }
	for _, t := range r.Trainings[:training] {
		for _, e := range t.Epochs {
			advance(e)
		}
	}
	for _, e := range r.Trainings[training].Epochs {
		advance(e)
		if e.Epoch < first {
			continue
		}
		for _, m := range epochMetrics {
			if value, ok := m.value(e); ok {
				points = append(points, Point{m.name, e.Epoch, at, value})
			}
		}
	}
	return points
}

// Final returns the metrics of the finished run, at its last epoch. It leaves out the metrics that
// Points has for this epoch of the final training. It returns none for an unfinished run.
func (r *Record) Final() (points []Point) {
	if r.Result == nil {
		return nil
	}
	step := len(r.Result.Epochs)
	last := r.Points(len(r.Trainings)-1, step)
	for _, m := range finalMetrics(*r.Result) {
		if !slices.ContainsFunc(last, func(p Point) bool { return p.Metric == m.name }) {
			points = append(points, Point{m.name, step, r.Result.Finished, m.value})
		}
	}
	return points
}

// File is a file of a run.
type File struct {
	Name string // in the folder of the run
	Path string
	Size int64 // in bytes
}

// Files returns the files of a finished run that are stored with it. It returns none for an
// unfinished run.
func (r *Record) Files() (files []File, err error) {
	if r.Result == nil {
		return nil, nil
	}
	for _, name := range []string{run.ConfigFile, run.ResultFile, run.PlanFile, run.MetricsFile, run.PredictionsFile, delta.FileName, delta.TensorsName, run.ReportFile} {
		stat, err := os.Stat(r.Folder.Path(name))
		switch {
		case errors.Is(err, fs.ErrNotExist):
		case err != nil:
			return nil, err
		case stat.Mode().IsRegular():
			files = append(files, File{name, r.Folder.Path(name), stat.Size()})
		}
	}
	return files, nil
}

// title returns the name of a training for a folder or a group of metrics.
func (t Training) title() string {
	if t.Name == "" {
		return "final"
	}
	return strings.Join([]string{"candidates", t.Name}, "/")
}
