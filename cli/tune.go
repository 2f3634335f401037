package cli

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"github.com/sptune/spt"
	"github.com/sptune/spt/delta"
	"github.com/sptune/spt/internal/planreport"
	"github.com/sptune/spt/internal/wording"
	"github.com/sptune/spt/method"
	"github.com/sptune/spt/objective"
	"github.com/sptune/spt/peft"
	"github.com/sptune/spt/plan"
	"github.com/sptune/spt/progress"
	"github.com/sptune/spt/run"
	"github.com/sptune/spt/sensitivity"
)

func tuneCommand(a *app) *cobra.Command {
	o := a.newOptions()
	c := &o.config
	cmd := &cobra.Command{
		Use: "tune {--model FILE --data DIR | --config FILE | --resume DIR} [flags]", Short: "Tune a backbone for a data set: all stages",
		Long: `Tunes a backbone for a data set, from the images to a tested classifier:

  1  It fits a linear probe on the features of the backbone: the floor, and the start.
  2  With a method of SPT (spt-...), it scores every weight of the backbone on training images.
  3  For each --budget, it plans which weights to tune, trains them and validates the result.
  4  It tests the best result once. With --refit it first trains once more, on the training and
     validation images together.

Options that you do not give follow from the images, the backbone and --time (--recipe auto).
With --task or --recipe vtab or fgvc they are those of the paper, without step 1 and with
--refit. --dry-run prints what would be done. --validation-only stops after step 3. With
--scores, step 2 reads the scores from a file.

--config reads any of the options from a YAML or JSON file with the keys of config.json, which
every run folder holds. Flags win over the file. The config.json of a run repeats the run.

--folds K is a cross-validation, for data sets with few images: K runs, each of which tests on
another part of the images. It measures and delivers no delta, unless --final trains once more
on all images.

The run folder holds all files, among them the delta, which 'spt predict' uses. --resume
continues a run that was stopped. On the processor, the result then has the same bits as the
result of a run without a stop.

` + methodsHelp(),
		Example: `  spt tune --model vit_tiny --data clothing --time 30m
  spt tune --model vit_tiny.safetensors --data clothing --budget 0.1M,0.2M,0.4M
  spt tune --model demo --data clothing --method lora --rank 4 --epochs 20
  spt tune --model vit_tiny --data leaves --folds 5 --final
  spt tune --config clothing.yaml --seed 1
  spt tune --resume runs/clothing-spt-lora`,
		Args: noArguments,
	}
	addFlags(cmd, o)
	cmd.RunE = a.verb(func(ctx context.Context, _ []string) error {
		began := time.Now()
		a.times.begin(began)
		if err := o.tracking.Validate(); err != nil {
			return err
		}
		if o.resume == "" {
			if err := takeStructured(cmd, o.structured, &c.Tune.Method); err != nil {
				return err
			}
			if o.configFile != "" {
				if err := readConfig(cmd, o); err != nil {
					return err
				}
			}
			if err := takeDelta(cmd, c); err != nil {
				return err
			}
			row, err := lookup(c.Tune.Method)
			if err != nil {
				return err
			}
			if err := checkMethod(cmd, row); err != nil {
				return err
			}
			if o.explain && !row.Scores {
				return refuse("--explain prints a plan, and method %s makes none; leave --explain out", row.Method)
			}
			if o.configFile == "" {
				if err := takeDefaults(cmd, row, c); err != nil {
					return err
				}
			}
			if path := c.Tune.ScoresFile; path != "" {
				if err := checkScoresFile(ctx, path); err != nil {
					return err
				}
			}
		} else {
			if err := resumeRun(cmd, c, nil, o.resume, &o.out); err != nil {
				return err
			}
		}
		if c.Folds.Number > 0 {
			return a.tuneFolds(ctx, o, began)
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
		c.Tune.Began = began
		var choices *spt.Choices
		if c.Tune.Recipe == run.RecipeAuto && o.resume == "" {
			if task, choices, err = a.prepare(ctx, task, c); err != nil {
				return err
			}
		}
		if c.Tune, err = task.Effective(c.Tune); err != nil {
			return err
		}
		if err := distinctBudgets(c.Tune.Budgets, task.Model().Config.Size()); err != nil {
			return err
		}
		if c.Tune.PaperProtocol && len(task.Data().Test) == 0 {
			return refuse("--paper-protocol tests after every epoch, and data set %s has no test images; leave it out, or give a test split", task.Data().Name)
		}
		f := append(taskFacts(task.Model(), task.CheckpointReport(), task.Data()), [2]string{"device", c.Compute.String()})
		if len(task.Data().Val) == 0 {
			f.add("note", "no validation images: nothing will be validated")
		}
		if len(task.Data().Test) == 0 && !c.Tune.ValidationOnly {
			f.add("note", "no test images: nothing will be tested")
		}
		f.addImbalance(task.Data(), c.Tune.Train)
		f.addObjective(c.Objective)
		f.addAugmentation(c.Data.Images)
		f.add("method", "%s", describeMethod(c.Tune))
		if c.Tune.FromDelta != "" && o.resume == "" {
			start, err := task.Start(ctx, c.Tune)
			if err != nil {
				return err
			}
			f.addStart(c.Tune.FromDelta, start)
		}
		if choices != nil {
			f.addChoices(choices, c.Tune)
		}
		var expected expectedMemory
		if o.resume == "" {
			if expected.Footprint, expected.Available, err = task.Foresee(c.Tune); err != nil {
				return err
			}
			f.addMemory(expected)
		}
		fmt.Fprint(a.notes(), f)
		if o.dryRun {
			return a.writeDryRun(*c, choices, expected)
		}
		p := a.reporter()
		defer p.close()
		if err := a.beginTune(ctx, task, o, p); err != nil {
			return err
		}
		page.follow(ctx, o.out)
		var explained error
		// budgets whose plan was printed; Tune plans the chosen budget twice
		shown := map[int]bool{}
		report, end, err := a.track(ctx, o.out, o.tracking, func(e progress.Event) {
			p.event(e)
			if made, ok := e.Detail.(*plan.Plan); ok && o.explain && explained == nil && !shown[made.Budget] {
				shown[made.Budget] = true
				explained = a.explain(made, task)
			}
		})
		if err != nil {
			return err
		}
		defer end()
		result, err := task.Tune(ctx, c.Tune, o.out, a.watch(report))
		p.close()
		if err != nil {
			return err
		}
		if explained != nil {
			return explained
		}
		var deadline time.Time
		if c.Tune.TimeLimit > 0 {
			deadline = began.Add(time.Duration(c.Tune.TimeLimit * float64(time.Second)))
		}
		if !o.noReport {
			if left, err = a.leaveReport(ctx, task, o.out, deadline); err != nil {
				return err
			}
		}
		return a.writeRun(task, *c, o.out, left, result)
	})
	return cmd
}

// addStart adds lines about the delta from which a run starts.
func (f *facts) addStart(dir string, s *spt.Start) {
	text := fmt.Sprintf("the delta of %s, which knows %d of the %d classes", printable(dir), len(s.Known), len(s.Known)+len(s.New))
	if len(s.New) > 0 {
		text += "; new classes " + list(s.New)
	}
	if len(s.Gone) > 0 {
		text += "; gone classes " + list(s.Gone)
	}
	f.add("start", "%s", text)
	switch {
	case s.SeenTest == nil:
		f.add("note", "it is not known on which images the delta of %s was trained; results on these images are too good", printable(dir))
	case *s.SeenVal+*s.SeenTest > 0:
		f.add("note", "the delta of %s was trained on %s and %s of this run, so results on them are too good; a data set with its own splits keeps them apart", printable(dir), wording.Plural(*s.SeenVal, "validation image"), wording.Plural(*s.SeenTest, "test image"))
	}
}

// beginTune makes the run folder of a new run, and says where it is and how to continue the run.
func (a *app) beginTune(ctx context.Context, task *spt.Task, o *options, p *reporter) (err error) {
	if o.resume == "" {
		if o.out, err = task.Create(ctx, o.out, &o.config, p.event); err != nil {
			return err
		}
		p.close() // the next output begins on a new line
	}
	fmt.Fprint(a.notes(), facts{{"run folder", o.out}})
	a.resumeWith("spt", "tune", "--resume", o.out)
	return nil
}

// takeDelta sets the method and the image size of a run from a delta to those of the delta, unless
// a flag has set them.
func takeDelta(cmd *cobra.Command, c *run.Config) error {
	if c.Tune.FromDelta == "" {
		return nil
	}
	d, err := delta.Load(c.Tune.FromDelta)
	if err != nil {
		return &run.OptionError{Option: "from-delta", Err: err}
	}
	if !cmd.Flags().Changed("method") {
		c.Tune.Method = method.Method(d.Method)
	}
	if c.Model.ImageSize == 0 {
		c.Model.ImageSize = d.Config.ImageSize
	}
	return nil
}

// takeDefaults sets the options of a run that no flag has set to those of the recipe. run.Configure
// does the same for a configuration file.
func takeDefaults(cmd *cobra.Command, m method.Row, c *run.Config) error {
	name, err := recipeOf(c.Tune, c.Data, run.RecipeAuto)
	if err != nil {
		return err
	}
	recipe, fs := run.RecipeOptions(m, name), cmd.Flags()
	if fs.Changed("steps") && recipe.Train.Epochs == 0 { // WithDefaults scales both to the steps
		recipe.Train.Epochs, recipe.Train.WarmupEpochs = 100, 10
	}
	c.Tune.Recipe = name
	if !fs.Changed("lr") {
		c.Tune.LRs, c.Tune.MethodRates = recipe.LRs, true
	}
	if !fs.Changed("probe-head") {
		c.Tune.Probe = recipe.Probe && c.Tune.FromDelta == ""
	}
	if !fs.Changed("refit") {
		c.Tune.NoRefit = recipe.NoRefit
	}
	if err := takeTraining(cmd, &c.Tune.Train, &recipe.Train); err != nil {
		return err
	}
	if err := scaleWarmup(cmd, &c.Tune.Train); err != nil {
		return err
	}
	c.Tune.Score.Stratified = recipe.Score.Stratified
	if c.Tune.ScoresFile != "" {
		c.Tune.Score = sensitivity.Options{} // the file states the options
	}
	c.Tune.Score.Seed = c.Tune.Train.Seed
	return takeImages(cmd, name, &c.Data.Images)
}

// describeMethod returns the method with its options and the main training options, in words.
func describeMethod(o run.TuneOptions) string {
	text := string(o.Method)
	if len(o.Budgets) > 0 {
		text += ", budget " + plan.BudgetNames(o.Budgets)
	}
	if o.Rank > 0 {
		text += fmt.Sprintf(", rank %d", o.Rank)
	}
	if o.Prompts > 0 {
		text += fmt.Sprintf(", %d prompts", o.Prompts)
	}
	if o.Bottleneck > 0 {
		text += fmt.Sprintf(", bottlenecks of %d", o.Bottleneck)
	}
	if o.Scale > 0 {
		text += fmt.Sprintf(", scale %g", o.Scale)
	}
	if len(o.TargetModules) > 0 {
		text += ", on " + comma(o.TargetModules)
	}
	if o.FromBlock > 0 {
		text += fmt.Sprintf(", from block %d", o.FromBlock)
	}
	if o.ScoresFile != "" {
		text += ", scores of " + printable(o.ScoresFile)
	}
	if o.Score.Criterion != "" && o.Score.Criterion != sensitivity.SquaredGradient {
		text += ", criterion " + string(o.Score.Criterion)
	}
	if o.Plan.Rule != "" {
		text += ", plan rule " + o.Plan.Rule
	}
	if o.Plan.Compat != "" {
		text += ", compat " + o.Plan.Compat
	}
	if o.Probe && o.Method == method.Linear {
		return text + ": a linear probe on the features of the backbone"
	}
	text += fmt.Sprintf("; epochs %d, batches of %d, learning rate %s", o.Train.Epochs, o.Train.BatchSize, (&ratesValue{&o.Train.LR, &o.LRs}).String())
	if o.Train.HeadLR > 0 {
		text += fmt.Sprintf(" (head %g)", o.Train.HeadLR)
	}
	if o.Train.Init == peft.ReleaseScheme {
		text += ", initial values of the release"
	}
	if o.Train.LabelSmoothing > 0 {
		text += fmt.Sprintf(", label smoothing %g", o.Train.LabelSmoothing)
	}
	if w := o.Train.ClassWeightValues; w != nil {
		text += fmt.Sprintf(", class weights %s (%.3g to %.3g)", printable(cmp.Or(o.Train.ClassWeights, "given")), slices.Min(w), slices.Max(w))
	}
	if o.Train.BalancedSampling {
		text += ", balanced sampling"
	}
	if by := o.Train.Select; by != "" && by != objective.ByAccuracy {
		text += ", chosen by " + string(by)
	}
	return text + fmt.Sprintf(", seed %d", o.Train.Seed)
}

// explain prints how a plan divides its budget among blocks and operations.
func (a *app) explain(p *plan.Plan, task *spt.Task) error {
	count, err := peft.CountOf(p.Module)
	if err != nil {
		return err
	}
	w := a.notes()
	fmt.Fprintln(w)
	err = planreport.Explain(w, p, sensitivity.Tensors(task.Model().Config), count)
	fmt.Fprintln(w)
	return err
}
