package peft

import (
	"fmt"
	"strings"

	. "github.com/gomlx/gomlx/core/graph"

	"github.com/gomlx/compute/dtypes"

	"github.com/sptune/spt/checkpoint"
)

// Module defines a kind of structured module, such as LoRA. A structured module is a small
// trainable network that is attached to a frozen linear layer. A Module consists mainly of a graph
// function, which declares the tensors of the module, and a parameter count. Call [Register] to add
// a Module.
type Module struct {
	// Name is the name of the module in plans, in deltas and on the command line. It must not be
	// empty.
	Name string
	// Count returns the number of parameters of the module with the given rank on a matrix
	// [out, in]. It must be the number of values of the tensors that Graph declares.
	Count func(in, out, rank int) int
	// Graph returns the output [..., out] of the layer with the module attached. x [..., in] is the
	// input of the layer, and y [..., out] is the output of the frozen layer.
	Graph func(s *Site, x, y *Node) *Node
	// Merge changes the weight and the bias of the layer. The changed layer alone must give the
	// same output as Graph without dropout and drop-path. Nil means that the module cannot be
	// merged.
	Merge func(l *MergedLayer) error

	uses func() (Uses, error) // findUses, called once; nil before Register
}

// MergedLayer holds a linear layer and the trained tensors of the module that is merged into it.
// [Module.Merge] changes Weight and Bias in place; they are copies.
type MergedLayer struct {
	// Name is the canonical name of the layer, such as "blocks.3.mlp.fc1".
	Name string
	// In, Out and Rank are the number of inputs and outputs of the layer and the rank of the
	// module.
	In, Out, Rank int
	// Weight is the weight of the layer, [out, in].
	Weight checkpoint.Tensor
	// Bias is the bias of the layer, [out]. It is the zero value if the layer has no bias.
	Bias checkpoint.Tensor
	// Tensors holds the trained tensors of the module by the names that Graph passed to
	// [Site.Param].
	Tensors map[string]checkpoint.Tensor
}

// Site gives the graph function of a module access to the linear layer to which the module is
// attached.
type Site struct {
	// Layer is the canonical name of the layer, such as "blocks.3.mlp.fc1".
	Layer string
	// In, Out and Rank are the number of inputs and outputs of the layer and the rank of the
	// module.
	In, Out, Rank int

	// layers is nil while the tensors of the module are being declared.
	layers *layers
	dtype  dtypes.DType
	graph  *Graph
	// bias reports whether the layer has a bias.
	bias bool
	// params collects the declared tensors.
	params []Param
	// uses collects the drop rates that the graph function reads, while the tensors are declared.
	uses Uses
	// weightNode and biasNode are symbolic tensors, used only while the tensors are being declared.
	weightNode, biasNode *Node
}

// Uses tells which training options have an effect on a module.
type Uses struct {
	Dropout  bool // Rates.Dropout: the graph function calls [Site.Dropout]
	DropPath bool // Rates.ModuleDropPath: the graph function calls [Site.DropPath]
	Scheme   bool // the [Scheme] of initial values: the graph function declares a matrix
}

// Uses returns the training options that have an effect on the module. It returns an error if the
// graph function fails.
func (m Module) Uses() (Uses, error) {
	if m.uses != nil {
		return m.uses()
	}
	return m.findUses()
}

// findUses computes the result of Uses.
func (m Module) findUses() (Uses, error) {
	const side = 8 // any size
	s, err := m.trace("blocks.0.mlp.fc1", side, side, 1, true)
	for _, p := range s.params {
		s.uses.Scheme = s.uses.Scheme || len(p.Shape) == 2
	}
	return s.uses, err
}

// is reports whether the layer is the named layer of its block, such as "attn.proj".
func (s *Site) is(operation string) bool { return strings.HasSuffix(s.Layer, "."+operation) }

// Param declares a trainable tensor of the module and returns its node, in the data type of the
// input of the layer. In deltas the tensor has the name s.Layer + "." + name.
func (s *Site) Param(name string, init Init, shape ...int) *Node {
	p := Param{Name: s.Layer + "." + name, Shape: shape, Init: init, Decays: len(shape) >= 2, module: true}
	if s.layers == nil {
		s.params = append(s.params, p)
		return Parameter(s.graph, p.Name, float32Shape(shape))
	}
	return ConvertDType(s.layers.tuned[p.Name], s.dtype)
}

// Weight returns the frozen weight [out, in] of the layer, in the data type of the input of the
// layer. No gradient is computed for it. A module that does not call Weight has no cost for it.
func (s *Site) Weight() *Node {
	if s.layers == nil {
		if s.weightNode == nil { // a graph accepts each parameter name only once
			s.weightNode = Parameter(s.graph, s.Layer+".weight", float32Shape([]int{s.Out, s.In}))
		}
		return s.weightNode
	}
	return ConvertDType(s.layers.Param(s.Layer+".weight"), s.dtype)
}

// Bias returns the bias [out] of the layer, in the data type of the input of the layer. It returns
// nil if the layer has no bias. If the selection also tunes the bias, Bias returns the tuned bias
// and gradients flow into it. Otherwise the bias is frozen.
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

// Dropout applies dropout to x during training, at the rate [Rates].Dropout. It scales the
// remaining values by 1/(1−rate). With [Rates].SharedDropout, two calls with the same x drop the
// same values. In evaluation Dropout returns x.
func (s *Site) Dropout(x *Node) *Node {
	l := s.layers
	if l == nil {
		s.uses.Dropout = true
		return x
	}
	if y, ok := l.dropped[x]; ok && l.rates.SharedDropout {
		return y
	}
	l.dropped[x] = l.drop(x, l.rates.Dropout, x.Shape().Dimensions)
	return l.dropped[x]
}

// DropPath applies drop-path to y during training, at the rate [Rates].ModuleDropPath. It sets all
// values of an image to zero, or scales them by 1/(1−rate). The first axis of y is the batch axis.
// In evaluation it returns y.
func (s *Site) DropPath(y *Node) *Node {
	if s.layers == nil {
		s.uses.DropPath = true
		return y
	}
	return s.layers.dropPath(y, s.layers.rates.ModuleDropPath)
}

// trace runs the graph function on symbolic tensors and returns the Site with the tensors that the
// function declares and the rates that it reads. It returns an error if the graph function fails.
func (m Module) trace(layer string, in, out, rank int, bias bool) (*Site, error) {
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
		err = fmt.Errorf("structured module %q on %s [%d,%d]: %w", m.Name, layer, out, in, err)
	}
	return s, err
}

// declare returns the tensors that the graph function declares. It returns an error if the graph
// function fails, or if the number of parameters is not m.Count.
func (m Module) declare(layer string, in, out, rank int, bias bool) ([]Param, error) {
	s, err := m.trace(layer, in, out, rank, bias)
	if err != nil {
		return nil, err
	}
	total := 0
	for _, p := range s.params {
		total += p.Size()
	}
	if want := m.Count(in, out, rank); total != want {
		return nil, fmt.Errorf("structured module %q on %s [%d,%d]: its graph function declares %d parameters, its count says %d; correct one of them", m.Name, layer, out, in, total, want)
	}
	return s.params, nil
}
