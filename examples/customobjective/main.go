// Command customobjective is spt with one more objective: smoothed, cross-entropy with smoothed
// labels (Szegedy et al. 2016, arXiv 1512.00567). Every command knows it:
//
//	go run ./examples/customobjective tune --model demo --data DIR --objective smoothed
package main

import (
	"log"
	"os"

	"github.com/gomlx/compute/dtypes"
	. "github.com/gomlx/gomlx/core/graph"

	"github.com/sptune/spt/cli"
	"github.com/sptune/spt/objective"
)

// epsilon is the share of a target that all classes get in equal parts.
const epsilon = 0.1

// smoothed has the targets, the logits and the metrics of the objective of single labels.
type smoothed struct{ objective.Objective }

func (smoothed) Name() string { return "smoothed" }

// Loss returns the mean cross-entropy for logits [B, C] and labels [B].
func (smoothed) Loss(logits, labels *Node) *Node {
	classes := logits.Shape().Dim(1)
	label := OneHot(labels, classes, dtypes.Float32)
	target := AddScalar(MulScalar(label, 1-epsilon), epsilon/float64(classes)) // [B, C]
	return Neg(ReduceAllMean(ReduceSum(Mul(target, LogSoftmax(logits)), 1)))
}

func main() {
	if err := objective.Register(smoothed{objective.SingleLabel}); err != nil {
		log.Fatal(err)
	}
	os.Exit(cli.Main(os.Args[1:]))
}
