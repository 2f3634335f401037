package report

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/sptune/spt/delta"
	"github.com/sptune/spt/method"
	"github.com/sptune/spt/peft"
	"github.com/sptune/spt/plan"
	"github.com/sptune/spt/run"
	"github.com/sptune/spt/train"
)

// Run holds what a page shows of one run. [Open] reads it from a run folder; a program can also
// fill it in. A section of the page whose fields are empty is left out, or says what is missing.
type Run struct {
	// Name is the title: the name of the run folder, or of the method.
	Name string
	// Folder is the run folder. It is empty for a run without one.
	Folder run.Folder
	// Config is the configuration of the run.
	Config run.Config
	// Result is the result. It is nil while the run goes on.
	Result *run.Result
	// Trainings holds the candidates and then the final training, as far as they have begun.
	Trainings []Training
	// Tuning lists the tuned tensors. It is nil if they are not known yet.
	Tuning *peft.Tuning
	// Plan is the plan that was trained last. It is nil for a method that does not plan.
	Plan *plan.Plan
	// DeltaBytes is the size of the delta, in bytes. It is 0 without a delta.
	DeltaBytes int64
	// Probe is the linear probe of the run, or another run with a linear probe on the same data and
	// backbone. It is nil if there is none.
	Probe *Probe
	// Evaluation holds the predictions of the test split or, in a run that did not test, of the
	// validation split. It is nil if the run has not predicted yet.
	Evaluation *Evaluation
	// Data describes the data set. It is nil if the data set was not opened.
	Data *Data
}

// Training is one training of a run.
type Training struct {
	Name   string        // the candidate; empty for the final training
	Epochs []train.Epoch // finished epochs
}

// title returns the name of a training in a legend.
func (t Training) title() string { return cmp.Or(t.Name, "final") }

// Probe is the result of a linear probe: a run that trains only the head.
type Probe struct {
	Name     string  // its run folder, or a description
	Accuracy float64 // test accuracy, from 0 to 1
}

// Open reads the run in the folder dir. The run may still be going on. A folder without a run and a
// broken file are a [*run.InputError].
func Open(dir string) (*Run, error) {
	folder, config, err := run.Open(dir)
	if err != nil {
		return nil, err
	}
	absolute, err := filepath.Abs(dir)
	if err != nil {
		return nil, fmt.Errorf("opening the run in %s: %w", dir, err)
	}
	r := &Run{Name: filepath.Base(absolute), Folder: folder, Config: config}
	if r.Result, err = run.LoadResult[run.Result](folder); err != nil {
		return nil, err
	}
	if err := r.readTrainings(); err != nil {
		return nil, err
	}
	if err := r.readSelection(); err != nil {
		return nil, err
	}
	if err := r.readEvaluation(); err != nil {
		return nil, err
	}
	r.Probe = r.findProbe()
	return r, nil
}

// candidates returns the folders of the candidates of a run in the folder f, in the order in which
// they run.
func candidates(f run.Folder, c run.Config) (folders []run.Folder) {
	if c.Train == nil {
		for _, t := range c.Tune.Tries() {
			folders = append(folders, f.Candidate(t.Name))
		}
	}
	return folders
}

// readTrainings reads the metrics of all trainings.
func (r *Run) readTrainings() error {
	for _, f := range append(candidates(r.Folder, r.Config), r.Folder) {
		epochs, err := f.Metrics()
		if err != nil {
			return err
		}
		if len(epochs) == 0 {
			continue
		}
		t := Training{Epochs: epochs}
		if f != r.Folder {
			t.Name = filepath.Base(string(f))
		}
		r.Trainings = append(r.Trainings, t)
	}
	return nil
}

// readSelection reads what is tuned: the delta of a finished run, and the plan of a run that plans.
func (r *Run) readSelection() error {
	p, err := plan.LoadFile(r.Folder.Path(run.PlanFile))
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return &run.InputError{Err: err}
	default:
		r.Plan = p
	}
	if r.Result == nil || r.Config.Tune.ValidationOnly {
		return nil
	}
	d, err := delta.Load(string(r.Folder))
	if err != nil {
		return &run.InputError{Err: err}
	}
	if r.Tuning, err = peft.New(d.Config, d.Selection); err != nil {
		return &run.InputError{Err: err}
	}
	r.DeltaBytes = delta.Size(string(r.Folder))
	return nil
}

// findProbe returns the linear probe of the run. If the run has not tested one, findProbe looks for
// a finished run of the method linear on the same data and backbone, in the folders beside the run.
func (r *Run) findProbe() *Probe {
	if _, tested := r.tested(); !tested || r.Config.Method() == method.Linear {
		return nil
	}
	if r.Result != nil && r.Result.ProbeTest != nil {
		e := r.Result.ProbeTest
		return &Probe{Name: "a head on the features of the frozen backbone", Accuracy: e.Accuracy}
	}
	parent := filepath.Dir(filepath.Clean(string(r.Folder)))
	entries, _ := os.ReadDir(parent) // without it, the page says that there is no probe
	for _, e := range entries {
		dir := filepath.Join(parent, e.Name())
		folder, c, err := run.Open(dir)
		if err != nil || c.Tune.Method != method.Linear || c.Data.Samples != r.Config.Data.Samples || c.Model.Fingerprint != r.Config.Model.Fingerprint || c.Data.Samples == "" {
			continue
		}
		if result, err := run.LoadResult[run.Result](folder); err == nil && result != nil && result.Test != nil {
			return &Probe{Name: dir, Accuracy: result.Test.Accuracy}
		}
	}
	return nil
}

// AddData describes the data set of the run, and adds pictures of the images that the page shows.
func (r *Run) AddData(ctx context.Context, s Sources) error {
	var err error
	if r.Data, err = NewData(ctx, s.Data, s.Workers); err != nil || r.Evaluation == nil {
		return err
	}
	return r.Evaluation.AddPictures(ctx, s)
}
