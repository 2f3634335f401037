package cli

import (
	"github.com/spf13/cobra"

	"github.com/sptune/spt/dataset"
	"github.com/sptune/spt/method"
	"github.com/sptune/spt/peft"
	"github.com/sptune/spt/plan"
	"github.com/sptune/spt/run"
	"github.com/sptune/spt/train"
)

// methodsHelp describes the methods, one line each.
const methodsHelp = `The methods:

  spt-lora, spt-adapter   SPT with this structured module, or any registered one
  spt-lora-structured, …  SPT without single entries
  spt-unstructured        SPT without modules: single entries of matrices
  lora, adapter           this module on every matrix of every block
  adaptformer             a bottleneck beside the MLP of every block
  vpt-shallow, vpt-deep   prompts before the first block, or before every block
  ssf                     a scale and a shift for the output of every operation
  bitfit                  every bias
  partial-1               the last block and all after it; partial-K: K blocks
  mlp-3                   a head of three layers; mlp-K: a head of K layers
  linear                  the head alone
  full                    every weight

Each method has its published recipe. It sets --lr, --weight-decay and --drop-path unless
you give them.`

// takeRecipe sets the options of images that no flag has set to those of the recipe of the task.
// Its options of training are the defaults of the flags.
func takeRecipe(cmd *cobra.Command, c *run.DataConfig) error {
	if c.Task == "" {
		return nil
	}
	known, err := dataset.FindKnown(c.Task)
	if err != nil {
		return &run.OptionError{Option: "task", Err: err}
	}
	recipe, fs := run.TaskImages(known), cmd.Flags()
	// A resize that the user gives decides on the crop too.
	if !fs.Changed("resize") {
		c.Images.Resize = recipe.Resize
		if fs.Lookup("random-crop") != nil && !fs.Changed("random-crop") {
			c.Images.RandomCrop = recipe.RandomCrop
		}
	}
	if fs.Lookup("flip") != nil && !fs.Changed("flip") {
		c.Images.HorizontalFlip = recipe.HorizontalFlip
	}
	return nil
}

// takeStructured sets the method to SPT with the structured module, if one is given by its name.
func takeStructured(cmd *cobra.Command, name string, chosen *method.Method) error {
	if name == "" {
		return nil
	}
	if _, err := peft.Lookup(name); err != nil {
		return &run.OptionError{Err: err}
	}
	if !cmd.Flags().Changed("method") {
		*chosen = method.SPT(name)
	}
	if !chosen.Scores() || chosen.Module() != name {
		return refuse("--structured %s contradicts --method %s; leave one of them out", name, *chosen)
	}
	return nil
}

// takeMethodRecipe sets the options of training that no flag has set to those of the recipe of
// the method.
func takeMethodRecipe(cmd *cobra.Command, m method.Method, o *train.Options) error {
	before := given(cmd)
	*o = method.Recipe(m)
	return setAgain(cmd, before, func(f flagRow) bool { return f.group == trainingGroup })
}

// scaleWarmup keeps the share of the warm-up in the epochs if the user gives the epochs alone. It
// refuses a warm-up that is longer than the training.
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

// distinctBudgets refuses budgets that allow the same number of parameters of a backbone, which has
// size parameters: they would be tried twice. The library refuses texts that are not budgets.
func distinctBudgets(budgets []string, size int) error {
	seen := map[int]string{}
	for _, text := range budgets {
		n, err := plan.ParseBudget(text, size)
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
