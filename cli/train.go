package cli

import (
	"context"
	"fmt"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"github.com/sptune/spt/method"
	"github.com/sptune/spt/plan"
	"github.com/sptune/spt/plan/published"
	"github.com/sptune/spt/run"
)

func trainCommand(a *app) *cobra.Command {
	o := a.newOptions().ofTrain()
	c, single := &o.config, &o.single
	cmd := &cobra.Command{
		Use: "train {--model FILE --data DIR {--plan FILE | --method NAME} | --resume DIR} [flags]", Short: "Stage 3: train the parameters of a plan or a method",
		Long: `Trains the parameters that a plan selects, or the parameters of a method that needs no plan. It
validates after every epoch and tests nothing; 'spt eval' tests the delta. With --with-val it
also trains on the validation images. The run folder holds the delta, the metrics and the
configuration. --resume continues a run that was stopped. On the processor, the result then
has the same bits as the result of a run without a stop.

` + methodsHelp() + ` The methods of SPT (spt-...) need a plan.`,
		Example: `  spt train --model vit_tiny.safetensors --data clothing --plan plan.json
  spt train --model vit_tiny.safetensors --data clothing --method lora --rank 8
  spt train --resume runs/clothing-lora`,
		Args: noArguments,
	}
	addFlags(cmd, o)
	cmd.RunE = a.verb(func(ctx context.Context, _ []string) error {
		a.times.begin(time.Now())
		if err := o.tracking.Validate(); err != nil {
			return err
		}
		if o.resume != "" {
			if err := resumeRun(cmd, c, single, o.resume, &o.out); err != nil {
				return err
			}
			row, err := lookup(single.Method)
			if err != nil {
				return err
			}
			if row.Scores {
				o.plan = filepath.Join(o.resume, run.PlanFile)
			}
		}
		p, err := loadPlan(o.plan, single)
		if err != nil {
			return err
		}
		if o.resume == "" {
			row, err := lookup(single.Method)
			if err != nil {
				return err
			}
			if err := checkMethod(cmd, row); err != nil {
				return err
			}
			recipe := row.TrainOptions()
			if err := takeTraining(cmd, &single.Train, &recipe); err != nil {
				return err
			}
			if err := scaleWarmup(cmd, &single.Train); err != nil {
				return err
			}
			if err := takeTask(cmd, &c.Data); err != nil {
				return err
			}
		}
		page, err := a.serveLive(o.live)
		if err != nil {
			return err
		}
		left := ""
		defer func() { page.close(left) }()
		task, err := a.openRun(ctx, c, o.resume)
		if err != nil {
			return err
		}
		if *single, err = task.EffectiveTrain(*single, p); err != nil {
			return err
		}
		f := append(taskFacts(task.Model(), task.CheckpointReport(), task.Data()), [2]string{"device", c.Compute.String()})
		if len(task.Data().Val) == 0 {
			f.add("note", "no validation images: nothing will be validated")
		}
		f.addImbalance(task.Data(), single.Train)
		f.addObjective(c.Objective)
		f.addAugmentation(c.Data.Images)
		f.add("method", "%s", describeMethod(run.TuneOptions{Method: single.Method, Options: single.Options, Train: single.Train}))
		fmt.Fprint(a.notes(), f)
		shown := a.reporter()
		defer shown.close()
		if o.resume == "" {
			c.Train = single
			if o.out, err = task.Create(ctx, o.out, c, shown.event); err != nil {
				return err
			}
			shown.close() // the next output begins on a new line
			if p != nil {
				if err := p.Save(filepath.Join(o.out, run.PlanFile)); err != nil {
					return err
				}
			}
		}
		fmt.Fprint(a.notes(), facts{{"run folder", o.out}})
		a.resumeWith("spt", "train", "--resume", o.out)
		page.follow(ctx, o.out)
		report, end, err := a.track(ctx, o.out, o.tracking, shown.event)
		if err != nil {
			return err
		}
		defer end()
		result, err := task.TrainRun(ctx, *single, p, o.out, a.watch(report))
		shown.close()
		if err != nil {
			return err
		}
		if !o.noReport {
			if left, err = a.leaveReport(ctx, task, o.out, time.Time{}); err != nil {
				return err
			}
		}
		return a.writeRun(task, *c, o.out, left, result)
	})
	return cmd
}

// loadPlan reads the plan at path and sets o.Method to its method. If path is empty, it returns
// nil, or an error if o.Method is empty or needs a plan.
func loadPlan(path string, o *run.TrainOptions) (*plan.Plan, error) {
	if path == "" {
		if o.Method == "" {
			return nil, refuse("no method given; give --plan FILE, or --method NAME, such as linear, lora, ssf or full")
		}
		if row, err := lookup(o.Method); err != nil {
			return nil, err
		} else if row.Scores {
			return nil, refuse("method %s needs a plan; give --plan FILE, from 'spt score' and 'spt plan', or use 'spt tune'", o.Method)
		}
		return nil, nil
	}
	p, _, err := published.LoadPlan(path)
	if err != nil {
		return nil, &run.InputError{Err: err}
	}
	chosen := method.Of(p)
	if o.Method != "" && o.Method != chosen {
		return nil, refuse("--method %s contradicts the plan %s, which is for %s; leave --method out", o.Method, path, chosen)
	}
	o.Method = chosen
	return p, nil
}
