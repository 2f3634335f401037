package objective_test

import (
	"fmt"
	"log"

	. "github.com/gomlx/gomlx/core/graph"

	"github.com/gomlx/compute/dtypes"

	"github.com/sptune/spt/backbone"
	"github.com/sptune/spt/dataset"
	"github.com/sptune/spt/objective"
)

// smoothed is single-label classification with smoothed labels: 0.9 for the label of an image, and
// the remaining 0.1 in equal parts for all classes.
type smoothed struct{ objective.Objective }

func (smoothed) Name() string { return "smoothed" }

func (smoothed) Loss(logits, labels *Node) *Node { // [B, C], [B]
	classes := logits.Shape().Dim(1)
	target := AddScalar(MulScalar(OneHot(labels, classes, dtypes.Float32), 0.9), 0.1/float64(classes))
	return Neg(ReduceAllMean(ReduceSum(Mul(target, LogSoftmax(logits)), 1)))
}

// Define an objective by embedding another objective and replacing two of its methods. Pass it to
// spt.WithObjective to use it for a task. Call Register too, so that configurations can name the
// objective and its deltas can be loaded.
func Example() {
	var o objective.Objective = smoothed{objective.SingleLabel}

	c := backbone.Config{NumClasses: 3}
	labels, err := objective.Encode(o, c, []dataset.Target{dataset.Class(2), dataset.Class(0)})
	if err != nil {
		log.Fatal(err)
	}
	metrics := o.NewMetrics(c)
	if err := metrics.Add([]float32{0, 1, 5, 0, 3, 1}, labels); err != nil {
		log.Fatal(err)
	}
	e := metrics.Evaluation()
	fmt.Println(o.Name(), "reads the labels", labels)
	fmt.Println(e.Images, "images, accuracy", e.Accuracy)
	// Output:
	// smoothed reads the labels [2 0]
	// 2 images, accuracy 0.5
}
