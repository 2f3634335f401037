package probe

import (
	"context"
	"fmt"
	"math"
	"slices"

	"github.com/sptune/spt/internal/kernel/vector"
	"github.com/sptune/spt/internal/workers"
)

// OneLabel is the problem of images with one class each: multinomial logistic regression. The
// values of Features.Labels are class ids, one for each image.
var OneLabel Problem = oneLabel{}

type oneLabel struct{}

func (oneLabel) targets(int) int { return 1 }

func (oneLabel) check(labels []int32, classes int) error {
	for i, label := range labels {
		if label < 0 || int(label) >= classes {
			return fmt.Errorf("image %d has label %d; labels are 0 to %d", i, label, classes-1)
		}
	}
	return nil
}

// begin counts the classes. At least two need images.
func (oneLabel) begin(labels []int32, classes int, classWeights []float64) (s start, err error) {
	share := make([]float64, classes)
	for _, label := range labels {
		share[label]++
	}
	id := make([]int32, classes)
	total := 0.0
	for class, n := range share {
		if n == 0 {
			continue
		}
		id[class] = int32(len(s.present))
		s.present = append(s.present, class)
		if classWeights != nil {
			share[class] *= classWeights[class]
		}
		total += share[class]
	}
	if len(s.present) < 2 {
		return s, fmt.Errorf("all %d training images have class %d; give images of at least two classes", len(labels), s.present[0])
	}
	l := &softmaxLoss{labels: make([]int32, len(labels)), weights: make([]float32, len(labels))}
	for i, label := range labels {
		l.labels[i], l.weights[i] = id[label], 1
		if classWeights != nil {
			l.weights[i] = float32(classWeights[label] * float64(len(labels)) / total)
		}
	}
	for _, class := range s.present {
		s.bias = append(s.bias, math.Log(share[class]/total))
	}
	s.loss = l
	return s, nil
}

func (oneLabel) guess(_ []int32, classes int, _ []float64) float64 {
	return math.Log(float64(classes))
}

// measure weighs images with the weights of their classes.
func (oneLabel) measure(labels []int32, logits []float32, c int, classWeights []float64, s *workers.Scratch) (m measure) {
	p := s.Float32s(c)
	for i, label := range labels {
		z, v := logits[i*c:(i+1)*c], 1.0
		if classWeights != nil {
			v = classWeights[label]
		}
		m.weight += v
		if z[label] == vector.MaxOf(z) && slices.Index(z, z[label]) == int(label) {
			m.correct += v
		}
		m.loss += v * max(0, float64(vector.SoftmaxRow(p, z, 1))-float64(z[label]))
	}
	return m
}

// deal deals the images of each class to the parts in turn, so the parts differ by at most one
// image.
func (oneLabel) deal(labels []int32, classes, parts int) []int {
	count := make([]int, classes)
	for _, label := range labels {
		count[label]++
	}
	next, from := make([]int, classes), 0
	for class, n := range count {
		next[class] = from
		if n > 1 {
			from += n
		}
	}
	out := make([]int, len(labels))
	for i, label := range labels {
		if count[label] == 1 {
			out[i] = -1
			continue
		}
		out[i] = next[label] % parts
		next[label]++
	}
	return out
}

// softmaxLoss is the weighted cross-entropy of images.
type softmaxLoss struct {
	labels  []int32   // positions of the classes in start.present
	weights []float32 // of each image, with a sum of n
}

func (l *softmaxLoss) gradient(image int, logits []float32, _ *workers.Scratch) (loss float64) {
	rows := min(chunkRows, len(l.labels)-image)
	c := len(logits) / rows
	for i := range rows {
		z, label, weight := logits[i*c:(i+1)*c], l.labels[image+i], l.weights[image+i]
		target := z[label]
		loss += float64(weight) * float64(vector.SoftmaxRow(z, z, 1)-target)
		z[label]--
		if weight != 1 {
			vector.MulScalar(z, z, weight)
		}
	}
	return loss
}

// absent returns one bias for all classes without training images. The mean of exp(bias − lse) over
// the n training images is 1/(2n), half an image. lse is the logarithm of the sum of the
// exponentials of the logits.
func (l *softmaxLoss) absent(ctx context.Context, o *objective) (func(int) float64, error) {
	lse := make([]float64, o.n)
	cut := o.classes * o.width
	err := head{o.point[:cut], o.point[cut:]}.forLogits(ctx, Features{Width: o.width, Values: o.x}, func(from int, logits []float32) {
		for i := range len(logits) / o.classes {
			row := logits[i*o.classes : (i+1)*o.classes]
			lse[from+i] = float64(vector.SoftmaxRow(row, row, 1))
		}
	})
	if err != nil {
		return nil, err
	}
	least, sum := slices.Min(lse), 0.0
	for _, v := range lse {
		sum += math.Exp(least - v)
	}
	// log(1/(2n)) − log(Σ exp(−lse)/n), where Σ exp(−lse) = sum·exp(−least)
	bias := least - math.Log(2*sum)
	return func(int) float64 { return bias }, nil
}
