package cli

import (
	"encoding/json"
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/sptune/spt/internal/yamlfile"
	"github.com/sptune/spt/run"
)

// readConfig reads the configuration file of --config into o.config. Flags win over the file.
func readConfig(cmd *cobra.Command, o *options) error {
	file, err := run.ReadConfig(o.configFile)
	if err != nil {
		return err
	}
	flags, err := overrides(cmd, o)
	if err != nil {
		return err
	}
	before := given(cmd)
	base, err := baseRecipe(file, o.config.Data.Task)
	if err != nil {
		return err
	}
	c, err := run.Configure(base, file, flags)
	if err != nil {
		if at, ok := errors.AsType[*yamlfile.Error](err); ok && at.Line == 0 {
			// A flag is the cause, because the nodes of flags have no places.
			return refuse("--config %s together with the other flags: %w", o.configFile, at.Err)
		}
		return &run.InputError{Err: fmt.Errorf("reading the configuration %s: %w", o.configFile, err)}
	}
	o.config = c
	if _, ok := before["budget"]; ok {
		o.config.Tune.Budgets = nil // setting the flag again appends
	}
	// Configure has set the options of the preset of --augment.
	return setAgain(cmd, before, func(f flagRow) bool { return f.on != "*" && f.name != "augment" })
}

// baseRecipe returns the configuration below a file, which names the recipe auto. It is nil for the
// config.json of a run, which has all options, and for a data set of a benchmark. task is the value
// of --task.
func baseRecipe(file *yamlfile.Node, task string) (*yamlfile.Node, error) {
	if yamlfile.Key(file, "spt") != nil || task != "" || yamlfile.Key(yamlfile.Key(file, "data"), "task") != nil {
		return nil, nil
	}
	n, err := yamlfile.Parse([]byte("tune: {recipe: " + run.RecipeAuto + "}"))
	if err == nil {
		clearPlaces(n)
	}
	return n, err
}

// overrides returns the flags that determine the defaults of other keys, or make recorded keys
// obsolete, as a configuration without places.
func overrides(cmd *cobra.Command, o *options) (*yamlfile.Node, error) {
	type object map[string]any
	model, data, images, tune, recipe, score := object{}, object{}, object{}, object{}, object{}, object{}
	for _, f := range flagsOf(tableName(cmd)) {
		switch {
		case !cmd.Flags().Changed(f.name):
		case f.group == modelGroup:
			model["fingerprint"] = ""
		case f.group == dataGroup && !f.local:
			data["samples"] = ""
		}
	}
	c := &o.config
	for _, set := range []struct {
		flag, key string
		to        object
		value     any
	}{
		{"model", "path", model, c.Model.Path}, {"data", "path", data, c.Data.Path}, {"task", "task", data, c.Data.Task},
		{"resize", "resize", images, c.Data.Images.Resize}, {"augment", "preset", images, c.Data.Images.Preset}, {"augment", "auto_augment", tune, c.Tune.AutoAugment}, {"recipe", "recipe", tune, c.Tune.Recipe},
		{"from-delta", "from_delta", tune, c.Tune.FromDelta}, {"method", "method", tune, c.Tune.Method},
		{"epochs", "epochs", recipe, o.recipe.Epochs}, {"warmup-epochs", "warmup_epochs", recipe, o.recipe.WarmupEpochs}, {"lr", "lr", recipe, o.recipe.LR},
		{"class-weights", "class_weights", recipe, o.recipe.ClassWeights}, {"balanced-sampling", "balanced_sampling", recipe, o.recipe.BalancedSampling},
		{"seed", "seed", recipe, o.recipe.Seed}, {"seed", "seed", score, o.recipe.Seed},
	} {
		if cmd.Flags().Changed(set.flag) {
			set.to[set.key] = set.value
		}
	}
	if o.structured != "" {
		tune["method"] = c.Tune.Method // takeStructured has set it
	}
	all := object{}
	for _, part := range []struct {
		of   object
		key  string
		keys object
	}{{data, "images", images}, {tune, "train", recipe}, {tune, "score", score}, {all, "model", model}, {all, "data", data}, {all, "tune", tune}} {
		if len(part.keys) > 0 {
			part.of[part.key] = part.keys
		}
	}
	text, err := json.Marshal(all)
	if err != nil {
		return nil, err
	}
	n, err := yamlfile.Parse(text)
	if err == nil {
		clearPlaces(n)
	}
	return n, err
}

// clearPlaces removes the lines and columns from a node.
func clearPlaces(n *yamlfile.Node) {
	n.Line, n.Column = 0, 0
	for _, part := range n.Content {
		clearPlaces(part)
	}
}
