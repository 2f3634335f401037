package run

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"reflect"
	"strings"
	"time"

	"github.com/sptune/spt/dataset"
	"github.com/sptune/spt/internal/jsonfile"
	"github.com/sptune/spt/internal/option"
	"github.com/sptune/spt/internal/regularfile"
	"github.com/sptune/spt/internal/yamlfile"
	"github.com/sptune/spt/method"
	"github.com/sptune/spt/objective"
	"github.com/sptune/spt/train"
)

// ReadConfig reads a file for [Configure]: a YAML or JSON document with the keys of config.json.
// Broken YAML is an [*InputError] that names the file and the line.
func ReadConfig(path string) (*yamlfile.Node, error) {
	data, err := regularfile.Read(path, maxFile)
	if err != nil {
		return nil, &InputError{Err: fmt.Errorf("reading the configuration: %w", err)}
	}
	n, err := yamlfile.Parse(data)
	if err != nil {
		return nil, &InputError{Err: fmt.Errorf("reading the configuration %s: %w", path, err)}
	}
	return n, nil
}

// Configure returns the configuration of a run of all stages that YAML nodes describe. The keys are
// those of config.json. Configure decodes the nodes one on top of the other: a key of a later node
// replaces the key of an earlier one. A nil node changes nothing.
//
// Keys that no node has take the recipe of the method, as the flags of 'spt tune' do:
//
//   - The method is tune.method; without this key it is spt-lora. It sets tune.train and tune.lrs.
//   - tune.recipe names the recipe; with [RecipeAuto], spt.Task.Prepare fills in the options that
//     depend on the task. Without this key, it is the recipe of the benchmark that data.task names,
//     or else RecipeVTAB, and the key stays empty. It also sets data.images; see [RecipeImages].
//   - The length of the warm-up scales with tune.train.epochs.
//   - The seed of the scores is tune.train.seed.
//   - Keys tune.train.class_weights and tune.train.balanced_sampling replace the class weights that
//     earlier nodes recorded.
//   - A key tune.train.lr replaces the learning rates of the method, and tune.lrs of earlier nodes.
//   - Keys mean and std need no key preprocessing.
//
// The config.json of a run is a node too. It describes this run, with its fingerprints. If a later
// node changes the model or the data, Configure drops what the run recorded of them.
//
// Configure makes relative paths absolute, so that a run can be resumed from any working folder. An
// unknown key, a value that cannot work, and an option that the method does not take are an
// [*InputError] with the line and the column. The caller adds the name of the file.
func Configure(nodes ...*yamlfile.Node) (Config, error) {
	c, err := configure(nodes)
	if err != nil {
		return Config{}, &InputError{Err: err}
	}
	return c, nil
}

func configure(nodes layers) (Config, error) {
	var draft Config // finds errors of the form, and the keys that determine the defaults
	for _, n := range nodes {
		if kind := yamlfile.Key(n, "kind"); kind != nil && kind.Value != string(jsonfile.Run) {
			return draft, yamlfile.At(kind, fmt.Errorf("the kind of the file is %.80q, expected a configuration; give a configuration, such as the %s of a run", kind.Value, ConfigFile))
		}
		if single := yamlfile.Key(n, "train"); single != nil {
			return draft, yamlfile.At(single, errors.New("the key train configures a run of 'spt train'; a run of all stages has the key tune: write the recipe as tune.train, or repeat the training with 'spt train'"))
		}
		if err := yamlfile.Decode(n, &draft); err != nil {
			return draft, err
		}
		if v := yamlfile.Key(n, "version"); v != nil && draft.Version != configHeader.Version {
			return draft, yamlfile.At(v, fmt.Errorf("the configuration has version %d, but this program reads version %d", draft.Version, configHeader.Version))
		}
	}
	if draft.Tune.Method == "" {
		draft.Tune.Method = method.SPTLoRA
	}
	row, err := method.Lookup(draft.Tune.Method)
	if err != nil {
		return draft, nodes.at("tune.method", err)
	}
	chosen := draft.Tune.Recipe
	if chosen != "" {
		if err := CheckRecipe(chosen); err != nil {
			return draft, nodes.at("tune.recipe", err)
		}
	} else if draft.Data.Task != "" {
		if chosen, err = RecipeOf(draft.Data.Task); err != nil {
			return draft, nodes.at("data.task", err)
		}
	}
	base := Config{Compute: ComputeConfig{Devices: 1}, Tune: RecipeOptions(row, chosen)}
	base.Tune.Recipe = draft.Tune.Recipe
	base.Data.ValFraction, base.Data.TestFraction = defaultFraction, defaultFraction
	if chosen != "" {
		base.Data.Images = RecipeImages(chosen)
		// the random crop of the recipe belongs to its resize
		if nodes.last("data.images.resize") >= 0 {
			base.Data.Images.Resize, base.Data.Images.RandomCrop = "", false
		}
	}
	c := base
	for _, n := range nodes {
		c.forget(n)
		// Other keys of the node change the options of the preset.
		if name := node(n, "data.images.preset"); name != nil {
			if c.Data.Images, err = c.Data.Images.WithPreset(name.Value); err != nil {
				return c, nodes.at("data.images.preset", errors.Unwrap(err))
			}
		}
		if err := yamlfile.Decode(n, &c); err != nil {
			return c, err
		}
		if m := yamlfile.Key(n, "model"); (yamlfile.Key(m, "mean") != nil || yamlfile.Key(m, "std") != nil) && yamlfile.Key(m, "preprocessing") == nil {
			c.Model.Preprocessing = GivenPreprocessing
		}
	}
	c.Header, c.Spt, c.Started, c.Tune.Method = jsonfile.Header{}, "", time.Time{}, row.Method
	c.Data.Images.Preset = ""
	if c.Data.Images.Augment.CropScale != [2]float64{} && nodes.last("data.images.random_crop") < 0 {
		c.Data.Images.RandomCrop = false // it comes from the recipe of the task
	}
	t := &c.Tune
	if nodes.last("tune.train.epochs") >= 0 && nodes.last("tune.train.warmup_epochs") < 0 {
		t.Train.WarmupEpochs = base.Tune.Train.WithEpochs(t.Train.Epochs).WarmupEpochs
	}
	if nodes.last("tune.score.seed") < 0 {
		t.Score.Seed = t.Train.Seed
	}
	if values := nodes.last("tune.train.class_weight_values"); max(nodes.last("tune.train.class_weights"), nodes.last("tune.train.balanced_sampling")) > values {
		t.Train.ClassWeightValues = nil
	}
	lr, lrs := nodes.last("tune.train.lr"), nodes.last("tune.lrs")
	if lr > lrs {
		t.LRs = nil
	}
	t.MethodRates = lr < 0 && lrs < 0 && len(t.LRs) > 0
	if !t.Budget.IsZero() {
		return c, nodes.at("tune.budget", fmt.Errorf("a run of all stages has a list of budgets; write budgets: [%s]", t.Budget))
	}
	if err := nodes.checkPlan(t, row); err != nil {
		return c, err
	}
	if err := nodes.check(c, base, row); err != nil {
		return c, err
	}
	if c.Model.Path != "" {
		path, err := Locate(c.Model.Path)
		if err != nil {
			return c, nodes.at("model.path", err)
		}
		c.Model.Path = path
	}
	return c, c.makeAbsolute()
}

// forget removes what c has recorded of a model or of data that the node changes.
func (c *Config) forget(n *yamlfile.Node) {
	if m := yamlfile.Key(n, "model"); m != nil {
		if c.Model.Fingerprint != "" && yamlfile.Key(m, "path") != nil {
			c.Model = ModelConfig{} // Record has filled in all fields
		}
		c.Model.Fingerprint = ""
	}
	d := yamlfile.Key(n, "data")
	if d == nil || len(d.Content) == 2 && yamlfile.Key(d, "images") != nil {
		return
	}
	old := c.Data
	if old.Samples != "" && yamlfile.Key(d, "path") != nil {
		c.Data = DataConfig{ValFraction: old.ValFraction, TestFraction: old.TestFraction, SplitSeed: old.SplitSeed, MaxImages: old.MaxImages, SkipBadImages: old.SkipBadImages, Images: old.Images,
			GroupColumn: old.GroupColumn, GroupPattern: old.GroupPattern, GroupDuplicates: old.GroupDuplicates}
	}
	if c.Tune.Train.ClassWeights != "" { // Task.Effective has filled in the values
		c.Tune.Train.ClassWeightValues = nil
	}
	c.Data.Split, c.Data.Samples, c.Data.Broken, c.Data.Classes, c.Data.Train, c.Data.Val, c.Data.Test = "", "", nil, 0, 0, 0, 0
}

// makeAbsolute makes the paths in c absolute, except the path of the model.
func (c *Config) makeAbsolute() error {
	var err error
	if c.Data.Path != "" {
		if c.Data.Path, err = AbsoluteData(c.Data.Path); err != nil {
			return err
		}
	}
	paths := []*string{&c.Data.ImageRoot, &c.Tune.ScoresFile, &c.Tune.FromDelta}
	if w := &c.Tune.Train.ClassWeights; *w != train.AutoWeights && *w != train.NoWeights {
		paths = append(paths, w)
	}
	for _, path := range paths {
		if *path == "" {
			continue
		}
		abs, err := filepath.Abs(*path)
		if err != nil {
			return err
		}
		*path = abs
	}
	return nil
}

// configKeys lists the keys of config.json that options of the library have. The names of the
// options are those of method.Row.Takes and of OptionError.
var configKeys = []struct{ option, path string }{
	{"objective", "objective"}, {"precision", "compute.precision"}, {"devices", "compute.devices"}, {"layout", "data.layout"},
	{"crop-scale", "data.images.augment.crop_scale"}, {"crop-ratio", "data.images.augment.crop_ratio"}, {"colour-jitter", "data.images.augment"},
	{"rand-augment", "data.images.augment.rand_augment"}, {"rand-augment-magnitude", "data.images.augment.rand_augment_magnitude"},
	{"random-erasing", "data.images.augment.random_erasing"}, {"mixup", "data.images.augment.mixup"}, {"cutmix", "data.images.augment.cutmix"},
	{"budget", "tune.budgets"}, {"rank", "tune.rank"}, {"prompts", "tune.prompts"}, {"bottleneck", "tune.bottleneck"}, {"scale", "tune.scale"}, {"target-modules", "tune.target_modules"}, {"from-block", "tune.from_block"},
	{"scores-file", "tune.scores_file"}, {"keep-scores", "tune.keep_scores"}, {"criterion", "tune.score.criterion"}, {"score-batches", "tune.score.batches"}, {"score-batch-size", "tune.score.batch_size"},
	{"plan-rule", "tune.plan.rule"}, {"alpha", "tune.plan.alpha"}, {"beta", "tune.plan.beta"},
	{"compat", "tune.plan.compat"}, {"compat", "tune.score.compat"}, {"compat", "tune.train.compat"},
	{"recipe", "tune.recipe"}, {"augment", "tune.auto_augment"}, {"from-delta", "tune.from_delta"}, {"probe-head", "tune.probe"}, {"time", "tune.time_limit"}, {"epochs", "tune.train.epochs"}, {"steps", "tune.train.steps"}, {"patience", "tune.train.patience"}, {"batch-size", "tune.train.batch_size"}, {"learning-rate", "tune.lrs"}, {"learning-rate", "tune.train.lr"},
	{"head-learning-rate", "tune.train.head_lr"}, {"learning-rate-factors", "tune.train.lr_factors"}, {"weight-decay", "tune.train.weight_decay"}, {"warmup-epochs", "tune.train.warmup_epochs"},
	{"warmup-learning-rate", "tune.train.warmup_lr"}, {"min-learning-rate", "tune.train.min_lr"}, {"drop-path", "tune.train.drop_path"},
	{"dropout", "tune.train.dropout"}, {"module-drop-path", "tune.train.module_drop_path"}, {"init", "tune.train.init"},
	{"label-smoothing", "tune.train.label_smoothing"}, {"class-weights", "tune.train.class_weights"}, {"class-weights", "tune.train.class_weight_values"},
	{"balanced-sampling", "tune.train.balanced_sampling"}, {"select", "tune.train.select"},
}

// layers holds the nodes of a configuration, the base first.
type layers []*yamlfile.Node

// node returns the value of the key at a path, such as tune.train.lr, in one node. It returns nil
// if the node does not have the key.
func node(n *yamlfile.Node, path string) *yamlfile.Node {
	for key := range strings.SplitSeq(path, ".") {
		n = yamlfile.Key(n, key)
	}
	return n
}

// last returns the index of the last node that has the key at a path, or -1.
func (l layers) last(path string) int {
	for i := len(l) - 1; i >= 0; i-- {
		if node(l[i], path) != nil {
			return i
		}
	}
	return -1
}

// at returns err with the place of the key at a path, if a node has the key.
func (l layers) at(path string, err error) error {
	if i := l.last(path); i >= 0 {
		return yamlfile.At(node(l[i], path), fmt.Errorf("%s: %w", path, err))
	}
	return err
}

// place returns err with the place of the option that err is about.
func (l layers) place(err error) error {
	for _, k := range configKeys {
		if k.option == option.Of(err) && l.last(k.path) >= 0 {
			return l.at(k.path, err)
		}
	}
	return err
}

// checkPlan clears the fields of t.Plan that follow from the method, and sets its rank. It returns
// an error if a node contradicts the method or the rank.
func (l layers) checkPlan(t *TuneOptions, row method.Row) error {
	module, only := row.Module, row.Only
	if !row.Scores {
		module, only = "", ""
	}
	chosen := l.last("tune.method")
	for _, f := range []struct {
		path        string
		found, want string
	}{{"tune.plan.module", t.Plan.Module, module}, {"tune.plan.only", t.Plan.Only, only}} {
		if f.found != "" && f.found != f.want && l.last(f.path) >= chosen {
			return l.at(f.path, fmt.Errorf("%q contradicts the method %s, which has %q; leave the key out", f.found, row.Method, f.want))
		}
	}
	t.Plan.Module, t.Plan.Only = "", "" // Task.Effective sets them
	if t.Rank == 0 || t.Plan.Rank == 0 {
		return nil
	}
	if t.Plan.Rank != t.Rank && l.last("tune.plan.rank") >= l.last("tune.rank") {
		return l.at("tune.plan.rank", fmt.Errorf("rank %d contradicts tune.rank, which is %d; leave the key out", t.Plan.Rank, t.Rank))
	}
	t.Plan.Rank = t.Rank
	return nil
}

// check returns an error for an option in c that the method does not take, and for a value that
// cannot work. base holds the defaults of c.
func (l layers) check(c, base Config, row method.Row) error {
	complete := func(c Config) map[string]any {
		t := &c.Tune
		t.Score, t.Plan, t.Options = t.Score.WithDefaults(), t.Plan.WithDefaults(), row.WithDefaults(t.Options)
		return asMap(c)
	}
	given, usual := complete(c), complete(base)
	for _, k := range configKeys {
		if !row.Takes(k.option) && !reflect.DeepEqual(valueAt(given, k.path), valueAt(usual, k.path)) {
			return l.at(k.path, row.CheckTakes(k.option))
		}
	}
	for _, lr := range append([]float64{c.Tune.Train.LR}, c.Tune.LRs...) {
		training := c.Tune.Train
		training.LR = lr
		if c.Tune.Recipe == RecipeAuto { // zero values are chosen later
			training.LR, training.Epochs = cmp.Or(lr, 1), cmp.Or(training.Epochs, 1)
		}
		if err := training.Validate(); err != nil {
			return l.place(err)
		}
	}
	_, err := objective.Get(c.Objective)
	if err == nil {
		err = dataset.CheckLayout(c.Data.Layout)
	}
	if err == nil {
		err = c.Data.Images.Augment.Validate()
	}
	if err == nil {
		err = c.Tune.Score.Validate()
	}
	if err == nil {
		err = c.Compute.Precision.Validate()
	}
	return l.place(err)
}

// asMap returns the JSON object of a configuration.
func asMap(c Config) (m map[string]any) {
	data, err := json.Marshal(c)
	if err == nil {
		err = json.Unmarshal(data, &m)
	}
	if err != nil {
		panic(err) // every number of a configuration is finite
	}
	return m
}

// valueAt returns the value at a path in a JSON object. It returns nil if there is no value.
func valueAt(object map[string]any, path string) any {
	key, rest, inner := strings.Cut(path, ".")
	if !inner {
		return object[key]
	}
	next, _ := object[key].(map[string]any)
	return valueAt(next, rest)
}
