package report

import (
	"cmp"
	"fmt"
	"math"
	"slices"

	"github.com/sptune/spt/evaluate"
	"github.com/sptune/spt/internal/wording"
)

// addLabelAnswer is addAnswer for images with several labels.
func (e *Evaluation) addLabelAnswer(v *answerView) (facts []factView) {
	m, split := e.Labels, ""
	if e.Split != "all" {
		split = cmp.Or(splitName(e.Split), e.Split) + " "
	}
	with := len(m.Labels) - len(m.Unsupported())
	v.Value, v.What = wording.Percent(m.MAP), fmt.Sprintf("%smAP: the mean average precision of %s, on %s", split, wording.Count(with, "label"), wording.Count(m.Images, "image"))
	if e.Split == "val" {
		v.Sentences = append(v.Sentences, "The validation images chose between the candidates and chose the thresholds, so the results on new images may be lower.")
	}
	if absent := m.Unsupported(); len(absent) > 0 {
		var names []string
		for _, c := range absent[:min(len(absent), 10)] {
			names = append(names, e.name(c))
		}
		text := wording.Join(names, "and")
		if more := len(absent) - len(names); more > 0 {
			text += fmt.Sprintf(", and %d more", more)
		}
		v.Warnings = append(v.Warnings, fmt.Sprintf("No image has these labels, so their quality is not known and no mean counts them: %s.", text))
	}
	fact := func(name, value, note string) {
		facts = append(facts, factView{Name: name, Value: value, Note: note})
	}
	fact("macro F1", wording.Percent(m.Macro.F1), "mean of the labels")
	fact("micro F1", wording.Percent(m.Micro.F1), "all pairs of an image and a label alike")
	fact("micro mAP", wording.Percent(m.MicroMAP), "")
	fact("exactly right", wording.Percent(m.SubsetAccuracy), "images with all labels right")
	fact("Hamming loss", wording.Percent(m.HammingLoss), "wrong pairs of an image and a label")
	fact("loss", fmt.Sprintf("%.4f", m.Loss), "binary cross-entropy")
	if e.Calibrated != nil {
		fact("calibration error", wording.Percent(m.Calibration.ECE), wording.Percent(e.Calibrated.Calibration.ECE)+" with spt predict --calibrated")
	}
	return facts
}

// labelTable returns the table of labels, with up to most rows.
func (e *Evaluation) labelTable(most int) *classesView {
	m := e.Labels
	v := &classesView{Table: tableView{Sortable: true, Tall: true, Head: head("label", "images#", "average precision#", "precision#", "recall#", "F1#", "predicted#", "right#", "threshold#")}}
	order := make([]int, len(m.Labels))
	for i := range order {
		order[i] = i
	}
	if len(order) > most {
		slices.SortStableFunc(order, func(a, b int) int {
			x, y := m.Labels[a], m.Labels[b]
			return cmp.Or(cmp.Compare(min(y.Support, 1), min(x.Support, 1)), cmp.Compare(x.F1, y.F1))
		})
		order = order[:most]
		v.Note = fmt.Sprintf("The table shows the %s of %s labels with the lowest F1.", wording.Thousands(most), wording.Thousands(len(m.Labels)))
	}
	for _, i := range order {
		l := m.Labels[i]
		ap := text("–")
		if l.AP != nil {
			ap = share(*l.AP)
		}
		v.Table.Rows = append(v.Table.Rows, []cellView{text(e.Classes[i]), count(l.Support), ap, share(l.Precision), share(l.Recall), share(l.F1), count(l.Predicted), count(l.Correct), number("%.3f", l.Threshold)})
	}
	v.Table.Caption = fmt.Sprintf("Mean of the labels: precision %s, recall %s, F1 %s. All pairs alike: %s, %s, %s. A label is predicted if its probability is at least its threshold; the average precision does not depend on it. Click on the head of a column to sort.",
		wording.Percent(m.Macro.Precision), wording.Percent(m.Macro.Recall), wording.Percent(m.Macro.F1), wording.Percent(m.Micro.Precision), wording.Percent(m.Micro.Recall), wording.Percent(m.Micro.F1))
	return v
}

// labelTable returns the table of the differences of the labels, with up to most rows.
func (a *Against) labelTable(most int) *classesView {
	labels := slices.Clone(a.Labels.Labels)
	v := &classesView{Table: tableView{Sortable: true, Tall: true, Head: head("label", "images#", "average precision#", "of the other#", "difference in points#", "95% interval")}}
	if len(labels) > most {
		slices.SortStableFunc(labels, func(a, b evaluate.LabelDifference) int {
			return cmp.Compare(math.Abs(b.Difference.Difference), math.Abs(a.Difference.Difference))
		})
		labels = labels[:most]
		v.Note = fmt.Sprintf("The table shows the %s of %s labels with the largest differences.", wording.Thousands(most), wording.Thousands(len(a.Labels.Labels)))
	}
	for _, l := range labels {
		v.Table.Rows = append(v.Table.Rows, []cellView{text(l.Label), count(l.Support), share(l.Second), share(l.First), number("%+.2f", 100*l.Difference.Difference),
			text(fmt.Sprintf("%+.2f to %+.2f", 100*l.Interval.Low, 100*l.Interval.High))})
	}
	v.Table.Caption = fmt.Sprintf("The intervals come from %s bootstrap samples of the images. Of many labels, one in twenty differs by chance.", wording.Thousands(evaluate.Resamples))
	return v
}

// shownPairs is the largest number of pairs of labels in a table.
const shownPairs = 20

// together returns the section on the labels of the same image. It returns nil if no image has or
// is predicted to have two labels.
func (e *Evaluation) together() *classesView {
	pairs := e.Labels.Pairs[:min(len(e.Labels.Pairs), shownPairs)]
	if len(pairs) == 0 {
		return nil
	}
	v := &classesView{Note: "The pairs of labels that most images have together. A pair that is predicted much more or less often than it occurs shows labels that the model ties together or keeps apart.",
		Table: tableView{Sortable: true, Head: head("label", "and", "images with both#", "predicted together#", "both right#")}}
	for _, p := range pairs {
		v.Table.Rows = append(v.Table.Rows, []cellView{text(e.Classes[p.First]), text(e.Classes[p.Second]), count(p.Images), count(p.Predicted), count(p.Correct)})
	}
	return v
}
