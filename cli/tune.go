package cli

import (
	"context"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/sptune/spt"
	"github.com/sptune/spt/method"
	"github.com/sptune/spt/peft"
	"github.com/sptune/spt/plan"
	"github.com/sptune/spt/progress"
	"github.com/sptune/spt/run"
	"github.com/sptune/spt/sensitivity"
)

func tuneCommand(a *app) *cobra.Command {
	var c run.Config
	var out, resume, structured string
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
			if err := resumeRun(cmd, &c, nil, resume, &out); err != nil {
				return err
			}
		}
		task, err := a.openRun(ctx, &c, resume)
		if err != nil {
			return err
		}
		if c.Tune, err = task.Effective(c.Tune); err != nil {
			return err
		}
		if err := budgetsFlag(c.Tune.Budgets).distinct(task.Model().Config.Size()); err != nil {
			return err
		}
		if c.Tune.PaperProtocol && len(task.Data().Test) == 0 {
			return &run.OptionError{Err: fmt.Errorf("--paper-protocol tests after every epoch, and data set %s has no test images; leave it out, or give a test split", task.Data().Name)}
		}
		f := append(taskFacts(task.Model(), task.CheckpointReport(), task.Data()), [2]string{"device", c.Compute.String()})
		if len(task.Data().Val) == 0 {
			f.add("note", "no validation images: nothing will be validated")
		}
		if len(task.Data().Test) == 0 {
			f.add("note", "no test images: nothing will be tested")
		}
		f.add("method", "%s", describeMethod(c.Tune))
		fmt.Fprint(a.notes(), f)
		p := a.reporter()
		defer p.close()
		if resume == "" {
			if out, err = task.Create(ctx, out, &c, p.event); err != nil {
				return err
			}
		}
		fmt.Fprint(a.notes(), facts{{"run folder", out}})
		a.resume = command("spt", "tune", "--resume", out)
		var explained error
		shown := map[int]bool{} // by budget: the chosen plan is made again
		result, err := task.Tune(ctx, c.Tune, out, func(e progress.Event) {
			p.event(e)
			if made, ok := e.Detail.(*plan.Plan); ok && explain && explained == nil && !shown[made.Budget] {
				shown[made.Budget] = true
				explained = a.explain(made, task)
			}
		})
		p.close()
		if err != nil {
			return err
		}
		if explained != nil {
			return explained
		}
		return a.writeRun(task, c, out, result)
	})
	return cmd
}

// resumeRun replaces c, which the flags were read into, by the configuration of the run in dir. It
// refuses flags that contradict it, except --model and --data, which say where the backbone and the
// data are now. single is the target of the flags of train, nil for tune.
func resumeRun(cmd *cobra.Command, c *run.Config, single *run.TrainOptions, dir string, out *string) error {
	before := given(cmd)
	_, loaded, err := run.Open(dir)
	if err != nil {
		return err
	}
	if path, ok := before["model"]; ok && path != loaded.Model.Path {
		loaded.Model.Path, loaded.Model.Commit = path, ""
	}
	if path, ok := before["data"]; ok && path != loaded.Data.Path {
		loaded.Data.Path = path
	}
	if tuned := loaded.Train == nil; tuned != (single == nil) {
		verb := "train"
		if tuned {
			verb = "tune"
		}
		return &run.InputError{Err: fmt.Errorf("%s is a run of 'spt %s'; go on with it by 'spt %s --resume %s'", dir, verb, verb, dir)}
	}
	*c, *out = loaded, dir
	if single != nil {
		*single = *loaded.Train
	}
	return refuseContradictions(cmd, before, dir, "or begin a new run")
}

// openRun opens the task of a run: a new one, or the one in the folder resume.
func (a *app) openRun(ctx context.Context, c *run.Config, resume string) (*spt.Task, error) {
	if resume == "" {
		return a.openTask(ctx, c)
	}
	p := a.reporter()
	defer p.close()
	return spt.Resume(ctx, resume, c, p.event)
}

// openTask opens the data set, the backbone and the device that c describes.
func (a *app) openTask(ctx context.Context, c *run.Config) (*spt.Task, error) {
	p := a.reporter()
	defer p.close()
	return spt.Open(ctx, c, p.event)
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

func (a *app) explain(p *plan.Plan, task *spt.Task) error {
	count, err := peft.CountOf(p.Module)
	if err != nil {
		return err
	}
	w := a.notes()
	fmt.Fprintln(w)
	err = p.Explain(w, spt.Tensors(task.Model().Config), count)
	fmt.Fprintln(w)
	return err
}
