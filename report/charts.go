package report

import (
	"cmp"
	"fmt"
	"html/template"
	"slices"

	"github.com/sptune/spt/evaluate"
	"github.com/sptune/spt/internal/wording"
	"github.com/sptune/spt/report/chart"
	"github.com/sptune/spt/train"
)

// shownCurves is the largest number of trainings in a chart of curves, which could not be read with
// more.
const shownCurves = 12

// curve is a quantity of an epoch.
type curve struct {
	name    string // in a legend
	value   func(train.Epoch) float64
	present func(Training) bool
}

var (
	trainLoss     = curve{"training", func(e train.Epoch) float64 { return e.TrainLoss }, always}
	valLoss       = curve{"validation", func(e train.Epoch) float64 { return e.ValLoss }, validated}
	trainAccuracy = curve{"training", func(e train.Epoch) float64 { return e.TrainAccuracy }, always}
	valAccuracy   = curve{"validation", func(e train.Epoch) float64 { return e.ValAccuracy }, validated}
	testAccuracy  = curve{"test", func(e train.Epoch) float64 { return e.TestAccuracy }, tested}
	learningRate  = curve{"learning rate", func(e train.Epoch) float64 { return e.LR }, always}
)

func always(Training) bool { return true }

// validated reports whether a training was validated. A loss is never exactly 0.
func validated(t Training) bool {
	return slices.ContainsFunc(t.Epochs, func(e train.Epoch) bool { return e.ValLoss > 0 })
}

func tested(t Training) bool {
	return slices.ContainsFunc(t.Epochs, func(e train.Epoch) bool { return e.TestAccuracy > 0 })
}

// curves returns the charts of the trainings of a run: loss, score and learning rate. score is the
// name of the metric of the validation images. If it is not the accuracy, the training images have
// another metric, which the charts leave out.
func curves(trainings []Training, score string) (charts []template.HTML) {
	trainings = mostUseful(trainings)
	add := func(c chart.Line, curves ...curve) {
		for _, of := range curves {
			for _, t := range trainings {
				if !of.present(t) {
					continue
				}
				s := chart.Series{Name: t.title()}
				if len(curves) > 1 {
					s.Name += ", " + of.name
				}
				for _, e := range t.Epochs {
					s.X, s.Y = append(s.X, float64(e.Epoch)), append(s.Y, of.value(e))
				}
				c.Series = append(c.Series, s)
			}
		}
		if len(c.Series) > 0 {
			c.XLabel = "Epoch"
			charts = append(charts, c.SVG())
		}
	}
	zero, one := 0.0, 1.0
	loss := chart.Line{Title: "Loss", YLabel: "Loss (nats)", YMin: &zero}
	accuracy := chart.Line{Title: "Accuracy", YLabel: "Accuracy (%)", YPercent: true, YMax: &one}
	own := score != "accuracy"
	if own {
		accuracy.Title, accuracy.YLabel = score, score+" (%)"
	}
	if len(trainings) <= 2 {
		add(loss, trainLoss, valLoss)
		if own {
			add(accuracy, valAccuracy, testAccuracy)
		} else {
			add(accuracy, trainAccuracy, valAccuracy, testAccuracy)
		}
	} else {
		of := func(c chart.Line, split string) chart.Line {
			c.Title = split + " " + c.Title
			return c
		}
		loss.Title, accuracy.Title = "loss", score
		add(of(loss, "Training"), trainLoss)
		add(of(loss, "Validation"), valLoss)
		if !own {
			add(of(accuracy, "Training"), trainAccuracy)
		}
		add(of(accuracy, "Validation"), valAccuracy)
		add(of(accuracy, "Test"), testAccuracy)
	}
	add(chart.Line{Title: "Learning rate at the end of the epoch", YLabel: "Learning rate", YMin: &zero}, learningRate)
	return charts
}

// mostUseful returns the trainings that a chart shows: the final one and the candidates with the
// highest validation accuracy, in the order in which they ran.
func mostUseful(all []Training) []Training {
	if len(all) <= shownCurves {
		return all
	}
	last := func(t Training) float64 { return t.Epochs[len(t.Epochs)-1].ValAccuracy }
	order := make([]int, len(all))
	for i := range order {
		order[i] = i
	}
	slices.SortStableFunc(order, func(a, b int) int {
		if final := cmp.Compare(all[a].Name, ""); final == 0 {
			return -1
		}
		return cmp.Compare(last(all[b]), last(all[a]))
	})
	order = order[:shownCurves]
	slices.Sort(order)
	var shown []Training
	for _, i := range order {
		shown = append(shown, all[i])
	}
	return shown
}

// confusion returns the confusion matrix, with classes ordered so that confusions lie near the
// diagonal. shown is the number of classes in it: all or, if there are more than most, those with
// the most errors.
func confusion(e *Evaluation, most int) (svg template.HTML, shown int) {
	m := e.Metrics
	order := evaluate.Order(m)
	if len(order) > most {
		errors := func(class int) int {
			c := m.Classes[class]
			return c.Support + c.Predicted - 2*c.Correct
		}
		worst := slices.Clone(order)
		slices.SortStableFunc(worst, func(a, b int) int { return cmp.Compare(errors(b), errors(a)) })
		kept := map[int]bool{}
		for _, class := range worst[:most] {
			kept[class] = true
		}
		order = slices.DeleteFunc(order, func(class int) bool { return !kept[class] })
	}
	c := chart.HeatMap{Title: "Confusion matrix", XLabel: "Predicted class", YLabel: "True class", Unit: "Images of the true class (%)", Percent: true}
	at := make(map[int]int, len(order))
	for i, class := range order {
		at[class] = i
		c.Rows = append(c.Rows, e.Classes[class])
	}
	c.Columns = c.Rows
	for _, cell := range m.Confusion {
		row, ok := at[cell.Target]
		column, also := at[cell.Predicted]
		if !ok || !also {
			continue
		}
		support := m.Classes[cell.Target].Support
		share := float64(cell.Images) / float64(support)
		c.Cells = append(c.Cells, chart.Cell{Row: row, Column: column, Value: share, Text: fmt.Sprint(cell.Images),
			Hover: fmt.Sprintf("%s predicted as %s: %d of %d images (%s)", e.Classes[cell.Target], e.Classes[cell.Predicted], cell.Images, support, wording.Percent(share))})
	}
	right := 0
	for _, class := range order {
		right += m.Classes[class].Correct
	}
	c.Description = fmt.Sprintf("Confusion matrix of %d classes: %d images are on the diagonal, where the predicted class is the true class.", len(order), right)
	return c.SVG(), len(order)
}

// coverage returns the chart of rejection: the share of answered images and their accuracy at each
// threshold.
func coverage(all []evaluate.Coverage) template.HTML {
	zero, one := 0.0, 1.0
	answered, accuracy := chart.Series{Name: "answered images"}, chart.Series{Name: "accuracy of the answers"}
	for _, c := range all {
		answered.X, answered.Y = append(answered.X, c.Threshold), append(answered.Y, c.Share)
		if c.Images > 0 {
			accuracy.X, accuracy.Y = append(accuracy.X, c.Threshold), append(accuracy.Y, c.Accuracy)
		}
	}
	return chart.Line{Title: "Rejection of unknown images", XLabel: "Lowest probability that is answered (%)", YLabel: "Images (%)",
		XPercent: true, YPercent: true, YMin: &zero, YMax: &one, Series: []chart.Series{answered, accuracy}}.SVG()
}

// reliability returns the reliability diagram of a calibration.
func reliability(title, noun string, c evaluate.Calibration) template.HTML {
	r := chart.Reliability{Title: title, Noun: noun, XLabel: "Confidence (%)", YLabel: "Accuracy (%)"}
	for _, b := range c.Bins {
		bin := chart.Bin{Low: b.Low, High: b.High, Count: b.Images, Confidence: b.Confidence, Accuracy: b.Accuracy}
		if b.Images > 0 {
			right := int(b.Accuracy*float64(b.Images) + 0.5)
			low, high := evaluate.Wilson(right, b.Images, 0.95)
			bin.AccuracyLow, bin.AccuracyHigh = &low, &high
		}
		r.Bins = append(r.Bins, bin)
	}
	return r.SVG()
}
