// Package sweep runs many runs: tasks × models × methods × budgets × seeds.
//
// Begin with [ReadSpec], which reads a specification, and [Make], which makes its jobs. A job is
// one run of all stages. [Folder.Save] writes the jobs into a sweep folder, and [Folder.Run] runs
// them. Any number of processes, on any number of machines that share the folder, can run the jobs
// of one folder at the same time. [Folder.Status] tells how far the jobs are, [Folder.Collect]
// reads their results, and [NewTable] makes a table of results: means and standard deviations over
// seeds, and paired differences between methods. [Slurm], [Kubernetes] and [Ray] start the
// processes on a cluster.
//
// # Selection
//
// A specification can have a grid of settings, such as learning rates. Each setting is then trained
// and validated in jobs of the stage [Select], which never read test images. The jobs of the stage
// [Final] take the setting with the highest validation accuracy, train on the training and
// validation images, and test once.
//
// # State
//
// Files are the only state. A job is done if its run folder holds a result. A process that runs a
// job holds a lock, which the operating system releases if the process ends. A job that was stopped
// is resumed from its run folder and gives the same bits.
package sweep

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/sptune/spt/dataset"
	"github.com/sptune/spt/internal/option"
	"github.com/sptune/spt/internal/regularfile"
	"github.com/sptune/spt/internal/yamlfile"
	"github.com/sptune/spt/method"
	"github.com/sptune/spt/plan"
	"github.com/sptune/spt/run"
)

// Spec is a specification of many runs. docs/sweep.md describes its file.
type Spec struct {
	// Path is the path of the file, and Source its content.
	Path   string `json:"-"`
	Source []byte `json:"-"`

	// Config is the configuration that all runs share. Its keys are those of config.json of a run.
	Config *yamlfile.Node `json:"config"`
	// Suite adds the data sets of a benchmark to the tasks: a name of [Suites]. Root is the folder
	// with one folder for each of them.
	Suite string `json:"suite"`
	Root  string `json:"root"`
	// Tasks lists data sets: paths, or items with a name. An item can change any part of Config.
	Tasks []*yamlfile.Node `json:"tasks"`
	// Models lists backbones, as Tasks lists data sets. Default: the model in Config.
	Models []*yamlfile.Node `json:"models"`
	// Methods lists methods: names, or items with a name. An item can have its own budgets and its
	// own grid.
	Methods []*yamlfile.Node `json:"methods"`
	// Budgets lists budgets. Methods that take no budget ignore them. Default: the budget in
	// Config.
	Budgets []plan.Budget `json:"budgets"`
	// Seeds lists the seeds of the final runs. Default: 0.
	Seeds []uint64 `json:"seeds"`
	// Select is a grid of settings to choose from on validation data. See [Settings].
	Select *yamlfile.Node `json:"select"`
}

// item is an item of Tasks, Models or Methods.
type item struct {
	Name      string         `json:"name"`
	Group     string         `json:"group"`
	Model     *yamlfile.Node `json:"model"`
	Data      *yamlfile.Node `json:"data"`
	Compute   *yamlfile.Node `json:"compute"`
	Objective *yamlfile.Node `json:"objective"`
	Tune      *yamlfile.Node `json:"tune"`
	Budgets   []plan.Budget  `json:"budgets"`
	Select    *yamlfile.Node `json:"select"`

	node *yamlfile.Node // place in the file; nil for a data set of a suite
	row  method.Row     // of an item of Methods
}

// maxSpec limits the size of a specification, in bytes.
const maxSpec = 16 << 20

// ReadSpec reads a specification. A broken file is a [*run.InputError] that names the line and the
// column.
func ReadSpec(path string) (*Spec, error) {
	source, err := regularfile.Read(path, maxSpec)
	if err != nil {
		return nil, &run.InputError{Err: err}
	}
	return ParseSpec(path, source)
}

// ParseSpec parses the content of a specification. path is only used in errors.
func ParseSpec(path string, source []byte) (*Spec, error) {
	s := &Spec{Path: path, Source: source}
	root, err := yamlfile.Parse(source)
	switch {
	case err != nil:
	case root == nil:
		err = errors.New("the file is empty; expected the keys methods and tasks, or suite and root")
	default:
		err = yamlfile.Decode(root, s)
	}
	if err == nil {
		err = s.check(root)
	}
	if err != nil {
		return nil, s.wrap(err)
	}
	return s, nil
}

// wrap returns err as an InputError about the specification. It hides an OptionError, because the
// options are in the file and not in flags.
func (s *Spec) wrap(err error) error {
	return &run.InputError{Err: fmt.Errorf("specification %s: %v", s.Path, err)}
}

// check returns an error for a list that is missing or empty.
func (s *Spec) check(root *yamlfile.Node) error {
	for _, list := range []struct {
		key string
		n   int
	}{{"tasks", len(s.Tasks)}, {"models", len(s.Models)}, {"methods", len(s.Methods)}, {"budgets", len(s.Budgets)}, {"seeds", len(s.Seeds)}} {
		if given := yamlfile.Key(root, list.key); given != nil && list.n == 0 {
			return yamlfile.At(given, fmt.Errorf("%s: the list is empty; list at least one value, or leave the key out", list.key))
		}
	}
	seen := map[uint64]bool{}
	for _, seed := range s.Seeds {
		if seen[seed] {
			return yamlfile.At(yamlfile.Key(root, "seeds"), fmt.Errorf("seeds: the seed %d is listed twice", seed))
		}
		seen[seed] = true
	}
	switch {
	case len(s.Methods) == 0:
		return errors.New("no methods are given; list them, for example: methods: [spt-lora, lora, linear]")
	case s.Suite == "" && len(s.Tasks) == 0 && yamlfile.Key(s.Config, "data") == nil:
		return errors.New("no data sets are given; list their folders, for example: tasks: [photos/birds, photos/cars]")
	case s.Suite != "" && s.Root == "":
		return yamlfile.At(yamlfile.Key(root, "suite"), errors.New("suite needs root, the folder with one folder for each data set of the suite"))
	case s.Suite == "" && s.Root != "":
		return yamlfile.At(yamlfile.Key(root, "root"), errors.New("root has no effect without suite; leave it out, or give suite too"))
	}
	if s.Suite != "" {
		if _, ok := suites[s.Suite]; !ok {
			return yamlfile.At(yamlfile.Key(root, "suite"), option.Unknown("", "suite", s.Suite, Suites()))
		}
	}
	return nil
}

// suites maps the name of a suite to the prefix of the groups of its data sets.
var suites = map[string]string{"fgvc": "fgvc", "vtab1k": "vtab-"}

// Suites returns the names of the known suites.
func Suites() []string { return slices.Sorted(maps.Keys(suites)) }

// suiteTasks returns the data sets of the suite, without their paths.
func (s *Spec) suiteTasks() (known []dataset.Known) {
	if s.Suite == "" {
		return nil
	}
	for _, k := range dataset.KnownSets() {
		if strings.HasPrefix(k.Group, suites[s.Suite]) {
			known = append(known, k)
		}
	}
	return known
}

// groupOf returns the name of a group of a suite in tables: natural, specialized, structured or
// fgvc.
func groupOf(k dataset.Known) string { return strings.TrimPrefix(k.Group, "vtab-") }

// parseItem parses an item of a list. A scalar is the value of the configuration at the path keys,
// such as data.path.
func parseItem(n *yamlfile.Node, keys ...string) (item, error) {
	it := item{node: n}
	text, scalar := yamlfile.Text(n)
	if !scalar {
		return it, yamlfile.Decode(n, &it)
	}
	it.Name = text
	return it, yamlfile.Decode(yamlfile.Under(n, keys...), &it)
}

// overrides returns the parts of the configuration that the item changes, as one mapping for each.
func (it item) overrides() (nodes []*yamlfile.Node) {
	for _, part := range []struct {
		key string
		n   *yamlfile.Node
	}{{"model", it.Model}, {"data", it.Data}, {"compute", it.Compute}, {"objective", it.Objective}, {"tune", it.Tune}} {
		if part.n != nil {
			nodes = append(nodes, yamlfile.Under(part.n, part.key))
		}
	}
	return nodes
}

// parseItems parses the items of a list and checks that their names differ. name returns the name
// of an item without one.
func parseItems(list []*yamlfile.Node, name func(item) string, keys ...string) ([]item, error) {
	seen := map[string]bool{}
	var items []item
	for _, n := range list {
		it, err := parseItem(n, keys...)
		if err != nil {
			return nil, err
		}
		if _, scalar := yamlfile.Text(n); scalar || it.Name == "" {
			it.Name = name(it)
		}
		if it.Name == "" {
			return nil, yamlfile.At(n, fmt.Errorf("the item has no name and no %s", strings.Join(keys, ".")))
		}
		if seen[it.Name] {
			return nil, yamlfile.At(n, fmt.Errorf("two items have the name %q; give one of them another name with the key name", it.Name))
		}
		seen[it.Name] = true
		items = append(items, it)
	}
	return items, nil
}

// tasks returns the data sets of the specification. missing lists the data sets of the suite that
// are not in the root.
func (s *Spec) tasks() (items []item, missing []string, err error) {
	for _, k := range s.suiteTasks() {
		path := filepath.Join(s.Root, k.Name)
		if _, err := os.Stat(path); err != nil {
			missing = append(missing, k.Name)
			continue
		}
		data := yamlfile.Merge(yamlfile.Under(yamlfile.String(path), "path"), yamlfile.Under(yamlfile.String(k.Name), "task"))
		items = append(items, item{Name: k.Name, Group: groupOf(k), Data: data})
	}
	if s.Suite != "" && len(items) == 0 {
		return nil, missing, fmt.Errorf("suite %s: the root %s has no folder of the suite; expected folders such as %s", s.Suite, s.Root, missing[0])
	}
	listed, err := parseItems(s.Tasks, func(it item) string {
		return pathName(yamlfile.Key(it.Data, "path"))
	}, "data", "path")
	if err != nil {
		return nil, missing, fmt.Errorf("tasks: %w", err)
	}
	for _, it := range listed {
		if it.Group == "" {
			it.Group = groupOfTask(it)
		}
		for _, other := range items {
			if other.Name == it.Name {
				return nil, missing, yamlfile.At(it.node, fmt.Errorf("tasks: the suite has a data set of the name %q; give this one another name with the key name", it.Name))
			}
		}
		items = append(items, it)
	}
	if len(items) == 0 { // the data set is in Config
		items = []item{{Name: pathName(yamlfile.Key(yamlfile.Key(s.Config, "data"), "path"))}}
	}
	return items, missing, nil
}

// groupOfTask returns the group of a data set of a benchmark that an item names with data.task.
func groupOfTask(it item) string {
	task, _ := yamlfile.Text(yamlfile.Key(it.Data, "task"))
	if k, err := dataset.FindKnown(task); err == nil {
		return groupOf(k)
	}
	return ""
}

// models returns the backbones of the specification.
func (s *Spec) models() ([]item, error) {
	if len(s.Models) == 0 {
		path := yamlfile.Key(yamlfile.Key(s.Config, "model"), "path")
		if path == nil {
			return nil, errors.New("no backbone is given; list them, for example: models: [vit_tiny.safetensors]")
		}
		return []item{{Name: pathName(path)}}, nil
	}
	items, err := parseItems(s.Models, func(it item) string { return pathName(yamlfile.Key(it.Model, "path")) }, "model", "path")
	if err != nil {
		err = fmt.Errorf("models: %w", err)
	}
	return items, err
}

// methods returns the methods of the specification, with their rows of the catalogue.
func (s *Spec) methods() ([]item, error) {
	items, err := parseItems(s.Methods, func(it item) string {
		name, _ := yamlfile.Text(yamlfile.Key(it.Tune, "method"))
		return name
	}, "tune", "method")
	if err != nil {
		return nil, fmt.Errorf("methods: %w", err)
	}
	for i, it := range items {
		named := yamlfile.Key(it.Tune, "method")
		name, ok := yamlfile.Text(named)
		if !ok {
			if name, ok = yamlfile.Text(yamlfile.Key(yamlfile.Key(s.Config, "tune"), "method")); !ok {
				return nil, yamlfile.At(it.node, fmt.Errorf("methods: the item %q names no method; give it tune: {method: NAME}", it.Name))
			}
		}
		if items[i].row, err = method.Lookup(method.Method(name)); err != nil {
			return nil, yamlfile.At(named, fmt.Errorf("methods: %w", err))
		}
	}
	return items, nil
}

// pathName returns the name of a file or folder in tables: the last part of its path, without the
// extension of a checkpoint.
func pathName(path *yamlfile.Node) string {
	text, _ := yamlfile.Text(path)
	if text == "" {
		return ""
	}
	if abs, err := filepath.Abs(text); err == nil && !strings.HasPrefix(text, "hf:") {
		text = abs // a path such as "." has no name
	}
	name := filepath.Base(text)
	for _, ext := range []string{".safetensors", ".pth", ".bin", ".npz"} {
		name = strings.TrimSuffix(name, ext)
	}
	return name
}
