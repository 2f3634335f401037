package cli

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/sptune/spt/method"
	"github.com/sptune/spt/peft"
	"github.com/sptune/spt/plan"
	"github.com/sptune/spt/run"
	"github.com/sptune/spt/train"
)

// methodsHelp describes the methods, one line for each row of the catalogue.
func methodsHelp() string {
	text := "Methods, where NAME is a structured module (" + or(peft.Names()) + ") and K is a number:\n\n"
	for _, r := range method.Catalogue() {
		text += fmt.Sprintf("  %-20s  %s\n", r.Name, r.Summary)
	}
	return text + `
The defaults of --lr, --weight-decay and --drop-path are the published recipe of the method.`
}

// lookup returns the row of a method. An unknown method is an option error.
func lookup(m method.Method) (method.Row, error) {
	row, err := method.Lookup(m)
	if err != nil {
		err = &run.OptionError{Option: "method", Err: err}
	}
	return row, err
}

// recipeOf returns the recipe of a run: the one that --recipe names, the one of the benchmark to
// which --task belongs, or otherwise usual.
func recipeOf(o run.TuneOptions, c run.DataConfig, usual string) (string, error) {
	switch {
	case o.Recipe != "":
		return o.Recipe, nil
	case c.Task != "":
		return run.RecipeOf(c.Task)
	}
	return usual, nil
}

// takeImages sets the image options that no flag has set to those of the recipe, and then to those
// of the preset that --augment names.
func takeImages(cmd *cobra.Command, recipe string, c *run.ImageOptions) error {
	images, fs := run.RecipeImages(recipe), cmd.Flags()
	// If the user gives --resize, the recipe sets neither --resize nor --random-crop.
	if !fs.Changed("resize") {
		c.Resize = images.Resize
		if fs.Lookup("random-crop") != nil && !fs.Changed("random-crop") {
			c.RandomCrop = images.RandomCrop
		}
	}
	if fs.Lookup("flip") != nil && !fs.Changed("flip") {
		c.HorizontalFlip = images.HorizontalFlip
	}
	if c.Preset != "" {
		before := given(cmd)
		var err error
		if *c, err = c.WithPreset(c.Preset); err != nil {
			return err
		}
		if err := setAgain(cmd, before, func(f flagRow) bool { return f.group == imagesGroup && f.name != "augment" }); err != nil {
			return err
		}
	}
	if c.Augment.CropScale != [2]float64{} && !fs.Changed("random-crop") {
		c.RandomCrop = false // it comes from the recipe
	}
	return nil
}

// takeTask sets the image options of a command without --recipe to those of the benchmark that
// --task names.
func takeTask(cmd *cobra.Command, c *run.DataConfig) error {
	recipe, err := recipeOf(run.TuneOptions{}, *c, run.RecipeVTAB)
	if err == nil {
		err = takeImages(cmd, recipe, &c.Images)
	}
	return err
}

// takeStructured applies --structured: it sets chosen to SPT with the module name. If name is
// empty, it does nothing. It returns an error if --method contradicts --structured.
func takeStructured(cmd *cobra.Command, name string, chosen *method.Method) error {
	if name == "" {
		return nil
	}
	if _, err := peft.Lookup(name); err != nil {
		return &run.OptionError{Option: "structured", Err: err}
	}
	if !cmd.Flags().Changed("method") {
		*chosen = method.SPT(name)
	}
	if row, err := method.Lookup(*chosen); err != nil || !row.Scores || row.Module != name {
		return refuse("--structured %s contradicts --method %s; leave one of them out", name, *chosen)
	}
	return nil
}

// takeTraining sets the training options that no flag has set to those of a recipe.
func takeTraining(cmd *cobra.Command, o, recipe *train.Options) error {
	before := given(cmd)
	*o = *recipe
	return setAgain(cmd, before, func(f flagRow) bool { return f.group == trainingGroup })
}

// scaleWarmup scales the warm-up with the number of epochs if the user gives --epochs without
// --warmup-epochs. It returns an error if the warm-up is longer than the training.
func scaleWarmup(cmd *cobra.Command, o *train.Options) error {
	if cmd.Flags().Changed("epochs") && !cmd.Flags().Changed("warmup-epochs") {
		recipe := train.VTAB().WithEpochs(o.Epochs)
		o.WarmupEpochs = recipe.WarmupEpochs
	}
	if o.WarmupEpochs > float64(o.Epochs) {
		return refuse("--warmup-epochs %g is more than --epochs %d: the learning rate would not reach --lr; give a shorter warm-up", o.WarmupEpochs, o.Epochs)
	}
	return nil
}

// distinctBudgets returns an error if two budgets allow the same number of parameters, because tune
// would try this number twice. size is the number of parameters of the backbone. The library
// returns the error for a budget that is too large.
func distinctBudgets(budgets []plan.Budget, size int) error {
	seen := map[int]plan.Budget{}
	for _, text := range budgets {
		n, err := text.Parameters(size)
		if err != nil {
			continue
		}
		if first, ok := seen[n]; ok {
			return refuse("--budget %s and %s are the same %d parameters; leave one of them out", first, text, n)
		}
		seen[n] = text
	}
	return nil
}
