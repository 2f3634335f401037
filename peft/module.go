package peft

import (
	"fmt"
	"strings"

	. "github.com/gomlx/gomlx/core/graph"

	"github.com/gomlx/compute/dtypes"

	"github.com/sptune/spt/checkpoint"
)

// Module is a kind of structured module: a small trainable network attached to a frozen linear
// layer. A module is a graph function and a parameter count; the graph function declares the
// module's tensors. [Register] makes one known.
type Module struct {
	// Name is the name of the module in plans, in deltas and on the command line.
	Name string
	// Count returns the number of parameters of the module at a rank on a matrix [out, in].
	Count func(in, out, rank int) int
	// Graph returns the output of the layer with the module attached, [..., out]. x [..., in] is
	// the input of the layer and y [..., out] the output of the frozen layer.
	Graph func(s *Site, x, y *Node) *Node
	// Merge changes the weight and bias of the layer so that the layer computes by itself what
	// Graph returns when nothing is dropped. Nil: the module cannot be merged.
	Merge func(l *MergedLayer) error
}

// MergedLayer is a linear layer into which a module is merged. Weight and Bias are copies, which
// [Module.Merge] changes in place.
type MergedLayer struct {
	Name          string            // canonical: "blocks.3.mlp.fc1"
	In, Out, Rank int               // sides of the weight, and the rank of the module
	Weight        checkpoint.Tensor // [out, in]
	Bias          checkpoint.Tensor // [out]; the zero value if the layer has no bias
	// Tensors holds the tensors of the module by the names that Module.Graph gave them.
	Tensors map[string]checkpoint.Tensor
}

// Site is the linear layer to which a module is attached, as the graph function of the module sees
// it.
type Site struct {
	Layer         string // canonical name: "blocks.3.mlp.fc1"
	In, Out, Rank int    // sides of the weight, and the rank of the module

	layers *layers // nil while the module's tensors are being declared
	dtype  dtypes.DType
	graph  *Graph
	bias   bool // the layer has a bias
	params []Param

	weightNode, biasNode *Node // while the module's tensors are being declared
}

// is reports whether the layer is the named operation of its block, such as "attn.proj".
func (s *Site) is(operation string) bool { return strings.HasSuffix(s.Layer, "."+operation) }

// Param returns the trainable tensor of the module with that name, shape and initial values, in the
// type of the layer's input. The full name of the tensor, in deltas, is the name of the layer, a
// dot and name.
func (s *Site) Param(name string, init Init, shape ...int) *Node {
	p := Param{Name: s.Layer + "." + name, Shape: shape, Init: init}
	if s.layers == nil {
		s.params = append(s.params, p)
		return Parameter(s.graph, p.Name, float32Shape(shape))
	}
	return ConvertDType(s.layers.tuned[p.Name], s.dtype)
}

// Weight returns the frozen weight of the layer, [out, in], in the type of the layer's input. It
// has no gradient. A module that does not call Weight pays nothing for it.
func (s *Site) Weight() *Node {
	if s.layers == nil {
		if s.weightNode == nil { // a graph takes a name once
			s.weightNode = Parameter(s.graph, s.Layer+".weight", float32Shape([]int{s.Out, s.In}))
		}
		return s.weightNode
	}
	return ConvertDType(s.layers.Param(s.Layer+".weight"), s.dtype)
}

// Bias returns the bias that the layer adds, [out], in the type of the layer's input; nil if the
// layer has none. It is frozen and has no gradient, unless the selection tunes this bias too: then
// Bias returns the tuned bias, and gradients flow into it.
func (s *Site) Bias() *Node {
	switch {
	case !s.bias:
		return nil
	case s.layers == nil:
		if s.biasNode == nil {
			s.biasNode = Parameter(s.graph, s.Layer+".bias", float32Shape([]int{s.Out}))
		}
		return s.biasNode
	}
	return ConvertDType(s.layers.Param(s.Layer+".bias"), s.dtype)
}

// Dropout zeroes values of x with the dropout rate of the run and scales the others by 1/(1−rate),
// while training.
func (s *Site) Dropout(x *Node) *Node {
	if s.layers == nil {
		return x
	}
	return s.layers.drop(x, s.layers.rates.Dropout, x.Shape().Dimensions)
}

// DropPath drops y for whole images with the module drop-path rate of the run, while training. The
// first axis of y is the batch.
func (s *Site) DropPath(y *Node) *Node {
	if s.layers == nil {
		return y
	}
	return s.layers.dropPath(y, s.layers.rates.ModuleDropPath)
}

// declare runs the graph function on symbolic tensors and returns the tensors that it asks for.
// Their number of parameters must be the module's own count.
func (m Module) declare(layer string, in, out, rank int, bias bool) ([]Param, error) {
	s := &Site{Layer: layer, In: in, Out: out, Rank: rank, bias: bias}
	err := buildScratch(func(g *Graph) {
		s.graph = g
		x := Parameter(g, "x", float32Shape([]int{1, 1, in}))
		y := Parameter(g, "y", float32Shape([]int{1, 1, out}))
		got := m.Graph(s, x, y)
		if !got.Shape().Equal(y.Shape()) {
			panic(fmt.Errorf("its output has shape %s, expected %s", got.Shape(), y.Shape()))
		}
	})
	if err != nil {
		return nil, fmt.Errorf("structured module %q on %s [%d,%d]: %w", m.Name, layer, out, in, err)
	}
	total := 0
	for _, p := range s.params {
		total += p.Size()
	}
	if want := m.Count(in, out, rank); total != want {
		return nil, fmt.Errorf("structured module %q on %s [%d,%d]: its graph declares %d parameters, its count says %d; correct one of them", m.Name, layer, out, in, total, want)
	}
	return s.params, nil
}
