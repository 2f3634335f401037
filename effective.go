package spt

import (
	"fmt"
	"slices"
	"strings"

	"github.com/sptune/spt/internal/option"
	"github.com/sptune/spt/method"
	"github.com/sptune/spt/objective"
	"github.com/sptune/spt/peft"
	"github.com/sptune/spt/plan"
	"github.com/sptune/spt/run"
	"github.com/sptune/spt/sensitivity"
	"github.com/sptune/spt/train"
)

// Effective returns o with all defaults filled in, as [Task.Tune] uses the options and config.json
// records them. It also checks the options before any costly work. Options that cannot work on this
// task are a [*run.OptionError]. Training images of a single class are a [*run.InputError].
func (t *Task) Effective(o run.TuneOptions) (run.TuneOptions, error) {
	m, err := method.Lookup(o.Method)
	if err != nil {
		return o, optionError(err)
	}
	if err := checkFromDelta(o); err != nil {
		return o, optionError(err)
	}
	o.Plan = o.Plan.WithDefaults()
	if plan.ByGain(o.Plan.Rule) && o.Score.Criterion != sensitivity.SummedGradient {
		if by := o.Score.Criterion; by != "" && by != sensitivity.SquaredGradient { // the default
			return o, &run.OptionError{Option: "criterion", Err: fmt.Errorf("plan rule %s needs scores with the criterion %s, not %s; leave the criterion out", o.Plan.Rule, sensitivity.SummedGradient, by)}
		}
		o.Score.Criterion = sensitivity.SummedGradient
	}
	if o.Score.Criterion.Signed() && !plan.ByGain(o.Plan.Rule) {
		return o, &run.OptionError{Option: "criterion", Err: fmt.Errorf("scores with the criterion %s have signs, which only plan rule %s reads; choose another criterion, or that rule", o.Score.Criterion, plan.Gain)}
	}
	if o.ScoresFile == "" {
		o.Score = o.Score.WithDefaults()
	}
	if o.Plan.Compat != "" {
		// The release scores and trains in its own way too.
		o.Train.Compat = o.Plan.Compat
		if o.Score.Criterion.Images() {
			o.Score.Compat = o.Plan.Compat
		}
	}
	if m.Scores && o.FromDelta == "" {
		if o.Rank == 0 {
			o.Rank = o.Plan.Rank
		}
		o.Plan.Module, o.Plan.Only, o.Plan.Rank = m.Module, m.Only, o.Rank
		o.Plan = o.Plan.WithDefaults()
		o.Rank = o.Plan.Rank
		if len(o.Budgets) == 0 {
			o.Budgets = []plan.Budget{DefaultBudget}
		}
		o.Plan.FromBlock, o.Score.FromBlock = o.FromBlock, o.FromBlock
		o.Plan.Seed = o.Score.Seed
	}
	if o.MethodRates && (o.NoValidation || len(t.data.Val) == 0) {
		o.LRs = nil
	}
	o.MethodRates = false
	if err := t.validate(m, o); err != nil {
		return o, optionError(err)
	}
	if err := t.trainable(); err != nil {
		return o, err
	}
	if o.FromDelta == "" { // the delta has the sizes
		o.Options = m.WithDefaults(o.Options)
	}
	images := len(t.data.Train)
	if o.NoValidation {
		images += len(t.data.Val)
	}
	o.Train = effectiveTrain(m, o.Train, images)
	o.Train, err = t.weighClasses(o.Train)
	return o, err
}

// weighClasses returns o with the class weights that o.ClassWeights names. The recorded weights of
// a run stay as they are. A file that cannot be read is a [*run.InputError].
func (t *Task) weighClasses(o train.Options) (train.Options, error) {
	if o.ClassWeights == "" || o.ClassWeights == train.NoWeights || o.ClassWeightValues != nil {
		return o, nil
	}
	// CheckImages may have removed broken images, but the weights of a resumed run must not change.
	opened := t.data.AsOpened()
	counts, several := opened.ClassCounts(), objective.SeveralLabels(t.objective, t.model.Config)
	if several && o.ClassWeights == train.AutoWeights {
		o.ClassWeightValues = train.PositiveWeights(counts, len(opened.Train))
		return o, nil
	}
	if o.BalancedSampling { // an epoch has as many images of each class that has images
		for class := range counts {
			counts[class] = min(counts[class], 1)
		}
	}
	if o.ClassWeights == train.AutoWeights {
		o.ClassWeightValues = train.BalancedWeights(counts)
		return o, nil
	}
	weights, err := run.ReadClassWeights(o.ClassWeights, t.data.Classes)
	if err != nil {
		return o, err
	}
	if o.ClassWeightValues = weights; !several {
		o.ClassWeightValues = train.NormalWeights(weights, counts)
	}
	if err := o.Validate(); err != nil { // the ratio of two weights may be too large
		return o, &run.InputError{Err: err}
	}
	return o, nil
}

// checkLoss returns an error if the objective or the data set cannot train with the options.
func (t *Task) checkLoss(o train.Options) error {
	if err := o.CheckObjective(t.objective, t.model.Config); err != nil {
		return err
	}
	for _, needs := range []struct {
		option string
		given  bool
	}{{"class-weights", o.ClassWeights == train.AutoWeights}, {"balanced-sampling", o.BalancedSampling}} {
		counts := t.data.ClassCounts()
		if needs.option == "balanced-sampling" { // draws images by their only class
			clear(counts)
			for _, s := range t.data.Train {
				if class := s.Target.Stratum(); class >= 0 {
					counts[class]++
				}
			}
		}
		if needs.given && slices.Max(counts) == 0 {
			return option.Errorf(needs.option, "balancing classes: no training image of data set %s belongs to a single class; leave the option out", t.data.Name)
		}
	}
	return nil
}

// effectiveTrain returns the training options of a method with defaults for a training on n images.
func effectiveTrain(m method.Row, o train.Options, n int) train.Options {
	given := o.Init
	o = o.WithDefaults(n)
	if !m.Takes("init") {
		o.Init = given
	}
	return o
}

// validateTrain returns an error if a training option cannot work, or has no effect on the method.
func validateTrain(m method.Row, o train.Options) error {
	if err := o.Validate(); err != nil {
		return err
	}
	for _, set := range []struct {
		option string
		given  bool
	}{{"head-learning-rate", o.HeadLR != 0}, {"init", o.Init != ""}, {"compat", o.Compat != ""}} {
		if set.given {
			if err := m.CheckTakes(set.option); err != nil {
				return err
			}
		}
	}
	return nil
}

// validate returns an error if the options cannot work on this task. o has its defaults filled in.
func (t *Task) validate(m method.Row, o run.TuneOptions) error {
	if o.Recipe == run.RecipeAuto && (o.Train.Epochs == 0 || o.Train.LR == 0 && len(o.LRs) == 0) {
		return option.Errorf("recipe", "the recipe %s has not chosen the epochs and the learning rate yet, as Task.Prepare does for a single run; give both, or another recipe: %s, %s", run.RecipeAuto, run.RecipeVTAB, run.RecipeFGVC)
	}
	for _, lr := range append([]float64{o.Train.LR}, o.LRs...) {
		recipe := o.Train
		recipe.LR = lr
		if err := validateTrain(m, recipe); err != nil {
			return err
		}
	}
	if err := t.checkLoss(o.Train); err != nil {
		return err
	}
	if err := o.Score.Validate(); err != nil {
		return err
	}
	if o.AutoAugment {
		return option.Errorf("augment", "the augmentation %s is a choice of the recipe %s, which the run does not have; name the augmentation: %s", run.AutoAugment, run.RecipeAuto, strings.Join(run.Presets(), ", "))
	}
	if o.Probe {
		if err := t.checkProbe(); err != nil {
			return err
		}
	}
	if o.Rank < 0 || o.Rank > t.model.Config.MaxRank() {
		return option.Errorf("rank", "rank %d: expected 1 to %d, the shortest side of the backbone's matrices", o.Rank, t.model.Config.MaxRank())
	}
	if !o.Budget.IsZero() {
		return option.Errorf("budget", "budget %s is given in addition to the list of budgets; put it into the list", o.Budget)
	}
	if err := m.Check(o.Options); err != nil {
		return err
	}
	if err := t.checkFromBlock(o.FromBlock); err != nil {
		return err
	}
	for _, set := range []struct {
		option string
		given  bool
	}{{"scores-file", o.ScoresFile != ""}, {"keep-scores", o.KeepScores}} {
		if set.given {
			if err := m.CheckTakes(set.option); err != nil {
				return err
			}
		}
	}
	switch {
	case !o.ValidationOnly:
	case o.NoValidation:
		return option.Errorf("validation-only", "validation only and no validation exclude each other; leave one of them out")
	case o.PaperProtocol:
		return option.Errorf("validation-only", "a run that only validates tests nothing, so the paper protocol has no effect; leave one of them out")
	case len(t.data.Val) == 0:
		return option.Errorf("validation-only", "a run that only validates needs validation images, and data set %s has none; give a validation split", t.data.Name)
	}
	// such as prompts, which do not fit every backbone
	if len(o.Budgets) == 0 && o.FromDelta == "" {
		s, err := m.Select(t.model.Config, o.Options)
		if err == nil {
			_, err = peft.New(t.model.Config, s)
		}
		if err != nil {
			return err
		}
	}
	for _, b := range o.Budgets {
		if err := t.validateBudget(m, b, o); err != nil {
			return err
		}
	}
	for _, list := range []struct {
		option, name string
		n            int
	}{{"budget", "budget", len(o.Budgets)}, {"learning-rate", "learning rate", len(o.LRs)}} {
		switch {
		case list.n < 2:
		case o.NoValidation:
			return option.Errorf("no-validation", "several %ss need validation to choose between them; give one %[1]s, or leave validation on", list.name)
		case len(t.data.Val) == 0:
			return option.Errorf(list.option, "several %ss need validation images to choose between them, and data set %s has none; give one %[1]s, or a validation split", list.name, t.data.Name)
		}
	}
	return nil
}

// checkFromBlock returns an error if a training on the images of the task cannot begin with the
// given block.
func (t *Task) checkFromBlock(block int) error {
	if block == 0 {
		return nil
	}
	if _, _, err := t.model.Config.HiddenSize(block); err != nil {
		return option.Errorf("from-block", "training from a block on: %w", err)
	}
	if t.train != t.eval {
		return option.Errorf("from-block", "training from block %d on computes the tokens that enter the block only once, but augmentation changes the images in each epoch; turn augmentation off, or train the whole backbone", block)
	}
	return nil
}

// checkMemory returns an error if the memory cannot hold the tokens of a run that begins with a
// later block.
func (t *Task) checkMemory(c *run.Config) error {
	block := c.Tune.FromBlock
	if c.Train != nil {
		block = c.Train.FromBlock
	}
	if block == 0 {
		return nil
	}
	return train.CheckMemory(t.model.Config, block, t.tokenImages(c.Tune))
}

// tokenImages returns the number of images whose tokens a run keeps if it begins with a later
// block.
func (t *Task) tokenImages(o run.TuneOptions) int {
	images := len(t.data.Train) + len(t.data.Val)
	if o.PaperProtocol {
		images += len(t.data.Test)
	}
	return images
}

// validateBudget returns an error if the method cannot meet the budget on the backbone.
func (t *Task) validateBudget(m method.Row, budget plan.Budget, o run.TuneOptions) error {
	c := t.model.Config
	if !m.Scores {
		o.Options.Budget = budget
		_, err := m.Select(c, o.Options)
		return err
	}
	parameters, err := budget.Parameters(c.Size())
	if err != nil {
		return err
	}
	_, classToken := c.ClassTokens()
	return o.Plan.Validate(sensitivity.Tensors(c), classToken, parameters)
}
