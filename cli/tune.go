package cli

import (
	"cmp"
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/sptune/spt"
	"github.com/sptune/spt/checkpoint"
	"github.com/sptune/spt/method"
	"github.com/sptune/spt/peft"
	"github.com/sptune/spt/run"
	"github.com/sptune/spt/sensitivity"
)

func tuneCommand(a *app) *cobra.Command {
	var c run.Config
	var out, resume, structured string
	var moved bool
	var explain bool
	cmd := &cobra.Command{
		Use: "tune --model FILE --data DIR [flags]", Short: "Score, plan, train, choose and test: everything",
		Long: `Tunes a backbone for a data set. It scores the backbone's weights on training
images, plans what to tune under each budget, trains each plan on the training
images and validates it, trains the best one once more on training and
validation images together, and tests that once. Everything is kept in a run
folder; --resume goes on with a run that was stopped, to the same bits.

` + methodsHelp,
		Example: `  spt tune --model vit_tiny.safetensors --data clothing --budget 0.1M,0.2M,0.4M
  spt tune --model demo --data clothing --method lora --rank 4 --epochs 20
  spt tune --resume runs/clothing-spt-lora`,
		Args: cobra.NoArgs,
	}
	fs := cmd.Flags()
	modelFlags(fs, &c.Model)
	dataFlags(fs, &c.Data)
	augmentFlags(fs, &c.Data.Images)
	computeFlags(fs, &c.Compute, true)
	devicesFlag(fs, &c.Compute)
	fs.StringVar(&out, "out", "", "the run folder, a new `DIR` (default runs/DATA-METHOD)")
	fs.StringVar((*string)(&c.Tune.Method), "method", string(method.SPTLoRA), "what is tuned; the list is above")
	structuredFlag(fs, &structured)
	fs.Var((*budgetsFlag)(&c.Tune.Budgets), "budget", "parameters to tune, such as 0.4M, 400k or 0.5%; several, divided by commas, are tried and validated (default "+spt.DefaultBudget+" for SPT)")
	fs.IntVar(&c.Tune.Rank, "rank", 0, "rank of the modules (default 8, in small budgets for backbones narrower than 768 in proportion to the width; for lora and adapter what the budget allows)")
	sizeFlags(fs, &c.Tune.Sizes)
	planFlags(fs, &c.Tune.Plan)
	scoreFlags(fs, &c.Tune.Score)
	trainFlags(fs, &c.Tune.Train)
	fs.BoolVar(&c.Tune.NoValidation, "no-validation", false, "do not train and validate first; for a single budget")
	fs.BoolVar(&c.Tune.PaperProtocol, "paper-protocol", false, "test after every epoch too and report the greatest, as the paper does; nothing is chosen by it")
	fs.BoolVar(&explain, "explain", false, "print for each plan where the budget goes")
	fs.StringVar(&resume, "resume", "", "go on with the run in `DIR`; no other flags are needed, but --model and --data if these have moved")
	cmd.RunE = a.verb(func(ctx context.Context, _ []string) error {
		if resume == "" {
			if err := takeStructured(cmd, structured, &c.Tune.Method); err != nil {
				return err
			}
			if err := idleFlags(cmd, c.Tune.Method); err != nil {
				return err
			}
			takeMethodRecipe(cmd, c.Tune.Method, &c.Tune.Train)
			if err := scaleWarmup(cmd, &c.Tune.Train); err != nil {
				return err
			}
			if err := takeRecipe(cmd, &c.Data); err != nil {
				return err
			}
			c.Tune.Score.Seed = c.Tune.Train.Seed
		} else if structured != "" {
			return &run.OptionError{Err: fmt.Errorf("the method is in the run's folder; leave --structured out with --resume")}
		} else {
			var err error
			if moved, err = resumeRun(cmd, &c, nil, resume, &out); err != nil {
				return err
			}
		}
		task, report, err := a.openRun(ctx, &c, out, moved)
		if err != nil {
			return err
		}
		if c.Tune, err = task.Effective(c.Tune); err != nil {
			return err
		}
		if err := budgetsFlag(c.Tune.Budgets).distinct(task.Model.Config.Size()); err != nil {
			return err
		}
		if c.Tune.PaperProtocol && len(task.Data.Test) == 0 {
			return &run.OptionError{Err: fmt.Errorf("--paper-protocol tests after every epoch, and data set %s has no test images; leave it out, or give a test split", task.Data.Name)}
		}
		f := append(taskFacts(task.Model, report, task.Data), [2]string{"device", c.Compute.String()})
		if len(task.Data.Val) == 0 {
			f.add("note", "no validation images: nothing will be validated")
		}
		if len(task.Data.Test) == 0 {
			f.add("note", "no test images: nothing will be tested")
		}
		f.add("method", "%s", describeMethod(c.Tune))
		fmt.Fprint(a.notes(), f)
		p := a.progress()
		defer p.close()
		if resume == "" {
			if out, err = begin(ctx, &c, task, string(c.Tune.Method), out, p); err != nil {
				return err
			}
		}
		fmt.Fprint(a.notes(), facts{{"run folder", out}})
		a.resume = command("spt", "tune", "--resume", out)
		var explained error
		shown := map[int]bool{} // by budget: the chosen plan is made again
		result, err := task.Tune(ctx, c.Tune, out, func(e spt.Event) {
			p.event(e)
			if e.Plan != nil && explain && explained == nil && !shown[e.Plan.Budget] {
				shown[e.Plan.Budget] = true
				explained = a.explain(e, task)
			}
		})
		p.close()
		if err != nil {
			return err
		}
		if explained != nil {
			return explained
		}
		return a.writeRun(task, report, c, out, result)
	})
	return cmd
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
		return "", &run.OptionError{Err: fmt.Errorf("the run folder %s would be in data set %s, where it would be read as a class; choose another (--out)", where, task.Data.Root)}
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

func describeMethod(o run.TuneOptions) string {
	text := string(o.Method)
	if len(o.Budgets) > 0 {
		text += ", budget " + strings.Join(o.Budgets, ", ")
	}
	if o.Rank > 0 {
		text += fmt.Sprintf(", rank %d", o.Rank)
	}
	if o.Prompts > 0 {
		text += fmt.Sprintf(", %d prompts", o.Prompts)
	}
	if o.Bottleneck > 0 {
		text += fmt.Sprintf(", bottlenecks of %d, scale %g", o.Bottleneck, o.Scale)
	}
	if o.Method.Scores() && o.Score.Criterion != "" && o.Score.Criterion != sensitivity.SquaredGradient {
		text += ", criterion " + string(o.Score.Criterion)
	}
	if o.Plan.Compat != "" {
		text += ", compat " + o.Plan.Compat
	}
	return text + fmt.Sprintf("; epochs %d, batches of %d, learning rate %g, seed %d", o.Train.Epochs, o.Train.BatchSize, o.Train.LR, o.Train.Seed)
}

func (a *app) explain(e spt.Event, task *spt.Task) error {
	count, err := peft.CountOf(e.Plan.Module)
	if err != nil {
		return err
	}
	w := a.notes()
	fmt.Fprintln(w)
	err = e.Plan.Explain(w, spt.Tensors(task.Model.Config), count)
	fmt.Fprintln(w)
	return err
}
