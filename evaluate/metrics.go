package evaluate

import (
	"cmp"
	"fmt"
	"math"
	"slices"
)

// Metrics holds the metrics of a split. The metrics equal those of scikit-learn, whose functions
// the comments name. All of them are fractions from 0 to 1 unless the comment says otherwise.
type Metrics struct {
	Images  int     `json:"images"`  // number of images
	Correct int     `json:"correct"` // images whose predicted class is the target
	Top1    float64 `json:"top1"`    // share of correct images: accuracy_score
	// Interval is the 95 % confidence interval of Top1; see Wilson.
	Interval Interval `json:"top1_interval"`
	// Top5 is the share of images whose target is among the five classes with the largest logits:
	// top_k_accuracy_score of the logits, with k=5. Among equal logits, that function ranks the
	// last class first. Top5 is 1 if there are at most five classes.
	Top5 float64 `json:"top5"`
	// BalancedAccuracy is the mean recall of the classes that have images: balanced_accuracy_score.
	BalancedAccuracy float64 `json:"balanced_accuracy"`
	// Kappa is Cohen's kappa, from -1 to 1: cohen_kappa_score. Where it is undefined, because all
	// targets and all predictions are one class, Kappa is 0.
	Kappa float64 `json:"kappa"`
	// LogLoss is the mean of -log of the probability of the target, in nats: log_loss. As there,
	// probabilities are limited to [2⁻⁵², 1-2⁻⁵²], so one image adds at most 36.04.
	LogLoss float64 `json:"log_loss"`
	// Macro holds the means over the classes that are the target or the prediction of an image:
	// precision_recall_fscore_support with average="macro" and zero_division=0.
	Macro Means `json:"macro"`
	// Weighted holds the means over classes, weighted by their number of images:
	// precision_recall_fscore_support with average="weighted" and zero_division=0.
	Weighted Means `json:"weighted"`
	// Classes holds the metrics of each class, in the order of the rows of the head.
	Classes []Class `json:"classes"`
	// Confusion holds the cells of confusion_matrix that are not zero, ordered by target, then by
	// predicted class.
	Confusion []Cell `json:"confusion"`
	// Calibration compares the confidence of the predictions with their accuracy.
	Calibration Calibration `json:"calibration"`
	// Temperature is the temperature of the probabilities. LogLoss and Calibration depend on it;
	// the other metrics do not.
	Temperature float64 `json:"temperature"`
}

// Interval is a confidence interval.
type Interval struct {
	Low  float64 `json:"low"`
	High float64 `json:"high"`
}

// Means holds means over classes.
type Means struct {
	Precision float64 `json:"precision"`
	Recall    float64 `json:"recall"`
	F1        float64 `json:"f1"`
}

// Class holds the metrics of one class. A fraction whose denominator is 0 is 0.
type Class struct {
	Support   int     `json:"support"`   // images with this target
	Predicted int     `json:"predicted"` // images with this prediction
	Correct   int     `json:"correct"`   // images with this target and this prediction
	Precision float64 `json:"precision"` // Correct / Predicted
	Recall    float64 `json:"recall"`    // Correct / Support
	F1        float64 `json:"f1"`        // harmonic mean of Precision and Recall
}

// Cell is a cell of a confusion matrix.
type Cell struct {
	Target    int `json:"target"`    // class id
	Predicted int `json:"predicted"` // class id
	Images    int `json:"images"`    // images with this target and this prediction
}

// Calibration compares the confidence of predictions with their accuracy. The confidence is the
// probability of the predicted class, and the accuracy the share of right predictions. With several
// labels, a prediction is a pair of an image and a label: the confidence is the probability of the
// label, and the accuracy the share of the images that have it.
type Calibration struct {
	// ECE is the expected calibration error: the mean of |accuracy - confidence| over the bins,
	// weighted by their number of predictions.
	ECE float64 `json:"ece"`
	// MCE is the maximum calibration error: the largest |accuracy - confidence| of a bin.
	MCE float64 `json:"mce"`
	// Bins holds 15 bins of equal width, as calibration_curve with strategy="uniform" makes them.
	Bins []Bin `json:"bins"`
	// Coverage tells how rejection at the thresholds 0, 0.01, … 0.99 changes the accuracy. It is
	// nil in files of runs that did not compute it.
	Coverage []Coverage `json:"coverage,omitempty"`
}

// Coverage describes a classifier that answers only for images whose confidence is Threshold or
// more, and rejects the other images as unknown.
type Coverage struct {
	Threshold float64 `json:"threshold"`
	Images    int     `json:"images"`   // images that are answered
	Share     float64 `json:"share"`    // Images / all images
	Accuracy  float64 `json:"accuracy"` // share of correct images among Images; 0 without images
}

// Bin holds the predictions whose confidence is above Low and at most High.
type Bin struct {
	Low        float64 `json:"low"`
	High       float64 `json:"high"`
	Images     int     `json:"images"`     // number of predictions
	Confidence float64 `json:"confidence"` // mean confidence; 0 without predictions
	Accuracy   float64 `json:"accuracy"`   // accuracy; 0 without predictions
}

const (
	topK            = 5
	confidenceLevel = 0.95
	calibrationBins = 15
	thresholds      = 100
)

// score holds what the metrics need to know about one image.
type score struct {
	predicted  int
	top        bool    // the target is among the topK classes
	confidence float64 // probability of the predicted class
	target     float64 // probability of the target
}

// loss returns the negative logarithm of the probability of the target. As in scikit-learn, the
// probability is limited by the epsilon of float64.
func (s score) loss() float64 {
	const least = 0x1p-52
	return -math.Log(min(max(s.target, least), 1-least))
}

// scores returns the score of each image.
func (p *Predictions) scores(temperature float64) []score {
	scores := make([]score, p.Len())
	forBlocks(p.Len(), func(_, from, to int) {
		var all []float64
		var row []float32
		for i := from; i < to; i++ {
			row = p.row(i, row)
			target := int(p.Targets[i])
			var above int
			if p.Keep > 0 {
				above = p.kept[i].above
			} else {
				above = rankOf(row, target)
			}
			all = probabilities(row, temperature, all)
			class := predicted(row)
			scores[i] = score{class, above < topK, all[class], all[target]}
		}
	})
	return scores
}

// Metrics returns the metrics of all images. The probabilities are computed with the temperature; 1
// keeps the probabilities of the model. An image without a target and the lack of images are
// errors.
func (p *Predictions) Metrics(temperature float64) (*Metrics, error) {
	err := p.checkKnown()
	if err == nil {
		err = checkTemperature(temperature)
	}
	if err != nil {
		return nil, fmt.Errorf("computing metrics: %w", err)
	}
	n := p.Len()
	m := &Metrics{Images: n, Temperature: temperature, Classes: make([]Class, len(p.Classes))}
	scores := p.scores(temperature)
	cells := make([]Cell, n)
	top, loss := 0, 0.0
	for i, s := range scores {
		target := int(p.Targets[i])
		cells[i] = Cell{target, s.predicted, 1}
		m.Classes[target].Support++
		m.Classes[s.predicted].Predicted++
		if s.predicted == target {
			m.Correct++
			m.Classes[target].Correct++
		}
		if s.top {
			top++
		}
		loss += s.loss()
	}
	m.Top1, m.Top5, m.LogLoss = ratio(m.Correct, n), ratio(top, n), loss/float64(n)
	m.Interval.Low, m.Interval.High = Wilson(m.Correct, n, confidenceLevel)
	m.Confusion = merge(cells)
	m.addClasses()
	m.Calibration = p.calibration(scores)
	return m, nil
}

// addClasses computes the fractions of each class and the metrics made of them.
func (m *Metrics) addClasses() {
	// chance counts pairs of a target and a prediction that agree
	seen, supported, chance := 0, 0, 0
	for c := range m.Classes {
		class := &m.Classes[c]
		class.Precision = ratio(class.Correct, class.Predicted)
		class.Recall = ratio(class.Correct, class.Support)
		class.F1 = ratio(2*class.Correct, class.Support+class.Predicted)
		chance += class.Support * class.Predicted
		if class.Support+class.Predicted > 0 {
			seen++
			m.Macro.add(class, 1)
		}
		if class.Support > 0 {
			supported++
			m.BalancedAccuracy += class.Recall
			m.Weighted.add(class, float64(class.Support))
		}
	}
	m.BalancedAccuracy /= float64(supported)
	m.Macro.divide(float64(seen))
	m.Weighted.divide(float64(m.Images))
	if pairs := m.Images * m.Images; chance < pairs {
		m.Kappa = 1 - float64(m.Images-m.Correct)*float64(m.Images)/float64(pairs-chance)
	}
}

func (m *Means) add(c *Class, weight float64) {
	m.Precision += weight * c.Precision
	m.Recall += weight * c.Recall
	m.F1 += weight * c.F1
}

func (m *Means) divide(by float64) {
	m.Precision /= by
	m.Recall /= by
	m.F1 /= by
}

// calibration returns the calibration of the predictions.
func (p *Predictions) calibration(scores []score) Calibration {
	c := Calibration{Bins: newBins()}
	for i, s := range scores {
		c.add(s.confidence, s.predicted == int(p.Targets[i]))
	}
	c.finish(len(scores))
	c.Coverage = p.coverage(scores)
	return c
}

// newBins returns the bins without images.
func newBins() []Bin {
	// As in numpy.linspace: a multiple of the rounded width, and exactly 1 at the end.
	const width = float64(1) / calibrationBins
	bins := make([]Bin, calibrationBins)
	for b := range bins {
		bins[b].Low, bins[b].High = float64(b)*width, float64(b+1)*width
	}
	bins[calibrationBins-1].High = 1
	return bins
}

// add adds a prediction to its bin.
func (c *Calibration) add(confidence float64, right bool) {
	at, _ := slices.BinarySearchFunc(c.Bins[:calibrationBins-1], confidence, func(b Bin, v float64) int { return cmp.Compare(b.High, v) })
	b := &c.Bins[at]
	b.Images++
	b.Confidence += confidence
	b.Accuracy += float64(count(right))
}

// finish computes the means of the bins and the errors of n predictions.
func (c *Calibration) finish(n int) {
	for i := range c.Bins {
		if b := &c.Bins[i]; b.Images > 0 {
			b.Confidence /= float64(b.Images)
			b.Accuracy /= float64(b.Images)
			gap := math.Abs(b.Accuracy - b.Confidence)
			c.ECE += gap * ratio(b.Images, n)
			c.MCE = max(c.MCE, gap)
		}
	}
}

// coverage returns the coverage of the predictions at each threshold.
func (p *Predictions) coverage(scores []score) []Coverage {
	all := make([]Coverage, thresholds)
	for i := range all {
		all[i].Threshold = float64(i) / thresholds
	}
	right := make([]int, thresholds)
	for i, s := range scores {
		// the last threshold that the confidence reaches
		at, found := slices.BinarySearchFunc(all, s.confidence, func(c Coverage, v float64) int { return cmp.Compare(c.Threshold, v) })
		if !found {
			at--
		}
		all[at].Images++
		if s.predicted == int(p.Targets[i]) {
			right[at]++
		}
	}
	for i := thresholds - 1; i >= 0; i-- {
		if i < thresholds-1 {
			all[i].Images += all[i+1].Images
			right[i] += right[i+1]
		}
		all[i].Share, all[i].Accuracy = ratio(all[i].Images, len(scores)), ratio(right[i], all[i].Images)
	}
	return all
}

// merge sorts cells by target, then by predicted class, and adds up equal cells.
func merge(cells []Cell) []Cell {
	slices.SortFunc(cells, compareCells)
	merged := cells[:0]
	for _, c := range cells {
		if last := len(merged) - 1; last >= 0 && compareCells(merged[last], c) == 0 {
			merged[last].Images += c.Images
		} else {
			merged = append(merged, c)
		}
	}
	return slices.Clone(merged)
}

func compareCells(a, b Cell) int {
	return cmp.Or(cmp.Compare(a.Target, b.Target), cmp.Compare(a.Predicted, b.Predicted))
}

// Confused returns the n pairs of a target and another predicted class with the most images, most
// images first. Equal pairs are ordered by target, then by predicted class.
func (m *Metrics) Confused(n int) []Cell {
	wrong := slices.DeleteFunc(slices.Clone(m.Confusion), func(c Cell) bool { return c.Target == c.Predicted })
	slices.SortStableFunc(wrong, func(a, b Cell) int { return cmp.Compare(b.Images, a.Images) })
	return wrong[:min(n, len(wrong))]
}

// ratio returns a/b, or 0 if b is 0.
func ratio(a, b int) float64 {
	if b == 0 {
		return 0
	}
	return float64(a) / float64(b)
}

// Wilson returns the Wilson score interval of the accuracy of a classifier that has predicted
// correct of so many images correctly. confidence is the confidence level, such as 0.95. Without
// images, the interval is 0 to 1. See Wilson, Journal of the American Statistical Association 22
// (1927).
func Wilson(correct, images int, confidence float64) (low, high float64) {
	low, high = 0, 1
	n, p, z := float64(images), ratio(correct, images), quantile(confidence)
	centre, spread := 2*n*p+z*z, z*math.Sqrt(4*n*p*(1-p)+z*z)
	if correct > 0 {
		low = (centre - spread) / (2 * (n + z*z))
	}
	if correct < images {
		high = (centre + spread) / (2 * (n + z*z))
	}
	return low, high
}

// quantile returns the number z for which a standard normal variable lies in [-z, z] with the given
// probability.
func quantile(probability float64) float64 { return math.Sqrt2 * math.Erfinv(probability) }
