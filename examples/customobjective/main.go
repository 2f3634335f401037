// Command customobjective shows how to add an objective to spt. The objective is smoothed:
// cross-entropy with label smoothing (Szegedy et al. 2016, arXiv 1512.00567). After its
// registration, all commands of spt can use it:
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

// epsilon is the smoothing factor: the share of a target that is spread equally over all classes.
const epsilon = 0.1

// smoothed is objective.SingleLabel with another name and another loss.
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
