package evaluate

import (
	"cmp"
	"fmt"
	"math"
	"slices"

	"github.com/sptune/spt/internal/option"
)

// LabelPredictions holds the logits and the labels of images with any number of labels. Set
// Classes, then call Add.
type LabelPredictions struct {
	Classes []string  // names of the labels, in the order of the rows of the head
	Paths   []string  // path of each image
	Targets []int32   // [N, C], row-major: 1 for a label that the image has, else 0
	Logits  []float32 // [N, C], row-major
}

// DefaultThreshold is the probability from which a label is predicted if no other threshold is
// known.
const DefaultThreshold = 0.5

// LeastPositives is the number of images with a label from which [LabelPredictions.Thresholds]
// chooses the threshold of the label. With fewer images, the best threshold is a matter of chance.
const LeastPositives = 5

// Sigmoid returns the probability of a label, 1/(1+exp(-logit)).
func Sigmoid(logit float32) float64 { return sigmoid(float64(logit)) }

func sigmoid(x float64) float64 {
	if x < 0 { // exp does not overflow
		e := math.Exp(x)
		return e / (1 + e)
	}
	return 1 / (1 + math.Exp(-x))
}

// thresholdOf returns the threshold of a label. thresholds are as for [LabelPredictions.Metrics].
func thresholdOf(thresholds []float64, label int) float64 {
	if thresholds == nil {
		return DefaultThreshold
	}
	return thresholds[label]
}

// CheckThresholds returns an error if thresholds are not nil and not one number above 0 and at most
// 1 for each of the classes.
func CheckThresholds(thresholds []float64, classes int) error {
	if thresholds == nil {
		return nil
	}
	if len(thresholds) != classes {
		return option.Errorf("thresholds", "found %d thresholds for %d labels; give one for each label", len(thresholds), classes)
	}
	for i, t := range thresholds {
		if !(t > 0 && t <= 1) {
			return option.Errorf("thresholds", "threshold %d is %v, expected a probability above 0 and at most 1", i, t)
		}
	}
	return nil
}

// Len returns the number of images.
func (p *LabelPredictions) Len() int { return len(p.Paths) }

// Add adds images: their paths, their targets and their logits, both [len(paths), C], row-major.
// Numbers of values that do not fit, a target other than 0 and 1, and a logit that is not finite
// are errors. Add adds no image if it returns an error.
func (p *LabelPredictions) Add(paths []string, targets []int32, logits []float32) error {
	return (*stored)(p).add(paths, targets, logits, func(s *stored) error { return (*LabelPredictions)(s).check() })
}

// check returns an error if the fields of p do not fit together.
func (p *LabelPredictions) check() error {
	classes := len(p.Classes)
	if err := (*stored)(p).check(classes); err != nil {
		return err
	}
	for i, t := range p.Targets {
		if t != 0 && t != 1 {
			return fmt.Errorf("image %s has target %d for label %s, expected 0 or 1", p.Paths[i/classes], t, p.Classes[i%classes])
		}
	}
	return nil
}

// Losses returns the loss of each image, in nats: the mean binary cross-entropy of its labels.
func (p *LabelPredictions) Losses() []float64 {
	classes := len(p.Classes)
	losses := make([]float64, p.Len())
	for i, v := range p.Logits {
		losses[i/classes] += BinaryCrossEntropy(v, p.Targets[i] == 1) / float64(classes)
	}
	return losses
}

// column returns the logits and the targets of one label.
func (p *LabelPredictions) column(label int) (logits []float32, targets []bool) {
	n := len(p.Classes)
	for i := label; i < len(p.Logits); i += n {
		logits, targets = append(logits, p.Logits[i]), append(targets, p.Targets[i] == 1)
	}
	return logits, targets
}

// LabelMetrics holds the metrics of a split whose images have any number of labels. The metrics
// equal those of scikit-learn, whose functions the comments name. A label without images has no
// average precision, and no mean over labels counts it.
type LabelMetrics struct {
	Images int `json:"images"` // number of images
	// MAP is the mean of the average precisions of the labels: average_precision_score with
	// average="macro". It does not depend on the thresholds.
	MAP float64 `json:"map"`
	// MicroMAP is the average precision of all pairs of an image and a label together:
	// average_precision_score with average="micro".
	MicroMAP float64 `json:"micro_map"`
	// Macro holds the means over labels: precision_recall_fscore_support with average="macro",
	// zero_division=0 and the labels that have images.
	Macro Means `json:"macro"`
	// Micro counts all pairs of an image and a label alike: precision_recall_fscore_support with
	// average="micro" and zero_division=0.
	Micro Means `json:"micro"`
	// SubsetAccuracy is the share of images whose predicted labels are exactly their labels:
	// accuracy_score.
	SubsetAccuracy float64 `json:"subset_accuracy"`
	// HammingLoss is the share of pairs of an image and a label that are wrong: hamming_loss.
	HammingLoss float64 `json:"hamming_loss"`
	// Loss is the mean binary cross-entropy of the pairs, in nats: BCEWithLogitsLoss of PyTorch.
	Loss float64 `json:"loss"`
	// Calibration compares the probabilities of the pairs with the share of the pairs whose image
	// has the label. It has no Coverage. It is zero in files of runs that did not compute it.
	Calibration Calibration `json:"calibration,omitzero"`
	// Labels holds the metrics of each label, in the order of the rows of the head.
	Labels []Label `json:"labels"`
	// Pairs holds the pairs of labels that most images have together, or are predicted to have,
	// most images first. It holds at most 100 pairs of the 200 labels with most images.
	Pairs []Pair `json:"pairs,omitempty"`
}

// Label holds the metrics of one label. A fraction whose denominator is 0 is 0.
type Label struct {
	Support   int     `json:"support"`   // images with this label
	Predicted int     `json:"predicted"` // images with a probability of at least Threshold
	Correct   int     `json:"correct"`   // images with this label that are also Predicted
	Precision float64 `json:"precision"` // Correct / Predicted
	Recall    float64 `json:"recall"`    // Correct / Support
	F1        float64 `json:"f1"`        // harmonic mean of Precision and Recall
	// AP is the average precision: average_precision_score. It is nil without images.
	AP        *float64 `json:"average_precision,omitempty"`
	Threshold float64  `json:"threshold"` // the probability from which the label is predicted
}

// Pair counts the images of two labels.
type Pair struct {
	First     int `json:"first"`     // class id
	Second    int `json:"second"`    // class id, above First
	Images    int `json:"images"`    // images with both labels
	Predicted int `json:"predicted"` // images for which both labels are predicted
	Correct   int `json:"correct"`   // images with both labels for which both are predicted
}

const (
	mostPairs     = 100
	mostPairedIDs = 200
)

// Metrics returns the metrics of all images. A label is predicted if its probability is at least
// its threshold. thresholds holds one for each label; nil means [DefaultThreshold] for all. The
// lack of images is an error.
func (p *LabelPredictions) Metrics(thresholds []float64) (*LabelMetrics, error) {
	err := p.check()
	if err == nil && p.Len() == 0 {
		err = fmt.Errorf("found no images, expected at least one")
	}
	if err == nil {
		err = CheckThresholds(thresholds, len(p.Classes))
	}
	if err != nil {
		return nil, fmt.Errorf("computing metrics: %w", err)
	}
	classes := len(p.Classes)
	m := &LabelMetrics{Images: p.Len(), Labels: make([]Label, classes)}
	for c := range m.Labels {
		m.Labels[c].Threshold = thresholdOf(thresholds, c)
	}
	predicted := make([]bool, len(p.Logits))
	m.Calibration.Bins = newBins()
	exact, wrong := 0, 0
	for i := range p.Len() {
		before := wrong
		for c := range m.Labels {
			at, l := i*classes+c, &m.Labels[c]
			has, probability := p.Targets[at] == 1, Sigmoid(p.Logits[at])
			predicted[at] = probability >= l.Threshold
			m.Calibration.add(probability, has)
			l.Support += count(has)
			l.Predicted += count(predicted[at])
			l.Correct += count(has && predicted[at])
			wrong += count(has != predicted[at])
			m.Loss += BinaryCrossEntropy(p.Logits[at], has)
		}
		exact += count(wrong == before)
	}
	m.Loss /= float64(len(p.Logits))
	m.Calibration.finish(len(p.Logits))
	m.SubsetAccuracy, m.HammingLoss = ratio(exact, m.Images), ratio(wrong, len(p.Logits))
	m.addLabels(p)
	targets := make([]bool, len(p.Targets))
	for i, t := range p.Targets {
		targets[i] = t == 1
	}
	m.MicroMAP, _ = AveragePrecision(p.Logits, targets)
	m.Pairs = p.pairs(m.Labels, predicted)
	return m, nil
}

// addLabels computes the fractions and the average precision of each label, and their means.
func (m *LabelMetrics) addLabels(p *LabelPredictions) {
	with, all := 0, Label{}
	forBlocks(len(m.Labels), func(_, from, to int) {
		for c := from; c < to; c++ {
			if ap, ok := AveragePrecision(p.column(c)); ok {
				m.Labels[c].AP = &ap
			}
		}
	})
	for c := range m.Labels {
		l := &m.Labels[c]
		l.Precision, l.Recall, l.F1 = ratio(l.Correct, l.Predicted), ratio(l.Correct, l.Support), ratio(2*l.Correct, l.Support+l.Predicted)
		all.Support, all.Predicted, all.Correct = all.Support+l.Support, all.Predicted+l.Predicted, all.Correct+l.Correct
		if l.AP == nil {
			continue
		}
		with++
		m.MAP += *l.AP
		m.Macro.Precision += l.Precision
		m.Macro.Recall += l.Recall
		m.Macro.F1 += l.F1
	}
	m.MAP /= float64(max(with, 1))
	m.Macro.divide(float64(max(with, 1)))
	m.Micro = Means{ratio(all.Correct, all.Predicted), ratio(all.Correct, all.Support), ratio(2*all.Correct, all.Support+all.Predicted)}
}

// Unsupported returns the ids of the labels without images, which have no average precision.
func (m *LabelMetrics) Unsupported() (ids []int) {
	for c, l := range m.Labels {
		if l.Support == 0 {
			ids = append(ids, c)
		}
	}
	return ids
}

// pairs returns LabelMetrics.Pairs.
func (p *LabelPredictions) pairs(labels []Label, predicted []bool) []Pair {
	var ids []int
	for c := range labels {
		ids = append(ids, c)
	}
	if len(ids) > mostPairedIDs {
		slices.SortStableFunc(ids, func(a, b int) int { return cmp.Compare(labels[b].Support, labels[a].Support) })
		ids = ids[:mostPairedIDs]
		slices.Sort(ids)
	}
	counts := make([]Pair, len(ids)*len(ids))
	for i := range p.Len() {
		row := i * len(labels)
		for a, first := range ids {
			has, said := p.Targets[row+first] == 1, predicted[row+first]
			if !has && !said {
				continue
			}
			for b := a + 1; b < len(ids); b++ {
				hasBoth, saidBoth := has && p.Targets[row+ids[b]] == 1, said && predicted[row+ids[b]]
				pair := &counts[a*len(ids)+b]
				pair.Images += count(hasBoth)
				pair.Predicted += count(saidBoth)
				pair.Correct += count(hasBoth && saidBoth)
			}
		}
	}
	var pairs []Pair
	for i, pair := range counts {
		if pair.Images+pair.Predicted > 0 {
			pair.First, pair.Second = ids[i/len(ids)], ids[i%len(ids)]
			pairs = append(pairs, pair)
		}
	}
	slices.SortStableFunc(pairs, func(a, b Pair) int {
		return cmp.Or(cmp.Compare(b.Images, a.Images), cmp.Compare(b.Predicted, a.Predicted))
	})
	return slices.Clone(pairs[:min(len(pairs), mostPairs)])
}

// BinaryCrossEntropy returns the loss of a label whose logit is x, in nats: -log(Sigmoid(x)) for an
// image that has the label, and -log(1-Sigmoid(x)) for another image.
func BinaryCrossEntropy(x float32, has bool) float64 {
	v := float64(x)
	if has {
		v = -v
	}
	return max(v, 0) + math.Log1p(math.Exp(-math.Abs(v)))
}

// AveragePrecision returns the area below the precision-recall curve of a label, as
// average_precision_score of scikit-learn does: the sum over all distinct scores, from the highest
// on, of the precision at this score times the increase of the recall. Images with equal scores
// count together. targets says which images have the label. ok is false if no image has it.
func AveragePrecision(scores []float32, targets []bool) (ap float64, ok bool) {
	positives := 0
	order := make([]int32, len(scores))
	for i, t := range targets {
		order[i] = int32(i)
		positives += count(t)
	}
	if positives == 0 {
		return 0, false
	}
	slices.SortFunc(order, func(a, b int32) int { return cmp.Compare(scores[b], scores[a]) })
	found, before := 0, 0
	for i, at := range order {
		found += count(targets[at])
		if i+1 < len(order) && scores[order[i+1]] == scores[at] {
			continue
		}
		ap += float64(found-before) / float64(positives) * float64(found) / float64(i+1)
		before = found
	}
	return ap, true
}

// Thresholds returns a threshold for each label: the one with the greatest F1 on these images. A
// label that fewer than [LeastPositives] images have keeps [DefaultThreshold].
//
// All thresholds between two neighbouring probabilities give the same predictions. Of them, the
// choice is DefaultThreshold if it lies between them, and else the middle. If several choices have
// the greatest F1, it is the one nearest to DefaultThreshold, and of two the lower one.
func (p *LabelPredictions) Thresholds() []float64 {
	thresholds := make([]float64, len(p.Classes))
	forBlocks(len(thresholds), func(_, from, to int) {
		for c := from; c < to; c++ {
			thresholds[c] = bestThreshold(p.column(c))
		}
	})
	return thresholds
}

// bestThreshold returns the threshold of one label; see Thresholds.
func bestThreshold(logits []float32, targets []bool) float64 {
	positives := 0
	probabilities, order := make([]float64, len(logits)), make([]int, len(logits))
	for i, v := range logits {
		probabilities[i], order[i] = Sigmoid(v), i
		positives += count(targets[i])
	}
	if positives < LeastPositives {
		return DefaultThreshold
	}
	slices.SortFunc(order, func(a, b int) int { return cmp.Compare(probabilities[b], probabilities[a]) })
	best, bestF1, found := DefaultThreshold, -1.0, 0
	for i, at := range order {
		found += count(targets[at])
		high, low := probabilities[at], 0.0
		if i+1 < len(order) {
			low = probabilities[order[i+1]]
		}
		if high == low {
			continue
		}
		t := (low + high) / 2
		switch {
		case low < DefaultThreshold && DefaultThreshold <= high:
			t = DefaultThreshold
		case t <= low: // neighbouring numbers
			t = high
		}
		// the lower threshold follows later
		f1, nearer := ratio(2*found, positives+i+1), math.Abs(t-DefaultThreshold) <= math.Abs(best-DefaultThreshold)
		if f1 > bestF1 || f1 == bestF1 && nearer {
			best, bestF1 = t, f1
		}
	}
	return best
}

// count returns 1 for true and 0 for false.
func count(b bool) int {
	if b {
		return 1
	}
	return 0
}

// LabelProbability is the probability of one label of an image.
type LabelProbability struct {
	ClassProbability
	Threshold float64 // the probability from which the label is predicted
	Predicted bool    // whether the label is predicted
}

// RankedLabels returns the labels of an image, most probable first. logits holds one logit for each
// label, and thresholds are as for [LabelPredictions.Metrics]. calibration is as
// [LabelPredictions.Calibration] returns it; nil keeps the probabilities of the model. It changes
// the probabilities and the thresholds, and no predicted label.
func RankedLabels(logits []float32, thresholds []float64, calibration []LabelCalibration) []LabelProbability {
	out, ranks := make([]LabelProbability, len(logits)), make([]float64, len(logits))
	for c, v := range logits {
		l := LabelProbability{ClassProbability{c, Sigmoid(v)}, thresholdOf(thresholds, c), false}
		l.Predicted, ranks[c] = l.Probability >= l.Threshold, float64(v)
		if calibration != nil {
			ranks[c] = calibration[c].logit(float64(v))
			l.Probability, l.Threshold = sigmoid(ranks[c]), calibration[c].threshold(l.Threshold)
		}
		out[c] = l
	}
	// large logits have equal probabilities
	slices.SortStableFunc(out, func(a, b LabelProbability) int { return cmp.Compare(ranks[b.Class], ranks[a.Class]) })
	return out
}
