package probe

import (
	"context"
	"fmt"
	"math"
	"math/rand/v2"

	"github.com/sptune/spt/internal/kernel/vector"
	"github.com/sptune/spt/internal/labelsplit"
	"github.com/sptune/spt/internal/workers"
)

// SeveralLabels is the problem of images with any number of labels: one logistic regression for
// each label against the rest. Features.Labels is [images, labels], row-major: 1 for a label that
// an image has, else 0.
var SeveralLabels Problem = severalLabels{}

type severalLabels struct{}

func (severalLabels) targets(classes int) int { return classes }

func (severalLabels) check(labels []int32, classes int) error {
	for i, v := range labels {
		if v != 0 && v != 1 {
			return fmt.Errorf("image %d has the value %d for label %d; values are 0 and 1", i/classes, v, i%classes)
		}
	}
	return nil
}

// positives returns the number of images with each label.
func positives(labels []int32, classes int) []int {
	count := make([]int, classes)
	for i, v := range labels {
		count[i%classes] += int(v)
	}
	return count
}

// positiveWeight returns the weight of the images that have a label.
func positiveWeight(classWeights []float64, label int) float64 {
	if classWeights == nil {
		return 1
	}
	return classWeights[label]
}

// begin finds the labels that some images have and others lack.
func (severalLabels) begin(labels []int32, classes int, classWeights []float64) (s start, err error) {
	n, count := len(labels)/classes, positives(labels, classes)
	l := &sigmoidLoss{positives: count, n: n}
	for label, with := range count {
		if with == 0 || with == n {
			continue
		}
		w := positiveWeight(classWeights, label)
		s.present, s.bias, l.weights = append(s.present, label), append(s.bias, math.Log(w*float64(with)/float64(n-with))), append(l.weights, w)
	}
	if len(s.present) == 0 {
		return s, fmt.Errorf("all %d training images have the same labels; give images with and images without a label", n)
	}
	l.has = make([]bool, 0, n*len(s.present))
	for i := range n {
		for _, label := range s.present {
			l.has = append(l.has, labels[i*classes+label] == 1)
		}
	}
	s.loss = l
	return s, nil
}

// guess returns the mean loss of the pairs if the logit of each label is the best constant. The
// weighted share of the images with the label is its probability.
func (severalLabels) guess(labels []int32, classes int, classWeights []float64) float64 {
	n, loss := len(labels)/classes, 0.0
	for label, with := range positives(labels, classes) {
		if with > 0 && with < n {
			yes, no := positiveWeight(classWeights, label)*float64(with), float64(n-with)
			loss += yes*math.Log1p(no/yes) + no*math.Log1p(yes/no)
		}
	}
	return loss / float64(len(labels))
}

// measure counts all pairs of an image and a label alike. The weight of a label multiplies the loss
// of the images that have it.
func (severalLabels) measure(labels []int32, logits []float32, c int, classWeights []float64, _ *workers.Scratch) (m measure) {
	m.weight = float64(len(labels))
	for i, v := range labels {
		z := float64(logits[i])
		if has := v == 1; has == (z >= 0) { // a probability of at least 0.5
			m.correct++
		}
		w := 1.0
		if v == 1 {
			z, w = -z, positiveWeight(classWeights, i%c)
		}
		m.loss += w * (max(z, 0) + math.Log1p(math.Exp(-math.Abs(z))))
	}
	return m
}

// deal divides the images by iterative stratification.
func (severalLabels) deal(labels []int32, classes, parts int) []int {
	n, count := len(labels)/classes, positives(labels, classes)
	of := make([][]int, n)
	var dealt []int // the images that may be held out
	for i := range n {
		only := false
		for label := range classes {
			if labels[i*classes+label] == 1 {
				of[i], only = append(of[i], label), only || count[label] == 1
			}
		}
		if !only {
			dealt = append(dealt, i)
		}
	}
	fractions := make([]float64, parts)
	for part := range fractions {
		fractions[part] = 1 / float64(parts)
	}
	rng := rand.New(rand.NewPCG(0, 0))
	at := labelsplit.Parts(func(i int) []int { return of[dealt[i]] }, rng.Perm(len(dealt)), fractions, rng)
	out := make([]int, n)
	for i := range out {
		out[i] = -1
	}
	for i, image := range dealt {
		out[image] = at[i]
	}
	return out
}

// sigmoidLoss is the binary cross-entropy of images, summed over the labels of start.present.
type sigmoidLoss struct {
	has       []bool    // [n, present]
	weights   []float64 // of the images that have a label, for each label of start.present
	positives []int     // images with each label
	n         int
}

func (l *sigmoidLoss) gradient(image int, logits []float32, s *workers.Scratch) (loss float64) {
	c := len(l.weights)
	has := l.has[image*c:][:len(logits)]
	e, log := s.Float32s(len(logits)), s.Float32s(len(logits))
	vector.Abs(e, logits)
	vector.Neg(e, e)
	vector.Exp(e, e) // exp(-|z|)
	vector.AddScalar(log, e, 1)
	vector.Log(log, log)
	for i, z := range logits {
		// For v = z without the label and v = -z with it, the loss is log(1+exp(v)), and its
		// derivative by v is 1/(1+exp(-v)).
		v, w := z, 1.0
		if has[i] {
			v, w = -z, l.weights[i%c]
		}
		g := 1 / (1 + e[i])
		if v < 0 {
			g *= e[i]
		}
		loss += w * float64(max(v, 0)+log[i])
		g *= float32(w)
		if has[i] {
			g = -g
		}
		logits[i] = g
	}
	return loss
}

// absent returns the bias with the probability 1/(2n) for a label that none of the n training
// images has, half an image. For a label that all of them have, the probability of its absence is
// 1/(2n).
func (l *sigmoidLoss) absent(context.Context, *objective) (func(int) float64, error) {
	bias := math.Log(float64(2*l.n - 1))
	return func(label int) float64 {
		if l.positives[label] == 0 {
			return -bias
		}
		return bias
	}, nil
}
