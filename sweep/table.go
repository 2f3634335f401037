package sweep

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"

	"github.com/sptune/spt/internal/option"
	"github.com/sptune/spt/run"
)

// Metric is the accuracy that a table shows.
type Metric string

// The metrics.
const (
	// TestAccuracy is the test accuracy after the last epoch.
	TestAccuracy Metric = "test"
	// ValAccuracy is the validation accuracy after the last epoch, of runs that validate.
	ValAccuracy Metric = "val"
	// TestMax is the highest test accuracy of all epochs. It chooses the epoch with test images, so
	// it is only comparable with publications that do the same.
	TestMax Metric = "test-max"
)

// Metrics returns all metrics.
func Metrics() []Metric { return []Metric{TestAccuracy, ValAccuracy, TestMax} }

// of returns the metric of a row. ok is false if the row does not have it.
func (m Metric) of(r Row) (v float64, ok bool) {
	v = map[Metric]float64{TestAccuracy: r.Test, ValAccuracy: r.Val, TestMax: r.TestMax}[m]
	return v, v >= 0
}

// TableOptions configures [NewTable].
type TableOptions struct {
	// Metric is the accuracy that the table shows. Empty: TestAccuracy, or ValAccuracy if no run
	// was tested.
	Metric Metric
	// Baseline is the name of the method with which the others are compared. Empty: no comparison.
	Baseline string
	// Where selects the rows of the table. Empty: all rows.
	Where Filter
}

// Table holds means over seeds, and paired differences. Accuracies are shares from 0 to 1.
type Table struct {
	Metric Metric   `json:"metric"`
	Tasks  []string `json:"tasks"`
	Groups []string `json:"groups,omitempty"` // empty if no task, or only some, have a group
	Lines  []Line   `json:"lines"`
	// Baseline is the name of the method with which Differences compare.
	Baseline    string       `json:"baseline,omitempty"`
	Differences []Difference `json:"differences,omitempty"`
}

// Line is a line of a table: a method with a budget on a backbone.
type Line struct {
	Model  string `json:"model"`
	Method string `json:"method"`
	Budget string `json:"budget,omitempty"`
	Choice string `json:"choice"` // see Row.Choice
	// Tuned is the mean of the actual numbers of tuned parameters without the head, Head that of
	// the head, and Seconds the mean time of the trainings.
	Tuned   float64 `json:"tuned_parameters"`
	Head    float64 `json:"head_parameters"`
	Seconds float64 `json:"seconds"`
	// Tasks holds the cells of Table.Tasks, and Groups the means over the tasks of Table.Groups.
	Tasks  []Cell `json:"tasks"`
	Groups []Cell `json:"groups,omitempty"`
	// MeanOfGroups is the mean of Groups, and MeanOfTasks the mean of Tasks.
	MeanOfGroups Cell `json:"mean_of_groups"`
	MeanOfTasks  Cell `json:"mean_of_tasks"`
}

// Cell is a mean. A cell without runs, or a mean with such a cell, has N 0.
type Cell struct {
	Mean float64 `json:"mean"`
	// SD is the standard deviation over seeds. For a mean of cells it is that of the mean, if the
	// cells are independent: sqrt(Σ SD²)/number of cells. It is negative if it is not known,
	// because a cell has a single run.
	SD float64 `json:"sd"`
	N  int     `json:"n"` // number of runs
}

// Difference compares a line with the line of the baseline: runs on the same task with the same
// seed.
type Difference struct {
	Model  string `json:"model"`
	Method string `json:"method"`
	Budget string `json:"budget,omitempty"`
	Pairs  int    `json:"pairs"`
	// Mean is the mean difference, method − baseline, and SE its standard error over the pairs. SE
	// is negative if there are fewer than two pairs.
	Mean float64 `json:"mean"`
	SE   float64 `json:"se"`
	// SeedsSE is the standard error over the seeds: that of the mean of the seeds' mean
	// differences. It is larger than SE if the pairs of a seed differ alike, as pairs with the same
	// random places do. It is negative if there are fewer than three seeds: the difference of two
	// is no measure of their spread.
	SeedsSE float64 `json:"seeds_se"`
	// Better, Equal and Worse count the pairs, and TasksBetter and SeedsBetter the tasks and the
	// seeds with a positive mean difference.
	Better      int `json:"better"`
	Equal       int `json:"equal"`
	Worse       int `json:"worse"`
	Tasks       int `json:"tasks"`
	TasksBetter int `json:"tasks_better"`
	Seeds       int `json:"seeds"`
	SeedsBetter int `json:"seeds_better"`
}

// lineKey identifies a line.
type lineKey struct{ model, method, budget, choice string }

func keyOf(r Row) lineKey { return lineKey{r.Model, r.Method, r.Budget, r.Choice} }

// NewTable makes a table of rows. Rows without the metric are left out. Options that do not fit the
// rows are a [*run.OptionError]; no rows are a [*run.InputError].
func NewTable(rows []Row, o TableOptions) (*Table, error) {
	rows, err := o.Where.rows(rows)
	if err != nil {
		return nil, err
	}
	if o.Metric == "" {
		o.Metric = ValAccuracy
		if slices.ContainsFunc(rows, func(r Row) bool { return r.Test >= 0 }) {
			o.Metric = TestAccuracy
		}
	}
	if !slices.Contains(Metrics(), o.Metric) {
		return nil, &run.OptionError{Option: "metric", Err: option.Unknown("metric", "metric", o.Metric, Metrics())}
	}
	all := len(rows)
	rows = slices.DeleteFunc(slices.Clone(rows), func(r Row) bool {
		_, ok := o.Metric.of(r)
		return !ok
	})
	switch {
	case all == 0:
		return nil, &run.InputError{Err: errors.New("no run has a result yet; run the sweep first")}
	case len(rows) == 0 && o.Metric == TestMax:
		return nil, &run.OptionError{Option: "metric", Err: errors.New("no run has the metric test-max; only runs with tune: {paper_protocol: true} do")}
	case len(rows) == 0:
		return nil, &run.OptionError{Option: "metric", Err: fmt.Errorf("no run has the metric %s; choose another one", o.Metric)}
	}
	t := &Table{Metric: o.Metric}
	groups := map[string]string{}
	byLine := map[lineKey][]Row{}
	var keys []lineKey
	for _, r := range rows {
		if !slices.Contains(t.Tasks, r.Task) {
			t.Tasks = append(t.Tasks, r.Task)
			groups[r.Task] = r.Group
		}
		if r.Group != "" && !slices.Contains(t.Groups, r.Group) {
			t.Groups = append(t.Groups, r.Group)
		}
		if byLine[keyOf(r)] == nil {
			keys = append(keys, keyOf(r))
		}
		byLine[keyOf(r)] = append(byLine[keyOf(r)], r)
	}
	if slices.ContainsFunc(t.Tasks, func(task string) bool { return groups[task] == "" }) {
		t.Groups = nil
	}
	// The tasks of a group are neighbours.
	slices.SortStableFunc(t.Tasks, func(a, b string) int {
		return cmp.Compare(slices.Index(t.Groups, groups[a]), slices.Index(t.Groups, groups[b]))
	})
	for _, key := range keys {
		line, err := t.line(key, byLine[key], groups)
		if err != nil {
			return nil, err
		}
		t.Lines = append(t.Lines, line)
	}
	if o.Baseline != "" {
		t.Baseline = o.Baseline
		return t, t.compare(keys, byLine)
	}
	return t, nil
}

// line returns a line of the table.
func (t *Table) line(key lineKey, rows []Row, groups map[string]string) (Line, error) {
	l := Line{Model: key.model, Method: key.method, Budget: key.budget, Choice: key.choice}
	values := map[string][]float64{}
	seeds := map[string]map[uint64]bool{}
	for _, r := range rows {
		if seeds[r.Task] == nil {
			seeds[r.Task] = map[uint64]bool{}
		}
		if seeds[r.Task][r.Seed] {
			return l, &run.InputError{Err: fmt.Errorf("two results of %s, %s have the seed %d; tables of different sweeps cannot be combined if they share runs", r.Task, r.Method, r.Seed)}
		}
		seeds[r.Task][r.Seed] = true
		v, _ := t.Metric.of(r)
		values[r.Task] = append(values[r.Task], v)
		l.Tuned += float64(r.Tuned) / float64(len(rows))
		l.Head += float64(r.Head) / float64(len(rows))
		l.Seconds += r.Seconds / float64(len(rows))
	}
	for _, task := range t.Tasks {
		l.Tasks = append(l.Tasks, cellOf(values[task]))
	}
	for _, group := range t.Groups {
		var cells []Cell
		for i, task := range t.Tasks {
			if groups[task] == group {
				cells = append(cells, l.Tasks[i])
			}
		}
		l.Groups = append(l.Groups, meanOf(cells))
	}
	l.MeanOfGroups, l.MeanOfTasks = meanOf(l.Groups), meanOf(l.Tasks)
	return l, nil
}

// cellOf returns the mean and the standard deviation of values.
func cellOf(values []float64) Cell {
	c := Cell{SD: -1, N: len(values)}
	for _, v := range values {
		c.Mean += v / float64(len(values))
	}
	if len(values) > 1 {
		sum := 0.0
		for _, v := range values {
			sum += (v - c.Mean) * (v - c.Mean)
		}
		c.SD = math.Sqrt(sum / float64(len(values)-1))
	}
	return c
}

// meanOf returns the mean of cells. It has N 0 if a cell has no runs, because such a mean would not
// be comparable.
func meanOf(cells []Cell) Cell {
	if len(cells) == 0 || slices.ContainsFunc(cells, func(c Cell) bool { return c.N == 0 }) {
		return Cell{SD: -1}
	}
	var m Cell
	squares, known := 0.0, true
	for _, c := range cells {
		m.Mean += c.Mean / float64(len(cells))
		m.N += c.N
		squares += c.SD * c.SD
		known = known && c.SD >= 0
	}
	if m.SD = math.Sqrt(squares) / float64(len(cells)); !known {
		m.SD = -1
	}
	return m
}

// compare sets the differences to the baseline.
func (t *Table) compare(keys []lineKey, byLine map[lineKey][]Row) error {
	isBaseline := func(k lineKey) bool { return k.method == t.Baseline }
	if !slices.ContainsFunc(keys, isBaseline) {
		var methods []string
		for _, k := range keys {
			if !slices.Contains(methods, k.method) {
				methods = append(methods, k.method)
			}
		}
		return &run.OptionError{Option: "baseline", Err: option.Unknown("baseline", "method", t.Baseline, methods)}
	}
	for _, key := range keys {
		if isBaseline(key) {
			continue
		}
		// The line of the baseline on the same backbone: with the same budget, or the only one.
		var with []lineKey
		for _, k := range keys {
			if isBaseline(k) && k.model == key.model {
				with = append(with, k)
			}
		}
		if same := slices.IndexFunc(with, func(k lineKey) bool { return k.budget == key.budget }); same >= 0 && len(with) > 1 {
			with = with[same : same+1]
		}
		if len(with) != 1 {
			continue
		}
		t.Differences = append(t.Differences, t.difference(key, byLine[key], byLine[with[0]]))
	}
	return nil
}

// difference compares the rows of a line with those of the baseline.
func (t *Table) difference(key lineKey, rows, baseline []Row) Difference {
	d := Difference{Model: key.model, Method: key.method, Budget: key.budget}
	type pair struct {
		task string
		seed uint64
	}
	of := map[pair]float64{}
	for _, r := range baseline {
		of[pair{r.Task, r.Seed}], _ = t.Metric.of(r)
	}
	var all []float64
	byTask, bySeed := map[string][]float64{}, map[uint64][]float64{}
	for _, r := range rows {
		base, ok := of[pair{r.Task, r.Seed}]
		if !ok {
			continue
		}
		v, _ := t.Metric.of(r)
		all = append(all, v-base)
		byTask[r.Task] = append(byTask[r.Task], v-base)
		bySeed[r.Seed] = append(bySeed[r.Seed], v-base)
		switch {
		case v > base:
			d.Better++
		case v < base:
			d.Worse++
		default:
			d.Equal++
		}
	}
	d.Pairs, d.Mean, d.SE = len(all), cellOf(all).Mean, standardError(all)
	tasks, seeds := means(byTask), means(bySeed)
	d.Tasks, d.TasksBetter = len(tasks), positive(tasks)
	d.Seeds, d.SeedsBetter, d.SeedsSE = len(seeds), positive(seeds), -1
	if d.Seeds >= 3 {
		d.SeedsSE = standardError(seeds)
	}
	return d
}

// standardError returns the standard error of the mean of values, or −1 for fewer than two values.
func standardError(values []float64) float64 {
	if len(values) < 2 {
		return -1
	}
	return cellOf(values).SD / math.Sqrt(float64(len(values)))
}

// means returns the mean of each list, in the order of the keys.
func means[K cmp.Ordered](lists map[K][]float64) (out []float64) {
	for _, key := range slices.Sorted(maps.Keys(lists)) { // a fixed order, for the same bits
		out = append(out, cellOf(lists[key]).Mean)
	}
	return out
}

// positive returns the number of positive values.
func positive(values []float64) (n int) {
	for _, v := range values {
		if v > 0 {
			n++
		}
	}
	return n
}
