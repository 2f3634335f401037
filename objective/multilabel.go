package objective

import (
	"fmt"

	. "github.com/gomlx/gomlx/core/graph"

	"github.com/gomlx/compute/dtypes"

	"github.com/sptune/spt/backbone"
	"github.com/sptune/spt/dataset"
	"github.com/sptune/spt/evaluate"
	"github.com/sptune/spt/probe"
)

// MultiLabel is the objective for images with any number of labels each. Its loss is the binary
// cross-entropy of a sigmoid for each label, averaged over labels and images, as BCEWithLogitsLoss
// of PyTorch. Its accuracy is the mean average precision of the labels; see evaluate.LabelMetrics.
// It reads the targets dataset.Labels and dataset.Class. MultiLabel is a [PerImage] and a [Probed].
var MultiLabel Objective = multiLabel{}

type multiLabel struct{ Pooled }

func (multiLabel) Name() string { return "multi-label" }

// TargetShape returns [C]: 1 for a label of the image, else 0.
func (multiLabel) TargetShape(c backbone.Config) []int { return []int{c.NumClasses} }

func (multiLabel) Encode(target dataset.Target, dst []int32) error {
	switch target.(type) {
	case dataset.Labels, dataset.Class:
	default:
		return fmt.Errorf("objective %s reads the labels of an image: found the target %v; choose an objective that fits the data set", MultiLabel.Name(), target)
	}
	if err := target.Check(len(dst)); err != nil {
		return err
	}
	for _, id := range dataset.ClassesOf(target) {
		dst[id] = 1
	}
	return nil
}

func (m multiLabel) Loss(logits, targets *Node) *Node {
	return ReduceAllMean(m.Losses(logits, targets, LossOptions{}))
}

// Losses returns the loss of each image, [B]: the mean over its labels. With o.ClassWeights the
// loss of a label that the image has is multiplied by the weight of the label, as pos_weight of
// BCEWithLogitsLoss does. With o.Smoothing the targets are 1-s/2 and s/2, which spreads the share s
// evenly over presence and absence.
func (multiLabel) Losses(logits, targets *Node, o LossOptions) *Node {
	t := ConvertDType(targets, dtypes.Float32)
	if o.Smoothing > 0 {
		t = AddScalar(MulScalar(t, 1-o.Smoothing), o.Smoothing/2)
	}
	// -log(1-sigmoid(x)) is softplus(x), and -log(sigmoid(x)) is softplus(x)-x
	softplus := Add(MaxScalar(logits, 0), Log1P(Exp(Neg(Abs(logits)))))
	present, absent := Mul(t, Sub(softplus, logits)), Mul(OneMinus(t), softplus)
	if o.ClassWeights != nil {
		present = Mul(present, Reshape(Const(logits.Graph(), o.ClassWeights), 1, logits.Shape().Dim(1)))
	}
	return ReduceMean(Add(present, absent), 1)
}

// Correct returns the share of labels of each image that are rightly predicted as present, with a
// probability above 0.5, or as absent.
func (multiLabel) Correct(logits, targets *Node) *Node {
	present := ConvertDType(GreaterThan(logits, ZerosLike(logits)), dtypes.Int32)
	return ReduceMean(ConvertDType(Equal(present, targets), dtypes.Float32), 1)
}

func (multiLabel) Problem() probe.Problem { return probe.SeveralLabels }

func (multiLabel) NewMetrics(c backbone.Config) Metrics {
	return &multiLabelMetrics{classes: c.NumClasses, labels: make([]labelCount, c.NumClasses)}
}

// SeveralLabels reports whether the objective has one logit and one target, 0 or 1, for each label
// of an image, as [MultiLabel] has.
func SeveralLabels(o Objective, c backbone.Config) bool {
	shape := o.TargetShape(c)
	return len(shape) == 1 && shape[0] == c.NumClasses
}

// ScoreName returns the name of the metric Evaluation.Accuracy of the objective with the given
// name, in words: "mAP" for [MultiLabel] and "accuracy" for other objectives.
func ScoreName(objective string) string {
	if objective == MultiLabel.Name() {
		return "mAP"
	}
	return "accuracy"
}

// labelCount counts the images of one label; see evaluate.Label.
type labelCount struct{ support, predicted, correct int }

// multiLabelMetrics keeps all predictions of a split, because average precision is not a mean over
// images.
type multiLabelMetrics struct {
	classes int
	logits  []float32
	targets []bool
	labels  []labelCount
	exact   int // images whose labels are all right
	wrong   int // pairs of an image and a label
	loss    float64
}

func (m *multiLabelMetrics) Add(logits []float32, targets []int32) error {
	for i, t := range targets {
		if t != 0 && t != 1 {
			return fmt.Errorf("image %d has target %d for label %d, expected 0 or 1", (len(m.targets)+i)/m.classes+1, t, i%m.classes)
		}
	}
	wrong := 0
	for i, t := range targets {
		has, said := t == 1, evaluate.Sigmoid(logits[i]) >= evaluate.DefaultThreshold
		m.targets = append(m.targets, has)
		l := &m.labels[i%m.classes]
		if has {
			l.support++
		}
		if said {
			l.predicted++
		}
		if has && said {
			l.correct++
		}
		if has != said {
			wrong++
		}
		m.loss += evaluate.BinaryCrossEntropy(logits[i], has)
		if i%m.classes == m.classes-1 {
			if wrong == 0 {
				m.exact++
			}
			m.wrong += wrong
			wrong = 0
		}
	}
	m.logits = append(m.logits, logits...)
	return nil
}

// Evaluation returns the mean average precision as Accuracy, and the metrics "map", "macro_f1",
// "micro_f1", "subset_accuracy" and "hamming_loss". A label is predicted from a probability of 0.5
// on.
func (m *multiLabelMetrics) Evaluation() Evaluation {
	images := len(m.targets) / max(m.classes, 1)
	e := Evaluation{Images: images}
	with, macro, all := 0, 0.0, labelCount{}
	scores, targets := make([]float32, images), make([]bool, images)
	for class, l := range m.labels {
		all.support, all.predicted, all.correct = all.support+l.support, all.predicted+l.predicted, all.correct+l.correct
		if l.support == 0 {
			continue
		}
		for i := range images {
			scores[i], targets[i] = m.logits[i*m.classes+class], m.targets[i*m.classes+class]
		}
		ap, _ := evaluate.AveragePrecision(scores, targets)
		with++
		e.Accuracy += ap
		macro += 2 * float64(l.correct) / float64(l.support+l.predicted)
	}
	pairs := max(len(m.targets), 1)
	e.Accuracy /= float64(max(with, 1))
	e.Loss = m.loss / float64(pairs)
	e.Metrics = map[string]float64{mapMetric: e.Accuracy, macroF1Metric: macro / float64(max(with, 1)), "micro_f1": 2 * float64(all.correct) / float64(max(all.support+all.predicted, 1)),
		"subset_accuracy": float64(m.exact) / float64(max(images, 1)), "hamming_loss": float64(m.wrong) / float64(pairs)}
	return e
}
