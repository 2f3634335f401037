// Package run reads and writes runs on disk: the configuration of a run, the folder of its files,
// and its result.
//
// To look at a run, begin with [Open], which reads the [Config] of the run in a folder.
// [LoadResult] then reads the [Result], and [Folder.Metrics] the losses and accuracies of each
// epoch. A program that only looks at results needs no other package.
//
// A [Config] describes a run completely: the backbone ([ModelConfig]), the images ([DataConfig]),
// the device ([ComputeConfig]) and either the options of a run of all stages ([TuneOptions]) or the
// options of one training ([TrainOptions]). [Create] makes a run [Folder] and writes the Config
// into it. Package spt executes runs and writes their files through the Folder. [Configure] makes a
// Config from YAML or JSON and the recipe of the method.
//
// An error that a user can correct is an [OptionError] or an [InputError].
package run

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"github.com/sptune/spt/dataset"
	"github.com/sptune/spt/internal/jsonfile"
	"github.com/sptune/spt/internal/option"
	"github.com/sptune/spt/method"
	"github.com/sptune/spt/plan"
	"github.com/sptune/spt/sensitivity"
	"github.com/sptune/spt/train"
)

// Config is the content of config.json. It describes a run completely enough to repeat it.
type Config struct {
	jsonfile.Header           // kind "run"; set by Create
	Spt             string    `json:"spt"`     // version of spt; set by Create
	Started         time.Time `json:"started"` // when the run began, UTC

	Model     ModelConfig   `json:"model"`
	Data      DataConfig    `json:"data"`
	Compute   ComputeConfig `json:"compute,omitzero"`
	Objective string        `json:"objective"`       // name of the objective; empty: objective.For
	Tune      TuneOptions   `json:"tune,omitzero"`   // options of a run of all stages
	Train     *TrainOptions `json:"train,omitempty"` // options of one training; set instead of Tune
	Folds     FoldOptions   `json:"folds,omitzero"`  // makes the run a cross-validation with Tune
}

// Method returns the method of the run, whether it has all stages or is one training.
func (c *Config) Method() method.Method {
	if c.Train != nil {
		return c.Train.Method
	}
	return c.Tune.Method
}

// Recipe returns the options of the trainings of the run.
func (c *Config) Recipe() train.Options {
	if c.Train != nil {
		return c.Train.Train
	}
	return c.Tune.Train
}

// The values of TuneOptions.Recipe.
const (
	// RecipeAuto chooses the options by the images, the backbone and the time; see package recipe.
	RecipeAuto = "auto"
	// RecipeVTAB is the recipe of the paper for VTAB-1k.
	RecipeVTAB = "vtab"
	// RecipeFGVC is the recipe of the paper for FGVC.
	RecipeFGVC = "fgvc"
)

// RecipeOptions returns the options of a run of a method by a recipe, without those that depend on
// the task. RecipeAuto leaves the number of steps, the learning rate and other options open: they
// are zero, and spt.Task.Prepare chooses them.
func RecipeOptions(m method.Row, recipe string) TuneOptions {
	o := TuneOptions{Method: m.Method, Train: m.TrainOptions(), LRs: m.LearningRates, Recipe: recipe}
	if recipe == RecipeAuto {
		o.Train.Epochs, o.Train.WarmupEpochs, o.Train.LR, o.LRs = 0, 0, 0, nil
		o.Probe, o.NoRefit, o.Score.Stratified = true, true, true
		if m.Method == method.Linear {
			o.NoRefit = false // the features are there, so a second fit takes no time
		}
	}
	return o
}

// RecipeOf returns the recipe of a data set of a benchmark: its name, as dataset.FindKnown takes
// it. An unknown name is an [*OptionError].
func RecipeOf(task string) (string, error) {
	known, err := dataset.FindKnown(task)
	switch {
	case err != nil:
		return "", &OptionError{Option: "task", Err: err}
	case known.Group == RecipeFGVC:
		return RecipeFGVC, nil
	}
	return RecipeVTAB, nil
}

// Recipes returns the names of all recipes.
func Recipes() []string { return []string{RecipeAuto, RecipeVTAB, RecipeFGVC} }

// CheckRecipe returns an [*OptionError] for an unknown recipe.
func CheckRecipe(recipe string) error {
	if slices.Contains(Recipes(), recipe) {
		return nil
	}
	return &OptionError{Option: "recipe", Err: option.Unknown("recipe", "recipe", recipe, Recipes())}
}

// TuneOptions configures a run of all stages.
type TuneOptions struct {
	// Method is the name of the method, which determines the tuned parameters.
	Method method.Method `json:"method"`
	// Budgets lists the candidates. A budget is the number of parameters to tune, or a share of the
	// parameters of the backbone. Empty: 0.5 % of the backbone for a method that plans, no budget
	// for other methods.
	Budgets []plan.Budget `json:"budgets"`
	// Options configures the method. Its Budget must be zero; Budgets replaces it.
	method.Options
	// ScoresFile is the path of a scores file, which replaces stage 1. If the file states other
	// options than those set in Score, the run is refused. Empty: score the backbone.
	ScoresFile string `json:"scores_file,omitempty"`
	// KeepScores keeps the scores, also those of ScoresFile, in the run folder. They are as large
	// as the backbone. Resuming a run does not need them, because the run folder keeps the plans.
	// Default: false.
	KeepScores bool `json:"keep_scores,omitempty"`
	// Score configures stage 1.
	Score sensitivity.Options `json:"score"`
	// Plan configures stage 2. Its Module, Only, Rank, FromBlock and Seed are set from Method, Rank
	// and FromBlock.
	Plan plan.Options `json:"plan"`
	// Train configures stage 3: it is the recipe of every training.
	Train train.Options `json:"train"`
	// Recipe is the recipe that fills in options that are not given: [RecipeAuto], [RecipeVTAB] or
	// [RecipeFGVC]. It is for people and for Configure; the other fields define the run. Empty: the
	// caller gives all options.
	Recipe string `json:"recipe,omitempty"`
	// Probe fits a linear probe first, on the features of the frozen backbone. Its head, with a
	// bounded norm, is the head of stage 1 and the initial head of every training. The result has
	// the accuracy of the probe. For the method linear the probe replaces the training. Default:
	// false.
	Probe bool `json:"probe"`
	// FromDelta is the folder of a delta from which the run starts: it tunes the same parameters
	// with the same method, from the tuned values. Rows of the head belong to classes by their
	// names; new classes get new rows. Empty: the run starts from the backbone.
	FromDelta string `json:"from_delta,omitempty"`
	// NoRefit skips the final training on the training and validation images together. The result
	// is then the chosen candidate itself. It has no effect without validation. Default: false.
	NoRefit bool `json:"no_refit"`
	// AutoAugment leaves the choice of the augmentation to RecipeAuto: spt.Task.Prepare compares no
	// augmentation with the preset light, sets DataConfig.Images and clears this field. Default:
	// false.
	AutoAugment bool `json:"auto_augment,omitempty"`
	// TimeLimit is the time, in seconds, in which Task.Tune ends, counted from its start or from
	// Began. Trainings take fewer steps if they are too slow for it. Zero means no limit.
	TimeLimit float64 `json:"time_limit,omitempty"`
	// Began is the time from which TimeLimit counts. It is not stored: a resumed run gets the whole
	// TimeLimit again. Zero means the start of Tune.
	Began time.Time `json:"-"`
	// LRs lists learning rates: each budget is a candidate with each of them, in place of Train.LR.
	// Empty: Train.LR.
	LRs []float64 `json:"lrs,omitempty"`
	// MethodRates reports that LRs are the learning rates of the method, and not the choice of a
	// user. Task.Effective then leaves LRs out if no validation can choose among them. It is not
	// stored, because a recorded run holds the result. Default: false.
	MethodRates bool `json:"-"`
	// NoValidation skips the trainings that validate the candidates, so it needs a single
	// candidate. The result then has no validation accuracy. Default: false.
	NoValidation bool `json:"no_validation"`
	// ValidationOnly trains and validates the candidates, and skips the final training and the
	// test. The run makes no delta, and its result describes the best candidate. It needs
	// validation images. Default: false.
	ValidationOnly bool `json:"validation_only,omitempty"`
	// PaperProtocol also reports the highest test accuracy over all epochs as test_max, as the
	// reference release does. It does not influence the run. Default: false.
	PaperProtocol bool `json:"paper_protocol"`
}

// Try is one candidate of a run: a budget and a learning rate.
type Try struct {
	Name   string      // name of its folder and of its progress events
	Budget plan.Budget // zero for a method without a budget
	LR     float64
}

// SkipsScoring reports whether a file of scores or a delta replaces stage 1 of a method that
// scores.
func (o TuneOptions) SkipsScoring() bool { return o.ScoresFile != "" || o.FromDelta != "" }

// Tries returns the candidates of a run with the options o, in the order in which they are tried.
func (o TuneOptions) Tries() (all []Try) {
	lrs, budgets := o.LRs, o.Budgets
	if len(lrs) == 0 {
		lrs = []float64{o.Train.LR}
	}
	if len(budgets) == 0 {
		budgets = []plan.Budget{{}}
	}
	for _, b := range budgets {
		for _, lr := range lrs {
			name := cmp.Or(b.String(), string(o.Method))
			if len(lrs) > 1 {
				name += fmt.Sprintf("-lr-%g", lr)
			}
			all = append(all, Try{name, b, lr})
		}
	}
	return all
}

// TrainOptions configures one training, either of a plan or of a method that needs no plan.
type TrainOptions struct {
	// Method is the name of the method. For a plan it is the method that made the plan.
	Method method.Method `json:"method"`
	// Options configures the method. For a plan, only FromBlock may be set, to that of the plan.
	method.Options
	// WithVal also trains on the validation images, and does not validate. Default: false.
	WithVal bool `json:"with_val"`
	// Train is the recipe of the training.
	Train train.Options `json:"train"`
}
