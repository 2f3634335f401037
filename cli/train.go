package cli

import (
	"context"
	"fmt"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/sptune/spt"
	"github.com/sptune/spt/method"
	"github.com/sptune/spt/plan"
	"github.com/sptune/spt/run"
)

func trainCommand(a *app) *cobra.Command {
	var c run.Config
	var o run.TrainOptions
	var planPath, out, resume string
	cmd := &cobra.Command{
		Use: "train --model FILE --data DIR {--plan FILE | --method METHOD} [flags]", Short: "Stage 3: tune a plan, or a method that needs none",
		Long: `Tunes once what a plan selects, or a method that needs no plan, on the training
images, and validates after every epoch; with --with-val it trains on the
validation images too. It tests nothing: 'spt eval' does. Delta, metrics and
configuration are kept in a run folder; --resume goes on with a run that was
stopped, to the same bits.

` + methodsHelp + `
Those of SPT come with a plan.`,
		Example: `  spt train --model vit_tiny.safetensors --data clothing --plan plan.json
  spt train --model vit_tiny.safetensors --data clothing --method lora --rank 8
  spt train --resume runs/clothing-lora`,
		Args: cobra.NoArgs,
	}
	fs := cmd.Flags()
	modelFlags(fs, &c.Model)
	dataFlags(fs, &c.Data)
	augmentFlags(fs, &c.Data.Images)
	computeFlags(fs, &c.Compute, true)
	devicesFlag(fs, &c.Compute)
	fs.StringVar(&planPath, "plan", "", "what is tuned: a plan, a `FILE` of 'spt plan' or a published selection")
	fs.StringVar((*string)(&o.Method), "method", "", "instead of a plan: a method of the list above that needs none")
	fs.Var((*budgetFlag)(&o.Budget), "budget", "for lora and adapter: parameters that decide on the rank, such as 0.4M or 0.5%")
	fs.IntVar(&o.Rank, "rank", 0, "for lora and adapter: rank of the modules (default what the budget allows, else 8)")
	sizeFlags(fs, &o.Sizes)
	fs.StringVar(&out, "out", "", "the run folder, a new `DIR` (default runs/DATA-METHOD)")
	trainFlags(fs, &o.Train)
	fs.BoolVar(&o.WithVal, "with-val", false, "train on the validation images too")
	fs.StringVar(&resume, "resume", "", "go on with the run in `DIR`; no other flags are needed, but --model and --data if these have moved")
	cmd.RunE = a.verb(func(ctx context.Context, _ []string) error {
		var err error
		if resume == "" {
			if planPath == "" {
				if err := idleFlags(cmd, o.Method); err != nil {
					return err
				}
			}
			takeMethodRecipe(cmd, o.Method, &o.Train)
			o.Sizes = o.Sizes.For(o.Method)
			if err := scaleWarmup(cmd, &o.Train); err != nil {
				return err
			}
			if err := takeRecipe(cmd, &c.Data); err != nil {
				return err
			}
		} else if err = resumeRun(cmd, &c, &o, resume, &out); err != nil {
			return err
		} else if planPath != "" {
			return &run.OptionError{Err: fmt.Errorf("the plan is in the run's folder; leave --plan out with --resume")}
		} else if o.Method.Scores() {
			planPath = filepath.Join(resume, run.PlanFile)
		}
		p, err := loadPlan(planPath, &o)
		if err != nil {
			return err
		}
		task, err := a.openRun(ctx, &c, resume)
		if err != nil {
			return err
		}
		if err := task.CheckTrainRun(o, p); err != nil {
			return err
		}
		f := append(taskFacts(task.Model(), task.CheckpointReport(), task.Data()), [2]string{"device", c.Compute.String()})
		if len(task.Data().Val) == 0 {
			f.add("note", "no validation images: nothing will be validated")
		}
		f.add("method", "%s", describeMethod(run.TuneOptions{Method: o.Method, Rank: o.Rank, Sizes: o.Sizes, Train: o.Train}))
		fmt.Fprint(a.notes(), f)
		shown := a.reporter()
		defer shown.close()
		if resume == "" {
			c.Train = &o
			if out, err = task.Create(ctx, out, &c, shown.event); err != nil {
				return err
			}
			if p != nil {
				if err := p.Save(filepath.Join(out, run.PlanFile)); err != nil {
					return err
				}
			}
		}
		fmt.Fprint(a.notes(), facts{{"run folder", out}})
		a.resume = command("spt", "train", "--resume", out)
		result, err := task.TrainRun(ctx, o, p, out, shown.event)
		shown.close()
		if err != nil {
			return err
		}
		return a.writeRun(task, c, out, result)
	})
	return cmd
}

// loadPlan reads the plan, if the method has one, and sets the method that
// follows from it.
func loadPlan(path string, o *run.TrainOptions) (*plan.Plan, error) {
	if path == "" {
		if o.Method == "" {
			return nil, &run.OptionError{Err: fmt.Errorf("nothing to tune given: --plan FILE, or --method METHOD, such as linear, lora, ssf or full")}
		}
		if o.Method.Scores() {
			return nil, &run.OptionError{Err: fmt.Errorf("method %s needs a plan (--plan FILE, of 'spt score' and 'spt plan'); 'spt tune' does it all", o.Method)}
		}
		return nil, nil
	}
	p, _, err := spt.LoadPlan(path)
	if err != nil {
		return nil, err
	}
	chosen := method.PlanMethod(p)
	if o.Method != "" && o.Method != chosen || o.Budget != "" || o.Rank != 0 || o.Sizes != (method.Sizes{}) {
		return nil, &run.OptionError{Err: fmt.Errorf("the plan %s says what is tuned (%s, rank %d, %d parameters); leave out --method, --budget, --rank and sizes", path, chosen, p.Rank, p.Cost.Total)}
	}
	o.Method = chosen
	return p, nil
}
