package objective

import (
	"fmt"
	"math"

	. "github.com/gomlx/gomlx/core/graph"

	"github.com/gomlx/compute/dtypes"

	"github.com/sptune/spt/backbone"
	"github.com/sptune/spt/dataset"
	"github.com/sptune/spt/probe"
)

// SingleLabel is the objective for images with one label each. Its loss is the softmax
// cross-entropy. Its accuracy is the share of images whose largest logit is the logit of the label.
// SingleLabel is a [PerImage] and a [Probed].
var SingleLabel Objective = singleLabel{}

type singleLabel struct{ Pooled }

func (singleLabel) Name() string { return "single-label" }

// TargetShape returns an empty shape: the target is the class id.
func (singleLabel) TargetShape(backbone.Config) []int { return nil }

func (singleLabel) Encode(target dataset.Target, dst []int32) error {
	class, ok := target.(dataset.Class)
	if !ok {
		return fmt.Errorf("objective %s reads one label per image: found the target %v; choose an objective that fits the data set", SingleLabel.Name(), target)
	}
	dst[0] = int32(class)
	return nil
}

// Loss returns the mean of −log softmax(logits)[label], for logits [B, C] and labels [B].
func (singleLabel) Loss(logits, labels *Node) *Node {
	oneHot := OneHot(labels, logits.Shape().Dim(1), dtypes.Float32)
	return Neg(ReduceAllMean(ReduceSum(Mul(oneHot, LogSoftmax(logits)), 1)))
}

// Losses returns the loss of each image, [B]: the cross-entropy with the smoothed label, times the
// weight of the label. Without weights it equals CrossEntropyLoss(label_smoothing,
// reduction="none") of PyTorch. PyTorch applies weights to each class of the smoothed label, and
// divides the sum of the losses by the sum of the weights. Here the weight of an image does not
// depend on the smoothing, and the loss of a mini-batch is the mean, so micro-batches stay exact.
func (singleLabel) Losses(logits, labels *Node, o LossOptions) *Node {
	classes := logits.Shape().Dim(1)
	oneHot := OneHot(labels, classes, dtypes.Float32)
	target := oneHot
	if o.Smoothing > 0 {
		target = AddScalar(MulScalar(oneHot, 1-o.Smoothing), o.Smoothing/float64(classes))
	}
	losses := Neg(ReduceSum(Mul(target, LogSoftmax(logits)), 1))
	if o.ClassWeights != nil {
		weights := Reshape(Const(logits.Graph(), o.ClassWeights), 1, classes)
		losses = Mul(losses, ReduceSum(Mul(oneHot, weights), 1))
	}
	return losses
}

// Correct returns 1 for each image whose largest logit is the logit of its label, else 0.
func (singleLabel) Correct(logits, labels *Node) *Node {
	return ConvertDType(Equal(ArgMax(logits, 1, dtypes.Int32), labels), dtypes.Float32)
}

func (singleLabel) Problem() probe.Problem { return probe.OneLabel }

func (singleLabel) NewMetrics(c backbone.Config) Metrics {
	return &singleLabelMetrics{classes: make([]ClassCount, c.NumClasses)}
}

// singleLabelMetrics counts images and adds up their losses.
type singleLabelMetrics struct {
	classes         []ClassCount
	images, correct int
	loss            float64
}

func (m *singleLabelMetrics) Add(logits []float32, labels []int32) error {
	classes := len(m.classes)
	for i, label := range labels {
		if label < 0 || int(label) >= classes {
			return fmt.Errorf("image %d has label %d, expected 0 to %d, the classes of the head", m.images+1, label, classes-1)
		}
		row := logits[i*classes : (i+1)*classes]
		best, lse := logSumExp(row)
		m.loss += lse - float64(row[label])
		m.images++
		m.classes[label].Images++
		m.classes[best].Predicted++
		if best == int(label) {
			m.classes[label].Correct++
			m.correct++
		}
	}
	return nil
}

func (m *singleLabelMetrics) Evaluation() Evaluation {
	e := Evaluation{Images: m.images, Classes: m.classes}
	if m.images > 0 {
		e.Accuracy = float64(m.correct) / float64(m.images)
		e.Loss = m.loss / float64(m.images)
	}
	return e
}

// logSumExp returns the position of the largest value of row, and log Σ exp(row).
func logSumExp(row []float32) (best int, lse float64) {
	for i, v := range row {
		if v > row[best] {
			best = i
		}
	}
	sum := 0.0
	for _, v := range row {
		sum += math.Exp(float64(v - row[best]))
	}
	return best, float64(row[best]) + math.Log(sum)
}
