package peft

import (
	"fmt"

	. "github.com/gomlx/gomlx/core/graph"

	"github.com/sptune/spt/backbone"
)

// operations lists the operations of the forward pass of a backbone, from a block up to its
// features, in the order of computation. Methods that do not depend on tensor names use it, so they
// work with every architecture.
type operations struct {
	outputs  []operation // linear layers, norms, convolutions and the patch embedding
	branches []operation // branches of the blocks, such as "blocks.3.mlp"
	tokens   int         // number of blocks that call backbone.Layers.Tokens
}

// operation holds the name of an operation and the width of its output. For a branch, width is the
// width of its input.
type operation struct {
	name  string
	width int
}

// operationsOf returns the operations of a backbone from the given block on. For block 0 they begin
// with the patch embedding. operationsOf builds the graph of the forward pass but does not run it.
func operationsOf(c backbone.Config, block int) (*operations, error) {
	o := new(operations)
	err := buildScratch(func(g *Graph) {
		// Tensors of the same shape share one parameter, because a graph with thousands of
		// parameters takes long to build.
		tensors, byShape := map[string]*Node{}, map[string]*Node{}
		for _, p := range c.Params() {
			shape := fmt.Sprint(p.Shape)
			if byShape[shape] == nil {
				byShape[shape] = Parameter(g, shape, float32Shape(p.Shape))
			}
			tensors[p.Name] = byShape[shape]
		}
		input := []int{1, c.ImageSize, c.ImageSize, 3}
		if block > 0 {
			tokens, width, err := c.HiddenSize(block)
			if err != nil {
				panic(err)
			}
			input = []int{1, tokens, width}
		}
		c.Features(&recorder{backbone.Untuned(tensors), o}, block, Parameter(g, "input", float32Shape(input)))
	})
	if err != nil {
		return nil, fmt.Errorf("listing the operations of the backbone: %w", err)
	}
	return o, nil
}

// recorder implements backbone.Layers for the frozen backbone and records the operations.
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

func (r *recorder) Tokens(_ int, x *Node) *Node {
	r.operations.tokens++
	return x
}

func (r *recorder) Branch(name string, _ int, x, y *Node) *Node {
	r.branches = append(r.branches, operation{name, x.Shape().Dim(-1)})
	return y
}
