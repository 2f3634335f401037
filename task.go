// Package spt adapts a pretrained vision transformer to an image task by tuning under one percent
// of its parameters. It tunes the parameters to which the loss of the task is most sensitive. The
// method is Sensitivity-aware visual Parameter-efficient Tuning (SPT, He et al., ICCV 2023, arXiv
// 2303.08566).
//
// Begin with a [Task], which binds a backbone to a data set. [Open] makes a Task from a
// configuration with paths. [New] makes a Task from a backbone and a data set that the program has
// loaded. [Task.Tune] then does all the work: it scores the weights, makes a plan for each budget,
// trains, chooses a budget on the validation split and tests once. It keeps its results in a run
// folder and can resume an interrupted run from that folder.
//
// A program can also call the stages one by one. [Task.Score] computes a sensitivity for every
// weight. [Plan] selects the parameters to tune under a budget. [Task.Train] tunes the selection,
// and [Task.Evaluate] measures the result. [Task.Delta] makes a delta, which can be saved;
// [Restore] reads the tuned parameters from a delta. A [Classifier] predicts the classes of images.
//
// The packages of the stages, in the order in which data flows, are checkpoint, backbone, dataset,
// objective, sensitivity, plan, peft, method, train, delta and run.
package spt

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
	"unicode"

	"github.com/sptune/spt/backbone"
	"github.com/sptune/spt/backend"
	"github.com/sptune/spt/checkpoint"
	"github.com/sptune/spt/dataset"
	"github.com/sptune/spt/internal/portablename"
	"github.com/sptune/spt/internal/version"
	"github.com/sptune/spt/objective"
	"github.com/sptune/spt/progress"
	"github.com/sptune/spt/run"
	"github.com/sptune/spt/sensitivity"
	"github.com/sptune/spt/train"
)

// Version is the version of this library and of the command spt.
const Version = version.Version

// Task binds a backbone to a data set, a device and an objective. Its methods are the stages of
// tuning. Only one goroutine may use a Task at a time. Several Tasks may share a backbone.
type Task struct {
	model     *backbone.Model // computes in the precision of config.Compute
	data      *dataset.Dataset
	be        backend.Backend
	objective objective.Objective
	config    run.Config         // Model, Data, Compute and Objective are set
	tensors   *checkpoint.Report // the tensors of the checkpoint; nil after New

	eval, train dataset.Transform
	cache       *dataset.Cache
	allLogits   bool                 // see WithAllLogits
	checked     bool                 // CheckImages has succeeded
	folderOf    run.Folder           // the run that uses the task; empty if there is none
	states      map[string]fileState // of the files that runs read, before CheckImages
	imageData   map[imagesKey]*train.Data
	forward     time.Duration // time of the forward pass of an image; 0 if it was not measured
	sizes       map[int]*Task // the tasks of atSize
}

// imagesKey is the key of Task.imageData: one or two lists of samples and a transform.
type imagesKey struct {
	first     [2]*dataset.Sample
	n         [2]int
	transform dataset.Transform
}

// Option configures the Task that [New] makes.
type Option func(*Task, *progress.Func)

// WithImages sets how images are resized and augmented. Default: the zero [run.ImageOptions], which
// resizes images directly to the image size and does not augment them.
func WithImages(o run.ImageOptions) Option {
	return func(t *Task, _ *progress.Func) { t.config.Data.Images = o }
}

// WithCompute sets the device and the precision. Default: the CPU and f32.
func WithCompute(c run.ComputeConfig) Option {
	return func(t *Task, _ *progress.Func) { t.config.Compute = c }
}

// WithBackend sets a device that is already open, so that New opens none. The Device of
// [WithCompute] is then only recorded as its name.
func WithBackend(be backend.Backend) Option {
	return func(t *Task, _ *progress.Func) { t.be = be }
}

// WithAllLogits makes [Task.Evaluate] return all logits of images with one label. Default: if there
// are more than evaluate.MaxLogits, it returns the largest logits of each image; see
// evaluate.Predictions.Keep.
func WithAllLogits() Option { return func(t *Task, _ *progress.Func) { t.allLogits = true } }

// WithObjective sets the loss and the metrics of the task. Default: the result of [objective.For].
func WithObjective(o objective.Objective) Option {
	return func(t *Task, _ *progress.Func) { t.objective = o }
}

// WithProgress sets the function that receives notes while New opens the device. Default: none.
func WithProgress(f progress.Func) Option {
	return func(_ *Task, report *progress.Func) { *report = f }
}

// New returns a Task that binds the backbone m to a data set. m must be loaded with the number of
// classes of the data set (backbone.LoadOptions.NumClasses). Image options that cannot work are a
// [*run.OptionError]. Targets that the objective cannot read are a [*run.InputError]. If the device
// cannot be opened, the error is as for [run.ComputeConfig.Open].
func New(m *backbone.Model, data *dataset.Dataset, options ...Option) (*Task, error) {
	t := &Task{data: data, objective: objective.For(data)}
	t.config.Compute.Device = "cpu"
	var report progress.Func
	for _, option := range options {
		option(t, &report)
	}
	if m.Config.NumClasses != len(data.Classes) {
		return nil, fmt.Errorf("binding a backbone to the data set %s: the backbone is loaded for %d classes, the data set has %d; load the backbone for %d classes", data.Name, m.Config.NumClasses, len(data.Classes), len(data.Classes))
	}
	if err := objective.Check(t.objective, m.Config, data); err != nil {
		return nil, &run.InputError{Err: err}
	}
	images := &t.config.Data.Images
	resolved, err := images.Resolve(m)
	if err != nil {
		return nil, err
	}
	*images = resolved
	images.Resize, images.Augment = cmp.Or(images.Resize, "direct"), images.Augment.WithDefaults()
	t.eval = dataset.Transform{Size: m.Config.ImageSize, Resize: images.Resize, ResizeTo: images.ResizeTo, TestFlip: images.TestFlip}
	t.train = t.eval
	t.train.RandomCrop, t.train.HorizontalFlip, t.train.Augment = images.RandomCrop, images.HorizontalFlip, images.Augment
	if t.train.Augment != (dataset.Augment{}) {
		for i, mean := range m.Preprocessing.Mean {
			t.train.Augment.Fill[i] = uint8(math.Round(255 * max(0, min(1, float64(mean)))))
		}
	}
	if err := t.train.Validate(); err != nil {
		return nil, optionError(err)
	}
	if t.be == nil {
		if t.be, err = t.config.Compute.Open(report); err != nil {
			return nil, err
		}
	}
	t.model = m.In(t.config.Compute.Precision, t.config.Compute.CheckpointActivations)
	t.cache = dataset.NewCache(images.CacheBytes)
	t.config.Objective = t.objective.Name()
	return t, nil
}

// Open opens the data set, the backbone and the device that c names, and returns a Task that binds
// them. It fills in these fields of c: the commit of a downloaded backbone, the image options, the
// device, the precision and the objective. report receives the progress of downloads, and notes; it
// may be nil. Every error is a [*run.OptionError] or a [*run.InputError], except the error of a
// cancelled ctx and that of a failed download.
func Open(ctx context.Context, c *run.Config, report progress.Func) (*Task, error) {
	o, err := objective.Get(c.Objective)
	if err != nil {
		return nil, &run.OptionError{Option: "objective", Err: err}
	}
	data, err := c.Data.Open(ctx, report)
	if err != nil {
		return nil, err
	}
	if c.Objective == "" {
		o = objective.For(data)
	}
	m, tensors, err := c.Model.Open(ctx, len(data.Classes), report)
	if err != nil {
		return nil, err
	}
	compute := c.Compute
	if c.Tune.TimeLimit > 0 {
		compute.Precision = cmp.Or(compute.Precision, backend.TimedPrecision(compute.Device))
	}
	t, err := New(m, data, WithImages(c.Data.Images), WithCompute(compute), WithObjective(o), WithProgress(report))
	if err != nil {
		return nil, err
	}
	if note := t.config.Data.Images.Difference(m); note != "" && tensors != nil {
		tensors.Notes = append(tensors.Notes, note)
	}
	t.tensors = tensors
	c.Data.Images = t.config.Data.Images // with the defaults
	t.config.Model, t.config.Data = c.Model, c.Data
	c.Compute, c.Objective = t.config.Compute, t.config.Objective
	return t, nil
}

// Resume opens the task of the run in dir. c is the configuration that [run.Open] read from dir. If
// the backbone or the data were moved, set c.Model.Path or c.Data.Path to the new path first;
// Resume records it in the folder. Data other than the data of the run are a [*run.InputError];
// other errors are as for [Open]. To continue the run, call [Task.Tune] with c.Tune, or
// [Task.TrainRun] with c.Train if it is set.
func Resume(ctx context.Context, dir string, c *run.Config, report progress.Func) (*Task, error) {
	folder, recorded, err := run.Open(dir)
	if err != nil {
		return nil, err
	}
	if c.Model.Path != recorded.Model.Path && c.Model.Commit == recorded.Model.Commit {
		c.Model.Commit = "" // the commit belongs to the repository at the old path
	}
	t, err := Open(ctx, c, report)
	if err == nil && (c.Model.Path != recorded.Model.Path || c.Data.Path != recorded.Data.Path) {
		err = folder.Move(c.Model, c.Data, t.data)
	}
	return t, err
}

// Create makes the folder of a new run and writes its configuration. It returns the path of the
// folder. The configuration holds the options in c.Tune or c.Train; Create fills in the model, the
// data, the device and the objective of the task. If dir is empty, the folder is a new folder
// runs/DATA-METHOD in the working folder. Create first checks all images and the scores file, so
// that a broken input leaves no folder behind. A folder that cannot be used is a
// [*run.OptionError]; a broken image or scores file is a [*run.InputError].
//
// [Task.Tune] and [Task.TrainRun] call Create if the folder holds no run.
func (t *Task) Create(ctx context.Context, dir string, c *run.Config, report progress.Func) (string, error) {
	c.Model, c.Data, c.Compute, c.Objective = t.config.Model, t.config.Data, t.config.Compute, t.config.Objective
	// A delta names its objective, so the result of an unregistered objective could not be saved.
	if _, err := objective.Get(c.Objective); err != nil {
		return "", &run.OptionError{Option: "objective", Err: fmt.Errorf("%w; register it with objective.Register", err)}
	}
	if samples := c.Data.Samples; samples != "" && samples != t.data.AsOpened().Fingerprint() {
		return "", &run.InputError{Err: fmt.Errorf("data set %s is not the data set of the configuration: names, labels or sizes of its images, or names of its classes, differ; restore the data set, or leave the fingerprint of its samples out of the configuration", c.Data.Path)}
	}
	c.Model.Record(t.model)
	c.Data.Record(t.data)
	c.Started = time.Now().UTC()
	if dir != "" {
		if err := run.Folder(dir).CheckNew(); err != nil {
			return "", err
		}
	}
	where := cmp.Or(dir, run.DefaultRoot)
	if t.data.TakesForClass(where) {
		return "", &run.OptionError{Option: "run-folder", Err: fmt.Errorf("the run folder %s would lie in data set %s and be read as a class of images; choose another folder", where, t.data.Root)}
	}
	if c.Folds.Number > 0 { // each fold checks its memory
		c.Folds.AutoSize = c.Tune.Recipe == run.RecipeAuto && t.config.Model.ImageSize == 0
	} else if err := t.checkMemory(c); err != nil {
		return "", optionError(err)
	}
	if err := t.CheckImages(ctx, report); err != nil {
		return "", err
	}
	c.Data.RecordBroken(t.data)
	if path := c.Tune.FromDelta; path != "" {
		if _, err := t.loadStart(path, c.Tune); err != nil {
			return "", err
		}
	}
	if path := c.Tune.ScoresFile; path != "" {
		scores, err := sensitivity.LoadHeader(path)
		if err == nil {
			err = t.checkScores(scores, c.Tune)
		}
		if err != nil {
			return "", scoresError(path, err)
		}
	}
	if dir == "" {
		var err error
		if dir, err = newDir(PortableName(t.data.Name + "-" + string(c.Method()))); err != nil {
			return "", err
		}
	}
	_, err := run.Create(dir, c)
	return dir, err
}

// PortableName returns a name without the characters that file names cannot have on some systems:
// those that Windows reserves, and characters that are not printable. A name that begins as the
// name of a device of Windows does, such as "aux.2", gets an underscore.
func PortableName(name string) string {
	if portablename.IsDevice(name) {
		name = "_" + name
	}
	return strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) || strings.ContainsRune(`<>:"/\|?*`, r) {
			return '_'
		}
		return r
	}, name)
}

// newDir makes a run folder for a run without a given folder: runs/NAME or, if that folder exists,
// the first free one of runs/NAME-2, runs/NAME-3 and so on.
func newDir(name string) (string, error) {
	if err := os.MkdirAll(run.DefaultRoot, 0o777); err != nil {
		return "", fmt.Errorf("making a run folder: %w", err)
	}
	for n := 1; ; n++ {
		dir := filepath.Join(run.DefaultRoot, name)
		if n > 1 {
			dir = fmt.Sprintf("%s-%d", dir, n)
		}
		err := os.Mkdir(dir, 0o777)
		if err == nil || !errors.Is(err, fs.ErrExist) {
			return dir, err
		}
	}
}

// Model returns the backbone in the precision of the task.
func (t *Task) Model() *backbone.Model { return t.model }

// Data returns the data set.
func (t *Task) Data() *dataset.Dataset { return t.data }

// Backend returns the device on which the task computes.
func (t *Task) Backend() backend.Backend { return t.be }

// Compute returns the device and the precision, with all fields filled in.
func (t *Task) Compute() run.ComputeConfig { return t.config.Compute }

// CheckpointReport returns a report on the tensors of the checkpoint: which were used, missing or
// unused. It is nil for the embedded backbone and for a Task that [New] made.
func (t *Task) CheckpointReport() *checkpoint.Report { return t.tensors }

// CheckImages finds broken images before training. It decodes images into the cache while the cache
// has room. Of all others it reads the first and the last bytes, which show most kinds of damage;
// the stage that reads such an image first decodes it (dataset.CheckOptions.Quick). If the data set
// was opened with SkipBadImages, broken images are removed from the splits and listed in
// Data().Skipped. Otherwise a broken image is a [*run.InputError]. After one success, CheckImages
// does nothing.
//
// A stage that meets an image that cannot be decoded returns a [*dataset.ImageError];
// [Task.SkipBroken] removes such images. Tune, TrainRun and Prepare call it themselves.
func (t *Task) CheckImages(ctx context.Context, report progress.Func) error {
	if t.checked {
		return nil
	}
	t.states = t.fileStates()
	err := t.check(ctx, dataset.CheckOptions{Quick: true, Progress: report})
	t.checked = err == nil
	return err
}

// check checks the images with the cache and the transforms of the task.
func (t *Task) check(ctx context.Context, o dataset.CheckOptions) error {
	o.Cache, o.Transform, o.TrainTransform, o.Workers = t.cache, t.eval, t.train, t.config.Data.Images.Workers
	err := t.data.CheckImages(ctx, o)
	if err != nil && ctx.Err() == nil {
		return &run.InputError{Err: err}
	}
	return err
}

// SkipBroken reports whether to repeat a stage that reads the named splits and that ended with err.
// This is so if the data set skips bad images, and err is about an image that cannot be decoded.
// SkipBroken then decodes all images of the splits, removes the broken ones and lists them in
// Data().Skipped. If err is about anything else, SkipBroken returns false. Without names of splits,
// it decodes the images of all splits.
func (t *Task) SkipBroken(ctx context.Context, err error, report progress.Func, splits ...string) (again bool, failed error) {
	var bad *dataset.ImageError
	if !t.data.Options.SkipBadImages || !errors.As(err, &bad) {
		return false, nil
	}
	before := len(t.data.Skipped)
	if err := t.check(ctx, dataset.CheckOptions{Splits: splits, Progress: report}); err != nil {
		return false, err
	}
	skipped := t.data.Skipped[before:]
	if len(skipped) == 0 { // the image can be decoded now
		return false, nil
	}
	clear(t.imageData)
	for _, s := range skipped {
		report.Report(progress.Event{Stage: progress.Note, Item: fmt.Sprintf("skipped %s (%s): %v", s.Path, s.Where, s.Err)})
	}
	if t.folderOf != "" {
		if err := t.folderOf.RecordBroken(t.data); err != nil {
			return false, err
		}
	}
	return true, nil
}

// skipping calls stage, which reads the named splits, and calls it again if SkipBroken says so.
func (t *Task) skipping(ctx context.Context, report progress.Func, splits []string, stage func() error) error {
	for {
		err := stage()
		if err == nil {
			return nil
		}
		again, failed := t.SkipBroken(ctx, err, report, splits...)
		switch {
		case failed != nil:
			return failed
		case !again:
			return err
		}
	}
}

// trainable returns an error if the training images have only one target.
func (t *Task) trainable() error {
	if err := t.data.Trainable(); err != nil {
		return &run.InputError{Err: err}
	}
	return nil
}

// loader returns a loader of samples. transform is t.eval or t.train.
func (t *Task) loader(samples []dataset.Sample, transform dataset.Transform) *dataset.Loader {
	return dataset.NewLoader(samples, transform, t.cache, dataset.LoaderOptions{Workers: t.config.Data.Images.Workers, Root: t.data.Root})
}

// images returns the data of samples, followed by the data of more. transform is t.eval or t.train.
// Calls with equal arguments return the same Data, so that a device keeps the images for all
// trainings.
func (t *Task) images(transform dataset.Transform, samples, more []dataset.Sample) *train.Data {
	key := imagesKey{transform: transform}
	for i, list := range [][]dataset.Sample{samples, more} {
		if key.n[i] = len(list); len(list) > 0 {
			key.first[i] = &list[0]
		}
	}
	if t.imageData[key] == nil {
		if t.imageData == nil {
			t.imageData = map[imagesKey]*train.Data{}
		}
		t.imageData[key] = train.Images(t.loader(slices.Concat(samples, more), transform), t.objective, t.model.Config)
	}
	return t.imageData[key]
}
