package objective

import (
	"cmp"
	"slices"

	"github.com/sptune/spt/backbone"
	"github.com/sptune/spt/internal/option"
)

// Selection names the metric on validation images by which a run chooses between candidates. Empty
// means [ByAccuracy].
type Selection string

// The metrics for a choice between candidates.
const (
	ByAccuracy Selection = "accuracy" // Evaluation.Accuracy
	// balanced accuracy: the mean recall of the classes with images
	ByBalanced Selection = "balanced"
	ByLoss     Selection = "loss" // Evaluation.Loss; the lowest is the best
	// ByMacroF1 is the mean F1 score of the classes that are the label or the prediction of an
	// image.
	ByMacroF1 Selection = "macro-f1"
)

// Selections returns all values of Selection.
func Selections() []Selection { return []Selection{ByAccuracy, ByBalanced, ByLoss, ByMacroF1} }

// Validate returns an error if s is unknown.
func (s Selection) Validate() error {
	if s != "" && !slices.Contains(Selections(), s) {
		return option.Unknown("select", "metric", s, Selections())
	}
	return nil
}

// Check returns an error if the objective o does not give the metric on the backbone c.
func (s Selection) Check(o Objective, c backbone.Config) error {
	if s.needsClasses() && len(o.NewMetrics(c).Evaluation().Classes) == 0 {
		return option.Errorf("select", "choosing by %s needs the counts of each class, which the objective %s does not give; choose by %s", s, o.Name(), ByAccuracy)
	}
	return nil
}

// needsClasses reports whether the metric is computed from Evaluation.Classes.
func (s Selection) needsClasses() bool { return s == ByBalanced || s == ByMacroF1 }

// Stored returns the value that [Selection.Value] returns, or 0 if it follows from the accuracy or
// the loss, which are stored anyway.
func (s Selection) Stored(e Evaluation) float64 {
	if s.needsClasses() {
		return s.Value(e)
	}
	return 0
}

// Restored returns the value that [Selection.Value] returns, from the accuracy and the loss of the
// evaluation and the value that [Selection.Stored] returned.
func (s Selection) Restored(accuracy, loss, stored float64) float64 {
	switch {
	case s.needsClasses():
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
	case ByAccuracy:
		return e.Accuracy
	case ByLoss:
		return -e.Loss
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
