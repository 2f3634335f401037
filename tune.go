package spt

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/sptune/spt/backend"
	"github.com/sptune/spt/dataset"
	"github.com/sptune/spt/delta"
	"github.com/sptune/spt/internal/atomicfile"
	"github.com/sptune/spt/peft"
	"github.com/sptune/spt/plan"
	"github.com/sptune/spt/sensitivity"
	"github.com/sptune/spt/train"
)

// The files of a run folder.
const (
	ConfigFile  = "config.json"          // the effective configuration
	ScoresFile  = "scores.safetensors"   // stage 1's result
	PlanFile    = "plan.json"            // the plan that was trained
	MetricsFile = "metrics.jsonl"        // one line an epoch, of every training
	ResultFile  = "result.json"          // the Result
	candidates  = "candidates"           // a folder for each budget that was tried
	trainState  = "training.safetensors" // from which an interrupted training goes on
)

// TuneOptions are a whole run's. They are what config.json keeps.
type TuneOptions struct {
	Method  Method   `json:"method"`
	Budgets []string `json:"budgets"` // candidates; empty: DefaultBudget for SPT, none for others
	Rank    int      `json:"rank"`    // 0: by the budget, of SPT as plan.DefaultRank says; 8 for lora and adapter without a budget
	Sizes
	Score ScoreOptions  `json:"score"`
	Plan  PlanOptions   `json:"plan"` // Module, Only and Rank are set from Method and Rank
	Train train.Options `json:"train"`
	// NoValidation skips the trainings on train alone. It needs a single
	// candidate; the result then has no validation accuracy.
	NoValidation bool `json:"no_validation"`
	// PaperProtocol also reports the greatest test accuracy over epochs, as the
	// reference release does, under the name test_max. Nothing is chosen by it.
	PaperProtocol bool `json:"paper_protocol"`
}

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

// Candidate is one budget that was tried.
type Candidate struct {
	Budget      string      `json:"budget,omitempty"`
	Counts      peft.Counts `json:"counts"`
	ValAccuracy float64     `json:"val_accuracy"` // of the last epoch
	ValLoss     float64     `json:"val_loss"`
	Seconds     float64     `json:"seconds"` // of training
}

// Result is what a run found.
type Result struct {
	Method     Method            `json:"method"`
	Budget     string            `json:"budget,omitempty"` // of the chosen candidate
	Counts     peft.Counts       `json:"counts"`           // tuned parameters
	Candidates []Candidate       `json:"candidates,omitempty"`
	Val        *float64          `json:"val_accuracy,omitempty"`   // of the chosen candidate, trained without val
	Test       *train.Evaluation `json:"test,omitempty"`           // of the final training, tested once
	TestMax    *float64          `json:"test_max,omitempty"`       // test-max (paper protocol): greatest over epochs
	TrainedOn  string            `json:"trained_on"`               // "train+val" or "train"
	Epochs     []train.Epoch     `json:"epochs"`                   // of the final training
	Seconds    float64           `json:"seconds"`                  // of training, all trainings together
	Skipped    int               `json:"skipped_images,omitempty"` // left out because they were broken
}

// Tune runs all stages: it scores, then for each budget plans, trains on train
// and validates on val; the candidate with the greatest validation accuracy at
// its last epoch (of equal ones the one that tunes less) is trained once more
// on train and val together, and tested once. Everything is kept in dir; a run
// that was stopped goes on where it was when Tune is called again with the same
// task, options and dir; of one that is finished the result is read. progress
// may be nil.
func (t *Task) Tune(ctx context.Context, o TuneOptions, dir string, progress func(Event)) (*Result, error) {
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
	result := new(Result)
	if found, err := readJSON(r.path(ResultFile), result, redo); found || err != nil {
		if err == nil && (result.Method != r.o.Method || !slices.Contains(r.o.Budgets, result.Budget)) {
			what := func(m Method, budget string) string { return strings.TrimSpace(string(m) + " " + budget) }
			err = &OptionError{fmt.Errorf("%s holds a finished run of %s; choose another folder for one of %s", dir, what(result.Method, result.Budget), what(r.o.Method, strings.Join(r.o.Budgets, ", ")))}
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
	o        TuneOptions
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
// its errors are *[OptionError]s.
func (t *Task) Effective(o TuneOptions) (TuneOptions, error) {
	o.Score, o.Plan = o.Score.withDefaults(), o.Plan.withDefaults()
	if o.Method.Scores() {
		if o.Rank == 0 {
			o.Rank = o.Plan.Rank
		}
		o.Plan.Module, o.Plan.Only, o.Plan.Rank = o.Method.Module(), o.Method.Only(), o.Rank
		o.Plan = o.Plan.withDefaults()
		o.Rank = o.Plan.Rank
		if len(o.Budgets) == 0 {
			o.Budgets = []string{DefaultBudget}
		}
	}
	if err := t.validate(o); err != nil {
		return o, &OptionError{err}
	}
	if err := t.trainable(); err != nil {
		return o, err
	}
	o.Sizes = o.Sizes.For(o.Method)
	return o, nil
}

func (t *Task) validate(o TuneOptions) error {
	if err := o.Method.Validate(); err != nil {
		return err
	}
	if err := o.Train.Validate(); err != nil {
		return fmt.Errorf("training options: %w", err)
	}
	if err := o.Score.validate(); err != nil {
		return err
	}
	if o.Rank < 0 || o.Rank > t.Model.Config.MaxRank() {
		return fmt.Errorf("rank %d: expected 1 to %d, the shortest side of the backbone's matrices", o.Rank, t.Model.Config.MaxRank())
	}
	if o.Plan.Compat != "" && !o.Method.Scores() {
		return fmt.Errorf("method %s makes no plan, so there is no compat mode for it; leave it out", o.Method)
	}
	if err := o.Sizes.validate(o.Method); err != nil {
		return err
	}
	if len(o.Budgets) == 0 { // what the method adds may not fit on this backbone
		s, err := Baseline(t.Model.Config, o.Method, BaselineOptions{Rank: o.Rank, Sizes: o.Sizes})
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

func (t *Task) validateBudget(budget string, o TuneOptions) error {
	c := t.Model.Config
	if !o.Method.Scores() {
		_, err := Baseline(c, o.Method, BaselineOptions{Rank: o.Rank, Budget: budget, Sizes: o.Sizes})
		return err
	}
	parameters, err := plan.ParseBudget(budget, c.Size())
	if err != nil {
		return err
	}
	_, classToken := c.ClassTokens()
	return o.Plan.validate(parameters, classToken, c.MaxRank())
}

func (r *runner) path(elem ...string) string {
	return filepath.Join(append([]string{r.dir}, elem...)...)
}

func (r *runner) run(ctx context.Context) (*Result, error) {
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
	result := &Result{Method: r.o.Method, TrainedOn: "train", Skipped: len(r.Data.Skipped)}
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
	if err := writeJSON(r.path(ResultFile), result); err != nil {
		return nil, err
	}
	return result, removeIfThere(r.path(trainState))
}

// better prefers accuracy, then fewer tuned parameters.
func better(a, b Candidate) bool {
	if a.ValAccuracy != b.ValAccuracy {
		return a.ValAccuracy > b.ValAccuracy
	}
	return a.Counts.Tuned() < b.Counts.Tuned()
}

// score runs stage 1, or reads what an earlier call of the same run found.
func (r *runner) score(ctx context.Context) (*sensitivity.Scores, error) {
	path := r.path(ScoresFile)
	if _, err := os.Stat(path); err == nil {
		scores, err := sensitivity.Load(path)
		if unread := (*fs.PathError)(nil); errors.As(err, &unread) {
			return nil, fmt.Errorf("resuming the run in %s: %w", r.dir, err) // which may be whole
		}
		if err == nil && scores.Backbone != r.Model.Fingerprint() {
			err = fmt.Errorf("%s was made with another backbone", path)
		}
		if err != nil {
			return nil, &InputError{fmt.Errorf("resuming the run in %s: %w; remove the scores to score anew", r.dir, err)}
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
			what, err = Baseline(r.Model.Config, r.o.Method, BaselineOptions{Rank: r.o.Rank, Budget: budget, Sizes: r.o.Sizes})
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
	return s, s.plan.Save(filepath.Join(dir, PlanFile))
}

// try trains one candidate on train and validates it on val.
func (r *runner) try(ctx context.Context, scores *sensitivity.Scores, budget string) (*Candidate, error) {
	name := budget
	if name == "" {
		name = string(r.o.Method)
	}
	dir := r.path(candidates, name)
	if err := os.MkdirAll(dir, 0o777); err != nil {
		return nil, err
	}
	c := new(Candidate)
	if found, err := readJSON(filepath.Join(dir, ResultFile), c, redo); found || err != nil {
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
	*c = Candidate{Budget: budget, Counts: trained.Tuning.Counts, ValAccuracy: last.ValAccuracy, ValLoss: last.ValLoss, Seconds: seconds(trained.Epochs)}
	return c, r.finish(dir, c)
}

// final trains the chosen candidate on all that may be trained on, keeps the
// delta and tests it.
func (r *runner) final(ctx context.Context, scores *sensitivity.Scores, budget string, result *Result) error {
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
		e, err := s.run.Evaluate(ctx, s.run.Later, func(done int) {
			r.progress(Event{Stage: "test", Done: done, Total: len(r.Data.Test)})
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
func (r *runner) train(ctx context.Context, run *train.Run, candidate, dir string, o TrainOptions) (*Trained, error) {
	o.Checkpoint = filepath.Join(dir, trainState)
	var done []train.Epoch
	event := Event{Stage: "train", Candidate: candidate, Epochs: o.Epochs}
	o.Hooks = train.Hooks{
		Resumed: func(epochs []train.Epoch) { done = epochs },
		Step: func(epoch, step, steps int, loss float64) {
			e := event
			e.Epoch, e.Done, e.Total, e.Loss = epoch, step, steps, loss
			r.progress(e)
		},
		Epoch: func(f train.Epoch) error {
			done = append(done, f)
			e := event
			e.Epoch, e.Finished = f.Epoch-1, &f
			r.progress(e)
			return writeLines(filepath.Join(dir, MetricsFile), done)
		},
	}
	// A training's state without the scores that led to it could not be gone on with where
	// scores do not repeat to the bit, and activations need the memory.
	if err := r.scoresSaved(); err != nil {
		return nil, err
	}
	trained, err := r.do(ctx, run, o)
	if err != nil {
		return nil, err
	}
	// A run that was killed between an epoch and its line has the epoch only.
	return trained, writeLines(filepath.Join(dir, MetricsFile), trained.Epochs)
}

// finish keeps a candidate's result, after which its training state is of no use.
func (r *runner) finish(dir string, c *Candidate) error {
	if err := writeJSON(filepath.Join(dir, ResultFile), c); err != nil {
		return err
	}
	return removeIfThere(filepath.Join(dir, trainState))
}

func seconds(epochs []train.Epoch) (s float64) {
	for _, e := range epochs {
		s += e.Seconds
	}
	return s
}

// writeJSON replaces a file as a whole, so that a stopped run leaves no half of one.
func writeJSON(path string, v any) error {
	data, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return fmt.Errorf("writing %s: %w", path, err)
	}
	return atomicfile.WriteBytes(path, append(data, '\n'))
}

// writeLines writes metrics as JSON lines: the whole file each time, so that a
// resumed run repeats no epoch.
func writeLines(path string, epochs []train.Epoch) error {
	var out []byte
	for _, e := range epochs {
		line, err := json.Marshal(e)
		if err != nil {
			return fmt.Errorf("writing %s: %w", path, err)
		}
		out = append(append(out, line...), '\n')
	}
	return atomicfile.WriteBytes(path, out)
}

// readJSON reads a file of a run folder, if it is there; advice says what helps if it is
// broken.
func readJSON(path string, v any, advice string) (found bool, err error) {
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	if err := json.Unmarshal(data, v); err != nil {
		return false, &InputError{fmt.Errorf("reading %s: %w; %s", path, err, advice)}
	}
	return true, nil
}

// redo is what helps against a broken result.
const redo = "remove it to do this part of the run again"

func removeIfThere(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// RunConfig is config.json: what a run was asked to do, enough to do it again.
type RunConfig struct {
	Version int           `json:"version"` // 1
	Spt     string        `json:"spt"`     // the program's version
	Started time.Time     `json:"started"`
	Model   ModelConfig   `json:"model"`
	Data    DataConfig    `json:"data"`
	Compute ComputeConfig `json:"compute,omitzero"`
	Tune    TuneOptions   `json:"tune,omitzero"`
	// Single is set instead of Tune in the folder of [Task.TrainRun].
	Single *SingleOptions `json:"train,omitempty"`
}

// ModelConfig names a backbone and how it was loaded.
type ModelConfig struct {
	Path          string     `json:"path"`             // a checkpoint, hf:OWNER/NAME[@REVISION][:FILE], or "demo" for the embedded one
	Commit        string     `json:"commit,omitempty"` // that hf:… stood for; it is what is fetched again
	Fingerprint   string     `json:"fingerprint"`
	ImageSize     int        `json:"image_size"`
	NumHeads      int        `json:"num_heads"`
	LayerNormEps  float64    `json:"layer_norm_eps"`
	Mean          [3]float32 `json:"mean"`
	Std           [3]float32 `json:"std"`
	Preprocessing string     `json:"preprocessing"` // where mean and std come from

	fetched string // by Fetch: the path of the weights in the cache
}

// DataConfig names a data set and how it was read.
type DataConfig struct {
	Path          string      `json:"path"`
	Task          string      `json:"task,omitempty"` // name of a benchmark's set, whose number of classes the data must have
	Layout        string      `json:"layout"`
	ImageColumn   string      `json:"image_column,omitempty"` // of parquet files and tables; empty: found
	LabelColumn   string      `json:"label_column,omitempty"`
	ValFraction   float64     `json:"val_fraction"`
	TestFraction  float64     `json:"test_fraction"`
	SplitSeed     uint64      `json:"split_seed"`
	SkipBadImages bool        `json:"skip_bad_images"`
	Split         string      `json:"split"` // how val and test came to be
	Classes       int         `json:"classes"`
	Train         int         `json:"train"` // numbers of images
	Val           int         `json:"val"`
	Test          int         `json:"test"`
	Samples       string      `json:"samples,omitempty"` // dataset.Dataset.Fingerprint
	Images        TaskOptions `json:"images"`
}

// RunFiles are the names of a run's files and folders.
func RunFiles() []string {
	return []string{ConfigFile, ScoresFile, PlanFile, MetricsFile, ResultFile, candidates, trainState, delta.FileName, delta.TensorsName}
}

// CheckNewRun refuses what is no folder, a folder that holds a run already, or any file of one
// that a new run would take for its own, with an *[OptionError].
func CheckNewRun(dir string) error {
	if _, err := os.Stat(filepath.Join(dir, ConfigFile)); err == nil {
		return &OptionError{fmt.Errorf("%s holds a run already; resume it (--resume %s) or choose another folder (--out)", dir, dir)}
	}
	if stat, err := os.Stat(dir); err == nil && !stat.IsDir() {
		return &OptionError{fmt.Errorf("%s is a file, and a run needs a folder; choose another (--out)", dir)}
	}
	for _, name := range RunFiles() {
		if _, err := os.Stat(filepath.Join(dir, name)); err == nil {
			return &OptionError{fmt.Errorf("%s holds %s, which a new run there would take for its own; choose another folder (--out)", dir, name)}
		}
	}
	return nil
}

// SaveRunConfig writes config.json into a run folder, which it makes, and sets the
// versions in c. A folder that holds a run already is refused; see [CheckNewRun].
func SaveRunConfig(dir string, c *RunConfig) error {
	if err := CheckNewRun(dir); err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o777); err != nil {
		return err
	}
	c.Version, c.Spt = 1, Version
	return writeJSON(filepath.Join(dir, ConfigFile), c)
}

// MoveRun notes in a run's config.json where its backbone and its data are now. data, opened
// there, must list the samples that the run began with, or it is an *[InputError].
func MoveRun(dir string, m ModelConfig, d DataConfig, data *dataset.Dataset) error {
	c, err := LoadRunConfig(dir)
	if err != nil {
		return err
	}
	if c.Data.Path != d.Path && c.Data.Samples != data.Fingerprint() {
		return &InputError{fmt.Errorf("data set %s is not the one that the run in %s began with: names, labels or sizes of its images differ; give that one, or begin a new run", d.Path, dir)}
	}
	c.Model.Path, c.Model.Commit, c.Data.Path = m.Path, m.Commit, d.Path
	return writeJSON(filepath.Join(dir, ConfigFile), c)
}

// LoadRunConfig reads config.json from a run folder.
func LoadRunConfig(dir string) (RunConfig, error) {
	var c RunConfig
	path := filepath.Join(dir, ConfigFile)
	found, err := readJSON(path, &c, "without it the run cannot go on: put it back, or begin a new run")
	switch {
	case err != nil:
		return c, err
	case !found:
		return c, fmt.Errorf("%s holds no run: there is no %s in it", dir, ConfigFile)
	case c.Version != 1:
		return c, fmt.Errorf("reading %s: version %d, this program reads version 1", path, c.Version)
	}
	return c, nil
}
