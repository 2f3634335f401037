package peft

import (
	"fmt"

	. "github.com/gomlx/gomlx/core/graph"

	"github.com/sptune/spt/backbone"
)

// hiddenLayer returns the name of hidden layer i of an MLP head, starting at 0.
func hiddenLayer(head string, i int) string { return fmt.Sprintf("%s.hidden.%d", head, i) }

// declareMLPHead adds the tensors of the hidden layers to t.Params.
func (t *Tuning) declareMLPHead(c backbone.Config) error {
	if n := t.Selection.MLPHead; n < 1 || n > maxHeadLayers {
		return fmt.Errorf("an MLP head of %d layers: expected 1 to %d", n, maxHeadLayers)
	}
	d := c.NumFeatures()
	for i := range t.Selection.MLPHead - 1 {
		name := hiddenLayer(c.Head(), i)
		t.Params = append(t.Params, Param{Name: name + ".weight", Shape: []int{d, d}, Init: kaimingNormal, Decays: true, Head: true}, Param{Name: name + ".bias", Shape: []int{d}, Init: Zero, Head: true})
		t.Counts.Head += d*d + d
	}
	return nil
}

// hidden applies the hidden layers of an MLP head to x, if name is the head. For other layers it
// returns x.
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
