package objective

import (
	"fmt"

	. "github.com/gomlx/gomlx/core/graph"

	"github.com/gomlx/compute/dtypes"

	"github.com/sptune/spt/backbone"
	"github.com/sptune/spt/dataset"
)

// SingleLabel is the objective of images with one label each: softmax and cross-entropy. Its
// accuracy is the share of images whose largest logit is that of the label.
var SingleLabel Objective = singleLabel{}

type singleLabel struct{}

// Name returns "single-label".
func (singleLabel) Name() string { return "single-label" }

// TargetShape returns an empty shape: the class id is one number.
func (singleLabel) TargetShape(classes, imageSize int) []int { return nil }

// Encode writes the class id.
func (singleLabel) Encode(target dataset.Target, dst []int32) error {
	class, ok := target.(dataset.Class)
	if !ok {
		return fmt.Errorf("encoding target %v of type %T: the objective single-label takes one class; choose the objective that fits the data set", target, target)
	}
	dst[0] = int32(class)
	return nil
}

// Features returns the pooled features, [B, width].
func (singleLabel) Features(m *backbone.Model, l backbone.Layers, images *Node) *Node {
	return m.Features(l, images)
}

// Logits returns one logit for each class, [B, C].
func (singleLabel) Logits(c backbone.Config, l backbone.Layers, features *Node) *Node {
	return c.Classify(l, features)
}

// Losses returns −log softmax(logits)[label], [B].
func (singleLabel) Losses(logits, targets *Node) *Node {
	oneHot := OneHot(targets, logits.Shape().Dim(1), dtypes.Float32)
	return Neg(ReduceSum(Mul(oneHot, LogSoftmax(logits)), 1))
}

// Correct returns 1 for each image whose largest logit is that of its label, else 0, [B].
func (singleLabel) Correct(logits, targets *Node) *Node {
	return ConvertDType(Equal(ArgMax(logits, 1, dtypes.Int32), targets), dtypes.Float32)
}
