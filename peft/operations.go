package peft

import (
	"fmt"

	. "github.com/gomlx/gomlx/core/graph"

	"github.com/sptune/spt/backbone"
)

// operations lists what a backbone computes on the way to its features, in that order. Methods that
// look at no tensor names act there, on every architecture.
type operations struct {
	outputs  []operation // linear layers, norms, convolutions, patch embedding
	branches []operation // the blocks' branches, such as "blocks.3.mlp"
	tokens   int         // blocks that ask for their tokens
}

// operation is the name of an operation and the width of its output.
type operation struct {
	name  string
	width int
}

// operationsOf builds the forward pass of the backbone, which is never run, and records its
// operations.
func operationsOf(c backbone.Config) (*operations, error) {
	o := new(operations)
	err := buildScratch(func(g *Graph) {
		// Tensors of one shape share one parameter: a graph with thousands of parameters takes long
		// to build.
		tensors, byShape := map[string]*Node{}, map[string]*Node{}
		for _, p := range c.Params() {
			shape := fmt.Sprint(p.Shape)
			if byShape[shape] == nil {
				byShape[shape] = Parameter(g, shape, float32Shape(p.Shape))
			}
			tensors[p.Name] = byShape[shape]
		}
		c.Features(&recorder{backbone.Untuned(tensors), o}, Parameter(g, "images", float32Shape([]int{1, c.ImageSize, c.ImageSize, 3})))
	})
	if err != nil {
		return nil, fmt.Errorf("looking at the backbone's operations: %w", err)
	}
	return o, nil
}

// recorder is the frozen backbone. It records the operations.
type recorder struct {
	backbone.Layers
	*operations
}

func (r *recorder) Linear(name string, x *Node) *Node {
	return r.Output(name, r.Layers.Linear(name, x))
}

func (r *recorder) Output(name string, y *Node) *Node {
	r.outputs = append(r.outputs, operation{name, y.Shape().Dim(-1)})
	return y
}

func (r *recorder) Tokens(block int, x *Node) *Node {
	r.operations.tokens = max(r.operations.tokens, block+1)
	return x
}

func (r *recorder) Branch(name string, _ int, x, y *Node) *Node {
	r.branches = append(r.branches, operation{name, x.Shape().Dim(-1)})
	return y
}
