package sweep

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/sptune/spt"
	"github.com/sptune/spt/internal/yamlfile"
	"github.com/sptune/spt/plan"
	"github.com/sptune/spt/progress"
	"github.com/sptune/spt/run"
)

// MaxJobs is the largest number of jobs of a specification.
const MaxJobs = 100_000

// Jobs is the result of [Make].
type Jobs struct {
	Spec *Spec
	// All holds the jobs. A job comes after the jobs that it needs, and jobs on the same backbone
	// and data set follow each other.
	All []Job
	// Missing lists the data sets of the suite that are not in the root.
	Missing []string
}

// Make makes the jobs of a specification. It opens every data set and every backbone, and checks
// the options of every job, but computes nothing on images. Relative paths become absolute. A
// specification that cannot work is a [*run.InputError]. report receives the progress of downloads
// of backbones; it may be nil.
func Make(ctx context.Context, s *Spec, report progress.Func) (*Jobs, error) {
	m := maker{spec: s, out: &Jobs{Spec: s}, report: report, opened: map[string]*opened{}, labels: map[string]Job{}}
	if err := m.all(ctx); err != nil {
		// A failed download says nothing about the specification.
		if _, outage := errors.AsType[*outage](err); outage || ctx.Err() != nil {
			return nil, err
		}
		return nil, s.wrap(err)
	}
	return m.out, nil
}

// maker makes jobs.
type maker struct {
	spec   *Spec
	out    *Jobs
	report progress.Func
	// opened holds the tasks of the current backbone and data set, by configuration.
	opened map[string]*opened
	// labels holds the jobs by ID.
	labels map[string]Job
}

// outage is an error that has another cause than the specification, such as a failed download.
type outage struct{ error }

// Unwrap returns the cause.
func (o *outage) Unwrap() error { return o.error }

// opened is an open task with its recorded configuration.
type opened struct {
	task      *spt.Task
	model     run.ModelConfig
	data      run.DataConfig
	objective string
}

// arm is a method of the specification with its budgets and its grid.
type arm struct {
	item
	grid    *grid
	own     bool // the grid belongs to the method alone
	budgets []plan.Budget
}

func (m *maker) all(ctx context.Context) error {
	tasks, missing, err := m.spec.tasks()
	m.out.Missing = missing
	if err != nil {
		return err
	}
	models, err := m.spec.models()
	if err != nil {
		return err
	}
	arms, err := m.arms()
	if err != nil {
		return err
	}
	if n := m.count(arms) * len(models) * len(tasks); n > MaxJobs {
		return fmt.Errorf("it makes more than %d jobs: about %d; divide it into several specifications", MaxJobs, n)
	}
	for _, model := range models {
		for _, task := range tasks {
			clear(m.opened)
			for _, a := range arms {
				if err := m.arm(ctx, model, task, a); err != nil {
					return fmt.Errorf("%s, %s: %w", task.Name, a.Name, err)
				}
			}
		}
	}
	return nil
}

// arms returns the methods with their budgets and grids.
func (m *maker) arms() (arms []arm, err error) {
	items, err := m.spec.methods()
	if err != nil {
		return nil, err
	}
	for _, it := range items {
		a := arm{item: it, own: it.Select != nil, budgets: it.Budgets}
		selected := m.spec.Select
		if a.own {
			selected = it.Select
		}
		if a.grid, err = parseGrid(selected); err != nil {
			return nil, err
		}
		switch {
		case len(a.budgets) > 0 && !a.row.Takes("budget"):
			return nil, yamlfile.At(it.node, fmt.Errorf("methods: %s: %w", it.Name, a.row.CheckTakes("budget")))
		case len(a.budgets) > 0 && a.grid.has("budget"):
			return nil, yamlfile.At(it.node, fmt.Errorf("methods: %s: both budgets and the setting budget of the grid are given; give one of them", it.Name))
		case len(a.budgets) == 0 && a.row.Takes("budget") && !a.grid.has("budget") && !a.sized():
			a.budgets = m.spec.Budgets
		}
		arms = append(arms, a)
	}
	return arms, nil
}

// sized reports whether the item itself gives the number of parameters to tune, so that the budgets
// of the specification do not apply to it.
func (a arm) sized() bool {
	rank := yamlfile.Key(a.Tune, "rank") != nil && !a.row.Scores
	return rank || yamlfile.Key(a.Tune, "budgets") != nil
}

// count returns the largest number of jobs on one data set and one backbone, or more than MaxJobs.
func (m *maker) count(arms []arm) (n int) {
	for _, a := range arms {
		points := 0
		if a.grid != nil {
			points = a.grid.size(MaxJobs+1) * max(1, len(a.grid.seeds))
		}
		n += max(1, len(a.budgets)) * (max(1, len(m.spec.Seeds)) + points)
	}
	return min(n, MaxJobs+1)
}

// arm makes the jobs of one method on one backbone and data set.
func (m *maker) arm(ctx context.Context, model, task item, a arm) error {
	var nodes []*yamlfile.Node
	if m.spec.Config != nil {
		nodes = append(nodes, m.spec.Config)
	}
	nodes = slices.Concat(nodes, model.overrides(), task.overrides(), a.overrides())
	points, err := a.grid.points(a.row, a.own)
	if err != nil {
		return err
	}
	budgets := a.budgets
	if len(budgets) == 0 {
		budgets = []plan.Budget{{}}
	}
	seeds := m.spec.Seeds
	if len(seeds) == 0 {
		seeds = []uint64{0}
	}
	for _, budget := range budgets {
		nodes := slices.Clip(nodes)
		if !budget.IsZero() {
			nodes = append(nodes, yamlfile.Under(yamlfile.List(yamlfile.String(budget.String())), "tune", "budgets"))
		}
		label := Job{Header: jobHeader, Task: task.Name, Group: task.Group, Model: model.Name, Method: a.Name, Budget: budget.String()}
		var candidates [][]string
		bases := map[string]Config{} // configurations without the recipe of a point
		for _, p := range points {
			c, known := bases[p.base]
			if !known {
				if c, err = m.configure(ctx, append(slices.Clip(nodes), p.nodes...), true); err != nil {
					return fmt.Errorf("%s: %w", p.name, err)
				}
				bases[p.base] = c
			}
			if err := p.apply(&c.Tune); err != nil {
				return err
			}
			j := label
			j.Stage, j.Setting, j.Config = Select, p.name, c
			selection := a.grid.seeds
			if len(selection) == 0 {
				selection = seeds[:1]
			}
			ids, err := m.add(j, a, selection)
			if err != nil {
				return err
			}
			candidates = append(candidates, ids)
		}
		c, err := m.configure(ctx, nodes, false)
		if err != nil {
			return err
		}
		j := label
		j.Stage, j.Config, j.Candidates = Final, c, candidates
		if _, err := m.add(j, a, seeds); err != nil {
			return err
		}
	}
	return nil
}

// configure returns the configuration that the nodes describe, complete except the seeds. validate
// reports whether the run shall only validate.
func (m *maker) configure(ctx context.Context, nodes []*yamlfile.Node, validate bool) (Config, error) {
	c, err := run.Configure(nodes...)
	if err != nil {
		return Config{}, err
	}
	if c.Folds.Number > 0 {
		return Config{}, errors.New("a job of a sweep is a single run, and folds make several; leave folds out")
	}
	at, err := m.open(ctx, c)
	if err != nil {
		return Config{}, err
	}
	given := slices.ContainsFunc(nodes, func(n *yamlfile.Node) bool {
		return yamlfile.Key(yamlfile.Key(n, "tune"), "no_validation") != nil
	})
	switch {
	case validate && len(at.task.Data().Val) == 0:
		return Config{}, fmt.Errorf("select chooses on validation images, and data set %s has none; give a validation split, or leave select out", at.task.Data().Name)
	case validate:
		c.Tune.ValidationOnly, c.Tune.NoValidation, c.Tune.PaperProtocol = true, false, false
	case !given && !c.Tune.ValidationOnly && c.Tune.Recipe != run.RecipeAuto:
		// A run with nothing to choose needs no validation, except for an early stop.
		c.Tune.NoValidation = len(c.Tune.Budgets) < 2 && len(c.Tune.LRs) < 2
	}
	task, model, data := at.task, at.model, at.data
	if c.Tune.Recipe == run.RecipeAuto {
		// The jobs must not depend on the speed of the machine that plans them.
		if c.Tune.TimeLimit > 0 {
			return Config{}, fmt.Errorf("a time limit of %g s: runs with a time limit depend on the speed of the machine, so a sweep cannot compare them; leave time_limit out", c.Tune.TimeLimit)
		}
		chosen := c
		if task, _, err = task.Prepare(ctx, &chosen, m.report); err != nil {
			return Config{}, err
		}
		chosen.Tune.Began = time.Time{}
		c.Tune, model.ImageSize, data.Images = chosen.Tune, chosen.Model.ImageSize, chosen.Data.Images
		model.Record(task.Model()) // another image size has other position embeddings
	}
	if c.Tune, err = task.Effective(c.Tune); err != nil {
		return Config{}, err
	}
	return Config{Model: model, Data: data, Compute: c.Compute, Objective: at.objective, Tune: c.Tune}, nil
}

// open opens the backbone and the data set of a configuration on the processor, whatever its
// device.
func (m *maker) open(ctx context.Context, c run.Config) (*opened, error) {
	key, err := json.Marshal([]any{c.Model, c.Data, c.Objective})
	if err != nil {
		return nil, err
	}
	at := m.opened[string(key)]
	if at == nil {
		c.Compute = run.ComputeConfig{Device: "cpu"}
		task, err := spt.Open(ctx, &c, m.report)
		if code := run.ExitCode(ctx, err); err != nil && code != run.ExitUsage && code != run.ExitInput {
			return nil, &outage{err}
		}
		if err != nil {
			return nil, err
		}
		c.Model.Record(task.Model())
		c.Data.Record(task.Data())
		at = &opened{task, c.Model, c.Data, c.Objective}
		m.opened[string(key)] = at
	}
	return at, nil
}

// add adds a job for each seed, if it is new, and returns the IDs.
func (m *maker) add(j Job, a arm, seeds []uint64) (ids []string, err error) {
	for _, seed := range seeds {
		j.Seed, j.Config.Tune.Train.Seed, j.Config.Tune.Score.Seed = seed, seed, seed
		if err := j.identify(a.row.Scores); err != nil {
			return nil, err
		}
		ids = append(ids, j.ID)
		first, known := m.labels[j.ID]
		if known && j.Stage == Final {
			return nil, fmt.Errorf("the runs %q and %q have the same configuration; remove one of them", first, j)
		}
		if !known {
			m.labels[j.ID] = j
			m.out.All = append(m.out.All, j)
		}
	}
	return ids, nil
}
