package objective_test

import (
	"fmt"
	"slices"

	"github.com/gomlx/compute/dtypes"
	. "github.com/gomlx/gomlx/core/graph"

	"github.com/sptune/spt/backbone"
	"github.com/sptune/spt/dataset"
	"github.com/sptune/spt/objective"
)

// labels is the target of an image with any number of labels: their class ids, ascending.
type labels []int

func (l labels) Check(classes int) error {
	for _, id := range l {
		if err := dataset.Class(id).Check(classes); err != nil {
			return err
		}
	}
	return nil
}

func (l labels) Stratum() int   { return append(l, 0)[0] }
func (l labels) String() string { return fmt.Sprint([]int(l)) }

// multiLabel is an objective that is written outside package objective. Its loss is the binary
// cross-entropy of a sigmoid for each class. Its accuracy is the mean average precision over the
// classes.
type multiLabel struct{ objective.Pooled }

func (multiLabel) Name() string                        { return "multi-label" }
func (multiLabel) TargetShape(c backbone.Config) []int { return []int{c.NumClasses} }

func (multiLabel) Encode(target dataset.Target, dst []int32) error {
	ids, ok := target.(labels)
	if !ok {
		return fmt.Errorf("objective multi-label reads several labels per image: found the target %v", target)
	}
	for _, id := range ids {
		dst[id] = 1
	}
	return nil
}

// Loss returns the mean of max(x, 0) − x·t + log(1 + exp(−|x|)) over images and classes.
func (multiLabel) Loss(logits, targets *Node) *Node {
	t := ConvertDType(targets, dtypes.Float32)
	return ReduceAllMean(Add(Sub(MaxScalar(logits, 0), Mul(logits, t)), Log1P(Exp(Neg(Abs(logits))))))
}

// Correct returns the share of classes that are correctly predicted as present or absent.
func (multiLabel) Correct(logits, targets *Node) *Node {
	present := ConvertDType(GreaterThan(logits, ZerosLike(logits)), dtypes.Int32)
	return ReduceMean(ConvertDType(Equal(present, targets), dtypes.Float32), 1)
}

func (multiLabel) NewMetrics(c backbone.Config) objective.Metrics {
	return &averagePrecision{classes: c.NumClasses}
}

// averagePrecision keeps all predictions of a split, because average precision is not a mean over
// images.
type averagePrecision struct {
	classes int
	logits  []float32
	targets []int32
}

func (m *averagePrecision) Add(logits []float32, targets []int32) error {
	m.logits, m.targets = append(m.logits, logits...), append(m.targets, targets...)
	return nil
}

func (m *averagePrecision) Evaluation() objective.Evaluation {
	e := objective.Evaluation{Images: len(m.targets) / m.classes}
	for class := range m.classes {
		var images []int
		for i := range e.Images {
			images = append(images, i*m.classes+class)
		}
		slices.SortStableFunc(images, func(a, b int) int { return int(sign(m.logits[b] - m.logits[a])) })
		found, sum := 0.0, 0.0
		for rank, i := range images {
			if m.targets[i] == 1 {
				found++
				sum += found / float64(rank+1)
			}
		}
		e.Accuracy += sum / max(found, 1) / float64(m.classes)
	}
	e.Metrics = map[string]float64{"map": e.Accuracy}
	return e
}
