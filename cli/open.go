package cli

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/sptune/spt"
	"github.com/sptune/spt/backbone"
	"github.com/sptune/spt/backend"
	"github.com/sptune/spt/checkpoint"
	"github.com/sptune/spt/objective"
	"github.com/sptune/spt/run"
)

// openModel loads the backbone that c describes. The backbone gets a new head for numClasses
// classes. If numClasses is 0, it keeps the head of the checkpoint.
func (a *app) openModel(ctx context.Context, c run.ModelConfig, numClasses int) (*backbone.Model, *checkpoint.Report, error) {
	p := a.reporter()
	defer p.close()
	return c.Open(ctx, numClasses, p.event)
}

// openDevice starts the device that c describes. It sets the empty fields of c to the device and
// the precision that it chose.
func (a *app) openDevice(c *run.ComputeConfig) (backend.Backend, error) {
	p := a.reporter()
	defer p.close()
	return c.Open(p.event)
}

// canSkip reports whether the command has --skip-bad-images and the user can still give it.
func canSkip(fs *pflag.FlagSet) bool {
	skip := fs.Lookup("skip-bad-images")
	return skip != nil && !skip.Changed
}

// resumeRun reads the configuration of the run in dir into c and sets out to dir. It returns an
// error if a flag contradicts the configuration. --model, --data and --image-root may differ from
// the configuration, because the backbone and the data set may have moved, and --skip-bad-images
// may be added, because an image may have turned out to be broken. For the command train, resumeRun
// also sets single to the options of the run; for tune, single is nil.
func resumeRun(cmd *cobra.Command, c *run.Config, single *run.TrainOptions, dir string, out *string) error {
	before := given(cmd)
	_, loaded, err := run.Open(dir)
	if err != nil {
		return err
	}
	if path, ok := before["model"]; ok {
		loaded.Model.Path = path
	}
	if path, ok := before["data"]; ok && path != loaded.Data.Path {
		loaded.Data.Path, loaded.Data.Commit = path, ""
	}
	if path, ok := before["image-root"]; ok {
		loaded.Data.ImageRoot = path
	}
	if before["skip-bad-images"] == "true" {
		loaded.Data.SkipBadImages = true
	}
	if tuned := loaded.Train == nil; tuned != (single == nil) {
		verb := "train"
		if tuned {
			verb = "tune"
		}
		return &run.InputError{Err: fmt.Errorf("%s is a run of 'spt %s'; resume it with 'spt %s --resume %s'", dir, verb, verb, dir)}
	}
	*c, *out = loaded, dir
	if single != nil {
		*single = *loaded.Train
	}
	return refuseContradictions(cmd, before, dir, "or begin a new run")
}

// openRun opens the task of a run. If resume is empty, the run is new; otherwise the run is in the
// folder resume.
func (a *app) openRun(ctx context.Context, c *run.Config, resume string) (*spt.Task, error) {
	defer a.times.add(opening)
	if resume == "" {
		return a.openTask(ctx, c)
	}
	p := a.reporter()
	defer p.close()
	t, err := spt.Resume(ctx, resume, c, p.event)
	a.score = objective.ScoreName(c.Objective)
	return t, err
}

// openTask opens the data set, the backbone and the device that c describes.
func (a *app) openTask(ctx context.Context, c *run.Config) (*spt.Task, error) {
	p := a.reporter()
	defer p.close()
	t, err := spt.Open(ctx, c, p.event)
	a.score = objective.ScoreName(c.Objective)
	return t, err
}
