// Package spt tunes a pretrained vision transformer for an image task by tuning under one percent
// of its weights, where the task needs it: Sensitivity-aware visual Parameter-efficient Tuning
// (SPT, He et al., ICCV 2023, arXiv 2303.08566).
//
// A [Task] binds a backbone to a data set; [New] makes one of both, [Open] of a run's
// configuration. Its methods are the stages: [Task.Score] gives every weight a sensitivity, [Plan]
// chooses under a budget what to tune, [Task.Train] tunes it, [Task.Evaluate] measures it.
// [Task.Tune] runs all stages, chooses between budgets on validation data, tests once, and keeps
// everything in a run folder, from which it resumes. A [Classifier] predicts the classes of images
// with what was tuned.
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
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/sptune/spt/backbone"
	"github.com/sptune/spt/backend"
	"github.com/sptune/spt/checkpoint"
	"github.com/sptune/spt/dataset"
	"github.com/sptune/spt/internal/version"
	"github.com/sptune/spt/objective"
	"github.com/sptune/spt/progress"
	"github.com/sptune/spt/run"
	"github.com/sptune/spt/train"
)

// Version is the version of this library and of the command spt.
const Version = version.Version

// Task is a backbone bound to a data set, a device and an objective. One goroutine may use it at a
// time. Several Tasks may share a backbone.
type Task struct {
	model     *backbone.Model // computes in the precision of config.Compute
	data      *dataset.Dataset
	be        backend.Backend
	objective objective.Objective
	config    run.Config         // Model, Data, Compute and Objective are set
	tensors   *checkpoint.Report // of the checkpoint; nil if New was given the backbone

	eval, train dataset.Transform
	cache       *dataset.Cache
	checked     bool // CheckImages has succeeded
	read        map[reading]*train.Data
}

// reading is the key of images that were read before: one or two lists of samples and a transform.
type reading struct {
	first     [2]*dataset.Sample
	n         [2]int
	transform dataset.Transform
}

// Option changes how [New] makes a Task.
type Option func(*Task, *progress.Func)

// WithImages sets how images are resized and augmented. Default: the zero [run.ImageOptions].
func WithImages(o run.ImageOptions) Option {
	return func(t *Task, _ *progress.Func) { t.config.Data.Images = o }
}

// WithCompute sets the device and the precision. Default: the CPU in f32.
func WithCompute(c run.ComputeConfig) Option {
	return func(t *Task, _ *progress.Func) { t.config.Compute = c }
}

// WithBackend sets a device that is open already. The device in [WithCompute] then only names it.
func WithBackend(be backend.Backend) Option {
	return func(t *Task, _ *progress.Func) { t.be = be }
}

// WithObjective sets what the task optimises. Default: [objective.SingleLabel].
func WithObjective(o objective.Objective) Option {
	return func(t *Task, _ *progress.Func) { t.objective = o }
}

// WithProgress sets what receives notes while the device is opened. Default: nothing.
func WithProgress(f progress.Func) Option {
	return func(_ *Task, report *progress.Func) { *report = f }
}

// New binds a backbone to a data set. The backbone must be loaded with the number of classes of the
// data set. Errors are those of [run.ComputeConfig.Open], and a [*run.OptionError] for options of
// images that cannot work.
func New(m *backbone.Model, data *dataset.Dataset, options ...Option) (*Task, error) {
	t := &Task{data: data, objective: objective.SingleLabel}
	t.config.Compute.Device = "cpu"
	var report progress.Func
	for _, option := range options {
		option(t, &report)
	}
	if m.Config.NumClasses != len(data.Classes) {
		return nil, fmt.Errorf("binding a backbone to the data set %s: the backbone is loaded for %d classes, the data set has %d; load the backbone with LoadOptions.NumClasses %d", data.Name, m.Config.NumClasses, len(data.Classes), len(data.Classes))
	}
	images := &t.config.Data.Images
	if images.Resize == "" {
		images.Resize = "direct"
	}
	t.eval = dataset.Transform{Size: m.Config.ImageSize, Resize: images.Resize, ResizeTo: images.ResizeTo}
	t.train = t.eval
	t.train.RandomCrop, t.train.HorizontalFlip = images.RandomCrop, images.HorizontalFlip
	if err := t.train.Validate(); err != nil {
		return nil, optionError(err)
	}
	if t.be == nil {
		var err error
		if t.be, err = t.config.Compute.Open(report); err != nil {
			return nil, err
		}
	}
	t.model = m.In(t.config.Compute.Precision, t.config.Compute.CheckpointActivations)
	t.cache = dataset.NewCache(images.CacheBytes)
	t.config.Objective = t.objective.Name()
	return t, nil
}

// Open opens the data set, the backbone and the device that c describes, and binds them. It fills
// in the fields of c that say what was found. report receives downloads and notes. Errors other
// than that of ctx are a [*run.OptionError] or a [*run.InputError].
func Open(ctx context.Context, c *run.Config, report progress.Func) (*Task, error) {
	o, err := objective.Get(c.Objective)
	if err != nil {
		return nil, &run.OptionError{Option: "objective", Err: err}
	}
	data, err := c.Data.Open(ctx)
	if err != nil {
		return nil, err
	}
	m, tensors, err := c.Model.Open(ctx, len(data.Classes), report)
	if err != nil {
		return nil, err
	}
	t, err := New(m, data, WithImages(c.Data.Images), WithCompute(c.Compute), WithObjective(o), WithProgress(report))
	if err != nil {
		return nil, err
	}
	t.tensors = tensors
	c.Data.Images = t.config.Data.Images // with the defaults
	t.config.Model, t.config.Data = c.Model, c.Data
	c.Compute, c.Objective = t.config.Compute, t.config.Objective
	return t, nil
}

// Resume opens the task of the run in dir. c is the configuration that [run.Open] read from dir;
// its Model.Path and Data.Path may have been changed to where the backbone and the data are now,
// which Resume records in the folder. Then [Task.Tune] with c.Tune, or [Task.TrainRun] with
// c.Train, continues the run.
func Resume(ctx context.Context, dir string, c *run.Config, report progress.Func) (*Task, error) {
	folder, recorded, err := run.Open(dir)
	if err != nil {
		return nil, err
	}
	if c.Model.Path != recorded.Model.Path && c.Model.Commit == recorded.Model.Commit {
		c.Model.Commit = "" // it belongs to the repository at the old path
	}
	t, err := Open(ctx, c, report)
	if err == nil && (c.Model.Path != recorded.Model.Path || c.Data.Path != recorded.Data.Path) {
		err = folder.Move(c.Model, c.Data, t.data)
	}
	return t, err
}

// Create makes the folder of a new run and writes its configuration: the options of c (Tune or
// Train), with the model, the data and the device of the task. It checks all images first, so that
// a broken image leaves no folder behind. An empty dir stands for a new folder runs/DATA-METHOD.
// Create returns the folder's path and fills in c. [Task.Tune] and [Task.TrainRun] call it where a
// folder holds no run.
func (t *Task) Create(ctx context.Context, dir string, c *run.Config, report progress.Func) (string, error) {
	c.Model, c.Data, c.Compute, c.Objective = t.config.Model, t.config.Data, t.config.Compute, t.config.Objective
	// the delta could not be saved after training
	if _, err := objective.Get(c.Objective); err != nil {
		return "", &run.OptionError{Option: "objective", Err: fmt.Errorf("%w; register it with objective.Register", err)}
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
		return "", &run.OptionError{Option: "run-folder", Err: fmt.Errorf("the run folder %s would be in data set %s, where it would be read as a class; choose another folder", where, t.data.Root)}
	}
	if err := t.CheckImages(ctx, report); err != nil {
		return "", err
	}
	if dir == "" {
		chosen := c.Tune.Method
		if c.Train != nil {
			chosen = c.Train.Method
		}
		var err error
		if dir, err = newDir(t.data.Name + "-" + string(chosen)); err != nil {
			return "", err
		}
	}
	_, err := run.Create(dir, c)
	return dir, err
}

// newDir makes the folder of a run whose folder was not named: runs/NAME, or runs/NAME-2, -3 …
// where that exists.
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

// Backend returns the device.
func (t *Task) Backend() backend.Backend { return t.be }

// Compute returns the device and the precision, with all fields filled in.
func (t *Task) Compute() run.ComputeConfig { return t.config.Compute }

// CheckpointReport returns which tensors of the checkpoint were used. It is nil for the embedded
// backbone and for a backbone that New was given.
func (t *Task) CheckpointReport() *checkpoint.Report { return t.tensors }

// CheckImages decodes every image once, into the cache, so that a broken image is found before
// training. Where the data set was opened with SkipBadImages, broken images are left out and listed
// in Data().Skipped; else they are a [*run.InputError]. A second call does nothing.
func (t *Task) CheckImages(ctx context.Context, report progress.Func) error {
	if t.checked {
		return nil
	}
	err := t.data.CheckImages(ctx, dataset.CheckOptions{Cache: t.cache, Transform: t.eval, Workers: t.config.Data.Images.Workers, Progress: report})
	if err != nil && ctx.Err() == nil {
		return &run.InputError{Err: err}
	}
	t.checked = err == nil
	return err
}

// trainable reports data from which nothing can be learned.
func (t *Task) trainable() error {
	if err := t.data.Trainable(); err != nil {
		return &run.InputError{Err: err}
	}
	return nil
}

// loader returns a loader of samples with one of the transforms of the task, eval or train.
func (t *Task) loader(samples []dataset.Sample, transform dataset.Transform) *dataset.Loader {
	return dataset.NewLoader(samples, transform, t.cache, dataset.LoaderOptions{Workers: t.config.Data.Images.Workers, Root: t.data.Root})
}

// images returns samples, followed by more, with one of the transforms of the task. It returns the
// same Data each time, so that a device keeps the images for all trainings.
func (t *Task) images(transform dataset.Transform, samples, more []dataset.Sample) *train.Data {
	key := reading{transform: transform}
	for i, list := range [][]dataset.Sample{samples, more} {
		if key.n[i] = len(list); len(list) > 0 {
			key.first[i] = &list[0]
		}
	}
	if t.read[key] == nil {
		if t.read == nil {
			t.read = map[reading]*train.Data{}
		}
		t.read[key] = train.Images(t.loader(slices.Concat(samples, more), transform), t.objective, t.model.Config)
	}
	return t.read[key]
}
