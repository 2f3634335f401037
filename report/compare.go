package report

import (
	"cmp"
	"fmt"
	"html/template"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/sptune/spt/evaluate"
	"github.com/sptune/spt/internal/wording"
	"github.com/sptune/spt/report/chart"
	"github.com/sptune/spt/sweep"
)

// comparedView is the section that compares runs.
type comparedView struct {
	Notes  []string
	Table  tableView
	Charts []template.HTML
	Pairs  *tableView
}

// compare returns the section that compares runs.
func compare(runs []*Run) *comparedView {
	v := &comparedView{Table: tableView{Sortable: true, Tall: len(runs) > 20,
		Head: head("run", "method", "budget", "accuracy#", "95% interval", "of", "images#", "validation#", "tuned parameters#", "delta#", "learning rate#", "seconds#", "state")}}
	data := map[string]bool{}
	for _, r := range runs {
		data[r.Config.Data.Samples] = true
		row := []cellView{text(r.Name), text(string(r.Config.Method()))}
		if r.Result == nil {
			value, what := r.state()
			row = append(row, text("–"), text(value), text(""), text(""), text(""), text(""), text(""), text(""), number("%g", r.Config.Recipe().LR), text(""), text(what))
			v.Table.Rows = append(v.Table.Rows, row)
			continue
		}
		row = append(row, text(cmp.Or(r.Result.Budget.String(), "–")))
		if e := r.Evaluation; e != nil && e.Labels != nil {
			row = append(row, share(e.Labels.MAP), text(""), text(cmp.Or(splitName(e.Split), e.Split)+", mAP"), count(e.Labels.Images))
		} else if e != nil {
			m := e.Metrics
			row = append(row, share(m.Top1), text(fmt.Sprintf("%s to %s", wording.Percent(m.Interval.Low), wording.Percent(m.Interval.High))), text(cmp.Or(splitName(e.Split), e.Split)), count(m.Images))
		} else {
			row = append(row, text("–"), text(""), text(""), text(""))
		}
		if r.Result.Val != nil {
			row = append(row, share(*r.Result.Val))
		} else {
			row = append(row, text("–"))
		}
		row = append(row, count(r.Result.Counts.Tuned()), cellView{Text: wording.Bytes(r.DeltaBytes), Number: true, Sorted: true, Value: float64(r.DeltaBytes)},
			number("%g", r.Result.LR), number("%.0f", r.Result.Seconds), text("finished"))
		v.Table.Rows = append(v.Table.Rows, row)
	}
	if len(data) > 1 {
		v.Notes = append(v.Notes, "The runs have different data sets, so their accuracies cannot be compared.")
	}
	if len(runs) > MaxDetailed {
		v.Notes = append(v.Notes, fmt.Sprintf("The page compares %d runs and describes none of them; make a page of at most %d runs for their details.", len(runs), MaxDetailed))
	}
	v.Charts = append(v.Charts, accuracies(runs)...)
	v.Pairs = pairs(runs)
	return v
}

// accuracies returns the chart of accuracy against tuned parameters, and the curves of the last
// training of each run.
func accuracies(runs []*Run) (charts []template.HTML) {
	s := chart.Scatter{Title: "Accuracy and trained parameters", XLabel: "Trained parameters, with the head", YLabel: "Accuracy (%)", YPercent: true, XLog: true}
	for _, r := range runs {
		if r.Result == nil || r.Evaluation == nil || r.Evaluation.Metrics == nil {
			continue
		}
		i := &r.Evaluation.Metrics.Interval
		trained := r.Result.Counts.Tuned() + r.Result.Counts.Head
		s.Points = append(s.Points, chart.Point{X: float64(trained), Y: r.Evaluation.Metrics.Top1, YLow: &i.Low, YHigh: &i.High, Label: r.Name,
			Hover: fmt.Sprintf("%s: %s with %s trained parameters", r.Name, wording.Percent(r.Evaluation.Metrics.Top1), wording.Thousands(trained))})
	}
	if len(s.Points) > 0 {
		charts = append(charts, s.SVG())
	}
	var last []Training
	for _, r := range runs {
		// The candidate with validation says more than the final training.
		at := slices.IndexFunc(r.Trainings, validated)
		if at < 0 {
			at = len(r.Trainings) - 1
		}
		if at >= 0 {
			last = append(last, Training{Name: r.Name, Epochs: r.Trainings[at].Epochs})
		}
	}
	// one series for a run
	accuracy := chart.Line{Title: "Accuracy during training", XLabel: "Epoch", YLabel: "Accuracy (%)", YPercent: true}
	for _, t := range mostUseful(last) {
		series := chart.Series{Name: t.Name + ", training"}
		of := trainAccuracy
		if validated(t) {
			series.Name, of = t.Name+", validation", valAccuracy
		}
		for _, e := range t.Epochs {
			series.X, series.Y = append(series.X, float64(e.Epoch)), append(series.Y, of.value(e))
		}
		accuracy.Series = append(accuracy.Series, series)
	}
	if len(accuracy.Series) > 0 {
		charts = append(charts, accuracy.SVG())
	}
	return charts
}

// pairs returns the paired comparisons of runs that were tested on the same images. It compares the
// first MaxDetailed runs.
func pairs(runs []*Run) *tableView {
	t := &tableView{Head: head("run", "beside", "difference in points#", "95% interval", "only the first right#", "only the second right#", "p#")}
	runs = runs[:min(len(runs), MaxDetailed)]
	for i, a := range runs {
		for _, b := range runs[:i] {
			if a.Evaluation == nil || b.Evaluation == nil || len(a.Evaluation.Images) == 0 || len(b.Evaluation.Images) == 0 {
				continue
			}
			c, err := evaluate.CompareRanked(b.Evaluation.Classes, b.Evaluation.Images, a.Evaluation.Classes, a.Evaluation.Images)
			if err != nil { // other images
				continue
			}
			t.Rows = append(t.Rows, []cellView{text(a.Name), text(b.Name), number("%+.2f", 100*c.Difference),
				text(fmt.Sprintf("%+.2f to %+.2f", 100*c.Interval.Low, 100*c.Interval.High)), count(c.OnlySecond), count(c.OnlyFirst), number("%.3g", c.P)})
		}
	}
	if len(t.Rows) == 0 {
		return nil
	}
	return t
}

// sweepView is the section with the table of a sweep.
type sweepView struct {
	Caption, Missing string
	Table            tableView
	Charts           []template.HTML
	Differences      *tableView
}

// sweepView returns the section with the table of the sweep.
func (p *Page) sweepView() *sweepView {
	t := p.Sweep
	v := &sweepView{Caption: t.Caption(), Table: blockTable(t.Block())}
	v.Table.Sortable = true
	if p.Missing > 0 {
		v.Missing = fmt.Sprintf("%s of the sweep has no result yet.", wording.Count(p.Missing, "run"))
		if p.Missing > 1 {
			v.Missing = fmt.Sprintf("%s of the sweep have no result yet.", wording.Count(p.Missing, "run"))
		}
	}
	s := chart.Scatter{Title: "Mean accuracy and trained parameters", XLabel: "Trained parameters, with the head", YLabel: "Mean accuracy of the tasks (%)", YPercent: true, XLog: true}
	b := chart.Bar{Title: "Accuracy of each task", XLabel: "Accuracy (%)", YLabel: "Task", Percent: true, MostRows: 60}
	for i, l := range t.Lines {
		name := lineName(t, l)
		b.Groups = append(b.Groups, name)
		for k, c := range l.Tasks {
			if c.N > 0 {
				low, high := deviation(c)
				b.Bars = append(b.Bars, chart.BarValue{Label: t.Tasks[k], Value: c.Mean, Low: low, High: high, Group: i})
			}
		}
		if c := l.MeanOfTasks; c.N > 0 {
			low, high := deviation(c)
			s.Points = append(s.Points, chart.Point{X: l.Tuned + l.Head, Y: c.Mean, YLow: low, YHigh: high, Label: name, Group: i})
		}
	}
	v.Charts = append(v.Charts, b.SVG())
	if len(s.Points) > 0 {
		v.Charts = append(v.Charts, s.SVG())
	}
	if len(t.Differences) > 0 {
		differences := blockTable(t.DifferenceBlock())
		v.Differences = &differences
	}
	return v
}

// deviation returns the ends of an error bar of one standard deviation, or nil if it is not known.
func deviation(c sweep.Cell) (low, high *float64) {
	if c.SD < 0 {
		return nil, nil
	}
	a, b := c.Mean-c.SD, c.Mean+c.SD
	return &a, &b
}

// blockTable returns a table of texts. The first line is the head.
func blockTable(block [][]string) tableView {
	t := tableView{}
	for i, line := range block {
		var row []cellView
		for _, cell := range line {
			row = append(row, sortedText(cell))
		}
		if i == 0 {
			t.Head = row
		} else {
			t.Rows = append(t.Rows, row)
		}
	}
	return t
}

// leading matches the number with which a text begins.
var leading = regexp.MustCompile(`^[+-]?[0-9][0-9,]*(\.[0-9]+)?`)

// sortedText returns a cell that is sorted by the number with which its text begins, if it begins
// with one.
func sortedText(s string) cellView {
	c := text(s)
	if v, err := strconv.ParseFloat(strings.ReplaceAll(leading.FindString(s), ",", ""), 64); err == nil {
		c.Number, c.Sorted, c.Value = true, true, v
	}
	return c
}

// lineName returns the name of a line of a table: the method, the budget, and the backbone if there
// are several.
func lineName(t *sweep.Table, l sweep.Line) string {
	name := strings.TrimSpace(l.Method + " " + l.Budget)
	if slices.ContainsFunc(t.Lines, func(other sweep.Line) bool { return other.Model != l.Model }) {
		name += ", " + l.Model
	}
	return name
}
