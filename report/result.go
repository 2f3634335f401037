package report

import (
	"cmp"
	"fmt"
	"slices"

	"github.com/sptune/spt/evaluate"
	"github.com/sptune/spt/internal/wording"
	"github.com/sptune/spt/method"
	"github.com/sptune/spt/objective"
	"github.com/sptune/spt/run"
)

// answer returns the section with the result of the run.
func (r *Run) answer() *answerView {
	v := &answerView{}
	fact := func(name, value, note string) {
		v.Facts = append(v.Facts, factView{Name: name, Value: value, Note: note})
	}
	var measured []factView
	switch e := r.Evaluation; {
	case r.Result == nil:
		v.Value, v.What = r.state()
	case e != nil:
		measured = e.addAnswer(v)
	case r.Result.Test != nil:
		v.Value, v.What = wording.Percent(r.Result.Test.Accuracy), fmt.Sprintf("test %s, %s", r.score(), wording.Count(r.Result.Test.Images, "image"))
	case r.Result.Val != nil:
		v.Value, v.What = wording.Percent(*r.Result.Val), "validation "+r.score()+"; the run did not test"
	default:
		v.Sentences = append(v.Sentences, "The run had neither validation nor test images, so its accuracy is not known.")
	}
	done, all := r.progress()
	epochs := factView{Name: "epochs", Value: fmt.Sprint(done), Note: all, Epoch: true}
	if r.Result == nil {
		v.Facts = append(v.Facts, epochs)
		return v
	}
	result := r.Result
	accuracy, tested := r.tested()
	switch {
	case result.KeptProbe():
		v.Sentences = append(v.Sentences, fmt.Sprintf("The linear probe was better on the validation images than tuning with %s, so the delta is the probe.", r.Config.Method()))
	case r.Config.Method() == method.Linear:
	case r.Probe != nil && tested:
		fact("linear probe", wording.Percent(r.Probe.Accuracy), fmt.Sprintf("%+.2f points by tuning; %s", 100*(accuracy-r.Probe.Accuracy), r.Probe.Name))
	case tested:
		fact("linear probe", "not measured", fmt.Sprintf("it trains only the head: spt tune --method %s", method.Linear))
	}
	tuned := result.Counts.Tuned()
	note := fmt.Sprintf("and a head of %s", wording.Thousands(result.Counts.Head))
	if r.Tuning != nil {
		note = fmt.Sprintf("%s of the backbone, %s", wording.Percent(float64(tuned)/float64(r.Tuning.Config.Size())), note)
	}
	fact("tuned parameters", wording.Thousands(tuned), note)
	if r.DeltaBytes > 0 {
		fact("size of the delta", wording.Bytes(r.DeltaBytes), "")
	}
	note = ""
	if !r.Config.Started.IsZero() {
		note = wording.Time(result.Finished.Sub(r.Config.Started).Seconds()) + " from the start to the result"
	}
	fact("training time", wording.Time(result.Seconds), note)
	fact("method", string(result.Method), budgetNote(result))
	v.Facts = append(v.Facts, epochs)
	if result.Val != nil && (tested || r.Evaluation == nil) {
		fact("validation "+r.score(), wording.Percent(*result.Val), "of the chosen candidate, which chose it")
	}
	if result.TestMax != nil {
		fact("test-max (paper protocol)", wording.Percent(*result.TestMax), "the highest of all epochs, for comparison only")
	}
	v.Facts = append(v.Facts, measured...)
	if n := len(result.Changed); n > 0 {
		v.Warnings = append(v.Warnings, fmt.Sprintf("Files changed while the run read them: %d, the first is %s. The result may be wrong; repeat the run.", n, result.Changed[0]))
	}
	return v
}

// tested returns the test accuracy. ok is false if the run has not tested.
func (r *Run) tested() (accuracy float64, ok bool) {
	switch {
	case r.Result != nil && r.Result.Test != nil:
		return r.Result.Test.Accuracy, true
	case r.Evaluation != nil && r.Evaluation.Split == "test":
		if r.Evaluation.Labels != nil {
			return r.Evaluation.Labels.MAP, true
		}
		return r.Evaluation.Metrics.Top1, true
	}
	return 0, false
}

// score returns the name of the metric by which the run chooses.
func (r *Run) score() string { return objective.ScoreName(r.Config.Objective) }

// budgetNote returns the budget and the learning rate of a result in words.
func budgetNote(r *run.Result) string {
	note := "trained on " + r.TrainedOn
	if r.LR > 0 { // not for a probe
		note = fmt.Sprintf("learning rate %g, %s", r.LR, note)
	}
	if b := r.Budget.String(); b != "" {
		note = "budget " + b + ", " + note
	}
	return note
}

// addAnswer adds the accuracy of the evaluation and what it says about new images. It returns the
// other metrics.
func (e *Evaluation) addAnswer(v *answerView) (facts []factView) {
	if e.Labels != nil {
		return e.addLabelAnswer(v)
	}
	m := e.Metrics
	split := cmp.Or(splitName(e.Split), e.Split)
	if e.Split == "all" {
		split = ""
	} else {
		split += " "
	}
	v.Value, v.What = wording.Percent(m.Top1), fmt.Sprintf("%saccuracy: %d of %s right", split, m.Correct, wording.Count(m.Images, "image"))
	width := m.Interval.High - m.Interval.Low
	interval := fmt.Sprintf("95%% interval %s to %s", wording.Percent(m.Interval.Low), wording.Percent(m.Interval.High))
	switch {
	case width > 0.3:
		v.Warnings = append(v.Warnings, fmt.Sprintf("A test of %s says little: the accuracy on new images of the same kind may lie anywhere in a range of %.0f points (%s). Test with more images.", wording.Count(m.Images, "image"), 100*width, interval))
	default:
		v.Sentences = append(v.Sentences, fmt.Sprintf("%s: with other images of the same kind, the accuracy would mostly lie there.", interval))
	}
	if e.Split == "val" {
		v.Sentences = append(v.Sentences, "The validation images chose between the candidates, so the accuracy on new images may be lower.")
	}
	fact := func(name, value, note string) {
		v.Facts = append(v.Facts, factView{Name: name, Value: value, Note: note})
	}
	if len(e.Classes) > 5 {
		fact("top-5 accuracy", wording.Percent(m.Top5), "")
	}
	fact("balanced accuracy", wording.Percent(m.BalancedAccuracy), "mean recall of the classes")
	fact("macro F1", wording.Percent(m.Macro.F1), "")
	fact("Cohen's kappa", fmt.Sprintf("%.4f", m.Kappa), "agreement beyond chance, up to 1")
	return facts
}

// state says how far an unfinished run is.
func (r *Run) state() (value, what string) {
	if len(r.Trainings) == 0 {
		return "starting", "no epoch is finished yet"
	}
	last := r.Trainings[len(r.Trainings)-1]
	e := last.Epochs[len(last.Epochs)-1]
	what = fmt.Sprintf("%s training: epoch %d of %d, loss %.4f", last.title(), e.Epoch, r.Config.Recipe().Epochs, e.TrainLoss)
	if validated(last) {
		return wording.Percent(e.ValAccuracy), "validation " + r.score() + " so far; " + what
	}
	return wording.Percent(e.TrainAccuracy), "training accuracy so far; " + what
}

// progress returns the number of finished epochs of all trainings, and a note.
func (r *Run) progress() (done int, note string) {
	for _, t := range r.Trainings {
		done += len(t.Epochs)
	}
	if len(r.Trainings) > 1 {
		note = fmt.Sprintf("in %d trainings of up to %d", len(r.Trainings), r.Config.Recipe().Epochs)
	} else if r.Result == nil {
		note = fmt.Sprintf("of %d in each training", r.Config.Recipe().Epochs)
	}
	return done, note
}

// training returns the section on the trainings.
func (r *Run) training() *curvesView {
	if len(r.Trainings) == 0 {
		return nil
	}
	v := &curvesView{Charts: curves(r.Trainings, r.score())}
	if n := len(r.Trainings); n > shownCurves {
		v.Note = fmt.Sprintf("The charts show the final training and the best candidates, %d of %d trainings.", shownCurves, n)
	}
	if r.Result != nil && len(r.Result.Candidates) > 1 {
		t := &tableView{Sortable: true, Head: head("budget", "learning rate#", "tuned parameters#", "validation "+r.score()+"#", "validation loss#", "seconds#", "")}
		for _, c := range r.Result.Candidates {
			mark := ""
			if c.Budget == r.Result.Budget && c.LR == r.Result.LR {
				mark = "chosen"
			}
			t.Rows = append(t.Rows, []cellView{text(cmp.Or(c.Budget.String(), "–")), number("%g", c.LR), count(c.Counts.Tuned()), share(c.ValAccuracy), number("%.4f", c.ValLoss), number("%.0f", c.Seconds), text(mark)})
		}
		v.Candidates = t
	}
	return v
}

// budget returns the section on what was tuned.
func (r *Run) budget() *chartsView {
	v := &chartsView{}
	if r.Tuning != nil && r.Tuning.Counts.Tuned() > 0 {
		c := r.Tuning.Counts
		var parts []string
		if c.Structured > 0 {
			text := fmt.Sprintf("%s in modules", wording.Thousands(c.Structured))
			if s := r.Tuning.Selection; len(s.Structured) > 0 {
				text = fmt.Sprintf("%s in %s modules of %s on %s", wording.Thousands(c.Structured), s.Module, wording.Rank(s.Rank, s.Ranks), wording.Matrices(len(s.Structured)))
			}
			parts = append(parts, text)
		}
		if c.Whole > 0 {
			parts = append(parts, wording.Thousands(c.Whole)+" in tensors that are tuned whole")
		}
		if c.Entries > 0 {
			parts = append(parts, wording.Thousands(c.Entries)+" single entries")
		}
		v.Sentences = append(v.Sentences, fmt.Sprintf("Of %s parameters of the backbone, %s were tuned: %s.", wording.Thousands(r.Tuning.Config.Size()), wording.Thousands(c.Tuned()), wording.Join(parts, "and")))
		v.Charts = append(v.Charts, tunedChart(r.Tuning))
	}
	if r.Plan != nil && len(r.Plan.Sensitive) > 0 && r.Tuning != nil {
		v.Sentences = append(v.Sentences, fmt.Sprintf("The second map shows where the backbone is sensitive to this task: it counts the %s weights with the highest sensitivity, as many as the budget. A weight is sensitive if the loss has a large gradient there.", wording.Thousands(r.Plan.Budget)))
		v.Charts = append(v.Charts, sensitivityChart(r.Plan, r.Tuning.Config))
	}
	if len(v.Charts) == 0 {
		return nil
	}
	return v
}

// leastF1 returns the n classes with images whose F1 is lowest.
func leastF1(m *evaluate.Metrics, n int) []int {
	var order []int
	for i, c := range m.Classes {
		if c.Support > 0 {
			order = append(order, i)
		}
	}
	slices.SortStableFunc(order, func(a, b int) int { return cmp.Compare(m.Classes[a].F1, m.Classes[b].F1) })
	return order[:min(n, len(order))]
}

// view turns the evaluation into the values of the template.
func (e *Evaluated) view() *runView {
	v := &runView{Answer: &answerView{}}
	v.Answer.Facts = e.Evaluation.addAnswer(v.Answer)
	for _, f := range e.Facts {
		v.Answer.Facts = append(v.Answer.Facts, factView{Name: f.Name, Value: f.Value})
	}
	if a := e.Against; a != nil {
		v.Answer.Sentences = append(v.Answer.Sentences, a.Sentence())
	}
	e.Evaluation.addTo(v, single)
	if a := e.Against; a != nil && a.Labels != nil {
		v.Beside = a.labelTable(single.rows)
	}
	if e.Data != nil {
		v.Data = e.Data.view()
	}
	return v
}

// Against compares a classifier with another one on the same images. The other classifier is the
// first one of the comparison.
type Against struct {
	Other string // the other classifier
	// Comparison compares images with one label each, and Labels images with any number of labels.
	// One of them is set.
	Comparison *evaluate.Comparison
	Labels     *evaluate.LabelComparison
}

// Sentence describes the comparison in words.
func (a *Against) Sentence() string {
	points := func(difference float64, i evaluate.Interval) string {
		return fmt.Sprintf("%+.2f points, 95%% interval %+.2f to %+.2f", 100*difference, 100*i.Low, 100*i.High)
	}
	if l := a.Labels; l != nil {
		return fmt.Sprintf("Beside %s: mAP %s, by a bootstrap over the images. All labels of an image are right only with this one in %s, only with the other in %d; p = %.3g by McNemar's exact test.",
			a.Other, points(l.MAP.Difference, l.MAP.Interval), wording.Count(l.Exact.OnlySecond, "image"), l.Exact.OnlyFirst, l.Exact.P)
	}
	c := a.Comparison
	return fmt.Sprintf("Beside %s: %s. Only this one is right in %s, only the other in %d; p = %.3g by McNemar's exact test.",
		a.Other, points(c.Difference, c.Interval), wording.Count(c.OnlySecond, "image"), c.OnlyFirst, c.P)
}
