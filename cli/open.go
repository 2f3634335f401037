package cli

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/sptune/spt"
	"github.com/sptune/spt/backbone"
	"github.com/sptune/spt/backend"
	"github.com/sptune/spt/checkpoint"
	"github.com/sptune/spt/dataset"
	"github.com/sptune/spt/internal/embedded"
	"github.com/sptune/spt/internal/hub"
	"github.com/sptune/spt/run"
)

// openModel loads the backbone that c describes. It gets a new head for numClasses classes; 0 keeps
// the head of the checkpoint.
func (a *app) openModel(ctx context.Context, c run.ModelConfig, numClasses int) (*backbone.Model, *checkpoint.Report, error) {
	if c.Path == "" {
		return nil, nil, refuse("no backbone given: --model FILE, --model hf:OWNER/NAME, or --model %s for the embedded one", embedded.Name)
	}
	if c.Preprocessing == run.GivenPreprocessing && !(c.Std[0] > 0 && c.Std[1] > 0 && c.Std[2] > 0) {
		return nil, nil, refuse("--std %g,%g,%g: expected numbers above 0", c.Std[0], c.Std[1], c.Std[2])
	}
	if c.Preprocessing == run.GivenPreprocessing && (slices.Max(c.Mean[:]) > 1 || slices.Min(c.Mean[:]) < 0 || slices.Max(c.Std[:]) > 1) {
		return nil, nil, refuse("--mean %g,%g,%g --std %g,%g,%g: expected shares of the brightest pixel, in 0…1; of values up to 255 give a 255th", c.Mean[0], c.Mean[1], c.Mean[2], c.Std[0], c.Std[1], c.Std[2])
	}
	if c.Path != embedded.Name {
		if err := a.fetch(ctx, &c); err != nil {
			return nil, nil, err
		}
		m, report, err := c.Open(numClasses)
		return m, &report, err
	}
	if c.Fingerprint == "" && (c.ImageSize != 0 || c.NumHeads != 0 || c.LayerNormEps != 0 || c.Preprocessing != "") {
		return nil, nil, refuse("the embedded backbone is what it is: leave out --image-size, --num-heads, --layer-norm-eps, --mean and --std")
	}
	m, err := embedded.Model(numClasses)
	if err != nil {
		return nil, nil, err
	}
	return m, nil, c.Check(m)
}

// fetch downloads a backbone of the Hub into the cache.
func (a *app) fetch(ctx context.Context, c *run.ModelConfig) error {
	p := a.progress()
	defer p.close()
	note, err := c.Fetch(ctx, func(h hub.Progress) {
		p.event(spt.Event{Stage: fetching + h.File, Done: int(h.Done), Total: int(h.Total)})
	})
	if note != "" {
		p.close()
		fmt.Fprintf(a.stderr, "spt: note: %s: %s\n", c.Path, note)
	}
	return err
}

// openDevice starts the device, and sets the fields of c that are empty to what was started.
func (a *app) openDevice(c *run.ComputeConfig) (backend.Backend, error) {
	be, note, err := c.Open()
	if note != "" && !a.quiet {
		fmt.Fprintf(a.stderr, "spt: note: %s\n", note)
	}
	if err == nil && c.CheckpointActivations && !backend.OnDevice(be) && !a.quiet {
		fmt.Fprintln(a.stderr, "spt: note: --checkpoint-activations is for GPUs; on the processor it changes nothing")
	}
	if err == nil && c.Precision == backend.BF16 && !backend.OnDevice(be) && !a.quiet {
		fmt.Fprintln(a.stderr, "spt: note: bf16 on the processor shows what it does to results; it is far slower than f32")
	}
	return be, err
}

// openData opens the data set that c describes.
func openData(c run.DataConfig) (*dataset.Dataset, error) {
	if c.Path == "" {
		return nil, refuse("no data set given: --data DIR")
	}
	if c.ValFraction+c.TestFraction >= 1 {
		return nil, refuse("--val-fraction %g and --test-fraction %g leave nothing to train on; together they must be below 1", c.ValFraction, c.TestFraction)
	}
	return c.Open()
}

// canSkip reports whether --skip-bad-images would have helped. It does not for a resumed run, which
// keeps its images.
func canSkip(fs *pflag.FlagSet) bool {
	skip := fs.Lookup("skip-bad-images")
	return skip != nil && !skip.Changed && !fs.Changed("resume")
}

// resumeRun reads a run's configuration in the place of flags and refuses flags
// that contradict it, but for the place of backbone and data: moved says that one of them
// is elsewhere now. single is what flags of train write to, nil for tune.
func resumeRun(cmd *cobra.Command, c *run.Config, single *run.TrainOptions, dir string, out *string) (moved bool, err error) {
	before := given(cmd)
	loaded, err := run.LoadConfig(dir)
	if err != nil {
		return false, &run.InputError{Err: err}
	}
	if path, ok := before["model"]; ok && path != loaded.Model.Path {
		loaded.Model.Path, loaded.Model.Commit, moved = path, "", true
	}
	if path, ok := before["data"]; ok && path != loaded.Data.Path {
		loaded.Data.Path, moved = path, true
	}
	if tuned := loaded.Single == nil; tuned != (single == nil) {
		verb := "train"
		if tuned {
			verb = "tune"
		}
		return false, &run.InputError{Err: fmt.Errorf("%s is a run of 'spt %s'; go on with it by 'spt %s --resume %s'", dir, verb, verb, dir)}
	}
	*c, *out = loaded, dir
	if single != nil {
		*single = *loaded.Single
	}
	return moved, refuseContradictions(cmd, before, dir, "or begin a new run")
}

// openRun is openTask, and notes in a run's folder where backbone and data are now, if they have
// moved.
func (a *app) openRun(ctx context.Context, c *run.Config, dir string, moved bool) (*spt.Task, *checkpoint.Report, error) {
	task, report, err := a.openTask(ctx, c)
	if err == nil && moved {
		err = run.Move(dir, c.Model, c.Data, task.Data)
	}
	return task, report, err
}

// openTask opens data, backbone and device of a run, and fills in the device in c.
func (a *app) openTask(ctx context.Context, c *run.Config) (*spt.Task, *checkpoint.Report, error) {
	data, err := openData(c.Data)
	if err != nil {
		return nil, nil, err
	}
	m, report, err := a.openModel(ctx, c.Model, len(data.Classes))
	if err != nil {
		return nil, nil, err
	}
	task, err := spt.NewTask(m, data, c.Data.Images)
	if err != nil {
		return nil, nil, err
	}
	return task, report, a.place(task, &c.Compute)
}

// place moves a task to a device and precision.
func (a *app) place(task *spt.Task, c *run.ComputeConfig) (err error) {
	if task.Backend, err = a.openDevice(c); err == nil {
		task.Model = c.Model(task.Model)
	}
	return err
}

// begin makes the folder of a new run, dir or a free name, and keeps the run's
// configuration there: once all its input has turned out to be good.
func begin(ctx context.Context, c *run.Config, task *spt.Task, method, dir string, p *progress) (string, error) {
	c.Model.Record(task.Model)
	c.Data.Record(task.Data)
	c.Started = time.Now().UTC()
	if dir != "" {
		if err := run.CheckNew(dir); err != nil {
			return "", err
		}
	}
	if where := cmp.Or(dir, run.RunsDir); task.Data.TakesForClass(where) {
		return "", refuse("the run folder %s would be in data set %s, where it would be read as a class; choose another (--out)", where, task.Data.Root)
	}
	if err := checkImages(ctx, task, p); err != nil {
		return "", err
	}
	if dir == "" {
		var err error
		if dir, err = run.NewDir(task.Data.Name + "-" + method); err != nil {
			return "", err
		}
	}
	return dir, run.Create(dir, c)
}

func checkImages(ctx context.Context, task *spt.Task, p *progress) error {
	defer p.close()
	return task.CheckImages(ctx, func(done, total int) { p.event(spt.Event{Stage: "images", Done: done, Total: total}) })
}
