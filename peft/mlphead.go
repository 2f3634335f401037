package peft

import (
	"fmt"

	. "github.com/gomlx/gomlx/core/graph"

	"github.com/sptune/spt/backbone"
)

// MLPHead returns the selection of an MLP with that many layers in place of the head, a baseline of
// VPT (Jia et al. 2022, arXiv 2203.12119). All layers but the last are as wide as the features,
// with ReLU and the dropout of the run after them. The code of the paper also normalises each by
// batch; a delta holds no running statistics, so this is left out. With one layer it is the linear
// probe. It cannot be merged.
func MLPHead(layers int) Selection { return Selection{MLPHead: layers} }

// hiddenLayer returns the name of a layer of the head before the last one.
func hiddenLayer(head string, i int) string { return fmt.Sprintf("%s.hidden.%d", head, i) }

func (t *Tuning) declareMLPHead(c backbone.Config) error {
	if n := t.Selection.MLPHead; n < 1 || n > maxHeadLayers {
		return fmt.Errorf("an MLP head of %d layers: expected 1 to %d", n, maxHeadLayers)
	}
	d := c.NumFeatures()
	for i := range t.Selection.MLPHead - 1 {
		name := hiddenLayer(c.Head(), i)
		t.Params = append(t.Params, Param{Name: name + ".weight", Shape: []int{d, d}, Init: kaimingNormal}, Param{Name: name + ".bias", Shape: []int{d}, Init: Zero})
		t.Counts.Head += d*d + d
	}
	return nil
}

// hidden returns the input of the last layer of an MLP head.
func (l *layers) hidden(name string, x *Node) *Node {
	if name != l.Config.Head() {
		return x
	}
	for i := range l.Selection.MLPHead - 1 {
		layer := hiddenLayer(name, i)
		x = relu(backbone.Linear(x, l.tuned[layer+".weight"], l.tuned[layer+".bias"]))
		x = l.drop(x, l.rates.Dropout, x.Shape().Dimensions)
	}
	return x
}

func relu(x *Node) *Node { return MaxScalar(x, 0) }
