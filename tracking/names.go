package tracking

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/sptune/spt/evaluate"
	"github.com/sptune/spt/plan"
	"github.com/sptune/spt/run"
	"github.com/sptune/spt/train"
)

// This file has the names of all metrics and parameters. They are the usual names of timm and
// MLflow where these have one.

// epochMetrics lists the metrics of an epoch. value reports false if the epoch has no such figure.
var epochMetrics = []struct {
	name  string
	value func(e train.Epoch) (float64, bool)
}{
	{"train_loss", func(e train.Epoch) (float64, bool) { return e.TrainLoss, true }},
	{"train_accuracy", func(e train.Epoch) (float64, bool) { return e.TrainAccuracy, true }},
	{"val_loss", func(e train.Epoch) (float64, bool) { return e.ValLoss, validated(e) }},
	{"val_accuracy", func(e train.Epoch) (float64, bool) { return e.ValAccuracy, validated(e) }},
	// Only the protocol of the paper tests after every epoch; test_accuracy is the only test of an
	// honest run.
	{"epoch_test_accuracy", func(e train.Epoch) (float64, bool) { return e.TestAccuracy, e.TestAccuracy != 0 }},
	{"lr", func(e train.Epoch) (float64, bool) { return e.LR, true }},
	{"images_per_second", func(e train.Epoch) (float64, bool) { return e.ImagesPerSecond, e.ImagesPerSecond != 0 }},
	{"wait_share", func(e train.Epoch) (float64, bool) { return e.WaitShare, e.WaitShare != 0 }},
	{"epoch_seconds", func(e train.Epoch) (float64, bool) { return e.Seconds, true }},
}

// validated reports whether an epoch was validated.
func validated(e train.Epoch) bool { return e.ValLoss != 0 || e.ValAccuracy != 0 }

// finalMetric is a metric of a finished run.
type finalMetric struct {
	name  string
	value float64
}

// splitMetrics lists the metrics of the predictions of a split. The name of the split and an
// underscore come before theirs.
var splitMetrics = []struct {
	name  string
	value func(m *evaluate.Metrics) float64
}{
	{"top5", func(m *evaluate.Metrics) float64 { return m.Top5 }},
	{"balanced_accuracy", func(m *evaluate.Metrics) float64 { return m.BalancedAccuracy }},
	{"macro_f1", func(m *evaluate.Metrics) float64 { return m.Macro.F1 }},
	{"kappa", func(m *evaluate.Metrics) float64 { return m.Kappa }},
	{"log_loss", func(m *evaluate.Metrics) float64 { return m.LogLoss }},
	{"ece", func(m *evaluate.Metrics) float64 { return m.Calibration.ECE }},
}

// finalMetrics returns the metrics of a result.
func finalMetrics(r run.Result) (all []finalMetric) {
	add := func(name string, value float64) {
		// An objective may name a metric of its own like one of these.
		if !slices.ContainsFunc(all, func(m finalMetric) bool { return m.name == name }) {
			all = append(all, finalMetric{name, value})
		}
	}
	if r.Val != nil {
		add("val_accuracy", *r.Val)
	}
	if r.Test != nil {
		add("test_accuracy", r.Test.Accuracy)
		add("test_loss", r.Test.Loss)
	}
	if r.TestMax != nil {
		add("test_max", *r.TestMax)
	}
	if r.Metrics != nil {
		for _, m := range splitMetrics {
			add(r.MetricsOf+"_"+m.name, m.value(r.Metrics))
		}
	}
	if r.Calibrated != nil {
		add(r.MetricsOf+"_ece_calibrated", r.Calibrated.Calibration.ECE)
	}
	if r.Temperature != 0 {
		add("temperature", r.Temperature)
	}
	if r.Test != nil {
		for _, name := range slices.Sorted(maps.Keys(r.Test.Metrics)) {
			add("test_"+name, r.Test.Metrics[name])
		}
	}
	add("tuned_parameters", float64(r.Counts.Tuned()))
	add("head_parameters", float64(r.Counts.Head))
	add("training_seconds", r.Seconds)
	return all
}

// The name of the image of the confusion matrix.
const matrixName = "confusion_matrix"

// Parameter is an option of a run. Value is a string, a bool or a number.
type Parameter struct {
	Name  string
	Value any
}

// parameters returns the options of a run. It leaves out an option that is empty or zero, if this
// means that the run does not use it.
func parameters(c run.Config) (all []Parameter) {
	always := func(name string, value any) { all = append(all, Parameter{name, value}) }
	given := func(name string, value any) {
		if value != nil && value != "" && value != 0 && value != 0.0 && value != false {
			always(name, value)
		}
	}
	o := c.Tune
	if c.Train != nil {
		o = run.TuneOptions{Method: c.Train.Method, Options: c.Train.Options, Train: c.Train.Train}
		o.Budgets = []plan.Budget{c.Train.Budget}
	}
	always("model", c.Model.Path)
	always("image_size", c.Model.ImageSize)
	always("data", c.Data.Path)
	given("task", c.Data.Task)
	always("classes", c.Data.Classes)
	always("train_images", c.Data.Train)
	always("val_images", c.Data.Val)
	always("test_images", c.Data.Test)
	always("split_seed", c.Data.SplitSeed)
	given("resize", c.Data.Images.Resize)
	given("resize_to", c.Data.Images.ResizeTo)
	given("random_crop", c.Data.Images.RandomCrop)
	given("flip", c.Data.Images.HorizontalFlip)
	a := c.Data.Images.Augment
	if a.CropScale != [2]float64{} {
		always("crop_scale", fmt.Sprintf("%g,%g", a.CropScale[0], a.CropScale[1]))
		always("crop_ratio", fmt.Sprintf("%g,%g", a.CropRatio[0], a.CropRatio[1]))
	}
	given("vertical_flip", a.VerticalFlip)
	given("brightness", a.Brightness)
	given("contrast", a.Contrast)
	given("saturation", a.Saturation)
	given("hue", a.Hue)
	given("rand_augment", a.RandAugment)
	given("rand_augment_magnitude", a.Magnitude)
	given("random_erasing", a.Erasing)
	given("mixup", a.Mixup)
	given("cutmix", a.CutMix)
	given("test_flip", c.Data.Images.TestFlip)
	given("objective", c.Objective)
	given("device", c.Compute.Device)
	given("devices", c.Compute.Devices)
	given("precision", string(c.Compute.Precision))

	always("method", string(o.Method))
	given("budget", plan.BudgetNames(o.Budgets))
	given("rank", o.Rank)
	given("prompts", o.Prompts)
	given("bottleneck", o.Bottleneck)
	given("scale", o.Scale)
	given("target_modules", strings.Join(o.TargetModules, ","))
	given("from_block", o.FromBlock)
	given("criterion", string(o.Score.Criterion))
	given("score_batches", o.Score.Batches)
	given("score_batch_size", o.Score.BatchSize)
	given("plan_rule", o.Plan.Rule)
	given("alpha", o.Plan.Alpha)
	given("beta", o.Plan.Beta)
	given("compat", o.Plan.Compat)

	t := o.Train
	always("epochs", t.Epochs)
	always("batch_size", t.BatchSize)
	var rates []string
	for _, lr := range o.LRs {
		rates = append(rates, fmt.Sprint(lr))
	}
	if len(rates) > 1 {
		always("lr", strings.Join(rates, ", "))
	} else {
		always("lr", o.Tries()[0].LR)
	}
	given("head_lr", t.HeadLR)
	for _, group := range slices.Sorted(maps.Keys(t.LRFactors)) {
		given("lr_factor_"+string(group), t.LRFactors[group])
	}
	always("weight_decay", t.WeightDecay)
	always("warmup_epochs", t.WarmupEpochs)
	always("warmup_lr", t.WarmupLR)
	always("min_lr", t.MinLR)
	always("drop_path", t.DropPath)
	always("dropout", t.Dropout)
	always("module_drop_path", t.ModuleDropPath)
	given("init", string(t.Init))
	always("seed", t.Seed)
	given("no_validation", o.NoValidation)
	given("validation_only", o.ValidationOnly)
	given("paper_protocol", o.PaperProtocol)
	if c.Train != nil {
		always("with_val", c.Train.WithVal)
	}
	return all
}

// chosenParameters returns the options that a finished run has chosen. A value that the options of
// the run state already is left out.
func chosenParameters(r run.Result, parameters []Parameter) (all []Parameter) {
	add := func(name, as string, value any) {
		i := slices.IndexFunc(parameters, func(p Parameter) bool { return p.Name == name })
		switch {
		case i < 0:
			all = append(all, Parameter{name, value})
		case parameters[i].Text() != (Parameter{Value: value}).Text():
			all = append(all, Parameter{as, value})
		}
	}
	if !r.Budget.IsZero() {
		add("budget", "chosen_budget", r.Budget.String())
	}
	add("lr", "chosen_lr", r.LR)
	if r.Rank > 0 {
		add("rank", "chosen_rank", r.Rank)
	}
	return all
}

// Text returns the value as text.
func (p Parameter) Text() string { return fmt.Sprint(p.Value) }

// scalar returns the value as a float64, a bool or a string.
func (p Parameter) scalar() any {
	switch v := p.Value.(type) {
	case int:
		return float64(v)
	case uint64:
		return float64(v)
	}
	return p.Value
}
