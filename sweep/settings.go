package sweep

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/sptune/spt/internal/option"
	"github.com/sptune/spt/internal/yamlfile"
	"github.com/sptune/spt/method"
	"github.com/sptune/spt/run"
	"github.com/sptune/spt/train"
)

// setting is a setting that a grid can vary.
type setting struct {
	// key is the key in a grid.
	key string
	// option is the name of the option in the catalogue of methods. A method that does not read the
	// option skips the setting.
	option string
	// path is the place of the value in a configuration.
	path []string
	// recipe returns the number of the recipe that the setting changes, if it changes nothing else.
	// Nil: the configuration must be made again with the value.
	recipe func(*train.Options) *float64
}

// settings lists the settings, in the order in which names of grid points show them.
var settings = []setting{
	{"budget", "budget", []string{"tune", "budgets"}, nil},
	{"rank", "rank", []string{"tune", "rank"}, nil},
	{"prompts", "prompts", []string{"tune", "prompts"}, nil},
	{"bottleneck", "bottleneck", []string{"tune", "bottleneck"}, nil},
	{"scale", "scale", []string{"tune", "scale"}, nil},
	{"epochs", "epochs", []string{"tune", "train", "epochs"}, nil},
	{"batch_size", "batch-size", []string{"tune", "train", "batch_size"}, nil},
	{lrKey, "learning-rate", nil, func(o *train.Options) *float64 { return &o.LR }},
	{"head_lr", "head-learning-rate", nil, func(o *train.Options) *float64 { return &o.HeadLR }},
	{"weight_decay", "weight-decay", nil, func(o *train.Options) *float64 { return &o.WeightDecay }},
	{"drop_path", "drop-path", nil, func(o *train.Options) *float64 { return &o.DropPath }},
	{"dropout", "dropout", nil, func(o *train.Options) *float64 { return &o.Dropout }},
	{"module_drop_path", "module-drop-path", nil, func(o *train.Options) *float64 { return &o.ModuleDropPath }},
}

// lrKey is the key of the learning rate, which replaces a list of learning rates.
const lrKey = "lr"

// Settings returns the keys of the settings that a grid can vary.
func Settings() []string {
	keys := make([]string, len(settings))
	for i, s := range settings {
		keys[i] = s.key
	}
	return keys
}

// seedsKey is the key of a grid that lists the seeds of the trainings with which it chooses.
const seedsKey = "seeds"

// grid holds the values of each setting.
type grid struct {
	node   *yamlfile.Node
	values map[string][]*yamlfile.Node // by the key of the setting
	seeds  []uint64                    // empty: the first seed of the specification
}

// parseGrid parses a grid. It returns nil if n is nil.
func parseGrid(n *yamlfile.Node) (*grid, error) {
	if n == nil {
		return nil, nil
	}
	keys, values, err := yamlfile.Pairs(n)
	if err != nil {
		return nil, fmt.Errorf("select: %w", err)
	}
	g := &grid{node: n, values: map[string][]*yamlfile.Node{}}
	for i, key := range keys {
		if key.Value == seedsKey {
			if err := yamlfile.Decode(values[i], &g.seeds); err != nil {
				return nil, fmt.Errorf("select: seeds: %w", err)
			}
			continue
		}
		if !slices.Contains(Settings(), key.Value) {
			return nil, yamlfile.At(key, fmt.Errorf("select: %w", option.Unknown("", "setting", key.Value, append(Settings(), seedsKey))))
		}
		if g.values[key.Value] != nil {
			return nil, yamlfile.At(key, fmt.Errorf("select: the setting %s is given twice", key.Value))
		}
		items, err := yamlfile.Items(values[i])
		if err != nil {
			return nil, fmt.Errorf("select: %s: %w", key.Value, err)
		}
		if len(items) == 0 {
			return nil, yamlfile.At(key, fmt.Errorf("select: the setting %s has no values; list at least one", key.Value))
		}
		seen := map[string]bool{}
		for _, item := range items {
			text, ok := yamlfile.Text(item)
			if !ok {
				return nil, yamlfile.At(item, fmt.Errorf("select: %s: expected numbers", key.Value))
			}
			if seen[text] {
				return nil, yamlfile.At(item, fmt.Errorf("select: %s: the value %s is listed twice", key.Value, text))
			}
			seen[text] = true
		}
		g.values[key.Value] = items
	}
	if len(g.values) == 0 {
		return nil, yamlfile.At(n, errors.New("select: the grid has no setting; list values, for example lr: [1e-3, 1e-2], or leave select out"))
	}
	return g, nil
}

// point is a point of a grid.
type point struct {
	name  string           // such as "budget=0.2M lr=0.001"; empty without settings
	base  string           // the part of the name whose settings change the configuration
	nodes []*yamlfile.Node // changes of the configuration
	// recipe holds the settings that only change the recipe, with their values.
	recipe []recipeValue
}

// recipeValue is a value of a setting that only changes the recipe.
type recipeValue struct {
	setting
	node *yamlfile.Node
}

// apply changes the recipe of o.
func (p point) apply(o *run.TuneOptions) error {
	for _, v := range p.recipe {
		if err := yamlfile.Decode(v.node, v.recipe(&o.Train)); err != nil {
			return fmt.Errorf("select: %s: %w", v.key, err)
		}
		if err := o.Train.Validate(); err != nil {
			return yamlfile.At(v.node, fmt.Errorf("select: %w", err))
		}
		if v.key == lrKey {
			o.LRs = nil
		}
	}
	return nil
}

// points returns the points of the grid for a method. It skips settings that the method does not
// read. own reports whether the grid belongs to the method alone; such a setting is then an error.
// A grid of which a method reads no setting has no points.
func (g *grid) points(m method.Row, own bool) ([]point, error) {
	if g == nil {
		return nil, nil
	}
	points := []point{{}}
	for _, s := range settings {
		values := g.values[s.key]
		if values == nil {
			continue
		}
		if !m.Takes(s.option) {
			if own {
				return nil, yamlfile.At(g.node, fmt.Errorf("select: %w", m.CheckTakes(s.option)))
			}
			continue
		}
		var next []point
		for _, p := range points {
			for _, value := range values {
				name := s.key + "=" + value.Value
				made := point{strings.TrimSpace(p.name + " " + name), p.base, slices.Clip(p.nodes), slices.Clip(p.recipe)}
				n := value
				switch {
				case s.recipe != nil:
					made.recipe = append(made.recipe, recipeValue{s, value})
				case s.key == "budget":
					n = yamlfile.List(value)
					fallthrough
				default:
					made.base, made.nodes = made.name, append(made.nodes, yamlfile.Under(n, s.path...))
				}
				next = append(next, made)
			}
		}
		points = next
	}
	if len(points) == 1 && points[0].name == "" {
		return nil, nil
	}
	return points, nil
}

// has reports whether the grid varies a setting.
func (g *grid) has(key string) bool { return g != nil && g.values[key] != nil }

// size returns the number of points, without regard to methods, and at most limit.
func (g *grid) size(limit int) int {
	n := 1
	for _, values := range g.values {
		if n *= len(values); n > limit {
			return limit
		}
	}
	return n
}
