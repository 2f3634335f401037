package objective

import (
	"cmp"
	"slices"

	"github.com/sptune/spt/backbone"
	"github.com/sptune/spt/internal/option"
)

// Selection names the metric on validation images by which a run chooses between candidates. Empty
// means Evaluation.Accuracy, which is [ByAccuracy] for SingleLabel and [ByMAP] for MultiLabel.
type Selection string

// The metrics for a choice between candidates.
const (
	ByAccuracy Selection = "accuracy" // Evaluation.Accuracy
	// balanced accuracy: the mean recall of the classes with images
	ByBalanced Selection = "balanced"
	ByLoss     Selection = "loss" // Evaluation.Loss; the lowest is the best
	// ByMacroF1 is the mean F1 score of the classes that are the label or the prediction of an
	// image, or of the labels that an image has.
	ByMacroF1 Selection = "macro-f1"
	// ByMAP is the mean average precision of the labels of images with several labels.
	ByMAP Selection = "map"
)

// Selections returns all values of Selection.
func Selections() []Selection {
	return []Selection{ByAccuracy, ByBalanced, ByLoss, ByMacroF1, ByMAP}
}

// The keys of Evaluation.Metrics that a Selection reads.
const (
	mapMetric     = "map"
	macroF1Metric = "macro_f1"
)

// Validate returns an error if s is unknown.
func (s Selection) Validate() error {
	if s != "" && !slices.Contains(Selections(), s) {
		return option.Unknown("select", "metric", s, Selections())
	}
	return nil
}

// Check returns an error if the objective o does not give the metric on the backbone c.
func (s Selection) Check(o Objective, c backbone.Config) error {
	e := o.NewMetrics(c).Evaluation()
	_, ranked := e.Metrics[mapMetric]
	_, f1 := e.Metrics[macroF1Metric]
	classes := len(e.Classes) > 0
	switch {
	case s == ByAccuracy && ranked:
		return option.Errorf("select", "choosing by %s needs one label for each image, and the objective is %s; choose by %s", s, o.Name(), ByMAP)
	case s == ByBalanced && !classes, s == ByMacroF1 && !classes && !f1:
		other := ByAccuracy
		if ranked {
			other = ByMAP
		}
		return option.Errorf("select", "choosing by %s needs the counts of each class, which the objective %s does not give; choose by %s", s, o.Name(), other)
	case s == ByMAP && !ranked:
		return option.Errorf("select", "choosing by %s needs the average precision of each label, which the objective %s does not give; choose by %s", s, o.Name(), ByAccuracy)
	}
	return nil
}

// derived reports whether the metric is neither the accuracy nor the loss of an evaluation.
func (s Selection) derived() bool { return s == ByBalanced || s == ByMacroF1 }

// Stored returns the value that [Selection.Value] returns, or 0 if it follows from the accuracy or
// the loss, which are stored anyway.
func (s Selection) Stored(e Evaluation) float64 {
	if s.derived() {
		return s.Value(e)
	}
	return 0
}

// Restored returns the value that [Selection.Value] returns, from the accuracy and the loss of the
// evaluation and the value that [Selection.Stored] returned.
func (s Selection) Restored(accuracy, loss, stored float64) float64 {
	switch {
	case s.derived():
		return stored
	case s == ByLoss:
		return -loss
	}
	return accuracy
}

// Value returns the metric of an evaluation. A higher value is better, so the value of ByLoss is
// the negative loss. Balanced accuracy and macro F1 are 0 without images. They equal
// balanced_accuracy_score and f1_score(average="macro") of scikit-learn.
func (s Selection) Value(e Evaluation) float64 {
	switch cmp.Or(s, ByAccuracy) {
	case ByAccuracy, ByMAP:
		return e.Accuracy
	case ByLoss:
		return -e.Loss
	}
	if f1, ok := e.Metrics[macroF1Metric]; ok && s == ByMacroF1 {
		return f1
	}
	sum, n := 0.0, 0.0
	for _, c := range e.Classes {
		switch {
		case s == ByBalanced && c.Images > 0:
			sum += float64(c.Correct) / float64(c.Images)
			n++
		case s == ByMacroF1 && c.Images+c.Predicted > 0:
			sum += 2 * float64(c.Correct) / float64(c.Images+c.Predicted)
			n++
		}
	}
	return sum / max(n, 1)
}
